/* One position's hashes are dozens of short messages, and one message keeps a core waiting for itself; of
 * sixteen positions each of these messages comes sixteen times in one length, which are hashed side by side
 * (vd_sha256_many). So the records wait in slots, one a position, laid out as messages: each leaf with room
 * for its address before it. A batch begins at a multiple of sixteen, as the salts do; after a root was asked
 * for, the rest of a batch is hashed on its own.
 *
 * While a model decodes, this matters more than the hashing itself: between two tokens the weights have gone
 * through the caches, and code that runs once a token is fetched from memory each time. */
#include "vd_commit.h"

#include "vd_num.h"
#include "vd_unit.h"

#include <assert.h>
#include <stdlib.h>

enum { BATCH = 16, HEAD = VD_TRACE_LEAF_HEAD_BYTES };

/* An operator that a unit hash binds: where its leaves lie in a slot. */
struct bound {
    struct vd_graph_op op;
    uint32_t number, n_leaves;
    size_t leaf_bytes, n_bytes, at;
};

struct bound_unit {
    uint32_t unit;
    unsigned n;
    struct bound out[VD_GRAPH_OUTS_MAX];
};

struct vd_commit {
    struct vd_graph graph; /* n_output and n_steps are not known yet and not used */
    uint8_t job_salt[VD_JOB_SALT_BYTES];
    uint32_t n_steps, n_output;
    uint32_t n_hashed;               /* of n_steps; the others wait in their slots */
    uint32_t n_left;                 /* leaves of the left half of the commit tree; UINT32_MAX: not known */
    struct vd_hash salts[2 * BATCH]; /* of the batch that n_hashed is in, and of the next, since a token is
                                      * hashed under the next position's */
    struct vd_merkle_stream half[2], output;
    struct vd_hash vector;  /* the output root of a vector */
    struct vd_hash unit[2]; /* of the position hashed last: block, head (zeros: none) */

    struct bound_unit block, head; /* head.n is 0 if the result is a vector */
    enum vd_stop stop[BATCH];
    uint32_t token[BATCH];
    struct vd_hash pooled[BATCH]; /* the pooling unit's hash, zeros without one */
    struct vd_hash *leaf;         /* scratch: of one operator at all positions of a batch */
    uint8_t *slot;                /* BATCH of slot_bytes each */
    size_t slot_bytes;
};

/* Leaves of the operators that this unit binds at a step where it has all of them, behind what is in the slot
 * so far. Returns the most leaves of one. */
static uint32_t lay_out(struct vd_commit *c, struct bound_unit *u, uint32_t unit)
{
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    uint32_t step = c->graph.job.n_prompt - 1, most = 0;
    u->unit = unit;
    u->n = vd_graph_outs(&c->graph, step, unit, ops);
    for (unsigned i = 0; i < u->n; i++) {
        struct bound *b = &u->out[i];
        b->number = ops[i];
        vd_graph_op(&c->graph, step, unit, ops[i], &b->op);
        b->n_leaves = (uint32_t)vd_graph_leaves(&b->op);
        b->leaf_bytes = (size_t)b->op.leaf_records * b->op.record_bytes;
        b->n_bytes = (size_t)b->op.n_records * b->op.record_bytes;
        b->leaf_bytes = b->leaf_bytes < b->n_bytes ? b->leaf_bytes : b->n_bytes;
        b->at = c->slot_bytes;
        c->slot_bytes += b->n_leaves * (HEAD + b->leaf_bytes);
        most = b->n_leaves > most ? b->n_leaves : most;
    }
    return most;
}

enum vd_err vd_commit_open(struct vd_commit **out, const struct vd_program *program,
                           const struct vd_request *q, uint32_t n_steps,
                           const uint8_t job_salt[VD_JOB_SALT_BYTES], struct vd_error *err)
{
    struct vd_commit *c = calloc(1, sizeof *c);
    uint32_t n_leaves = 0, n_head = 0;
    assert(q->n_prompt >= 1);
    *out = NULL;
    if (c) {
        c->graph = (struct vd_graph){program,
                                     {.n_prompt = q->n_prompt,
                                      .n_steps = UINT32_MAX,
                                      .max_tokens = q->max_tokens,
                                      .sampling = q->sampling}};
        n_leaves = lay_out(c, &c->block, vd_graph_last_block(&c->graph));
        if (!vd_graph_pools(&c->graph))
            n_head = lay_out(c, &c->head, vd_graph_head_unit(&c->graph));
        n_leaves = n_leaves > n_head ? n_leaves : n_head;
        c->slot_bytes |= 64; /* no power of two: the lanes' lines would share few sets of a cache */
        c->leaf = malloc((size_t)BATCH * n_leaves * sizeof *c->leaf);
        c->slot = malloc(BATCH * c->slot_bytes);
    }
    if (!c || !c->leaf || !c->slot) {
        vd_commit_close(c);
        return vd_error_set(err, VD_ENOMEM, "no memory for a commitment");
    }
    memcpy(c->job_salt, job_salt, sizeof c->job_salt);
    c->n_left = n_steps == UINT32_MAX ? UINT32_MAX : (uint32_t)vd_merkle_left(n_steps);
    vd_trace_salts(job_salt, 0, 2 * BATCH, c->salts);
    for (int i = 0; i < 2; i++)
        vd_merkle_stream_init(&c->half[i]);
    vd_merkle_stream_init(&c->output);
    *out = c;
    return VD_OK;
}

