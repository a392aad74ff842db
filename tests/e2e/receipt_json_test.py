#!/usr/bin/env python3
"""The JSON form of receipts: `veridem verify` and docs/spec/receipt.schema.json take and refuse the same. The cases are those of
tests/data/receipt-json.json, which the reader's unit test runs too, and every member of the schema with values of every kind. The
signed bytes and the roots are made again as docs/spec/receipt.md says. The validator here knows just the keywords that the schema has; where the Python package jsonschema is installed, it is asked as well."""
import copy
import hashlib
import hmac
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(os.environ.get("VD_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
VERIDEM = os.environ.get("VERIDEM", str(ROOT / "build" / "veridem"))
SCHEMA = json.loads((ROOT / "docs/spec/receipt.schema.json").read_text())
DATA = json.loads((ROOT / "tests/data/receipt-json.json").read_text())
BASE = DATA["receipt"]
TOGETHER = 100

try:
    import jsonschema
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    ASKED = jsonschema.Draft202012Validator(SCHEMA)
except ImportError:
    ASKED = None


def parse(text):
    """JSON as docs/spec/receipt.md wants it; ValueError."""
    def once(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name twice")
        return dict(pairs)

    def refuse(number):
        raise ValueError(f"{number} is no integer")
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_float=refuse, parse_constant=refuse)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e


def is_type(v, name):
    return {"object": dict, "array": list, "string": str, "integer": int}[name] is type(v)


def valid(v, schema):
    """Does the value keep the schema? Every keyword that is not known here is an error of this test."""
    rules = {
        "type": lambda a: is_type(v, a),
        "const": lambda a: type(v) is type(a) and v == a,
        "enum": lambda a: type(v) is str and v in a,
        "not": lambda a: not valid(v, a),
        "anyOf": lambda a: any(valid(v, s) for s in a),
        "$ref": lambda a: valid(v, SCHEMA["$defs"][a.removeprefix("#/$defs/")]),
        "pattern": lambda a: type(v) is not str or re.search(a, v) is not None,
        "minLength": lambda a: type(v) is not str or len(v) >= a,
        "maxLength": lambda a: type(v) is not str or len(v) <= a,
        "minimum": lambda a: type(v) is not int or v >= a,
        "maximum": lambda a: type(v) is not int or v <= a,
        "items": lambda a: type(v) is not list or all(valid(x, a) for x in v),
        "maxItems": lambda a: type(v) is not list or len(v) <= a,
        "required": lambda a: type(v) is not dict or all(k in v for k in a),
        "properties": lambda a: type(v) is not dict or all(valid(v[k], s) for k, s in a.items() if k in v),
        "additionalProperties": lambda a: a or type(v) is not dict or v.keys() <= schema["properties"].keys(),
    }
    words = {"$schema", "$id", "title", "description", "$defs"}
    return all(rules[k](a) for k, a in schema.items() if k not in words)


def allowed(value):
    ours = valid(value, SCHEMA)
    if ASKED:
        assert ASKED.is_valid(value) == ours, f"jsonschema says {not ours}: {value}"
    return ours


def read(folder, texts):
    """What the command says of each: "ok", "false", or its error."""
    said = []
    for at in range(0, len(texts), TOGETHER):
        files = []
        for i, text in enumerate(texts[at:at + TOGETHER]):
            files.append(folder / f"{i}.json")
            files[-1].write_bytes(text)
        files.append(folder / "0.json")  # of one file alone the answer is no list
        done = subprocess.run([VERIDEM, "verify", "--no-replay", "--json", *map(str, files)], capture_output=True, timeout=100)
        assert done.returncode in (0, 1, 3), done
        for one in json.loads(done.stdout)[:-1]:
            if "error" in one:
                assert one["error"]["code"] == "VD_EFORMAT", one
                said.append(one["error"]["message"])
            else:
                said.append("ok" if one.get("signatures_valid") else "false")
                assert said[-1] == "ok" or one["stands"] is False, one
    assert len(said) == len(texts)
    return said


def test_cases(folder):
    whole, texts = json.dumps(BASE, separators=(",", ":")), []
    for _, name, piece, instead in DATA["cases"]:
        assert whole.count(piece) == 1, name
        texts.append(whole.replace(piece, instead).encode())
    for (want, name, _, _), text, said in zip(DATA["cases"], texts, read(folder, texts)):
        try:
            ours = "true" if allowed(parse(text)) else "form"
        except ValueError:
            ours = "text"
        assert ours == (want if want in ("form", "text") else "true"), f"{name}: the schema says {ours}, not {want}"
        assert (said if said in ("ok", "false") else ours) == want, f"{name}: {want}, the command says: {said}"
    return len(texts)


ABSENT = object()
VALUES = [ABSENT, None, True, False, [], {}, "", "x", "0", "7", "007", "-7", "7\n", 0, 7, -7, -2**31, -2**31 - 1, 2**31 - 1, 2**31, 2**32 - 1,
          2**32, 2**53 - 1, 2**53, 2**63 - 1, 2**63, str(2**53), str(2**64 - 1), str(2**64), "ab" * 32, "AB" * 32, "ab" * 31, "ab" * 32 + "\n",
          "00" * 32, "ab" * 64, "AB" * 64, "ab" * 65, "ab" * 8, "ab" * 7, "a" * 15, "00" * 2400, "00" * 2408, "00" * 49152, "00" * 49153,
          [7], [0, 2**32 - 1], [2**32], [-1], ["7"], [None], [[]], {"x": 1}, "stop", "Stop", "veridem.receipt", "final"]


def members(schema, path=()):
    for name, s in schema["properties"].items():
        yield (*path, name)
        if "properties" in s:
            yield from members(s, (*path, name))


def test_every_member_with_every_value(folder):
    cases = []
    for path in members(SCHEMA):
        for value in VALUES:
            if len(str(value)) > 10000 and path[-1] not in ("bias", "mask", "id"):
                continue
            j = copy.deepcopy(BASE)
            at = j
            for name in path[:-1]:
                at = at[name]
            at.pop(path[-1], None)
            if value is not ABSENT:
                at[path[-1]] = value
            cases.append((path, value, j))
    taken = 0
    for (path, value, j), said in zip(cases, read(folder, [json.dumps(j).encode() for _, _, j in cases])):
        want = allowed(j)
        taken += want
        shown = "absent" if value is ABSENT else json.dumps(value)[:80]
        assert (said in ("ok", "false")) == want, f"{'.'.join(path)} {shown}: the schema says {want}, the command says: {said}"
    assert taken > 100
    return len(cases)


# What docs/spec/receipt.md says of the signed bytes, for a reader in another language.
REQUEST = ("genesis", "arithmetic", "valid_until", "escrow", "sequence", "gateway", "worker", "model_root", "prompt_root", "prompt_tokens",
           "salt_commit", "temperature_micro", "top_k", "top_p_micro", "min_p_micro", "seed", "choice", "max_tokens", "price_in_micro",
           "price_out_micro", "disclosure", "repetition_penalty_micro", "repetition_last_n", "presence_penalty_micro", "frequency_penalty_micro",
           "bias_hash", "mask_hash", "pooling")
MAY_BE_ABSENT = ("output_root", "bias_hash", "mask_hash")


def varint(v):
    return bytes([v]) if v < 128 else bytes([v & 127 | 128]) + varint(v >> 7)


def field(number, name, value):
    if name in ("presence_penalty_micro", "frequency_penalty_micro"):
        value = 2 * value if value >= 0 else -2 * value - 1
    if isinstance(value, bytes) or re.fullmatch("[0-9a-f]{64}", str(value)):
        value = value if isinstance(value, bytes) else bytes.fromhex(value)
        absent = name in MAY_BE_ABSENT and not any(value)
        return b"" if absent else varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(int(value)) if int(value) else b""


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def mth(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\1", mth(leaves[:k]), mth(leaves[k:]))


def token_root(job_salt, first, tokens):
    leaves = []
    for i, token in enumerate(tokens, first):
        salt = hmac.digest(job_salt, b"veridem/salt\0" + struct.pack("<I", i), "sha256")
        leaves.append(sha(b"\0veridem/token\0", salt, struct.pack("<II", i, token)))
    return mth(leaves).hex()


def test_a_reader_made_from_the_spec(folder):
    request, job_salt = BASE["request"], bytes.fromhex(BASE["job_salt"])
    all_of = {"choice": 0, **request, **request["sampling"]}
    signed = b"".join(field(i, name, all_of.get(name, 0)) for i, name in enumerate(REQUEST, 1))
    finish = {"stop": 1, "length": 2, "fail": 3, "cancelled": 4}[BASE["finish"]]
    body = b"".join(field(i, name, value) for i, name, value in (
        (1, "request", signed), (2, "output_root", BASE["output_root"]), (3, "n_output", BASE["output_tokens"]), (4, "finish", finish),
        (5, "commit_root", BASE["commit_root"]), (6, "amount", BASE["amount_micro"])))
    assert sha(body).hex() == BASE["id"]
    assert len(signed) <= 448 and len(body) <= 560
    assert sha(b"veridem/salt-commit\0", job_salt).hex() == request["salt_commit"]
    assert token_root(job_salt, 0, BASE["prompt"]) == request["prompt_root"]
    assert token_root(job_salt, len(BASE["prompt"]), BASE["output"]) == BASE["output_root"]
    assert sha(b"veridem/bias\0", bytes.fromhex(BASE["bias"])).hex() == request["bias_hash"]
    paid = int(request["price_in_micro"]) * request["prompt_tokens"] + int(request["price_out_micro"]) * BASE["output_tokens"]
    assert paid == int(BASE["amount_micro"])
    binary = folder / "a.receipt"
    (folder / "a.json").write_text(json.dumps(BASE))
    subprocess.run([VERIDEM, "receipt", "convert", "a.json", binary], cwd=folder, check=True, timeout=100)
    both = b"".join((field(1, "receipt", body), field(2, "", bytes.fromhex(BASE["worker_signature"])), field(3, "", bytes.fromhex(BASE["gateway_signature"]))))
    ids = [b"".join(map(varint, BASE[name])) for name in ("prompt", "output")]
    assert binary.read_bytes() == b"".join(field(i, "", x) for i, x in enumerate((both, job_salt, *ids, bytes.fromhex(BASE["bias"])), 1))
    return 1


def test_what_is_written(folder):
    """The command's own JSON keeps the schema, and is read back."""
    (folder / "a.json").write_text(json.dumps(BASE))
    for argv in (["a.json", "a.receipt"], ["a.receipt", "b.json"]):
        subprocess.run([VERIDEM, "receipt", "convert", *argv], cwd=folder, check=True, timeout=100)
    written = parse((folder / "b.json").read_bytes())
    assert written == BASE and allowed(written)
    return 1


def main():
    for test in (test_cases, test_every_member_with_every_value, test_a_reader_made_from_the_spec, test_what_is_written):
        if sys.argv[1:] and test.__name__ not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory(prefix="veridem-receipt-json-") as folder:
            n = test(pathlib.Path(folder))
        print(f"ok {test.__name__} ({n} texts{', jsonschema agrees' if ASKED else ''})", flush=True)


main()
