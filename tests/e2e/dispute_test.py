#!/usr/bin/env python3
"""Disputes between real processes: a cheat is caught down to the tile and pays, whoever dies meanwhile; silence loses; a false
challenge costs its bond and changes nothing else."""

import json
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import veridem_net as vn  # noqa: E402
import e2e  # noqa: E402
from e2e import check  # noqa: E402

BOND, SLASH, CHALLENGER_SHARE = 1 * vn.MICRO, 100 * vn.MICRO, 0.4


def disputes(net, receipt):
    return [d for d in vn.run_json("dispute", "list", "--ledger", net.ledger_addr) if d["receipt"] == receipt]


def wait_over(net, receipt, seconds=240):
    """The one dispute about the receipt, move by move, when it is over."""
    found = vn.wait_for("the dispute is over", seconds, lambda: [d for d in disputes(net, receipt) if not d["open"]], pause=0.2)
    show = vn.run_json("dispute", "show", found[0]["dispute"], "--ledger", net.ledger_addr)
    check(show["status"] == found[0]["status"] and show["receipt"] == receipt, show)
    return show


def count(role, what):
    """A counter of a worker or verifier since its start."""
    return e2e.metrics(role)[f"veridem_{'worker' if role.name.startswith('worker') else 'verifier'}_{what}_total"]


def wait_count(role, what, n):
    """Until the counter is at least n."""
    vn.wait_for(f"{n} {what} of {role.name}", 120, lambda: count(role, what) >= n)


def moves_of(net, receipt, side):
    """How often that side has moved in the one dispute about the receipt; None before there is one."""
    return next((sum(m["side"] == side for m in vn.run_json("dispute", "show", d["dispute"], "--ledger", net.ledger_addr)["moves"])
                 for d in disputes(net, receipt)), None)


def into_dispute(net, receipt, worker, challenger, n):
    """The challenger, who was frozen before the receipt was made, challenges it, and each side moves n times; then both are frozen. They
    never run at the same time, and every move needs the other's before it: the dispute cannot be over, however slow this test is."""
    worker.freeze()
    challenger.go_on()
    vn.wait_for("the challenge", 120, lambda: disputes(net, receipt))
    for i in range(1, n + 1):
        for one, other, side in (worker, challenger, "worker"), (challenger, worker, "challenger"):
            other.freeze()
            one.go_on()
            vn.wait_for(f"move {i} of {one.name}", 120, lambda s=side: moves_of(net, receipt, s) >= i)
    challenger.freeze()
    check(all(d["open"] for d in disputes(net, receipt)), "the dispute went on without one side")


def new_cheat(net, gateway, name):
    """A cheat that is cheaper than all others."""
    role = net.worker(name, [gateway], binary=vn.CHEAT, price_out=1)
    return role


def receipt_of(net, gateway, key, model, worker, question, n=12):
    """An answer by this worker; returns its receipt. Until it is linked another, or none, answers."""
    i = 0

    def answered():
        nonlocal i
        i += 1
        a = e2e.ask(gateway, key, model, f"{question} ({i})", n=n)
        check(a.receipt or a.error["code"] == "no_worker", "no answer:", a.error)
        r = a.receipt and e2e.get_receipt(gateway, key, a.receipt)
        return r if r and r["request"]["worker"] == worker.key else None

    return vn.wait_for(f"an answer by {worker.name}", 120, answered)


def by_verdict(show):
    """Asserts what every dispute with a verdict has."""
    opened = [m for m in show["moves"] if m["side"] == "worker"]
    check(1 <= len(opened) <= 7, f"{len(opened)} moves of the worker")
    check(max(m["bytes"] for m in show["moves"]) <= 65 * 1024, "an opening above 64 KiB")
    heights = [m["height"] for m in show["moves"]]
    check(heights == sorted(heights) and show["open_height"] <= heights[0] and heights[-1] <= show["end_height"], heights)
    check(show["verdict"] and not show["open"], show["verdict"])


def verifier_has_its_due(net):
    """Its balance is what it began with, and the share of each slash, less the bonds that are held or lost."""

    def exact():
        mine = [d for d in vn.run_json("dispute", "list", "--ledger", net.ledger_addr) if d["challenger"] == net.roles["verifier"].key]
        won = sum(d["status"].startswith("worker lost") for d in mine)
        gone = sum(d["open"] or d["status"].startswith("challenger lost") for d in mine)
        return net.account("verifier")["balance_micro"] == 1000 * vn.MICRO + won * int(SLASH * CHALLENGER_SHARE) - gone * BOND

    vn.wait_for("the verifier's balance is what its disputes say", 60, exact)


