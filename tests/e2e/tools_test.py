#!/usr/bin/env python3
"""Tools with the real openai client: a small model that was never trained on tools is given a chat template that shows it by
examples how a call is written, and then calls one. Whole and streamed answers, the way back with the tool's result, and a call
never seen as content."""

import json
import os
import pathlib
import shutil
import struct
import sys
import tempfile
from typing import Literal

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of GGUF's value types but string 8 and array 9
TEMPLATE = """{%- macro turn(role, text) %}<|im_start|>{{ role }}
{{ text }}<|im_end|>
{% endmacro %}
{%- if tools %}
    {%- set name = tools[0].function.name %}
    {%- for city in ['Rome', 'Oslo', 'Cairo'] %}
        {{- turn('user', 'What is the weather in ' ~ city ~ '?') }}
        {{- turn('assistant', '<tool_call>\\n' ~ ({'name': name, 'arguments': {'city': city}} | tojson) ~ '\\n</tool_call>') }}
    {%- endfor %}
{%- endif %}
{%- for m in messages %}
    {%- if m.tool_calls %}
        {{- turn('assistant', '<tool_call>\\n' ~ (m.tool_calls[0].function | tojson) ~ '\\n</tool_call>') }}
    {%- elif m.role == 'tool' %}
        {{- turn('user', 'Say: The weather is ' ~ m.content ~ '.') }}
    {%- else %}
        {{- turn(m.role, m.content) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def with_template(source, to, template):
    """A GGUF file with another chat template: the header is written anew, the tensors stay behind it, aligned to 32 bytes."""
    b = source.read_bytes()
    n_tensors, n_pairs = struct.unpack_from("<QQ", b, 8)
    at, out = 24, bytearray(b[:24])

    def text(p):
        n = struct.unpack_from("<Q", b, p)[0]
        return p + 8 + n, b[p + 8:p + 8 + n]

    def value(p, kind):
        if kind == 8:
            return text(p)[0]
        if kind != 9:
            return p + SIZES[kind]
        of, n = struct.unpack_from("<IQ", b, p)
        p += 12
        if of != 8:
            return p + n * SIZES[of]
        for _ in range(n):
            p = text(p)[0]
        return p

    for _ in range(n_pairs):
        start = at
        at, key = text(at)
        kind = struct.unpack_from("<I", b, at)[0]
        after = value(at + 4, kind)
        if key == b"tokenizer.chat_template":
            new = template.encode()
            out += b[start:at + 4] + struct.pack("<Q", len(new)) + new
        else:
            out += b[start:after]
        at = after
    start = at
    for _ in range(n_tensors):
        at = text(at)[0]
        at += 4 + 8 * struct.unpack_from("<I", b, at)[0] + 12
    out += b[start:at]
    to.write_bytes(bytes(out) + b"\0" * (-len(out) % 32) + b[at + -at % 32:])


# The network's model is VERIDEM_HOME's: for this test that is a folder of its own, which holds the model with the other template.
if "VD_TOOLS_HOME" not in os.environ:  # it is there when the script goes on in the Python environment
    PLAIN = pathlib.Path(os.environ.get("VERIDEM_HOME", pathlib.Path.home() / ".veridem")) / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not PLAIN.exists():
        sys.exit(77)
    os.environ["VD_TOOLS_HOME"] = os.environ["VERIDEM_HOME"] = tempfile.mkdtemp(prefix="veridem-tools-")
    (pathlib.Path(os.environ["VD_TOOLS_HOME"]) / "models").mkdir()
    with_template(PLAIN, pathlib.Path(os.environ["VD_TOOLS_HOME"]) / "models" / PLAIN.name, TEMPLATE)

import veridem_net as vn  # noqa: E402
import e2e  # noqa: E402
from e2e import check  # noqa: E402
from openai_test import openai, raises, text_of  # noqa: E402
import pydantic  # noqa: E402

WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]


def chat(client, model, **more):
    return client.chat.completions.create(**{"model": model, "messages": ASK, "max_tokens": 60, "temperature": 0, "tools": [WEATHER], **more})


def the_call(message):
    check(message.tool_calls and len(message.tool_calls) == 1 and not message.content, message)
    call = message.tool_calls[0]
    check(call.type == "function" and call.function.name == "get_weather" and len(call.id) == 9, call)
    check(json.loads(call.function.arguments) == {"city": "Paris"}, call.function.arguments)
    return call


def test_call(client, model, **_):
    a = chat(client, model)
    check(a.choices[0].finish_reason == "tool_calls" and len(a.veridem["receipt_id"]) == 64, a)
    call = the_call(a.choices[0].message)
    talk = ASK + [a.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    b = chat(client, model, messages=talk)
    check(b.choices[0].finish_reason == "stop" and not b.choices[0].message.tool_calls, b)
    check("sunny" in b.choices[0].message.content, b.choices[0].message.content)


def test_stream(client, model, **_):
    text, chunks = text_of(chat(client, model, stream=True, stream_options={"include_usage": True}))
    check(text == "", "a piece of a call was sent as content:", text)
    deltas = [c.choices[0].delta.tool_calls for c in chunks if c.choices and c.choices[0].delta.tool_calls]
    check(len(deltas) == 1 and deltas[0][0].index == 0, deltas)
    ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    check(ends == ["tool_calls"], ends)
    with client.chat.completions.stream(model=model, messages=ASK, max_tokens=60, temperature=0, tools=[WEATHER]) as stream:
        for _event in stream:
            pass
        the_call(stream.get_final_completion().choices[0].message)


def test_replayed(client, model, **_):
    """An answer that is given again has the same calls with the same ids."""
    head = {"Idempotency-Key": "tools-1"}
    a, b = (chat(client, model, extra_headers=head) for _ in range(2))
    check(a == b, a, b)
    the_call(b.choices[0].message)


def test_choice(client, model, **_):
    a = chat(client, model, tool_choice="none", max_tokens=8)
    check(not a.choices[0].message.tool_calls and a.usage.prompt_tokens < chat(client, model).usage.prompt_tokens, a)
    check(chat(client, model, tool_choice="auto", parallel_tool_calls=False).choices[0].message.tool_calls, "auto")
    time = {"type": "function", "function": {"name": "get_time"}}
    for choice, more in ("required", {}), ({"type": "function", "function": {"name": "get_weather"}}, {"stream": True}):
        a = chat(client, model, messages=[{"role": "user", "content": "Say hello."}], tools=[WEATHER, time], tool_choice=choice, **more)
        if more:
            text, chunks = text_of(a)
            calls = [c for k in chunks if k.choices for c in k.choices[0].delta.tool_calls or []]
        else:
            text, calls = a.choices[0].message.content, a.choices[0].message.tool_calls
        check(not text and calls and calls[0].function.name in ("get_weather", "get_time"), a, text, calls)
        check(isinstance(json.loads(calls[0].function.arguments), dict), calls)
    a = chat(client, model, tools=[time], tool_choice="required", n=3, temperature=1)
    ids = [c.message.tool_calls[0].id for c in a.choices]
    check(len(set(ids)) == 3, "calls of different choices with one id:", ids)
    e = raises(openai.BadRequestError, 400, lambda: chat(client, model, tool_choice={"type": "function", "function": {"name": "none"}}))
    check(e.param == "tool_choice", e)


class Forecast(pydantic.BaseModel):
    place: Literal["Rome", "Oslo", "Paris"]
    days: int
    unit: Literal["C", "F"] | None


def test_strict(client, model, **_):
    """The client's own helpers send "strict": true and leave tool_choice alone. The template's examples have other arguments than
    the tool's, so what the model would write without a mask is wrong."""
    tool = openai.pydantic_function_tool(Forecast, name="get_weather")
    check(tool["function"]["strict"] is True, tool)
    loose = {"type": "function", "function": {k: v for k, v in tool["function"].items() if k != "strict"}}
    free = chat(client, model, tools=[loose]).choices[0].message.tool_calls
    check(free and json.loads(free[0].function.arguments) == {"city": "Paris"}, "without a mask:", free)
    for more in {}, {"tool_choice": "auto", "parallel_tool_calls": False}, {"temperature": 1.5, "seed": 3}:
        a = client.chat.completions.parse(**{"model": model, "messages": ASK, "max_tokens": 120, "temperature": 0, "tools": [tool], **more})
        if more.get("temperature") and not a.choices[0].message.tool_calls:
            continue  # it may say something else
        check(a.choices[0].finish_reason == "tool_calls" and not a.choices[0].message.content, a)
        call = a.choices[0].message.tool_calls[0].function
        check(isinstance(call.parsed_arguments, Forecast) and set(json.loads(call.arguments)) == {"place", "days", "unit"}, call)
    with client.chat.completions.stream(model=model, messages=ASK, max_tokens=120, temperature=0, tools=[tool]) as stream:
        for _event in stream:
            pass
        message = stream.get_final_completion().choices[0].message
        check(isinstance(message.tool_calls[0].function.parsed_arguments, Forecast) and not message.content, message)
    # A text is still free.
    talk = ASK + [{"role": "assistant", "tool_calls": [free[0].model_dump()]}, {"role": "tool", "tool_call_id": free[0].id, "content": "sunny"}]
    b = chat(client, model, messages=talk, tools=[tool])
    check(b.choices[0].finish_reason == "stop" and "sunny" in b.choices[0].message.content, b)


