/* Input that starts with GGUF is a file with a tokenizer in it; other input is text for a small vocabulary
 * made here. Encoding must give the same ids with more and with less room, and decoding them the text with
 * its bad bytes replaced, if the vocabulary holds all bytes; by the models "llama" and "t5" too, as far as
 * that holds for them. */
#include "vd_bytes.h"
#include "vd_gguf_write.h"
#include "vd_tok.h"
#include "vd_unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void must(bool ok)
{
    if (!ok)
        abort();
}

/* GPT-2's stand-in for a byte, as UTF-8 at `to`. */
static size_t stand_in(uint8_t b, char *to)
{
    uint32_t cpt = b;
    if (b < 0x21)
        cpt = 0x100u + b;
    else if (b >= 0x7F && b <= 0xA0)
        cpt = 0x121u + b - 0x7Fu;
    else if (b == 0xAD)
        cpt = 0x143;
    return vd_utf8_write((uint8_t *)to, cpt);
}

/* 256 bytes, some words and a control token. */
static uint8_t *make_file(size_t *n)
{
    static const char *const words[] = {"ab", "abc",  "\u0120a", "bc",   "\u0120ab",
                                        "aa", "aaaa", "11",      "<|x|>"};
    static const char *const merges[] = {"a b",       "b c", "\u0120 a", "ab c",
                                         "\u0120a b", "a a", "aa aa",    "1 1"};
    enum { WORDS = sizeof words / sizeof words[0], MERGES = sizeof merges / sizeof merges[0] };
    static char text[256][4];
    struct vd_gguf_str tokens[256 + WORDS], rules[MERGES];
    int32_t kinds[256 + WORDS];
    for (int i = 0; i < 256; i++)
        tokens[i] = (struct vd_gguf_str){text[i], stand_in((uint8_t)i, text[i])};
    for (int i = 0; i < WORDS; i++)
        tokens[256 + i] = (struct vd_gguf_str){words[i], strlen(words[i])};
    for (int i = 0; i < 256 + WORDS; i++)
        kinds[i] = i == 255 + WORDS ? 3 : 1;
    for (int i = 0; i < MERGES; i++)
        rules[i] = (struct vd_gguf_str){merges[i], strlen(merges[i])};
    struct vd_gguf_writer *w = vd_gguf_writer_new(1 << 16);
    must(w != NULL);
    vd_gguf_add_str(w, "tokenizer.ggml.model", "gpt2");
    vd_gguf_add_str(w, "tokenizer.ggml.pre", "smollm");
    vd_gguf_add_array_str(w, "tokenizer.ggml.tokens", tokens, 256 + WORDS);
    vd_gguf_add_array_i32(w, "tokenizer.ggml.token_type", kinds, 256 + WORDS);
    vd_gguf_add_array_str(w, "tokenizer.ggml.merges", rules, MERGES);
    uint8_t *p = NULL;
    must(vd_gguf_writer_finish(w, &p, n, NULL) == VD_OK);
    vd_gguf_writer_free(w);
    return p;
}

