#!/usr/bin/env python3
"""What clients, peers and files may get wrong, from outside: each ends with an error that says what it is, with the right status,
and nothing else is disturbed: a question is answered after every test, with the same text."""

import http.client
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import veridem_net as vn  # noqa: E402
import e2e  # noqa: E402
from e2e import check  # noqa: E402

MARKER = "xylophone-marmalade-quokka"


def raw(gateway, data, wait=10):
    """Sends bytes as they are; returns all that comes until the other side closes or nothing comes for `wait` seconds."""
    with socket.create_connection(("127.0.0.1", gateway.ports["http"]), timeout=wait) as s:
        got = b""
        try:
            s.sendall(data)
            while piece := s.recv(65536):
                got += piece
        except OSError:
            pass
        return got


def post(gateway, key, body, **kw):
    status, headers, data = vn.request(gateway, "POST", "/v1/chat/completions", body, key=key, **kw)
    return status, json.loads(data), headers


def chat_body(model, text="What is the capital of Germany?", **more):
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, **more}


def envelope_ok(body):
    e = body.get("error", {})
    return isinstance(e.get("message"), str) and e["message"] and e.get("type") and "param" in e and "code" in e


# ---- HTTP ----


def send_for(conn, chunk, total):
    """Sends up to total bytes until the other side stops it; returns (bytes sent, what it answered)."""
    sent, got = 0, b""
    try:
        while sent < total:
            conn.sendall(chunk)
            sent += len(chunk)
    except OSError:
        pass
    try:
        while piece := conn.recv(65536):
            got += piece
    except OSError:
        pass
    return sent, got


