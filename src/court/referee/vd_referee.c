/* An opening is read once, from front to back. What comes next is always known: the graph gives the inputs,
 * the trees' sizes give the lengths of the proofs. So the reader has one failure ("too short or left over")
 * and every check is one comparison of hashes. */
#include "vd_referee.h"

#include "vd_merkle.h"
#include "vd_tile.h"
#include "vd_trace_hash.h"

#include <assert.h>
#include <string.h>

enum { LEAVES_MAX = 16 }; /* of one input: 4,096 logits lie in 4, the histograms of 256 tiles in 8 */

struct reader {
    const uint8_t *p, *end;
    bool bad;
};

static struct reader reader_of(struct vd_bytes b)
{
    return (struct reader){b.p, b.n ? b.p + b.n : b.p, b.n > VD_OPENING_MAX_BYTES};
}

/* The next n bytes, or NULL. */
static const uint8_t *take(struct reader *r, size_t n)
{
    if (r->bad || n > (size_t)(r->end - r->p)) {
        r->bad = true;
        return NULL;
    }
    r->p += n;
    return r->p - n;
}

static struct vd_hash take_hash(struct reader *r)
{
    struct vd_hash h = {{0}};
    const uint8_t *p = take(r, VD_HASH_BYTES);
    if (p)
        memcpy(h.b, p, sizeof h.b);
    return h;
}

/* The root that leaves [first, first + count) of n imply together with the proof that comes next. */
static struct vd_hash take_root(struct reader *r, size_t n, size_t first, size_t count,
                                const struct vd_hash *leaf)
{
    static_assert(sizeof(struct vd_hash) == VD_HASH_BYTES && _Alignof(struct vd_hash) == 1,
                  "hashes are read in place");
    size_t len = vd_merkle_range_proof_len(n, first, count);
    const uint8_t *p = take(r, len * VD_HASH_BYTES);
    if (!p)
        return (struct vd_hash){{0}};
    return vd_merkle_range_root(n, first, count, leaf, (const struct vd_hash *)p);
}

static void demand(struct reader *r, const struct vd_hash *a, const struct vd_hash *b)
{
    if (!vd_hash_eq(a, b))
        r->bad = true;
}

struct referee {
    const struct vd_ref_claim *claim;
    const struct vd_graph *g;
    const struct vd_ref_point *pt;
    uint8_t token[4]; /* of the point: where EMBED reads it */
    uint8_t window[4 * VD_PENALTY_WINDOW];
    struct reader r;
};

/* ---- from units up to the state root ---- */

/* Unit hashes, in the order of groups and members. Behind the last of a group comes their range proof in it;
 * behind all, unless they are the point's own, whose root was shown, comes that of the groups. */
struct climb {
    const struct vd_graph *g;
    struct reader *r;
    uint32_t n_members, n_groups;
    struct vd_graph_place first; /* of the group that is gathered */
    uint32_t first_group;
    struct vd_hash member[VD_GRAPH_CHUNK], group[VD_GRAPH_CHUNK], root;
};

/* The group's root from its members; and its leaf. */
static void climb_group(struct climb *c)
{
    uint32_t group = c->first.group;
    c->root = take_root(c->r, vd_graph_members(c->g, group), c->first.member, c->n_members, c->member);
    c->first_group = c->n_groups ? c->first_group : group;
    c->group[c->n_groups++] = vd_trace_step(group, &c->root);
    c->n_members = 0;
}

/* `more`: the next unit is of the same group. */
static void climb_add(struct climb *c, uint32_t step, uint32_t unit, const struct vd_hash *hash, bool more)
{
    if (c->n_members == 0)
        c->first = vd_graph_place(c->g, step, unit);
    c->member[c->n_members++] = *hash;
    if (!more)
        climb_group(c);
}

static void climb_to_state(struct climb *c, const struct vd_hash *state_root)
{
    struct vd_hash root = take_root(c->r, vd_graph_groups(c->g), c->first_group, c->n_groups, c->group);
    demand(c->r, &root, state_root);
}

/* ---- records ---- */

/* The leaves that hold records [first, first + count) of operator `op` of a unit of this step, and their
 * root. *data gets the first needed record. */
