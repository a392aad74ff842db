/* The steps of the rotary position embedding: computed once, when a program is derived from a file, never
 * when it runs. Double-double arithmetic (Dekker 1971, Knuth TAOCP 4.2.2), about 100 bits, of which 62 are
 * kept. */
#include "vd_rope.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "vd_bytes.h"

/* ---- Double-double: the unevaluated sum hi + lo, |lo| <= ulp(hi) / 2 ---- */

struct dd {
    double hi, lo;
};

static const struct dd ln2 = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};
static const struct dd turns_unit = {0x1.45f306dc9c883p+61, -0x1.6b01ec5417056p+7}; /* 2^64 / (2 pi) */

static struct dd dd_of(double a)
{
    return (struct dd){a, 0.0};
}

/* hi + lo where |hi| >= |lo| or hi == 0 (Dekker). */
static struct dd dd_norm(double hi, double lo)
{
    double s = hi + lo;
    return (struct dd){s, lo - (s - hi)};
}

static struct dd dd_add(struct dd a, struct dd b)
{
    double s = a.hi + b.hi, bb = s - a.hi;
    double err = (a.hi - (s - bb)) + (b.hi - bb); /* Knuth: s + err == a.hi + b.hi exactly */
    double t = a.lo + b.lo, tt = t - a.lo;
    double terr = (a.lo - (t - tt)) + (b.lo - tt);
    struct dd r = dd_norm(s, err + t);
    return dd_norm(r.hi, r.lo + terr);
}

static struct dd dd_mul(struct dd a, struct dd b)
{
    double p = a.hi * b.hi;
    double err = fma(a.hi, b.hi, -p);
    return dd_norm(p, fma(a.hi, b.lo, fma(a.lo, b.hi, err)));
}

static struct dd dd_neg(struct dd a)
{
    return (struct dd){-a.hi, -a.lo};
}

/* a / b: three quotient digits of 53 bits, each from the remainder of the ones before. */
static struct dd dd_div(struct dd a, struct dd b)
{
    double q1 = a.hi / b.hi;
    struct dd r = dd_add(a, dd_neg(dd_mul(b, dd_of(q1))));
    double q2 = r.hi / b.hi;
    r = dd_add(r, dd_neg(dd_mul(b, dd_of(q2))));
    double q3 = r.hi / b.hi;
    return dd_add(dd_norm(q1, q2), dd_of(q3));
}

/* ln x for a normal x >= 1: x = m * 2^e with m in [1/sqrt 2, sqrt 2], ln m = 2 atanh z, z = (m - 1) / (m +
 * 1), |z| < 0.172, so that 24 terms of atanh z = z (1 + z^2/3 + z^4/5 + ...) leave less than 2^-120. */
static struct dd dd_ln(float x)
{
    uint32_t u = vd_f32_bits(x);
    int32_t e = (int32_t)(u >> 23) - 127;
    double m = (double)vd_f32_from_bits((u & 0x007FFFFF) | 0x3F800000);
    if (m > 0x1.6a09e6p+0) {
        m *= 0.5;
        e++;
    }
    struct dd z = dd_div(dd_of(m - 1.0), dd_of(m + 1.0));
    struct dd z2 = dd_mul(z, z), sum = dd_of(0.0);
    for (int k = 24; k >= 0; k--)
        sum = dd_add(dd_mul(sum, z2), dd_div(dd_of(1.0), dd_of(2.0 * k + 1.0)));
    struct dd atanh_z = dd_mul(z, sum);
    return dd_add(dd_mul(ln2, dd_of((double)e)), dd_add(atanh_z, atanh_z));
}