def test_body_of_100_mb(gateway, key, **_):
    size, before = 100 << 20, e2e.rss_kib(gateway)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    port = gateway.ports["http"]
    peak = [before]

    def one(i):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
            if i % 4 == 0:  # as curl does: ask first
                s.sendall((head + f"Content-Length: {size}\r\nExpect: 100-continue\r\n\r\n").encode())
                sent, got = 0, s.recv(65536)
                check(got.startswith(b"HTTP/1.1 413") and b"request_too_large" in got, got)
            elif i % 4 == 1:  # a length, and the body anyway
                s.sendall((head + f"Content-Length: {size}\r\n\r\n").encode())
                sent, got = send_for(s, b'{"a":"' + b"a" * 65530, size)
                check(got == b"" or got.startswith(b"HTTP/1.1 413"), got)
            elif i % 4 == 2:  # no length
                s.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
                sent, got = send_for(s, b"10000\r\n" + b"[" * 65536 + b"\r\n", size)
                check(got == b"" or got.startswith(b"HTTP/1.1 413"), got)
            else:  # without a key: not even read
                s.sendall((head.replace(key, "vk-nobody") + f"Content-Length: {size}\r\n\r\n").encode())
                sent, got = send_for(s, b" " * 65536, size)
                check(got == b"" or got.startswith(b"HTTP/1.1 401"), got)
            peak.append(e2e.rss_kib(gateway))
            check(sent < 40 << 20, f"{sent} bytes of a body that is too large were taken (kind {i % 4})")

    e2e.in_parallel(12, one)
    check(max(peak) - before < 24 << 10, f"the gateway grew from {before} to {max(peak)} KiB")
    little_more = raw(gateway, (head + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n").encode()
                      + b"180000\r\n" + b" " * 0x180000 + b"\r\n0\r\n\r\n")
    check(little_more.startswith(b"HTTP/1.1 413") and b"request_too_large" in little_more, little_more[:300])


def test_malformed_json(gateway, key, model, **_):
    good = json.dumps(chat_body(model)).encode()
    deep = 200000
    for bad in (b"", b"{", b"[]", b'"x"', b"null", b"1", good[:-1], good + b"}", good + b" x", b"\xff\xfe" + good, b"\xef\xbb\xbf{}x",
                good.replace(b"Germany", b"G\x80nce"), good.replace(b"Germany", b"G\x00nce"), good.replace(b"Germany", b"G\\u0000nce"),
                good.replace(b"Germany", b"G\\ud800nce"), good.replace(b'"max_tokens": 8', b'"max_tokens": 8, "max_tokens": 9'),
                good.replace(b'"max_tokens": 8', b'"max_tokens": 1e999'), good.replace(b'"max_tokens": 8', b'"max_tokens": NaN'),
                good.replace(b'"max_tokens": 8', b'"max_tokens": ' + b"9" * 400), good.replace(b'"max_tokens": 8', b'"max_tokens": -1'),
                good.replace(b'"max_tokens": 8', b'"max_tokens": 8.5'), good.replace(b'"max_tokens": 8', b'"seed": 1e3'),
                b"[" * deep, b'{"a":' * deep, b"[" * deep + b"]" * deep, b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
                json.dumps(chat_body(model, messages=[{"role": "user", "content": "x"}] * 5000)).encode(),
                json.dumps(chat_body(model, messages=[{}])).encode(), json.dumps(chat_body(model, messages=[3])).encode(),
                json.dumps(chat_body(7)).encode(), json.dumps(chat_body(model, **{"k" * 100000: 1})).encode(),
                json.dumps(chat_body(model, **{"a\nb\x1b[31m": 1})).encode()):
        status, body, _ = post(gateway, key, bad)
        check(status == 400 and envelope_ok(body), f"{bad[:80]!r}: {status} {body}")
        check(len(body["error"]["message"]) < 600 and "\x1b" not in body["error"]["message"], body)
    status, body, _ = post(gateway, key, good)
    check(status == 200, status, body)


def test_types_methods_paths(gateway, key, model, **_):
    good = json.dumps(chat_body(model))
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-16"):
        status, body, _ = post(gateway, key, good, headers={"Content-Type": kind})
        check(status in (200, 415), f"{kind}: {status} {body}")
    status, body, _ = post(gateway, key, b"model=x&messages=y", headers={"Content-Type": "application/x-www-form-urlencoded"})
    check(status == 400 and envelope_ok(body), status, body)
    for method, path, expected in (("GET", "/v1/chat/completions", 405), ("DELETE", "/v1/models", 405), ("POST", "/v1/models", 405),
                                   ("GET", "/v1/nothing", 404), ("GET", "/", 404), ("GET", "/v1/models/none", 404),
                                   ("GET", "/v1/receipts/zz", 404), ("GET", "/v1/receipts/" + "0" * 64, 404),
                                   ("GET", "/v1/receipts/../../role.key", 404), ("GET", "/../../../../etc/passwd", 404)):
        status, _, body = vn.request(gateway, method, path, key=key)
        check(status == expected and envelope_ok(json.loads(body)), f"{method} {path}: {status} {body[:200]}")
    for head in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "}, {"Authorization": f"Basic {key}"},
                 {"Authorization": f"Bearer {key}x"}, {"Authorization": f"Bearer {key[:-1]}"}, {"Authorization": "Bearer " + "k" * 8000}):
        status, body, _ = post(gateway, None, good, headers=head)
        check(status == 401 and envelope_ok(body) and body["error"]["code"] == "invalid_api_key", f"{head}: {status} {body}")
    status, _, body = vn.request(gateway, "GET", "/health")
    check(status == 200 and json.loads(body)["status"] == "ok", status, body)


