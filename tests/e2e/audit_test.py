#!/usr/bin/env python3
"""Audits between real processes: honest auditors are paid, also one that is killed between commitment and reveal; a lazy and a copying
one lose, one that was told walks into a trap; a cheat is found; data are shown on the ledger when the gateway is away, and lost for the worker when both are; a
keeper that does not reveal loses its bond."""

import hashlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import veridem_net as vn  # noqa: E402
import e2e  # noqa: E402
from e2e import check  # noqa: E402

# Clocks that a machine five times slower keeps: 30 s to commit, 12 s to reveal, 15 s to show data.
PARAMS = {"epoch_blocks": 10, "beacon_blocks": 10, "audit_commit_blocks": 300, "audit_reveal_blocks": 120, "audit_data_blocks": 150,
          "auditors": 3, "audit_slash": 1, "beacon_bond": 10, "audit_window_blocks": 60, "audit_new_receipts": 0, "steps_per_block": 50,
          "worker_share_ppm": 850_000, "gateway_share_ppm": 40_000, "treasury_share_ppm": 10_000, "auditor_share_ppm": 100_000}
AUDITORS = ("auditor-1", "auditor-2")


def audit(net, receipt):
    try:
        return vn.run_json("audit", "show", receipt, "--ledger", net.ledger_addr)
    except vn.Failed:
        return None


def slot(a, key):
    return next((s for s in a["auditors"] if s["auditor"] == key), None)


def drawn(net, receipt):
    return vn.wait_for("the receipt is drawn", 60, lambda: audit(net, receipt))


def closed(net, receipt, seconds=240):
    def probe():
        a = audit(net, receipt)
        return a if a and a["phase"] == "closed" else None

    return vn.wait_for("the audit is closed", seconds, probe, pause=0.2)


def record(net, receipt):
    return vn.run_json("receipt", receipt, "--ledger", net.ledger_addr)


def tx(net, who, *argv, ok=(0,)):
    return vn.run("tx", *argv, "--key", net.dir / who / "keys" / "role.key", "--ledger", net.ledger_addr, ok=ok)


def refused(net, who, *argv):
    """The ledger's word against it."""
    try:
        tx(net, who, *argv)
    except vn.Failed as e:
        return str(e)
    raise vn.Failed(f"the ledger took {argv}")


def settled(net, gateway, key, model, question, n=6):
    a = e2e.ask(gateway, key, model, question, n=n)
    check(a.receipt, "no answer:", a.error)
    vn.wait_for("the receipt is settled", 60, lambda: a.receipt in e2e.receipts_on_ledger(net))
    return a.receipt


def by_hand(net, who, model_root):
    """`who` becomes an auditor that only does what the test makes it do."""
    if net.account(who)["stake_micro"] < 100 * vn.MICRO:
        tx(net, who, "stake", 150)
    tx(net, who, "auditor", model_root, "on")


def test_honest_auditors_are_paid(net, gateway, key, model, **_):
    r = settled(net, gateway, key, model, "What is the capital of Italy?")
    a = closed(net, r)
    check(len(a["auditors"]) == 2, "auditors:", a)
    check(all(s["said"] == "stands" and s["paid_micro"] > 0 and s["slashed_micro"] == 0 for s in a["auditors"]), a)
    check(record(net, r)["status"] == "final", record(net, r))
    check(e2e.metrics(net.roles["auditor-1"])["veridem_verifier_audits_total"] >= 1, "metrics")
    check(vn.run_json("audit", "keepers", "--ledger", net.ledger_addr)[0]["keeper"] == net.roles["ledger"].key, "keepers")
    text = vn.run("audit", "list", "--ledger", net.ledger_addr)
    check(r in text and "2 stands" in text, text)
    e2e.conserved(net)


