"""Openings and tiles (docs/spec/proof.md, sections 2, 3 and 6): a record recomputed from inputs that are proved."""

import struct

import arithmetic as ar
from binary32 import add, cap, div, fma, from_int, gelu, mul, pack, silu, sqrt
from graph import CLS, QROW_E, QUERIES, ROW, ROW2, cache_ops, n_groups, n_members, outs_of, place, row_op
from merkle import H, Reject, range_root, tag, u16, u32
from program import WTYPES

LEAF, UNIT, STEP, TOKEN_LEAF = (b'\0' + tag('veridem/' + s) for s in ('leaf', 'unit', 'step', 'token'))
WEIGHT, TENSOR, TEXT = (b'\0' + tag('veridem/' + s) for s in ('weight', 'tensor', 'text'))
OPENING_MAX = 65536


def wrap(n):
    """As a u64."""
    return n % (1 << 64)


def leaf_hash(salt, s, u, o, k, records):
    return H(LEAF, salt, u32(s), u32(u), u32(o), u32(k), records)


def vector_leaf(salt, k, records):
    return H(b'\0' + tag('veridem/vector'), salt, u32(k), records)


def unit_hash(salt, s, u, outs):
    return H(UNIT, salt, u32(s), u32(u), *outs)


def step_leaf(s, step_root):
    return H(STEP, u32(s), step_root)


def model_root(program, tensors_root):
    return H(tag('veridem/model'), H(program.raw), u32(len(program.tensors)), tensors_root)


def token_leaf(salt, position, token):
    return H(TOKEN_LEAF, salt, u32(position), token)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if n > len(self.data) - self.at:
            raise Reject('too short')
        self.at += n
        return self.data[self.at - n:self.at]

    def hash(self):
        return self.take(32)

    def number(self, n):
        return int.from_bytes(self.take(n), 'little')

    def end(self):
        if self.at != len(self.data):
            raise Reject('something behind the end')


def same(a, b):
    if a != b:
        raise Reject('a root that is another')


