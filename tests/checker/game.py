"""The dispute game on recorded moves (docs/spec/proof.md, section 5)."""

import hashlib
import hmac

from graph import MEAN, Unit, address, has_head, last_block, n_groups, n_members, outs_of, place
from merkle import H, Reject, root, spans, spans_root, tag, u32, range_root
from program import fields
from referee import Reader, Tile, leaf_hash, read_token, same, step_leaf, token_leaf, unit_hash, vector_leaf

(STATE, NODES, UNITS, OPS, LEAVES, RECORDS, BIND_NODES, BIND_OPEN,
 STEP, UNIT, OP, LEAF, TILE, SALT, BIND_NODE, BIND) = range(1, 17)
OWN = {STATE: {3, 5}, OPS: {4, 5}, RECORDS: {6}, BIND_OPEN: {6}, TILE: {2, 6}, SALT: {4},  # its fields, beside the kind
       **dict.fromkeys((NODES, UNITS, LEAVES, BIND_NODES), {5}), **dict.fromkeys((STEP, UNIT, OP, LEAF, BIND_NODE, BIND), {2})}
LEVELS = 10
ZERO = bytes(32)
GOES_ON, REJECTED, WORKER_LOSES, CHALLENGER_LOSES = range(4)


class Move:
    def __init__(self, b):
        f = fields(b, {1, 2}, {3, 4, 5, 6})
        self.kind, self.index, self.root, self.salt = f.get(1, 0), f.get(2, 0), f.get(3, ZERO), f.get(4, ZERO)
        nodes, self.data = f.get(5, b''), f.get(6, b'')
        if len(self.root) != 32 or len(self.salt) != 32 or len(nodes) % 32:
            raise Reject('a hash that is none')
        if ZERO in (f.get(3), f.get(4)):
            raise Reject('zeros that are left out')
        if not set(f) <= OWN.get(self.kind, set()) | {1}:
            raise Reject('a field of another kind')
        self.nodes = [nodes[i:i + 32] for i in range(0, len(nodes), 32)]


class Descent:
    """The way down a tree that is shown a few levels at a time."""

    def __init__(self, n, top):
        self.first, self.count, self.node, self.shown = 0, n, top, None

    def show(self, nodes):
        under = spans(self.first, self.count, LEVELS)
        if len(nodes) != len(under):
            raise Reject('another number of nodes')
        same(spans_root(self.count, LEVELS, nodes), self.node)
        self.shown, self.under = nodes, under

    def point(self, index):
        if index >= len(self.shown):
            raise Reject('not among the nodes shown')
        self.node = self.shown[index]
        self.first, self.count = self.under[index]
        return self.count == 1


