#include "vd_file.h"
#include "vd_gguf_write.h"
#include "vd_tok.h"
#include "vd_unicode.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

/* The model, or NULL if it is not on this machine. */
static struct vd_gguf *open_model(void)
{
    char path[VD_PATH_MAX];
    struct vd_gguf *g;
    if (vd_home_path(path, NULL, "models/SmolLM2-135M-Instruct.Q4_1.gguf") ||
        vd_gguf_open_map(&g, path, NULL))
        return NULL;
    return g;
}

/* tests/data/smollm2-tok.txt, recorded from llama-tokenize. A record: "<parse special> <bytes> <ids>", the
 * text, the ids. */
static void test_recorded_ids(void **state)
{
    const struct vd_tok *t = *state;
    uint8_t *file;
    size_t n_file, records = 0;
    struct vd_error err = {0};
    assert_int_equal(vd_file_read(&file, &n_file, VD_SOURCE_DIR "/tests/data/smollm2-tok.txt", 1 << 20, &err),
                     VD_OK);
    for (char *p = (char *)file; p < (char *)file + n_file; records++) {
        char *end;
        unsigned special = (unsigned)strtoul(p, &end, 10);
        size_t n_text = strtoul(end, &end, 10), n_ids = strtoul(end, &end, 10);
        const char *text = end + 1;
        uint32_t *got = malloc((n_ids + 1) * sizeof *got);
        struct vd_tok_ids ids = {got, n_ids, 0, 0};
        enum vd_err e = vd_tok_encode(t, text, n_text, special ? VD_TOK_PARSE_SPECIAL : 0, &ids, &err);
        if (e || ids.n != n_ids)
            fail_msg("record %zu, \"%.40s\": %zu ids, not %zu", records, text, ids.n, n_ids);
        p = (char *)(uintptr_t)text + n_text + 1;
        for (size_t i = 0; i < n_ids; i++, p = end)
            if (got[i] != strtoul(p, &end, 10))
                fail_msg("record %zu, \"%.40s\": id %zu is %u, not %.8s", records, text, i, got[i], p);
        p++;
        free(got);
    }
    assert_true(records > 100);
    free(file);
}

static void test_model_vocabulary(void **state)
{
    const struct vd_tok *t = *state;
    assert_int_equal(vd_tok_count(t), 49152);
    assert_int_equal(vd_tok_bos(t), 1);
    assert_int_equal(vd_tok_eos(t), 2);
    assert_false(vd_tok_adds_bos(t));
    assert_true(vd_tok_is_eog(t, 2) && vd_tok_is_eog(t, 0));
    assert_false(vd_tok_is_eog(t, 1) || vd_tok_is_eog(t, 100) || vd_tok_is_eog(t, VD_TOK_NONE));
    assert_true(vd_tok_is_control(t, 1) && !vd_tok_is_control(t, 100));
    assert_int_equal(vd_tok_find(t, "<|im_start|>", 12), 1);
    assert_int_equal(vd_tok_find(t, "<|im_star", 9), VD_TOK_NONE);
    assert_int_equal(vd_tok_piece(t, 1, false).n, 0);
    assert_int_equal(vd_tok_piece(t, 1, true).n, 12);
    uint32_t the = vd_tok_find(t, "\u0120the", 5);
    assert_true(the != VD_TOK_NONE);
    assert_int_equal(vd_tok_piece(t, the, false).n, 4);
    assert_memory_equal(vd_tok_piece(t, the, false).p, " the", 4);
}

/* Long runs take n log n: a megabyte of one letter must not take minutes. */
static void test_long_runs(void **state)
{
    const struct vd_tok *t = *state;
    enum { N = 1 << 20 };
    static const char *const units[] = {"a", " ", "ab", "=", "1", "\u4e2d", "\xff"};
    char *text = malloc(N);
    uint32_t *p = malloc(3 * N * sizeof *p);
    struct vd_error err = {0};
    clock_t start = clock();
    for (size_t k = 0; k < sizeof units / sizeof units[0]; k++) {
        for (size_t i = 0; i < N; i++)
            text[i] = units[k][i % strlen(units[k])];
        struct vd_tok_ids ids = {p, 3 * N, 0, 0};
        assert_int_equal(vd_tok_encode(t, text, N, 0, &ids, &err), VD_OK);
        assert_true(ids.n > 0);
    }
    assert_true((clock() - start) / CLOCKS_PER_SEC < 60);
    free(text);
    free(p);
}

