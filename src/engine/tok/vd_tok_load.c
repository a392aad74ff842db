/* Loading builds three tables and copies no text: an index of texts, the merges as pairs of symbol ids, and
 * the bytes that each token stands for. A merge rule names strings; once they are ids, merging needs no
 * string at all.
 *
 * The hashes have no key, so a file can be made whose entries collide. Probing therefore has a limit, beyond
 * which the file is refused. */
#include "vd_tok_prefix.h"

#include "vd_unicode.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

uint32_t vd_tok_byte_cpt(uint8_t b)
{
    if (b >= 0x21 && b != 0x7F && b != 0xAD && (b < 0x7F || b > 0xA0))
        return b;
    if (b < 0x21)
        return 0x100u + b;
    return b == 0xAD ? 0x143 : 0x121u + (b - 0x7Fu); /* 7F .. A0, then AD */
}

static uint32_t hash_text(struct vd_gguf_str s)
{
    uint64_t h = s.n * 0x9E3779B97F4A7C15u;
    const uint8_t *p = (const uint8_t *)s.p;
    size_t n = s.n;
    for (; n >= 8; n -= 8, p += 8) {
        h = (h ^ vd_le64_load(p)) * 0xBF58476D1CE4E5B9u;
        h ^= h >> 31;
    }
    uint64_t tail = 0;
    for (size_t i = 0; i < n; i++)
        tail |= (uint64_t)p[i] << 8 * i;
    h = (h ^ tail) * 0x94D049BB133111EBu;
    return (uint32_t)(h >> 32 ^ h);
}