def caught(net, gateway, key, receipt, cheat):
    """Asserts that the cheat lost by the referee's word, and that the money went where it must."""
    show = wait_over(net, receipt["id"])
    check(show["status"] == "worker lost by verdict", show["status"], show["verdict"])
    by_verdict(show)
    check(show["worker"] == cheat.key and show["challenger"] == net.roles["verifier"].key, show)
    check(len(disputes(net, receipt["id"])) == 1, "challenged twice")
    status = e2e.get_receipt(gateway, key, receipt["id"])["status"]
    check(status == "void", f"the false receipt is {status}")
    mine = net.account(cheat.name)
    check(mine["stake_micro"] == 0, f"the cheat's stake is {mine['stake_micro']}")
    verifier_has_its_due(net)
    e2e.conserved(net)
    return show


def test_cheat_is_caught(net, gateway, key, model, **_):
    cheat = new_cheat(net, gateway, "cheat-1")
    burned = net.status()["money"]["burned_micro"]
    r = receipt_of(net, gateway, key, model, cheat, "Who wrote the Odyssey?")
    path = e2e.envelope(net, gateway, key, r["id"])
    seen = vn.run_json("verify", path, "--model", vn.MODEL, ok=(1,))
    check(seen["signatures_valid"] and seen["stands"] is False, "the cheat's receipt is well signed, and does not stand:", seen)
    show = caught(net, gateway, key, r, cheat)
    check(any("layer 17" in m["where"] for m in show["moves"]), "the layer that was spoilt is not named:", show["moves"])
    check(show["moves"][-1]["check_us"] < 20000, "the referee is slow:", show["moves"][-1])
    gone = net.status()["money"]["burned_micro"] - burned
    check(gone == SLASH * (1 - CHALLENGER_SHARE), f"burned: {gone}")
    text = vn.run("dispute", "show", show["dispute"], "--ledger", net.ledger_addr)
    check("layer 17" in text and "worker lost" in text, text)
    points = [line.index("C ") for line in text.splitlines() if re.match(r"block \d+ +C [A-Z]", line)]
    check(len(points) > 3 and all(a < b for a, b in zip(points, points[1:])), "each thing pointed at is a step deeper:", text)
    check(re.search(r"slashed +[0-9.]+ credits taken from the worker's stake", text), text)
    moved = [event for event in show["events"] if event["event"] == "moved"]
    check([m["bytes"] for m in show["moves"]] == [event["bytes"] for event in moved] and not any("amount_micro" in event for event in moved), moved)
    check(re.search(f"{show['dispute']}  about receipt {r['id']} ", vn.run("dispute", "list", "--ledger", net.ledger_addr)), "the list does not say what it is about")
    served = {e2e.get_receipt(gateway, key, e2e.ask(gateway, key, model, f"And {i}?", n=2).receipt)["request"]["worker"] for i in range(3)}
    check(cheat.key not in served, "a convicted worker got jobs")
    cheat.stop()


def test_verifier_dies_in_a_dispute(net, gateway, key, model, **_):
    """Right when it has seen what it will challenge, and later: it goes on, and has challenged once."""
    verifier = net.roles["verifier"]
    for name, moves in (("cheat-2", 0), ("cheat-3", 1)):
        cheat = new_cheat(net, gateway, name)
        differ = count(verifier, "differ")
        verifier.freeze()
        r = receipt_of(net, gateway, key, model, cheat, f"Who wrote the Iliad? {name}")
        if moves:
            into_dispute(net, r["id"], cheat, verifier, moves)
        else:
            cheat.freeze()
            verifier.go_on()
            wait_count(verifier, "differ", differ + 1)
        verifier.kill9()
        check(all(d["open"] for d in disputes(net, r["id"])), "killed too late to show anything")
        cheat.go_on()
        verifier.start()
        caught(net, gateway, key, r, cheat)
        cheat.stop()


