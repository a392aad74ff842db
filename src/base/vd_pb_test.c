#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "vd_pb.h"
#include "vd_rng.h"

/* A message with one field of each kind: 1 u64, 2 bytes, 3 fixed 4 bytes, 4 packed, 5 repeated bytes, 6
 * nested. */
struct sample {
    uint64_t u;
    uint8_t bytes[300];
    size_t n_bytes;
    uint8_t fixed[4];
    uint32_t packed[200];
    size_t n_packed;
    unsigned n_elem; /* elements "0", "1", ... */
    uint64_t nested;
};

static size_t sample_encode(const struct sample *s, uint8_t *buf, size_t cap)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap);
    vd_pb_put_u64(&w, 1, s->u);
    vd_pb_put_bytes(&w, 2, s->bytes, s->n_bytes);
    vd_pb_put_elem(&w, 3, s->fixed, sizeof s->fixed);
    vd_pb_put_packed_u32(&w, 4, s->packed, s->n_packed);
    for (unsigned i = 0; i < s->n_elem; i++) {
        char c = (char)('0' + i);
        vd_pb_put_elem(&w, 5, &c, i % 2);
    }
    size_t mark = vd_pb_begin(&w, 600);
    vd_pb_put_u64(&w, 1, s->nested);
    vd_pb_end(&w, mark, false);
    return w.overflow ? 0 : w.n_bytes;
}

static bool sample_decode(const uint8_t *p, size_t n, struct sample *s)
{
    struct vd_pb_reader r = vd_pb_reader_init(p, n);
    struct vd_bytes b;
    memset(s, 0, sizeof *s);
    s->u = vd_pb_get_u64(&r, 1, UINT64_MAX);
    b = vd_pb_get_bytes(&r, 2, sizeof s->bytes);
    if (b.n)
        memcpy(s->bytes, b.p, b.n);
    s->n_bytes = b.n;
    vd_pb_get_fixed(&r, 3, s->fixed, sizeof s->fixed);
    s->n_packed = vd_pb_get_packed_u32(&r, 4, s->packed, 200);
    while (vd_pb_next_elem(&r, 5, &b, 1)) {
        if (b.n != s->n_elem % 2 || (b.n && b.p[0] != '0' + s->n_elem))
            return false;
        s->n_elem++;
    }
    b = vd_pb_get_bytes(&r, 600, 64);
    if (b.n) {
        struct vd_pb_reader in = vd_pb_reader_init(b.p, b.n);
        s->nested = vd_pb_get_u64(&in, 1, UINT64_MAX);
        if (!vd_pb_done(&in))
            return false;
    }
    return vd_pb_done(&r);
}

static struct sample sample_random(struct vd_rng *r)
{
    struct sample s = {0};
    s.u = vd_rng_next(r) >> vd_rng_below(r, 65) % 64;
    s.n_bytes = vd_rng_below(r, sizeof s.bytes + 1);
    for (size_t i = 0; i < s.n_bytes; i++)
        s.bytes[i] = (uint8_t)vd_rng_next(r);
    for (size_t i = 0; i < 4; i++)
        s.fixed[i] = (uint8_t)vd_rng_next(r);
    s.n_packed = vd_rng_below(r, 201);
    for (size_t i = 0; i < s.n_packed; i++)
        s.packed[i] = (uint32_t)(vd_rng_next(r) >> (32 + vd_rng_below(r, 32)));
    s.n_elem = (unsigned)vd_rng_below(r, 10);
    s.nested = vd_rng_below(r, 3);
    return s;
}

static void test_round_trip(void **state)
{
    struct vd_rng r = {1, 0};
    (void)state;
    for (int i = 0; i < 2000; i++) {
        struct sample a = sample_random(&r), b;
        uint8_t buf[4096];
        size_t n = sample_encode(&a, buf, sizeof buf);
        assert_true(n > 0);
        assert_true(sample_decode(buf, n, &b));
        assert_memory_equal(&a, &b, sizeof a);
        /* Too small a buffer overflows cleanly at every length. */
        size_t cap = vd_rng_below(&r, n);
        uint8_t *tight = malloc(cap ? cap : 1);
        assert_int_equal(sample_encode(&a, tight, cap), 0);
        free(tight);
    }
}

/* What decodes after a random mutation must encode to the same bytes: nothing has two encodings. */
static void test_canonical_under_mutation(void **state)
{
    struct vd_rng r = {2, 0};
    int accepted = 0;
    (void)state;
    for (int i = 0; i < 20000; i++) {
        struct sample a = sample_random(&r), b;
        uint8_t buf[4096], again[4096];
        a.n_bytes %= 8;
        a.n_packed %= 8;
        size_t n = sample_encode(&a, buf, sizeof buf);
        for (uint64_t k = vd_rng_below(&r, 3); k < 3; k++)
            buf[vd_rng_below(&r, n)] ^= (uint8_t)(1u << vd_rng_below(&r, 8));
        if (!sample_decode(buf, n, &b))
            continue;
        accepted++;
        assert_int_equal(sample_encode(&b, again, sizeof again), n);
        assert_memory_equal(again, buf, n);
    }
    assert_true(accepted > 100);
}

static bool decodes(const char *bytes, size_t n)
{
    struct sample s;
    return sample_decode((const uint8_t *)bytes, n, &s);
}

static void test_refusals(void **state)
{
    (void)state;
#define FIXED                                                                                                \
    "\x1a\x04"                                                                                               \
    "abcd"
    assert_true(decodes(FIXED, 6));
    assert_false(decodes("", 0));                   /* the fixed field is missing */
    assert_false(decodes("\x08\x00" FIXED, 8));     /* zero scalar written */
    assert_false(decodes("\x08\x81\x00" FIXED, 9)); /* varint not minimal */
    assert_false(decodes("\x12\x00" FIXED, 8));     /* empty bytes written */
    assert_false(decodes(FIXED FIXED, 12));         /* duplicate */
    assert_false(decodes(FIXED "\x08\x01", 8));     /* out of order */
    assert_false(decodes(FIXED "\x38\x01", 8));     /* unknown field */
    assert_false(decodes("\x0a\x01x" FIXED, 9));    /* wrong wire type */
    assert_false(decodes("\x1a\x05"
                         "abcde",
                         7));                   /* wrong fixed length */
    assert_false(decodes(FIXED "\x22\x00", 8)); /* empty packed written */
    assert_false(decodes("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02" FIXED, 17)); /* over 64 bits */
    assert_true(decodes("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" FIXED, 17));
    assert_false(decodes("\x12\xff\xff\xff\xff\x0f" FIXED, 12)); /* length beyond the end */
#undef FIXED
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_canonical_under_mutation),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
