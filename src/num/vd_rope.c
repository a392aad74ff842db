/* The angle is an integer so that it never loses precision, at any position, and so that no sin, cos or pow
 * of a C library enters a result. The steps are a part of the program's bytes; they are derived here in
 * double-double arithmetic (Dekker 1971, Knuth TAOCP 4.2.2), about 100 bits, of which 62 are kept. */
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

bool vd_num_rope_steps(float freq_base, uint32_t n_dims, uint64_t *steps)
{
    if (!(freq_base >= 1.0f && freq_base <= 0x1p100f))
        return false;
    if (n_dims < 2 || n_dims > VD_ROPE_MAX_DIMS || n_dims % 2 != 0)
        return false;
    struct dd ln_base = dd_ln(freq_base);
    for (uint32_t i = 0; i < n_dims / 2; i++) {
        struct dd exponent = dd_mul(ln_base, dd_div(dd_of(-2.0 * i), dd_of(n_dims)));
        steps[i] = dd_round(dd_mul(turns_unit, dd_exp(exponent)));
    }
    return true;
}

/* ---- Running it ---- */

/* The sign of the sine is put into the integer, so that a zero is +0 in every quarter and no fma is negated
 * afterwards: clang 14 makes -(a * b + c) on aarch64 one instruction that gives a zero the other sign. */
void vd_num_sincos_turn(uint64_t phase, float *s, float *c)
{
    uint64_t k = (phase + (UINT64_C(1) << 61)) >> 62;
    int64_t f = (int64_t)(phase - (k << 62));
    int32_t i = (int32_t)(f >> 32);
    if (k == 1 || k == 2)
        i = -i;
    float t = (float)i * 0x1p-29f;
    float u = t * t;
    float p = VD_SIN_S4;
    p = fmaf(p, u, VD_SIN_S3);
    p = fmaf(p, u, VD_SIN_S2);
    p = fmaf(p, u, VD_SIN_S1);
    p = fmaf(p, u, VD_SIN_S0_LO);
    float sine = fmaf(t, VD_SIN_S0, t * p);
    float cosine = VD_COS_C4;
    cosine = fmaf(cosine, u, VD_COS_C3);
    cosine = fmaf(cosine, u, VD_COS_C2);
    cosine = fmaf(cosine, u, VD_COS_C1);
    cosine = fmaf(cosine, u, 1.0f);
    if (k >= 2)
        cosine = -cosine;
    *s = k & 1 ? cosine : sine;
    *c = k & 1 ? sine : cosine;
}

void vd_num_rope_pair(float *x0, float *x1, float s, float c)
{
    float y0 = fmaf(*x0, c, -(*x1 * s));
    float y1 = fmaf(*x0, s, *x1 * c);
    *x0 = y0;
    *x1 = y1;
}

void vd_num_rope_head(float *x, uint32_t n_dims, uint32_t pos, const uint64_t *steps, bool neox)
{
    assert(n_dims % 2 == 0 && n_dims <= VD_ROPE_MAX_DIMS);
    for (uint32_t i = 0; i < n_dims / 2; i++) {
        float s, c;
        vd_num_sincos_turn(pos * steps[i], &s, &c);
        if (neox)
            vd_num_rope_pair(&x[i], &x[i + n_dims / 2], s, c);
        else
            vd_num_rope_pair(&x[2 * i], &x[2 * i + 1], s, c);
    }
}
