#!/usr/bin/env python3
"""Compares our logits with those of llama.cpp, which stands for the models' makers here: small random models
of every architecture in F32, one of every weight type, and the real models that are there.

usage: oracle_test.py [NAME...]        only models whose name contains one of the words

PEER_LLAMA is a build folder of llama.cpp with static libraries (bench/peers makes one), or the folder around
it; without it the test is skipped (77). VD_BUILD_DIR is ours.

Per position, error = largest difference of a logit / largest magnitude of the peer's logits. Both engines
quantise activations and we the cache too, so the difference is never 0: measured against the same weights in
binary32, ours and the peer's errors are of one size. What is computed wrongly shows at every position: a window
of 39 keys for 40 gives a median of 0.13, a base of 11,000 for 10,000 one of 0.09. Bounds: the median error of the positions; the ninth tenth of them (a few
positions of a random model are unstable, and where two experts stand nearly alike the engines may choose
differently); and the share of positions whose largest logit is the same token, or one that the peer puts
within the error of its own.

Of encoders, which have no logits, the vectors are compared, MEAN and CLS, by their cosine."""
import array
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TYPES = "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split()
MIXED = [("Q4_K", "Q6_K"), ("Q5_0", "Q4_K"), ("Q2_K", "Q3_K")]
COSINE_MIN = 0.99  # of vectors of real models: found 0.998 and more
COSINE_ENCODER_MIN = 0.998  # of vectors of random encoders: found 0.9988 and more; 0.99999 in F32
ENCODERS = "bert", "bert-fused", "nomic-bert"
MEDIAN_MAX, NINTH_MAX, NINTH_EXPERTS_MAX, AGREE_MIN = 0.06, 0.12, 0.25, 0.97
EXPERTS = "mixtral", "qwen3moe"
N_TOKENS = 150


def peer_build():
    """The build folder and the sources it was made from."""
    given = os.environ.get("PEER_LLAMA", "")
    for folder in (pathlib.Path(given), pathlib.Path(given) / "build"):
        if given and (folder / "src/libllama.a").exists():
            for line in (folder / "CMakeCache.txt").read_text().splitlines():
                if line.startswith("CMAKE_HOME_DIRECTORY:"):
                    return folder, pathlib.Path(line.split("=", 1)[1])
    return None, None


def build_peer(out):
    build, source = peer_build()
    if not build:
        print("skipped: PEER_LLAMA names no build folder of llama.cpp with static libraries")
        sys.exit(77)
    obj = out.with_suffix(".o")
    subprocess.run(["cc", "-O1", "-c", HERE / "oracle_peer.c", "-o", obj, "-I", source / "include",
                    "-I", source / "ggml/include"], check=True)
    libs = [build / f"{x}.a" for x in ("src/libllama", "ggml/src/libggml", "ggml/src/libggml-cpu",
                                       "ggml/src/libggml-base")]
    subprocess.run(["c++", obj, *libs, "-fopenmp", "-lpthread", "-ldl", "-lm", "-o", out], check=True)


def floats(path):
    a = array.array("f")
    a.frombytes(path.read_bytes())
    return a


def compare(ours, peer, vocab):
    """Median, ninth tenth and largest of the errors, and the share of positions that agree."""
    n, errors, agree = len(peer) // vocab, [], 0
    for i in range(n):
        a, b = ours[i * vocab:(i + 1) * vocab], peer[i * vocab:(i + 1) * vocab]
        difference = max(abs(x - y) for x, y in zip(a, b))
        errors.append(difference / max(map(abs, b)))
        agree += max(b) - b[max(range(vocab), key=a.__getitem__)] <= difference
    return statistics.median(errors), statistics.quantiles(errors, n=10)[8], max(errors), agree / n


