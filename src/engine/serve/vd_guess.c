/* Lookup compares backwards from the end, without an index: even a hundred thousand tokens take far less time
 * than a forward pass, and most jobs have a few thousand. */
#include "vd_guess.h"

#include <assert.h>
#include <stdlib.h>

enum {
    MATCH_MIN = 3,       /* tokens that must have stood there; fewer are too often an accident */
    LOOK_BACK = 1 << 17, /* tokens */
    DRAFT_ROWS = 512,    /* of a call of the draft */
    GREEDY = VD_ROW_LOGITS | VD_ROW_FIRST,
};

size_t vd_guess_lookup(const uint32_t *tokens, size_t n, size_t max, uint32_t *out)
{
    if (n <= MATCH_MIN)
        return 0;
    const uint32_t *last = tokens + n - MATCH_MIN;
    size_t least = n > LOOK_BACK ? n - LOOK_BACK : 0, n_out = 0;
    for (size_t i = n - MATCH_MIN; i-- > least;) {
        if (memcmp(tokens + i, last, MATCH_MIN * sizeof *tokens) != 0)
            continue;
        /* where it runs into the end, the text is taken to go round */
        for (size_t period = n - MATCH_MIN - i; n_out < max; n_out++) {
            size_t at = i + MATCH_MIN + n_out;
            out[n_out] = at < n ? tokens[at] : out[n_out - period];
        }
        return n_out;
    }
    return 0;
}

/* ------------------------- a draft model ------------------------- */

struct vd_draft {
    const struct vd_model *m;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    struct vd_row rows[DRAFT_ROWS];
    size_t n_rows;
};

enum vd_err vd_draft_create(struct vd_draft **out, const struct vd_model *m, struct vd_pool *pool,
                            size_t n_seqs, size_t max_kv_bytes, struct vd_error *err)
{
    *out = NULL;
    assert(n_seqs > 0 && n_seqs <= DRAFT_ROWS);
    struct vd_draft *d = calloc(1, sizeof *d);
    if (!d)
        return vd_error_set(err, VD_ENOMEM, "no memory for a draft model");
    d->m = m;
    enum vd_err rc = vd_ctx_create(&d->ctx, m, pool, DRAFT_ROWS, n_seqs, err);
    if (rc == VD_OK)
        rc = vd_kv_pool_create(&d->cache, m, max_kv_bytes, err);
    if (rc == VD_OK)
        vd_kv_pool_set_pass(d->cache, DRAFT_ROWS);
    if (rc != VD_OK) {
        vd_draft_destroy(d);
        return rc;
    }
    *out = d;
    return VD_OK;
}

void vd_draft_destroy(struct vd_draft *d)
{
    if (!d)
        return;
    vd_kv_pool_destroy(d->cache);
    vd_ctx_destroy(d->ctx);
    free(d);
}

void vd_draft_drop(struct vd_draft_seq *s)
{
    vd_kv_close(s->kv);
    s->kv = NULL;
    s->n_fed = 0;
}

/* Cuts the cache back to what is known, with the newest token still to feed. False if there is no cache. */
static bool take_up(struct vd_draft *d, struct vd_draft_seq *s)
{
    struct vd_error err;
    if (!s->kv && vd_kv_open(&s->kv, d->cache, &err) != VD_OK)
        return false;
    size_t len = vd_kv_len(s->kv);
    for (size_t i = 0; i < s->n_fed; i++)
        if (s->fed_at + i >= s->n_known || s->fed[i] != s->tokens[s->fed_at + i]) {
            len = len < s->fed_at + i ? len : s->fed_at + i;
            break;
        }
    len = len < s->n_known - 1 ? len : s->n_known - 1;
    vd_kv_truncate(s->kv, vd_kv_reaches(s->kv, len) ? len : 0);
    s->n_fed = 0;
    s->fed_at = s->n_known;
    if (s->n_known + s->want > vd_model_program(d->m)->ctx)
        return false;
    return vd_kv_reserve(s->kv, s->n_known + s->want, &err) == VD_OK;
}

/* Rows of known tokens of s, as many as have room. */
static bool add_known(struct vd_draft *d, struct vd_draft_seq *s)
{
    size_t pos = vd_kv_len(s->kv), end = pos + (DRAFT_ROWS - d->n_rows);
    end = end < s->n_known ? end : s->n_known;
    for (; pos < end; pos++) {
        if (s->tokens[pos] >= vd_model_program(d->m)->vocab)
            return false;
        d->rows[d->n_rows++] =
            (struct vd_row){s->kv, (uint32_t)pos, s->tokens[pos], pos + 1 == s->n_known ? GREEDY : 0};
    }
    return true;
}

static void add_guess(struct vd_draft *d, struct vd_draft_seq *s)
{
    uint32_t token = s->out[s->n_out - 1];
    d->rows[d->n_rows++] = (struct vd_row){s->kv, (uint32_t)vd_kv_len(s->kv), token, GREEDY};
    s->fed[s->n_fed++] = token;
}

/* Runs the rows; those with logits are of the sequences that go on, in order. False ends the guessing. */
static bool run_rows(struct vd_draft *d, struct vd_draft_seq *const *seq, size_t n)
{
    struct vd_error err;
    if (d->n_rows == 0 || vd_model_forward(d->ctx, d->rows, d->n_rows, NULL, &err) != VD_OK)
        return false;
    for (size_t i = 0, row = 0; row < d->n_rows; row++) {
        if (!(d->rows[row].flags & VD_ROW_LOGITS))
            continue;
        while (i < n && seq[i]->kv != d->rows[row].kv)
            i++;
        struct vd_sample_max max;
        vd_ctx_take_first(d->ctx, row, &max);
        if (max.bad)
            seq[i]->want = seq[i]->n_out;
        else
            seq[i]->out[seq[i]->n_out++] = max.id;
    }
    return true;
}

void vd_draft_guess(struct vd_draft *d, struct vd_draft_seq *const *seq, size_t n)
{
    d->n_rows = 0;
    for (size_t i = 0; i < n; i++) {
        assert(seq[i]->want >= 1 && seq[i]->want <= VD_GUESS_MAX && seq[i]->n_known > 0);
        seq[i]->n_out = 0;
        if (!take_up(d, seq[i]) || !add_known(d, seq[i])) {
            vd_draft_drop(seq[i]);
            seq[i]->want = 0;
        }
    }
    while (run_rows(d, seq, n)) {
        d->n_rows = 0;
        for (size_t i = 0; i < n; i++)
            if (seq[i]->n_out > 0 && seq[i]->n_out < seq[i]->want)
                add_guess(d, seq[i]);
    }
}