def test_not_http(gateway, **_):
    for data in (b"\r\n\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 4096,
                 b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
                 b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 200000 + b"\r\n\r\n",
                 b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 20000 + b"\r\n",
                 b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                 b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                 b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\n", os.urandom(20000)):
        got = raw(gateway, data, wait=1)
        check(not got.startswith(b"HTTP/1.1 2"), f"{data[:40]!r}: {got[:100]!r}")


def connect_from(gateway, address):
    return socket.create_connection(("127.0.0.1", gateway.ports["http"]), source_address=(address, 0))


def send_all(sockets, data):
    """Returns how many took it: a connection over its address's limit has been closed."""
    taken = 0
    for s in sockets:
        try:
            s.send(data)
            taken += 1
        except OSError:
            pass
    return taken


def test_slow_clients(gateway, key, model, expected, **_):
    """Many who send a byte now and then, and more than there are connections who send nothing: clients of other addresses are
    served all the while; when the slow ones go, everybody is."""
    slow = [connect_from(gateway, "127.0.0.2") for _ in range(120)]
    idle = []
    text = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{"
    try:
        for i in range(0, len(text), 8):
            taken = send_all(slow, text[i:i + 8])
            if i % 40 == 0:
                began = time.monotonic()
                check(e2e.ask(gateway, key, model, expected[0]).text == expected[1], "another answer")
                check(time.monotonic() - began < 60, "a slow client slows others down")
        check(0 < taken <= 64, f"{taken} connections of one address are open; the limit is 64")
        idle = [connect_from(gateway, "127.0.0.3") for _ in range(300)]
        check(e2e.ask(gateway, key, model, expected[0]).text == expected[1], "idle connections keep others out")
    finally:
        for s in slow + idle:
            s.close()

    def served():
        try:
            return vn.request(gateway, "GET", "/health", timeout=5)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    vn.wait_for("an answer after the slow clients have gone", 60, served)


# ---- a client that hangs up ----


class HangUp(Exception):
    pass


def test_hang_up(net, gateway, key, model, expected, **_):
    """The answer stops, is billed for the tokens that were made, and the rest of the reservation returns."""
    before, known = e2e.metrics(gateway), set(e2e.receipts_on_ledger(net))

    def after_some(a):
        if len(a.text) > 40:
            raise HangUp

    try:
        e2e.ask(gateway, key, model, "Tell me a very long story about a lighthouse. " + MARKER, n=1500, on_text=after_some)
        raise vn.Failed("the answer ended before the client hung up")
    except HangUp:
        pass
    others = e2e.in_parallel(3, lambda i: e2e.ask(gateway, key, model, expected[0]).text)
    check(others == [expected[1]] * 3, "other requests were disturbed:", others)
    vn.wait_for("the answer is cancelled", 60, lambda: e2e.metrics(gateway)["veridem_gateway_cancelled_total"]
                > before["veridem_gateway_cancelled_total"])

    def cancelled():
        for receipt in set(e2e.receipts_on_ledger(net)) - known:
            r = e2e.get_receipt(gateway, key, receipt)
            if r["finish"] == "cancelled":
                return r

    r = vn.wait_for("its receipt is on the ledger", 60, cancelled, pause=0.3)
    check(5 < r["output_tokens"] < 1500 and len(r["output"]) == r["output_tokens"], r["output_tokens"])
    check(r["amount_micro"] == r["request"]["prompt_tokens"] * 10 + r["output_tokens"] * 30, r)
    path = e2e.envelope(net, gateway, key, r["id"])
    check(vn.run_json("verify", path, "--model", vn.MODEL)["stands"], "the cancelled answer does not stand")
    vn.wait_for("nothing is reserved", 60, lambda: e2e.metrics(gateway)["veridem_gateway_reserved_micro"] == 0)


# ---- processes and ports ----


def ends(net, *argv, status=3):
    """Runs a role that must not start; returns what it said."""
    done = subprocess.run([str(vn.VERIDEM), *map(str, argv)], env=net.env, capture_output=True, text=True, timeout=120)
    check(done.returncode == status, f"veridem {argv[0]} {argv[1]}: exit {done.returncode}: {done.stderr[-600:]}")
    return done.stderr


def test_port_in_use(net, gateway, **_):
    argv = ["gateway", "--home", net.dir / "second", "--ledger", net.ledger_addr, "--model", vn.MODEL]
    said = ends(net, *argv, "--http", f"127.0.0.1:{gateway.ports['http']}", "--listen", "127.0.0.1:0")
    check(str(gateway.ports["http"]) in said and "in use" in said, said)
    said = ends(net, *argv, "--http", "127.0.0.1:0", "--listen", f"127.0.0.1:{gateway.ports['link']}")
    check(str(gateway.ports["link"]) in said and "in use" in said, said)
    said = ends(net, "worker", "--home", net.dir / "third", "--ledger", net.ledger_addr, "--gateway", gateway.addr, "--model", vn.MODEL,
                "--stake", "100", "--status", f"127.0.0.1:{gateway.ports['http']}")
    check(str(gateway.ports["http"]) in said and "in use" in said, said)


def test_home_in_use(net, **_):
    for role in list(net.roles.values()):
        said = ends(net, *role.argv[1:])
        check(str(role.proc.pid) in said, f"{role.name}: {said}")
        check(role.alive(), role.name, "died of it")
        check(json.loads((role.home / "ports.json").read_text())["pid"] == role.proc.pid, "ports.json is the second one's")


def test_key_file_modes(net, gateway, **_):
    home = net.dir / "open-key"
    net.key("open-key")
    path = home / "keys" / "role.key"
    for mode in (0o644, 0o640, 0o666):
        path.chmod(mode)
        said = ends(net, "worker", "--home", home, "--ledger", net.ledger_addr, "--gateway", gateway.addr, "--model", vn.MODEL)
        check(str(path) in said and "600" in said, said)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:10])
    said = ends(net, "worker", "--home", home, "--ledger", net.ledger_addr, "--gateway", gateway.addr, "--model", vn.MODEL)
    check(str(path) in said, said)