def check(name, model, tokens, tools, tmp):
    for tool, out in zip(tools, ("ours", "peer")):
        p = subprocess.run([tool, model, tmp / out, *map(str, tokens)])
        if p.returncode != 0:
            print(f"{name:24} {out} failed with status {p.returncode}")
            return False
    ours, peer = floats(tmp / "ours"), floats(tmp / "peer")
    if len(ours) != len(peer):
        print(f"{name:24} {len(ours)} logits against {len(peer)}")
        return False
    median, ninth, worst, agree = compare(ours, peer, len(peer) // len(tokens))
    ninth_max = NINTH_EXPERTS_MAX if name.startswith(EXPERTS) else NINTH_MAX
    ok = median <= MEDIAN_MAX and ninth <= ninth_max and agree >= AGREE_MIN
    print(f"{name:24} {median:8.4f} {ninth:8.4f} {worst:8.4f} {agree:8.3f}  {'ok' if ok else 'DIFFERS'}", flush=True)
    return ok


def check_vectors(name, model, tokens, tools, tmp, ways=("--last", "--mean"), least=COSINE_MIN):
    """The cosine of both engines' vectors, pooled in each way."""
    ok = True
    for way in ways:
        for tool, out in zip(tools, ("ours", "peer")):
            subprocess.run([tool, way, model, tmp / out, *map(str, tokens)], check=True)
        ours, peer = floats(tmp / "ours"), floats(tmp / "peer")
        length = sum(x * x for x in peer) ** 0.5
        cosine = sum(x * y for x, y in zip(ours, peer)) / length if len(ours) == len(peer) else 0
        ok &= cosine >= least
        print(f"{name:24} {way[2:]} {cosine:.6f}  {'ok' if cosine >= least else 'DIFFERS'}", flush=True)
    return ok


def random_models(make, tmp):
    """(name, path) of each, made when its turn comes and deleted afterwards."""
    forms = subprocess.run([make, "--list"], capture_output=True, text=True, check=True).stdout.split()
    plan = [(f, "F32") for f in forms] + [("llama", t) for t in TYPES]
    plan += [(e, t) for e in ENCODERS for t in ("F16", "Q8_0", "Q4_K", "Q5_1")]
    plan += [("gemma2", "Q4_K"), ("qwen3moe", "Q4_K"), ("mixtral", "Q4_0"), ("phi3", "Q4_K")]
    plan += [("llama", *m) for m in MIXED]
    for p in plan:
        yield "-".join(p), tmp / "model.gguf", [make, tmp / "model.gguf", *p]


def real_models():
    home = pathlib.Path(os.environ.get("VERIDEM_HOME", pathlib.Path.home() / ".veridem"))
    return sorted(home.glob("models/*.gguf"))


def is_encoder(path):
    with open(path, "rb") as f:
        head = f.read(1 << 16)
    at = head.find(b"general.architecture") + 20 + 4  # the key, its type
    n = int.from_bytes(head[at:at + 8], "little")
    return head[at + 8:at + 8 + n].decode() in ("bert", "nomic-bert")


def text_tokens(model, build):
    """What a real model is compared on: ids of real text, since what it makes of random ids is mostly noise."""
    text = (HERE.parent / "README.md").read_text()
    p = subprocess.run([build / "veridem", "tokenize", model], input=text, capture_output=True, text=True)
    return p.stdout.split()[:N_TOKENS]


def main():
    words = sys.argv[1:]
    wanted = lambda name: not words or any(w in name for w in words)
    build = pathlib.Path(os.environ.get("VD_BUILD_DIR", "build"))
    ok = True
    with tempfile.TemporaryDirectory(prefix="vd_oracle") as folder:
        tmp = pathlib.Path(folder)
        build_peer(tmp / "peer_tool")
        tools = (build / "tests/vd_oracle_ours", tmp / "peer_tool")
        print(f"{'model':24} {'median':>8} {'ninth':>8} {'worst':>8} {'agree':>8}")
        for name, path, command in random_models(build / "tests/vd_make_model", tmp):
            if wanted(name):
                subprocess.run(command, check=True)
                tokens = random.Random(name).choices(range(3, 323), k=N_TOKENS)
                if name.startswith(ENCODERS):
                    ok &= check_vectors(name, path, tokens, tools, tmp, ("--mean", "--cls"),
                                        COSINE_ENCODER_MIN)
                else:
                    ok &= check(name, path, tokens, tools, tmp)
        for path in real_models():
            if not wanted(path.name):
                continue
            tokens = text_tokens(path, build)
            if is_encoder(path):
                ok &= check_vectors(path.name[:24], path, tokens, tools, tmp, ("--mean", "--cls"))
                continue
            ok &= check(path.name[:24], path, tokens, tools, tmp)
            ok &= check_vectors(path.name[:24], path, tokens, tools, tmp)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
