"""Units, operators and records of a job (docs/spec/proof.md, section 2)."""

from program import WTYPES

# Instead of an operator: the row of the unit before, of the one before that, and QROW of the unit before.
ROW, ROW2, QUERIES = -1, -2, -3
KROW, VROW, LAST_ADD = 21, 22, 57
POOL = 3
MEAN, CLS = 2, 3
QROW_E, KROW_E, VROW_E = 13, 14, 15  # of an encoder's unit of queries, keys and values


class Op:
    def __init__(self, kind, n, size, leaf, src, **more):
        self.kind, self.n, self.size, self.leaf, self.src = kind, n, size, leaf, src
        self.__dict__.update(more)

    def leaves(self):
        return -(-self.n // self.leaf)


class Unit:
    """The operators of a unit, absent ones with n = 0; sources are those that are read."""

    def __init__(self, claim, step, unit):
        self.claim, self.p, self.step, self.unit, self.ops = claim, claim.program, step, unit, []
        self.tile_logits = 4096
        if unit == 0:
            self.embedding()
        elif unit > last_block(self.p):
            self.pooling() if claim.pooling else self.head()
        elif self.p.encoder:
            (self.qkv if unit % 2 else self.rest)(self.p.layer[(unit - 1) // 2])
        else:
            self.block(unit - 1)
            if unit == self.p.n_layers and not has_head(claim, step):
                del self.ops[VROW + 1:]

    def put(self, kind, n, size=4, leaf=1024, src=ROW, here=True, **more):
        for name in ('src', 'src2', 'scale', 'route'):
            if name == 'src':
                src = self.real(src)
            elif name in more:
                more[name] = self.real(more[name])
        self.ops.append(Op(kind, n if here else 0, size, leaf, src, **more))
        return len(self.ops) - 1

    def real(self, i):
        while i is not None and i >= 0 and self.ops[i].n == 0:
            i = self.ops[i].src
        return i

    def embedding(self):
        p = self.p
        x = self.put('EMBED', p.d, src=None)
        if not p.encoder:
            return
        x = self.put('BIAS', p.d, src=x, here=bool(p.token_type), tensor=p.type_row)
        x = self.put('POSITION', p.d, src=x, here=bool(p.n_positions), tensor=p.positions)
        self.layer_norm(x, p.embed_norm)

    def layer_norm(self, src, tensors):
        d = self.p.d
        part = self.put('MEAN_PART', -(-d // 512), src=src, cols=d)
        mean = self.put('MEAN', 1, leaf=1, src=part, cols=d)
        var = self.put('VAR_PART', -(-d // 512), src=src, cols=d, mean=mean)
        scale = self.put('NORM_SCALE', 1, leaf=1, src=var, cols=d)
        return self.put('LN_MUL', d, src=src, scale=scale, mean=mean, tensor=tensors[0], bias=tensors[1])

    def biased(self, y, n, tensor):
        return self.put('BIAS', n, src=y, here=tensor is not None, tensor=tensor)

    def qkv(self, t):
        p = self.p
        H, G, D = p.H, p.G, p.D
        vector = self.quants(ROW, p.d, (t['q'], t['k'], t['v']))
        q, k, v = (self.biased(self.product(vector, t[name], n), n, t.get(name + '_bias'))
                   for name, n in (('q', H * D), ('k', G * D), ('v', G * D)))
        q, k = (self.put('ROPE', n * D, src=x, here=bool(p.n_rope), table=0) for x, n in ((q, H), (k, G)))
        self.put('QROW', H * D // 32, 36, 64, q)
        self.put('KROW', G, 4 * (D // 32) + D, 1, k)
        self.put('VROW', G, 4 + D, 1, v)

    def rest(self, t):
        p = self.p
        d, H, D, F = p.d, p.H, p.D, p.F
        self.begin, self.end = 0, self.claim.n_steps
        self.n_keys, self.first_chunk, self.C = self.end, 0, -(-self.end // 64)
        attn = self.attention(QUERIES)
        y = self.biased(self.product(self.quants(attn, H * D, (t['o'],)), t['o'], d), d, t.get('o_bias'))
        y = self.put('ADD', d, src=ROW2, src2=y)
        x = self.layer_norm(y, t['post_attn'])
        vector = self.quants(x, d, (t.get('gate'), t['up']))
        gate = self.product(vector, t.get('gate'), F, 'gate' in t)
        gate = self.biased(gate, F, t.get('gate_bias'))
        up = self.biased(self.product(vector, t['up'], F), F, t.get('up_bias'))
        act = self.put('GELU', F, src=up) if p.ungated else self.put('ACT', F, src=gate, src2=up)
        y = self.biased(self.product(self.quants(act, F, (t['down'],)), t['down'], d), d, t.get('down_bias'))
        y = self.put('ADD', d, src=x, src2=y)
        self.layer_norm(y, t['post_ffn'])

    def attention(self, q):
        H, D = self.p.H, self.p.D
        score = self.put('SCORE', H * self.n_keys, leaf=256, src=q)
        chunk = self.put('CHUNK', H * self.C, 12 + 128, 16, score)
        chunk_v = self.put('CHUNK_V', H * self.C, 4 * D, 1024 // D, chunk)
        merge = self.put('MERGE', H * self.C, 8 + 4 * D, 1024 // D, chunk, src2=chunk_v)
        return self.put('ATTN', H * D, src=merge)

    def norm(self, src, tensor, here=True):
        d = self.p.d
        part = self.put('NORM_PART', -(-d // 512), src=src, here=here, cols=d)
        scale = self.put('NORM_SCALE', 1, leaf=1, src=part, here=here, cols=d)
        return self.put('NORM_MUL', d, src=src, here=here, scale=scale, tensor=tensor)

    def quants(self, src, k, tensors):
        """The two quantisers of a vector; {block of a weight type: the operator that holds what it reads}."""
        blocks = {min(WTYPES[t.type].block, 256) for t in tensors if t}
        q = self.put('QUANT', k // 32, 36, 64, src, 32 in blocks)
        q256 = self.put('QUANT256', k // 256, 260, 8, src, 256 in blocks)
        return {1: src, 32: q, 256: q256}

    def product(self, vector, tensor, rows, here=True, **experts):
        cols = tensor.cols if tensor else 1
        src = vector[WTYPES[tensor.type].block] if tensor else vector[1]
        part = self.put('PART', rows * -(-cols // 512), src=src, here=here, tensor=tensor, rows=rows, cols=cols, **experts)
        return self.put('SUM', rows, src=part, here=here, cols=cols)

    def block(self, l):
        p, t = self.p, self.p.layer[l]
        d, H, G, D, U, F = p.d, p.H, p.G, p.D, p.U, p.F
        flags = p.layer_flags[l]
        x = self.norm(ROW, t['attn_norm'])
        vector = self.quants(x, d, (t['q'], t['k'], t['v']))
        proj = []
        for name, rows in (('q', H * D), ('k', G * D), ('v', G * D)):
            y = self.product(vector, t[name], rows)
            proj.append(self.put('BIAS', rows, src=y, here=bool(p.qkv_bias), tensor=t.get(name + '_bias')))
        for i, (name, heads) in enumerate((('q_norm', H), ('k_norm', G))):
            scale = self.put('HEAD_SCALE', heads, src=proj[i], here=bool(p.qk_norm))
            proj[i] = self.put('HEAD_MUL', heads * D, src=proj[i], here=bool(p.qk_norm), scale=scale, tensor=t.get(name))
        table = 1 if flags & 2 else 0
        q, k = (self.put('ROPE', heads * D, src=proj[i], table=table) for i, heads in ((0, H), (1, G)))
        q = self.put('QROW', H * D // 32, 36, 64, q)
        self.put('KROW', G, 4 * (D // 32) + D, 1, k)
        self.put('VROW', G, 4 + D, 1, proj[2])
        self.end = self.step + 1
        self.begin = max(0, self.end - p.window) if flags & 1 else 0
        self.n_keys = self.end - self.begin
        self.first_chunk = self.begin // 64
        self.C = self.step // 64 - self.first_chunk + 1
        attn = self.attention(q)
        y = self.product(self.quants(attn, H * D, (t['o'],)), t['o'], d)
        y = self.norm(y, t.get('post_attn'), bool(p.post_norms))
        middle = self.put('ADD', d, src=ROW, src2=y)
        x = self.norm(middle, t['ffn_norm'])
        vector = self.quants(x, d, (t.get('router'), t['gate'], t['up']))
        y = self.product(vector, t.get('router'), p.E, bool(p.E))
        route = self.put('ROUTE', 1, 8 * U, 1, y, bool(p.E))
        experts = {'route': route, 'per_expert': F, 'slot_minor': False} if p.E else {}
        gate = self.product(vector, t['gate'], U * F, **experts)
        up = self.product(vector, t['up'], U * F, **experts)
        act = self.put('ACT', U * F, src=gate, src2=up)
        if p.E:
            experts = {'route': route, 'per_expert': d, 'slot_minor': True}
        y = self.product(self.quants(act, U * F, (t['down'],)), t['down'], U * d, **experts)
        y = self.put('MIX', d, src=y, here=bool(p.E), route=route)
        y = self.norm(y, t.get('post_ffn'), bool(p.post_norms))
        self.put('ADD', d, src=middle, src2=y)

    def head(self):
        p, c = self.p, self.claim
        V, T = p.V, -(-p.V // 4096)
        x = self.norm(ROW, p.output_norm)
        y = self.product(self.quants(x, p.d, (p.output,)), p.output, V)
        y = self.put('CAP', V, src=y, here=p.logit_cap != 0)
        y = self.put('PENALTY', V, src=y, here=c.penalties)
        y = self.put('LOGIT_BIAS', V, src=y, here=c.bias_hash is not None)
        state = self.put('MASK_STATE', 1, 64, 1, None, c.mask_hash is not None)
        y = self.put('MASK', V, src=y, here=c.mask_hash is not None, state=state)
        self.mask_state = state
        logits = self.real(y)
        top = self.put('MAX', T, 12, 256, logits)
        self.gmax = gmax = self.put('GMAX', 1, 12, 1, top)
        cut = mass = draw = None
        if c.T > 0:
            for mode, on in (('k', 0 < c.k < V), ('p', c.top_p < 10 ** 6)):
                if not on:
                    continue
                pick = None
                for level in range(8):
                    hist = self.put('HIST', T, 128, 32, logits, mode=mode, level=level, pick=pick, cut=cut)
                    pick = self.put('PICK', 1, 12, 1, hist, mode=mode, level=level, pick=pick)
                tie = self.put('TIE', T, 8, 512, logits, pick=pick)
                cut = self.put('THRESHOLD', 1, 8, 1, logits, mode=mode, pick=pick, tie=tie)
            mass = self.put('MASS', T, 8, 512, logits, cut=cut)
            draw = self.put('DRAW', 1, 12, 1, mass)
        self.put('TOKEN', 1, 8, 1, logits, cut=cut, draw=draw)


    def pooling(self):
        c, d = self.claim, self.p.d
        last = self.step == c.p - 1
        x = self.norm(ROW, self.p.output_norm, not self.p.encoder)
        v = self.put('POOL', d // 32, 128, 1, x, c.pooling != 1)
        if last:
            part = self.put('NORM_PART', -(-d // 512), src=v, cols=d)
            scale = self.put('L2', 1, leaf=1, src=part)
            self.put('VECTOR', d, leaf=1, src=v, scale=scale)


def has_head(claim, step):
    """Whether a step has a head or pooling unit."""
    return step >= claim.p - 1 or claim.pooling == MEAN


def last_block(p):
    return p.n_layers * (2 if p.encoder else 1)


def n_units(claim, step):
    return last_block(claim.program) + (2 if has_head(claim, step) else 1)


def row_op(p, unit):
    """The operator that is a unit's row."""
    if p.encoder:
        return 35 if unit else 7
    return LAST_ADD if unit else 0


def cache_ops(p):
    """KROW and VROW, and how many units back they are."""
    return (KROW_E, VROW_E, 1) if p.encoder else (KROW, VROW, 0)


def outs_of(claim, step, unit):
    """The operators whose roots a unit hash binds; None: 32 zero bytes."""
    p, last = claim.program, last_block(claim.program)
    if unit > last and claim.pooling:
        return ([POOL] if claim.pooling == MEAN else []) + ([6] if step == claim.p - 1 else [])
    if unit > last:
        u = Unit(claim, step, unit)
        return ([u.mask_state] if claim.mask_hash else []) + [len(u.ops) - 1]
    if p.encoder and unit % 2:
        return [QROW_E, KROW_E, VROW_E]
    if unit == 0 or p.encoder:
        return [row_op(p, unit)]
    return [KROW, VROW, LAST_ADD if unit < last or has_head(claim, step) else None]


# ---- groups of units: the leaves of the state tree ----

def n_groups(claim):
    return last_block(claim.program) + 2 if claim.program.encoder else claim.n_steps


def alone(claim, unit):
    return unit > last_block(claim.program) and claim.pooling != MEAN


def n_members(claim, group):
    if not claim.program.encoder:
        return n_units(claim, group)
    return 1 if alone(claim, group) else claim.n_steps


def place(claim, step, unit):
    """(group, member)"""
    if not claim.program.encoder:
        return step, unit
    return unit, 0 if alone(claim, unit) else step


def address(claim, group, member):
    """(step, unit)"""
    if not claim.program.encoder:
        return group, member
    return claim.p - 1 if alone(claim, group) else member, group
