#!/usr/bin/env python3
"""The independent checker on the conformance vectors (docs/spec/arithmetic.md, section 16): every case of
tests/data/arithmetic-1.txt computed again, from the text of the specification.

usage: vectors_test.py [FILE]
"""

import math
import pathlib
import sys
import types
from decimal import Decimal, getcontext

sys.dont_write_bytecode = True

import arithmetic as a
from binary32 import NAN_BITS, add, bits, cap, div, exp, f32, fma, gelu, mul, of_bits, silu, sqrt, sub

getcontext().prec = 120
PI = Decimal('3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798214808651')
SIZES = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 20: (32, 18), 39: (32, 17),
         10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 23: (256, 136)}


def cases(path):
    case, arrays = None, {}
    for line in open(path):
        line = line.rstrip('\n')
        if line.startswith('= '):
            case = {'op': line[2:]}
        elif line == '' and case:
            arrays = case if case['op'] == 'array' else arrays
            yield case
            case = None
        elif line and line[0] != '#':
            name, kind, data = (line.split(' ', 2) + [''])[:3]
            case[name] = (arrays[data] if kind == '@' else bytes.fromhex(data) if kind == 'b' else [int(x) for x in data.split()]
                          if kind == 'u' else [of_bits(int(data[i:i + 8], 16)) for i in range(0, len(data), 8)])


def cut(x, n):
    return [x[i:i + n] for i in range(0, len(x), n)]


def signed(q):
    return bytes(v & 255 for v in q)


def norm(c):
    x, n, eps = c['x'], len(c['x']), c['eps'][0]
    mean = 0.0
    if c['op'] == 'layernorm':
        parts = []
        for seg in cut(x, 512):
            lane = [0.0] * 32
            for i, v in enumerate(seg):
                lane[i % 32] = add(lane[i % 32], v)
            parts.append(a.tree32(lane))
        mean = div(a.in_order(parts), float(n))
        x = [sub(v, mean) for v in x]
    r = a.norm_scale(a.in_order([a.squares(s) for s in cut(x, 512)]), n, eps)
    x = [mul(v, r) for v in x]
    if c['op'] == 'layernorm':
        return {'y': [fma(v, w, b) for v, w, b in zip(x, c['w'], c['b'])]}
    return {'y': [mul(v, w) for v, w in zip(x, c['w'])]}


def quant(c):
    blocks = [a.quantise(b) for b in cut(c['x'], c['block'][0])]
    return {'q': b''.join(signed(q) for _, q in blocks), 'd': [d for d, _ in blocks]}


