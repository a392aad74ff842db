#include "vd_worker_game.h"

#include <stdlib.h>
#include <string.h>

/* Of all traces and units that are kept, with what the next move takes; a receipt that is not this worker's
 * may want more for itself alone. */
static const uint64_t cache_bytes_max = VD_TRACE_FITS_BYTES;

enum vd_err vd_game_case_init(struct vd_game_case *c, const struct vd_envelope *envelope, uint32_t *tokens,
                              const struct vd_model *model, struct vd_error *err)
{
    memset(c, 0, sizeof *c);
    c->envelope = *envelope;
    c->tokens = tokens;
    c->receipt_id = vd_signed_receipt_id(&envelope->receipt);
    struct vd_bytes body = {c->envelope.receipt.body, c->envelope.receipt.body_bytes};
    enum vd_err e = VD_OK;
    if (vd_receipt_decode(body, &c->receipt) != VD_RECEIPT_OK)
        e = vd_error_set(err, VD_EFORMAT, "the receipt does not decode");
    else if (envelope->n_prompt != c->receipt.request.n_prompt || envelope->n_output != c->receipt.n_output)
        e = vd_error_set(err, VD_EFORMAT, "the receipt and its tokens differ in number");
    else if (!vd_ref_claim_init(&c->claim, &c->receipt, vd_model_program(model),
                                vd_model_program_bytes(model)))
        e = vd_error_set(err, VD_EUNSUPPORTED, "the model's program cannot run the receipt's job");
    c->job = (struct vd_proof_job){.receipt = &c->receipt,
                                   .prompt = c->envelope.prompt,
                                   .output = c->envelope.output,
                                   .job_salt = c->envelope.job_salt,
                                   .controls = c->envelope.controls};
    if (e != VD_OK)
        vd_game_case_free(c);
    return e;
}

void vd_game_case_free(struct vd_game_case *c)
{
    free(c->tokens);
    memset(c, 0, sizeof *c);
}

enum vd_err vd_game_fetch(struct vd_ledger_client *ledger, const struct vd_hash *dispute,
                          const struct vd_game_case *c, struct vd_dispute *record, struct vd_game *game,
                          struct vd_error *err)
{
    struct vd_ledger_answer a;
    enum vd_err e = vd_ledger_client_dispute(ledger, dispute, record, err);
    if (e != VD_OK || !vd_dispute_open(record->status))
        return e;
    struct vd_state_key key = vd_state_key_make(VD_STATE_GAME, dispute->b, VD_HASH_BYTES, NULL);
    e = vd_ledger_client_get(ledger, &key, VD_LEDGER_QUERY_TIMEOUT_MS, &a, err);
    if (e != VD_OK)
        return e;
    if (a.n_items != 1 || !vd_game_decode(a.item[0], &c->claim, game))
        e = vd_error_set(err, VD_EFORMAT, "the ledger's record of the game does not decode");
    vd_ledger_answer_free(&a);
    return e;
}

/* ---- Traces that are kept ---- */

static uint64_t unit_bytes(const struct vd_trace_unit_data *u)
{
    return u->memory ? u->memory_bytes : 0;
}

static uint64_t trace_bytes(const struct vd_game_trace *t)
{
    if (!t->trace)
        return 0;
    return vd_trace_bytes(vd_trace_model_trace(t->trace));
}

static void unit_free(struct vd_game_unit *u)
{
    free(u->u.memory);
    memset(u, 0, sizeof *u);
}

static struct vd_game_unit *unit_of(struct vd_game_traces *ts, const struct vd_hash *receipt_id,
                                    uint32_t step, uint32_t unit)
{
    for (size_t i = 0; i < VD_GAME_UNITS_MAX; i++) {
        struct vd_game_unit *u = &ts->unit[i];
        if (u->u.memory && u->u.step == step && u->u.unit == unit && vd_hash_eq(&u->receipt_id, receipt_id))
            return u;
    }
    return NULL;
}

/* A free place, or that of the unit used longest ago. */
static struct vd_game_unit *unit_place(struct vd_game_traces *ts)
{
    struct vd_game_unit *oldest = &ts->unit[0];
    for (size_t i = 0; i < VD_GAME_UNITS_MAX && oldest->u.memory; i++)
        if (!ts->unit[i].u.memory || ts->unit[i].used < oldest->used)
            oldest = &ts->unit[i];
    unit_free(oldest);
    return oldest;
}

