/* The pieces that both shapes of a forward pass share. They work on ranges of rows and know nothing of
 * threads, but for the head, whose product is shared by rows of the vocabulary in both. */
#include "vd_forward_impl.h"
#include "vd_quant.h"

enum {
    HEAD_STEP = 256, /* logits of a task */
};

struct vd_kern_rhs vd_fw_quant(const struct vd_model *m, unsigned forms, const float *in, size_t ld,
                               size_t cols, size_t t0, size_t t1, const struct acts *act)
{
    if (forms & VD_ACT_FORM_32)
        m->kern->act_quant(in, ld, cols, t0, t1, act->by32);
    if (forms & VD_ACT_FORM_256)
        m->kern->act256_quant(in, ld, cols, t0, t1, act->by256);
    return (struct vd_kern_rhs){.act = act->by32, .x = in, .ldx = ld, .act256 = act->by256};
}

struct vd_kern_rhs vd_fw_norm_quant(const struct vd_model *m, unsigned forms, const float *x, const float *w,
                                    size_t t0, size_t t1, float *h, const struct acts *act)
{
    size_t d = m->dims.d;
    if (!w)
        return vd_fw_quant(m, forms, x, d, d, t0, t1, act);
    for (size_t t = t0; t < t1; t++)
        m->kern->rmsnorm(x + t * d, w, d, m->program.eps, h + t * d);
    return vd_fw_quant(m, forms, h, d, d, t0, t1, act);
}

void vd_fw_bias(const struct vd_model *m, const float *bias, size_t r0, size_t r1, float *y, size_t ld,
                size_t n)
{
    for (size_t t = 0; bias && t < n; t++)
        m->kern->add(y + t * ld + r0, bias + r0, r1 - r0, y + t * ld + r0);
}

static void layernorm(const struct vd_model *m, struct vd_norm_weights norm, float *x)
{
    m->kern->layernorm(x, norm.w, norm.b, m->dims.d, m->program.eps, x);
}

void vd_fw_add_rows(const struct vd_model *m, struct vd_half_end end, float *y, size_t n, float *x)
{
    size_t d = m->dims.d;
    vd_fw_bias(m, end.bias, 0, d, y, d, n);
    for (size_t t = 0; end.norm.w && !m->encoder && t < n; t++)
        m->kern->rmsnorm(y + t * d, end.norm.w, d, m->program.eps, y + t * d);
    m->kern->add(x, y, n * d, x);
    for (size_t t = 0; m->encoder && t < n; t++)
        layernorm(m, end.norm, x + t * d);
}

void vd_fw_up(const struct vd_model *m, const struct vd_layer *l, const struct vd_kern_rhs *rhs, size_t r0,
              size_t r1, size_t n, float *gate, float *up, size_t ld_up, size_t up_first, void *scratch)
{
    size_t ff = m->dims.ff;
    float *g = gate + r0, *u = up + (r0 - up_first);
    if (m->ungated) {
        m->kern->matmul(&l->up, r0, r1, rhs, 0, n, gate, ff, scratch);
        vd_fw_bias(m, l->up_bias, r0, r1, gate, ff, n);
        for (size_t t = 0; t < n; t++)
            m->kern->gelu(g + t * ff, r1 - r0, g + t * ff);
        return;
    }
    m->kern->matmul(&l->gate, r0, r1, rhs, 0, n, gate, ff, scratch);
    vd_fw_bias(m, l->gate_bias, r0, r1, gate, ff, n);
    m->kern->matmul(&l->up, r0, r1, rhs, 0, n, vd_fw_moved_back(up, up_first), ld_up, scratch);
    vd_fw_bias(m, l->up_bias, r0, r1, vd_fw_moved_back(up, up_first), ld_up, n);
    for (size_t t = 0; t < n; t++)
        m->glu(g + t * ff, u + t * ld_up, r1 - r0, g + t * ff);
}

/* The cosines and sines by which a layer rotates row t. */
static float *rope_of(const struct vd_ctx *ctx, const struct rows *r, size_t t, unsigned table)
{
    const struct vd_dims *dims = &ctx->m->dims;
    return r->rope + (t * dims->n_tables + table) * 2 * dims->n_pairs;
}

/* Norms (if w) and rotates n heads of row t in place. */
static void place_heads(const struct vd_ctx *ctx, const struct rows *r, const struct vd_layer *l, size_t t,
                        const float *w, float *x, size_t n)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    for (size_t i = 0; w && i < n; i++)
        m->kern->rmsnorm(x + i * dims->hd, w, dims->hd, m->program.eps, x + i * dims->hd);
    if (dims->n_tables > 0)
        m->kern->rope(x, n, dims->hd, rope_of(ctx, r, t, l->rope_table), dims->n_pairs, m->rope_halves);
}