static struct vd_hash take_records(struct referee *f, uint32_t unit, uint32_t op, uint64_t first,
                                   uint32_t count, const uint8_t **data)
{
    struct vd_hash leaf[LEAVES_MAX];
    struct vd_graph_op o;
    vd_graph_op(f->g, f->pt->step, unit, op, &o);
    uint64_t k0 = first / o.leaf_records, k1 = (first + count - 1) / o.leaf_records;
    struct vd_trace_at at = {f->pt->salt, f->pt->step, unit, op};
    assert(count >= 1 && first + count <= o.n_records && k1 - k0 < LEAVES_MAX);
    for (uint64_t k = k0; k <= k1; k++) {
        size_t n = vd_graph_leaf_bytes(&o, k);
        const uint8_t *p = take(&f->r, n);
        if (!p)
            return (struct vd_hash){{0}};
        if (k == k0)
            *data = p + (first - k0 * o.leaf_records) * o.record_bytes;
        leaf[k - k0] = vd_trace_leaf(&at, (uint32_t)k, p, n);
    }
    return take_root(&f->r, (size_t)vd_graph_leaves(&o), (size_t)k0, (size_t)(k1 - k0 + 1), leaf);
}

static void read_op(struct referee *f, const struct vd_graph_input *in, const uint8_t **data)
{
    struct vd_hash root = take_records(f, f->pt->unit, in->op, in->first, in->count, data);
    demand(&f->r, &root, &f->pt->op_roots[in->op]);
}

/* The unit hash from the root of its operator `op` and the other roots under it, which come next. A row that
 * does not exist is 32 zero bytes and not in the opening: a unit has one hash only. */
static struct vd_hash take_unit(struct referee *f, const struct vd_hash *salt, uint32_t step, uint32_t unit,
                                uint32_t op, const struct vd_hash *root)
{
    struct vd_hash outs[VD_GRAPH_OUTS_MAX] = {{{0}}};
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(f->g, step, unit, ops);
    struct vd_trace_at at = {*salt, step, unit, 0};
    for (unsigned i = 0; i < n; i++)
        if (ops[i] != VD_GRAPH_NO_OP)
            outs[i] = ops[i] == op ? *root : take_hash(&f->r);
    return vd_trace_unit(&at, outs, n);
}

/* The root of the point's own group was shown. */
static void climb_from(struct referee *f, struct climb *c)
{
    struct vd_graph_place own = vd_graph_place(f->g, f->pt->step, f->pt->unit);
    if (c->first.group == own.group)
        demand(&f->r, &c->root, &f->pt->group_root);
    else
        climb_to_state(c, &f->pt->state_root);
}

static void read_row(struct referee *f, const struct vd_graph_input *in, const uint8_t **data)
{
    struct climb c = {.g = f->g, .r = &f->r};
    uint32_t unit = f->pt->unit - in->back;
    struct vd_hash root = take_records(f, unit, in->op, in->first, in->count, data);
    struct vd_hash h = take_unit(f, &f->pt->salt, f->pt->step, unit, in->op, &root);
    climb_add(&c, f->pt->step, unit, &h, false);
    climb_from(f, &c);
}

/* One leaf of a unit of another step: salt, leaf, proof, the unit's other roots. Returns the unit's hash. */
static struct vd_hash take_step_row(struct referee *f, const struct vd_graph_input *in, uint32_t step,
                                    const uint8_t **row)
{
    struct vd_graph_op o;
    uint32_t unit = f->pt->unit - in->back;
    struct vd_hash salt = take_hash(&f->r);
    vd_graph_op(f->g, step, unit, in->op, &o);
    struct vd_trace_at at = {salt, step, unit, in->op};
    size_t n = vd_graph_leaf_bytes(&o, in->leaf);
    *row = take(&f->r, n);
    if (!*row)
        return (struct vd_hash){{0}};
    struct vd_hash h = vd_trace_leaf(&at, in->leaf, *row, n);
    h = take_root(&f->r, (size_t)vd_graph_leaves(&o), in->leaf, 1, &h);
    return take_unit(f, &salt, step, unit, in->op, &h);
}

