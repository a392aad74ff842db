#!/usr/bin/env python3
"""The real files: perplexity beside llama.cpp's, the same bits by every kernel, verified receipts, memory and start.

Perplexity is by the method of llama.cpp's llama-perplexity on Debian's text of the GPL-3 at context 512; the numbers
below are what llama.cpp (llama-cpp-python 0.3.36) gave for the same files and text, and bench/run measures both anew."""
import os
import pathlib
import sys
import tempfile
import time

import veridem_net as vn
from e2e import check

MODELS = pathlib.Path(os.environ.get("VERIDEM_HOME", pathlib.Path.home() / ".veridem")) / "models"
TEXT = pathlib.Path("/usr/share/common-licenses/GPL-3")
PEER_PPL = {"SmolLM2-135M-Instruct.Q4_1.gguf": 18.391, "gemma-3-270m.Q4_K_M.gguf": 13.906}
ASK = ["--raw", "-p", "The capital of France is", "-n", "12", "--temp", "0.8", "--top-p", "0.9", "--seed", "7"]


def same_bits(model):
    tokens = {}
    for kernel in ("avx512", "avxvnni", "avx2"):
        for threads in ("1", "2"):
            try:
                tokens[kernel, threads] = vn.run_json("run", model, *ASK, "--kernel", kernel, "--threads", threads)["tokens"]
            except vn.Failed as e:
                check("CPU" in str(e), e)  # this one has no such kernel
    check(len(tokens) > 1 and len({tuple(t) for t in tokens.values()}) == 1, tokens)


def receipt(model, folder):
    path = pathlib.Path(folder) / "a.receipt"
    vn.run_json("run", model, *ASK, "--receipt", path)
    check(vn.run_json("verify", path, "--model", model)["stands"], "the receipt does not stand")


def start_and_memory(model):
    best = work = 99.0
    for _ in range(3):
        begin = time.monotonic()
        child = os.posix_spawn(vn.VERIDEM, [str(vn.VERIDEM), "run", str(model), "--raw", "-p", "Hi", "-n", "1"], os.environ,
                               file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
        _, status, usage = os.wait4(child, 0)
        check(status == 0, f"run failed: {status}")
        best = min(best, time.monotonic() - begin)
        work = min(work, usage.ru_utime + usage.ru_stime)
    size = model.stat().st_size
    limit = 1.1 * size + (64 << 20) + (64 << 20)  # the second: the cache and the buffers of a pass
    print(f"  start to first token {best:.2f} s ({work:.2f} s of work), resident {usage.ru_maxrss >> 10} MiB of {int(limit) >> 20} MiB allowed")
    check(usage.ru_maxrss * 1024 <= limit, f"{usage.ru_maxrss} KiB resident for a file of {size} bytes")
    check(work < 3, "the first token came late")  # bench/run holds the start to the bar; this machine may be busy


def main():
    there = [m for m in PEER_PPL if (MODELS / m).exists()]
    if not there or not TEXT.exists():
        print("no model, or no text: skipped (scripts/fetch-model)", file=sys.stderr)
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        for name in there:
            print(name, flush=True)
            model = MODELS / name
            same_bits(model)
            receipt(model, folder)
            start_and_memory(model)
            ppl = vn.run_json("perplexity", model, TEXT, "--ctx", "512")["ppl"]
            off = ppl / PEER_PPL[name] - 1
            print(f"  perplexity {ppl:.3f}, {100 * off:+.2f} % against llama.cpp", flush=True)
            check(abs(off) < 0.003, f"perplexity {ppl}")


main()