/* A vocabulary of a few tokens, in memory. */
struct small {
    const char *tokens[12];
    int32_t kinds[12];
    const char *merges[12];
    const char *pre, *model;
    int32_t bos; /* -1: none */
    bool add_bos;
    const float *scores; /* NULL: none; then, only with them: */
    bool no_prefix;
    bool keep_case;     /* only for bert */
    const uint8_t *map; /* only for t5: n_map bytes */
    size_t n_map;
    const char *name; /* general.name */
};

static enum vd_err load_small(const struct small *s, struct vd_gguf **g, uint8_t **file, struct vd_tok **t,
                              struct vd_error *err)
{
    struct vd_gguf_str tokens[12], merges[12];
    size_t n_tokens = 0, n_merges = 0, n;
    for (; n_tokens < 12 && s->tokens[n_tokens]; n_tokens++)
        tokens[n_tokens] = (struct vd_gguf_str){s->tokens[n_tokens], strlen(s->tokens[n_tokens])};
    for (; n_merges < 12 && s->merges[n_merges]; n_merges++)
        merges[n_merges] = (struct vd_gguf_str){s->merges[n_merges], strlen(s->merges[n_merges])};
    struct vd_gguf_writer *w = vd_gguf_writer_new(1 << 16);
    vd_gguf_add_str(w, "tokenizer.ggml.model", s->model ? s->model : "gpt2");
    vd_gguf_add_str(w, "tokenizer.ggml.pre", s->pre ? s->pre : "smollm");
    vd_gguf_add_array_str(w, "tokenizer.ggml.tokens", tokens, n_tokens);
    vd_gguf_add_array_i32(w, "tokenizer.ggml.token_type", s->kinds, n_tokens);
    vd_gguf_add_array_str(w, "tokenizer.ggml.merges", merges, n_merges);
    vd_gguf_add_bool(w, "tokenizer.ggml.add_bos_token", s->add_bos);
    if (s->scores) {
        vd_gguf_add_array_f32(w, "tokenizer.ggml.scores", s->scores, n_tokens);
        vd_gguf_add_bool(w, "tokenizer.ggml.add_space_prefix", !s->no_prefix);
    }
    if (s->name)
        vd_gguf_add_str(w, "general.name", s->name);
    if (s->map) {
        static const char key[] = "tokenizer.ggml.precompiled_charsmap";
        vd_gguf_add_kv(w, &(struct vd_gguf_kv){{key, sizeof key - 1},
                                               VD_GGUF_ARRAY,
                                               {VD_GGUF_U8, s->n_map, s->map, s->n_map}});
        vd_gguf_add_bool(w, "tokenizer.ggml.remove_extra_whitespaces", true);
    }
    if (s->model && strcmp(s->model, "bert") == 0) {
        vd_gguf_add_u32(w, "tokenizer.ggml.unknown_token_id", 0);
        vd_gguf_add_u32(w, "tokenizer.ggml.seperator_token_id", 2);
        vd_gguf_add_bool(w, "tokenizer.ggml.normalizer.lowercase", !s->keep_case);
    }
    if (s->bos >= 0)
        vd_gguf_add_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)s->bos);
    assert_int_equal(vd_gguf_writer_finish(w, file, &n, err), VD_OK);
    vd_gguf_writer_free(w);
    assert_int_equal(vd_gguf_open(g, *file, n, "small.gguf", err), VD_OK);
    return vd_tok_load(t, *g, err);
}

struct encoding {
    const char *text;
    unsigned flags;
    uint32_t ids[8];
    size_t n, dropped;
};

