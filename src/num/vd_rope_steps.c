/* The steps of the rotary position embedding: computed once, when a program is derived from a file, never when
 * it runs. Double-double arithmetic (Dekker 1971, Knuth TAOCP 4.2.2), about 100 bits, of which 62 are kept. */
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