def test_gateway_is_away(net, gateway, key, model, **_):
    """A gateway that cannot be asked for the data for a while does not save a cheat."""
    verifier = net.roles["verifier"]
    cheat = new_cheat(net, gateway, "cheat-6")
    verifier.stop()
    r = receipt_of(net, gateway, key, model, cheat, "Who wrote Hamlet?")
    vn.wait_for("it is settled", 60, lambda: r["id"] in e2e.receipts_on_ledger(net))
    gateway.keep_ports()
    gateway.kill9()
    verifier.start()
    vn.wait_for("the verifier wants the data", 60, lambda: e2e.metrics(verifier)["veridem_verifier_queue"] > 0)
    time.sleep(4)  # it asks, without a link, after 0, 1 and 3 s
    gateway.start(dialled_by=[net.roles["worker-1"]])  # the cheat may have lost before it dials again
    caught(net, gateway, key, r, cheat)
    cheat.stop()


def test_worker_dies_in_a_dispute(net, gateway, key, model, **_):
    """The cheat itself, started again, goes on answering, and loses by the referee's word, not on the clock."""
    cheat, verifier = new_cheat(net, gateway, "cheat-4"), net.roles["verifier"]
    verifier.freeze()
    r = receipt_of(net, gateway, key, model, cheat, "Who wrote the Aeneid?")
    into_dispute(net, r["id"], cheat, verifier, 1)
    cheat.kill9()
    verifier.go_on()
    cheat.start()
    caught(net, gateway, key, r, cheat)
    cheat.stop()


def test_cheat_with_a_vector_is_caught(net, gateway, key, model, **_):
    """The cheat is paid for a vector, and loses by a dispute over it."""
    cheat = new_cheat(net, gateway, "cheat-7")
    status, _, body = vn.request(gateway, "POST", "/v1/embeddings", {"model": model, "input": "A ship on a quiet sea"}, key=key)
    check(status == 200, "no vector:", body[:300])
    r = e2e.get_receipt(gateway, key, json.loads(body)["veridem"]["receipts"][0])
    check(r["request"]["worker"] == cheat.key and r["request"]["sampling"]["pooling"], r["request"])
    path = e2e.envelope(net, gateway, key, r["id"])
    seen = vn.run_json("verify", path, "--model", vn.MODEL, ok=(1,))
    check(seen["signatures_valid"] and seen["stands"] is False, seen)
    show = caught(net, gateway, key, r, cheat)
    check(any("layer 17" in m["where"] for m in show["moves"]), "the layer that was spoilt is not named:", show["moves"])
    cheat.stop()


def test_silence_loses(net, gateway, key, model, later, **_):
    """A cheat that vanishes when it is challenged. The clock runs while the other tests go on."""
    cheat, verifier = new_cheat(net, gateway, "cheat-5"), net.roles["verifier"]
    verifier.freeze()
    r = receipt_of(net, gateway, key, model, cheat, "Who wrote the Divine Comedy?")
    into_dispute(net, r["id"], cheat, verifier, 0)
    cheat.kill9()
    verifier.go_on()
    later["silent"] = r["id"], cheat


def test_silence_has_lost(net, gateway, key, later, **_):
    receipt, cheat = later["silent"]
    show = wait_over(net, receipt)
    check(show["status"].startswith("worker lost") and show["status"] != "worker lost by verdict", show["status"])
    check(e2e.get_receipt(gateway, key, receipt)["status"] == "void", "the receipt is not void")
    check(net.account(cheat.name)["stake_micro"] == 0, "the stake is there still")
    e2e.conserved(net)


def test_false_challenge(net, gateway, key, model, later, **_):
    """Somebody whose model is damaged challenges an honest worker, which dies and comes back in mid-dispute: the referee finds for
    it, and it gets the bond."""
    worker = net.roles["worker-1"]
    wrong = net.verifier("wrong", [gateway], binary=vn.FALSE_VERIFIER)
    stake = net.account("worker-1")["stake_micro"]
    bad_before, good_before = net.account("wrong")["balance_micro"], net.account("worker-1")["balance_micro"]
    wrong.freeze()
    r = receipt_of(net, gateway, key, model, worker, "Who wrote Faust?")
    into_dispute(net, r["id"], worker, wrong, 2)
    worker.kill9()
    wrong.go_on()
    worker.start()
    show = wait_over(net, r["id"])
    check(show["status"].startswith("challenger lost"), show["status"], show["verdict"])
    by_verdict(show)
    check(show["challenger"] == wrong.key and len(disputes(net, r["id"])) == 1, show)
    wrong.stop()
    lost = bad_before - net.account("wrong")["balance_micro"]
    n = len([d for d in vn.run_json("dispute", "list", "--ledger", net.ledger_addr) if d["challenger"] == wrong.key])
    check(lost == n * BOND, f"{n} false challenges cost {lost}")
    check(net.account("worker-1")["stake_micro"] == stake, "an honest worker lost stake")
    check(net.account("worker-1")["balance_micro"] >= good_before + BOND, "the bond did not come to the worker")
    later["falsely challenged"] = r["id"]
    e2e.conserved(net)