def test_lazy_auditor_loses_and_a_killed_one_does_not(net, gateway, key, model, root, **_):
    """One auditor is lazy: it holds the others up, commits to STANDS without a replay, and cannot reveal. Meanwhile an honest
    one is killed after its commitment, and reveals when it is back."""
    by_hand(net, "lazy", root)
    r = settled(net, gateway, key, model, "Which planet is the largest?")
    drawn(net, r)
    honest = net.roles["auditor-1"]
    lazy = net.accounts["lazy"]
    vn.wait_for("the honest ones have committed", 60, lambda: sum(s["said"] == "committed" for s in audit(net, r)["auditors"]) == 2)
    honest.kill9()
    honest.start()
    halves, nonce = (b"\1" * 32, b"\2" * 32), b"\3" * 32
    tx(net, "lazy", "audit-commit", r, vn.audit_commitment(r, lazy, 1, halves, nonce))
    check(audit(net, r)["phase"] == "auditors reveal", audit(net, r))
    why = refused(net, "lazy", "audit-reveal", r, nonce.hex(), "stands", *(h.hex() for h in halves))
    check("does not fit" in why, why)
    a = closed(net, r)
    check(slot(a, lazy)["said"] == "missed" and slot(a, lazy)["slashed_micro"] == 1 * vn.MICRO, a)
    check(slot(a, honest.key)["said"] == "stands" and slot(a, honest.key)["paid_micro"] > 0, a)
    check(net.account("lazy")["stake_micro"] == 149 * vn.MICRO, net.account("lazy"))
    check(record(net, r)["status"] == "final", "the worker lost by a lazy auditor:", record(net, r))


def test_copied_commitment_cannot_be_revealed(net, gateway, key, model, root, **_):
    by_hand(net, "copycat", root)
    r = settled(net, gateway, key, model, "Who painted the Mona Lisa?")
    drawn(net, r)
    other = net.roles["auditor-2"].key
    copy = vn.wait_for("a commitment to copy", 60, lambda: (slot(audit(net, r), other) or {}).get("commitment"))
    tx(net, "copycat", "audit-commit", r, copy)
    a = closed(net, r)
    mine = slot(a, net.accounts["copycat"])
    check(mine["said"] == "missed" and mine["slashed_micro"] == 1 * vn.MICRO, a)
    check(slot(a, other)["said"] == "stands", a)


def test_trap_catches_who_was_told(net, root, **_):
    """A gateway plants a trap, and is killed and started again meanwhile. A lazy auditor says what it is told of the receipt; the honest
    ones replay it, find a difference, and are paid."""
    by_hand(net, "lazy", root)
    before, gateway = net.account("lazy")["stake_micro"], net.roles["gateway-2"]
    gateway.keep_ports()
    gateway.stop()
    gateway.argv += ["--traps", "1000000"]
    gateway.start()
    r, *halves = vn.wait_for("a trap is planted", 60, lambda: vn.traps_told(gateway))[0]
    nonce, lazy = b"\4" * 32, net.accounts["lazy"]
    gateway.kill9()
    gateway.argv = gateway.argv[:-2] + ["--traps", "1000001"]
    gateway.start()
    drawn(net, r)
    tx(net, "lazy", "audit-commit", r, vn.audit_commitment(r, lazy, 1, [bytes.fromhex(h) for h in halves], nonce))
    vn.wait_for("all have committed", 60, lambda: audit(net, r)["phase"] == "auditors reveal", pause=0.2)
    tx(net, "lazy", "audit-reveal", r, nonce.hex(), "stands", *halves)
    a = closed(net, r)
    check(record(net, r)["void_why"] == "it was a trap for auditors", record(net, r))
    mine = slot(a, lazy)
    check(mine["said"] == "stands" and mine["slashed_micro"] == 100 * vn.MICRO, a)
    check(net.account("lazy")["stake_micro"] == before - 100 * vn.MICRO, net.account("lazy"))
    others = [s for s in a["auditors"] if s["auditor"] != lazy]
    check(len(others) == 2 and all(s["said"] == "differs" and s["slashed_micro"] == 0 for s in others), a)
    worker = vn.run_json("account", record(net, r)["worker"], "--ledger", net.ledger_addr)
    check(worker["stake_micro"] == 100 * vn.MICRO, "the worker of a trap was slashed:", worker)
    counted = e2e.metrics(gateway)
    check(counted["veridem_gateway_traps_caught_total"] == 1 and counted["veridem_gateway_traps_opened_total"] == 1, counted)
    vn.wait_for("the trap is put away", 60,
                lambda: not (gateway.home / "traps" / f"{r}.receipt").exists() and all(t[0] != r for t in vn.traps_told(gateway)))
    e2e.conserved(net)


