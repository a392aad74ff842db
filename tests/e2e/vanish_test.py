#!/usr/bin/env python3
"""Processes that vanish: workers, gateway and ledger killed with SIGKILL in the middle of work. Answers go on, what was acknowledged
stays, nobody pays or is paid twice. VD_LONG=1: 200 deaths of the ledger instead of 10; VD_SEED: other moments."""

import http.client
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import veridem_net as vn  # noqa: E402
import e2e  # noqa: E402
from e2e import check  # noqa: E402

STORY = "Tell me a long story about a lighthouse."
WORKERS = ("worker-1", "worker-2")


def who_works(net):
    """The worker that runs a job now, or None."""
    for name in WORKERS:
        role = net.roles[name]
        if role.alive() and e2e.metrics(role)["veridem_worker_jobs_running"] > 0:
            return role
    return None


def kill_at(net, n_chars, after=None):
    """An on_text for e2e.ask: kills the worker that has the job when so much text is there."""
    done = []

    def on_text(a):
        if len(a.text) >= n_chars and not done:
            role = who_works(net)
            if role:
                role.kill9()
                done.append(role)
                if after:
                    after(role)

    on_text.killed = done
    return on_text


def ask_and_kill(net, gateway, key, model, n_chars, after=None, prepare=lambda: None, **asked):
    """STORY's answer, whose worker was killed when n_chars of it were there, and that role. If this test slept meanwhile, and the
    worker had ended its job before it died: again, after prepare()."""
    for _ in range(20):
        prepare()
        resumed = resumed_answers(gateway)
        kill = kill_at(net, n_chars, after)
        a = e2e.ask(gateway, key, model, STORY, on_text=kill, **asked)
        late = a.receipt and resumed_answers(gateway) == resumed
        if kill.killed and not (late and e2e.get_receipt(gateway, key, a.receipt)["request"]["worker"] == kill.killed[0].key):
            return a, kill.killed[0]
        if kill.killed and not after:
            kill.killed[0].start()
    raise vn.Failed("nobody was killed in mid-answer")


def resumed_answers(gateway):
    return e2e.metrics(gateway)["veridem_gateway_resumed_total"]


def linked_workers(gateway):
    return e2e.metrics(gateway)["veridem_gateway_workers"]


def nothing_reserved(gateway):
    vn.wait_for("what was reserved is back", 60, lambda: e2e.metrics(gateway)["veridem_gateway_reserved_micro"] == 0)


def all_settled(net, gateway):
    vn.wait_for("all receipts are settled", 120, lambda: e2e.metrics(gateway)["veridem_gateway_receipts_pending"] == 0)


# ---- workers ----


def test_worker_dies_another_goes_on(net, gateway, key, model, **_):
    whole = e2e.ask(gateway, key, model, STORY, n=160, temperature=0.8, seed=11)
    check(whole.usage["completion_tokens"] > 100, "the story is too short for this test:", whole.usage)
    resumed = resumed_answers(gateway)
    a, killed = ask_and_kill(net, gateway, key, model, 120, n=160, temperature=0.8, seed=11)
    check(a.error is None and a.text == whole.text, f"the answer changed when its worker died: {a.error}\n{whole.text!r}\n{a.text!r}")
    check(a.usage == whole.usage and a.finish == whole.finish, a.usage)
    check(resumed_answers(gateway) == resumed + 1, "not resumed, but begun anew")
    r = e2e.get_receipt(gateway, key, a.receipt)
    check(r["request"]["worker"] != killed.key, "the receipt is the dead worker's")
    check(vn.run_json("verify", e2e.envelope(net, gateway, key, a.receipt), "--model", vn.MODEL)["stands"], "it does not stand")
    nothing_reserved(gateway)
    killed.start()


def test_worker_comes_back(net, gateway, key, model, **_):
    """The only worker dies and is started again at once (as a service manager would): the answer goes on with it."""
    net.roles["worker-2"].stop()
    vn.wait_for("one worker", 60, lambda: linked_workers(gateway) == 1)
    whole = e2e.ask(gateway, key, model, STORY, n=120)
    a, _ = ask_and_kill(net, gateway, key, model, 100, after=lambda role: role.start(), n=120)
    check(a.error is None and a.text == whole.text, a.error, a.text)
    net.roles["worker-2"].start()


