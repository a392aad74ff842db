#!/usr/bin/env python3
"""The real, unmodified openai client against a real network: what it sends is understood, what it gets it can read, its errors are
the right classes, its retries are billed once, and every answer's receipt stands."""

import asyncio
import json
import os
import pathlib
import re
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import veridem_net as vn  # noqa: E402
import e2e  # noqa: E402
from e2e import check  # noqa: E402

QUESTION = [{"role": "user", "content": "What is the capital of Germany?"}]


def into_python_env():
    """Goes on in the environment that has the client; skipped only if it is not there and the network neither."""
    try:
        import openai  # noqa: F401
    except ImportError:
        if "VD_PYTHON_ENV" in os.environ:
            raise
        made = subprocess.run([str(vn.ROOT / "scripts" / "python-env"), str(vn.BUILD)], stdout=subprocess.PIPE, text=True)
        if made.returncode:
            sys.exit(e2e.SKIP if made.returncode == 4 else 1)
        python = made.stdout.strip()
        os.execve(python, [python, *sys.argv], dict(os.environ, VD_PYTHON_ENV=python))


into_python_env()
import openai  # noqa: E402


def raises(kind, status, call):
    """Calls; returns the exception, which must be of exactly this class and status."""
    try:
        call()
    except openai.APIStatusError as e:
        check(type(e) is kind and e.status_code == status, f"{type(e).__name__} {e.status_code} instead of {kind.__name__}: {e}")
        check(e.body and e.body.get("message") and e.body.get("type"), "no error envelope:", e.body)
        return e
    raise vn.Failed(f"no {kind.__name__}")


def chat(client, model, **more):
    return client.chat.completions.create(**{"model": model, "messages": QUESTION, "max_tokens": 12, "temperature": 0, **more})


def text_of(stream):
    """(text, chunks) of a streamed chat."""
    chunks = list(stream)
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks


def test_models(client, model, **_):
    page = client.models.list()
    check([m.id for m in page.data] == [model] and page.data[0].object == "model", page)
    check(client.models.retrieve(model).id == model, "retrieve")
    raises(openai.NotFoundError, 404, lambda: client.models.retrieve("gpt-9"))


def test_chat(client, model, **_):
    raw = client.chat.completions.with_raw_response.create(model=model, messages=QUESTION, max_tokens=12, temperature=0)
    a = raw.parse()
    check(a.object == "chat.completion" and a.model == model and a.id.startswith("chatcmpl-"), a)
    check("Berlin" in a.choices[0].message.content and a.choices[0].message.role == "assistant", a)
    check(a.choices[0].finish_reason in ("stop", "length"), a)
    check(a.usage.total_tokens == a.usage.prompt_tokens + a.usage.completion_tokens, a.usage)
    check(0 < a.usage.completion_tokens <= 12 and a.usage.prompt_tokens > 7, a.usage)
    check(raw.headers["x-veridem-receipt"] == a.veridem["receipt_id"], raw.headers)
    short = chat(client, model, max_tokens=3)
    check(short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 3, short)
    check(a.choices[0].message.content.startswith(short.choices[0].message.content), short)
    same = chat(client, model, max_tokens=openai.NOT_GIVEN, max_completion_tokens=12)
    check(same.choices[0].message.content == a.choices[0].message.content, "max_completion_tokens")


def test_chat_stream(client, model, **_):
    whole = chat(client, model)
    text, chunks = text_of(chat(client, model, stream=True))
    check(text == whole.choices[0].message.content, "streamed and whole differ:", text)
    check(chunks[0].choices[0].delta.role == "assistant" and len({c.id for c in chunks}) == 1, chunks[0])
    check(all(c.usage is None for c in chunks), "usage that nobody asked for")
    check(chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason, chunks[-1])
    check(len(chunks[-1].veridem["receipt_id"]) == 64, chunks[-1])
    text, chunks = text_of(chat(client, model, stream=True, stream_options={"include_usage": True}))
    check(text == whole.choices[0].message.content, text)
    check(chunks[-1].choices == [] and chunks[-1].usage == whole.usage, chunks[-1])
    check(chunks[-1].veridem["receipt_id"] == chunks[-2].veridem["receipt_id"], chunks[-2:])
    check(len(chunks) > 4, "not streamed")