void vd_commit_close(struct vd_commit *c)
{
    if (!c)
        return;
    free(c->leaf);
    free(c->slot);
    free(c);
}

/* ---- adding ---- */

static void put_floats(uint8_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        vd_le32_store(out + 4 * i, vd_f32_bits(vd_num_canon(x[i])));
}

/* A row's records, each leaf to its place. x instead of records: floats. */
static void put_leaves(const struct bound *b, uint8_t *slot, const uint8_t *records, const float *x)
{
    size_t left = b->n_bytes;
    for (uint8_t *to = slot + b->at + HEAD; left > 0; to += HEAD + b->leaf_bytes) {
        size_t n = left < b->leaf_bytes ? left : b->leaf_bytes, from = b->n_bytes - left;
        if (x)
            put_floats(to, x + from / 4, n / 4);
        else
            memcpy(to, records + from, n);
        left -= n;
    }
}

static uint8_t *slot_of(const struct vd_commit *c, uint32_t step)
{
    return c->slot + step % BATCH * c->slot_bytes;
}

static void put_rows(struct vd_commit *c, const struct vd_graph_rows *rows)
{
    uint8_t *slot = slot_of(c, c->n_steps);
    assert(vd_graph_has_row(&c->graph, c->n_steps) == (rows->x != NULL));
    for (unsigned i = 0; i < c->block.n; i++) {
        const struct bound *b = &c->block.out[i];
        if (b->op.kind == VD_OP_KROW)
            put_leaves(b, slot, rows->k, NULL);
        else if (b->op.kind == VD_OP_VROW)
            put_leaves(b, slot, rows->v, NULL);
        else if (rows->x)
            put_leaves(b, slot, NULL, rows->x);
    }
}

static void hash_waiting(struct vd_commit *c);

static void added(struct vd_commit *c)
{
    if (++c->n_steps % BATCH == 0)
        hash_waiting(c);
}

void vd_commit_add(struct vd_commit *c, const struct vd_graph_rows *rows, uint32_t token, enum vd_stop stop,
                   const struct vd_automaton_state *mask)
{
    put_rows(c, rows);
    if (vd_graph_has_head(&c->graph, c->n_steps)) {
        uint8_t record[VD_AUTOMATON_STATE_BYTES], *slot = slot_of(c, c->n_steps);
        if (c->head.n == 2) {
            assert(mask);
            vd_automaton_state_store(record, mask);
            put_leaves(&c->head.out[0], slot, record, NULL);
        }
        vd_le32_store(record, token);
        vd_le32_store(record + 4, stop);
        put_leaves(&c->head.out[c->head.n - 1], slot, record, NULL);
        c->token[c->n_steps % BATCH] = token;
        c->stop[c->n_steps % BATCH] = stop;
        c->n_output += stop != VD_STOP_FAIL;
    }
    added(c);
}

void vd_commit_add_vector(struct vd_commit *c, const struct vd_graph_rows *rows, const float *sum,
                          const float *vector)
{
    struct vd_hash outs[VD_GRAPH_OUTS_MAX], *pooled = &c->pooled[c->n_steps % BATCH];
    put_rows(c, rows);
    *pooled = (struct vd_hash){{0}};
    if (vd_graph_has_head(&c->graph, c->n_steps))
        *pooled = vd_unit_pool(&c->graph, &c->salts[c->n_steps % BATCH], c->n_steps, sum, vector, outs);
    if (vector) {
        c->vector = outs[sum ? 1 : 0];
        c->n_output = c->graph.program->width;
    }
    added(c);
}

/* ---- hashing ---- */

/* Steps from number `from` of these on. */
static struct vd_trace_steps tail(const struct vd_trace_steps *s, size_t from)
{
    return (struct vd_trace_steps){s->first + (uint32_t)from, s->n - from, s->salt + from};
}

/* An operator's root at each of these steps. */
static void op_roots(struct vd_commit *c, const struct vd_trace_steps *s, uint32_t unit,
                     const struct bound *b, struct vd_hash *out)
{
    uint8_t *msg = slot_of(c, s->first) + b->at;
    size_t left = b->n_bytes;
    for (uint32_t k = 0; k < b->n_leaves; k++) {
        size_t n = left < b->leaf_bytes ? left : b->leaf_bytes;
        vd_trace_leaves(s, unit, b->number, k, msg, c->slot_bytes, n, c->leaf + k * s->n);
        msg += HEAD + b->leaf_bytes;
        left -= n;
    }
    vd_merkle_roots(c->leaf, b->n_leaves, s->n);
    memcpy(out, c->leaf, s->n * sizeof *out);
}

