#!/usr/bin/env python3
"""Streams that are followed, between real processes: an honest answer is right to its receipt; a cheat's stream is stopped at its first
wrong token, unpaid; a worker that vanishes leaves a statement that anyone can replay, and one changed bit spoils."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import veridem_net as vn  # noqa: E402
import e2e  # noqa: E402
from e2e import check  # noqa: E402

STORY = "Tell me a long story about a lighthouse."


def seen(net, what):
    return e2e.metrics(net.roles["follower"])[f"veridem_verifier_streams_{what}total"]


def test_honest_stream_is_right(net, gateway, key, model, **_):
    a = e2e.ask(gateway, key, model, STORY, n=150, temperature=0.8, seed=5)
    check(a.receipt, "no answer:", a.error)
    vn.wait_for("the stream was right to its receipt", 120, lambda: seen(net, "right_") == 1)
    check(seen(net, "wrong_") == 0 and e2e.metrics(gateway)["veridem_gateway_prefixes_total"] >= 2, "metrics")


def test_worker_vanishes_and_leaves_a_statement(net, gateway, key, model, **_):
    """Nobody can go on. What the worker signed of the first 64 tokens stands, when it is replayed."""
    done = []

    def prefixes():
        return e2e.metrics(gateway)["veridem_gateway_prefixes_total"]

    def kill(a):
        if not done and prefixes() > before:
            net.roles["worker"].kill9()
            done.append(True)

    for _ in range(20):  # again, if this test slept and the worker had ended before it died
        before = prefixes()
        a = e2e.ask(gateway, key, model, STORY, n=1000, temperature=0.8, seed=6, on_text=kill)
        if not a.receipt:
            break
        if done:
            net.roles["worker"].start()
        done.clear()
    check(a.error and a.error["code"] == "worker_failed" and not a.receipt, "error:", a.error)
    path = re.search(r"/v1/receipts/([0-9a-f]{64})", a.error["message"])
    check(path, "the error names no statement:", a.error)
    statement = e2e.get_receipt(gateway, key, path[1])
    check(statement["status"] == "statement" and statement["output_tokens"] % 64 == 0, statement)
    check(statement["worker"] == net.key("worker"), statement)
    file = e2e.envelope(net, gateway, key, path[1])
    r = vn.run_json("verify", file, "--model", vn.MODEL)
    check(r["statement_stands"] and r["output_tokens"] == statement["output_tokens"], r)
    check("it is no receipt" in vn.run("verify", file, "--model", vn.MODEL), "text")
    spoilt = bytearray(file.read_bytes())
    spoilt[-1] ^= 1
    file.write_bytes(bytes(spoilt))
    vn.run("verify", file, "--model", vn.MODEL, ok=(1, 3))
    check(e2e.metrics(gateway)["veridem_gateway_reserved_micro"] == 0, "something is still reserved")
    e2e.conserved(net)


def test_cheat_is_stopped_in_mid_stream(net, gateway, key, model, **_):
    cheat = net.worker("cheat", [gateway], binary=vn.CHEAT, price_out=1)
    before = net.status()["money"]
    a = e2e.ask(gateway, key, model, STORY, n=1000)
    check(a.error and a.error["code"] == "worker_wrong" and not a.receipt, "error:", a.error)
    check(len(a.text) < 3000, "it was stopped late:", len(a.text))
    check(seen(net, "wrong_") == 1, "metrics")
    vn.wait_for("the follower says where", 60, lambda: "output token" in net.roles["follower"].tail())
    vn.wait_for("the cheat is told why", 60, lambda: "is not the one that the model chooses" in cheat.tail())
    again = e2e.ask(gateway, key, model, "And now?", n=4)
    check(again.error and again.error["code"] == "no_worker", "a wrong worker got another job:", again.error)
    net.roles["worker"].start()
    good = e2e.ask(gateway, key, model, "And now?", n=4)
    check(good.receipt and e2e.get_receipt(gateway, key, good.receipt)["request"]["worker"] == net.roles["worker"].key, good.error)
    check(net.status()["money"]["escrows_micro"] <= before["escrows_micro"], "money")
    e2e.conserved(net)


def main():
    e2e.need_network_of_roles()
    with vn.Network(params={"audit_rate_ppm": 0}) as net:
        net.genesis(gateway=1000, worker=1000, cheat=1000, follower=1000)
        net.ledger()
        gateway = net.gateway(follower=net.key("follower"))
        net.worker("worker", [gateway])
        net.verifier("follower", [gateway], follow=True, rate=0)
        key = net.api_key()
        model = e2e.wait_model(gateway, key)
        return e2e.main([test_honest_stream_is_right, test_worker_vanishes_and_leaves_a_statement,
                              test_cheat_is_stopped_in_mid_stream], net=net, gateway=gateway, key=key, model=model)


if __name__ == "__main__":
    sys.exit(main())
