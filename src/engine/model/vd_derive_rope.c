/* RoPE as the file asks for it. All of it ends in integers, the steps, and one scale; what a model's makers
 * call the scheme is not in the program. */
#include "vd_derive_impl.h"
#include "vd_rope.h"

#include <string.h>

/* rope.scaling.type, and the number by which all frequencies are divided. */
static bool is_yarn(struct vd_derive *d, unsigned allowed, float *stretch)
{
    struct vd_gguf_str type = vd_derive_str_or(d, "rope.scaling.type", "linear");
    float factor = vd_derive_f32_or(d, "rope.scaling.factor", 0.0f);
    bool yarn = vd_gguf_str_eq(type, "yarn") && allowed & VD_DERIVE_YARN;
    bool longrope = vd_gguf_str_eq(type, "longrope") && allowed & VD_DERIVE_LONGROPE;
    *stretch = factor == 0.0f || vd_gguf_str_eq(type, "none") ? 1.0f : factor;
    if (!yarn && !longrope && !vd_gguf_str_eq(type, "linear") && !vd_gguf_str_eq(type, "none"))
        vd_derive_fail(
            d, VD_EUNSUPPORTED, "RoPE scaling '%.*s' is not known for %s; known are: none, linear%s%s",
            (int)(type.n < 64 ? type.n : 64), type.p, d->arch, allowed & VD_DERIVE_YARN ? ", yarn" : "",
            allowed & VD_DERIVE_LONGROPE ? ", longrope" : "");
    if (!(*stretch > 0.0f))
        vd_derive_fail(d, VD_EFORMAT, "%s.rope.scaling.factor is %g; it must be above 0", d->arch,
                       (double)*stretch);
    return yarn;
}

/* The divisors of single frequencies, if the file has them. Of LongRoPE's two sets the one counts that was
 * made for the declared context. */
static bool factors(struct vd_derive *d, unsigned allowed, uint32_t n, uint32_t first_ctx, float *out)
{
    if (allowed & VD_DERIVE_FACTORS && vd_derive_floats(d, "rope_freqs.weight", n, out))
        return true;
    if (!(allowed & VD_DERIVE_LONGROPE))
        return false;
    float other[VD_PROGRAM_ROPE_MAX];
    bool is_long = d->p->ctx > first_ctx;
    bool found =
        vd_derive_floats(d, is_long ? "rope_factors_long.weight" : "rope_factors_short.weight", n, out);
    bool pair =
        vd_derive_floats(d, is_long ? "rope_factors_short.weight" : "rope_factors_long.weight", n, other);
    if (found != pair)
        vd_derive_fail(d, VD_ENOTFOUND,
                       "of rope_factors_short.weight and rope_factors_long.weight one is missing");
    return found;
}

void vd_derive_rope(struct vd_derive *d, enum vd_rope_pairing pairing, unsigned allowed)
{
    struct vd_program *p = d->p;
    float factor[VD_PROGRAM_ROPE_MAX], magnitude = vd_derive_f32_or(d, "rope.scaling.attn_factor", 1.0f);
    uint32_t n_dims = vd_derive_u32_or(d, "rope.dimension_count", UINT32_MAX, p->head_dim);
    uint32_t first_ctx =
        vd_derive_u32_or(d, "rope.scaling.original_context_length", VD_PROGRAM_CTX_MAX, p->ctx);
    struct vd_rope_rule rule = {.freq_base = vd_derive_f32_or(d, "rope.freq_base", 10000.0f),
                                .n_dims = n_dims};
    bool yarn = is_yarn(d, allowed, &rule.stretch);
    vd_derive_has(d, "rope.scaling.finetuned"); /* says how the model was made */
    if (n_dims == 0 || n_dims > p->head_dim || n_dims % 2)
        vd_derive_fail(d, VD_EFORMAT,
                       "RoPE over %u dimensions of heads of %u; they must be even and at most the head's",
                       n_dims, p->head_dim);
    if (d->rc != VD_OK)
        return;
    rule.yarn_ctx = yarn ? first_ctx : 0;
    if (factors(d, allowed, n_dims / 2, first_ctx, factor))
        rule.factors = factor;
    if (!vd_num_rope_steps_by(&rule, p->rope_steps[0]))
        vd_derive_fail(
            d, VD_EFORMAT,
            "RoPE with base %g, factor %g and context %u gives no angles; the base must be at least 1, "
            "factors above 0, and no step above half a turn",
            (double)rule.freq_base, (double)rule.stretch, first_ctx);
    p->rope_pairing = pairing;
    p->n_rope = n_dims / 2;
    p->n_rope_tables = 1;
    p->rope_scale[0] = yarn ? vd_num_rope_yarn_scale(rule.stretch) * magnitude : magnitude;
}

void vd_derive_rope2(struct vd_derive *d, float base)
{
    struct vd_program *p = d->p;
    if (d->rc == VD_OK && !vd_num_rope_steps(base, 2 * p->n_rope, p->rope_steps[1]))
        vd_derive_fail(d, VD_EFORMAT, "%s.rope.freq_base_swa is %g; it must be at least 1", d->arch,
                       (double)base);
    p->n_rope_tables = 2;
    p->rope_scale[1] = p->rope_scale[0];
}