/* Frees what was used longest ago until the rest has room beside `more` bytes; never what was used last. */
static void trim(struct vd_game_traces *ts, uint64_t more)
{
    for (;;) {
        struct vd_game_unit *unit = NULL;
        struct vd_game_trace *trace = NULL;
        uint64_t bytes = more, used = ts->used;
        for (size_t i = 0; i < VD_GAME_UNITS_MAX; i++) {
            bytes += unit_bytes(&ts->unit[i].u);
            if (ts->unit[i].u.memory && ts->unit[i].used < used) {
                unit = &ts->unit[i];
                used = unit->used;
            }
        }
        for (size_t i = 0; i < VD_GAME_TRACES_MAX; i++) {
            bytes += ts->trace[i] ? trace_bytes(ts->trace[i]) : 0;
            if (ts->trace[i] && ts->trace[i]->used < used) {
                trace = ts->trace[i];
                used = trace->used;
            }
        }
        if (bytes <= cache_bytes_max || (!unit && !trace))
            return;
        if (trace)
            vd_game_traces_drop(ts, trace);
        else
            unit_free(unit);
    }
}

struct vd_game_trace *vd_game_traces_get(struct vd_game_traces *ts, const struct vd_hash *receipt_id)
{
    for (size_t i = 0; i < VD_GAME_TRACES_MAX; i++)
        if (ts->trace[i] && vd_hash_eq(&ts->trace[i]->c.receipt_id, receipt_id)) {
            ts->trace[i]->used = ++ts->used;
            return ts->trace[i];
        }
    return NULL;
}

enum vd_err vd_game_traces_put(struct vd_game_traces *ts, const struct vd_envelope *envelope,
                               uint32_t *tokens, struct vd_model *model, struct vd_game_trace **out,
                               struct vd_error *err)
{
    struct vd_game_trace **place = &ts->trace[0];
    for (size_t i = 0; i < VD_GAME_TRACES_MAX && *place; i++)
        if (!ts->trace[i] || ts->trace[i]->used < (*place)->used)
            place = &ts->trace[i];
    struct vd_game_trace *t = calloc(1, sizeof *t);
    if (!t) {
        free(tokens);
        return vd_error_set(err, VD_ENOMEM, "no memory for a trace");
    }
    enum vd_err e = vd_game_case_init(&t->c, envelope, tokens, model, err);
    if (e != VD_OK) {
        free(t);
        return e;
    }
    if (*place)
        vd_game_traces_drop(ts, *place);
    t->model = model;
    t->used = ++ts->used;
    *place = *out = t;
    trim(ts, vd_trace_most_bytes(&t->c.claim.graph));
    return VD_OK;
}

void vd_game_traces_drop(struct vd_game_traces *ts, struct vd_game_trace *t)
{
    for (size_t i = 0; i < VD_GAME_TRACES_MAX; i++)
        if (ts->trace[i] == t)
            ts->trace[i] = NULL;
    for (size_t i = 0; i < VD_GAME_UNITS_MAX; i++)
        if (vd_hash_eq(&ts->unit[i].receipt_id, &t->c.receipt_id))
            unit_free(&ts->unit[i]);
    vd_trace_model_close(t->trace);
    vd_game_case_free(&t->c);
    free(t);
}

void vd_game_traces_clear(struct vd_game_traces *ts)
{
    for (size_t i = 0; i < VD_GAME_TRACES_MAX; i++)
        if (ts->trace[i])
            vd_game_traces_drop(ts, ts->trace[i]);
    for (size_t i = 0; i < VD_GAME_UNITS_MAX; i++)
        unit_free(&ts->unit[i]);
}

enum vd_err vd_game_trace_open(struct vd_game_trace *t, struct vd_ctx *ctx, struct vd_kv_pool *cache,
                               struct vd_error *err)
{
    if (!t->trace)
        return vd_trace_model_open(&t->trace, t->model, ctx, cache, &t->c.job, err);
    vd_trace_model_use(t->trace, cache);
    return VD_OK;
}

void vd_game_unit_in(struct vd_game_traces *ts, struct vd_game_trace *t, const struct vd_game *game)
{
    struct vd_game_unit *kept = unit_of(ts, &t->c.receipt_id, game->step, game->unit);
    struct vd_trace *trace = vd_trace_model_trace(t->trace);
    t->used = ++ts->used;
    if (!kept) {
        trim(ts, vd_trace_most_bytes(&trace->graph) - vd_trace_bytes(trace));
        return;
    }
    free(trace->u.memory);
    trace->u = kept->u;
    memset(kept, 0, sizeof *kept);
}

void vd_game_unit_out(struct vd_game_traces *ts, struct vd_game_trace *t)
{
    struct vd_trace *trace = vd_trace_model_trace(t->trace);
    t->used = ++ts->used;
    if (!trace->u.loaded) /* half of one is none */
        free(trace->u.memory);
    else
        *unit_place(ts) = (struct vd_game_unit){t->c.receipt_id, ts->used, trace->u};
    memset(&trace->u, 0, sizeof trace->u);
    trim(ts, 0);
}
