"""What the cross-process tests share: running named tests, asking a gateway, looking at processes and logs."""

import json
import os
import re
import socket
import sys
import threading
import time
import traceback

import veridem_net as vn

LONG = os.environ.get("VD_LONG") == "1"
SKIP = 77


def need_network_of_roles():
    """Ends with the status of a skipped test when what every network needs is not there."""
    for need in (vn.VERIDEM, vn.MODEL):
        if not need.exists():
            print(f"{need} is missing: skipped (scripts/build, scripts/fetch-model)", file=sys.stderr)
            sys.exit(SKIP)


def main(tests, **shared):
    """Runs the functions in order, or those named in argv, and says how long each took; returns the exit status."""
    wanted = sys.argv[1:]
    failed = []
    for test in tests:
        if wanted and test.__name__ not in wanted:
            continue
        began = time.monotonic()
        try:
            test(**shared)
        except Exception:
            failed.append(test.__name__)
            traceback.print_exc()
        print(f"{'FAILED' if test.__name__ in failed else 'ok':6} {time.monotonic() - began:6.2f} s  {test.__name__}", flush=True)
    if failed:
        print("failed: " + ", ".join(failed), file=sys.stderr)
        for role in shared["net"].roles.values() if "net" in shared else ():
            print(f"---- {role.name}:\n{role.tail()}", file=sys.stderr)
    return 1 if failed else 0


def check(truth, *what):
    """assert that stays with python -O."""
    if not truth:
        raise vn.Failed(" ".join(str(w) for w in what))


# ---- asking ----


class Answer:
    """What came of one request: status, headers, JSON (or the stream's chunks)."""

    def __init__(self):
        self.text, self.receipt, self.usage, self.error, self.finish = "", None, None, None, None
        self.status, self.headers, self.chunks, self.body = None, {}, [], None


def models(gateway, key):
    """The ids of models that a worker offers."""
    status, _, body = vn.request(gateway, "GET", "/v1/models", key=key)
    return [m["id"] for m in json.loads(body)["data"] if m["veridem"]["workers"]] if status == 200 else []


def wait_model(gateway, key, seconds=120):
    return vn.wait_for("a model is on offer", seconds, lambda: models(gateway, key))[0]


def ask(gateway, key, model, question, n=16, on_text=None, headers=None, timeout=120, chat=True, **more):
    """Streams a chat answer, or (chat=False, for models without a template) how the text goes on. on_text(answer so far) is called
    at each piece; it may raise to hang up. An error, before or in the stream, is in .status and .error, not raised."""
    import http.client

    a = Answer()
    asked = {"messages": [{"role": "user", "content": question}]} if chat else {"prompt": question}
    body = {"model": model, **asked, "max_tokens": n, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **more}
    conn = http.client.HTTPConnection("127.0.0.1", gateway.ports["http"], timeout=timeout)
    try:
        conn.request("POST", "/v1/chat/completions" if chat else "/v1/completions", json.dumps(body),
                     {"Content-Type": "application/json", "Authorization": f"Bearer {key}", **(headers or {})})
        answer = conn.getresponse()
        a.status, a.headers = answer.status, dict(answer.getheaders())
        if answer.status != 200:
            a.body = answer.read()
            a.error = json.loads(a.body)["error"]
            return a
        for line in answer:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                take_chunk(a, json.loads(line[6:]))
                if on_text and a.text:
                    on_text(a)
    finally:
        conn.close()
    return a


def take_chunk(a, chunk):
    a.chunks.append(chunk)
    a.error = chunk.get("error") or a.error
    for choice in chunk.get("choices", []):
        a.text += choice.get("delta", {}).get("content") or choice.get("text") or ""
        a.finish = choice.get("finish_reason") or a.finish
    a.usage = chunk.get("usage") or a.usage
    a.receipt = chunk.get("veridem", {}).get("receipt_id") or a.receipt


def get_receipt(gateway, key, receipt):
    status, _, body = vn.request(gateway, "GET", f"/v1/receipts/{receipt}", key=key)
    check(status == 200, f"GET /v1/receipts/{receipt}: HTTP {status} {body[:300]!r}")
    return json.loads(body)


def envelope(net, gateway, key, receipt):
    """The receipt's file, as `veridem verify` takes it."""
    status, _, body = vn.request(gateway, "GET", f"/v1/receipts/{receipt}?format=file", key=key)
    check(status == 200, f"GET /v1/receipts/{receipt}?format=file: HTTP {status} {body[:300]!r}")
    path = net.dir / f"{receipt[:16]}.receipt"
    path.write_bytes(body)
    return path


def in_parallel(n, work):
    """work(0..n-1), each in a thread; the results in order. The first exception is raised again."""
    out, wrong = [None] * n, []

    def one(i):
        try:
            out[i] = work(i)
        except Exception as e:
            wrong.append(e)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if wrong:
        raise wrong[0]
    return out


# ---- looking ----


def metrics(gateway):
    """/metrics as {name: number}; of names with labels the whole text before the number is the name."""
    status, _, body = vn.request(gateway, "GET", "/metrics")
    check(status == 200, "GET /metrics:", status)
    lines = [line.rsplit(" ", 1) for line in body.decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def rss_kib(role):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{role.proc.pid}/status").read())[1])


def conserved(net):
    """Money on the ledger, after checking that none appeared or vanished."""
    status = net.status()
    check(status["sum_micro"] == status["supply_micro"], "the sum of all money is not the supply:", status)
    return status


def port_is_free(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != 0


def receipts_on_ledger(net):
    """{receipt id: record}"""
    return {r["receipt"]: r for r in vn.run_json("receipt", "--ledger", net.ledger_addr)}