/* The models that are no byte-level BPE, on a vocabulary of few letters; SPM's holds all bytes. */
static uint8_t *make_other(const char *model, size_t *n)
{
    static const char *const words[] = {"<unk>", "<s>", "</s>",         "<|x|>",   "<u>",     "a",
                                        "b",     "ab",  "ba",           "\u2581",  "\u2581a", "aa",
                                        "aaaa",  "1",   "\u2581\u2581", "\u2581ab"};
    enum { WORDS = sizeof words / sizeof words[0] };
    static char text[256][8];
    struct vd_gguf_str tokens[256 + WORDS];
    int32_t kinds[256 + WORDS];
    float scores[256 + WORDS];
    for (int i = 0; i < 256 + WORDS; i++) {
        if (i >= WORDS)
            snprintf(text[i - WORDS], sizeof text[0], "<0x%02X>", (unsigned)(i - WORDS));
        const char *p = i < WORDS ? words[i] : text[i - WORDS];
        tokens[i] = (struct vd_gguf_str){p, strlen(p)};
        kinds[i] = i >= WORDS ? 6 : i == 0 ? 2 : i < 4 ? 3 : i == 4 ? 4 : 1;
        scores[i] = (float)(-i * 7 % 11);
    }
    /* "ab" and "a" become "b", by a double array: see vd_tok_ugm.c */
    uint8_t map[4 + 4 * 256 + 2] = {0};
    vd_le32_store(map, 4 * 256);
    vd_le32_store(map + 4 + 4 * 'a', 'a' | 1 << 8 | ('a' ^ 0x80) << 10);
    vd_le32_store(map + 4 + 4 * 0x80, 1u << 31);
    vd_le32_store(map + 4 + 4 * (0x80 ^ 'b'), 'b' | 1 << 8 | (0x80 ^ 'b' ^ 0x81) << 10);
    vd_le32_store(map + 4 + 4 * 0x81, 1u << 31);
    map[4 + 4 * 256] = 'b';
    struct vd_gguf_writer *w = vd_gguf_writer_new(1 << 16);
    must(w != NULL);
    vd_gguf_add_str(w, "tokenizer.ggml.model", model);
    vd_gguf_add_array_str(w, "tokenizer.ggml.tokens", tokens, 256 + WORDS);
    vd_gguf_add_array_i32(w, "tokenizer.ggml.token_type", kinds, 256 + WORDS);
    vd_gguf_add_array_f32(w, "tokenizer.ggml.scores", scores, 256 + WORDS);
    static const char key[] = "tokenizer.ggml.precompiled_charsmap";
    vd_gguf_add_kv(w, &(struct vd_gguf_kv){
                          {key, sizeof key - 1}, VD_GGUF_ARRAY, {VD_GGUF_U8, sizeof map, map, sizeof map}});
    uint8_t *p = NULL;
    must(vd_gguf_writer_finish(w, &p, n, NULL) == VD_OK);
    vd_gguf_writer_free(w);
    return p;
}

/* What decoding must give: each bad byte as U+FFFD. */
static size_t lenient(const uint8_t *p, size_t n, uint8_t *to)
{
    size_t k = 0;
    for (size_t at = 0; at < n;) {
        uint32_t cpt;
        at += vd_utf8_read(p + at, n - at, &cpt);
        k += vd_utf8_write(to + k, cpt);
    }
    return k;
}

static void round_trip(const struct vd_tok *t, const uint8_t *p, size_t n)
{
    size_t max = 3 * n + 1, n_text = 0;
    uint32_t *a = malloc(max * sizeof *a), *b = malloc(max * sizeof *b);
    char *text = malloc(max);
    uint8_t *want = malloc(max + 4);
    must(a && b && text && want);
    struct vd_tok_ids ids = {a, max, 0, 0}, few = {b, n / 2, 0, 0};
    must(vd_tok_encode(t, (const char *)p, n, VD_TOK_PARSE_SPECIAL, &ids, NULL) == VD_OK);
    must((vd_tok_encode(t, (const char *)p, n, VD_TOK_PARSE_SPECIAL, &few, NULL) == VD_OK) ==
         (ids.n <= few.max));
    must(ids.n == few.n && memcmp(a, b, (ids.n < few.max ? ids.n : few.max) * sizeof *a) == 0);
    must(vd_tok_decode(t, a, ids.n, true, text, max, &n_text, NULL) == VD_OK);
    must(ids.n_dropped_bytes == 0 && n_text == lenient(p, n, want) && memcmp(text, want, n_text) == 0);
    free(a);
    free(b);
    free(text);
    free(want);
}

static void stream(const uint8_t *p, size_t n)
{
    char whole[300], parts[300];
    n = n < 80 ? n : 80;
    struct vd_tok_stream s = {.n_held = 0};
    size_t a = vd_tok_stream_put(&s, p, n, whole), b = 0;
    a += vd_tok_stream_end(&s, whole + a);
    for (size_t i = 0; i < n; i++)
        b += vd_tok_stream_put(&s, p + i, 1, parts + b);
    b += vd_tok_stream_end(&s, parts + b);
    must(a == b && memcmp(whole, parts, a) == 0);
    for (size_t at = 0; at < a;) {
        int len = vd_utf8_check((const uint8_t *)whole + at, a - at);
        must(len > 0);
        at += (size_t)len;
    }
}