def test_chat_helpers(client, model, **_):
    """The client's own stream() helper, which is stricter about the order of events."""
    with client.chat.completions.stream(model=model, messages=QUESTION, max_tokens=12, temperature=0) as stream:
        done = [event for event in stream if event.type == "content.done"]
        final = stream.get_final_completion()
    check(len(done) == 1 and done[0].content == final.choices[0].message.content != "", done)


def test_messages(client, model, **_):
    """A conversation with a system message, and content as parts."""
    talk = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "My name is Ann."},
            {"role": "assistant", "content": "Hello Ann!"}, {"role": "user", "content": [{"type": "text", "text": "What is my name?"}]}]
    a = chat(client, model, messages=talk)
    b = chat(client, model, messages=talk[:3] + [{"role": "user", "content": "What is my name?"}])
    check(a.choices[0].message.content == b.choices[0].message.content, "parts and text differ")
    check(a.usage.prompt_tokens > chat(client, model, messages=talk[3:]).usage.prompt_tokens, "the earlier messages are not counted")


def test_completions(client, model, **_):
    a = client.completions.create(model=model, prompt="The capital of France is", max_tokens=8, temperature=0)
    check(a.object == "text_completion" and "Paris" in a.choices[0].text, a)
    check(a.usage.completion_tokens <= 8 and a.usage.prompt_tokens == 5, a.usage)
    check(len(a.veridem["receipt_id"]) == 64, a)
    chunks = list(client.completions.create(model=model, prompt="The capital of France is", max_tokens=8, temperature=0, stream=True,
                                            stream_options={"include_usage": True}))
    check("".join(c.choices[0].text for c in chunks if c.choices) == a.choices[0].text, "streamed and whole differ")
    check(chunks[-1].usage == a.usage and chunks[-1].veridem["receipt_id"], chunks[-1])
    plain = client.completions.create(model=model, prompt="The capital of France is", temperature=0)
    check(plain.usage.completion_tokens <= 16, "more than the default of 16 tokens")


def test_sampling(client, model, **_):
    def draw(**more):
        return chat(client, model, **{"temperature": 1.2, "max_tokens": 16, **more}).choices[0].message.content

    one = draw(seed=7)
    check(draw(seed=7) == one, "the same seed gave another answer")
    check(len({draw(seed=s) for s in (7, 8, 9)}) > 1, "the seed changes nothing")
    check(len({draw() for _ in range(3)}) > 1, "without a seed every answer is the same")
    greedy = draw(temperature=0)
    check(draw(temperature=0, seed=5) == greedy, "temperature 0 is not greedy")
    check(draw(top_p=0, seed=5) == greedy and draw(top_p=1e-6, seed=5) == greedy, "a tiny top_p is not greedy")
    check(draw(seed=7, extra_body={"top_k": 1}) == greedy, "top_k 1 is not greedy")
    check(draw(seed=7, top_p=0.9) == draw(seed=7, top_p=0.9), "top_p is not deterministic")