def floats(b):
    return struct.unpack('<%df' % (len(b) // 4), b)


def scaled(records, size):
    """(scale, integers) of consecutive QUANT records."""
    n = size - 4
    return [(struct.unpack('<f', records[i:i + 4])[0], struct.unpack('%db' % n, records[i + 4:i + size]))
            for i in range(0, len(records), size)]


def read_token(r, claim, salt, position):
    """A token with its proof in the prompt or the output root, as RECORDS of EMBED shows it."""
    token = r.take(4)
    leaf = token_leaf(salt, position, token)
    if position < claim.p:
        same(range_root(claim.p, position, [leaf], r.hash), claim.prompt_root)
    else:
        same(range_root(claim.g, position - claim.p, [leaf], r.hash), claim.output_root)
    return int.from_bytes(token, 'little')


class Tile:
    """Where a dispute arrived, and the opening of the record's inputs."""

    def __init__(self, unit, op, record, salt, state_root, group_root, op_roots, token, opening, cache):
        if len(opening) > OPENING_MAX:
            raise Reject('too long')
        self.u, self.claim, self.p = unit, unit.claim, unit.p
        self.op, self.o, self.i = unit.ops[op], op, record
        self.salt, self.state_root, self.group_root, self.op_roots = salt, state_root, group_root, op_roots
        self.token, self.r, self.cache = token, Reader(opening), cache

    def compute(self):
        result = getattr(self, 'tile_' + self.op.kind.lower())()
        self.r.end()
        return result

    # ---- inputs ----

    def leaves(self, unit, o, n, size, per_leaf, first, count):
        """Whole leaves that hold records [first, first + count): those records, leaf hashes, number of the first leaf."""
        k0, k1 = first // per_leaf, (first + count - 1) // per_leaf
        data, hashes = b'', []
        for k in range(k0, k1 + 1):
            b = self.r.take(min(per_leaf, n - k * per_leaf) * size)
            hashes.append(leaf_hash(self.salt, self.u.step, unit, o, k, b))
            data += b
        at = (first - k0 * per_leaf) * size
        return data[at:at + count * size], hashes, k0

    def records(self, src, first, count):
        if src in (ROW, ROW2):
            unit = self.u.unit + src
            return self.row(unit, row_op(self.p, unit), self.p.d, 4, 1024, first, count)
        if src == QUERIES:
            return self.row(self.u.unit - 1, QROW_E, self.p.H * self.p.D // 32, 36, 64, first, count)
        op = self.u.ops[src]
        data, hashes, k0 = self.leaves(self.u.unit, src, op.n, op.size, op.leaf, first, count)
        same(range_root(op.leaves(), k0, hashes, self.r.hash), self.op_roots[src])
        return data

    def floats(self, src, first, count=1):
        """Elements, of which a POOL record holds 32."""
        if src >= 0 and self.u.ops[src].kind == 'POOL':
            i = first // 32
            b = self.records(src, i, (first + count - 1) // 32 + 1 - i)
            return floats(b)[first - 32 * i:first - 32 * i + count]
        return floats(self.records(src, first, count))

    def all(self, src):
        return self.records(src, 0, self.u.ops[src].n)

    def row(self, unit, o, n, size, per_leaf, first, count):
        """Records of another unit of this step."""
        data, hashes, k0 = self.leaves(unit, o, n, size, per_leaf, first, count)
        root = range_root(-(-n // per_leaf), k0, hashes, self.r.hash)
        self.way_up([self.u.step], unit, lambda step: self.unit_of(self.salt, step, unit, o, root))
        return data

    def unit_of(self, salt, step, unit, o, root):
        """A unit's hash from the root of one of its operators and the others, which come next."""
        outs = [bytes(32) if i is None else root if i == o else self.r.hash() for i in outs_of(self.claim, step, unit)]
        return unit_hash(salt, step, unit, outs)

    def way_up(self, steps, unit, read):
        """From a unit at some steps, each of which `read` gives the hash of, up to a root that is known."""
        c, groups, members, g = self.claim, [], [], None
        for i, step in enumerate(steps):
            g, m = place(c, step, unit)
            members.append(read(step))
            if i + 1 < len(steps) and place(c, steps[i + 1], unit)[0] == g:
                continue
            root = range_root(n_members(c, g), m + 1 - len(members), members, self.r.hash)
            groups.append(step_leaf(g, root))
            members = []
        if g == place(c, self.u.step, self.u.unit)[0]:
            same(root, self.group_root)
        else:
            same(range_root(n_groups(c), g + 1 - len(groups), groups, self.r.hash), self.state_root)

    def earlier(self, which, n, size, k, first, count, back=0):
        """Leaf k of n, of `size` bytes, of operator `which` of a unit at steps [first, first + count)."""
        unit, out = self.u.unit - back, []

        def read(step):
            salt, record = self.r.hash(), self.r.take(size)
            out.append(record)
            root = range_root(n, k, [leaf_hash(salt, step, unit, which, k, record)], self.r.hash)
            return self.unit_of(salt, step, unit, which, root)

        if count:
            self.way_up(range(first, first + count), unit, read)
        return out

    def cache_rows(self, is_v, group, first, end):
        """K or V records of positions [first, end), the last of which may be this unit's own."""
        which, D = cache_ops(self.p)[is_v], self.p.D
        back = cache_ops(self.p)[2]
        size = D + 4 * (1 if is_v else D // 32)
        own = not back and end > self.u.step
        rows = self.earlier(which, self.p.G, size, group, first, end - first - own, back)
        return rows + [self.records(which, group, 1)] if own else rows

    def weights(self, tensor, row, part):
        b = self.r.take(tensor.part_bytes(part))
        leaf = H(WEIGHT, u32(tensor.index), u32(row), u32(part), b)
        root = range_root(tensor.rows * tensor.parts, row * tensor.parts + part, [leaf], self.r.hash)
        leaf = H(TENSOR, u32(tensor.index), u32(tensor.type), u32(tensor.rows), u32(tensor.cols), root)
        same(model_root(self.p, range_root(len(self.p.tensors), tensor.index, [leaf], self.r.hash)), self.claim.model_root)
        return b

    def weight(self, tensor, row, i):
        """Element i of a row."""
        t = WTYPES[tensor.type]
        at = i % 4096 // t.block * t.size
        return ar.value(tensor.type, self.weights(tensor, row, i // 4096)[at:at + t.size], i % t.block)

    def tokens(self, first, end):
        c, out, prompt, output = self.claim, [], [], []
        for i in range(first, end):
            token, salt = self.r.take(4), self.r.hash()
            (prompt if i < c.p else output).append(token_leaf(salt, i, token))
            out.append(int.from_bytes(token, 'little'))
        if prompt:
            same(range_root(c.p, first, prompt, self.r.hash), c.prompt_root)
        if output:
            same(range_root(c.g, max(first, c.p) - c.p, output, self.r.hash), c.output_root)
        return out

    def table(self, name, want):
        b = self.r.take(self.r.number(4))
        same(H(tag(name), b), want)
        return b

    def text(self, token, root):
        text = self.r.take(self.r.number(2))
        same(range_root(self.p.V, token, [H(TEXT, u32(token), text)], self.r.hash), root)
        return text

    # ---- tiles: embedding, norms, products ----

    def tile_embed(self):
        x = self.weight(self.p.embd, min(self.token, self.p.V - 1), self.i)
        return pack(mul(x, self.p.embed_scale))

    def tile_norm_part(self):
        first = 512 * self.i
        return pack(ar.squares(self.floats(self.op.src, first, min(512, self.op.cols - first))))

    def tile_norm_scale(self):
        return pack(ar.norm_scale(ar.in_order(floats(self.all(self.op.src))), self.op.cols, self.p.eps))

    def tile_position(self):
        (x,) = self.floats(self.op.src, self.i)
        return pack(add(x, self.weight(self.op.tensor, self.u.step, self.i)))

    def segment(self):
        first = 512 * self.i
        return self.floats(self.op.src, first, min(512, self.op.cols - first))

    def tile_mean_part(self):
        return pack(ar.lanes(self.segment()))

    def tile_mean(self):
        return pack(div(ar.in_order(floats(self.all(self.op.src))), float(self.op.cols)))

    def tile_var_part(self):
        x, (mean,) = self.segment(), self.floats(self.op.mean, 0)
        return pack(ar.squares([add(v, -mean) for v in x]))

    def tile_ln_mul(self):
        (x,), (mean,), (r,) = self.floats(self.op.src, self.i), self.floats(self.op.mean, 0), self.floats(self.op.scale, 0)
        w, b = self.weight(self.op.tensor, 0, self.i), self.weight(self.op.bias, 0, self.i)
        return pack(fma(mul(add(x, -mean), r), w, b))

    def tile_gelu(self):
        (x,) = self.floats(self.op.src, self.i)
        return pack(gelu(x))

    def tile_pool(self):
        if self.claim.pooling == CLS:
            return self.first_row(32 * self.i)
        before = None
        if self.u.step > 0:
            before = floats(self.earlier(self.o, self.op.n, 128, self.i, self.u.step - 1, 1)[0])
        y = self.floats(self.op.src, 32 * self.i, 32)
        return b''.join(map(pack, map(add, before, y) if before else y))

    def first_row(self, at):
        """32 elements of step 0's row."""
        d, unit = self.p.d, self.u.unit - 1
        leaf = at // 1024
        size = 4 * min(1024, d - 1024 * leaf)
        (b,) = self.earlier(row_op(self.p, unit), -(-d // 1024), size, leaf, 0, 1, 1)
        return b''.join(map(pack, floats(b[4 * (at % 1024):4 * (at % 1024) + 128])))

    def tile_l2(self):
        q = ar.in_order(floats(self.all(self.op.src)))
        return pack(div(1.0, sqrt(q)) if q > 0 else 0.0)

    def tile_vector(self):
        (v,), (r,) = self.floats(self.op.src, self.i), self.floats(self.op.scale, 0)
        return pack(mul(v, r))

    def times(self, x, r, i):
        return pack(mul(mul(x, r), self.weight(self.op.tensor, 0, i)))

    def tile_norm_mul(self):
        (x,), (r,) = self.floats(self.op.src, self.i), self.floats(self.op.scale, 0)
        return self.times(x, r, self.i)

    def tile_head_scale(self):
        D = self.p.D
        return pack(ar.norm_scale(ar.squares(self.floats(self.op.src, self.i * D, D)), D, self.p.eps))

    def tile_head_mul(self):
        (x,), (r,) = self.floats(self.op.src, self.i), self.floats(self.op.scale, self.i // self.p.D)
        return self.times(x, r, self.i % self.p.D)

    def tile_quant(self, n=32):
        d, q = ar.quantise(self.floats(self.op.src, n * self.i, n))
        return pack(d) + struct.pack('%db' % n, *q)

    def tile_quant256(self):
        return self.tile_quant(256)

    def tile_part(self):
        op, t = self.op, self.op.tensor
        segments = -(-op.cols // 512)
        row, segment = divmod(self.i, segments)
        offset = 0
        if hasattr(op, 'route'):
            slots = struct.unpack('<%dI' % (2 * self.p.U), self.all(op.route))[::2]
            if op.slot_minor:
                r, slot = divmod(row, self.p.U)
                offset = slot * op.cols
            else:
                slot, r = divmod(row, op.per_expert)
            row = min(slots[slot], self.p.E - 1) * op.per_expert + r
        first = 512 * segment
        count = min(512, op.cols - first)
        w = WTYPES[t.type]
        at = first % 4096 // w.block * w.size
        b = self.weights(t, row, first // 4096)[at:at + count // w.block * w.size]
        if w.block == 1:
            return pack(ar.product_float(ar.float_weights(t.type, b), self.floats(op.src, offset + first, count)))
        acts = scaled(self.records(op.src, (offset + first) // w.block, count // w.block), 4 + w.block)
        product = ar.product32 if w.block == 32 else ar.product256
        return pack(product(t.type, b, w.size, acts))

    def tile_sum(self):
        n = -(-self.op.cols // 512)
        return pack(ar.in_order(self.floats(self.op.src, self.i * n, n)))

    def tile_bias(self):
        (x,) = self.floats(self.op.src, self.i)
        return pack(add(x, self.weight(self.op.tensor, 0, self.i)))

    # ---- attention ----

    def tile_rope(self):
        n, (head, e) = self.p.n_rope, divmod(self.i, self.p.D)
        if e >= 2 * n:
            return pack(self.floats(self.op.src, self.i)[0])
        pair, apart = (e // 2, 1) if self.p.pairing == 1 else (e % n, n)
        low = 2 * pair if self.p.pairing == 1 else pair
        x = self.floats(self.op.src, head * self.p.D + low, apart + 1)
        table = self.op.table
        return pack(ar.rotate(x[0], x[-1], self.u.step, self.p.rope_steps[table][pair], self.p.rope_scale[table], e != low))

    def tile_qrow(self):
        d, q = ar.quantise(ar.spread(self.floats(self.op.src, 32 * self.i, 32)))
        return pack(d) + struct.pack('32b', *q)

    def tile_krow(self):
        x = self.floats(self.op.src, self.i * self.p.D, self.p.D)
        rows = [ar.quantise(ar.spread(x[i:i + 32])) for i in range(0, self.p.D, 32)]
        return b''.join(pack(d) for d, _ in rows) + b''.join(struct.pack('32b', *q) for _, q in rows)

    def tile_vrow(self):
        d, q = ar.quantise(self.floats(self.op.src, self.i * self.p.D, self.p.D))
        return pack(d) + struct.pack('%db' % self.p.D, *q)

    def group(self, head):
        return head // (self.p.H // self.p.G)

    def tile_score(self):
        D, (head, j) = self.p.D, divmod(self.i, self.u.n_keys)
        q = scaled(self.records(self.op.src, head * (D // 32), D // 32), 36)
        at = self.u.begin + j
        k = self.cache_rows(False, self.group(head), at, at + 1)[0]
        scales, k = floats(k[:4 * (D // 32)]), struct.unpack('%db' % D, k[4 * (D // 32):])
        return pack(ar.score(q, scales, k, self.p.attn_scale, self.p.attn_cap))

    def chunk_keys(self, chunk):
        c = 64 * (self.u.first_chunk + chunk)
        return c, max(c, self.u.begin), min(c + 64, self.u.end)

    def v_rows(self, head, first, end):
        D = self.p.D
        return [(struct.unpack('<f', b[:4])[0], struct.unpack('%db' % D, b[4:]))
                for b in self.cache_rows(True, self.group(head), first, end)]

    def tile_chunk(self):
        head, chunk = divmod(self.i, self.u.C)
        base, first, end = self.chunk_keys(chunk)
        s = self.floats(self.op.src, head * self.u.n_keys + first - self.u.begin, end - first)
        v = self.v_rows(head, first, end)
        m, l, d, q = ar.chunk({first - base + j: (s[j], v[j][0]) for j in range(end - first)})
        return pack(m) + pack(l) + pack(d) + struct.pack('<64h', *q)

    def tile_chunk_v(self):
        head, chunk = divmod(self.i, self.u.C)
        base, first, end = self.chunk_keys(chunk)
        record = self.records(self.op.src, self.i, 1)
        (d,), q = floats(record[8:12]), struct.unpack('<64h', record[12:])
        v = [row for _, row in self.v_rows(head, first, end)]
        q = q[first - base:end - base]
        return b''.join(pack(mul(from_int(sum(map(int.__mul__, q, col))), d)) for col in zip(*v))

    def tile_merge(self):
        before = None
        if self.i % self.u.C:
            before = floats(self.records(self.o, self.i - 1, 1))
        m, l = floats(self.records(self.op.src, self.i, 1)[:8])
        o = self.floats(self.op.src2, self.i)
        if before:
            m, l, o = ar.merge(before[0], before[1], before[2:], m, l, o)
        return pack(m) + pack(l) + b''.join(map(pack, o))

    def tile_attn(self):
        head, e = divmod(self.i, self.p.D)
        record = floats(self.records(self.op.src, head * self.u.C + self.u.C - 1, 1))
        return pack(div(record[2 + e], record[1]))

    # ---- the rest of a block ----

    def two(self):
        (a,), (b,) = self.floats(self.op.src, self.i), self.floats(self.op.src2, self.i)
        return a, b

    def tile_add(self):
        return pack(add(*self.two()))

    def tile_act(self):
        gate, up = self.two()
        return pack(mul(silu(gate) if self.p.act == 1 else gelu(gate), up))

    def tile_route(self):
        chosen = ar.route(floats(self.all(self.op.src)), self.p.U, self.p.route_norm)
        return b''.join(u32(e) + pack(w) for e, w in chosen)

    def tile_mix(self):
        slots, U = self.all(self.op.route), self.p.U
        acc = 0.0
        for s, y in enumerate(self.floats(self.op.src, self.i * U, U)):
            acc = fma(floats(slots[8 * s + 4:8 * s + 8])[0], y, acc)
        return pack(acc)

    # ---- before sampling ----

    def tile_cap(self):
        return pack(cap(self.floats(self.op.src, self.i)[0], self.p.logit_cap))

    def tile_penalty(self):
        c, s = self.claim, self.u.step
        first = s + 1
        if c.repeat:
            first = min(first, max(0, s + 1 - c.repeat_n))
        if c.frequency or c.presence:
            first = min(first, max(c.p, s + 1 - 1024))
        (x,) = self.floats(self.op.src, self.i)
        return pack(ar.penalise(x, self.i, self.tokens(first, s + 1), first, c))

    def tile_logit_bias(self):
        (x,) = self.floats(self.op.src, self.i)
        table = self.table('veridem/bias', self.claim.bias_hash)
        for i in range(0, len(table), 8):
            token, b = struct.unpack('<Ii', table[i:i + 8])
            if token == self.i:
                x = add(x, ar.micro(b))
        return pack(x)

    def automaton(self):
        mask = self.table('veridem/mask', self.claim.mask_hash)
        return ar.Automaton(mask), mask[:32]

    def tile_mask_state(self):
        s, c = self.u.step, self.claim
        if s == c.p - 1:
            return bytes(64)
        before = self.earlier(self.o, 1, 64, 0, s - 1, 1)[0]
        (token,) = self.tokens(s, s + 1)
        a, root = self.automaton()
        text = self.text(min(token, self.p.V - 1), root)
        state = a.walk(a.load(before), text) if token < self.p.V else None
        return a.store(state)

    def tile_mask(self):
        b = self.records(self.op.src, self.i, 1)
        record = self.records(self.op.state, 0, 1)
        a, root = self.automaton()
        text = self.text(self.i, root)
        state = a.load(record)
        allowed = a.may_end(state) if self.i in self.p.stop else a.walk(state, text) is not None
        return pack(floats(b)[0]) if allowed else u32(ar.EXCLUDED)

    # ---- sampling ----

    def temp(self):
        return ar.micro(self.claim.T)

    def logits(self, tile):
        """[(id, key, x)] of a tile's logits, without the excluded ones; None if one is not finite."""
        first = 4096 * tile
        b = self.records(self.op.src, first, min(4096, self.p.V - first))
        name = (tile, b)
        if name not in self.cache:
            u = struct.unpack('<%dI' % (len(b) // 4), b)
            x = floats(b)
            live = [(first + i, x[i]) for i in range(len(x)) if u[i] != ar.EXCLUDED]
            ok = all(v - v == 0 for _, v in live)
            self.cache[name] = [(i, ar.key(v), v) for i, v in live] if ok else None
        return b, self.cache[name]

    def get_max(self, src):
        return struct.unpack('<3I', self.records(src, 0, 1))

    def masses(self, b, logits, gmax):
        """w of each entry."""
        name = (b, gmax, self.claim.T)
        if name not in self.cache:
            temp = self.temp()
            t_max = div(ar.of_key(gmax) + 0.0, temp)
            self.cache[name] = [ar.weight(x, temp, t_max) for _, _, x in logits]
        return self.cache[name]

    def failed(self, gmax):
        most = ar.of_key(gmax[0])
        t = div(most + 0.0, self.temp())
        return gmax[2] != 0 or most - most != 0 or t - t != 0

    def sound(self, logits, gmax):
        return not self.failed(gmax) and logits is not None and all(x <= ar.of_key(gmax[0]) for _, _, x in logits)

    @staticmethod
    def inside(k, i, cut):
        return cut is None or k > cut[0] or (k == cut[0] and i <= cut[1])

    def get_cut(self):
        return None if self.op.cut is None else struct.unpack('<2I', self.records(self.op.cut, 0, 1))

    def get_pick(self, src):
        return struct.unpack('<IQ', self.records(src, 0, 1))

    def tile_max(self):
        _, logits = self.logits(self.i)
        if logits is None:
            return struct.pack('<3I', 0, 0xFFFFFFFF, 1)
        if not logits:
            return struct.pack('<3I', 0, 0xFFFFFFFF, 0)
        i, k, _ = min(logits, key=lambda e: (-e[1], e[0]))
        return struct.pack('<3I', k, i, 0)

    def tile_gmax(self):
        b = self.all(self.op.src)
        entries = [struct.unpack('<3I', b[i:i + 12]) for i in range(0, len(b), 12)]
        k, i, _ = min(entries, key=lambda e: (-e[0], e[1]))
        fail = any(e[2] for e in entries) or i == 0xFFFFFFFF
        if not fail and self.claim.T > 0:
            t = div(ar.of_key(k) + 0.0, self.temp())
            fail = t - t != 0
        return struct.pack('<3I', 0, 0xFFFFFFFF, 1) if fail else struct.pack('<3I', k, i, 0)

    def tile_hist(self):
        op = self.op
        b, logits = self.logits(self.i)
        gmax = self.get_max(self.u.gmax)
        prefix = self.get_pick(op.pick)[0] if op.level else 0
        cut = self.get_cut()
        bins = [0] * 16
        if self.sound(logits, gmax):
            w = self.masses(b, logits, gmax[0]) if op.mode == 'p' else None
            for n, (i, k, _) in enumerate(logits):
                if k >> (32 - 4 * op.level) == prefix and self.inside(k, i, cut):
                    bins[k >> (28 - 4 * op.level) & 15] += 1 if w is None else w[n]
        return struct.pack('<16Q', *bins)

    def tile_pick(self):
        op, b = self.op, self.all(self.op.src)
        tiles = [struct.unpack('<16Q', b[i:i + 128]) for i in range(0, len(b), 128)]
        bins = [wrap(sum(t[n] for t in tiles)) for n in range(16)]
        prefix = 0
        if op.level:
            prefix, target = self.get_pick(op.pick)
        elif op.mode == 'k':
            target = self.claim.k
        else:
            target = max(1, ar.ceil_div(self.claim.top_p * wrap(sum(bins)), ar.MILLION))
        for n in range(15, -1, -1):
            if bins[n] >= target:
                return struct.pack('<IQ', (prefix << 4 | n) & 0xFFFFFFFF, target)
            target -= bins[n]
        return bytes(12)

    def tile_tie(self):
        _, logits = self.logits(self.i)
        gmax, (k, _) = self.get_max(self.u.gmax), self.get_pick(self.op.pick)
        return struct.pack('<Q', sum(e[1] == k for e in logits) if self.sound(logits, gmax) else 0)

    def tile_threshold(self):
        gmax, (k, rank) = self.get_max(self.u.gmax), self.get_pick(self.op.pick)
        b = self.all(self.op.tie)
        counts = struct.unpack('<%dQ' % (len(b) // 8), b)
        x = ar.of_key(k)
        if self.failed(gmax) or (k and not (x - x == 0 and x <= ar.of_key(gmax[0]))):
            rank = 0
        elif self.op.mode == 'p':
            temp = self.temp()
            w = ar.weight(ar.of_key(k), temp, div(ar.of_key(gmax[0]) + 0.0, temp))
            rank = ar.ceil_div(rank, w) if w else 0
        tile, at = 0, 0
        for t, count in enumerate(counts):
            if 0 < rank <= count:
                tile, at = t, rank
                break
            rank -= min(rank, count)
        _, logits = self.logits(tile)
        ids = [i for i, key, _ in logits or () if key == k]
        if not 0 < at <= len(ids):
            return bytes(8)
        return struct.pack('<2I', k, ids[at - 1])

    def survivors(self, b, logits, gmax, cut):
        """(id, w) of a tile's entries that are left, ids ascending."""
        if not self.sound(logits, gmax):
            return []
        least = min(self.claim.min_p, ar.MILLION) << 40
        w = self.masses(b, logits, gmax[0])
        return [(i, w[n]) for n, (i, k, _) in enumerate(logits)
                if self.inside(k, i, cut) and w[n] * ar.MILLION >= least]

    def tile_mass(self):
        b, logits = self.logits(self.i)
        gmax = self.get_max(self.u.gmax)
        left = self.survivors(b, logits, gmax, self.get_cut())
        return struct.pack('<Q', sum(w for _, w in left))

    def tile_draw(self):
        c, b = self.claim, self.all(self.op.src)
        masses = struct.unpack('<%dQ' % (len(b) // 8), b)
        rest = ar.r64(c.seed, c.choice, self.u.step + 1 - c.p) * wrap(sum(masses)) >> 64
        for tile, m in enumerate(masses):
            if rest < m:
                return struct.pack('<IQ', tile, rest)
            rest -= m
        return bytes(12)

    def tile_token(self):
        c = self.claim
        gmax = self.get_max(self.u.gmax)
        _, token, fail = gmax
        if c.T > 0:
            tile, rest = struct.unpack('<IQ', self.records(self.op.draw, 0, 1))
            cut = self.get_cut()
            b, logits = self.logits(min(tile, -(-self.p.V // 4096) - 1))
            token = 0xFFFFFFFF
            for i, w in self.survivors(b, logits, gmax, cut):
                if rest < w:
                    token = i
                    break
                rest -= w
        if fail or token == 0xFFFFFFFF:
            return struct.pack('<2I', 0xFFFFFFFF, 3)
        if token in self.p.stop:
            return struct.pack('<2I', token, 1)
        return struct.pack('<2I', token, 2 if self.u.step + 2 - c.p >= c.max_tokens else 0)