def test_files_are_private(net, **_):
    for path in net.dir.rglob("*"):
        secret = path.suffix == ".key" or path.name in ("api-keys.json", "api-key") or path.suffix == ".mdb"
        if path.is_file() and secret:
            mode = path.stat().st_mode
            check(mode & 0o077 == 0, f"{path} has mode {mode & 0o777:o}")


# ---- link ports ----


def test_garbage_on_links(net, gateway, **_):
    no_check = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    no_check.check_hostname, no_check.verify_mode = False, ssl.CERT_NONE
    with_alpn = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with_alpn.check_hostname, with_alpn.verify_mode = False, ssl.CERT_NONE
    with_alpn.set_alpn_protocols(["veridem/1"])
    for port in (gateway.ports["link"], net.roles["ledger"].ports["link"]):
        for i in range(60):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
                try:
                    if i % 6 == 0:
                        s.sendall(os.urandom(5000))
                    elif i % 6 == 1:
                        s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    elif i % 6 == 2:
                        s.sendall(b"\x16\x03\x01\xff\xff" + os.urandom(70000))
                    elif i % 6 == 3:
                        no_check.wrap_socket(s).recv(10)
                    elif i % 6 == 4:  # TLS as it should be, but no certificate
                        t = with_alpn.wrap_socket(s)
                        t.sendall(os.urandom(100))
                        got = t.recv(1000)
                        check(got == b"" or b"\x10" not in got[4:5], "a peer without a certificate got a HELLO")
                except OSError:
                    pass
    held = [socket.create_connection(("127.0.0.1", gateway.ports["link"])) for _ in range(100)]  # say nothing at all
    worker = net.roles["worker-1"]
    worker.stop()
    worker.start()  # until it is linked, while others hold connections
    for s in held:
        s.close()
    check(net.status()["height"] > 0, "the ledger does not answer")


# ---- model files ----