static bool same(struct vd_gguf_str a, struct vd_gguf_str b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

static uint32_t find_symbol(const struct vd_tok *t, struct vd_gguf_str s)
{
    uint32_t h = hash_text(s);
    for (uint32_t i = h & t->names.mask;; i = (i + 1) & t->names.mask) {
        if (t->names.slots[i].id == VD_TOK_NONE)
            return VD_TOK_NONE;
        if (t->names.slots[i].hash == h && same(t->text[t->names.slots[i].id], s))
            return t->names.slots[i].id;
    }
}

/* The state of a load. */
struct loader {
    struct vd_tok *t;
    const struct vd_gguf *g;
    struct vd_error *err;
};

static enum vd_err no_memory(const struct loader *l)
{
    vd_error_set(l->err, VD_ENOMEM, "%.200s: no memory for the tokenizer", vd_gguf_name(l->g));
    return VD_ENOMEM;
}

static enum vd_err too_many_probes(const struct loader *l)
{
    return vd_error_set(l->err, VD_ELIMIT,
                        "%.200s: the tokenizer's texts were chosen to collide; not a usable vocabulary",
                        vd_gguf_name(l->g));
}

static enum vd_err names_resize(struct loader *l, uint32_t n_slots)
{
    struct vd_tok_names old = l->t->names, new = {.n = old.n, .mask = n_slots - 1};
    new.slots = malloc((size_t)n_slots * sizeof *new.slots);
    if (!new.slots)
        return no_memory(l);
    memset(new.slots, 0xff, (size_t)n_slots * sizeof *new.slots);
    for (uint32_t k = 0; old.slots && k <= old.mask; k++) {
        if (old.slots[k].id == VD_TOK_NONE)
            continue;
        uint32_t i = old.slots[k].hash & new.mask;
        while (new.slots[i].id != VD_TOK_NONE)
            i = (i + 1) & new.mask;
        new.slots[i] = old.slots[k];
    }
    free(old.slots);
    l->t->names = new;
    return VD_OK;
}

/* Indexes symbol id by its text. *there is set to another symbol with that text, else to VD_TOK_NONE. */
static enum vd_err names_add(struct loader *l, uint32_t id, uint32_t *there)
{
    struct vd_tok_names *m = &l->t->names;
    if (m->n >= m->mask / 2) {
        enum vd_err e = names_resize(l, 2 * (m->mask + 1));
        if (e)
            return e;
    }
    struct vd_gguf_str s = l->t->text[id];
    uint32_t h = hash_text(s), i = h & m->mask;
    for (int probes = 0; m->slots[i].id != VD_TOK_NONE; i = (i + 1) & m->mask) {
        *there = m->slots[i].id;
        if (m->slots[i].hash == h && same(l->t->text[*there], s))
            return VD_OK;
        if (++probes == VD_TOK_PROBES_MAX)
            return too_many_probes(l);
    }
    m->slots[i].hash = h;
    m->slots[i].id = id;
    m->n++;
    *there = VD_TOK_NONE;
    return VD_OK;
}

static enum vd_err load_texts(struct loader *l)
{
    struct vd_tok *t = l->t;
    struct vd_gguf_array a;
    const char *key = "tokenizer.ggml.tokens", *file = vd_gguf_name(l->g);
    enum vd_err e = vd_gguf_get_array(l->g, key, VD_GGUF_REQUIRED, VD_GGUF_STRING, &a, l->err);
    if (e)
        return e;
    if (a.n < 1 || a.n > VD_TOK_VOCAB_MAX)
        return vd_error_set(l->err, VD_ELIMIT, "%.200s: %s has %llu entries; 1 to %d are allowed", file, key,
                            (unsigned long long)a.n, VD_TOK_VOCAB_MAX);
    t->n_vocab = t->n_symbols = t->symbols_max = (uint32_t)a.n;
    t->text = malloc(a.n * sizeof *t->text);
    t->flags = malloc(a.n);
    if (!t->text || !t->flags)
        return no_memory(l);
    uint32_t n_slots = 64;
    while (n_slots < 2 * t->n_vocab + 64)
        n_slots *= 2;
    if ((e = names_resize(l, n_slots)))
        return e;
    size_t at = 0;
    for (uint32_t id = 0, there; id < t->n_vocab; id++) {
        bool more = vd_gguf_array_next_str(&a, &at, &t->text[id]);
        assert(more);
        (void)more;
        t->flags[id] = VD_TOK_NORMAL;
        t->text_max = t->text[id].n > t->text_max ? (uint32_t)t->text[id].n : t->text_max;
        if (t->text[id].n > VD_TOK_PIECE_MAX_BYTES)
            return vd_error_set(l->err, VD_ELIMIT, "%.200s: %s: token %u has %zu bytes; the limit is %d",
                                file, key, id, t->text[id].n, VD_TOK_PIECE_MAX_BYTES);
        if (t->text[id].n == 0)
            continue; /* a hole in the vocabulary: no text leads to it */
        if ((e = names_add(l, id, &there)))
            return e;
        if (there != VD_TOK_NONE)
            return vd_error_set(l->err, VD_EFORMAT, "%.200s: %s: tokens %u and %u are the same text", file,
                                key, there, id);
    }
    return VD_OK;
}

static enum vd_err load_kinds(struct loader *l)
{
    struct vd_gguf_array a = {.n = 0};
    const char *key = "tokenizer.ggml.token_type";
    enum vd_err e = vd_gguf_get_array(l->g, key, VD_GGUF_OPTIONAL, VD_GGUF_I32, &a, l->err);
    if (e || !a.p)
        return e;
    if (a.n < l->t->n_vocab)
        return vd_error_set(l->err, VD_EFORMAT, "%.200s: %s has %llu entries for %u tokens",
                            vd_gguf_name(l->g), key, (unsigned long long)a.n, l->t->n_vocab);
    for (uint32_t id = 0; id < l->t->n_vocab; id++) {
        int64_t kind = vd_gguf_array_int(&a, id);
        l->t->flags[id] = kind >= 0 && kind <= VD_TOK_BYTE ? (uint8_t)kind : VD_TOK_UNDEFINED;
    }
    return VD_OK;
}

/* The symbol with this text, made if there is none. `s` is borrowed only for the call. */
static enum vd_err intern(struct loader *l, struct vd_gguf_str s, uint32_t *id)
{
    struct vd_tok *t = l->t;
    *id = find_symbol(t, s);
    if (*id != VD_TOK_NONE)
        return VD_OK;
    if (t->n_symbols == t->symbols_max) {
        uint32_t max = t->symbols_max + t->symbols_max / 2 + 64;
        struct vd_gguf_str *text = realloc(t->text, max * sizeof *text);
        if (!text)
            return no_memory(l);
        t->text = text;
        t->symbols_max = max;
    }
    char *copy = malloc(s.n + sizeof(char *)); /* a list through the first bytes keeps them for the free */
    if (!copy)
        return no_memory(l);
    memcpy(copy, &t->extra, sizeof(char *));
    memcpy(copy + sizeof(char *), s.p, s.n);
    t->extra = copy;
    *id = t->n_symbols++;
    t->text[*id] = (struct vd_gguf_str){copy + sizeof(char *), s.n};
    uint32_t there;
    return names_add(l, *id, &there);
}

static enum vd_err add_merge(struct loader *l, struct vd_gguf_str left, struct vd_gguf_str right,
                             uint32_t rank)
{
    char both[2 * VD_TOK_PIECE_MAX_BYTES];
    memcpy(both, left.p, left.n);
    memcpy(both + left.n, right.p, right.n);
    uint32_t a = 0, b = 0, c = 0;
    enum vd_err e = intern(l, left, &a);
    if (!e)
        e = intern(l, right, &b);
    if (!e)
        e = intern(l, (struct vd_gguf_str){both, left.n + right.n}, &c);
    if (e)
        return e;
    struct vd_tok *t = l->t;
    uint64_t pair = (uint64_t)a << 32 | b, i = vd_tok_merge_slot(t, pair);
    for (int probes = 0; t->merges[i].pair != UINT64_MAX; i = (i + 1) & t->merge_mask) {
        if (t->merges[i].pair == pair)
            return VD_OK; /* the first rule for a pair holds */
        if (++probes == VD_TOK_PROBES_MAX)
            return too_many_probes(l);
    }
    t->merges[i] = (struct vd_tok_merge){pair, rank, c};
    return VD_OK;
}

static enum vd_err load_merges(struct loader *l)
{
    struct vd_tok *t = l->t;
    struct vd_gguf_array a;
    const char *key = "tokenizer.ggml.merges", *file = vd_gguf_name(l->g);
    enum vd_err e = vd_gguf_get_array(l->g, key, VD_GGUF_REQUIRED, VD_GGUF_STRING, &a, l->err);
    if (e)
        return e;
    if (a.n > VD_TOK_MERGES_MAX)
        return vd_error_set(l->err, VD_ELIMIT, "%.200s: %s has %llu entries; the limit is %d", file, key,
                            (unsigned long long)a.n, VD_TOK_MERGES_MAX);
    uint64_t n_slots = 64;
    while (n_slots < 2 * a.n)
        n_slots *= 2;
    t->merges = malloc(n_slots * sizeof *t->merges);
    if (!t->merges)
        return no_memory(l);
    memset(t->merges, 0xff, n_slots * sizeof *t->merges);
    t->merge_mask = n_slots - 1;
    struct vd_gguf_str s;
    size_t at = 0;
    for (uint32_t rank = 0; vd_gguf_array_next_str(&a, &at, &s); rank++) {
        const char *space = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
        size_t n_left = space ? (size_t)(space - s.p) : 0, n_right = space ? s.n - n_left - 1 : 0;
        if (n_left == 0 || n_right == 0 || n_left > VD_TOK_PIECE_MAX_BYTES ||
            n_right > VD_TOK_PIECE_MAX_BYTES)
            return vd_error_set(
                l->err, VD_EFORMAT,
                "%.200s: %s: entry %u is not two texts with a space between (1 to %d bytes each)", file, key,
                rank, VD_TOK_PIECE_MAX_BYTES);
        e = add_merge(l, (struct vd_gguf_str){s.p, n_left}, (struct vd_gguf_str){space + 1, n_right}, rank);
        if (e)
            return e;
    }
    return VD_OK;
}

/* The token of one byte: <0xHH> where the model writes bytes so, else the byte itself. */
static uint32_t find_byte(const struct vd_tok *t, uint8_t b)
{
    static const char digits[] = "0123456789ABCDEF";
    const char hex[] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>'}, one[] = {(char)b};
    uint32_t id = t->model == VD_TOK_BPE ? VD_TOK_NONE : vd_tok_find(t, hex, sizeof hex);
    return id != VD_TOK_NONE ? id : vd_tok_find(t, one, 1);
}

static void load_bytes(struct vd_tok *t)
{
    for (int b = 0; b < 256; b++) {
        uint8_t text[VD_UTF8_MAX];
        size_t n = vd_utf8_write(text, vd_tok_byte_cpt((uint8_t)b));
        t->byte_symbol[b] = find_symbol(t, (struct vd_gguf_str){(const char *)text, n});
        t->byte_token[b] = find_byte(t, (uint8_t)b);
    }
}

static enum vd_err load_scores(struct loader *l)
{
    struct vd_tok *t = l->t;
    struct vd_gguf_array a;
    const char *key = "tokenizer.ggml.scores", *file = vd_gguf_name(l->g);
    enum vd_err e = vd_gguf_get_array(l->g, key, VD_GGUF_REQUIRED, VD_GGUF_F32, &a, l->err);
    if (e)
        return e;
    if (a.n < t->n_vocab)
        return vd_error_set(l->err, VD_EFORMAT, "%.200s: %s has %llu entries for %u tokens", file, key,
                            (unsigned long long)a.n, t->n_vocab);
    t->score = malloc(t->n_vocab * sizeof *t->score);
    if (!t->score)
        return no_memory(l);
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        t->score[id] = (float)vd_gguf_array_float(&a, id);
        if (!isfinite(t->score[id]))
            return vd_error_set(l->err, VD_EFORMAT, "%.200s: %s: entry %u is not a finite number", file, key,
                                id);
    }
    return VD_OK;
}