static void check(const struct vd_tok *t, const struct encoding *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t p[8];
        struct vd_tok_ids ids = {p, 8, 0, 0};
        assert_int_equal(vd_tok_encode(t, cases[i].text, strlen(cases[i].text), cases[i].flags, &ids, NULL),
                         VD_OK);
        if (ids.n != cases[i].n || memcmp(p, cases[i].ids, ids.n * sizeof *p) != 0 ||
            ids.n_dropped_bytes != cases[i].dropped)
            fail_msg("\"%s\": %zu ids, first %u, %zu dropped", cases[i].text, ids.n, p[0],
                     ids.n_dropped_bytes);
    }
}

static void test_small_vocabulary(void **state)
{
    (void)state;
    const struct small s = {
        .tokens = {"a", "b", "c", "ab", "<s>", "<u>", "abc", "\u0120", "<0x41>", "<s>c"},
        .kinds = {1, 1, 1, 1, 3, 4, 1, 1, 6, 3},
        .merges = {"b c", "a b", "a bc", "\u0120 a", "\u0120a b", "b c"}, /* again: the first counts */
        .bos = 4,
        .add_bos = true};
    struct vd_gguf *g;
    struct vd_tok *t;
    uint8_t *file;
    struct vd_error err = {0};
    assert_int_equal(load_small(&s, &g, &file, &t, &err), VD_OK);
    static const struct encoding cases[] = {
        {"", 0, {0}, 0, 0},
        {"", VD_TOK_ADD_BOS, {4}, 1, 0},
        {"abc", 0, {6}, 1, 0},   /* bc before ab, by rank; bc itself is no token */
        {"bc", 0, {1, 2}, 2, 0}, /* so alone it falls back to its bytes' tokens */
        {"abab", 0, {3, 3}, 2, 0},
        {" ab", 0, {7, 3}, 2, 0},
        /* the merged " a" is no token, and the blank has no one-byte token: lost */
        {" a", 0, {0}, 1, 1},
        {"a<s>b", 0, {0, 1}, 2, 3},
        {"a<s>b", VD_TOK_PARSE_SPECIAL | VD_TOK_ADD_BOS, {4, 0, 4, 1}, 4, 0},
        {"a<s>c", VD_TOK_PARSE_SPECIAL, {0, 9}, 2, 0}, /* the longer special token first */
        {"a<u>b", 0, {0, 5, 1}, 3, 0},                 /* a user-defined token is always found */
        {"xay", 0, {0}, 1, 2},
        {"\xff", 0, {0}, 0, 3},
    };
    check(t, cases, sizeof cases / sizeof cases[0]);
    uint32_t two[2];
    struct vd_tok_ids ids = {two, 2, 0, 0};
    assert_int_equal(vd_tok_encode(t, "a1b1c", 5, 0, &ids, &err), VD_ELIMIT);
    assert_int_equal(ids.n, 3);
    assert_string_equal(err.msg, "the text has 3 tokens; there is room for 2");
    char out[8];
    size_t n;
    const uint32_t back[] = {6, 4, 8, 5}, beyond[] = {10};
    assert_int_equal(vd_tok_decode(t, back, 4, false, out, 8, &n, &err), VD_OK);
    assert_true(n == 7 && memcmp(out, "abcA<u>", 7) == 0);
    assert_int_equal(vd_tok_decode(t, back, 4, true, out, 8, &n, &err), VD_ELIMIT);
    assert_int_equal(n, 10);
    assert_int_equal(vd_tok_decode(t, beyond, 1, true, out, 8, &n, &err), VD_EFORMAT);
    assert_non_null(strstr(err.msg, "id 10; the vocabulary has 10 tokens"));
    vd_tok_free(t);
    vd_gguf_close(g);
    free(file);
}