def product(c):
    t, cols, ldx = c['type'][0], c['cols'][0], c['ldx'][0]
    block, size = SIZES[t]
    rows = cut(c['w'], cols // block * size)
    y = []
    for x in cut(c['x'], ldx):
        x = x[:cols]
        acts = block > 1 and [a.quantise(b) for b in cut(x, block)]
        for w in rows:
            parts = []
            for s in range(0, cols, 512):
                n = min(512, cols - s) // block
                bytes_ = w[s // block * size:(s // block + n) * size]
                if block == 1:
                    parts.append(a.product_float(a.float_weights(t, bytes_), x[s:s + n]))
                else:
                    parts.append((a.product32 if block == 32 else a.product256)(t, bytes_, size, acts[s // block:s // block + n]))
            y.append(a.in_order(parts))
    at = [i * cols // 48 for i in range(48)]
    return {'y': y, 'value': [a.value(t, rows[0][e // block * size:(e // block + 1) * size], e % block) for e in at]}


def steps(c):
    """By 120 decimal digits."""
    base, n, stretch = Decimal(c['base'][0]), c['n'][0], Decimal(c['stretch'][0])
    ctx, out = Decimal(c['yarn_ctx'][0]), []
    low = high = None
    if ctx:
        pair = lambda t: n * (ctx / (2 * PI * t)).ln() / (2 * base.ln())
        low = max(0, math.floor(pair(32)))
        high = min(n - 1, math.ceil(pair(1)))
    for i in range(n // 2):
        mix = 1 / stretch
        if ctx:
            mix = Decimal(1) if i <= low else mix if i >= high else 1 + Decimal(i - low) / (high - low) * (mix - 1)
        factor = Decimal(c['factors'][i]) if c['factors'] else 1
        out.append(int((base ** (Decimal(-2 * i) / n) / (2 * PI) * mix / factor * 2 ** 64).to_integral_value()))
    return {'steps': out}


def rope(c):
    x, st, n, hd = list(c['x']), c['steps'], len(c['steps']), c['head_dim'][0]
    sc = [a.sin_cos(c['position'][0] * s % (1 << 64)) for s in st]
    cos_sin = [mul(v, c['scale'][0]) for v in [k for _, k in sc] + [s for s, _ in sc]]
    for h in range(0, len(x), hd):
        for i in range(n):
            p, q = (h + i, h + i + n) if c['halves'][0] else (h + 2 * i, h + 2 * i + 1)
            k, s = cos_sin[i], cos_sin[n + i]
            x[p], x[q] = fma(x[p], k, -mul(x[q], s)), fma(x[p], s, mul(x[q], k))
    return {'cos_sin': cos_sin, 'y': x}


def spread_quant(x):
    return [a.quantise(a.spread(b)) for b in cut(x, 32)]


def attention(c):
    hd = c['head_dim'][0]
    keys = [spread_quant(k) for k in cut(c['k'], hd)]
    values = [a.quantise(v) for v in cut(c['v'], hd)]
    flat = [[v for _, q in k for v in q] for k in keys]
    y = []
    for q, begin, end in zip(cut(c['q'], hd), c['begin'], c['end']):
        q, state = spread_quant(q), None
        for first in range(begin // 64 * 64, end, 64):
            span = range(max(first, begin), min(first + 64, end))
            lanes = {j - first: (a.score(q, [d for d, _ in keys[j]], flat[j], c['scale'][0], c['cap'][0]), values[j][0]) for j in span}
            m, l, d, w = a.chunk(lanes)
            o = [mul(f32(float(sum(w[j - first] * values[j][1][e] for j in span))), d) for e in range(hd)]
            state = a.merge(*state, m, l, o) if state else (m, l, o)
        y += [div(v, state[1]) for v in state[2]]
    return {'k1': signed(flat[1]), 'k1_scale': [d for d, _ in keys[1]], 'v1': signed(values[1][1]), 'v1_scale': [values[1][0]], 'y': y}


def weights(c):
    x = c['x']
    if any(not math.isfinite(v) for v in x):
        return {'max': [0.0], 'max_id_bad': [0xFFFFFFFF, 1]}
    first = min(range(len(x)), key=lambda i: (-a.key(x[i]), i))
    temp = a.micro(c['temp'][0])
    top = add(x[first], 0.0)
    return {'max': [top], 'max_id_bad': [first, 0], 'weights': [a.weight(v, temp, div(top, temp)) for v in x]}


def sample(c):
    x, temp = c['x'], c['temp'][0]
    order = sorted(range(len(x)), key=lambda i: (-a.key(x[i]), i))
    if temp == 0:
        return {'token': [order[0]] * len(c['r64'])}
    w = [a.weight(v, a.micro(temp), div(add(x[order[0]], 0.0), a.micro(temp))) for v in x]
    left = order[:c['top_k'][0]] if 0 < c['top_k'][0] < len(x) else order
    if c['top_p'][0] < a.MILLION:
        target, mass = max(1, a.ceil_div(c['top_p'][0] * sum(w[i] for i in left), a.MILLION)), 0
        for n, i in enumerate(left):
            mass += w[i]
            if mass >= target:
                left = left[:n + 1]
                break
    left = sorted(i for i in left if w[i] * a.MILLION >= min(c['min_p'][0], a.MILLION) << 40)
    out = []
    for r in c['r64']:
        at = r * sum(w[i] for i in left) >> 64
        for i in left:
            at -= w[i]
            if at < 0:
                out.append(i)
                break
    return {'token': out}


def route(c):
    chosen = a.route(c['x'], len(c['y']), c['norm'][0])
    acc = 0.0
    for (_, w), y in zip(chosen, c['y']):
        acc = fma(w, y, acc)
    return {'expert': [e for e, _ in chosen], 'weight': [w for _, w in chosen], 'mix': [acc]}


def adjust(c):
    as_i32 = lambda v: v - (1 << 32) if v >> 31 else v
    claim = types.SimpleNamespace(repeat=c['repeat'][0], repeat_n=c['last_n'][0], p=c['n_prompt'][0],
                                  frequency=as_i32(c['frequency'][0]), presence=as_i32(c['presence'][0]))
    table = {int.from_bytes(e[:4], 'little'): as_i32(int.from_bytes(e[4:], 'little')) for e in cut(c['bias'], 8)}
    out = []
    for token, x in enumerate(c['x']):
        x = a.penalise(x, token, c['tokens'], 0, claim)
        out.append(add(x, a.micro(table[token])) if token in table else x)
    return {'y': out}


def mask(c):
    automaton = a.Automaton(c['mask'])
    state, states, ends = (0, ()), b'', b''
    for byte in c['text']:
        state = state and automaton.walk(state, bytes([byte]))
        if state is None:
            states += b'\xff' * 64
            ends += b'\0'
            continue
        at, stack = state
        record = [at, len(stack), *stack] + [0] * (30 - len(stack))
        states += b''.join(v.to_bytes(2, 'little') for v in record)
        ends += bytes([automaton.may_end(state)])
    return {'states': states, 'may_end': ends}


def vector(c):
    rows = cut(c['rows'], c['width'][0])
    v = rows[0]
    for row in rows[1:]:
        v = [add(x, y) for x, y in zip(v, row)]
    q = a.in_order([a.squares(s) for s in cut(v, 512)])
    r = div(1.0, sqrt(q)) if q > 0 else 0.0
    return {'y': [mul(x, r) for x in v]}


def each(fn):
    return lambda c: {'y': [fn(c, x) for x in c['x']]}


def pairs(fn):
    return lambda c: {'y': [fn(x, y) for x, y in zip(c['a'], c['b'])]}


OPS = {'array': lambda c: {}, 'exp': each(lambda c, x: exp(x)), 'gelu': each(lambda c, x: gelu(x)),
       'cap': each(lambda c, x: cap(x, c['cap'][0])), 'scale': each(lambda c, x: mul(x, c['scale'][0])), 'add': pairs(add),
       'swiglu': pairs(lambda x, y: mul(silu(x), y)), 'geglu': pairs(lambda x, y: mul(gelu(x), y)), 'rmsnorm': norm, 'layernorm': norm,
       'quant': quant, 'product': product, 'steps': steps, 'rope': rope, 'attention': attention, 'weights': weights, 'sample': sample,
       'route': route, 'adjust': adjust, 'mask': mask, 'vector': vector}


def same(mine, theirs):
    if mine and isinstance(mine[0], float):
        return len(mine) == len(theirs) and all(bits(x) == bits(y) for x, y in zip(mine, theirs))
    return mine == theirs


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent / 'data/arithmetic-1.txt'
    assert bits(math.nan) == NAN_BITS
    seen, wrong = set(), 0
    for number, c in enumerate(cases(path)):
        seen.add(c['op'])
        for name, mine in OPS[c['op']](c).items():
            if not same(mine, c[name]):
                wrong += 1
                print('case %d, %s: %s differs' % (number, c['op'], name))
    missing = set(OPS) - seen
    print('%d cases, %d results differ%s' % (number + 1, wrong, '; no case of ' + ', '.join(missing) if missing else ''))
    return 1 if wrong or missing else 0


if __name__ == '__main__':
    sys.exit(main())