/* <0xHH> */
static bool byte_text(struct vd_gguf_str s, uint8_t *b)
{
    char digits[3] = {0};
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>')
        return false;
    memcpy(digits, s.p + 3, 2);
    return vd_hex_decode(b, 1, digits);
}

/* Writes a text with blanks for U+2581. */
static size_t write_blanks(struct vd_gguf_str s, uint8_t *out)
{
    size_t n_out = 0;
    for (size_t at = 0; at < s.n; n_out++) {
        bool blank = s.n - at >= 3 && memcmp(s.p + at, "\xE2\x96\x81", 3) == 0;
        out[n_out] = blank ? ' ' : (uint8_t)s.p[at];
        at += blank ? 3 : 1;
    }
    return n_out;
}

/* Writes what token id stands for, at most its text's length. */
static size_t write_piece(const struct vd_tok *t, uint32_t id, const int16_t byte_of_cpt[0x144], uint8_t *out)
{
    struct vd_gguf_str s = t->text[id];
    const uint8_t *p = (const uint8_t *)s.p;
    switch ((enum vd_tok_kind)(t->flags[id] & VD_TOK_KIND)) {
    case VD_TOK_UNDEFINED:
    case VD_TOK_UNUSED:
        return 0;
    case VD_TOK_UNKNOWN:
    case VD_TOK_CONTROL:
    case VD_TOK_USER:
        memcpy(out, p, s.n);
        return s.n;
    case VD_TOK_BYTE:
        return byte_text(s, out) ? 1 : 0;
    case VD_TOK_NORMAL:
        break;
    }
    if (t->model != VD_TOK_BPE)
        return write_blanks(s, out);
    size_t n_out = 0;
    for (size_t at = 0, len; at < s.n; at += len) {
        uint32_t cpt;
        len = vd_utf8_read(p + at, s.n - at, &cpt);
        if (cpt < 0x144 && byte_of_cpt[cpt] >= 0) {
            out[n_out++] = (uint8_t)byte_of_cpt[cpt];
        } else { /* no stand-in: the character itself */
            memcpy(out + n_out, p + at, len);
            n_out += len;
        }
    }
    return n_out;
}

