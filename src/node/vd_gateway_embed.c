/* Embeddings: all inputs are looked at, and what they can cost is reserved, before the first is sent: a
 * request that cannot be answered in full costs nothing. Then one job after the other, since each wants a
 * worker's place while it runs, and a request that holds some and waits for more could wait for itself. */
#include "vd_gateway_impl.h"
#include "vd_openai_embed.h"

#include <stdlib.h>

static bool prepare(struct gw_answer *a, struct vd_gateway *g, const struct gw_model *m,
                    const struct vd_openai_embed *r, size_t i, const struct vd_api_key *key,
                    struct vd_openai_error *e)
{
    struct vd_openai_request q = {
        .kind = VD_OPENAI_EMBEDDING,
        .model = r->model,
        .prompt = r->input[i].text,
        .ids = r->input[i].ids,
        .n_ids = r->input[i].n_ids,
        .max_tokens = vd_gateway_text_width(m->text),
        .sampling = {.pooling = vd_gateway_text_pooling(m->text), .top_p_micro = VD_SAMPLE_MICRO},
        .has_seed = true,
        .n = 1};
    uint32_t *ids, n_ids;
    if (q.sampling.pooling == VD_POOLING_NONE)
        return vd_openai_fail(e, 400, "unsupported_value", "model",
                              "The model '%s' pools in a way that is not supported.", r->model);
    return vd_gateway_text_prompt(m->text, &q, &ids, &n_ids, e) &&
           gw_answer_start(a, g, m, &q, key, ids, n_ids, e);
}

static bool embed_one(struct gw_answer *a, struct vd_openai_embed *r, struct vd_openai_error *e)
{
    char id[2 * VD_HASH_BYTES + 1];
    enum gw_step s = GW_TEXT;
    while (s == GW_TEXT)
        s = gw_answer_next(a, e);
    if (s != GW_DONE)
        return false;
    vd_hex_encode(id, a->receipt_id.b, VD_HASH_BYTES);
    return vd_openai_embed_add(r, a->job.output, a->receipt.n_output, a->job.n_prompt, id, a->receipt.amount,
                               e);
}

bool gw_embed(struct vd_gateway *g, const struct gw_model *m, struct vd_openai_embed *r,
              const struct vd_api_key *key, gw_alive_fn *alive, void *arg, struct vd_openai_error *e)
{
    struct gw_answer *a = calloc(r->n_inputs, sizeof *a);
    struct gw_answer **each = calloc(r->n_inputs, sizeof *each);
    struct gw_siblings all;
    size_t n = 0, done = 0;
    bool ok = a && each;
    if (!ok)
        vd_openai_fail(e, 503, "out_of_memory", NULL, "The server is out of memory; try again later.");
    for (; ok && n < r->n_inputs; n += ok) {
        each[n] = &a[n];
        ok = prepare(&a[n], g, m, r, n, key, e);
    }
    if (ok)
        gw_answers_join(each, n, false, &all);
    for (; ok && done < n; done += ok) {
        ok =
            done == 0 || alive(arg) || vd_openai_fail(e, 400, "client_gone", NULL, "The client has hung up.");
        ok = ok && embed_one(&a[done], r, e);
    }
    for (size_t i = 0; i < n; i++)
        gw_answer_free(&a[i]);
    free(each);
    free(a);
    return ok;
}