def test_no_worker_left(net, gateway, key, model, **_):
    net.roles["worker-2"].stop()
    vn.wait_for("one worker", 60, lambda: linked_workers(gateway) == 1)
    before, began = None, None

    def look():
        nonlocal before, began
        all_settled(net, gateway)
        before, began = (e2e.metrics(gateway)["veridem_gateway_escrow_micro"], set(e2e.receipts_on_ledger(net))), time.monotonic()

    a, _ = ask_and_kill(net, gateway, key, model, 100, prepare=look, n=160)
    check(a.error and a.error["code"] == "worker_failed", "no error at the end of the stream:", a.error)
    check(a.error["message"] and a.receipt is None and a.finish is None, a.error)
    check(time.monotonic() - began < 60, "it took too long to say so")
    nothing_reserved(gateway)
    status, head, body = vn.request(gateway, "POST", "/v1/chat/completions",
                                    {"model": model, "messages": [{"role": "user", "content": "x"}]}, key=key)
    check(status == 503 and json.loads(body)["error"]["code"] == "no_worker" and int(head["Retry-After"]) > 0, status, head, body)
    check((e2e.metrics(gateway)["veridem_gateway_escrow_micro"], set(e2e.receipts_on_ledger(net))) == before, "a failed answer cost something")
    for name in WORKERS:
        net.roles[name].start()
    check(e2e.ask(gateway, key, model, STORY, n=20).receipt, "no answer afterwards")


# ---- the gateway ----


def test_gateway_dies(net, gateway, key, model, **_):
    """What its clients got is settled after its restart, once; what they did not get costs nothing."""
    gateway.keep_ports()
    all_settled(net, gateway)
    escrow = e2e.metrics(gateway)["veridem_gateway_escrow_micro"]
    known = set(e2e.receipts_on_ledger(net))
    got, lock = [], threading.Lock()
    for round_ in range(6 if e2e.LONG else 3):

        def one(i):
            try:
                a = e2e.ask(gateway, key, model, f"Round {round_}, question {i}: what is {i} + {i}?", n=8 if i < 5 else 400,
                            headers={"Idempotency-Key": f"{round_}-{i}"})
            except (OSError, http.client.HTTPException):
                return
            if a.receipt and i < 5:
                with lock:
                    got.append((a.receipt, a.text, round_, i))

        threads = [threading.Thread(target=one, args=(i,)) for i in range(7)]
        for t in threads:
            t.start()
        vn.wait_for("some answers", 60, lambda: sum(g[2] == round_ for g in got) >= 2 + round_ % 3, pause=0.002)
        gateway.kill9()
        for t in threads:
            t.join()
        gateway.start()
        for receipt, text, r, i in [g for g in got if g[2] == round_]:  # asked again, they are the same answers
            a = e2e.ask(gateway, key, model, f"Round {r}, question {i}: what is {i} + {i}?", n=8, headers={"Idempotency-Key": f"{r}-{i}"})
            check((a.receipt, a.text) == (receipt, text), "another answer under the same key:", a.receipt, receipt)
    check(len(got) >= 6, f"only {len(got)} answers: nothing was tested")
    all_settled(net, gateway)
    on_ledger = e2e.receipts_on_ledger(net)
    new = {k: v for k, v in on_ledger.items() if k not in known}
    check({g[0] for g in got} <= set(new), "an acknowledged receipt is not settled")
    paid = sum(r["amount_micro"] for r in new.values())
    vn.wait_for("the escrow paid exactly the receipts", 60,
                lambda: e2e.metrics(gateway)["veridem_gateway_escrow_micro"] == escrow - paid, pause=0.5)
    nothing_reserved(gateway)
    e2e.conserved(net)


# ---- the ledger ----