static enum vd_err load_pieces(struct loader *l)
{
    struct vd_tok *t = l->t;
    int16_t byte_of_cpt[0x144];
    memset(byte_of_cpt, 0xff, sizeof byte_of_cpt);
    for (int b = 0; b < 256; b++)
        byte_of_cpt[vd_tok_byte_cpt((uint8_t)b)] = (int16_t)b;
    size_t total = 1;
    for (uint32_t id = 0; id < t->n_vocab; id++)
        total += t->text[id].n;
    t->piece_at = malloc(((size_t)t->n_vocab + 1) * sizeof *t->piece_at);
    t->pieces = malloc(total);
    if (!t->piece_at || !t->pieces)
        return no_memory(l);
    size_t at = 0;
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        t->piece_at[id] = (uint32_t)at;
        at += write_piece(t, id, byte_of_cpt, t->pieces + at);
    }
    t->piece_at[t->n_vocab] = (uint32_t)at;
    return VD_OK;
}

/* Lists the known names for a message. */
static enum vd_err unknown_pre(const struct loader *l, struct vd_gguf_str pre)
{
    char known[1024] = "";
    for (const struct vd_pretok *r = vd_pretok_all(); r->name; r++) {
        strncat(known, known[0] ? ", " : "", sizeof known - strlen(known) - 1);
        strncat(known, r->name, sizeof known - strlen(known) - 1);
    }
    return vd_error_set(l->err, VD_EUNSUPPORTED,
                        "%.200s: tokenizer.ggml.pre is \"%.*s\"; this version knows %s", vd_gguf_name(l->g),
                        (int)(pre.n < 40 ? pre.n : 40), pre.p, known);
}