static void read_steps(struct referee *f, const struct vd_graph_input *in, const uint8_t *row[VD_GRAPH_CHUNK])
{
    struct climb c = {.g = f->g, .r = &f->r};
    assert(in->count >= 1 && in->count <= VD_GRAPH_CHUNK);
    for (uint32_t j = 0; j < in->count; j++) {
        uint32_t step = (uint32_t)in->first + j, unit = f->pt->unit - in->back;
        bool more = j + 1 < in->count && vd_graph_same_group(f->g, step, unit, step + 1, unit);
        struct vd_hash h = take_step_row(f, in, step, &row[j]);
        climb_add(&c, step, unit, &h, more);
    }
    climb_from(f, &c);
}

/* ---- weights and tokens ---- */

static void read_weight(struct referee *f, const struct vd_graph_input *in, const uint8_t **data)
{
    const struct vd_program *p = f->g->program;
    struct vd_tensor_shape t = vd_program_tensor(p, in->tensor);
    uint32_t parts = vd_tensor_parts(t);
    size_t n = vd_tensor_part_bytes(t, in->part);
    *data = take(&f->r, n);
    if (!*data)
        return;
    struct vd_hash h = vd_weight_leaf(in->tensor, in->row, in->part, *data, n);
    h = take_root(&f->r, (size_t)t.rows * parts, (size_t)in->row * parts + in->part, 1, &h);
    h = vd_tensor_leaf(in->tensor, t, &h);
    h = take_root(&f->r, p->n_tensors, in->tensor, 1, &h);
    h = vd_program_model_root(f->claim->program_bytes, p->n_tensors, &h);
    demand(&f->r, &h, &f->claim->model_root);
}

/* The proof that `token` stands at sequence position `at`, under the prompt or the output root. */
static void check_token(const struct vd_ref_claim *claim, struct reader *r, const struct vd_hash *salt,
                        uint32_t at, uint32_t token)
{
    const struct vd_graph_job *j = &claim->graph.job;
    bool in_prompt = at < j->n_prompt;
    struct vd_hash h = vd_token_leaf(salt, at, token);
    if (in_prompt)
        h = take_root(r, j->n_prompt, at, 1, &h);
    else
        h = take_root(r, j->n_output, at - j->n_prompt, 1, &h);
    demand(r, &h, in_prompt ? &claim->prompt_root : &claim->output_root);
}

/* Tokens and their salts, ascending; then the range proofs of those in the prompt and those in the output. */
static void read_window(struct referee *f, const struct vd_graph_input *in, const uint8_t **data)
{
    const struct vd_graph_job *j = &f->g->job;
    struct vd_hash leaf[VD_PENALTY_WINDOW], root; /* salts at first */
    uint32_t token[VD_PENALTY_WINDOW], first = (uint32_t)in->first, n = in->count, in_prompt = 0;
    assert(n >= 1 && n <= VD_PENALTY_WINDOW);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *bytes = take(&f->r, 4);
        leaf[i] = take_hash(&f->r);
        if (!bytes)
            return;
        memcpy(f->window + 4 * (size_t)i, bytes, 4);
        token[i] = vd_le32_load(bytes);
        in_prompt += first + i < j->n_prompt;
    }
    vd_token_leaves(leaf, first, token, n, leaf);
    if (in_prompt) {
        root = take_root(&f->r, j->n_prompt, first, in_prompt, leaf);
        demand(&f->r, &root, &f->claim->prompt_root);
    }
    if (in_prompt < n) {
        root =
            take_root(&f->r, j->n_output, first + in_prompt - j->n_prompt, n - in_prompt, leaf + in_prompt);
        demand(&f->r, &root, &f->claim->output_root);
    }
    *data = f->window;
}

/* ---- the request's tables ---- */

static void read_table(struct referee *f, bool is_mask, const uint8_t **data)
{
    const uint8_t *p = take(&f->r, 4);
    uint32_t n = p ? vd_le32_load(p) : 0;
    const uint8_t *bytes = take(&f->r, n);
    if (!bytes)
        return;
    struct vd_bytes table = {bytes, n};
    struct vd_hash h = is_mask ? vd_mask_hash(table) : vd_bias_hash(table);
    demand(&f->r, &h, is_mask ? &f->claim->mask_hash : &f->claim->bias_hash);
    *data = p;
}

