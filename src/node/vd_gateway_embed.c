/* Embeddings: one job after the other, since each wants a worker's place while it runs, and a request that
 * holds some and waits for more could wait for itself. */
#include "vd_gateway_impl.h"
#include "vd_openai_embed.h"

#include <stdlib.h>

static bool embed_one(struct vd_gateway *g, const struct gw_model *m, struct vd_openai_embed *r, size_t i,
                      const struct vd_api_key *key, struct vd_openai_error *e)
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
    struct gw_answer a;
    uint32_t *ids, n_ids;
    char id[2 * VD_HASH_BYTES + 1];
    if (q.sampling.pooling == VD_POOLING_NONE)
        return vd_openai_fail(e, 400, "unsupported_value", "model",
                              "The model '%s' pools in a way that is not supported.", r->model);
    if (!vd_gateway_text_prompt(m->text, &q, &ids, &n_ids, e) ||
        !gw_answer_start(&a, g, m, &q, key, ids, n_ids, e))
        return false;
    enum gw_step s = GW_TEXT;
    while (s == GW_TEXT)
        s = gw_answer_next(&a, e);
    bool ok = s == GW_DONE;
    if (ok) {
        vd_hex_encode(id, a.receipt_id.b, VD_HASH_BYTES);
        ok = vd_openai_embed_add(r, a.job.output, a.receipt.n_output, n_ids, id, a.receipt.amount, e);
    }
    gw_answer_free(&a);
    return ok;
}

bool gw_embed(struct vd_gateway *g, const struct gw_model *m, struct vd_openai_embed *r,
              const struct vd_api_key *key, gw_alive_fn *alive, void *arg, struct vd_openai_error *e)
{
    for (size_t i = 0; i < r->n_inputs; i++) {
        if (i > 0 && !alive(arg))
            return vd_openai_fail(e, 400, "client_gone", NULL, "The client has hung up.");
        if (!embed_one(g, m, r, i, key, e))
            return false;
    }
    return true;
}
