/* What a mask allows, by the walk over the vocabulary and by one token at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "vd_calls.h"
#include "vd_masker_cache.h"
#include "vd_rng.h"
#include "vd_rules.h"

enum { VOCAB = 3000, LONGEST = 60 };

static uint8_t bytes[VOCAB][LONGEST];
static struct vd_bytes text[VOCAB];

static struct vd_texts *some_texts_of(const char *letters)
{
    static const char *const wide[] = {"\u00E9",       "\uFF5C",           "\U0001F600",  "\xC3",
                                       "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE0\x80\x80"};
    struct vd_rng r = {5, 0};
    struct vd_texts *t;
    uint64_t n_letters = strlen(letters);
    for (uint32_t i = 0; i < VOCAB; i++) { /* some long ones, some beyond ASCII, some twice */
        size_t n = i % 100 == 7 ? 0 : i < 13 ? 1 : vd_rng_below(&r, i % 40 == 9 ? LONGEST : 6);
        for (size_t k = 0; k < n; k++)
            bytes[i][k] = (uint8_t)letters[i < 13 ? i : vd_rng_below(&r, n_letters)];
        const char *c = wide[vd_rng_below(&r, 20) < 14 ? 0 : vd_rng_below(&r, 7)];
        if (i % 9 == 4 && n > strlen(c))
            memcpy(bytes[i] + vd_rng_below(&r, n - strlen(c)), c, strlen(c));
        if (i % 50 == 30)
            memcpy(bytes[i], bytes[i - 1], n = text[i - 1].n);
        text[i] = (struct vd_bytes){bytes[i], n};
    }
    assert_int_equal(vd_texts_create_from(&t, text, VOCAB, NULL), VD_OK);
    return t;
}

static const char json_letters[] = "{}[]\",: 1ae\n\\[[[bcdfghijklm"; /* few texts begin with each */

static const char mark_letters[] = "<tool_cal>{\"name:[TOLCS]} \n|function=";
static const char plain_letters[] = "abcdefghijklmn opqr\"";

static struct vd_texts *some_texts(void)
{
    return some_texts_of(json_letters);
}

static uint8_t mask[VD_MASK_BYTES_MAX];
static const uint32_t stop[] = {7, 4};

/* What the masker allows against one token at a time; the ids that follow, to ids. */
static uint32_t check_state(struct vd_masker *m, const struct vd_automaton *a,
                            const struct vd_automaton_state *s, uint32_t ids[VOCAB + 1])
{
    static uint64_t bits[VOCAB / 64 + 1];
    uint32_t n_ids = vd_masker_allowed(m, s, bits), k = 0;
    for (uint32_t id = 0; id < VOCAB; id++) {
        struct vd_automaton_state then = *s;
        bool ok = id == 7 || id == 4 ? vd_automaton_may_end(a, s) : vd_automaton_walk(a, &then, text[id]);
        if (ok != (bits[id / 64] >> id % 64 & 1))
            fail_msg("token %u in state %u, depth %u", id, s->at, s->depth);
        ids[k] = id;
        k += ok;
    }
    assert_int_equal(k, n_ids);
    return k;
}