/* A long word of characters that no token can hold: nothing merges, all is dropped, in n log n. */
static void test_long_unknown_run(void **state)
{
    enum { N = 1 << 18 };
    const struct small s = {
        .tokens = {"a", "b", "ab"}, .merges = {"a b"}, .pre = "gpt-2", .model = "gpt2", .bos = -1};
    struct vd_gguf *g;
    struct vd_tok *t;
    uint8_t *file;
    struct vd_error err = {0};
    uint32_t id[4];
    struct vd_tok_ids ids = {id, 4, 0, 0};
    char *text = malloc(N);
    (void)state;
    memset(text, 'z', N);
    memcpy(text + N - 2, "ab", 2);
    assert_int_equal(load_small(&s, &g, &file, &t, &err), VD_OK);
    assert_int_equal(vd_tok_encode(t, text, N, 0, &ids, &err), VD_OK);
    assert_int_equal(ids.n, 1);
    assert_int_equal(id[0], 2);
    assert_int_equal(ids.n_dropped_bytes, N - 2);
    vd_tok_free(t);
    vd_gguf_close(g);
    free(file);
    free(text);
}

/* Llama 3 takes a word that is a token as it is, also where merges lead elsewhere; its file need not say that
 * bos comes first. */
static void test_whole_words(void **state)
{
    (void)state;
    const struct small s = {.tokens = {"a", "b", "ab", "abb", "<|b|>"},
                            .kinds = {1, 1, 1, 1, 3},
                            .merges = {"a b"},
                            .pre = "llama-bpe",
                            .bos = 4,
                            .add_bos = true};
    static const struct encoding cases[] = {
        {"abb", VD_TOK_ADD_BOS, {4, 3}, 2, 0},
        {"abba", 0, {2, 1, 0}, 3, 0},
    };
    struct vd_gguf *g;
    struct vd_tok *t;
    uint8_t *file;
    assert_int_equal(load_small(&s, &g, &file, &t, NULL), VD_OK);
    check(t, cases, sizeof cases / sizeof cases[0]);
    vd_tok_free(t);
    vd_gguf_close(g);
    free(file);
}

/* What SentencePiece's BPE does, on a vocabulary that one can follow by hand. */
static void test_spm(void **state)
{
    (void)state;
    static const float scores[12] = {0, 0, 0, 0, -1, -2, -3, -4, -5, -6, -4, 0};
    struct small s = {.tokens = {"<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "b", "ab", "\u2581a",
                                 "\u2581ab", "ba", "<u>"},
                      .kinds = {2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 4},
                      .model = "llama",
                      .bos = -1,
                      .add_bos = true,
                      .scores = scores};
    static const struct encoding cases[] = {
        {"", VD_TOK_ADD_BOS | VD_TOK_ADD_END, {1}, 1, 0}, /* the model's bos; no eos unless the file asks */
        {"ab", 0, {9}, 1, 0},
        {"aba", 0, {9, 5}, 2, 0}, /* ab and ba score the same: the left one */
        {" a", 0, {4, 8}, 2, 0},
        {"a\nb", 0, {8, 3, 6}, 3, 0},
        {"a<u>b", 0, {8, 11, 4, 6}, 4, 0}, /* a blank comes before text after a special token too */
        {"a</s>b", VD_TOK_PARSE_SPECIAL, {8, 2, 4, 6}, 4, 0},
        {"a</s>b", 0, {8, 6}, 2, 4},
        {"\xff", 0, {4}, 1, 1},
        {"\xc3 a", 0, {4, 5}, 2, 4}, /* the first byte takes the next along, whatever it is */
    };
    static const float other_scores[12] = {0, 0, 0, 0, -1, -2, -3, 2.5F, -5, -6, 3, 0};
    static const struct encoding without_prefix[] = {
        {"ab", 0, {7}, 1, 0},
        {"aba", 0, {5, 10}, 2, 0},
        {"a<u> b", 0, {5, 11, 4, 6}, 4, 0},
    };
    static const struct encoding phi3[] = {
        {"a <u> \n\tb<s> ", VD_TOK_PARSE_SPECIAL, {5, 4, 11, 6, 1, 4}, 6, 0}};
    struct vd_gguf *g;
    struct vd_tok *t;
    uint8_t *file;
    assert_int_equal(load_small(&s, &g, &file, &t, NULL), VD_OK);
    check(t, cases, sizeof cases / sizeof cases[0]);
    const uint32_t back[] = {9, 3, 11, 1};
    char out[16];
    size_t n;
    assert_int_equal(vd_tok_decode(t, back, 4, false, out, sizeof out, &n, NULL), VD_OK);
    assert_true(n == 7 && memcmp(out, " ab\n<u>", 7) == 0);
    vd_tok_free(t);
    vd_gguf_close(g);
    free(file);
    s.no_prefix = true;
    s.scores = other_scores;
    assert_int_equal(load_small(&s, &g, &file, &t, NULL), VD_OK);
    check(t, without_prefix, sizeof without_prefix / sizeof without_prefix[0]);
    vd_tok_free(t);
    vd_gguf_close(g);
    free(file);
    s.name = "Phi-3 mini"; /* whose special tokens but <s> take the white space after them */
    assert_int_equal(load_small(&s, &g, &file, &t, NULL), VD_OK);
    check(t, phi3, 1);
    vd_tok_free(t);
    vd_gguf_close(g);
    free(file);
}