def test_receipt(net, gateway, key, client, model, **_):
    a = chat(client, model, seed=3, temperature=0.7, top_p=0.9, max_tokens=24)
    r = e2e.get_receipt(gateway, key, a.veridem["receipt_id"])
    q = r["request"]
    check(r["id"] == a.veridem["receipt_id"] and q["gateway"] == gateway.key, r)
    check(q["worker"] in (net.roles["worker-1"].key, net.roles["worker-2"].key), q)
    check((q["prompt_tokens"], r["output_tokens"]) == (a.usage.prompt_tokens, a.usage.completion_tokens), r)
    check(q["sampling"] == {"temperature_micro": 700000, "top_k": 0, "top_p_micro": 900000, "min_p_micro": 0, "seed": "3"}, q)
    check(r["amount_micro"] == a.veridem["amount_micro"] == a.usage.prompt_tokens * 10 + a.usage.completion_tokens * 30, r)
    for receipt in (a.veridem["receipt_id"], text_of(chat(client, model, stream=True))[1][-1].veridem["receipt_id"]):
        path = e2e.envelope(net, gateway, key, receipt)
        seen = vn.run_json("verify", path, "--model", vn.MODEL)
        check(seen["stands"] and seen["receipt"] == receipt, seen)
        spoilt = bytearray(path.read_bytes())
        spoilt[len(spoilt) // 2] ^= 4
        path.write_bytes(spoilt)
        vn.run("verify", path, "--model", vn.MODEL, ok=(1, 3))
    settled = vn.wait_for("the receipt is settled", 30, lambda: e2e.receipts_on_ledger(net).get(a.veridem["receipt_id"]))
    check(settled["amount_micro"] == r["amount_micro"], settled)
    other = net.api_key(label="other")
    status, _, _ = vn.request(gateway, "GET", f"/v1/receipts/{receipt}", key=other)
    check(status == 404, "another key sees the receipt:", status)


def test_embeddings(net, gateway, key, client, model, **_):
    """The client asks for base64 by itself and unpacks it; floats, ids and lists are the same vectors; each has a receipt that stands."""
    texts = ["A ledger is a book of accounts.", "The cat sleeps.", "A ledger holds accounts."]
    a = client.embeddings.create(model=model, input=texts)
    v = [d.embedding for d in a.data]
    check([d.index for d in a.data] == [0, 1, 2] and len(v[0]) == 576, a)
    check(all(abs(sum(x * x for x in w) - 1) < 1e-4 for w in v), "not of length 1")
    dot = lambda x, y: sum(p * q for p, q in zip(x, y))
    check(dot(v[0], v[2]) > dot(v[0], v[1]), "what means the same is farther apart")
    check(a.usage.prompt_tokens == a.usage.total_tokens > 10 and len(a.veridem["receipts"]) == 3, a.usage)
    check(a.veridem["amount_micro"] == 10 * a.usage.prompt_tokens, a.veridem)
    one = client.embeddings.create(model=model, input=texts[0], encoding_format="float")
    check(max(abs(x - y) for x, y in zip(one.data[0].embedding, v[0])) < 1e-7, "floats and base64 differ")
    ids = e2e.get_receipt(gateway, key, a.veridem["receipts"][1])["prompt"]
    same = client.embeddings.create(model=model, input=ids)
    check(same.data[0].embedding == v[1], "text and ids differ")
    here = vn.run_json("embed", vn.MODEL, "-p", texts[0])
    check(max(abs(x - y) for x, y in zip(here["embedding"], v[0])) < 1e-7, "veridem embed gives another vector")
    for receipt in a.veridem["receipts"]:
        path = e2e.envelope(net, gateway, key, receipt)
        seen = vn.run_json("verify", path, "--model", vn.MODEL)
        check(seen["stands"] and seen["receipt"] == receipt, seen)
    e = raises(openai.BadRequestError, 400, lambda: client.embeddings.create(model=model, input="x", dimensions=64))
    check(e.param == "dimensions" and "dimensions" in e.message, e)
    raises(openai.BadRequestError, 400, lambda: client.embeddings.create(model=model, input=""))


def test_errors(base, key, client, model, **_):
    wrong = openai.OpenAI(base_url=base, api_key="vk-nobody", max_retries=0)
    check(raises(openai.AuthenticationError, 401, lambda: chat(wrong, model)).code == "invalid_api_key", "code")
    raises(openai.AuthenticationError, 401, wrong.models.list)
    e = raises(openai.NotFoundError, 404, lambda: chat(client, "gpt-9"))
    check(e.code == "model_not_found" and model in e.message, e)
    for param, more in {"logprobs": {"logprobs": 3}, "n": {"n": 99}, "stop": {"stop": [""]},
                        "response_format.type": {"response_format": {"type": "xml"}}, "temperature": {"temperature": 3},
                        "top_p": {"top_p": -1}, "presence_penalty": {"presence_penalty": 3}, "max_tokens": {"max_tokens": 0},
                        "logit_bias": {"logit_bias": {"5": 101}}, "wibble": {"extra_body": {"wibble": 1}}, "seed": {"seed": "x"},
                        "messages": {"messages": []}, "stream_options": {"stream_options": {"include_usage": True}},
                        "messages[0].role": {"messages": [{"role": "wizard", "content": "x"}]},
                        "messages[0].content[0]": {"messages": [{"role": "user", "content": [
                            {"type": "image_url", "image_url": {"url": "data:,"}}]}]}}.items():
        try:
            e = raises(openai.BadRequestError, 400, lambda m=more: chat(client, model, **m))
        except vn.Failed as failed:
            raise vn.Failed(f"{param}: {failed}") from failed
        named = e.param == param or (param.startswith("messages[0].role") and (e.param or "").startswith("messages[0]."))
        check(named and param.split("[")[0] in e.message, f"{param}: param is {e.param}: {e.message}")
    for param, more in {"logprobs": {"logprobs": 21}, "best_of": {"best_of": 2}, "echo": {"echo": True}, "suffix": {"suffix": "x"},
                        "prompt": {"prompt": ["a", "b"]}}.items():
        args = {"model": model, "prompt": "a", **more}
        e = raises(openai.BadRequestError, 400, lambda a=args: client.completions.create(**a))
        check(e.param == param, f"{param}: {e.param}")


def test_context(client, model, **_):
    long = [{"role": "user", "content": "one two three four five six seven eight nine ten " * 1000}]
    e = raises(openai.BadRequestError, 400, lambda: chat(client, model, messages=long))
    check(e.code == "context_length_exceeded" and e.param == "messages", e.body)
    e = raises(openai.BadRequestError, 400, lambda: chat(client, model, max_tokens=100000))
    check(e.code == "context_length_exceeded" and e.param == "max_tokens", e.body)


def spent(gateway):
    """(answers made, answers given again) so far."""
    m = e2e.metrics(gateway)
    return m["veridem_gateway_answers_total"], m["veridem_gateway_replayed_total"]


def test_retries(gateway, client, model, **_):
    before = spent(gateway)
    head = {"Idempotency-Key": "order-66"}
    one = chat(client, model, temperature=1, extra_headers=head)
    two = chat(client, model, temperature=1, extra_headers=head)
    check(two == one, "the second answer under the key is another one")
    text, chunks = text_of(chat(client, model, temperature=1, stream=True, extra_headers={"Idempotency-Key": "order-67"}))
    again, chunks2 = text_of(chat(client, model, temperature=1, stream=True, extra_headers={"Idempotency-Key": "order-67"}))
    check(again == text and chunks2[-1].veridem == chunks[-1].veridem, "the second stream under the key is another one")
    both = e2e.in_parallel(4, lambda i: chat(client, model, temperature=1, extra_headers={"Idempotency-Key": "order-68"}))
    check(len({a.veridem["receipt_id"] for a in both}) == 1, "four at once under one key ran more than once")
    after = spent(gateway)
    check(after[0] - before[0] == 3 and after[1] - before[1] == 5, f"3 answers and 5 replays expected: {before} -> {after}")
    e = raises(openai.UnprocessableEntityError, 422, lambda: chat(client, model, max_tokens=11, extra_headers=head))
    check(e.code == "idempotency_key_reused", e)


def test_retry_after_timeout(gateway, base, key, model, **_):
    """A client that gives up waiting and asks again by itself gets the answer that was made meanwhile, and pays for one."""
    before = spent(gateway)
    hasty = openai.OpenAI(base_url=base, api_key=key, max_retries=20, timeout=0.25)
    a = chat(hasty, model, max_tokens=300, messages=[{"role": "user", "content": "Tell me a long story about a lighthouse."}])
    check(a.choices[0].message.content, a)
    after = spent(gateway)
    check(after[0] - before[0] == 1, f"one answer expected: {before} -> {after}")
    check(after[1] > before[1], f"the answer came within the time-out, or was not replayed: {before} -> {after}")


def test_max_retries(net, base, key, model, **_):
    """A bad request is not sent again; a 503 is, as often as the client was told, after the time that Retry-After names."""
    tried = []
    http = openai.DefaultHttpxClient(event_hooks={"response": [lambda r: tried.append((r.status_code, dict(r.headers)))]})
    client = openai.OpenAI(base_url=base, api_key=key, max_retries=2, http_client=http)
    raises(openai.BadRequestError, 400, lambda: chat(client, model, n=99))
    check([t[0] for t in tried] == [400], "a bad request was sent again")
    lonely = net.gateway("lonely", escrow=1, key_per_minute=2)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{lonely.ports['http']}/v1", api_key=net.api_key("lonely"), max_retries=1,
                           http_client=http)
    tried.clear()
    began = time.monotonic()
    e = raises(openai.InternalServerError, 503, lambda: chat(client, model))
    check(e.code == "no_worker" and [t[0] for t in tried] == [503, 503], e, tried)
    waits = [int(t[1]["retry-after"]) for t in tried]
    check(min(waits) >= 1 and time.monotonic() - began >= waits[0], waits)
    client = client.with_options(max_retries=0)
    for _ in range(3):  # the third in a minute; the minute may have ended once meanwhile
        try:
            chat(client, model)
        except openai.RateLimitError as limited:
            check(limited.status_code == 429 and limited.code == "rate_limit_exceeded", limited)
            check(1 <= int(limited.response.headers["retry-after"]) <= 60, limited.response.headers)
            break
        except openai.InternalServerError:
            pass
    else:
        raise vn.Failed("no RateLimitError")
    http.close()
    check(lonely.stop() == 0, "the gateway's exit status")


