#!/usr/bin/env python3
"""The veridem command from outside: help, exit statuses, keys, receipts, a ledger that is in the way. No network of roles;
that is network_test.py and the demo. Exit 77 when the model is missing (after what needs none)."""
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

VERIDEM = os.environ.get("VERIDEM", str(pathlib.Path(__file__).resolve().parents[2] / "build" / "veridem"))
MODEL = pathlib.Path(os.environ.get("VERIDEM_HOME", pathlib.Path.home() / ".veridem")) / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
HOME = pathlib.Path(tempfile.mkdtemp(prefix="veridem-cli-"))
ENV = dict(os.environ, VERIDEM_HOME=str(HOME), HOME=str(HOME / "user"))


def run(*argv, status=0, text=None, binary=False):
    """Runs veridem; fails unless it exits with `status`; returns (stdout, stderr)."""
    data = text.encode() if isinstance(text, str) else text
    done = subprocess.run([VERIDEM, *map(str, argv)], input=data, capture_output=True, env=ENV, timeout=300)
    err = done.stderr.decode(errors="replace")
    assert done.returncode == status or status is None, f"veridem {argv}: {done.returncode} instead of {status}: {err}"
    if status:
        assert err.strip(), f"veridem {argv}: exit {status} without a word"
    return (done.stdout if binary else done.stdout.decode(errors="replace")), err


def run_json(*argv, **kw):
    return json.loads(run(*argv, "--json", **kw)[0])


def commands(text):
    """The names in a help's lists of commands."""
    names, inside = [], False
    for line in text.splitlines():
        if line and not line.startswith(" "):
            inside = line not in ("Of every command", "Options", "Exit status", "Environment") and not line.startswith("usage")
        m = re.match(r"  ([a-z][a-z-]+) +\S", line)
        if inside and m:
            names.append(m.group(1))
    return names


def test_help_on_every_level():
    top, _ = run("--help")
    for group in ("Roles", "Models and text", "Money and history", "Exit status"):
        assert group in top, group
    names = commands(top)
    assert len(names) >= 18, names
    for name in names:
        text, _ = run(name, "--help")
        assert f"usage: veridem {name}" in text and "--json" in text
        for sub in commands(text) if "\nCommands\n" in text else []:
            deep, _ = run(name, sub, "-h")
            assert f"usage: veridem {name} {sub}" in deep
    assert run("--version")[0].startswith("veridem ")
    assert run("help")[0] == top and run("help", "key", "new")[0] == run("key", "new", "--help")[0]


def test_wrong_use_is_2():
    for argv in (["run", "x", "--temp", "-1"], ["run", "x", "--temp", "2.5"], ["run", "x", "--frobnicate"], ["nonsense"],
                 ["bench", "x", "--pp", "0", "--tg", "0"], ["gateway", "key", "new"], ["ledger", "check"],
                 ["ledger", "init", "--genesis", HOME / "long.json", "--account", "a=" + 64 * "1" + ":1", "--param", "network=" + 99 * "x"]):
        assert json.loads(run(*argv, "--json", status=2)[0])["error"]["code"] == "VD_EUSE", argv
    for argv in (["nonsense"], ["run"], ["key"], ["run", "x", "--frobnicate"], ["tokenize", "a", "b"],
                 ["bench", "x", "--reps", "none"], ["run", "x", "--temp", "1e3"], ["status"], ["ledger", "init"],
                 ["account", "zz", "--ledger", "127.0.0.1:1"], ["worker", "--ledger", "nowhere"]):
        run(*argv, status=2)


def test_keys():
    key, _ = run("key", "new", "alice")
    path = HOME / "keys" / "alice.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch("[0-9a-f]{64}\n", key) and run("key", "show", "alice")[0] == key
    assert run_json("key", "show", "alice") == {"key": key.strip(), "file": str(path)}
    run("key", "new", "alice", status=3)
    run("key", "show", "nobody", status=3)
    assert "`veridem key new`" in run("key", "show", status=3)[1]
    path.chmod(0o644)
    _, err = run("key", "show", "alice", status=3)
    assert str(path) in err and "600" in err, err
    path.chmod(0o600)


