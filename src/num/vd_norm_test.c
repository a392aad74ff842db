/* RMSNorm and LayerNorm: the written order by a second writing of it, error against double, every length
 * around a segment.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_norm.h"
#include "vd_num_testing.h"

/* The tree said recursively: the sum of lanes j, j + step, ... is the sum of its two halves of twice the
 * step. */
static float tree(const float *lane, int j, int step)
{
    return step == 32 ? lane[j] : tree(lane, j, 2 * step) + tree(lane, j + step, 2 * step);
}

static void test_tree(void **state)
{
    struct vd_rng r = {.seed = 11};
    for (int i = 0; i < 2000; i++) {
        float lane[32];
        for (int j = 0; j < 32; j++)
            lane[j] = ldexpf(test_uniform(&r, 1), (int)vd_rng_below(&r, 20));
        float want = tree(lane, 0, 1);
        assert_true(test_same_bits(vd_num_tree32(lane), want));
    }
}

static void test_sumsq(void **state)
{
    struct vd_rng r = {.seed = 12};
    float x[512];
    for (uint32_t n = 0; n <= 512; n++) {
        test_fill_normal(&r, x, 512, 3);
        float lane[32] = {0};
        double want = 0;
        for (uint32_t j = 0; j < 32; j++)
            for (uint32_t i = j; i < n; i += 32)
                lane[j] = fmaf(x[i], x[i], lane[j]);
        for (uint32_t i = 0; i < n; i++)
            want += (double)x[i] * (double)x[i];
        float got = vd_num_sumsq_seg(x, n);
        assert_true(test_same_bits(got, tree(lane, 0, 1)));
        assert_true(n == 0 ? got == 0 : test_ulps(got, want) < 12);
    }
}

static void test_rmsnorm(void **state)
{
    struct vd_rng r = {.seed = 13};
    static const uint32_t sizes[] = {1, 31, 32, 33, 511, 512, 513, 576, 1024, 1536, 2049, 4096};
    static float x[4096], w[4096], y[4096];
    double worst = 0;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        uint32_t n = sizes[k];
        float partial[8], sum = 0;
        test_fill_normal(&r, x, n, 2);
        test_fill_normal(&r, w, n, 1);
        double ss = 0;
        for (uint32_t i = 0; i < n; i++)
            ss += (double)x[i] * (double)x[i];
        double scale = 1 / sqrt(ss / n + (double)1e-5f);
        vd_num_rmsnorm(x, w, n, 1e-5f, y);
        for (uint32_t i = 0; i < n; i++) {
            double ulps = test_ulps(y[i], x[i] * scale * w[i]);
            worst = ulps > worst ? ulps : worst;
        }
        for (uint32_t s = 0; s < vd_num_segs(n); s++) {
            partial[s] = vd_num_sumsq_seg(x + 512 * s, n - 512 * s < 512 ? n - 512 * s : 512);
            sum = s ? sum + partial[s] : partial[s];
        }
        float rms = vd_num_rms_scale(partial, vd_num_segs(n), n, 1e-5f);
        assert_true(test_same_bits(rms, 1 / sqrtf(sum / (float)n + 1e-5f)));
        vd_num_rms_mul(x, rms, w, n, x); /* in place, tile by tile: the same as the whole */
        assert_memory_equal(x, y, n * sizeof y[0]);
    }
    print_message("rmsnorm: largest error %.3f ulp\n", worst);
    assert_true(worst < 6);
}

/* The rule written again, lane by lane, and the error of y against binary64 (the sums of a vector with a
 * large mean cancel, so the bound is one of y's magnitude). */
static void check_layernorm(struct vd_rng *r, uint32_t n, double *worst)
{
    static float x[4096], w[4096], b[4096], y[4096];
    float part[2][8], shift = test_uniform(r, 8);
    test_fill_normal(r, x, n, 2);
    test_fill_normal(r, w, n, 1);
    test_fill_normal(r, b, n, 1);
    double sum = 0, ss = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)(x[i] += shift);
    for (uint32_t i = 0; i < n; i++)
        ss += ((double)x[i] - sum / n) * ((double)x[i] - sum / n);
    vd_num_layernorm(x, w, b, n, 1e-5f, y);
    for (uint32_t i = 0; i < n; i++) {
        double want = (x[i] - sum / n) / sqrt(ss / n + (double)1e-5f) * w[i] + b[i];
        *worst = fmax(*worst, n > 1 ? fabs(y[i] - want) : 0);
    }
    for (uint32_t k = 0; k < 2; k++) {
        float mean = k ? vd_num_mean(part[0], vd_num_segs(n), n) : 0;
        for (uint32_t s = 0; s < vd_num_segs(n); s++) {
            float lane[32] = {0};
            uint32_t len = n - 512 * s < 512 ? n - 512 * s : 512;
            for (uint32_t j = 0; j < 32; j++)
                for (uint32_t i = 512 * s + j; i < 512 * s + len; i += 32) {
                    float t = x[i] - mean;
                    lane[j] = k ? fmaf(t, t, lane[j]) : lane[j] + x[i];
                }
            part[k][s] = k ? vd_num_var_seg(x + 512 * s, mean, len) : vd_num_sum_seg(x + 512 * s, len);
            assert_true(test_same_bits(part[k][s], tree(lane, 0, 1)));
        }
    }
    float mean = vd_num_mean(part[0], vd_num_segs(n), n);
    float scale = vd_num_rms_scale(part[1], vd_num_segs(n), n, 1e-5f);
    for (uint32_t i = 0; i < n; i++) {
        float t = x[i] - mean;
        float tr = t * scale;
        assert_true(test_same_bits(y[i], fmaf(tr, w[i], b[i])));
    }
    vd_num_layernorm_mul(x, mean, scale, w, b, n, x); /* in place: the same as the whole */
    assert_memory_equal(x, y, n * sizeof y[0]);
}

static void test_layernorm(void **state)
{
    struct vd_rng r = {.seed = 14};
    static const uint32_t sizes[] = {1, 31, 32, 33, 384, 511, 512, 513, 768, 1024, 1536, 2049, 4096};
    double worst = 0;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++)
        for (int again = 0; again < 4; again++)
            check_layernorm(&r, sizes[k], &worst);
    print_message("layernorm: largest error %.3g\n", worst);
    assert_true(worst < 4e-6);
    float x[96], w[96], b[96],
        y[96]; /* a constant vector has no variance: its mean is exact, what is left is b */
    for (int i = 0; i < 96; i++)
        x[i] = 0.375f, w[i] = 3, b[i] = (float)i;
    vd_num_layernorm(x, w, b, 96, 1e-12f, y);
    assert_memory_equal(y, b, sizeof b);
}

static void test_not_finite(void **state)
{
    float x[64] = {1, 2}, w[64] = {1, 1}, y[64];
    x[33] = NAN;
    vd_num_rmsnorm(x, w, 64, 1e-5f, y);
    for (int i = 0; i < 64; i++)
        assert_true(isnan(y[i]));
    x[33] = INFINITY; /* r = 0: finite elements give 0, the infinite one NaN */
    vd_num_rmsnorm(x, w, 64, 1e-5f, y);
    assert_true(y[0] == 0 && isnan(y[33]));
    vd_num_layernorm(x, w, w, 64, 1e-5f, y); /* the mean is infinite, a NaN is among the t */
    for (int i = 0; i < 64; i++)
        assert_true(isnan(y[i]));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree),      cmocka_unit_test(test_sumsq),      cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_layernorm), cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests_name("norm", tests, NULL, NULL);
}