static enum vd_err load_bpe(struct loader *l)
{
    struct vd_gguf_str pre;
    enum vd_err e = vd_gguf_get_str(l->g, "tokenizer.ggml.pre", VD_GGUF_REQUIRED, &pre, l->err);
    if (e)
        return e;
    l->t->pre = vd_pretok_find(pre.p, pre.n);
    if (!l->t->pre)
        return unknown_pre(l, pre);
    l->t->add_bos = l->t->pre->add_bos;
    return load_merges(l);
}

/* Scores as ranks: the order of the floats, turned round, as an integer; -0 is 0. */
static enum vd_err load_spm(struct loader *l)
{
    struct vd_tok *t = l->t;
    t->add_bos = t->space_prefix = true;
    enum vd_err e =
        vd_gguf_get_bool(l->g, "tokenizer.ggml.add_space_prefix", VD_GGUF_OPTIONAL, &t->space_prefix, l->err);
    if (e || (e = load_scores(l)))
        return e;
    t->rank = malloc(t->n_vocab * sizeof *t->rank);
    if (!t->rank)
        return no_memory(l);
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        float score = t->score[id] + 0.0f;
        uint32_t bits;
        memcpy(&bits, &score, sizeof bits);
        t->rank[id] = bits >> 31 ? bits : 0x7FFFFFFF - bits;
    }
    return VD_OK;
}

/* The map of normalisation: u32 size of the double array, the array, strings. */
static enum vd_err load_map(struct loader *l)
{
    struct vd_tok *t = l->t;
    const char *key = "tokenizer.ggml.precompiled_charsmap";
    const struct vd_gguf_kv *kv = vd_gguf_find(l->g, key);
    if (!kv)
        return VD_OK;
    const struct vd_gguf_array *a = &kv->array;
    bool bytes = kv->type == VD_GGUF_ARRAY && (a->type == VD_GGUF_U8 || a->type == VD_GGUF_I8);
    size_t n = bytes && a->n_bytes > 4 ? a->n_bytes - 4 : 0, n_array = n ? vd_le32_load(a->p) : 0;
    if (n_array >= n || n_array % 4 != 0 || a->p[a->n_bytes - 1] != 0)
        return vd_error_set(l->err, VD_EFORMAT,
                            "%.200s: %s is not a size, an array of that many bytes and strings",
                            vd_gguf_name(l->g), key);
    t->map = a->p + 4;
    t->map_nodes = (uint32_t)(n_array / 4);
    t->replacements = (const char *)t->map + n_array;
    t->n_replacements = n - n_array;
    return VD_OK;
}

static enum vd_err load_ugm(struct loader *l)
{
    struct vd_tok *t = l->t;
    enum { TEXT_KINDS = 1 << VD_TOK_NORMAL | 1 << VD_TOK_USER | 1 << VD_TOK_UNUSED };
    t->add_eos = true;
    enum vd_err e;
    if ((e = vd_gguf_get_bool(l->g, "tokenizer.ggml.add_space_prefix", VD_GGUF_OPTIONAL, &t->space_prefix,
                              l->err)) ||
        (e = vd_gguf_get_bool(l->g, "tokenizer.ggml.remove_extra_whitespaces", VD_GGUF_OPTIONAL,
                              &t->merge_blanks, l->err)) ||
        (e = load_scores(l)) || (e = load_map(l)))
        return e;
    float least = FLT_MAX;
    for (uint32_t id = 0; id < t->n_vocab; id++)
        if ((t->flags[id] & VD_TOK_KIND) == VD_TOK_NORMAL && t->score[id] < least)
            least = t->score[id];
    t->unk_score = least - 10.0f;
    return vd_tok_prefixes_make(t, TEXT_KINDS, &t->prefixes) &&
                   vd_tok_prefixes_make(t, 1 << VD_TOK_USER, &t->users)
               ? VD_OK
               : no_memory(l);
}

