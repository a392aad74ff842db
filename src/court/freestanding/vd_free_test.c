/* The freestanding referee beside the normal one, in one process: the same functions are called in both and
 * must give the same bytes. */
#include "vd_bytes.h"
#include "vd_merkle.h"
#include "vd_rng.h"
#include "vd_sha256.h"

#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void *library;

static int open_library(void **state)
{
    library = dlopen(VD_REFEREE_FREE, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (!library)
        print_error("%s\n", dlerror());
    return library ? 0 : -1;
}

static int close_library(void **state)
{
    return dlclose(library);
}

/* ISO C has no cast from an object pointer to a function pointer; POSIX says that the bytes are the same. */
static void find(const char *name, void *function_pointer)
{
    void *p = dlsym(library, name);
    assert_non_null(p);
    memcpy(function_pointer, &p, sizeof p);
}

/* ---- arithmetic ---- */

static void expect_same(float a, float b)
{
    if (isnan(a) && isnan(b))
        return;
    assert_int_equal(vd_f32_bits(a), vd_f32_bits(b));
}

/* Bits that often lie at a border: few bits set, exponents near each other or at the ends. */
static float odd_float(struct vd_rng *r)
{
    uint32_t u = (uint32_t)vd_rng_next(r);
    switch (vd_rng_below(r, 4)) {
    case 0:
        return vd_f32_from_bits(u);
    case 1:
        return vd_f32_from_bits((u & 0x80000000) | (120 + u % 16) << 23 | (u >> 8 & 0x7FFFFF));
    case 2:
        return vd_f32_from_bits((u & 0xFF800000) | 1u << (u & 31) % 23);
    default:
        return vd_f32_from_bits((u & 0x80000000) | (u & 0xFFFFFF) >> u % 24);
    }
}

static void fma_equals_the_librarys(void **state)
{
    float (*free_fmaf)(float, float, float);
    find("fmaf", &free_fmaf);
    struct vd_rng r = {.seed = 1};
    for (int i = 0; i < 4000000; i++) {
        float a = odd_float(&r), b = odd_float(&r), c = odd_float(&r);
        if (i % 3 == 0) /* cancel, or nearly so */
            c = vd_f32_from_bits(vd_f32_bits(-(a * b)) + (uint32_t)vd_rng_below(&r, 3) - 1);
        expect_same(free_fmaf(a, b, c), fmaf(a, b, c));
    }
}

static void sqrt_equals_the_librarys(void **state)
{
    float (*free_sqrtf)(float);
    find("sqrtf", &free_sqrtf);
    for (uint64_t u = 0; u <= UINT32_MAX; u += 1021)
        expect_same(free_sqrtf(vd_f32_from_bits((uint32_t)u)), sqrtf(vd_f32_from_bits((uint32_t)u)));
    for (uint32_t u = 0x3F800000; u < 0x40800000; u += 3) /* two octaves: both parities of the exponent */
        expect_same(free_sqrtf(vd_f32_from_bits(u)), sqrtf(vd_f32_from_bits(u)));
}

static void rint_equals_the_librarys(void **state)
{
    float (*free_rintf)(float);
    find("rintf", &free_rintf);
    for (uint64_t u = 0; u <= UINT32_MAX; u += 509)
        expect_same(free_rintf(vd_f32_from_bits((uint32_t)u)), rintf(vd_f32_from_bits((uint32_t)u)));
    for (int i = -4000; i <= 4000; i++)
        expect_same(free_rintf((float)i * 0.25f), rintf((float)i * 0.25f));
}

static void sha256_equals_openssls(void **state)
{
    struct vd_hash (*free_of)(const void *, size_t);
    struct vd_hash (*free_hmac)(const void *, size_t, const void *, size_t);
    uint8_t bytes[4096];
    struct vd_rng r = {.seed = 2};
    find("vd_sha256_of", &free_of);
    find("vd_hmac_sha256", &free_hmac);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)vd_rng_next(&r);
    for (size_t n = 0; n <= sizeof bytes; n += n < 300 ? 1 : 97) {
        struct vd_hash a = free_of(bytes, n), b = vd_sha256_of(bytes, n);
        assert_memory_equal(a.b, b.b, sizeof a.b);
        a = free_hmac(bytes, n / 3, bytes, n);
        b = vd_hmac_sha256(bytes, n / 3, bytes, n);
        assert_memory_equal(a.b, b.b, sizeof a.b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fma_equals_the_librarys),
        cmocka_unit_test(sqrt_equals_the_librarys),
        cmocka_unit_test(rint_equals_the_librarys),
        cmocka_unit_test(sha256_equals_openssls),
    };
    return cmocka_run_group_tests(tests, open_library, close_library);
}