/* By the masker, and by one token at a time, over `runs` random answers. */
static void check_mask(const struct vd_texts *t, size_t n, unsigned runs, unsigned tokens, uint64_t seed)
{
    static uint32_t ids[VOCAB + 1];
    struct vd_automaton a;
    struct vd_masker *m;
    struct vd_rng r = {seed, 0};
    assert_int_equal(vd_masker_create(&m, t, (struct vd_bytes){mask, n}, stop, 2, NULL), VD_OK);
    assert_true(vd_automaton_open(&a, (struct vd_bytes){mask, n}));
    for (unsigned run = 0; run < runs; run++) {
        struct vd_automaton_state s = VD_AUTOMATON_START;
        for (unsigned at = 0; at < tokens; at++) {
            uint32_t n_ids = check_state(m, &a, &s, ids);
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
}

static void check_allowed(const char *schema, unsigned runs, unsigned tokens, uint64_t seed)
{
    struct vd_texts *t = some_texts();
    struct vd_hash root = vd_texts_root(t);
    size_t n;
    assert_int_equal(vd_schema_compile(schema, schema ? strlen(schema) : 0, &root, mask, &n, NULL), VD_OK);
    check_mask(t, n, runs, tokens, seed);
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
    check_allowed("{\"type\":\"string\"}", 4, 30, 10);
    check_allowed("{\"type\":\"string\",\"maxLength\":50}", 10, 40, 11);
    check_allowed("{\"type\":\"string\",\"pattern\":\"^[a-k ]*(\\u00e9[a-m]{3}){2,9}$\"}", 6, 40, 12);
}

/* Where most texts are plain, and long enough to go on behind what counts characters. */
static void test_counted(void **state)
{
    static const char nested[] = "{\"type\":\"array\",\"items\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":"
                                 "\"string\",\"maxLength\":99}]}}";
    static const char *const schemas[] = {"{\"type\":\"string\",\"maxLength\":150}",
                                          "{\"type\":\"string\",\"minLength\":140}", nested};
    static const char grammar[] = "root ::= \"b\" \"e\" | [^b] [^\\n]? [^\\n]?";
    struct vd_texts *t = some_texts_of(plain_letters);
    struct vd_hash root = vd_texts_root(t);
    size_t n;
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(vd_schema_compile(schemas[i], strlen(schemas[i]), &root, mask, &n, NULL), VD_OK);
        check_mask(t, n, 40, 60, i);
    }
    assert_int_equal(vd_grammar_compile(grammar, sizeof grammar - 1, &root, mask, &n, NULL), VD_OK);
    check_mask(t, n, 4, 4, 3);
    vd_texts_free(t);
    check_allowed(schemas[2], 20, 60, 5);
}

/* Characters beyond ASCII need the stack, of which nothing is left at last. */
static void test_full_stack(void **state)
{
    static const char schema[] = "{\"type\":\"array\",\"items\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":"
                                 "\"string\",\"maxLength\":99}]}}";
    static uint32_t ids[VOCAB + 1];
    static const char *const few[] = {"a", "\u00E9", "b\uFF5C"}; /* all are plain */
    struct vd_texts *t;
    struct vd_automaton a;
    struct vd_masker *m;
    unsigned n_states = 0;
    size_t n;
    (void)state;
    for (uint32_t i = 0; i < VOCAB; i++)
        text[i] = (struct vd_bytes){(const uint8_t *)few[i % 3],
                                    i % 1000 > 10 && i % 1000 < 14 ? strlen(few[i % 3]) : 0};
    assert_int_equal(vd_texts_create_from(&t, text, VOCAB, NULL), VD_OK);
    struct vd_hash root = vd_texts_root(t);
    assert_int_equal(vd_schema_compile(schema, sizeof schema - 1, &root, mask, &n, NULL), VD_OK);
    assert_int_equal(vd_masker_create(&m, t, (struct vd_bytes){mask, n}, stop, 2, NULL), VD_OK);
    assert_true(vd_automaton_open(&a, (struct vd_bytes){mask, n}));
    for (unsigned depth = 1; depth < 33; depth++) {
        struct vd_automaton_state s = VD_AUTOMATON_START;
        bool ok = true;
        for (unsigned i = 0; ok && i < depth; i++)
            ok = vd_automaton_step(&a, &s, '[');
        if (!ok || !vd_automaton_step(&a, &s, '"'))
            continue;
        n_states++;
        check_state(m, &a, &s, ids);
        vd_automaton_step(&a, &s, 'x');
        check_state(m, &a, &s, ids);
    }
    assert_in_range(n_states, 28, 31);
    vd_masker_free(m);
    vd_texts_free(t);
}

/* A text that is free but for the marks of calls. */
static void test_calls(void **state)
{
    static const char spec[] = "{\"tools\":[{\"name\":\"a\"},{\"name\":\"me\",\"strict\":true}]}";
    struct vd_texts *t = some_texts_of(mark_letters);
    struct vd_hash root = vd_texts_root(t);
    size_t n;
    (void)state;
    for (unsigned form = 0; form < VD_CALLS_FORMS; form++) {
        assert_int_equal(vd_calls_compile(spec, sizeof spec - 1, 1u << form, &root, mask, &n, NULL), VD_OK);
        check_mask(t, n, 4, 60, form);
    }
    vd_texts_free(t);
}

/* Ranges that begin and end where plain characters do, or nearly so, and lead anywhere. */
static size_t some_mask(struct vd_rng *r, const struct vd_hash *root)
{
    static const uint16_t cut[] = {0,    0x20, 0x21, 0x22, 0x23, 0x3C, 0x3D, 0x5B, 0x5C,
                                   0x5D, 0x61, 0x62, 0x80, 0x90, 0xA0, 0xC0, 0xC2, 0xC4,
                                   0xE0, 0xE1, 0xED, 0xEE, 0xF0, 0xF1, 0xF4, 0xF5, 0x100};
    enum { CUTS = sizeof cut / sizeof cut[0] };
    uint32_t n = 1 + (uint32_t)vd_rng_below(r, 8), n_edges = 0;
    uint8_t *head = mask + VD_MASK_HEAD_BYTES, *edge = head + 2 * n;
    memcpy(mask, root->b, VD_MASK_ROOT_BYTES);
    vd_le16_store(mask + VD_MASK_ROOT_BYTES, (uint16_t)n);
    for (uint32_t s = 0; s < n; s++) {
        uint64_t skip = vd_rng_below(r, 4), same = vd_rng_below(r, 4), to = vd_rng_below(r, n);
        vd_le16_store(head + 2 * s, (uint16_t)(n_edges | (vd_rng_below(r, 2) ? 0x8000u : 0)));
        for (unsigned k = 0, next; k + 1 < CUTS && vd_rng_below(r, 12) > 0; k = next) {
            next = k + 1 + (unsigned)vd_rng_below(r, vd_rng_below(r, 3) ? 2 : CUTS - 1 - k);
            if (vd_rng_below(r, 8) < skip)
                continue;
            edge[0] = (uint8_t)cut[k];
            edge[1] = (uint8_t)(cut[next < CUTS ? next : CUTS - 1] - 1);
            vd_le16_store(edge + 2, (uint16_t)(vd_rng_below(r, 4) < same ? to : vd_rng_below(r, n)));
            vd_le16_store(edge + 4, vd_rng_below(r, 6) ? VD_AUTOMATON_PLAIN : (uint16_t)vd_rng_below(r, n));
            edge += VD_AUTOMATON_EDGE_BYTES;
            n_edges++;
        }
    }
    return (size_t)(edge - mask);
}

static void test_any_mask(void **state)
{
    struct vd_texts *t = some_texts();
    struct vd_hash root = vd_texts_root(t);
    struct vd_rng r = {77, 0};
    (void)state;
    for (unsigned i = 0; i < 600; i++)
        check_mask(t, some_mask(&r, &root), 2, 12, i);
    vd_texts_free(t);
}

/* The definition of what is plain, the other way round. */
static void check_plain(const char *letters)
{
    struct vd_texts *t = some_texts_of(letters);
    struct vd_texts_tree others = vd_texts_others(t);
    unsigned n_plain = 0;
    for (uint32_t id = 0; id < VOCAB; id++) {
        unsigned n = 0, listed = 0;
        for (size_t k = 0; k < text[id].n; k++)
            n += (text[id].p[k] & 0xC0) != 0x80;
        bool plain = n > 0 && n <= VD_TEXTS_PLAIN_MAX;
        for (size_t k = 0; plain && k < text[id].n; k++) {
            uint8_t c = text[id].p[k];
            size_t left = text[id].n - k;
            if (c < 0x80)
                plain = c >= ' ' && !memchr("\"\\<[", c, 4);
            else if (left >= 2 && memcmp(text[id].p + k, "\u00E9", 2) == 0)
                k += 1;
            else if (left >= 3 && memcmp(text[id].p + k, "\uFF5C", 3) == 0)
                k += 2;
            else if (left >= 4 && memcmp(text[id].p + k, "\U0001F600", 4) == 0)
                k += 3;
            else
                plain = false;
        }
        for (unsigned k = 0; k <= VD_TEXTS_PLAIN_MAX; k++)
            assert_int_equal(vd_texts_plain(t, k)[id / 64] >> id % 64 & 1, plain && n <= k);
        for (uint32_t i = 0; i < others.first[others.n]; i++)
            listed += others.id[i] == id;
        assert_int_equal(listed, !plain && text[id].n > 0);
        n_plain += plain;
    }
    assert_true(n_plain > VOCAB / 8);
    vd_texts_free(t);
}

static void test_plain(void **state)
{
    (void)state;
    check_plain(json_letters);
    check_plain(mark_letters);
    check_plain(plain_letters);
}

static void test_other_texts(void **state)
{
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
    static uint8_t masks[VD_MASKER_CACHE_IDLE + 2][VD_MASK_BYTES_MAX];
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
        assert_int_equal(vd_schema_compile(schema, strlen(schema), &root, masks[i], &bytes_of[i].n, NULL),
                         VD_OK);
        bytes_of[i].p = masks[i];
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
    masks[0][0] ^= 1; /* for other texts */
    assert_int_equal(vd_masker_cache_take(c, bytes_of[0], &again, NULL), VD_ECONFLICT);
    assert_int_equal(vd_masker_cache_count(c), VD_MASKER_CACHE_IDLE);
    vd_masker_cache_free(c);
    vd_texts_free(t);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allowed),     cmocka_unit_test(test_calls),
        cmocka_unit_test(test_any_mask),    cmocka_unit_test(test_counted),
        cmocka_unit_test(test_full_stack),  cmocka_unit_test(test_plain),
        cmocka_unit_test(test_other_texts), cmocka_unit_test(test_cache)};
    return cmocka_run_group_tests_name("masker", tests, NULL, NULL);
}
