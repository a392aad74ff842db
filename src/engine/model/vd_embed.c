/* The norm is the head's, by the kernels (an encoder has none); the rest is two passes over one row, which
 * scalar code does in no time beside a layer. */
#include "vd_embed.h"

#include "vd_gguf.h"
#include "vd_model_internal.h"
#include "vd_norm.h"
#include "vd_num.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

struct vd_embed {
    const struct vd_model *m;
    enum vd_pooling pooling;
    uint32_t n; /* positions so far */
    float *row, *sum, *vector;
};

enum vd_pooling vd_embed_pooling(const struct vd_gguf *g)
{
    enum { UNSAID, MEAN, CLS, LAST }; /* of GGUF */
    bool encoder = vd_derive_is_encoder(g);
    struct vd_gguf_str arch = {NULL, 0};
    char key[96];
    uint32_t type = UNSAID;
    if (vd_gguf_get_str(g, "general.architecture", VD_GGUF_OPTIONAL, &arch, NULL) != VD_OK || arch.n > 64)
        return VD_POOLING_NONE;
    snprintf(key, sizeof key, "%.*s.pooling_type", (int)arch.n, arch.p);
    if (vd_gguf_get_u32(g, key, VD_GGUF_OPTIONAL, UINT32_MAX, &type, NULL) != VD_OK)
        return VD_POOLING_NONE;
    if (type == UNSAID)
        return encoder ? VD_POOLING_MEAN : VD_POOLING_LAST;
    return type == MEAN             ? VD_POOLING_MEAN
           : type == LAST           ? VD_POOLING_LAST
           : type == CLS && encoder ? VD_POOLING_CLS
                                    : VD_POOLING_NONE;
}

enum vd_err vd_embed_create(struct vd_embed **out, const struct vd_model *m, enum vd_pooling pooling,
                            struct vd_error *err)
{
    size_t d = m->dims.d;
    struct vd_embed *e = calloc(1, sizeof *e);
    assert(pooling != VD_POOLING_NONE);
    *out = NULL;
    if (e) {
        *e = (struct vd_embed){.m = m, .pooling = pooling};
        e->row = aligned_alloc(64, (3 * d * sizeof *e->row + 63) / 64 * 64);
    }
    if (!e || !e->row) {
        free(e);
        return vd_error_set(err, VD_ENOMEM, "no memory for a vector of %zu elements", d);
    }
    e->sum = e->row + d;
    e->vector = e->sum + d;
    *out = e;
    return VD_OK;
}

void vd_embed_free(struct vd_embed *e)
{
    if (e)
        free(e->row);
    free(e);
}

void vd_embed_add(struct vd_embed *e, const float *x)
{
    size_t d = e->m->dims.d;
    bool adds = e->pooling == VD_POOLING_MEAN && e->n > 0;
    const float *row = e->m->encoder ? x : e->row;
    if (!e->m->encoder)
        e->m->kern->rmsnorm(x, e->m->output_norm, d, e->m->program.eps, e->row);
    for (size_t i = 0; i < d; i++)
        e->sum[i] = adds ? e->sum[i] + row[i] : row[i];
    e->n++;
}

const float *vd_embed_sum(const struct vd_embed *e)
{
    assert(e->n > 0);
    return e->pooling == VD_POOLING_MEAN ? e->sum : NULL;
}

const float *vd_embed_vector(struct vd_embed *e)
{
    size_t d = e->m->dims.d;
    uint32_t n_seg = vd_num_segs((uint32_t)d);
    float part[VD_PROGRAM_WIDTH_MAX / VD_SEG_ELEMS];
    assert(e->n > 0);
    for (uint32_t s = 0; s < n_seg; s++) {
        size_t first = (size_t)s * VD_SEG_ELEMS, n = d - first < VD_SEG_ELEMS ? d - first : VD_SEG_ELEMS;
        part[s] = vd_num_sumsq_seg(e->sum + first, (uint32_t)n);
    }
    float r = vd_num_l2_scale(part, n_seg);
    for (size_t i = 0; i < d; i++)
        e->vector[i] = vd_num_canon(e->sum[i] * r);
    return e->vector;
}