def test_strict_refused(client, model, **_):
    bad = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}}
    e = raises(openai.BadRequestError, 400, lambda: chat(client, model, tools=[WEATHER, bad]))
    check(e.param == "tools" and "#/tools/1/function/parameters/properties/a" in e.message, e)


def test_beside_json(client, model, **_):
    """An answer is JSON of the schema, or a call."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}}
    a = chat(client, model, response_format=form)
    the_call(a.choices[0].message)
    talk = ASK + [a.choices[0].message, {"role": "tool", "tool_call_id": a.choices[0].message.tool_calls[0].id, "content": "sunny"}]
    b = chat(client, model, messages=talk, response_format=form).choices[0].message
    check(b.tool_calls or isinstance(json.loads(b.content)["a"], bool), b)


TESTS = [test_call, test_stream, test_replayed, test_choice, test_strict, test_strict_refused, test_beside_json]


def main():
    e2e.need_network_of_roles()
    try:
        with vn.Network() as net:
            net.genesis(gateway=1000, **{"worker-1": 1000})
            net.ledger()
            gateway = net.gateway(escrow=100)
            net.worker("worker-1", [gateway])
            key = net.api_key()
            model = e2e.wait_model(gateway, key)
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.ports['http']}/v1", api_key=key, max_retries=0, timeout=60)
            return e2e.main(TESTS, net=net, gateway=gateway, client=client, model=model)
    finally:
        shutil.rmtree(os.environ["VD_TOOLS_HOME"])


if __name__ == "__main__":
    sys.exit(main())