/* 2^k for -1022 <= k <= 1023. */
static double pow2(int k)
{
    uint64_t u = (uint64_t)(k + 1023) << 52;
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* exp x for -100 <= x <= 0: x = k ln 2 + r, |r| < 0.35, and 29 terms of the series, which leave less than
 * 2^-140. */
static struct dd dd_exp(struct dd x)
{
    double k = rint(x.hi / ln2.hi);
    struct dd r = dd_add(x, dd_neg(dd_mul(ln2, dd_of(k))));
    struct dd sum = dd_of(1.0);
    for (int j = 28; j >= 1; j--)
        sum = dd_add(dd_of(1.0), dd_div(dd_mul(sum, r), dd_of((double)j)));
    double scale = pow2((int)k);
    return (struct dd){sum.hi * scale, sum.lo * scale};
}

/* The nearest integer; 0 <= a < 2^63. */
static uint64_t dd_round(struct dd a)
{
    double whole = rint(a.hi);
    double rest = rint((a.hi - whole) + a.lo);
    return (uint64_t)((int64_t)whole + (int64_t)rest);
}

/* ---- The rule ---- */

enum { YARN_FAST = 32, YARN_SLOW = 1 }; /* turns over the first context: more are kept, fewer are stretched */

static const struct dd ln_2pi = {0x1.d67f1c864beb5p+0, -0x1.65b5a1b7ff5dfp-54};

static double dd_floor(struct dd a)
{
    double whole = floor(a.hi);
    return whole == a.hi && a.lo < 0.0 ? whole - 1.0 : whole;
}

/* The pair that makes `turns` turns over the first context: n ln(ctx / (2 pi turns)) / (2 ln base). */
static struct dd yarn_pair(const struct vd_rope_rule *r, struct dd ln_base, float turns)
{
    struct dd ln_ratio = dd_add(dd_ln((float)r->yarn_ctx), dd_neg(dd_add(ln_2pi, dd_ln(turns))));
    return dd_div(dd_mul(dd_of(r->n_dims), ln_ratio), dd_add(ln_base, ln_base));
}

/* By what pair i's frequency is multiplied: 1 / stretch, with YaRN between that and 1. */
static struct dd mix_of(const struct vd_rope_rule *r, struct dd ln_base, uint32_t i)
{
    struct dd slow = dd_div(dd_of(1.0), dd_of(r->stretch));
    if (r->yarn_ctx == 0)
        return slow;
    double low = dd_floor(yarn_pair(r, ln_base, YARN_FAST));
    double high = -dd_floor(dd_neg(yarn_pair(r, ln_base, YARN_SLOW)));
    low = low > 0.0 ? low : 0.0;
    high = high < r->n_dims - 1.0 ? high : r->n_dims - 1.0;
    if (i <= low)
        return dd_of(1.0);
    if (i >= high)
        return slow;
    struct dd ramp = dd_div(dd_of(i - low), dd_of(high - low));
    return dd_add(dd_of(1.0), dd_mul(ramp, dd_add(slow, dd_of(-1.0))));
}

static bool rule_ok(const struct vd_rope_rule *r)
{
    if (!(r->freq_base >= 1.0f && r->freq_base <= 0x1p100f) ||
        !(r->stretch >= 0x1p-20f && r->stretch <= 0x1p20f))
        return false;
    if (r->n_dims < 2 || r->n_dims > VD_ROPE_MAX_DIMS || r->n_dims % 2 != 0)
        return false;
    if (r->yarn_ctx > 1 << 20 || (r->yarn_ctx > 0 && r->freq_base == 1.0f))
        return false;
    for (uint32_t i = 0; r->factors && i < r->n_dims / 2; i++)
        if (!(r->factors[i] >= 0x1p-20f && r->factors[i] <= 0x1p20f))
            return false;
    return true;
}

bool vd_num_rope_steps_by(const struct vd_rope_rule *r, uint64_t *steps)
{
    if (!rule_ok(r))
        return false;
    struct dd ln_base = dd_ln(r->freq_base);
    for (uint32_t i = 0; i < r->n_dims / 2; i++) {
        struct dd exponent = dd_mul(ln_base, dd_div(dd_of(-2.0 * i), dd_of(r->n_dims)));
        struct dd step = dd_mul(dd_mul(turns_unit, dd_exp(exponent)), mix_of(r, ln_base, i));
        if (r->factors)
            step = dd_div(step, dd_of(r->factors[i]));
        if (step.hi >= 0x1p63)
            return false;
        steps[i] = dd_round(step);
    }
    return true;
}

bool vd_num_rope_steps(float freq_base, uint32_t n_dims, uint64_t *steps)
{
    struct vd_rope_rule r = {.freq_base = freq_base, .n_dims = n_dims, .stretch = 1.0f};
    return vd_num_rope_steps_by(&r, steps);
}

float vd_num_rope_yarn_scale(float stretch)
{
    if (stretch <= 1.0f)
        return 1.0f;
    struct dd tenth = dd_div(dd_of(1.0), dd_of(10.0));
    struct dd scale = dd_add(dd_of(1.0), dd_mul(tenth, dd_ln(stretch)));
    return (float)scale.hi;
}