/* The last block's unit hashes; before number n_short it has no X row. */
static void hash_blocks(struct vd_commit *c, const struct vd_trace_steps *s, size_t n_short,
                        struct vd_hash *out)
{
    struct vd_hash roots[VD_GRAPH_OUTS_MAX * BATCH] = {{{0}}};
    for (unsigned i = 0; i < c->block.n; i++) {
        const struct bound *b = &c->block.out[i];
        bool from_cache = b->op.kind == VD_OP_KROW || b->op.kind == VD_OP_VROW;
        size_t from = from_cache ? 0 : n_short;
        struct vd_trace_steps some = tail(s, from);
        op_roots(c, &some, c->block.unit, b, roots + i * s->n + from);
    }
    vd_trace_units(s, c->block.unit, roots, c->block.n, out);
}

/* The head's, and the tokens' leaves in the output tree. A replayed answer may hold a FAIL anywhere. */
static void hash_heads(struct vd_commit *c, const struct vd_trace_steps *s, struct vd_hash *out)
{
    struct vd_hash roots[VD_GRAPH_OUTS_MAX * BATCH], leaf[BATCH];
    const enum vd_stop *stop = c->stop + s->first % BATCH;
    for (unsigned i = 0; i < c->head.n; i++)
        op_roots(c, s, c->head.unit, &c->head.out[i], roots + i * s->n);
    vd_trace_units(s, c->head.unit, roots, c->head.n, out);
    for (size_t i = 0, n; i < s->n; i += n + 1) {
        for (n = 0; i + n < s->n && stop[i + n] != VD_STOP_FAIL;)
            n++;
        vd_token_leaves(s->salt + i + 1, s->first + (uint32_t)i + 1, c->token + s->first % BATCH + i, n,
                        leaf);
        vd_merkle_stream_add_all(&c->output, leaf, n);
    }
}

static void add_leaves(struct vd_commit *c, const struct vd_hash *leaf, uint32_t n)
{
    uint32_t left = c->n_hashed < c->n_left ? c->n_left - c->n_hashed : 0;
    left = left < n ? left : n;
    vd_merkle_stream_add_all(&c->half[0], leaf, left);
    vd_merkle_stream_add_all(&c->half[1], leaf + left, n - left);
}

/* Everything that has been added and not hashed: at most the rest of a batch. */
static void hash_waiting(struct vd_commit *c)
{
    struct vd_trace_steps s = {c->n_hashed, c->n_steps - c->n_hashed, c->salts + c->n_hashed % BATCH};
    struct vd_hash block[BATCH], head[BATCH] = {{{0}}}, leaf[BATCH];
    size_t n_short = 0;
    if (s.n == 0)
        return;
    while (n_short < s.n && !vd_graph_has_row(&c->graph, s.first + (uint32_t)n_short))
        n_short++;
    hash_blocks(c, &s, n_short, block);
    if (vd_graph_pools(&c->graph)) {
        memcpy(head, c->pooled + s.first % BATCH, s.n * sizeof *head);
    } else if (n_short < s.n) {
        struct vd_trace_steps with_head = tail(&s, n_short);
        hash_heads(c, &with_head, head + n_short);
    }
    vd_commit_leaves(s.first, s.n, block, head, leaf);
    add_leaves(c, leaf, (uint32_t)s.n);
    c->unit[0] = block[s.n - 1];
    c->unit[1] = head[s.n - 1];
    c->n_hashed = c->n_steps;
    if (c->n_hashed % BATCH == 0) {
        memcpy(c->salts, c->salts + BATCH, BATCH * sizeof *c->salts);
        vd_trace_salts(c->job_salt, c->n_hashed + BATCH, BATCH, c->salts + BATCH);
    }
}

/* ---- what comes of it ---- */

uint32_t vd_commit_n_steps(const struct vd_commit *c)
{
    return c->n_steps;
}

uint32_t vd_commit_n_output(const struct vd_commit *c)
{
    return c->n_output;
}

struct vd_hash vd_commit_root(struct vd_commit *c)
{
    assert(c->n_steps >= 1);
    hash_waiting(c);
    struct vd_hash left = vd_merkle_stream_root(&c->half[0]), right;
    if (c->half[1].n == 0)
        return left;
    right = vd_merkle_stream_root(&c->half[1]);
    return vd_merkle_node(&left, &right);
}

void vd_commit_halves(struct vd_commit *c, struct vd_hash half[2])
{
    assert(c->n_left != UINT32_MAX);
    hash_waiting(c);
    for (int i = 0; i < 2; i++)
        half[i] = c->half[1].n ? vd_merkle_stream_root(&c->half[i]) : c->unit[i];
}

struct vd_hash vd_commit_output_root(struct vd_commit *c)
{
    hash_waiting(c);
    if (c->n_output == 0)
        return (struct vd_hash){{0}};
    if (vd_graph_pools(&c->graph))
        return c->vector;
    return vd_merkle_stream_root(&c->output);
}
