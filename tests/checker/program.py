"""Programs, requests and receipts from their canonical bytes (docs/spec/program.md, receipt.md, proto/veridem.proto)."""

import struct

from binary32 import of_bits
from merkle import H, Reject


def varint(b, at):
    n = shift = 0
    while True:
        if at >= len(b) or shift > 63:
            raise Reject('a varint without an end')
        c = b[at]
        at += 1
        n |= (c & 127) << shift
        shift += 7
        if c < 128:
            if (c == 0 and shift > 7) or n >> 64:
                raise Reject('a varint that is not minimal')
            return n, at


def fields(b, ints, byte_strings, repeated=()):
    """{number: value} of a canonical message. `ints` scalars, `byte_strings` bytes, `repeated` packed varints."""
    out, at, last = {}, 0, 0
    while at < len(b):
        key, at = varint(b, at)
        number, wire = key >> 3, key & 7
        if number <= last:
            raise Reject('fields that do not ascend')
        last = number
        if number in ints and wire == 0:
            value, at = varint(b, at)
            if value == 0:
                raise Reject('a zero that is written')
        elif (number in byte_strings or number in repeated) and wire == 2:
            n, at = varint(b, at)
            if n == 0 or n > len(b) - at:
                raise Reject('a string that is empty or too long')
            value, at = b[at:at + n], at + n
            if number in repeated:
                items, i = [], 0
                while i < n:
                    item, i = varint(value, i)
                    items.append(item)
                value = items
        else:
            raise Reject('an unknown field')
        out[number] = value
    return out


class Wtype:
    def __init__(self, block, size):
        self.block, self.size = block, size


WTYPES = {0: Wtype(1, 4), 1: Wtype(1, 2), 2: Wtype(32, 18), 3: Wtype(32, 20), 6: Wtype(32, 22), 7: Wtype(32, 24),
          8: Wtype(32, 34), 10: Wtype(256, 84), 11: Wtype(256, 110), 12: Wtype(256, 144), 13: Wtype(256, 176),
          14: Wtype(256, 210), 20: Wtype(32, 18), 23: Wtype(256, 136), 30: Wtype(1, 2), 39: Wtype(32, 17)}