def peak_mib(role):
    """The most memory that the role's process ever had, in MiB."""
    status = pathlib.Path(f"/proc/{role.proc.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) / 1024


def test_long_false_challenge(net, gateway, key, model, **_):
    """A false challenge over 4,096 positions: at most 7 moves, and the worker takes at most 256 MiB more than it took to generate."""
    worker = net.roles["worker-1"]
    r = receipt_of(net, gateway, key, model, worker, "Count them. " + "one two three four five six seven eight " * 510, n=24)
    positions = r["request"]["prompt_tokens"] + r["output_tokens"] - 1
    check(4096 <= positions <= 4352, f"{positions} positions")
    before = peak_mib(worker)
    wrong = net.roles["wrong"]
    wrong.start()
    show = wait_over(net, r["id"])
    wrong.stop()
    by_verdict(show)
    check(show["status"].startswith("challenger lost"), show["status"], show["verdict"])
    more = peak_mib(worker) - before
    check(more <= 256, f"the dispute took {more:.0f} MiB more than generating")
    print(f"     {positions} positions: {len(show['moves'])} moves, {more:.0f} MiB more than generating")


def test_nobody_else_was_hurt(net, gateway, key, later, **_):
    """All that is left open ends, who was challenged falsely is paid, the sums are right, and the chain replays."""
    vn.wait_for("all receipts are closed", 300, lambda: net.status()["money"]["pending_micro"] == 0, pause=0.5)
    lost = {d["worker"] for d in vn.run_json("dispute", "list", "--ledger", net.ledger_addr) if d["status"].startswith("worker lost")}
    check(lost == {net.key(f"cheat-{i}") for i in range(1, 8)}, "not exactly the cheats lost:", lost)
    money = net.status()["money"]
    check(money["bonds_micro"] == 0, "a bond is still held:", money)
    status = e2e.get_receipt(gateway, key, later["falsely challenged"])["status"]
    check(status == "final", f"an honest receipt is not paid, but {status}")
    e2e.conserved(net)
    for role in reversed(list(net.roles.values())):
        check(not role.alive() or role.stop() == 0, f"{role.name}'s exit status")
    check(vn.run_json("ledger", "check", "--home", net.dir / "ledger")["valid"], "the chain does not replay")


TESTS = [test_cheat_is_caught, test_cheat_with_a_vector_is_caught, test_silence_loses, test_verifier_dies_in_a_dispute, test_worker_dies_in_a_dispute, test_gateway_is_away,
         test_false_challenge, test_long_false_challenge, test_silence_has_lost, test_nobody_else_was_hurt]


def main():
    e2e.need_network_of_roles()
    for need in (vn.CHEAT, vn.FALSE_VERIFIER):
        if not need.exists():
            print(f"{need} is missing: run scripts/build", file=sys.stderr)
            return 1
    # Clocks that a machine five times slower keeps: 60 s to challenge, 24 s for a move.
    with vn.Network(params={"block_time_ms": 150, "audit_window_blocks": 400, "move_clock_blocks": 160, "steps_per_block": 100}) as net:
        names = ["gateway", "worker-1", "verifier", "wrong", *(f"cheat-{i}" for i in range(1, 8))]
        net.genesis(**{name: 1000 for name in names}, treasury=0)
        net.ledger()
        gateway = net.gateway(escrow=200)
        net.worker("worker-1", [gateway])
        net.verifier(gateways=[gateway])
        key = net.api_key()
        model = e2e.wait_model(gateway, key)
        return e2e.main(TESTS, net=net, gateway=gateway, key=key, model=model, later={})


if __name__ == "__main__":
    sys.exit(main())
