#!/usr/bin/env python3
"""What disputes take of a worker's memory, whose KV cache is full of other clients' jobs: they give way, and go on. Somebody challenges
a long receipt several times at once and points at places all over it, the last position among them. The worker's peak from then on is
at most 256 MiB above its peak while it only generated (/proc/PID/clear_refs begins it anew). Short form: SmolLM2 at some 1,000 positions. Long:
SmolLM2 at its whole context, and gemma-3-270m at VD_POSITIONS (12,000)."""

import os
import pathlib
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import veridem_net as vn  # noqa: E402
import e2e  # noqa: E402
from e2e import check  # noqa: E402

CHALLENGER = vn.BUILD / "tests" / "vd_pointing_challenger"
BAR_MIB = 256
PER_LINE = 8  # tokens of a line of the prompts
NEVER = {"0": -100, "1": -100, "2": -100, "106": -100}  # ends of both models


class HangUp(Exception):
    pass


def peak_mib(role):
    status = pathlib.Path(f"/proc/{role.proc.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) / 1024


def begin_peak(role):
    pathlib.Path(f"/proc/{role.proc.pid}/clear_refs").write_text("5")


def prompt(name, positions):
    return f"Count them, {name}. " + "one two three four five six seven eight " * (positions // PER_LINE)


class Others:
    """Clients whose jobs fill the worker's cache, each anew when it is done, until they are told to hang up."""

    def __init__(self, gateway, key, model, n, positions, more):
        self.over, self.speaks = threading.Event(), [0] * n
        self.threads = [threading.Thread(target=self.run, args=(i, gateway, key, model, positions, more), daemon=True) for i in range(n)]
        for t in self.threads:
            t.start()

    def run(self, i, gateway, key, model, positions, more):
        def on_text(a):
            self.speaks[i] += 1
            if self.over.is_set():
                raise HangUp

        for again in range(1000):
            try:
                e2e.ask(gateway, key, model, prompt(f"{i} and {again}", positions), n=more, chat=False, on_text=on_text, timeout=900, logit_bias=NEVER)
            except (HangUp, OSError):
                pass
            if self.over.is_set():
                return
            time.sleep(0.2)

    def stop(self):
        self.over.set()
        for t in self.threads:
            t.join(60)


def one(net, gateway, key, name, positions, more, kv_mib, chat, games=6):
    path = vn.model_path(name)
    worker = net.worker(f"worker-{name}", [gateway], model=path, threads=2, kv_mib=kv_mib, capacity=16, stake=200)
    begin_peak(worker)
    model = vn.wait_for(f"{name} is on offer", 60, lambda: [m for m in e2e.models(gateway, key) if m in path.name])[0]
    a = e2e.ask(gateway, key, model, prompt("all of them", positions), n=16, chat=chat, timeout=900)
    check(a.receipt, "no answer:", a.error)
    r = e2e.get_receipt(gateway, key, a.receipt)
    n = r["request"]["prompt_tokens"] + r["output_tokens"] - 1
    check(n >= positions, f"{n} positions")
    vn.wait_for("it is settled", 60, lambda: r["id"] in e2e.receipts_on_ledger(net))

    def full():
        m = e2e.metrics(worker)
        return m["veridem_worker_kv_bytes"] / m["veridem_worker_kv_limit_bytes"]

    others = Others(gateway, key, model, 8, positions, more)
    try:
        vn.wait_for("the cache is full", 900, lambda: full() > 0.75 and any(others.speaks), pause=0.5)
        time.sleep(3)
        generating, share, spoken = peak_mib(worker), full(), sum(others.speaks)
        begin_peak(worker)
        began = time.monotonic()
        done = subprocess.run([str(CHALLENGER), "challenge", str(e2e.envelope(net, gateway, key, r["id"])), "--ledger", net.ledger_addr, "--key",
                               str(net.dir / "pointer" / "keys" / "role.key"), "--model", str(path), "--games", str(games), "--wait", "600"],
                              capture_output=True, text=True, timeout=3000)
        took = time.monotonic() - began
        check(done.returncode == 0, done.stderr)
        time.sleep(1)
        disputed, m = peak_mib(worker), e2e.metrics(worker)
        vn.wait_for("the others' jobs go on", 300, lambda: sum(others.speaks) > spoken, pause=0.5)
    finally:
        others.stop()
    print("     " + done.stdout.strip().replace("\n", "\n     "))
    print(f"    {n} positions of {name}, KV cache of {kv_mib} MiB, {100 * share:.0f} % full: peak {generating:.0f} MiB generating, {disputed:.0f} MiB in {games} "
          f"disputes, {disputed - generating:+.0f} MiB; {m['veridem_worker_moves_total']:.0f} moves, {m['veridem_worker_replays_total']:.0f} runs, "
          f"{m['veridem_worker_paused_total']:.0f} times a job gave way, {took:.0f} s", flush=True)
    check(m["veridem_worker_moves_total"] >= 4 * games, "moves")
    check(m["veridem_worker_paused_total"] >= 1, "no job gave way")
    check(disputed - generating <= BAR_MIB, f"the disputes took {disputed - generating:.0f} MiB more than generating")
    worker.stop()


def test_short(net, gateway, key, **_):
    one(net, gateway, key, "smollm2", 1000, 1500, 64, True)


def test_whole_context(net, gateway, key, **_):
    one(net, gateway, key, "smollm2", 7800, 380, 400, True)


def test_long_windows(net, gateway, key, **_):
    positions = int(os.environ.get("VD_POSITIONS", 12000))
    # One of them takes 9 MiB for the windows and 1.6 KiB a position: four fifths of this cache.
    one(net, gateway, key, "gemma3", positions, 600, 12 + positions // 500, False)


def main():
    e2e.need_network_of_roles()
    tests = [test_short, test_whole_context, test_long_windows] if e2e.LONG else [test_short]
    with vn.Network(params={"block_time_ms": 250, "audit_window_blocks": 12000, "move_clock_blocks": 4000}) as net:
        net.genesis(gateway=10000, pointer=1000, **{f"worker-{name}": 1000 for name in vn.FILES}, treasury=0)
        net.ledger()
        gateway = net.gateway(escrow=2000, **({"model": vn.model_path("gemma3")} if e2e.LONG else {}))
        return e2e.main(tests, net=net, gateway=gateway, key=net.api_key())


if __name__ == "__main__":
    sys.exit(main())