static enum vd_err load_wpm(struct loader *l)
{
    struct vd_tok *t = l->t;
    t->lower_case = true;
    enum vd_err e = vd_gguf_get_bool(l->g, "tokenizer.ggml.normalizer.lowercase", VD_GGUF_OPTIONAL,
                                     &t->lower_case, l->err);
    t->strip_accents = t->lower_case;
    if (!e)
        e = vd_gguf_get_bool(l->g, "tokenizer.ggml.normalizer.strip_accents", VD_GGUF_OPTIONAL,
                             &t->strip_accents, l->err);
    if (e)
        return e;
    return vd_tok_prefixes_make(t, ~0u, &t->prefixes) ? VD_OK : no_memory(l);
}

/* The models, and the ids that hold for them if the file does not say. */
struct model_row {
    const char *name;
    enum vd_err (*load)(struct loader *l);
    enum vd_tok_model model;
    uint32_t bos, eos, unk;
};

static const struct model_row models[] = {
    {"gpt2", load_bpe, VD_TOK_BPE, VD_TOK_NONE, VD_TOK_NONE, VD_TOK_NONE},
    {"llama", load_spm, VD_TOK_SPM, 1, 2, 0},
    {"bert", load_wpm, VD_TOK_WPM, 101, VD_TOK_NONE, 100},
    {"t5", load_ugm, VD_TOK_UGM, VD_TOK_NONE, 1, 2},
};

static enum vd_err find_model(struct loader *l, const struct model_row **row)
{
    struct vd_gguf_str model;
    enum vd_err e = vd_gguf_get_str(l->g, "tokenizer.ggml.model", VD_GGUF_REQUIRED, &model, l->err);
    if (e)
        return e;
    char known[80] = "";
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        *row = &models[i];
        if (vd_gguf_str_eq(model, models[i].name))
            return VD_OK;
        strncat(known, i ? ", " : "", sizeof known - strlen(known) - 1);
        strncat(known, models[i].name, sizeof known - strlen(known) - 1);
    }
    return vd_error_set(l->err, VD_EUNSUPPORTED,
                        "%.200s: tokenizer.ggml.model is \"%.*s\"; this version knows %s", vd_gguf_name(l->g),
                        (int)(model.n < 40 ? model.n : 40), model.p, known);
}

static enum vd_err load_all(struct loader *l)
{
    struct vd_tok *t = l->t;
    const struct model_row *row;
    enum vd_err e = find_model(l, &row);
    if (e)
        return e;
    t->model = row->model;
    t->bos = row->bos;
    t->eos = row->eos;
    t->unk = row->unk;
    if ((e = load_texts(l)) || (e = load_kinds(l)) || (e = row->load(l)) ||
        (e = vd_tok_load_special(t, l->g, l->err)))
        return e;
    load_bytes(t);
    return load_pieces(l);
}

enum vd_err vd_tok_load(struct vd_tok **out, const struct vd_gguf *g, struct vd_error *err)
{
    *out = NULL;
    struct loader l = {calloc(1, sizeof(struct vd_tok)), g, err};
    if (!l.t)
        return no_memory(&l);
    enum vd_err e = load_all(&l);
    if (e) {
        vd_tok_free(l.t);
        return e;
    }
    *out = l.t;
    return VD_OK;
}

void vd_tok_free(struct vd_tok *t)
{
    if (!t)
        return;
    while (t->extra) {
        char *next;
        memcpy(&next, t->extra, sizeof next);
        free(t->extra);
        t->extra = next;
    }
    free(t->text);
    free(t->flags);
    free(t->piece_at);
    free(t->pieces);
    free(t->names.slots);
    free(t->merges);
    free(t->rank);
    free(t->prefixes.ids);
    free(t->users.ids);
    free(t->score);
    free(t->special);
    free(t);
}

uint32_t vd_tok_find(const struct vd_tok *t, const char *text, size_t n)
{
    if (n == 0 || n > VD_TOK_PIECE_MAX_BYTES)
        return VD_TOK_NONE;
    uint32_t id = find_symbol(t, (struct vd_gguf_str){text, n});
    return id < t->n_vocab ? id : VD_TOK_NONE;
}
