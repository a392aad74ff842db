/* What a mask allows, by the walk over the vocabulary and by one token at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "vd_masker_cache.h"
#include "vd_rng.h"
#include "vd_rules.h"

enum { VOCAB = 3000, LONGEST = 60 };

static uint8_t bytes[VOCAB][LONGEST];
static struct vd_bytes text[VOCAB];

static struct vd_texts *some_texts(void)
{
    static const char letters[] = "{}[]\",: 1ae\n\\[[[bcdfghijklm"; /* few texts begin with each */
    struct vd_rng r = {5, 0};
    struct vd_texts *t;
    for (uint32_t i = 0; i < VOCAB; i++) { /* some long ones, some beyond ASCII, some twice */
        size_t n = i % 100 == 7 ? 0 : i < 13 ? 1 : vd_rng_below(&r, i % 40 == 9 ? LONGEST : 6);
        for (size_t k = 0; k < n; k++)
            bytes[i][k] = (uint8_t)letters[i < 13 ? i : vd_rng_below(&r, sizeof letters - 1)];
        if (i % 9 == 4 && n > 1)
            memcpy(bytes[i] + n - 2, "\xC3\xA9", 2);
        if (i % 50 == 30)
            memcpy(bytes[i], bytes[i - 1], n = text[i - 1].n);
        text[i] = (struct vd_bytes){bytes[i], n};
    }
    assert_int_equal(vd_texts_create_from(&t, text, VOCAB, NULL), VD_OK);
    return t;
}

/* By the masker, and by one token at a time, over `runs` random answers. */
static void check_allowed(const char *schema, unsigned runs, unsigned tokens, uint64_t seed)
{
    static uint8_t mask[VD_MASK_BYTES_MAX];
    static uint32_t ids[VOCAB];
    const uint32_t stop[] = {7, 4};
    struct vd_texts *t = some_texts();
    struct vd_hash root = vd_texts_root(t);
    struct vd_automaton a;
    struct vd_masker *m;
    struct vd_rng r = {seed, 0};
    size_t n;
    assert_int_equal(vd_schema_compile(schema, schema ? strlen(schema) : 0, &root, mask, &n, NULL), VD_OK);
    assert_int_equal(vd_masker_create(&m, t, (struct vd_bytes){mask, n}, stop, 2, NULL), VD_OK);
    assert_true(vd_automaton_open(&a, (struct vd_bytes){mask, n}));
    for (unsigned run = 0; run < runs; run++) {
        struct vd_automaton_state s = VD_AUTOMATON_START;
        for (unsigned at = 0; at < tokens; at++) {
            uint32_t n_ids = vd_masker_allowed(m, &s, ids), k = 0;
            for (uint32_t id = 0; id < VOCAB; id++) {
                struct vd_automaton_state then = s;
                bool ok = id == 7 || id == 4 ? vd_automaton_may_end(&a, &s)
                                             : vd_automaton_walk(&a, &then, text[id]);
                if (ok != (k < n_ids && ids[k] == id))
                    fail_msg("token %u at %u of run %u", id, at, run);
                k += ok;
            }
            assert_int_equal(k, n_ids);
            if (n_ids == 0)
                break; /* no token of this vocabulary goes on */
            struct vd_automaton_state best = {.at = VD_AUTOMATON_DEAD};
            for (unsigned i = 0; i < (run % 2 ? 6 : 1); i++) { /* odd runs go deep */
                struct vd_automaton_state then = s;
                vd_masker_advance(m, &then, ids[vd_rng_below(&r, n_ids)]);
                if (i == 0 || (then.at != VD_AUTOMATON_DEAD && then.depth >= best.depth))
                    best = then;
            }
            s = best;
            if (s.at == VD_AUTOMATON_DEAD)
                break; /* a stop token */
        }
    }
    vd_masker_free(m);
    vd_texts_free(t);
}

static void test_allowed(void **state)
{
    (void)state;
    check_allowed(NULL, 20, 12, 6);
    /* Long enough to get to the end of the stack. */
    check_allowed("{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}", 12, 60, 7);
    check_allowed("{}", 12, 60, 8);
    check_allowed("{\"type\":\"array\",\"maxItems\":4,\"items\":{\"type\":\"string\",\"minLength\":3,"
                  "\"maxLength\":150}}",
                  6, 60, 9);
}

static void test_other_texts(void **state)
{
    static uint8_t mask[VD_MASK_BYTES_MAX];
    struct vd_texts *t = some_texts();
    struct vd_hash other = {{9}};
    struct vd_masker *m;
    size_t n;
    (void)state;
    assert_int_equal(vd_schema_compile(NULL, 0, &other, mask, &n, NULL), VD_OK);
    assert_int_equal(vd_masker_create(&m, t, (struct vd_bytes){mask, n}, NULL, 0, NULL), VD_ECONFLICT);
    vd_texts_free(t);
}

/* One masker for one mask while it is used, and the newest few afterwards. */
static void test_cache(void **state)
{
    static uint8_t mask[VD_MASKER_CACHE_IDLE + 2][VD_MASK_BYTES_MAX];
    enum { N = VD_MASKER_CACHE_IDLE + 2 };
    struct vd_texts *t = some_texts();
    struct vd_hash root = vd_texts_root(t);
    struct vd_masker_cache *c;
    struct vd_masker *m[N], *again;
    struct vd_bytes bytes_of[N];
    (void)state;
    assert_int_equal(vd_masker_cache_create(&c, t, NULL, 0, NULL), VD_OK);
    for (unsigned i = 0; i < N; i++) {
        char schema[32];
        snprintf(schema, sizeof schema, "{\"const\":%u}", i);
        assert_int_equal(vd_schema_compile(schema, strlen(schema), &root, mask[i], &bytes_of[i].n, NULL),
                         VD_OK);
        bytes_of[i].p = mask[i];
        assert_int_equal(vd_masker_cache_take(c, bytes_of[i], &m[i], NULL), VD_OK);
    }
    assert_int_equal(vd_masker_cache_take(c, bytes_of[2], &again, NULL), VD_OK);
    assert_ptr_equal(again, m[2]);
    vd_masker_cache_give(c, again);
    for (unsigned i = 0; i < N; i++)
        vd_masker_cache_give(c, m[i]);
    assert_int_equal(vd_masker_cache_count(c), VD_MASKER_CACHE_IDLE);
    assert_int_equal(vd_masker_cache_take(c, bytes_of[N - 1], &again, NULL), VD_OK);
    assert_ptr_equal(again, m[N - 1]);
    vd_masker_cache_give(c, again);
    mask[0][0] ^= 1; /* for other texts */
    assert_int_equal(vd_masker_cache_take(c, bytes_of[0], &again, NULL), VD_ECONFLICT);
    assert_int_equal(vd_masker_cache_count(c), VD_MASKER_CACHE_IDLE);
    vd_masker_cache_free(c);
    vd_texts_free(t);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allowed), cmocka_unit_test(test_other_texts), cmocka_unit_test(test_cache)};
    return cmocka_run_group_tests_name("masker", tests, NULL, NULL);
}
