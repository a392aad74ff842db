"""Binary32 arithmetic on Python's floats (docs/spec/arithmetic.md, sections 1, 3, 4).

A Python float is a binary64 that here always holds a binary32. +, -, * and / of two of them, done in binary64 and then rounded
to binary32, are rounded once: 53 >= 2 * 24 + 2. A sum with an exact product (fma) is rounded to odd first.
"""

import ctypes
import math
import struct

NAN = math.nan
INF = math.inf
NAN_BITS = 0x7FC00000

_f = struct.Struct('<f')
_u = struct.Struct('<I')
_d = struct.Struct('<d')
_q = struct.Struct('<q')
_c_float = ctypes.c_float


def f32(x):
    """x rounded to binary32."""
    return _c_float(x).value


def of_bits(u):
    return _f.unpack(_u.pack(u))[0]


def bits(x):
    return NAN_BITS if x != x else _u.unpack(_f.pack(x))[0]


def pack(x):
    """As a record holds it."""
    return _u.pack(NAN_BITS) if x != x else _f.pack(x)


def hexf(s):
    x = float.fromhex(s)
    assert f32(x) == x
    return x


def add(a, b):
    return _c_float(a + b).value


def sub(a, b):
    return _c_float(a - b).value


def mul(a, b):
    return _c_float(a * b).value


def div(a, b):
    if b == 0:
        if a == 0 or a != a:
            return NAN
        return math.copysign(INF, math.copysign(1, a) * math.copysign(1, b))
    return _c_float(a / b).value


def sqrt(x):
    if x != x or x < 0:
        return NAN
    return _c_float(math.sqrt(x)).value


def fma(a, b, c):
    p = a * b
    s = p + c
    if s - s != 0:
        return s
    t = s - p
    e = (p - (s - t)) + (c - t)
    if e != 0 and not _q.unpack(_d.pack(s))[0] & 1:
        s = math.nextafter(s, INF if e > 0 else -INF)
    return _c_float(s).value


def from_int(n):
    return _c_float(float(n)).value


def half(u):
    """A binary16."""
    return struct.unpack('<e', struct.pack('<H', u))[0]


LOG2E = hexf('0x1.715476p+0')
LN2_HI = hexf('0x1.62e430p-1')
LN2_LO = hexf('-0x1.05c610p-29')
EXP_C = [hexf(c) for c in ('0x1.123bf0p-7', '0x1.555b9ap-5', '0x1.55548ep-3', '0x1.fffff8p-2')] + [1.0, 1.0]
EXP_C6 = hexf('0x1.684fe4p-10')


def exp(x):
    if x != x:
        return NAN
    if x < -87:
        return 0.0
    if x > 88:
        x = 88.0
    n = round(mul(x, LOG2E))
    r = fma(n, -LN2_LO, fma(n, -LN2_HI, x))
    p = EXP_C6
    for c in EXP_C:
        p = fma(p, r, c)
    return math.ldexp(p, n)


def silu(x):
    return div(x, add(1.0, exp(-x)))


GELU_CUBE = hexf('0x1.6e4e26p-5')
GELU_TWICE = hexf('0x1.988454p+0')


def gelu(x):
    u = fma(mul(mul(x, x), x), GELU_CUBE, x)
    return div(x, add(1.0, exp(-mul(u, GELU_TWICE))))


def tanh(x):
    t = exp(-2 * abs(x))
    return math.copysign(div(sub(1.0, t), add(1.0, t)), x)


def cap(x, c):
    return mul(c, tanh(div(x, c)))