static void test_wpm(void **state)
{
    (void)state;
    struct small s = {.tokens = {"[UNK]", "[CLS]", "[SEP]", "\u2581un", "able", "\u2581e", "\u2581!",
                                 "\u2581\u4e2d", "a", "\u2581unab", "le", "\u2581\u1100"},
                      .kinds = {3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                      .model = "bert",
                      .bos = 1};
    static const struct encoding cases[] = {
        {"", VD_TOK_ADD_BOS | VD_TOK_ADD_END, {1, 2}, 2, 0},
        {"UNABLE", 0, {9, 10}, 2, 0}, /* the longest first, though un + able would do */
        {"\u00c9!", 0, {5, 6}, 2, 0},
        {"\u4e2d\u4e2d", 0, {7, 7}, 2, 0},
        {"un\x01\u0301\xff\u200b"
         "a",
         0,
         {3, 8},
         2,
         0},                       /* controls, accents and bad bytes vanish */
        {"un a", 0, {3, 0}, 2, 0}, /* a continues words only */
        {"unx un", 0, {0, 3}, 2, 0},
        {"\uac01", 0, {11}, 1, 0},
        {"[SEP]", 0, {0, 0, 0}, 3, 0},
        {"un[SEP]un", VD_TOK_PARSE_SPECIAL, {3, 2, 3}, 3, 0},
    };
    static const struct encoding with_case[] = {
        {"UN e\u0301", 0, {0, 0}, 2, 0},
        {"un \u00e9", 0, {3, 0}, 2, 0},
    };
    struct vd_gguf *g;
    struct vd_tok *t;
    uint8_t *file;
    assert_int_equal(load_small(&s, &g, &file, &t, NULL), VD_OK);
    check(t, cases, sizeof cases / sizeof cases[0]);
    assert_int_equal(vd_tok_piece(t, 3, false).n, 3);
    assert_memory_equal(vd_tok_piece(t, 3, false).p, " un", 3);
    vd_tok_free(t);
    vd_gguf_close(g);
    free(file);
    s.keep_case = true;
    assert_int_equal(load_small(&s, &g, &file, &t, NULL), VD_OK);
    check(t, with_case, sizeof with_case / sizeof with_case[0]);
    vd_tok_free(t);
    vd_gguf_close(g);
    free(file);
}

/* A map of normalisation that makes A to a: the node of 'A' at 'A' from a root with base 0; its base leads to
 * node 0x80, which holds the place of the replacement. */
static size_t make_map(uint8_t map[4 + 4 * 0x81 + 2])
{
    memset(map, 0, 4 + 4 * 0x81 + 2);
    vd_le32_store(map, 4 * 0x81);
    vd_le32_store(map + 4 + 4 * 'A', 'A' | 1 << 8 | ('A' ^ 0x80) << 10);
    vd_le32_store(map + 4 + 4 * 0x80, 1u << 31);
    map[4 + 4 * 0x81] = 'a';
    return 4 + 4 * 0x81 + 2;
}

static void test_ugm(void **state)
{
    (void)state;
    static const float scores[12] = {0, 0, 0, -2, -3, -6, -1, -2.5F, 0, -4.5F, -1};
    uint8_t map[4 + 4 * 0x81 + 2];
    struct small s = {.tokens = {"<pad>", "</s>", "<unk>", "\u2581a", "b", "\u2581ab", "\u2581", "a", "<u>",
                                 "ab", "unused"},
                      .kinds = {3, 3, 2, 1, 1, 1, 1, 1, 4, 1, 5},
                      .model = "t5",
                      .bos = -1,
                      .scores = scores,
                      .map = map,
                      .n_map = make_map(map)};
    static const struct encoding cases[] = {
        {"", VD_TOK_ADD_BOS | VD_TOK_ADD_END, {1}, 1, 0},
        {"ab", 0, {3, 4}, 2, 0}, /* -5, better than -6 in one and -5.5 */
        {"Ab", 0, {3, 4}, 2, 0},
        {"  a  b ", 0, {3, 6, 4}, 3, 0},
        {"a zz b", 0, {3, 6, 2, 6, 4}, 5, 0}, /* one unknown token for both */
        {"a<u>b", 0, {3, 8, 6, 4}, 4, 0},
        {"\xff", 0, {6, 2}, 2, 0},
        {"<A", 0, {6, 2, 7}, 3, 0},
        {"unused", 0, {6, 10}, 2, 0},
    };
    struct vd_gguf *g;
    struct vd_tok *t;
    uint8_t *file;
    struct vd_error err = {0};
    assert_int_equal(load_small(&s, &g, &file, &t, NULL), VD_OK);
    check(t, cases, sizeof cases / sizeof cases[0]);
    vd_tok_free(t);
    vd_gguf_close(g);
    free(file);
    map[sizeof map - 1] = 'x'; /* a last string without an end */
    assert_int_equal(load_small(&s, &g, &file, &t, &err), VD_EFORMAT);
    assert_non_null(strstr(err.msg, "tokenizer.ggml.precompiled_charsmap is not a size, an array"));
    vd_gguf_close(g);
    free(file);
}

/* Nodes that lead out of the array, or round in it, end the walk. */
static void test_hostile_map(void **state)
{
    (void)state;
    static const float scores[12] = {0, 0, 0, -2};
    uint8_t map[4 + 4 * 0x81 + 2];
    struct small s = {.tokens = {"<pad>", "</s>", "<unk>", "a"},
                      .kinds = {3, 3, 2, 1},
                      .model = "t5",
                      .bos = -1,
                      .scores = scores,
                      .map = map,
                      .n_map = make_map(map)};
    static const uint32_t nodes[] = {'A' | 1 << 8 | 0x1FFFFFu << 10, 'A' | 1 << 8 | 1 << 9 | 0x1FFFFFu << 10,
                                     'A' | 1 << 8, 'A' | 1 << 8 | 'A' << 10};
    /* Prefix and characters are all unknown; the last map goes round and takes any number of them for one. */
    static const struct encoding want[] = {
        {"AAAA", 0, {2}, 1, 0}, {"AAAA", 0, {2}, 1, 0}, {"AAAA", 0, {2}, 1, 0}, {"AAAA", 0, {2, 3}, 2, 0}};
    for (size_t i = 0; i < sizeof nodes / sizeof nodes[0]; i++) {
        struct vd_gguf *g;
        struct vd_tok *t;
        uint8_t *file;
        vd_le32_store(map + 4 + 4 * 'A', nodes[i]);
        assert_int_equal(load_small(&s, &g, &file, &t, NULL), VD_OK);
        check(t, &want[i], 1);
        vd_tok_free(t);
        vd_gguf_close(g);
        free(file);
    }
}

static void test_bad_vocabularies(void **state)
{
    (void)state;
    static const float not_a_number[] = {NAN};
    static const struct {
        struct small s;
        enum vd_err code;
        const char *message;
    } cases[] = {
        {{{"a", "b", "a"}, {1, 1, 1}, {"a b"}, NULL, NULL, -1, false, NULL, false, false, NULL, 0, NULL},
         VD_EFORMAT,
         "small.gguf: tokenizer.ggml.tokens: tokens 0 and 2 are the same text"},
        {{{"a"}, {1}, {"ab"}, NULL, NULL, -1, false, NULL, false, false, NULL, 0, NULL},
         VD_EFORMAT,
         "small.gguf: tokenizer.ggml.merges: entry 0 is not two texts with a space between"},
        {{{"a"}, {1}, {"a "}, NULL, NULL, -1, false, NULL, false, false, NULL, 0, NULL},
         VD_EFORMAT,
         "entry 0 is not two texts"},
        {{{"a"}, {1}, {"a b"}, "llama-9", NULL, -1, false, NULL, false, false, NULL, 0, NULL},
         VD_EUNSUPPORTED,
         "small.gguf: tokenizer.ggml.pre is \"llama-9\"; this version knows smollm, starcoder"},
        {{{"a"}, {1}, {"a b"}, NULL, "bart", -1, false, NULL, false, false, NULL, 0, NULL},
         VD_EUNSUPPORTED,
         "tokenizer.ggml.model is \"bart\""},
        {{{"a"}, {1}, {"a b"}, NULL, NULL, 5, false, NULL, false, false, NULL, 0, NULL},
         VD_EFORMAT,
         "the key tokenizer.ggml.bos_token_id is 5; 0 to 0 is allowed"},
        {{{"a"}, {1}, {"a b"}, NULL, NULL, -1, true, NULL, false, false, NULL, 0, NULL},
         VD_EFORMAT,
         "tokenizer.ggml.bos_token_id is missing"},
        {{{"a"}, {1}, {NULL}, NULL, "llama", 0, true, NULL, false, false, NULL, 0, NULL},
         VD_ENOTFOUND,
         "tokenizer.ggml.scores"},
        {{{"a"}, {1}, {NULL}, NULL, "llama", 0, true, not_a_number, false, false, NULL, 0, NULL},
         VD_EFORMAT,
         "small.gguf: tokenizer.ggml.scores: entry 0 is not a finite number"},
        {{{"a", "b", "c"}, {1, 1, 1}, {NULL}, NULL, "bert", -1, false, NULL, false, false, NULL, 0, NULL},
         VD_EFORMAT,
         "small.gguf: a bert tokenizer needs tokenizer.ggml.bos_token_id"},
        {{{NULL}, {1}, {"a b"}, NULL, NULL, -1, false, NULL, false, false, NULL, 0, NULL},
         VD_ELIMIT,
         "tokenizer.ggml.tokens has 0 entries"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct vd_gguf *g;
        struct vd_tok *t;
        uint8_t *file;
        struct vd_error err = {0};
        enum vd_err e = load_small(&cases[i].s, &g, &file, &t, &err);
        if (e != cases[i].code || !strstr(err.msg, cases[i].message))
            fail_msg("case %zu: %s \"%s\"", i, vd_err_name(e), err.msg);
        assert_null(t);
        vd_gguf_close(g);
        free(file);
    }
}

/* Expected outputs are Python's bytes.decode("utf-8", "replace"). */
static void test_stream(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"plain", "plain"},
        {"h\u00e9\u4e2d\U0001f642", "h\u00e9\u4e2d\U0001f642"},
        {"\xff\x61", "\ufffda"},
        {"\xe2\x82", "\ufffd"},
        {"\xe2\x82z\xe2", "\ufffdz\ufffd"},
        {"\xf0\x9f\x99\xe2\x82\xac", "\ufffd\u20ac"},
        {"\xed\xa0\x80", "\ufffd\ufffd\ufffd"},
        {"\xe0\x80\xaf", "\ufffd\ufffd\ufffd"},
        {"\xc0\x80\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd"},
        {"\xf0\x9f\xf0\x9f\x99\x82", "\ufffd\U0001f642"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n = strlen(cases[i][0]), cut = 0;
        for (; cut <= n; cut++) {
            char out[200];
            const uint8_t *p = (const uint8_t *)cases[i][0];
            struct vd_tok_stream s = {.n_held = 0};
            size_t k = vd_tok_stream_put(&s, p, cut, out);
            k += vd_tok_stream_put(&s, p + cut, n - cut, out + k);
            k += vd_tok_stream_end(&s, out + k);
            out[k] = 0;
            assert_string_equal(out, cases[i][1]);
        }
    }
    struct vd_tok_stream s = {.n_held = 0};
    char out[20];
    assert_int_equal(vd_tok_stream_put(&s, (const uint8_t *)"a\xf0\x9f\x99", 4, out),
                     1); /* no half character */
    assert_int_equal(vd_tok_stream_put(&s, (const uint8_t *)"\x82", 1, out), 4);
}

static void test_unicode(void **state)
{
    (void)state;
    assert_int_equal(vd_unicode_flags('a'), VD_UCAT_LETTER);
    assert_int_equal(vd_unicode_flags('['), VD_UCAT_PUNCTUATION);
    assert_int_equal(vd_unicode_flags('{'), VD_UCAT_PUNCTUATION);
    assert_int_equal(vd_unicode_flags('@'), VD_UCAT_PUNCTUATION);
    assert_int_equal(vd_unicode_flags('`'), VD_UCAT_SYMBOL);
    assert_int_equal(vd_unicode_flags('\n'), VD_UCAT_OTHER | VD_UFLAG_SPACE);
    assert_int_equal(vd_unicode_flags(0x3000), VD_UCAT_SEPARATOR | VD_UFLAG_SPACE);
    assert_int_equal(vd_unicode_flags(0x661), VD_UCAT_NUMBER);
    assert_int_equal(vd_unicode_flags(0x301), VD_UCAT_MARK);
    assert_int_equal(vd_unicode_flags(0x2EBF0), VD_UCAT_LETTER); /* new in Unicode 15.1 */
    assert_int_equal(vd_unicode_flags(0x10FFFF), VD_UCAT_NONE);
    assert_int_equal(vd_unicode_lower('A'), 'a');
    assert_int_equal(vd_unicode_lower('a'), 'a');
    assert_int_equal(vd_unicode_lower(0x130), 'i');
    assert_int_equal(vd_unicode_lower(0x1E921), 0x1E943); /* the last of the table */
    assert_int_equal(vd_unicode_base(0xC0), 'A');
    assert_int_equal(vd_unicode_base(0x1EA5), 'a'); /* through two accents */
    assert_int_equal(vd_unicode_base(0xD7A3), 0x1112);
    assert_int_equal(vd_unicode_base(0x2FA1D), 0x2A600); /* the last of the table */
    assert_int_equal(vd_unicode_base(0x10FFFF), 0x10FFFF);
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        uint8_t b[4];
        uint32_t back;
        size_t n = vd_utf8_write(b, c);
        assert_true(vd_utf8_read(b, n, &back) == n && back == c);
        bool surrogate = c >= 0xD800 && c < 0xE000;
        assert_true(vd_utf8_check(b, n) == (surrogate ? -1 : (int)n));
        assert_true(n == 1 || surrogate || vd_utf8_check(b, n - 1) == 0);
    }
}

int main(void)
{
    const struct CMUnitTest always[] = {
        cmocka_unit_test(test_small_vocabulary),
        cmocka_unit_test(test_long_unknown_run),
        cmocka_unit_test(test_whole_words),
        cmocka_unit_test(test_spm),
        cmocka_unit_test(test_wpm),
        cmocka_unit_test(test_ugm),
        cmocka_unit_test(test_hostile_map),
        cmocka_unit_test(test_bad_vocabularies),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_unicode),
    };
    int failed = cmocka_run_group_tests(always, NULL, NULL);
    if (failed)
        return failed;
    struct vd_gguf *g = open_model();
    if (!g)
        return 77;
    struct vd_tok *t;
    struct vd_error err = {0};
    if (vd_tok_load(&t, g, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    const struct CMUnitTest with_model[] = {
        cmocka_unit_test_prestate(test_recorded_ids, t),
        cmocka_unit_test_prestate(test_model_vocabulary, t),
        cmocka_unit_test_prestate(test_long_runs, t),
    };
    failed = cmocka_run_group_tests(with_model, NULL, NULL);
    vd_tok_free(t);
    vd_gguf_close(g);
    return failed;
}
