#!/usr/bin/env python3
"""Encoders between processes: vectors over HTTP are those of the command line, by every kernel; their receipts stand, are replayed and
settled; what would generate is refused. The models are random and small, made here."""

import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import veridem_net as vn  # noqa: E402
import e2e  # noqa: E402
from e2e import check  # noqa: E402

MAKE = vn.BUILD / "tests" / "vd_make_model"
TEXTS = ["A ledger is a book of accounts.", "The cat sleeps.", "x" * 200]


def post(gateway, key, path, body):
    status, _, answer = vn.request(gateway, "POST", path, json.dumps(body), key=key)
    return status, json.loads(answer)


def test_vectors(net, gateway, key, model, pooling, **_):
    status, a = post(gateway, key, "/v1/embeddings", {"model": model, "input": TEXTS})
    check(status == 200, status, a)
    vectors = [d["embedding"] for d in a["data"]]
    check(len(vectors) == 3 and all(abs(sum(x * x for x in v) - 1) < 1e-4 for v in vectors), "not three vectors of length 1")
    here = [vn.run_json("embed", vn.MODEL, "-p", t) for t in TEXTS]
    for v, h in zip(vectors, here):
        check(max(abs(x - y) for x, y in zip(v, h["embedding"])) < 1e-7, "veridem embed gives another vector")
    check(a["usage"]["prompt_tokens"] == sum(h["tokens"] for h in here), a["usage"])
    for receipt in a["veridem"]["receipts"]:
        path = e2e.envelope(net, gateway, key, receipt)
        seen = vn.run_json("verify", path, "--model", vn.MODEL)
        check(seen["stands"] and seen["receipt"] == receipt, seen)
        vn.run("receipt", "convert", path, path.with_suffix(".json"))
        form = json.loads(path.with_suffix(".json").read_text())
        check(f'"pooling": {pooling}' in json.dumps(form), form)
        vn.wait_for("the receipt is settled", 60, lambda r=receipt: e2e.receipts_on_ledger(net).get(r))


def test_same_bits(**_):
    seen = set()
    for kernel in ("scalar", "avx512", "avxvnni", "avx2", "neon", "neon-i8mm"):
        for threads in ("1", "2"):
            try:
                seen.add(vn.run("embed", vn.MODEL, "-p", TEXTS[0], "--kernel", kernel, "--threads", threads))
            except vn.Failed as e:
                check("CPU" in str(e) or "only" in str(e), e)  # this one has no such kernel
    check(len(seen) == 1, "kernels or threads differ")


def test_refusals(gateway, key, model, **_):
    for path, more in (("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}), ("/v1/completions", {"prompt": "Hi"})):
        status, a = post(gateway, key, path, {"model": model, **more})
        check(status == 400 and a["error"]["code"] == "unsupported_value" and "encoder" in a["error"]["message"], path, status, a)
    status, a = post(gateway, key, "/v1/embeddings", {"model": model, "input": "y" * 600})
    check(status == 400 and a["error"]["code"] == "context_length_exceeded", status, a)
    for command in (["run", vn.MODEL, "-p", "Hi"], ["perplexity", vn.MODEL, "/etc/hostname"], ["bench", vn.MODEL, "--pp", "4"]):
        vn.run(*command, ok=(3,))


def test_bench(**_):
    rows = vn.run_json("bench", vn.MODEL, "--reps", "1", "--threads", "1")
    check([r["test"] for r in rows] == ["emb128x1"] and rows[0]["texts_per_s"] > 0, rows)


def main():
    if not MAKE.exists():
        print(f"{MAKE} is missing: skipped", file=sys.stderr)
        return e2e.SKIP
    status = 0
    for form, weights, pooling in (("bert", "Q4_K", 3), ("nomic-bert", "Q8_0", 2)):
        with tempfile.TemporaryDirectory() as folder:
            vn.MODEL = pathlib.Path(folder) / f"{form}.gguf"
            subprocess.run([MAKE, vn.MODEL, form, weights], check=True)
            with vn.Network() as net:
                net.genesis(gateway=1000, verifier=1000, **{"worker-1": 1000})
                net.ledger()
                gateway = net.gateway(escrow=100)
                net.worker("worker-1", [gateway], model=vn.MODEL)
                net.verifier(gateways=[gateway])
                key = net.api_key()
                model = e2e.wait_model(gateway, key)
                print(form, flush=True)
                status |= e2e.main([test_vectors, test_same_bits, test_refusals, test_bench], net=net, gateway=gateway, key=key, model=model, pooling=pooling)
                e2e.conserved(net)
    return status


if __name__ == "__main__":
    sys.exit(main())