class Load:
    """Questions through the gateway and transfers straight to the ledger, until stop(). Remembers what was acknowledged."""

    def __init__(self, net, gateway, key, model):
        self.net, self.gateway, self.key, self.model = net, gateway, key, model
        self.receipts, self.errors = [], {}
        self.transfers = {}  # bit: (tx, height), or None while it is not known whether it was applied
        self.over = threading.Event()
        self.wrong = []
        self.threads = [threading.Thread(target=self.safely, args=(f, i)) for i, f in enumerate([self.ask, self.ask, self.ask, self.pay])]
        for t in self.threads:
            t.start()

    def safely(self, f, i):
        try:
            f(i)
        except Exception as e:
            self.wrong.append(e)

    def ask(self, i):
        n = 0
        while not self.over.is_set():
            n += 1
            a = e2e.ask(self.gateway, self.key, self.model, f"Worker {i} asks for the {n}th time.", n=4)
            if a.receipt:
                self.receipts.append(a.receipt)
            else:
                code = (a.error or {}).get("code")
                self.errors[code] = self.errors.get(code, 0) + 1
                check(a.status == 503 and a.headers.get("Retry-After"), f"not an honest refusal: {a.status} {a.error}")
                time.sleep(0.1)

    def pay(self, _):
        """The i-th transfer is of 2^i micro-credits: the balance of the receiver shows which of them were applied."""
        bit = 0
        while not self.over.is_set() and bit < 40:
            self.transfers[bit] = None
            done = subprocess.run([str(vn.VERIDEM), "tx", "transfer", self.net.accounts["bob"], f"{2 ** bit / 1e6:.6f}", "--key",
                                   str(self.net.dir / "alice" / "keys" / "role.key"), "--ledger", self.net.ledger_addr, "--json"],
                                  env=self.net.env, capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                sent = json.loads(done.stdout)
                self.transfers[bit] = (sent["tx"], sent["height"])
            bit += 1
            self.over.wait(0.2 if not e2e.LONG else 4)

    def is_enough(self):
        return len(self.receipts) >= 5 and sum(t is not None for t in list(self.transfers.values())) >= 3

    def stop(self):
        self.over.set()
        for t in self.threads:
            t.join()
        if self.wrong:
            raise self.wrong[0]


def test_ledger_dies(net, gateway, key, model, **_):
    rnd = random.Random(int(os.environ.get("VD_SEED", "1")))
    ledger = net.roles["ledger"]
    ledger.keep_ports()
    all_settled(net, gateway)
    escrow = e2e.metrics(gateway)["veridem_gateway_escrow_micro"]
    known = set(e2e.receipts_on_ledger(net))
    load = Load(net, gateway, key, model)
    deaths, height = 200 if e2e.LONG else 10, net.status()["height"]
    died = 0
    try:
        while died < deaths or (died < 5 * deaths and not load.is_enough()):
            died += 1
            time.sleep(rnd.uniform(0.05, 1.5))
            ledger.kill9()
            time.sleep(rnd.choice((0, 0, 0.3)))
            ledger.start()
            now = vn.wait_for("the ledger answers", 60, lambda: net.status()["height"])
            check(now >= height, f"the chain went back from {height} to {now}")
            height = now
            e2e.conserved(net)
        time.sleep(1.5)
    finally:
        load.stop()
    all_settled(net, gateway)
    sure = {bit: t for bit, t in load.transfers.items() if t}
    print(f"       {died} deaths, {len(load.receipts)} answers, {len(sure)} of {len(load.transfers)} transfers acknowledged, errors {load.errors}")
    check(load.is_enough(), "too little load to show anything")
    for tx, at in sure.values():
        check(vn.run_json("tx", "show", tx, "--ledger", net.ledger_addr)["height"] == at, f"transfer {tx} is not in block {at}")
    balance, claimed = net.account("bob")["balance_micro"], sum(2 ** bit for bit in sure)
    check(balance & claimed == claimed, f"an acknowledged transfer is lost: {balance:b} lacks bits of {claimed:b}")
    check(balance <= sum(2 ** bit for bit in load.transfers), f"a transfer was applied twice: {balance:b}")
    new = {k: v for k, v in e2e.receipts_on_ledger(net).items() if k not in known}
    check(set(load.receipts) <= set(new), "an acknowledged receipt is lost")
    check(len(set(load.receipts)) == len(load.receipts), "a receipt twice")
    paid = sum(r["amount_micro"] for r in new.values())
    vn.wait_for("the escrow paid exactly the receipts", 60,
                lambda: e2e.metrics(gateway)["veridem_gateway_escrow_micro"] == escrow - paid, pause=0.5)
    nothing_reserved(gateway)


def test_money_arrives(net, gateway, **_):
    """After the audit window every receipt is final, and the workers have what it says, less what goes to others."""
    all_settled(net, gateway)
    vn.wait_for("all receipts are final", 120, lambda: net.status()["money"]["pending_micro"] == 0, pause=0.3)
    rows = e2e.receipts_on_ledger(net).values()
    check({r["status"] for r in rows} == {"final"}, {r["status"] for r in rows})
    e2e.conserved(net)
    for role in reversed(list(net.roles.values())):
        check(role.stop() == 0, f"{role.name}'s exit status")
    check(vn.run_json("ledger", "check", "--home", net.dir / "ledger")["valid"], "the chain does not replay")


# ---- veridem up ----


def start_up(home, *more):
    env = dict(os.environ, VERIDEM_HOME=str(home))
    return subprocess.Popen([str(vn.VERIDEM), "up", "--http", "127.0.0.1:0", "--threads", "1", *more], env=env, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=vn.die_with_parent)


def told(proc, seconds=240):
    """What `up` prints when it is ready."""
    lines = []
    timer = threading.Timer(seconds, proc.kill)
    timer.start()
    for line in proc.stdout:
        lines.append(line)
        if "Ctrl-C" in line or line.startswith("{"):
            break
    timer.cancel()
    text = "".join(lines)
    check(text, f"up said nothing and ended with {proc.poll()}: {proc.stderr.read()[-800:] if proc.poll() is not None else ''}")
    return text


def children_of(pid):
    return [int(p) for p in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()]


def ask_url(url, key, model):
    host, port = re.match(r"http://([^:/]+):(\d+)/v1", url).groups()
    conn = http.client.HTTPConnection(host, int(port), timeout=120)
    conn.request("POST", "/v1/chat/completions",
                 json.dumps({"model": model, "messages": [{"role": "user", "content": "What is the capital of Germany?"}], "max_tokens": 8, "temperature": 0}),
                 {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    answer = conn.getresponse()
    body = json.loads(answer.read())
    conn.close()
    check(answer.status == 200 and "Berlin" in body["choices"][0]["message"]["content"], body)
    return int(port), body["veridem"]["receipt_id"]


def test_up(net, **_):
    home = net.dir / "up"
    (home / "models").mkdir(parents=True)
    (home / "models" / vn.MODEL.name).symlink_to(vn.MODEL)
    one = start_up(home)
    try:
        text = told(one)
        url, key = re.search(r"http://\S+/v1", text)[0], re.search(r"API key +(\S+)", text)[1]
        port, receipt = ask_url(url, key, re.search(r"model +(\S+)", text)[1])
        env = dict(os.environ, VERIDEM_HOME=str(home))
        check(f"curl {url}/chat/completions" in text and key in text.split("curl")[1], "no curl line that works:", text)
        two = subprocess.run([str(vn.VERIDEM), "up", "--http", "127.0.0.1:0"], env=env, capture_output=True, text=True, timeout=120)
        check(two.returncode == 3 and str(one.pid) in two.stderr, f"a second up: {two.returncode} {two.stderr}")
        busy = subprocess.run([str(vn.VERIDEM), "up", "--http", f"127.0.0.1:{port}"],
                              env=dict(env, VERIDEM_HOME=str(net.dir / "up2"), HOME=str(net.dir)), capture_output=True, text=True, timeout=120)
        check(busy.returncode == 3 and "model" in busy.stderr, f"up without a model: {busy.returncode} {busy.stderr}")
        busy = subprocess.run([str(vn.VERIDEM), "up", str(vn.MODEL), "--http", f"127.0.0.1:{port}"], timeout=120,
                              env=dict(env, VERIDEM_HOME=str(net.dir / "up2")), capture_output=True, text=True)
        check(busy.returncode == 3 and str(port) in busy.stderr and "--http" in busy.stderr, f"port in use: {busy.returncode} {busy.stderr}")
        pids = children_of(one.pid)
        check(len(pids) == 4, "children:", pids)
        receipts = subprocess.run([str(vn.VERIDEM), "receipt", "--json"], env=env, capture_output=True, text=True, timeout=120)
        check(receipts.returncode == 0, f"receipt finds the ledger of up by itself: {receipts.stderr}")
    finally:
        one.send_signal(signal.SIGINT)
        one.wait(120)
    check(one.returncode in (0, 130), f"up ended with {one.returncode}: {one.stderr.read()}")
    check(not any(pathlib.Path(f"/proc/{p}").exists() for p in pids), "a role outlived up")
    check(e2e.port_is_free(port), "the port is still taken")

    again = start_up(home, "--json")
    try:
        ready = json.loads(told(again))
        check(ready["api_key"] == key, "another API key than last time")
        _, second = ask_url(ready["base_url"], ready["api_key"], ready["model"])
        vn.wait_for("both receipts", 60, lambda: {receipt, second} <= {r["receipt"] for r in vn.run_json("receipt", "--ledger", ready["ledger"])})
        pids = children_of(again.pid)
    finally:
        again.kill()  # SIGKILL this time: the roles must notice by themselves
        again.wait()
    vn.wait_for("the roles end with their parent", 60, lambda: not any(pathlib.Path(f"/proc/{p}").exists() for p in pids))


TESTS = [test_worker_dies_another_goes_on, test_worker_comes_back, test_no_worker_left, test_gateway_dies, test_ledger_dies,
         test_money_arrives, test_up]


def main():
    e2e.need_network_of_roles()
    with vn.Network(params={"audit_window_blocks": 20}) as net:
        net.genesis(gateway=1000, alice=2_000_000, bob=0, verifier=1000, **{name: 1000 for name in WORKERS})
        net.ledger()
        gateway = net.gateway(escrow=100)
        for name in WORKERS:
            net.worker(name, [gateway])
        key = net.api_key()
        model = e2e.wait_model(gateway, key)
        return e2e.main(TESTS, net=net, gateway=gateway, key=key, model=model)


if __name__ == "__main__":
    sys.exit(main())