void vd_fw_put_kv(const struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0,
                  size_t t1)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    const struct vd_layer *l = &m->layers[layer];
    for (size_t t = t0; t < t1; t++) {
        const struct row *row = &r->row[t];
        struct vd_kern_kv kv = vd_fw_kv(m, row, layer, g);
        float *k = r->qkv + t * ctx->ld_qkv + dims->q_cols + g * dims->hd;
        uint8_t *page = (uint8_t *)(uintptr_t)kv.pages[row->pos / VD_KV_PAGE_POS];
        place_heads(ctx, r, l, t, l->k_norm, k, 1);
        m->kern->kv_put(page + kv.offset, dims->hd, row->pos % VD_KV_PAGE_POS, k, k + dims->k_cols);
    }
}

size_t vd_fw_queries(const struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0,
                     size_t t1, bool rotate, struct vd_kern_query *query)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    const struct vd_layer *l = &m->layers[layer];
    size_t group = dims->n_heads / dims->n_kv, n = 0;
    for (size_t t = t0; t < t1; t++) {
        float *q = r->qkv + t * ctx->ld_qkv + g * group * dims->hd;
        uint32_t pos = r->row[t].pos, begin = vd_program_first_key(&m->program, (uint32_t)layer, pos);
        if (rotate)
            place_heads(ctx, r, l, t, l->q_norm, q, group);
        for (size_t h = 0; h < group; h++, q += dims->hd)
            query[n++] = (struct vd_kern_query){q, q, begin, r->row[t].end};
    }
    return n;
}

/* The queries of kv head g of rows [t0, t1) as QROW records: attention's result replaces them. */
static void keep_queries(const struct vd_ctx *ctx, const struct rows *r, size_t g, size_t t0, size_t t1,
                         const struct vd_kern_query *query)
{
    const struct vd_dims *dims = &ctx->m->dims;
    size_t group = dims->n_heads / dims->n_kv, row_bytes = vd_model_q_row_bytes(ctx->m);
    size_t head_bytes = row_bytes / dims->n_heads, n_blocks = dims->hd / VD_KERN_BLOCK;
    for (size_t t = t0; t < t1; t++)
        for (size_t h = 0; h < group; h++, query++) {
            uint8_t *to = r->q + t * row_bytes + (g * group + h) * head_bytes;
            for (size_t b = 0; b < n_blocks; b++, to += 4 + VD_KERN_BLOCK) {
                float d;
                vd_num_quant8_spread(query->q + b * VD_KERN_BLOCK, VD_KERN_BLOCK, (int8_t *)to + 4, &d);
                vd_le32_store(to, vd_f32_bits(d));
            }
        }
}

void vd_fw_attend(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0, size_t t1,
                  struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    struct vd_kern_kv kv = vd_fw_kv(m, &r->row[t0], layer, g);
    size_t n = vd_fw_queries(ctx, r, layer, g, t0, t1, true, buf->query);
    if (m->encoder && ctx->tap)
        keep_queries(ctx, r, g, t0, t1, buf->query);
    m->kern->attn(&kv, m->score, buf->query, n, buf->scratch);
}

void vd_fw_tell(const struct vd_ctx *ctx, const struct rows *r, size_t layer, bool with_x, size_t t0,
                size_t t1, unsigned thread)
{
    const struct vd_tap *tap = ctx->tap;
    const struct thread_buf *buf = &ctx->thread[thread];
    for (size_t t = t0; t < t1; t++) {
        const struct row *row = &r->row[t];
        const float *x = with_x ? r->x + t * ctx->m->dims.d : NULL;
        if (layer == 0) {
            tap->row(tap->arg, row->source, 0, &(struct vd_graph_rows){.x = x}, thread);
            continue;
        }
        const void *const *pages = row->pages[ctx->m->layers[layer - 1].kv_kind];
        vd_model_read_rows(ctx->m, pages[row->pos / VD_KV_PAGE_POS], layer - 1, row->pos % VD_KV_PAGE_POS,
                           buf->k, buf->v);
        struct vd_graph_rows rows = {NULL, buf->k, buf->v, x};
        if (!ctx->m->encoder) {
            tap->row(tap->arg, row->source, (uint32_t)layer, &rows, thread);
            continue;
        }
        rows.q = r->q + t * vd_model_q_row_bytes(ctx->m);
        rows.x = NULL;
        tap->row(tap->arg, row->source, 2 * (uint32_t)layer - 1, &rows, thread);
        tap->row(tap->arg, row->source, 2 * (uint32_t)layer, &(struct vd_graph_rows){.x = x}, thread);
    }
}

void vd_fw_tell_unwanted(const struct vd_ctx *ctx, const struct vd_team *team, unsigned thread)
{
    for (size_t t = thread; t < ctx->all.n; t += vd_team_threads(team))
        if (ctx->hidden_slot[t] == SIZE_MAX)
            vd_fw_tell(ctx, &ctx->all, ctx->m->dims.n_layers, false, t, t + 1, thread);
}