class Tensor:
    def __init__(self, index, type_, rows, cols):
        self.index, self.type, self.rows, self.cols = index, type_, rows, cols
        self.parts = -(-cols // 4096)

    def part_bytes(self, part):
        t = WTYPES[self.type]
        return (min(self.cols, 4096 * (part + 1)) - 4096 * part) // t.block * t.size


class Program:
    def __init__(self, b):
        f = fields(b, (set(range(1, 29)) - {13, 14, 21}) | set(range(31, 37)), {13, 21, 29}, {14, 30})
        get = lambda n: f.get(n, 0)
        self.raw = b
        if get(1) != 1 or get(2) not in (1, 2):
            raise Reject('another arithmetic or kind')
        (self.n_layers, self.d, self.H, self.G, self.D, self.F, self.V, self.ctx, self.pairing,
         self.n_rope) = (get(n) for n in range(3, 13))
        steps = struct.unpack('<%dQ' % (len(f.get(13, b'')) // 8), f.get(13, b''))
        self.rope_steps = [steps[i:i + self.n_rope] for i in range(0, len(steps), self.n_rope or 1)]
        self.rope_scale = [of_bits(u) for u in f.get(14, [])]
        (self.eps, self.attn_scale, self.attn_cap, self.logit_cap, self.embed_scale) = (of_bits(get(n)) for n in range(15, 20))
        self.window, self.layer_flags = get(20), f.get(21, bytes(self.n_layers))
        self.act, self.qk_norm, self.qkv_bias, self.post_norms = get(22), get(23), get(24), get(25)
        self.E, self.used, self.route_norm = get(26), get(27), get(28)
        self.U = self.used if self.E else 1
        self.encoder = get(2) == 2
        self.n_positions, self.token_type, self.layer_norm, self.out_bias, self.ffn_bias, self.ungated = (get(n) for n in range(31, 37))
        self.types, self.stop = f[29], f.get(30, [])
        self._tensors()

    def _tensors(self):
        d, q, kv, E = self.d, self.H * self.D, self.G * self.D, max(self.E, 1)
        self.tensors, self.layer = [], []

        def put(rows, cols):
            if len(self.tensors) < len(self.types):
                i = len(self.tensors)
                self.tensors.append(Tensor(i, self.types[i], rows, cols))
                return self.tensors[-1]
            return None

        self.embd = put(self.V, d)
        self.type_row = put(1, d) if self.token_type else None
        self.positions = put(self.n_positions, d) if self.n_positions else None
        if self.encoder:
            self.embed_norm = (put(1, d), put(1, d))
        for _ in range(self.n_layers):
            t = {} if self.encoder else {'attn_norm': put(1, d)}
            t.update(q=put(q, d), k=put(kv, d), v=put(kv, d))
            if self.qkv_bias:
                t.update(q_bias=put(1, q), k_bias=put(1, kv), v_bias=put(1, kv))
            if self.qk_norm:
                t.update(q_norm=put(1, self.D), k_norm=put(1, self.D))
            t['o'] = put(d, q)
            if self.out_bias:
                t['o_bias'] = put(1, d)
            if self.encoder:
                self._encoder_rest(t, put)
                continue
            if self.post_norms:
                t['post_attn'] = put(1, d)
            t['ffn_norm'] = put(1, d)
            if self.E:
                t['router'] = put(self.E, d)
            t.update(gate=put(E * self.F, d), up=put(E * self.F, d), down=put(E * d, self.F))
            if self.post_norms:
                t['post_ffn'] = put(1, d)
            self.layer.append(t)
        self.output_norm = None if self.encoder else put(1, d)
        self.output = None if self.encoder else put(self.V, d) or self.embd
        if len(self.tensors) != len(self.types) or (self.output_norm is None and not self.encoder):
            raise Reject('a number of tensors that the program does not have')
        for t in self.tensors:
            if t.type not in WTYPES or t.cols % WTYPES[t.type].block:
                raise Reject('a type that a tensor cannot have')

    def _encoder_rest(self, t, put):
        t['post_attn'] = (put(1, self.d), put(1, self.d))
        for name, rows, cols in (('gate', self.F, self.d), ('up', self.F, self.d), ('down', self.d, self.F)):
            if name == 'gate' and self.ungated:
                continue
            t[name] = put(rows, cols)
            if self.ffn_bias:
                t[name + '_bias'] = put(1, rows)
        t['post_ffn'] = (put(1, self.d), put(1, self.d))
        self.layer.append(t)



def signed(n):
    """sint32: zigzag."""
    return (n >> 1) ^ -(n & 1)


class Claim:
    """What a receipt says of its job."""

    def __init__(self, program, receipt):
        r = fields(receipt, {3, 4, 6}, {1, 2, 5})
        q = fields(r[1], {2, 3, 5, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 28},
                   {1, 4, 6, 7, 8, 9, 11, 26, 27})
        get = lambda n: q.get(n, 0)
        self.program = program
        self.model_root, self.prompt_root, self.salt_commit = q[8], q[9], q[11]
        self.p, self.g, self.max_tokens = get(10), r.get(3, 0), get(18)
        self.finish, self.output_root, self.commit_root = r[4], r.get(2, bytes(32)), r[5]
        self.pooling = get(28)
        self.n_steps = self.p if self.pooling else self.p + self.g - (0 if self.finish == 3 else 1)
        self.T, self.k, self.top_p, self.min_p, self.seed, self.choice = (get(n) for n in range(12, 18))
        self.repeat, self.repeat_n = get(22), get(23)
        self.presence, self.frequency = signed(get(24)), signed(get(25))
        self.bias_hash, self.mask_hash = q.get(26), q.get(27)
        self.penalties = bool(self.repeat or self.presence or self.frequency)
        if not 1 <= self.n_steps <= program.ctx or self.pooling and self.max_tokens != program.d:
            raise Reject('a job that the program cannot run')
        if not self.in_limits():
            raise Reject('a receipt outside its limits')

    def in_limits(self):
        return (self.p >= 1 and 1 <= self.max_tokens <= (1 << 20) - self.p and self.T <= 2 * 10 ** 6 and
                1 <= self.top_p <= 10 ** 6 and self.min_p <= 10 ** 6 and
                (self.repeat == 0) == (self.repeat_n == 0) and (self.repeat == 0 or 10 ** 4 <= self.repeat <= 10 ** 7) and
                self.repeat_n <= 1024 and max(abs(self.presence), abs(self.frequency)) <= 2 * 10 ** 6 and
                (self.g == 0) == (self.output_root == bytes(32)) and (self.g > 0 or self.finish == 3) and
                self.g <= self.max_tokens and (self.finish != 2 or self.g == self.max_tokens) and
                (self.finish != 3 or self.g < self.max_tokens))