def test_damaged_models(net, gateway, **_):
    whole = vn.MODEL.read_bytes()
    bad = net.dir / "bad.gguf"
    cases = {"empty": b"", "four bytes": whole[:4], "header only": whole[:24], "half the header": whole[:5000],
             "half": whole[: len(whole) // 2], "one byte short": whole[:-1], "no magic": b"XXXX" + whole[4:100000],
             "another version": whole[:4] + b"\x63\x00\x00\x00" + whole[8:200000], "many tensors": whole[:8] + b"\xff" * 8 + whole[16:],
             "many keys": whole[:16] + b"\xff" * 8 + whole[24:], "long key": whole[:24] + b"\xff" * 7 + b"\x7f" + whole[32:],
             "zeros": bytes(1 << 20)}
    for what, data in cases.items():
        bad.write_bytes(data)
        said = ends(net, "run", bad, "-p", "Hello", "-n", "4")
        check(str(bad) in said or bad.name in said, f"{what}: {said}")
        if what in ("half", "one byte short", "empty"):
            said = ends(net, "worker", "--home", net.dir / "bad-worker", "--ledger", net.ledger_addr, "--gateway", gateway.addr,
                        "--model", bad)
            check(bad.name in said, f"{what}: {said}")
    said = ends(net, "run", net.dir, "-p", "Hello")
    check(str(net.dir) in said, said)


def test_another_model_is_not_on_offer(net, gateway, key, model, **_):
    """A bit of one weight flipped: a worker would load it, but it is another model, and gets no job as this one."""
    data = bytearray(vn.MODEL.read_bytes())
    data[-5000] ^= 1
    other = net.dir / "other" / vn.MODEL.name
    other.parent.mkdir()
    other.write_bytes(data)
    worker = net.worker("stranger", [gateway], model=other)
    served = {e2e.get_receipt(gateway, key, e2e.ask(gateway, key, model, f"{i}?", n=2).receipt)["request"]["worker"] for i in range(4)}
    check(worker.key not in served, "the stranger got a job")
    check(worker.stop() == 0, "the stranger's exit status")
    other.unlink()


# ---- prompts ----


def varints(ids):
    out = bytearray()
    for v in ids:
        while v >= 128:
            out.append(v & 127 | 128)
            v >>= 7
        out.append(v)
    return bytes(out)


def test_prompts_are_not_logged(net, gateway, key, model, **_):
    """The marker went through right and wrong requests; no log and no file of the ledger knows it, not even as token ids."""
    for body in (json.dumps({"model": model, "messages": [{"role": MARKER, "content": MARKER}]}), f'{{"messages": "{MARKER}',
                 json.dumps(chat_body(model, MARKER, stop=[MARKER] * 5)), json.dumps(chat_body(model, MARKER + " word" * 9000)),
                 json.dumps(chat_body(model, [{"type": MARKER, "text": MARKER}])),
                 json.dumps({"model": model, "prompt": [MARKER, MARKER]})):
        check(post(gateway, key, body)[0] == 400, body[:100])
    a = e2e.ask(gateway, key, model, f"Say these words: {MARKER}", n=24)
    check(a.receipt, "no answer")
    r = e2e.get_receipt(gateway, key, a.receipt)
    vn.wait_for("the receipt is settled", 60, lambda: a.receipt in e2e.receipts_on_ledger(net))
    vn.wait_for("it is audited", 60, lambda: f"a receipt stands receipt={a.receipt}" in net.roles["verifier"].tail(1_000_000))
    ids = varints(r["prompt"][-14:-4])
    logs = [role.home / "log" for role in net.roles.values()]
    check(" debug " in gateway.tail(100000), "the log is not at level debug")
    found_ids = []
    for path in net.dir.rglob("*"):
        if not path.is_file() or path.suffix == ".gguf":
            continue
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # a file that was just put in another's place
            continue
        check(MARKER.encode() not in data, f"a prompt is in {path}")
        if ids in data:
            found_ids.append(path.relative_to(net.dir).parts[0])
        if path in logs or path.relative_to(net.dir).parts[0] == "ledger":
            check(ids not in data, f"a prompt's token ids are in {path}")
            check(key.encode() not in data, f"an API key is in {path}")
            check(a.text.encode() not in data, f"an answer is in {path}")
    check("gateway" in found_ids, "the gateway keeps the ids for audits, so this search finds nothing")


TESTS = [test_body_of_100_mb, test_malformed_json, test_types_methods_paths, test_not_http, test_slow_clients, test_hang_up,
         test_port_in_use, test_home_in_use, test_key_file_modes, test_garbage_on_links, test_damaged_models,
         test_another_model_is_not_on_offer, test_prompts_are_not_logged, test_files_are_private]


def still_answers(test):
    """The test, and after it: everybody lives, and the question has the answer that it had."""

    def both(net, gateway, key, model, expected, **shared):
        test(net=net, gateway=gateway, key=key, model=model, expected=expected, **shared)
        for name in ("ledger", "gateway", "worker-1", "worker-2", "verifier"):
            check(net.roles[name].alive(), f"{name} died in {test.__name__}:\n{net.roles[name].tail()}")
        a = e2e.ask(gateway, key, model, expected[0])
        check(a.text == expected[1], f"after {test.__name__}: {a.status} {a.error} {a.text!r}")

    both.__name__ = test.__name__
    return both


def main():
    e2e.need_network_of_roles()
    with vn.Network() as net:
        names = ["gateway", "worker-1", "worker-2", "verifier", "second", "third", "stranger"]
        net.genesis(**{name: 1000 for name in names})
        net.ledger()
        gateway = net.gateway(escrow=100, log="debug")
        for name in ("worker-1", "worker-2"):
            net.worker(name, [gateway], log="debug")
        net.verifier(gateways=[gateway], log="debug")
        key = net.api_key()
        model = e2e.wait_model(gateway, key)
        question = "What is the capital of Germany?"
        expected = question, e2e.ask(gateway, key, model, question).text
        status = e2e.main([still_answers(t) for t in TESTS], net=net, gateway=gateway, key=key, model=model, expected=expected)
        e2e.conserved(net)
        check(all(role.stop() == 0 for role in reversed(list(net.roles.values()))), "a role's exit status")
        return status


if __name__ == "__main__":
    sys.exit(main())