/* The text of a token, its proof under the root that stands first in the mask. */
static void read_text(struct referee *f, const struct vd_graph_input *in, const uint8_t *mask,
                      const uint8_t **data)
{
    const uint8_t *p = take(&f->r, 2);
    uint32_t n = p ? vd_le16_load(p) : 0;
    const uint8_t *bytes = take(&f->r, n);
    struct vd_hash want;
    if (!bytes || vd_le32_load(mask) < VD_MASK_ROOT_BYTES) {
        f->r.bad = true;
        return;
    }
    memcpy(want.b, mask + 4, sizeof want.b);
    struct vd_hash h = vd_text_leaf(in->row, (struct vd_bytes){bytes, n});
    h = take_root(&f->r, f->g->program->vocab, in->row, 1, &h);
    demand(&f->r, &h, &want);
    *data = p;
}

/* ---- verdicts ---- */

bool vd_ref_claim_init(struct vd_ref_claim *out, const struct vd_receipt *receipt,
                       const struct vd_program *program, struct vd_bytes program_bytes)
{
    const struct vd_request *q = &receipt->request;
    *out = (struct vd_ref_claim){
        .graph = {program,
                  {.n_prompt = q->n_prompt,
                   .n_output = receipt->n_output,
                   .n_steps = vd_receipt_n_steps(receipt),
                   .max_tokens = q->max_tokens,
                   .sampling = q->sampling}},
        .program_bytes = program_bytes,
        .model_root = q->model_root,
        .prompt_root = q->prompt_root,
        .output_root = receipt->output_root,
        .commit_root = receipt->commit_root,
        .salt_commit = q->salt_commit,
        .bias_hash = q->bias_hash,
        .mask_hash = q->mask_hash,
        .finish = receipt->finish,
    };
    return vd_graph_valid(&out->graph);
}

static void read_input(struct referee *f, struct vd_tile *t, unsigned i, struct vd_tile_data *data)
{
    if (t->in[i].dynamic)
        vd_tile_resolve(t, f->g, i, data);
    switch (t->in[i].kind) {
    case VD_IN_OP:
        read_op(f, &t->in[i], &data->in[i]);
        break;
    case VD_IN_ROW:
        read_row(f, &t->in[i], &data->in[i]);
        break;
    case VD_IN_KV:
        read_steps(f, &t->in[i], data->row);
        break;
    case VD_IN_WEIGHT:
        read_weight(f, &t->in[i], &data->in[i]);
        break;
    case VD_IN_TOKEN:
        vd_le32_store(f->token, f->pt->token);
        data->in[i] = f->token;
        break;
    case VD_IN_WINDOW:
        read_window(f, &t->in[i], &data->in[i]);
        break;
    case VD_IN_BIAS:
        read_table(f, false, &data->in[i]);
        break;
    case VD_IN_MASK:
        read_table(f, true, &data->in[i]);
        break;
    case VD_IN_TEXT:
        read_text(f, &t->in[i], data->in[i - 1], &data->in[i]);
        break;
    }
}

enum vd_ref_verdict vd_referee_tile(const struct vd_ref_claim *claim, const struct vd_ref_point *pt,
                                    const uint8_t *worker_record, struct vd_bytes opening,
                                    uint8_t true_record[VD_GRAPH_RECORD_BYTES_MAX])
{
    struct referee f = {.claim = claim, .g = &claim->graph, .pt = pt, .r = reader_of(opening)};
    struct vd_tile_data data = {{NULL}, {NULL}};
    struct vd_tile t;
    vd_tile_init(&t, f.g, pt->step, pt->unit, pt->op, pt->record);
    for (unsigned i = 0; i < t.n_in && !f.r.bad; i++)
        read_input(&f, &t, i, &data);
    if (f.r.bad || f.r.p != f.r.end)
        return VD_REF_REJECTED;
    vd_tile_eval(&t, f.g, &data, true_record);
    return memcmp(true_record, worker_record, t.o.record_bytes) ? VD_REF_WORKER_LOSES
                                                                : VD_REF_CHALLENGER_LOSES;
}