def test_missing_reveal_costs_the_bond(net, **_):
    """A second keeper stays silent. The ledger's own layers go on, so receipts are drawn all the same."""
    before = net.account("keeper")["balance_micro"]
    burned = net.status()["money"]["burned_micro"]
    anchor = hashlib.sha256(b"veridem/onion\0" + b"\5" * 32).hexdigest()
    tx(net, "keeper", "beacon-open", anchor, 1)
    check(net.account("keeper")["balance_micro"] == before - 10 * vn.MICRO, net.account("keeper"))
    vn.wait_for("its bond burns", 60, lambda: net.status()["money"]["burned_micro"] == burned + 10 * vn.MICRO, pause=0.2)
    check(len(vn.run_json("audit", "keepers", "--ledger", net.ledger_addr)) == 1, "it is still a keeper")
    check(net.account("keeper")["balance_micro"] == before - 10 * vn.MICRO, "the bond came back")
    e2e.conserved(net)


def test_cheat_is_found_by_the_drawn(net, gateway, key, model, **_):
    cheat = net.worker("cheat", [gateway], binary=vn.CHEAT, price_out=1)
    r = settled(net, gateway, key, model, "Who wrote Hamlet?", n=12)
    check(record(net, r)["worker"] == cheat.key, "the cheat did not get the job")
    a = closed(net, r)
    check(record(net, r)["status"] == "void" and record(net, r)["void_why"] == "a dispute's verdict", record(net, r))
    check([s["said"] for s in a["auditors"]] == ["differs"] * len(a["auditors"]), a)
    check(net.account("cheat")["stake_micro"] == 0, net.account("cheat"))
    cheat.stop()
    e2e.conserved(net)


def test_data_on_the_ledger(net, model, **_):
    """The receipt's gateway is away: the auditors demand the data. The worker, which was killed, shows them when it is back."""
    second, worker = net.roles["gateway-2"], net.roles["worker"]
    r = settled(net, second, net.api_key("gateway-2"), model, "What is two plus two?")
    second.kill9()
    worker.kill9()
    vn.wait_for("the data are demanded", 120, lambda: (audit(net, r) or {}).get("phase") == "data demanded")
    worker.start()
    a = closed(net, r)
    check(a["demanded"] and a.get("shown_by") == net.roles["worker"].key, a)
    check([s["said"] for s in a["auditors"]] == ["stands"] * len(a["auditors"]), a)
    check(record(net, r)["status"] == "final", record(net, r))


def test_withheld_data_lose(net, gateway, key, model, **_):
    r = settled(net, gateway, key, model, "Name a colour.")
    gateway.kill9()
    net.roles["worker"].kill9()
    a = closed(net, r)
    check(record(net, r)["void_why"] == "its data were withheld from an audit", record(net, r))
    check(all(s["said"] == "drawn" and s["slashed_micro"] == 0 for s in a["auditors"]), a)
    check(net.account("worker")["stake_micro"] == 0, net.account("worker"))
    e2e.conserved(net)


TESTS = [test_honest_auditors_are_paid, test_lazy_auditor_loses_and_a_killed_one_does_not, test_copied_commitment_cannot_be_revealed,
         test_trap_catches_who_was_told, test_missing_reveal_costs_the_bond, test_cheat_is_found_by_the_drawn, test_data_on_the_ledger, test_withheld_data_lose]


def ready(role):
    """It is an auditor on the ledger."""
    return "kind=auditor" in role.tail(100_000)


def main():
    e2e.need_network_of_roles()
    with vn.Network(params=PARAMS) as net:
        people = ("ledger", "gateway", "gateway-2", "worker", "cheat", "lazy", "copycat", "keeper", *AUDITORS)
        net.genesis(**{name: 1000 for name in people})
        net.ledger()
        gateways = [net.gateway(escrow=100), net.gateway("gateway-2", escrow=100)]
        net.worker("worker", gateways)
        auditors = [net.verifier(name, gateways, audit=True) for name in AUDITORS]
        key = net.api_key()
        model = e2e.wait_model(gateways[0], key)
        vn.wait_for("both are auditors", 120, lambda: all(ready(a) for a in auditors))
        root = vn.run_json("model", "root", vn.MODEL)["model_root"]
        return e2e.main(TESTS, net=net, gateway=gateways[0], key=key, model=model, root=root)


if __name__ == "__main__":
    sys.exit(main())