/* What an encoder adds to the token's row: those of the text's kind and of the position; then the norm. */
static void embed_encoder(const struct vd_ctx *ctx, size_t t, float *x)
{
    const struct vd_model *m = ctx->m;
    size_t d = m->dims.d;
    if (m->token_type)
        m->kern->add(x, m->token_type, d, x);
    if (m->position_tensor) {
        const struct vd_tensor *table = &m->tensors[m->position_tensor];
        float *row =
            ctx->all.qkv + t * ctx->ld_qkv; /* room that is not in use yet; d floats fit, see carve_rows */
        m->kern->embed_row(table->shape.type, d, table->p, ctx->all.row[t].pos, row);
        m->kern->add(x, row, d, x);
    }
    layernorm(m, m->embed_norm, x);
}

void vd_fw_embed(const struct vd_ctx *ctx, size_t t)
{
    const struct vd_model *m = ctx->m;
    const struct vd_program *p = &m->program;
    const struct vd_dims *dims = &m->dims;
    const struct rows *r = &ctx->all;
    float *x = r->x + t * dims->d;
    m->kern->embed_row(m->tensors[0].shape.type, dims->d, m->tensors[0].p, ctx->call[t].token, x);
    if (p->embed_scale != 1.0f)
        m->kern->scale(x, p->embed_scale, dims->d, x);
    if (m->encoder)
        embed_encoder(ctx, t, x);
    for (unsigned i = 0; i < dims->n_tables; i++) {
        float *cs = rope_of(ctx, r, t, i);
        m->kern->rope_table(r->row[t].pos, p->rope_steps[i], dims->n_pairs, cs);
        if (p->rope_scale[i] != 1.0f)
            m->kern->scale(cs, p->rope_scale[i], 2 * dims->n_pairs, cs);
    }
}

void vd_fw_gather_row(const struct vd_ctx *ctx, size_t i)
{
    const struct vd_dims *dims = &ctx->m->dims;
    const struct rows *a = &ctx->all, *l = &ctx->subset;
    size_t t = l->row[i].source, n_rope = dims->n_tables * 2 * dims->n_pairs;
    memcpy(l->x + i * dims->d, a->x + t * dims->d, dims->d * sizeof(float));
    memcpy(l->qkv + i * ctx->ld_qkv, a->qkv + t * ctx->ld_qkv, dims->q_cols * sizeof(float));
    memcpy(l->rope + i * n_rope, a->rope + t * n_rope, n_rope * sizeof(float));
}

bool vd_fw_wants_q(const struct vd_ctx *ctx, size_t layer)
{
    return layer + 1 < ctx->m->dims.n_layers || ctx->last->n > 0;
}

/* Norm and quantisation of rows [t0, t1) of those that want logits. */
static struct vd_kern_rhs head_norm_quant(const struct vd_ctx *ctx, size_t t0, size_t t1, float *h,
                                          const struct acts *act)
{
    const struct vd_model *m = ctx->m;
    size_t d = m->dims.d;
    for (size_t t = t0; t < t1; t++)
        m->kern->rmsnorm(ctx->last->x + ctx->head.source[t] * d, m->output_norm, d, m->program.eps,
                         h + t * d);
    return vd_fw_quant(m, m->head_forms, h, d, d, t0, t1, act);
}

/* Logits [r0, r1) of all rows that want them. */
static void head_product(const struct vd_ctx *ctx, const struct vd_kern_rhs *rhs, size_t r0, size_t r1,
                         struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    const struct head *hd = &ctx->head;
    size_t vocab = m->dims.vocab;
    float cap = m->program.logit_cap;
    m->kern->matmul(&m->head, r0, r1, rhs, 0, hd->n, hd->logits, vocab, buf->scratch);
    for (size_t t = 0; cap != 0.0f && t < hd->n; t++)
        m->kern->cap(hd->logits + t * vocab + r0, cap, r1 - r0, hd->logits + t * vocab + r0);
}

void vd_fw_head(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, struct thread_buf *buf)
{
    struct head *hd = &ctx->head;
    size_t vocab = ctx->m->dims.vocab, n_steps = (vocab + HEAD_STEP - 1) / HEAD_STEP, i;
    struct vd_kern_rhs rhs = {
        .act = hd->act.by32, .x = hd->h, .ldx = ctx->m->dims.d, .act256 = hd->act.by256};
    vd_team_barrier(team); /* the last layer's rows */
    if (hd->n == 0)
        return;
    if (hd->n <= REDUNDANT_ROWS) {
        rhs = head_norm_quant(ctx, 0, hd->n, buf->h, &buf->act);
    } else {
        while ((i = vd_team_next(team) * VD_KERN_TOKS) < hd->n)
            head_norm_quant(ctx, i, vd_fw_min(i + VD_KERN_TOKS, hd->n), hd->h, &hd->act);
        vd_team_barrier(team);
    }
    if (hd->screen.on && vd_fw_screen(ctx, team, thread, &rhs, buf))
        return;
    while ((i = vd_team_next(team)) < n_steps)
        head_product(ctx, &rhs, i * HEAD_STEP, vd_fw_min((i + 1) * HEAD_STEP, vocab), buf);
}
