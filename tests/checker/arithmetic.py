"""Canonical arithmetic (docs/spec/arithmetic.md, sections 2 and 5 to 13): what the operators of a trace are made of."""

import hashlib
import math
import struct

from binary32 import (INF, NAN, NAN_BITS, add, bits, cap, div, exp, f32, fma, from_int, half, hexf, mul, of_bits, sqrt, sub)
from merkle import tag, u32

TINY = math.ldexp(1.0, -100)

# ---- section 2: weight types ----

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
FLOATS = {0: 4, 1: 2, 30: 2}


def float_weights(t, b):
    if t == 0:
        return struct.unpack('<%df' % (len(b) // 4), b)
    if t == 1:
        return struct.unpack('<%de' % (len(b) // 2), b)
    return [of_bits(u << 16) for u in struct.unpack('<%dH' % (len(b) // 2), b)]


def nibbles(qs):
    return [q & 15 for q in qs] + [q >> 4 for q in qs]


def f16_at(b, at):
    return half(b[at] | b[at + 1] << 8)


def block32(t, b):
    """(d, m or None, 32 integers) of a block."""
    if t == 2:
        return f16_at(b, 0), None, [n - 8 for n in nibbles(b[2:])]
    if t == 3:
        return f16_at(b, 0), f16_at(b, 2), nibbles(b[4:])
    if t in (6, 7):
        at = 2 if t == 6 else 4
        qh = int.from_bytes(b[at:at + 4], 'little')
        w = [n + 16 * (qh >> j & 1) for j, n in enumerate(nibbles(b[at + 4:]))]
        return (f16_at(b, 0), None, [n - 16 for n in w]) if t == 6 else (f16_at(b, 0), f16_at(b, 2), w)
    if t == 8:
        return f16_at(b, 0), None, struct.unpack('32b', b[2:])
    if t == 20:
        return f16_at(b, 0), None, [IQ4[n] for n in nibbles(b[2:])]
    d = NAN if b[0] == 255 else math.ldexp(1.0, b[0] - 128)
    return d, None, [FP4[n] for n in nibbles(b[1:])]


def block256(t, b):
    """(d, dmin or None, 256 integers, 16 scales, 16 mins) of a super-block."""
    w, sc, m, d, dmin = [0] * 256, [0] * 16, [0] * 16, 0.0, None
    place = [(i // 128, i // 32 % 4, i % 32) for i in range(256)]
    if t == 10:
        s, qs, d, dmin = b[:16], b[16:80], f16_at(b, 80), f16_at(b, 82)
        w = [qs[32 * h + l] >> 2 * k & 3 for h, k, l in place]
        sc, m = [x & 15 for x in s], [x >> 4 for x in s]
    elif t == 11:
        hm, qs, s, d = b[:32], b[32:96], b[96:108], f16_at(b, 108)
        w = [(qs[32 * h + l] >> 2 * k & 3) + 4 * (hm[l] >> 4 * h + k & 1) - 4 for h, k, l in place]
        sc = [(s[j % 8] >> 4 * (j // 8) & 15) + 16 * (s[8 + j % 4] >> 2 * (j // 4) & 3) - 32 for j in range(16)]
    elif t in (12, 13):
        d, dmin, s, qs = f16_at(b, 0), f16_at(b, 2), b[4:16], b[16:] if t == 12 else b[48:]
        w = [qs[32 * (i // 64) + i % 32] >> 4 * (i // 32 % 2) & 15 for i in range(256)]
        if t == 13:
            w = [x + 16 * (b[16 + i % 32] >> i // 32 & 1) for i, x in enumerate(w)]
        for j in range(16):
            i = j // 2
            sc[j] = s[i] % 64 if i < 4 else (s[i + 4] & 15) + 16 * (s[i - 4] // 64)
            m[j] = s[i + 4] % 64 if i < 4 else (s[i + 4] >> 4) + 16 * (s[i] // 64)
    elif t == 14:
        ql, qh, sc, d = b[:128], b[128:192], struct.unpack('16b', b[192:208]), f16_at(b, 208)
        w = [(ql[64 * h + 32 * (k % 2) + l] >> 4 * (k // 2) & 15) + 16 * (qh[32 * h + l] >> 2 * k & 3) - 32
             for h, k, l in place]
    else:
        d, sh, sl, qs = f16_at(b, 0), b[2] | b[3] << 8, b[4:8], b[8:]
        w = [IQ4[n] for i in range(8) for n in nibbles(qs[16 * i:16 * i + 16])]
        for j in range(16):
            i = j // 2
            sc[j] = (sl[i // 2] >> 4 * (i % 2) & 15) + 16 * (sh >> 2 * i & 3) - 32
    return d, dmin, w, sc, m


def value(t, block, i):
    """Element i of a block: the embedding lookup."""
    if t in FLOATS:
        return float_weights(t, block)[i]
    if len(block) < 64:
        d, m, w = block32(t, block)
        return mul(float(w[i]), d) if m is None else fma(float(w[i]), d, m)
    d, dmin, w, sc, m = block256(t, block)
    x = mul(d, float(sc[i // 16] * w[i]))
    return x if dmin is None else sub(x, mul(dmin, float(m[i // 16])))


# ---- sections 5 and 6: quantiser, products ----

def round11(x):
    u = bits(x)
    u += 0xFFF + (u >> 13 & 1)
    return of_bits(u & ~0x1FFF)


def amax(x):
    """The largest magnitude; NaN if one is infinite or NaN."""
    m = 0.0
    for v in x:
        v = abs(v)
        if v > m:
            m = v
        elif v != v:
            return NAN
    return NAN if m == INF else m


def quantise(x):
    m = amax(x)
    if m != m:
        return NAN, [0] * len(x)
    d = round11(div(m, 127.0))
    if d < TINY:
        return 0.0, [0] * len(x)
    inv = div(1.0, d)
    return d, [round(mul(v, inv)) for v in x]


def dot(a, b):
    return sum(map(int.__mul__, a, b))


def product32(t, weights, size, acts):
    """acts: (d, q) of consecutive blocks of 32."""
    acc = 0.0
    for i, (da, q) in enumerate(acts):
        d, m, w = block32(t, weights[size * i:size * i + size])
        acc = fma(mul(d, da), from_int(dot(w, q)), acc)
        if m is not None:
            acc = fma(mul(m, da), from_int(sum(q)), acc)
    return acc


def product256(t, weights, size, acts):
    acc = 0.0
    for i, (da, q) in enumerate(acts):
        d, dmin, w, sc, m = block256(t, weights[size * i:size * i + size])
        parts = [(sc[j], m[j], w[16 * j:16 * j + 16], q[16 * j:16 * j + 16]) for j in range(16)]
        acc = fma(mul(d, da), from_int(sum(s * dot(x, y) for s, _, x, y in parts)), acc)
        if dmin is not None:
            acc = fma(-mul(dmin, da), from_int(sum(n * sum(y) for _, n, _, y in parts)), acc)
    return acc


def product_float(weights, x):
    acc = 0.0
    for w, v in zip(weights, x):
        acc = fma(w, v, acc)
    return acc


def in_order(x):
    acc = x[0]
    for v in x[1:]:
        acc = add(acc, v)
    return acc


# ---- section 7: norms ----

def tree32(lane):
    half_ = 16
    while half_:
        lane = [add(lane[j], lane[j + half_]) for j in range(half_)]
        half_ //= 2
    return lane[0]


def lanes(x):
    lane = [0.0] * 32
    for i, v in enumerate(x):
        lane[i % 32] = add(lane[i % 32], v)
    return tree32(lane)


def squares(x):
    lane = [0.0] * 32
    for i, v in enumerate(x):
        lane[i % 32] = fma(v, v, lane[i % 32])
    return tree32(lane)


def norm_scale(s, n, eps):
    return div(1.0, sqrt(add(div(s, float(n)), eps)))


# ---- section 8: rotary position embedding ----

S0, S0_LO = hexf('0x1.921fb6p-1'), hexf('-0x1.77811cp-26')
S4_TO_1 = [hexf(c) for c in ('0x1.465546p-22', '-0x1.32b44cp-15', '0x1.466b82p-9', '-0x1.4abbcep-4')]
C4_TO_1 = [hexf(c) for c in ('0x1.d61d16p-19', '-0x1.55b682p-12', '0x1.03c1b6p-6', '-0x1.3bd3ccp-2')]


def sin_cos(phase):
    k = ((phase + (1 << 61)) % (1 << 64)) >> 62
    f = phase - (k << 62)
    if f >= 1 << 63:
        f -= 1 << 64
    i = f >> 32
    if k in (1, 2):
        i = -i
    t = mul(from_int(i), math.ldexp(1.0, -29))
    u = mul(t, t)
    p = S4_TO_1[0]
    for c in S4_TO_1[1:]:
        p = fma(p, u, c)
    p = fma(p, u, S0_LO)
    s = fma(t, S0, mul(t, p))
    c = C4_TO_1[0]
    for n in C4_TO_1[1:]:
        c = fma(c, u, n)
    c = fma(c, u, 1.0)
    if k in (2, 3):
        c = -c
    return (s, c) if k % 2 == 0 else (c, s)


def rotate(x0, x1, position, step, scale, second):
    s, c = sin_cos(position * step % (1 << 64))
    s, c = mul(s, scale), mul(c, scale)
    return fma(x0, s, mul(x1, c)) if second else fma(x0, c, -mul(x1, s))


# ---- sections 9 and 10: attention ----

def spread(x):
    """A block of 32 times the Walsh-Hadamard matrix."""
    x = list(x)
    for half_ in (16, 8, 4, 2, 1):
        for i in range(32):
            if not i & half_:
                a, b = x[i], x[i + half_]
                x[i], x[i + half_] = add(a, b), sub(a, b)
    return x


def score(q_blocks, k_scales, k, scale, limit):
    acc = 0.0
    for b, (dq, q) in enumerate(q_blocks):
        acc = fma(mul(dq, k_scales[b]), from_int(dot(q, k[32 * b:32 * b + 32])), acc)
    s = mul(acc, mul(scale, 2.0 ** -5))
    return cap(s, limit) if limit != 0 else s


def chunk(lanes):
    """lanes: {lane: (score, dv)}. Returns m, l, d, 64 q."""
    zeros = [0] * 64
    if any(s != s for s, _ in lanes.values()):
        return NAN, NAN, NAN, zeros
    m = max(s for s, _ in lanes.values()) + 0.0
    p, t = [0.0] * 64, [0.0] * 64
    for j, (s, dv) in lanes.items():
        p[j] = exp(sub(s, m))
        t[j] = mul(p[j], dv)
    l = tree32([add(p[j], p[j + 32]) for j in range(32)])
    top = amax(t)
    if top != top:
        return m, l, NAN, zeros
    d = div(top, 32767.0)
    if d < TINY:
        return m, l, 0.0, zeros
    inv = div(1.0, d)
    return m, l, d, [round(mul(v, inv)) for v in t]


def merge(m, l, o, mc, lc, oc):
    top = NAN if m != m or mc != mc else max(m, mc) + 0.0
    a, b = exp(sub(m, top)), exp(sub(mc, top))
    return top, fma(l, a, mul(lc, b)), [fma(x, a, mul(y, b)) for x, y in zip(o, oc)]


# ---- section 11: sampling ----

MILLION = 10 ** 6
EXCLUDED = 0xFFFFFFFF


def key(x):
    u = bits(x + 0.0)
    return u ^ 0xFFFFFFFF if u >> 31 else u | 0x80000000


def of_key(k):
    return of_bits(k & 0x7FFFFFFF if k >> 31 else k ^ 0xFFFFFFFF)


def ceil_div(a, b):
    return -(-a // b)


def weight(x, temp, t_max):
    e = exp(sub(div(x, temp), t_max))
    return 0 if e != e else int(math.ldexp(e, 40))


def r64(seed, choice, index):
    b = hashlib.sha256(tag('veridem/sample') + seed.to_bytes(8, 'little') + u32(choice) + u32(index)).digest()
    return int.from_bytes(b[:8], 'little')


# ---- section 12: routing ----

def route(x, used, norm):
    """[(expert, weight)]"""
    if any(v != v for v in x):
        return [(e, NAN) for e in range(used)]
    order = sorted(range(len(x)), key=lambda e: (-key(x[e]), e))[:used]
    first = x[order[0]]
    p = [exp(sub(v, first)) for v in x]
    den = in_order([p[e] for e in order] if norm else p)
    return [(e, div(p[e], den)) for e in order]


# ---- section 13: before sampling ----

def micro(n):
    return div(from_int(n), 1e6)


def penalise(x, token, window, first, claim):
    """window: the tokens at positions first .. s; the token after s is chosen."""
    s = first + len(window) - 1
    if claim.repeat and token in window[max(0, s + 1 - claim.repeat_n - first):]:
        r = micro(claim.repeat)
        x = div(x, r) if x > 0 else mul(x, r)
    at = max(claim.p, s + 1 - 1024)
    n = window[max(0, at - first):].count(token) if claim.frequency or claim.presence else 0
    if n:
        x = sub(x, add(mul(float(n), micro(claim.frequency)), micro(claim.presence)))
    return x


class Automaton:
    """The automaton of a mask. A state is (at, stack); None is dead."""

    def __init__(self, mask):
        self.n = int.from_bytes(mask[32:34], 'little')
        heads = struct.unpack('<%dH' % self.n, mask[34:34 + 2 * self.n])
        self.ends = [h >> 15 for h in heads]
        edges = [struct.unpack('<BBHH', mask[i:i + 6]) for i in range(34 + 2 * self.n, len(mask), 6)]
        at = [h & 0x7FFF for h in heads] + [len(edges)]
        self.edges = [edges[at[i]:at[i + 1]] for i in range(self.n)]

    def step(self, at, stack, byte):
        for _ in range(65):
            edge = next((e for e in self.edges[at] if e[0] <= byte <= e[1]), None)
            if edge is None:
                if not self.ends[at] or not stack:
                    return None
                at, stack = stack[-1], stack[:-1]
            elif edge[3] == 0xFFFF:
                return edge[2], stack
            elif len(stack) == 30:
                return None
            else:
                at, stack = edge[2], stack + (edge[3],)
        return None

    def walk(self, state, text):
        if state is None or not 1 <= len(text) <= 256:
            return None
        for byte in text:
            state = self.step(*state, byte)
            if state is None:
                return None
        return state

    def may_end(self, state):
        return state is not None and all(self.ends[s] for s in (state[0],) + state[1])

    def load(self, record):
        at, depth, *stack = struct.unpack('<32H', record)
        if at >= self.n or depth > 30 or any(s >= self.n for s in stack[:depth]) or any(stack[depth:]):
            return None
        return at, tuple(stack[:depth])

    @staticmethod
    def store(state):
        at, stack = (0xFFFF, ()) if state is None else state
        return struct.pack('<32H', at, len(stack), *stack, *[0] * (30 - len(stack)))
