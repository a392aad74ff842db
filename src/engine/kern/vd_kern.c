/* Choosing a table. What a table needs is asked from the CPU by name, one feature at a time, so that a
 * refusal can say what is missing. The compiler's builtins also look at XCR0: an operating system that does
 * not save the wide registers counts as a CPU that lacks them. On aarch64 the kernel says what there is. */
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "vd_kern_impl.h"

#if defined(__x86_64__)
/* Not among the names that every compiler's builtin knows. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}

static const char *missing_avx2(void)
{
    if (!__builtin_cpu_supports("avx2"))
        return "AVX2";
    if (!__builtin_cpu_supports("fma"))
        return "FMA";
    if (!has_f16c())
        return "F16C";
    return NULL;
}

/* Leaf 7, subleaf 1: too new for the builtin of some compilers. */
static const char *missing_avxvnni(void)
{
    unsigned a, b, c, d;
    if (missing_avx2() != NULL)
        return missing_avx2();
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1) != 0 ? NULL : "AVX-VNNI";
}

static const char *missing_avx512(void)
{
    if (missing_avx2() != NULL)
        return missing_avx2();
    if (!__builtin_cpu_supports("avx512f"))
        return "AVX-512F";
    if (!__builtin_cpu_supports("avx512bw"))
        return "AVX-512BW";
    if (!__builtin_cpu_supports("avx512dq"))
        return "AVX-512DQ";
    if (!__builtin_cpu_supports("avx512vl"))
        return "AVX-512VL";
    if (!__builtin_cpu_supports("avx512vnni"))
        return "AVX-512 VNNI";
    return NULL;
}
#endif

#if defined(__aarch64__)
static const char *missing_neon(void)
{
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? NULL : "the dot products of ARMv8.2 (asimddp)";
}

static const char *missing_neon_i8mm(void)
{
    if (missing_neon() != NULL)
        return missing_neon();
    return getauxval(AT_HWCAP2) & HWCAP2_I8MM ? NULL : "the 8-bit matrix products of ARMv8.6 (i8mm)";
}
#endif

static const char *missing_nothing(void)
{
    return NULL;
}

/* Fastest first. missing() names the first feature that this CPU lacks. */
static const struct {
    const struct vd_kern *kern;
    const char *(*missing)(void);
} tables[] = {
#if defined(__x86_64__)
    {&vd_kern_avx512, missing_avx512},       {&vd_kern_avxvnni, missing_avxvnni},
    {&vd_kern_avx2, missing_avx2},
#endif
#if defined(__aarch64__)
    {&vd_kern_neon_i8mm, missing_neon_i8mm}, {&vd_kern_neon, missing_neon},
#endif
    {&vd_kern_scalar, missing_nothing},
};

const struct vd_kern *vd_kern_pick(const char *name, struct vd_error *err)
{
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        const char *missing = tables[i].missing();
        if (name == NULL && missing == NULL)
            return tables[i].kern;
        if (name == NULL || strcmp(name, tables[i].kern->name) != 0)
            continue;
        if (missing == NULL)
            return tables[i].kern;
        vd_error_set(
            err, VD_EUNSUPPORTED,
            "kernel %s needs %s, which this CPU or operating system lacks; leave the kernel out to get "
            "the fastest that runs here",
            name, missing);
        return NULL;
    }
    vd_error_set(
        err, VD_EUSE,
        "this build has no kernel \"%s\"; there are scalar, avx2, avxvnni and avx512 (x86-64 only), neon and "
        "neon-i8mm (aarch64 only)",
        name);
    return NULL;
}