def test_async(base, key, client, model, **_):
    expected = chat(client, model).choices[0].message.content

    async def all_of_it():
        async with openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0) as ac:
            whole = await chat(ac, model)
            stream = await chat(ac, model, stream=True)
            text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
            try:
                await chat(ac, model, n=99)
                raise vn.Failed("no BadRequestError")
            except openai.BadRequestError as e:
                check(e.param == "n", e)
            return whole.choices[0].message.content, text

    check(asyncio.run(all_of_it()) == (expected, expected), "async answers differ")


def test_eight_at_once(base, key, client, model, **_):
    asks = [{"messages": [{"role": "user", "content": f"Tell me something about the number {i}."}], "max_tokens": 20} for i in range(8)]
    alone = [chat(client, model, **a) for a in asks]
    together = e2e.in_parallel(8, lambda i: text_of(chat(client, model, stream=True, **asks[i]))[0])
    check(together == [a.choices[0].message.content for a in alone], "among others an answer is another one")
    check(len({a.veridem["receipt_id"] for a in alone}) == 8, "a receipt twice")


SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "capital": {"type": "boolean"},
                                           "size": {"enum": ["small", "large"]}},
          "required": ["city", "capital", "size"], "additionalProperties": False}


def test_controls(gateway, key, client, model, **_):
    a = chat(client, model, max_tokens=200, response_format={"type": "json_object"})
    check(a.choices[0].finish_reason == "length" or isinstance(json.loads(a.choices[0].message.content), dict), a)
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    for more in ({}, {"temperature": 1.2, "seed": 5, "top_p": 0.9}, {"presence_penalty": 1, "logit_bias": {"30": -50}}):
        a = chat(client, model, max_tokens=100, response_format=form, **more)
        told = json.loads(a.choices[0].message.content)
        check(list(told) == ["city", "capital", "size"] and told["size"] in ("small", "large") and len(told["city"]) <= 20, a)
        check(a.choices[0].finish_reason == "stop", a)
    e = raises(openai.BadRequestError, 400, lambda: chat(client, model, response_format={
        "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"multipleOf": 1}}}}}))
    check(e.param == "response_format.json_schema" and "#/properties/a" in e.message and "'multipleOf'" in e.message, e)
    order = {"type": "object", "required": ["code", "count"], "properties": {
        "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}, "count": {"type": "integer", "minimum": 5, "maximum": 17}}}
    many = chat(client, model, max_tokens=60, temperature=1, seed=3, n=3, response_format={
        "type": "json_schema", "json_schema": {"name": "order", "schema": order}})
    for c in many.choices:
        told = json.loads(c.message.content)
        check(re.fullmatch("[A-Z]{2}-[0-9]{3}", told["code"]) and 5 <= told["count"] <= 17, c)
    check(len({c.index for c in many.choices}) == 3 and len(set(many.veridem["receipts"])) == 3, many)
    plain = chat(client, model, max_tokens=16).choices[0].message.content
    words = plain.split()
    stop = words[2][1:] + " " + words[3][:2]  # begins and ends inside tokens
    cut = plain[:plain.index(stop)]
    a = chat(client, model, max_tokens=16, stop=["never said", stop])
    check(a.choices[0].message.content == cut and a.choices[0].finish_reason == "stop", (a, cut))
    text, chunks = text_of(chat(client, model, max_tokens=16, stop=stop, stream=True))
    check(text == cut and chunks[-1].choices[0].finish_reason == "stop", (text, cut))
    a = chat(client, model, max_tokens=8, logprobs=True, top_logprobs=3)
    told = a.choices[0].logprobs.content
    check(len(told) > 4 and "".join(t.token for t in told) == a.choices[0].message.content, told)
    for t in told:
        check(len(t.top_logprobs) == 3 and t.top_logprobs[0].token == t.token and t.top_logprobs[0].logprob == t.logprob <= 0, t)
        check(t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob and bytes(t.bytes).decode() == t.token, t)
    streamed = [t for c in chat(client, model, max_tokens=8, logprobs=True, top_logprobs=3, stream=True) if c.choices
                for t in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
    check(streamed == told, (streamed, told))
    told = client.completions.create(model=model, prompt="One two", max_tokens=12, logprobs=2, temperature=0).choices[0]
    check(len(told.logprobs.tokens) == 12, told)
    check(all(told.text[at:at + len(t)] == t for at, t in zip(told.logprobs.text_offset, told.logprobs.tokens)), told)
    streamed = [at for c in client.completions.create(model=model, prompt="One two", max_tokens=12, logprobs=2, temperature=0, stream=True)
                if c.choices and c.choices[0].logprobs for at in c.choices[0].logprobs.text_offset]
    check(streamed == told.logprobs.text_offset, (streamed, told.logprobs.text_offset))
    biased = chat(client, model, max_tokens=5, logit_bias={"1000": 100}).choices[0].message.content
    check(len(set(biased.split())) <= 1 and biased != plain[:len(biased)], biased)
    tame = chat(client, model, max_tokens=40, frequency_penalty=2, presence_penalty=2, extra_body={"repetition_penalty": 1.5})
    one = [chat(client, model, temperature=1, seed=5).choices[0].message.content, chat(client, model, temperature=1, seed=5, n=3)]
    texts = [c.message.content for c in one[1].choices]
    check([c.index for c in one[1].choices] == [0, 1, 2] and texts[0] == one[0] and len(set(texts)) == 3, texts)
    told = one[1].veridem
    check(len(set(told["receipts"])) == 3 and told["receipt_id"] == told["receipts"][2], told)
    check(one[1].usage.completion_tokens <= 36 and sum(e2e.get_receipt(gateway, key, r)["amount_micro"] for r in told["receipts"])
          == told["amount_micro"], told)
    streamed = ["", "", ""]
    for c in chat(client, model, temperature=1, seed=5, n=3, stream=True):
        for choice in c.choices:
            streamed[choice.index] += choice.delta.content or ""
    check(streamed == texts, (streamed, texts))
    check(tame.choices[0].message.content != chat(client, model, max_tokens=40).choices[0].message.content, "penalties change nothing")


TESTS = [test_models, test_chat, test_chat_stream, test_chat_helpers, test_messages, test_completions, test_embeddings, test_sampling, test_receipt,
         test_errors, test_context, test_retries, test_retry_after_timeout, test_max_retries, test_async, test_eight_at_once, test_controls]


def main():
    e2e.need_network_of_roles()
    with vn.Network() as net:
        net.genesis(gateway=1000, lonely=10, **{"worker-1": 1000, "worker-2": 1000})
        net.ledger()
        gateway = net.gateway(escrow=100)
        for name in ("worker-1", "worker-2"):
            net.worker(name, [gateway])
        key = net.api_key()
        model = e2e.wait_model(gateway, key)
        base = f"http://127.0.0.1:{gateway.ports['http']}/v1"
        client = openai.OpenAI(base_url=base, api_key=key, max_retries=0, timeout=60)
        print(f"openai {openai.__version__}, {model}", flush=True)
        status = e2e.main(TESTS, net=net, gateway=gateway, base=base, key=key, client=client, model=model)
        e2e.conserved(net)
        return status


if __name__ == "__main__":
    sys.exit(main())