bool vd_referee_token(const struct vd_ref_claim *claim, const struct vd_hash *salt, uint32_t at,
                      struct vd_bytes opening, uint32_t *token)
{
    struct reader r = reader_of(opening);
    const uint8_t *p = take(&r, 4);
    assert(at < (uint64_t)claim->graph.job.n_prompt + claim->graph.job.n_output);
    if (!p)
        return false;
    *token = vd_le32_load(p);
    check_token(claim, &r, salt, at, *token);
    return !r.bad && r.p == r.end;
}

/* What TOKEN says must be what the receipt says: its token the next output token, if there is one, and its
 * stop state the end exactly at the end. */
static void check_record(const struct vd_ref_claim *claim, struct reader *r, uint32_t step,
                         const uint8_t *record)
{
    const struct vd_graph_job *j = &claim->graph.job;
    uint32_t token = vd_le32_load(record), stop = vd_le32_load(record + 4);
    bool last = step == j->n_steps - 1;
    uint32_t want = last && claim->finish != VD_FINISH_CANCELLED ? (uint32_t)claim->finish : VD_STOP_NONE;
    if (stop != want)
        r->bad = true;
    if (step + 1 - j->n_prompt < j->n_output) {
        struct vd_hash salt = take_hash(r);
        check_token(claim, r, &salt, step + 1, token);
    }
}

/* The pooling unit of the last step binds the receipt's vector: its last root is the output root. */
static void check_vector(const struct vd_ref_claim *claim, struct reader *r, const struct vd_trace_at *at,
                         const struct vd_hash *unit)
{
    struct vd_hash root[VD_GRAPH_OUTS_MAX] = {{{0}}};
    unsigned n = 0;
    if (claim->graph.job.sampling.pooling == VD_POOLING_MEAN)
        root[n++] = take_hash(r); /* POOL's, which is not looked at */
    root[n++] = claim->output_root;
    struct vd_hash h = vd_trace_unit(at, root, n);
    demand(r, &h, unit);
}

bool vd_referee_bind(const struct vd_ref_claim *claim, const struct vd_hash *state_root, uint32_t step,
                     struct vd_bytes opening)
{
    const struct vd_graph *g = &claim->graph;
    struct reader r = reader_of(opening);
    struct climb c = {.g = g, .r = &r};
    uint32_t last_block = vd_graph_last_block(g), head = vd_graph_head_unit(g);
    bool has_head = vd_graph_has_head(g, step);
    struct vd_hash unit[2], h;
    struct vd_hash salt = take_hash(&r);
    for (unsigned i = 0; i < 1u + has_head; i++)
        unit[i] = take_hash(&r);
    bool more = has_head && vd_graph_same_group(g, step, last_block, step, head);
    for (unsigned i = 0; i < 1u + has_head; i++)
        climb_add(&c, step, last_block + i, &unit[i], i == 0 && more);
    climb_to_state(&c, state_root);
    h = vd_commit_leaf(step, &unit[0], has_head ? &unit[1] : NULL);
    h = take_root(&r, g->job.n_steps, step, 1, &h);
    demand(&r, &h, &claim->commit_root);
    if (vd_graph_pools(g)) {
        struct vd_trace_at at = {salt, step, head, 0};
        if (step + 1 == g->job.n_steps)
            check_vector(claim, &r, &at, &unit[1]);
        return !r.bad && r.p == r.end;
    }
    const uint8_t *record = has_head ? take(&r, VD_TOKEN_RECORD_BYTES) : NULL;
    if (record) {
        struct vd_trace_at at = {salt, step, head, vd_graph_ops(g, step, head) - 1};
        struct vd_hash root[2] = {{{0}}};
        unsigned n = 0;
        if (g->job.sampling.has_mask)
            root[n++] = take_hash(&r); /* MASK_STATE's, which is not looked at */
        root[n++] = vd_trace_leaf(&at, 0, record, VD_TOKEN_RECORD_BYTES);
        h = vd_trace_unit(&at, root, n);
        demand(&r, &h, &unit[1]);
        check_record(claim, &r, step, record);
    }
    return !r.bad && r.p == r.end;
}
