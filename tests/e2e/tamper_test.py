#!/usr/bin/env python3
"""The tamper kit between real processes, on the real model: workers whose weights were tampered with, drawn from seeds, sell answers
under the honest root. Each loses by the referee's word, and the tile is named. A lie that changes no committed bit is no lie: the
receipt stands in a replay, and then nobody challenges it. Long form: 100, or VD_BASES=FIRST..LAST. VD_MODEL=gemma3: the
same with gemma-3-270m, which has K-quants, a sliding window and norms of heads."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import veridem_net as vn  # noqa: E402
import e2e  # noqa: E402
from e2e import check  # noqa: E402

FIRST, LAST = map(int, os.environ.get("VD_BASES", "0..99" if e2e.LONG else "0..1").split(".."))
SEEDS = range(100 + FIRST, 101 + LAST)
CHAT = "Instruct" in vn.MODEL.name  # the others have no template


def disputes(net, receipt):
    return [d for d in vn.run_json("dispute", "list", "--ledger", net.ledger_addr) if d["receipt"] == receipt]


def one(net, gateway, key, seed):
    cheat = net.worker(f"cheat-{seed}", [gateway], binary=vn.CHEAT, price_out=1, tamper=seed)
    a = e2e.ask(gateway, key, e2e.wait_model(gateway, key), f"What is {seed} and 0?", n=8, chat=CHAT)
    check(a.receipt, f"seed {seed}: no answer:", a.error)
    r = e2e.get_receipt(gateway, key, a.receipt)
    check(r["request"]["worker"] == cheat.key, f"seed {seed}: the cheat did not get the job")
    what = next((line for line in cheat.tail(4000).splitlines() if "degraded:" in line), "?")
    seen = vn.run_json("verify", e2e.envelope(net, gateway, key, r["id"]), "--model", vn.MODEL, ok=(0, 1))
    if seen["stands"]:
        print(f"    seed {seed}: {what}: changed nothing", flush=True)
        cheat.stop()
        return False
    over = vn.wait_for(f"seed {seed}: the dispute is over", 240,
                       lambda: [d for d in disputes(net, r["id"]) if not d["open"]], pause=0.2)
    show = vn.run_json("dispute", "show", over[0]["dispute"], "--ledger", net.ledger_addr)
    check(show["status"] == "worker lost by verdict", f"seed {seed}: {what}:", show["status"], show["verdict"])
    check(net.account(cheat.name)["stake_micro"] == 0, f"seed {seed}: the stake is there still")
    check(max(m["bytes"] for m in show["moves"]) <= 65 * 1024, f"seed {seed}: an opening above 64 KiB")
    print(f"    seed {seed}: {what}: {show['moves'][-1]['where']}", flush=True)
    cheat.stop()
    return True


def test_tampered_weights_are_caught(net, gateway, key, **_):
    caught = sum(one(net, gateway, key, seed) for seed in SEEDS)
    check(caught * 2 >= len(SEEDS), f"only {caught} of {len(SEEDS)} lies had an effect")
    e2e.conserved(net)


def main():
    e2e.need_network_of_roles()
    with vn.Network(params={"block_time_ms": 150, "audit_window_blocks": 2000, "move_clock_blocks": 1000}) as net:
        net.genesis(**{name: 1000 for name in ["gateway", "verifier", "honest", *(f"cheat-{s}" for s in SEEDS)]}, treasury=0)
        net.ledger()
        gateway = net.gateway(escrow=200)
        net.worker("honest", [gateway], price_out=1000)  # it registers the model; the cheats are cheaper
        net.verifier(gateways=[gateway])
        return e2e.main([test_tampered_weights_are_caught], net=net, gateway=gateway, key=net.api_key())


if __name__ == "__main__":
    sys.exit(main())