class Game:
    """Every step is a method named by what is expected next; it checks a move and gives the name of what follows."""

    def __init__(self, claim, cache):
        self.claim, self.cache, self.now = claim, cache, 'state'
        self.record = None  # the last tile's, recomputed

    def move(self, b):
        """The verdict on a move. One that is rejected leaves the game where it was."""
        before = dict(self.__dict__)
        try:
            after = getattr(self, 'w_' + self.now if hasattr(self, 'w_' + self.now) else 'c_' + self.now)(Move(b))
        except Reject as why:
            self.__dict__ = before
            self.why = str(why)
            return REJECTED
        if isinstance(after, int):
            return after
        self.now = after
        return GOES_ON

    @staticmethod
    def expect(m, *kinds):
        if m.kind not in kinds:
            raise Reject('not a move that this position allows')

    # ---- down to a record ----

    def w_state(self, m):
        self.expect(m, STATE)
        if m.root == ZERO:
            raise Reject('no state root')
        self.state_root = m.root
        self.down = Descent(n_groups(self.claim), m.root)
        self.down.show(m.nodes)
        return 'after_state'

    def c_after_state(self, m):
        if m.kind in (BIND_NODE, BIND):
            return self.c_bind_first(m)
        return self.c_step(m)

    def c_step(self, m):
        self.expect(m, STEP)
        down = self.down = copy_of(self.down)
        if not down.point(m.index):
            return 'nodes'
        self.group, self.units = down.first, None
        return 'units'

    def w_nodes(self, m):
        self.expect(m, NODES)
        self.down = copy_of(self.down)
        self.down.show(m.nodes)
        return 'step'

    def w_units(self, m):
        self.expect(m, UNITS)
        if self.units is None:
            n = n_members(self.claim, self.group)
            if len(m.nodes) != len(spans(0, n, LEVELS)):
                raise Reject('another number of nodes')
            self.group_root = spans_root(n, LEVELS, m.nodes)
            same(step_leaf(self.group, self.group_root), self.down.node)
            self.units = Descent(n, self.group_root)
        self.units = copy_of(self.units)
        self.units.show(m.nodes)
        return 'unit'

    def c_unit(self, m):
        self.expect(m, UNIT)
        self.units = copy_of(self.units)
        if not self.units.point(m.index):
            return 'units'
        self.step, unit = address(self.claim, self.group, self.units.first)
        self.unit = Unit(self.claim, self.step, unit)
        return 'ops'

    def w_ops(self, m):
        self.expect(m, OPS)
        u = self.unit
        if len(m.nodes) != len(u.ops):
            raise Reject('another number of operators')
        for op, r in zip(u.ops, m.nodes):
            if op.n == 0 and r != ZERO:
                raise Reject('a root of an absent operator')
        outs = [ZERO if o is None else m.nodes[o] for o in outs_of(self.claim, u.step, u.unit)]
        same(unit_hash(m.salt, u.step, u.unit, outs), self.units.node)
        self.salt, self.op_roots = m.salt, m.nodes
        return 'op'

    def c_op(self, m):
        self.expect(m, OP, SALT)
        if m.kind == SALT:
            return self.salt_verdict(m.salt)
        if m.index >= len(self.unit.ops) or self.unit.ops[m.index].n == 0:
            raise Reject('no such operator')
        self.op = m.index
        n = self.unit.ops[self.op].leaves()
        self.down = Descent(n, self.op_roots[self.op])
        return 'leaves' if n > 1 else 'records'

    def w_leaves(self, m):
        self.expect(m, LEAVES)
        self.down = copy_of(self.down)
        self.down.show(m.nodes)
        return 'leaf'

    def c_leaf(self, m):
        self.expect(m, LEAF)
        self.down = copy_of(self.down)
        return 'records' if self.down.point(m.index) else 'leaves'

    def w_records(self, m):
        self.expect(m, RECORDS)
        u, op, k = self.unit, self.unit.ops[self.op], self.down.first
        r = Reader(m.data)
        self.n_records = min(op.leaf, op.n - k * op.leaf)
        self.records = r.take(self.n_records * op.size)
        if op.kind == 'VECTOR':
            leaf = vector_leaf(self.salt, k, self.records)
        else:
            leaf = leaf_hash(self.salt, u.step, u.unit, self.op, k, self.records)
        same(leaf, self.down.node)
        self.token = read_token(r, self.claim, self.salt, u.step) if op.kind == 'EMBED' else None
        r.end()
        return 'tile'

    def c_tile(self, m):
        self.expect(m, TILE)
        if m.index >= self.n_records:
            raise Reject('no such record')
        op = self.unit.ops[self.op]
        worker = self.records[m.index * op.size:(m.index + 1) * op.size]
        tile = Tile(self.unit, self.op, self.down.first * op.leaf + m.index, self.salt, self.state_root, self.group_root,
                    self.op_roots, self.token, m.data, self.cache)
        self.record = tile.compute()
        return CHALLENGER_LOSES if self.record == worker else WORKER_LOSES

    # ---- salts and receipts ----

    def salt_verdict(self, job_salt):
        same(H(tag('veridem/salt-commit'), job_salt), self.claim.salt_commit)
        true = hmac.new(job_salt, tag('veridem/salt') + u32(self.step), hashlib.sha256).digest()
        return CHALLENGER_LOSES if self.salt == true else WORKER_LOSES

    def c_bind_first(self, m):
        if m.kind == BIND_NODE and m.index != 0:
            raise Reject('only the whole tree is there')
        if m.kind == BIND_NODE:
            self.down = Descent(self.claim.n_steps, self.claim.commit_root)
            return 'bind_nodes'
        return self.to_bind(m)

    def to_bind(self, m):
        if m.index >= self.claim.n_steps:
            raise Reject('no such step')
        self.step = m.index
        return 'bind_open'

    def w_bind_nodes(self, m):
        self.expect(m, BIND_NODES)
        self.down = copy_of(self.down)
        self.down.show(m.nodes)
        return 'bind'

    def c_bind(self, m):
        self.expect(m, BIND_NODE, BIND)
        if m.kind == BIND:
            return self.to_bind(m)
        down = self.down = copy_of(self.down)
        if down.point(m.index):
            raise Reject('a single step is for BIND')
        return 'bind_nodes'

    def w_bind_open(self, m):
        self.expect(m, BIND_OPEN)
        c, i, r = self.claim, self.step, Reader(m.data)
        head, L = has_head(c, i), last_block(c.program)
        salt, units = r.hash(), [r.hash()]
        if head:
            units.append(r.hash())
        groups, at = [], 0
        while at < len(units):
            g, first = place(c, i, L + at)
            run = [h for k, h in enumerate(units) if place(c, i, L + k)[0] == g]
            groups.append(step_leaf(g, range_root(n_members(c, g), first, run, r.hash)))
            at += len(run)
        same(range_root(n_groups(c), g + 1 - len(groups), groups, r.hash), self.state_root)
        commit = H(b'\0' + tag('veridem/commit'), u32(i), units[0], units[1] if head else ZERO)
        same(range_root(c.n_steps, i, [commit], r.hash), c.commit_root)
        if c.pooling:
            if i == c.n_steps - 1:
                outs = [r.hash()] if c.pooling == MEAN else []
                same(unit_hash(salt, i, L + 1, outs + [c.output_root]), units[1])
        elif head:
            record = r.take(8)
            stop = int.from_bytes(record[4:], 'little')
            outs = [r.hash()] if c.mask_hash else []
            ops = Unit(c, i, L + 1).ops
            outs.append(leaf_hash(salt, i, L + 1, len(ops) - 1, 0, record))
            same(unit_hash(salt, i, L + 1, outs), units[1])
            if i + 1 - c.p < c.g:
                leaf = token_leaf(r.hash(), i + 1, record[:4])
                same(range_root(c.g, i + 1 - c.p, [leaf], r.hash), c.output_root)
            ends = i == c.n_steps - 1 and c.finish != 4
            if stop != (c.finish if ends else 0):
                raise Reject('another end')
        r.end()
        return CHALLENGER_LOSES


def copy_of(descent):
    d = Descent.__new__(Descent)
    d.__dict__.update(descent.__dict__)
    return d
