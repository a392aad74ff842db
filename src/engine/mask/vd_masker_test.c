/* What a mask allows, by the walk over the vocabulary and by one token at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "vd_masker.h"
#include "vd_rng.h"
#include "vd_rules.h"

enum { VOCAB = 3000 };

static uint8_t bytes[VOCAB][6];
static struct vd_bytes text[VOCAB];

static struct vd_texts *some_texts(void)
{
    static const char letters[] = "{}[]\",: 1ae\n\\";
    struct vd_rng r = {5, 0};
    struct vd_texts *t;
    for (uint32_t i = 0; i < VOCAB; i++) {
        text[i] = (struct vd_bytes){bytes[i], i % 100 == 7 ? 0 : i < 13 ? 1 : vd_rng_below(&r, 6)};
        for (size_t k = 0; k < 6; k++)
            bytes[i][k] = (uint8_t)letters[i < 13 ? i : vd_rng_below(&r, 13)];
    }
    assert_int_equal(vd_texts_create_from(&t, text, VOCAB, NULL), VD_OK);
    return t;
}

static void test_allowed(void **state)
{
    static uint8_t mask[VD_MASK_BYTES_MAX];
    static uint32_t ids[VOCAB];
    const uint32_t stop[] = {7, 4};
    struct vd_texts *t = some_texts();
    struct vd_hash root = vd_texts_root(t), other = {{9}};
    struct vd_automaton a;
    struct vd_masker *m;
    struct vd_rng r = {6, 0};
    size_t n;
    (void)state;
    assert_int_equal(vd_schema_compile(NULL, 0, &other, mask, &n, NULL), VD_OK);
    assert_int_equal(vd_masker_create(&m, t, (struct vd_bytes){mask, n}, stop, 2, NULL), VD_ECONFLICT);
    assert_int_equal(vd_schema_compile(NULL, 0, &root, mask, &n, NULL), VD_OK);
    assert_int_equal(vd_masker_create(&m, t, (struct vd_bytes){mask, n}, stop, 2, NULL), VD_OK);
    assert_true(vd_automaton_open(&a, (struct vd_bytes){mask, n}));
    for (unsigned run = 0; run < 20; run++) {
        struct vd_automaton_state s = VD_AUTOMATON_START;
        for (unsigned at = 0; at < 12; at++) {
            uint32_t n_ids = vd_masker_allowed(m, &s, ids), k = 0;
            for (uint32_t id = 0; id < VOCAB; id++) {
                struct vd_automaton_state then = s;
                bool ok = id == 7 || id == 4 ? vd_automaton_may_end(&a, &s)
                                             : vd_automaton_walk(&a, &then, text[id]);
                assert_int_equal(ok, k < n_ids && ids[k] == id);
                k += ok;
            }
            assert_int_equal(k, n_ids);
            assert_true(n_ids > 0);
            vd_masker_advance(m, &s, ids[vd_rng_below(&r, n_ids)]);
            if (s.at == VD_AUTOMATON_DEAD)
                break; /* a stop token */
        }
    }
    vd_masker_free(m);
    vd_texts_free(t);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(test_allowed)};
    return cmocka_run_group_tests_name("masker", tests, NULL, NULL);
}