def test_missing_things_are_3():
    _, err = run("run", "no-such-model", "-p", "x", status=3)
    assert "no-such-model" in err and "fetch" in err
    (HOME / "not.gguf").write_bytes(b"GGUF" + bytes(100))
    run("model", "show", HOME / "not.gguf", status=3)
    run("verify", HOME / "none.receipt", status=3)
    _, err = run("status", "--ledger", "127.0.0.1:1", status=3)
    assert "127.0.0.1:1" in err or "connect" in err, err


def start_ledger(home, listen):
    genesis = HOME / "net.json"
    if not genesis.exists():
        key = run_json("key", "show", "alice")["key"]
        run("ledger", "init", "--genesis", genesis, "--account", f"alice={key}:1000.5")
    p = subprocess.Popen([VERIDEM, "ledger", "--home", home, "--genesis", genesis, "--listen", listen], env=ENV,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ports = home / "ports.json"
    end = time.monotonic() + 120
    while p.poll() is None and not ports.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return p, (json.loads(ports.read_text()) if p.poll() is None and ports.exists() else None)


def test_a_ledger_and_what_is_in_its_way():
    one, ports = start_ledger(HOME / "l1", "127.0.0.1:0")
    assert ports and ports["pid"] == one.pid, one.stdout.read()
    address = f"{ports['key']}@127.0.0.1:{ports['link']}"
    try:
        run("ledger", "init", "--genesis", HOME / "net.json", "--account", f"a={ports['key']}:1", status=3)
        status = run_json("status", "--ledger", address)
        assert status["sum_micro"] == status["supply_micro"] == 1000500000
        account = run_json("account", "--key", "alice", "--ledger", address)
        assert account["balance_micro"] == 1000500000
        sent = run_json("tx", "transfer", ports["key"], "0.25", "--key", "alice", "--ledger", address)
        assert run_json("tx", "show", sent["tx"], "--ledger", address)["height"] == sent["height"]
        assert run_json("account", ports["key"], "--ledger", address)["balance_micro"] == 250000
        _, err = run("tx", "transfer", ports["key"], "5000", "--key", "alice", "--ledger", address, status=3)
        assert "balance" in err, err
        assert run_json("receipt", "--ledger", address) == []
        assert run_json("dispute", "list", "--ledger", address) == []
        run("status", "--ledger", f"{'00' * 32}@127.0.0.1:{ports['link']}", status=3)  # another key than pinned
        # the same home, and the same port
        two, none = start_ledger(HOME / "l1", "127.0.0.1:0")
        assert none is None or none["pid"] == one.pid
        said = two.communicate(timeout=120)[0]
        assert two.returncode == 3 and str(one.pid) in said, said
        two, none = start_ledger(HOME / "l2", f"127.0.0.1:{ports['link']}")
        said = two.communicate(timeout=120)[0]
        assert two.returncode == 3 and str(ports["link"]) in said, said
    finally:
        one.send_signal(signal.SIGINT)
        said = one.communicate(timeout=120)[0]
    assert one.returncode == 0, said
    assert not (HOME / "l1" / "ports.json").exists()
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", ports["link"])) != 0
    assert run_json("ledger", "check", "--home", HOME / "l1")["valid"]
    (HOME / "up").mkdir()
    (HOME / "l1").rename(HOME / "up" / "ledger")  # as `veridem up` keeps it
    assert run_json("ledger", "check", "--home", HOME / "up")["valid"]


def test_a_gateways_keys_are_found():
    home = HOME / "up"
    run("key", "new", "role", "--home", home / "gateway")
    run("gateway", "key", "new", "--label", "a", "--home", home)
    assert [k["label"] for k in run_json("gateway", "key", "list", "--home", home / "gateway")] == ["a"]


def test_model_fetch():
    data = os.urandom(300000)
    sha = hashlib.sha256(data).hexdigest()

    class Server(http.server.BaseHTTPRequestHandler):
        asked = []

        def do_GET(self):
            at = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            Server.asked.append(at)
            self.send_response(206 if at else 200)
            if at:
                self.send_header("Content-Range", f"bytes {at}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - at))
            self.end_headers()
            self.wfile.write(data[at:at + 100000] if len(Server.asked) == 1 else data[at:])  # breaks off the first time

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/some.gguf"
    file = HOME / "models" / "some.gguf"
    run("model", "fetch", url, status=2)
    run("model", "fetch", url, "--sha256", sha, status=3)
    assert not file.exists()
    assert run_json("model", "fetch", url, "--sha256", sha)["fetched"]
    assert file.read_bytes() == data and Server.asked == [0, 100000], Server.asked
    server.shutdown()
    server.server_close()
    assert not run_json("model", "fetch", url, "--sha256", sha)["fetched"]  # offline, with the file there
    file.write_bytes(data[:-1])
    copy = HOME / "copy.bin"
    copy.write_bytes(data)
    assert run_json("model", "fetch", f"file://{copy}", "--sha256", sha, "--name", "some")["fetched"]
    assert file.read_bytes() == data
    run("model", "fetch", f"file://{copy}", "--sha256", "00" * 32, "--name", "other", status=1)
    assert sorted(p.name for p in file.parent.iterdir() if p.suffix != ".lock") == ["some.gguf"]
    file.unlink()


def need_model():
    if not MODEL.exists():
        print("cli_test: the model is missing; scripts/fetch-model gets it", file=sys.stderr)
        sys.exit(77)
    (HOME / "models").mkdir(exist_ok=True)
    (HOME / "models" / MODEL.name).symlink_to(MODEL)


def test_text():
    text = "Hello, wörld! \U0001F600 <|im_end|>"
    ids = run_json("tokenize", "smollm2", "--no-special", text=text)
    assert run("detokenize", "smollm2", text=json.dumps(ids))[0] == text
    assert len(run_json("tokenize", "smollm2", text=text)) < len(ids)
    prompt, _ = run("template", "SmolLM2", text='[{"role": "user", "content": "Hi"}]')
    assert "<|im_start|>user\nHi<|im_end|>" in prompt
    assert [m["name"] for m in run_json("model", "list")] == [MODEL.name]
    assert run_json("model", "root", "SmolLM2")["model_root"] == run_json("model", "root", "SmolLM2", "--no-cache")["model_root"]


def test_the_same_bits_everywhere():
    ask = ["run", "SmolLM2", "-p", "Name three colours.", "-n", "20", "--temp", "0.9", "--top-p", "0.95", "--seed", "5"]
    first = run_json(*ask, "--threads", "1")
    assert first["output_tokens"] > 3 and first["tokens"] == run_json(*ask, "--threads", "2")["tokens"]
    assert first["tokens"] != run_json(*ask[:-1], "6")["tokens"]
    assert run_json(*ask[:-1], 2**64 - 1)["seed"] == str(2**64 - 1)  # what --seed takes back
    short = [w if w != "20" else "3" for w in ask]
    assert run_json(*short, "--kernel", "scalar")["tokens"] == first["tokens"][:3]


def test_choices():
    ask = ["run", "SmolLM2", "-p", "Name a colour.", "-n", "12", "--temp", "0.9", "--seed", "5"]
    alone = run_json(*ask)
    both = run_json(*ask, "--choices", "3", "--logprobs", "2")
    assert [c["index"] for c in both["choices"]] == [0, 1, 2] and len({tuple(c["tokens"]) for c in both["choices"]}) == 3
    assert both["choices"][0]["tokens"] == alone["tokens"] == both["tokens"] and alone["choices"][0]["logprobs"] is None
    for c in both["choices"]:
        entries = c["logprobs"]["content"]
        assert len(entries) == len(c["tokens"]) and all(e["logprob"] <= e["top_logprobs"][0]["logprob"] <= 0 for e in entries)
        assert c["finish_reason"] == "stop" or "".join(e["token"] for e in entries) == c["text"]
    text, _ = run(*ask, "--choices", "2")
    assert text == both["choices"][0]["text"] + "\n\n---- choice 1\n" + both["choices"][1]["text"] + "\n", text
    run(*ask, "--choices", "17", status=2)
    run(*ask, "--logprobs", "21", status=2)
    run(*ask, "--choices", "2", "--receipt", HOME / "no.receipt", status=2)


def test_receipts():
    path = HOME / "a.receipt"
    run("run", "SmolLM2", "-p", "What is a ledger?", "-n", "24", "--receipt", path)
    good = run_json("verify", path)
    assert good["stands"] and good["replayed"] and good["replay_s"] > 0
    assert run_json("verify", path, "--no-replay")["signatures_valid"]
    raw = path.read_bytes()
    spoilt = HOME / "b.receipt"
    false = 0
    for at in (3, 40, len(raw) // 3, len(raw) // 2, len(raw) - 5, len(raw) - 1):
        spoilt.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1:])
        answer = json.loads(run("verify", spoilt, "--no-replay", "--json", status=None)[0])
        if "error" in answer:
            assert answer["error"]["code"] == "VD_EFORMAT", (at, answer)
            run("verify", spoilt, "--no-replay", status=3)
        else:
            assert answer["stands"] is False and answer["verdict"], (at, answer)
            run("verify", spoilt, "--no-replay", status=1)
            false += 1
    assert false
    for data in (raw[:-20], raw[:len(raw) // 2], b"# Veridem\n", b""):
        spoilt.write_bytes(data)
        assert "not a receipt" in run("verify", spoilt, status=3)[1]


def test_parts_and_differences():
    path, other = HOME / "a.receipt", HOME / "other.gguf"
    run("run", "SmolLM2", "-p", "What is a ledger?", "-n", "8", "--receipt", path)
    n = run_json("verify", path, "--no-replay")
    first, last = n["prompt_tokens"] - 1, n["prompt_tokens"] + n["output_tokens"] - 2
    part = run_json("verify", path, "--positions", f"{first + 1}..{last}")
    assert part["part_stands"] and "stands" not in part
    assert "does not say that the receipt stands" in run("verify", path, "--positions", str(first))[0]
    assert "nothing is chosen" in run("verify", path, "--positions", f"0..{first - 1}", status=2)[1]
    assert f"chosen at positions {first}..{last}" in run("verify", path, "--positions", f"{last}..{last + 1}", status=2)[1]
    run("verify", path, "--positions", "7..x", status=2)
    assert run_json("diff", path, "--against-kernel", "scalar")["equal"]
    run("diff", path, status=2)
    other.write_bytes(MODEL.read_bytes())
    with open(other, "r+b") as f:
        f.seek(60_000_000)
        byte = f.read(1)
        f.seek(60_000_000)
        f.write(bytes([byte[0] ^ 0x77]))
    wrong = run_json("verify", path, "--model", other, status=3)
    assert "stands" not in wrong and not wrong["replayed"] and "another model" in wrong["verdict"], wrong
    assert wrong["error"]["code"] == "VD_ENOTFOUND", wrong
    assert "another model" in run("verify", path, "--model", other, status=3)[0]
    both = run_json("verify", path, path, "--model", other, status=3)
    assert all(r["error"]["code"] == "VD_ENOTFOUND" and "stands" not in r for r in both), both
    found = run_json("diff", path, "--against", other, status=1)
    assert found["operator"] == "PART" and found["values"][0] != found["values"][1], found
    other.unlink()


def piped(data):
    """The reading end of a pipe that somebody writes `data` into, as a shell's <(command)."""
    end, into = os.pipe()

    def write():
        with os.fdopen(into, "wb") as f:
            f.write(data)
    threading.Thread(target=write, daemon=True).start()
    return end


def run_piped(data, *argv):
    end = piped(data)
    done = subprocess.run([VERIDEM, *(f"/dev/fd/{end}" if a is None else str(a) for a in argv)], pass_fds=(end,),
                          capture_output=True, env=ENV, timeout=100)
    os.close(end)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_streams():
    """What reads a file reads a pipe, a named pipe and stdin too, to the same limit; nothing waits that cannot be stopped."""
    a, fifo, genesis = HOME / "s.receipt", HOME / "fifo", HOME / "s-genesis.json"
    run("run", "SmolLM2", "-p", "What is a ledger?", "-n", "6", "--receipt", a)
    raw = a.read_bytes()
    status, out, err = run_piped(raw, "verify", None, "--json")
    assert status == 0 and json.loads(out)["stands"], err
    text, _ = run("receipt", "convert", a)
    status, out, err = run_piped(text.encode(), "verify", None, a, "--no-replay", "--json")
    assert status == 0 and [r["receipt"] for r in json.loads(out)] == [json.loads(text)["id"]] * 2, err
    assert run("receipt", "convert", "-", text=raw)[0] == text
    status, out, err = run_piped(text.encode(), "diff", None, "--against-kernel", "scalar", "--json")
    assert status == 0 and json.loads(out)["equal"], err
    status, out, err = run_piped(b'{"type": "object", "properties": {}}', "run", "SmolLM2", "-p", "x", "-n", "8", "--json-schema", None)
    assert status == 0 and json.loads(out) == {}, (out, err)
    os.mkfifo(fifo)
    for data in (raw, text.encode()):
        writer = threading.Thread(target=fifo.write_bytes, args=(data,))
        writer.start()
        assert run_json("verify", fifo, "--no-replay")["signatures_valid"]
        writer.join()
    for stream in ("/dev/zero", "-"):
        with open("/dev/zero", "rb") as zero:
            done = subprocess.run([VERIDEM, "verify", stream], stdin=zero, capture_output=True, env=ENV, timeout=100)
        assert done.returncode == 3 and b"at most 16 MiB" in done.stderr, done
    assert "a folder" in run("verify", HOME, status=3)[1]
    run("verify", "/dev/null", status=3)
    key = run_json("key", "new", "s-key")["key"]
    run("ledger", "init", "--genesis", genesis, "--account", f"alice={key}:5")
    for argv in (("verify", fifo), ("ledger", "--genesis", fifo, "--home", HOME / "s-ledger"), ("perplexity", "SmolLM2", fifo)):
        waiting = subprocess.Popen([VERIDEM, *map(str, argv)], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(0.5)
        assert waiting.poll() is None, waiting.communicate()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(10) == -signal.SIGINT, argv
        waiting.communicate()
    home, end = HOME / "s-ledger", piped(genesis.read_bytes())
    role = subprocess.Popen([VERIDEM, "ledger", "--genesis", f"/dev/fd/{end}", "--home", home, "--listen", "127.0.0.1:0"],
                            pass_fds=(end,), env=ENV, stderr=subprocess.DEVNULL)
    os.close(end)
    until = time.monotonic() + 30
    while not (home / "ports.json").exists() and role.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert (home / "ports.json").exists()
    role.send_signal(signal.SIGINT)
    assert role.wait(30) == 0


def test_several_receipts():
    """Each is reported, whatever the others are; the exit status is the worst."""
    a, b, bad, text = HOME / "sa.receipt", HOME / "sb.receipt", HOME / "sbad.receipt", HOME / "stext.receipt"
    run("run", "SmolLM2", "-p", "What is a ledger?", "-n", "6", "--receipt", a)
    run("run", "SmolLM2", "-p", "What is a ledger for?", "-n", "5", "--temp", "0.8", "--seed", "4", "--receipt", b)
    raw = a.read_bytes()
    bad.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    text.write_text("# Veridem\n")
    good = run_json("verify", a, b)
    assert [r["file"] for r in good] == [str(a), str(b)] and all(r["stands"] and r["replayed_together"] == 2 for r in good), good
    assert "2 files: 2 good, 0 false, 0 could not be checked" in run("verify", a, b)[0]
    mixed = run_json("verify", a, HOME / "none.receipt", bad, text, b, status=1)
    assert [r.get("stands") for r in mixed] == [True, None, False, None, True], mixed
    assert mixed[1]["error"]["code"] == "VD_ENOTFOUND" and mixed[3]["error"]["code"] == "VD_EFORMAT", mixed
    out, err = run("verify", a, HOME / "none.receipt", bad, b, status=1)
    assert "4 files: 2 good, 1 false, 1 could not be checked" in out and "1 of 4 files are false" in err, (out, err)
    assert out.count("the receipt stands") == 2 and "cannot open" in out, out
    assert "1 of 2 files could not be checked" in run("verify", a, text, status=3)[1]
    assert all(r["signatures_valid"] and "stands" not in r for r in run_json("verify", a, b, "--no-replay"))
    assert "not replayed" in run("verify", a, "--no-replay")[0]
    at = run_json("verify", a, "--no-replay")["prompt_tokens"]
    assert all(r["part_stands"] for r in run_json("verify", a, a, "--positions", str(at)))
    run("verify", a, b, "--positions", "3..1", status=2)


def test_run_refuses_before_it_works():
    ask = ["run", "SmolLM2", "-p", "Hi", "-n", "2"]
    assert not run(*ask, "--receipt", HOME / "nonexist" / "x", status=3)[0]
    assert not run(*ask[:-1], "100000", status=2)[0]
    assert "no space" in run(*ask, "--receipt", "/dev/full", status=3)[1].lower()
    assert pathlib.Path("/dev/full").is_char_device()
    run(*ask, "--temp", "2.5", "--receipt", HOME / "t.receipt", status=2)
    for option, wrong in (("--json-schema", '{"not": {}}'), ("--grammar", "root ::= a")):
        (HOME / "wrong.form").write_text(wrong)
        assert f"{HOME / 'wrong.form'}: " in run(*ask, option, HOME / "wrong.form", status=2)[1]
    run(*ask, "--temp", "1", "--top-p", "0", "--receipt", HOME / "t.receipt")
    assert run_json("verify", HOME / "t.receipt")["stands"]
    assert not run("bench", "SmolLM2", "--pp", "99999", status=2)[0]
    assert "the id 49152" in run(*ask, "--logit-bias", "49152=1", "--logit-bias", "7=1", status=2)[1]
    run(*ask, "--logit-bias", "49151=1")


def test_receipt_has_two_forms():
    binary, text, again = HOME / "two.receipt", HOME / "two.json", HOME / "again.receipt"
    run("run", "SmolLM2", "-p", "Hi", "-n", "3", "--receipt", binary)
    run("receipt", "convert", binary, text)
    run("receipt", "convert", text, again)
    assert again.read_bytes() == binary.read_bytes()
    form = json.loads(text.read_text())
    assert form == run_json("receipt", "convert", binary)
    assert run_json("verify", text)["stands"]
    form["output"][0] += 1
    text.write_text(json.dumps(form))
    assert run_json("verify", text, status=1)["stands"] is False
    form["request"]["max_tokens"] += 1
    text.write_text(json.dumps(form))
    assert '"id"' in run("verify", text, status=1)[1]
    assert run_json("verify", text, status=1)["stands"] is False
    said = run_json("receipt", "convert", binary, text)
    assert said == {"file": str(text), "form": "json", "bytes": text.stat().st_size}, said


def test_bench():
    tests = run_json("bench", "SmolLM2", "--pp", "16", "--tg", "4", "--batch", "1,2", "--threads", "1", "--reps", "1")
    assert [t["test"] for t in tests] == ["pp16", "tg4", "tg4x2"]
    assert "a number is missing" in run("bench", "SmolLM2", "--batch", "1,,2", status=2)[1]
    tests += (greedy := run_json("bench", "SmolLM2", "--greedy", "4", "--batch", "1,2", "--threads", "1", "--reps", "1"))
    assert [t["test"] for t in greedy] == ["greedy4", "greedy4x2"]
    tests += (jobs := run_json("bench", "SmolLM2", "--spec", "24", "--mask", "24", "--embed", "16", "--threads", "1", "--reps", "3"))
    assert [t["test"] for t in jobs] == ["gen24", "gen24+lookup", "draw24", "draw24+mask", "emb16x1"]
    assert 0 < jobs[3]["of_token"] < 0.5 and jobs[4]["texts_per_s"] > 0, jobs
    assert all(t["tok_per_s"]["min"] <= t["tok_per_s"]["median"] <= t["tok_per_s"]["max"] for t in tests)


def main():
    try:
        for test in (test_help_on_every_level, test_wrong_use_is_2, test_keys, test_missing_things_are_3,
                     test_a_ledger_and_what_is_in_its_way, test_a_gateways_keys_are_found, test_model_fetch,
                     need_model, test_text, test_the_same_bits_everywhere, test_choices,
                     test_receipts, test_streams, test_several_receipts, test_parts_and_differences, test_run_refuses_before_it_works, test_receipt_has_two_forms, test_bench):
            if sys.argv[1:] and test is not need_model and test.__name__ not in sys.argv[1:]:
                continue
            began = time.monotonic()
            test()
            print(f"ok {test.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
    finally:
        shutil.rmtree(HOME, ignore_errors=True)


main()