/* More and less room must agree; what "llama" encodes must decode to the same bytes with blanks added. */
static void use_other(const char *model, const uint8_t *p, size_t n)
{
    size_t n_file, max = 3 * n + 2, n_text = 0, k = 0;
    uint8_t *file = make_other(model, &n_file);
    struct vd_gguf *g;
    struct vd_tok *t;
    must(vd_gguf_open(&g, file, n_file, "fuzz", NULL) == VD_OK && vd_tok_load(&t, g, NULL) == VD_OK);
    uint32_t *a = malloc(max * sizeof *a), *b = malloc(max * sizeof *b);
    char *text = malloc(4 * max);
    must(a && b && text);
    struct vd_tok_ids ids = {a, max, 0, 0}, few = {b, n / 2, 0, 0};
    must(vd_tok_encode(t, (const char *)p, n, VD_TOK_PARSE_SPECIAL, &ids, NULL) == VD_OK);
    must((vd_tok_encode(t, (const char *)p, n, VD_TOK_PARSE_SPECIAL, &few, NULL) == VD_OK) ==
         (ids.n <= few.max));
    must(ids.n == few.n && memcmp(a, b, (ids.n < few.max ? ids.n : few.max) * sizeof *a) == 0);
    if (strcmp(model, "llama") == 0) {
        must(ids.n_dropped_bytes == 0);
        must(vd_tok_decode(t, a, ids.n, true, text, 4 * max, &n_text, NULL) == VD_OK);
        for (size_t i = 0; i < n_text && k < n; i++) { /* the text in order, blanks skipped on both sides */
            while (k < n && (p[k] == ' ' || (n - k >= 3 && memcmp(p + k, "\u2581", 3) == 0)))
                k += p[k] == ' ' ? 1 : 3;
            if (text[i] == ' ')
                continue;
            if ((uint8_t)text[i] == 0xE2 && n_text - i >= 3 && memcmp(text + i, "\u2581", 3) == 0) {
                i += 2;
                continue;
            }
            must(k < n && (uint8_t)text[i] == p[k]);
            k++;
        }
    }
    free(a);
    free(b);
    free(text);
    vd_tok_free(t);
    vd_gguf_close(g);
    free(file);
}

static void open_and_use(const uint8_t *file, size_t n_file, const uint8_t *text, size_t n, bool ours)
{
    struct vd_gguf *g;
    struct vd_tok *t = NULL;
    struct vd_error err = {0};
    uint32_t ids[64];
    if (vd_gguf_open(&g, file, n_file, "fuzz", NULL))
        return;
    enum vd_err e = vd_tok_load(&t, g, &err);
    must(e == VD_OK || err.code == e);
    must(e == VD_OK || !ours);
    if (t && ours) {
        round_trip(t, text, n);
    } else if (t) {
        struct vd_tok_ids some = {ids, 64, 0, 0};
        vd_tok_encode(t, (const char *)text, n, VD_TOK_PARSE_SPECIAL | VD_TOK_ADD_BOS, &some, NULL);
        for (uint32_t id = 0; id < vd_tok_count(t); id++)
            must(vd_tok_piece(t, id, true).n <= VD_TOK_PIECE_MAX_BYTES);
    }
    vd_tok_free(t);
    vd_gguf_close(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (n_bytes == 0)
        return 0;
    if (memcmp(data, "GGUF", n_bytes < 4 ? n_bytes : 4) == 0) {
        open_and_use(data, n_bytes, data, n_bytes < 1000 ? n_bytes : 1000, false);
        return 0;
    }
    stream(data, n_bytes);
    size_t n_file;
    uint8_t *file = make_file(&n_file);
    open_and_use(file, n_file, data, n_bytes, true);
    free(file);
    use_other("llama", data, n_bytes);
    use_other("t5", data, n_bytes);
    return 0;
}
