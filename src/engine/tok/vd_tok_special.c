/* Which tokens are special: those that the file names by id, those that it marks as control or user-defined,
 * and those that it should have marked. The last are known by their texts: GGUF files name only some of the
 * tokens that end an answer or frame code to be filled in, and the field's tokenizers make up for that with
 * the lists below. Ids depend on them, because control tokens are found in text only if asked for. */
#include "vd_tok_impl.h"

#include <stdlib.h>
#include <string.h>

static uint32_t find(const struct vd_tok *t, const char *text)
{
    return vd_tok_find(t, text, strlen(text));
}

static void set_kind(struct vd_tok *t, uint32_t id, enum vd_tok_kind kind)
{
    t->flags[id] = (uint8_t)((t->flags[id] & ~VD_TOK_KIND) | kind);
}

/* A role of which the first text that the vocabulary has is a control token, unless the file names its id.
 * None of them ends an answer: the program's stop tokens do (docs/spec/program.md). */
static void mark_fill_tokens(struct vd_tok *t, const struct vd_gguf *g)
{
    static const struct {
        const char *keys[2];
        const char *texts[6];
    } roles[] = {
        {{"tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"},
         {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uFF5Cfim\u2581begin\uFF5C>", "<PRE>",
          "\u2581<PRE>"}},
        {{"tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"},
         {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uFF5Cfim\u2581hole\uFF5C>", "<SUF>",
          "\u2581<SUF>"}},
        {{"tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"},
         {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uFF5Cfim\u2581end\uFF5C>", "<MID>",
          "\u2581<MID>"}},
        {{"tokenizer.ggml.fim_pad_token_id"}, {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
        {{"tokenizer.ggml.fim_rep_token_id"},
         {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
        {{"tokenizer.ggml.fim_sep_token_id"}, {"<|file_sep|>"}},
    };
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        uint32_t id = VD_TOK_NONE;
        bool named =
            vd_gguf_find(g, roles[i].keys[0]) || (roles[i].keys[1] && vd_gguf_find(g, roles[i].keys[1]));
        for (size_t k = 0; !named && id == VD_TOK_NONE && k < 6 && roles[i].texts[k]; k++)
            id = find(t, roles[i].texts[k]);
        if (id == VD_TOK_NONE)
            continue;
        set_kind(t, id, VD_TOK_CONTROL);
    }
}

static void mark_end_tokens(struct vd_tok *t)
{
    static const char *const texts[] = {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "[e~[",
        "<end_of_utterance>",
        "<\uFF5Cend\u2581of\u2581sentence\uFF5C>",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        uint32_t id = find(t, texts[i]);
        if (id == VD_TOK_NONE)
            continue;
        set_kind(t, id, VD_TOK_CONTROL);
        t->flags[id] |= VD_TOK_IS_EOG;
    }
    if (t->eos != VD_TOK_NONE)
        t->flags[t->eos] |= VD_TOK_IS_EOG;
}

/* Phi-3's chat tokens take the white space after them along, and the masks of some encoders that before them.
 * The file does not say so; its names must. */
static void mark_strips(struct vd_tok *t, const struct vd_gguf *g)
{
    static const char *const plain[] = {"<unk>", "<s>", "<|endoftext|>"};
    struct vd_gguf_str name = {"", 0}, arch = {"", 0};
    uint32_t mask = find(t, "<mask>");
    if (vd_gguf_get_str(g, "general.architecture", VD_GGUF_OPTIONAL, &arch, NULL) == VD_OK &&
        mask != VD_TOK_NONE &&
        (vd_gguf_str_eq(arch, "nomic-bert-moe") || vd_gguf_str_eq(arch, "jina-bert-v3")))
        t->flags[mask] |= VD_TOK_STRIPS_LEFT;
    char lower[256] = "";
    if (vd_gguf_get_str(g, "general.name", VD_GGUF_OPTIONAL, &name, NULL))
        return;
    for (size_t i = 0; i < name.n && i + 1 < sizeof lower; i++)
        lower[i] = (char)(name.p[i] >= 'A' && name.p[i] <= 'Z' ? name.p[i] + 32 : name.p[i]);
    if (!strstr(lower, "phi-3") && !strstr(lower, "phi3"))
        return;
    for (uint32_t i = 0; i < t->n_special; i++)
        t->flags[t->special[i]] |= VD_TOK_STRIPS_RIGHT;
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        uint32_t id = find(t, plain[i]);
        if (id != VD_TOK_NONE)
            t->flags[id] &= (uint8_t)~VD_TOK_STRIPS_RIGHT;
    }
}

/* An id that the file may name. A model's default that the vocabulary is too small for is none. */
static enum vd_err load_id(struct vd_tok *t, const struct vd_gguf *g, const char *key, uint32_t *id,
                           struct vd_error *err)
{
    if (*id >= t->n_vocab)
        *id = VD_TOK_NONE;
    return vd_gguf_get_u32(g, key, VD_GGUF_OPTIONAL, t->n_vocab - 1, id, err);
}

static enum vd_err wanted(const struct vd_gguf *g, bool wants, uint32_t id, const char *want, const char *key,
                          struct vd_error *err)
{
    if (!wants || id != VD_TOK_NONE)
        return VD_OK;
    return vd_error_set(err, VD_EFORMAT, "%.200s: %s is true, but %s is missing", vd_gguf_name(g), want, key);
}

/* BERT's text always begins with [CLS] and ends with [SEP], and has [UNK] for what it cannot say. */
static enum vd_err load_wpm_ids(struct vd_tok *t, const struct vd_gguf *g, struct vd_error *err)
{
    t->add_bos = true;
    t->end = 102;
    enum vd_err e = load_id(t, g, "tokenizer.ggml.seperator_token_id", &t->end, err); /* the key's spelling */
    if (!e && (t->bos == VD_TOK_NONE || t->end == VD_TOK_NONE || t->unk == VD_TOK_NONE))
        e = vd_error_set(err, VD_EFORMAT,
                         "%.200s: a bert tokenizer needs tokenizer.ggml.bos_token_id, seperator_token_id and "
                         "unknown_token_id, or the tokens 100 to 102 for them",
                         vd_gguf_name(g));
    return e;
}

static enum vd_err load_ids(struct vd_tok *t, const struct vd_gguf *g, struct vd_error *err)
{
    const char *bos = "tokenizer.ggml.bos_token_id", *eos = "tokenizer.ggml.eos_token_id";
    const char *add_bos = "tokenizer.ggml.add_bos_token", *add_eos = "tokenizer.ggml.add_eos_token";
    enum vd_err e;
    if ((e = load_id(t, g, bos, &t->bos, err)) || (e = load_id(t, g, eos, &t->eos, err)) ||
        (e = load_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unk, err)) ||
        (e = vd_gguf_get_bool(g, add_bos, VD_GGUF_OPTIONAL, &t->add_bos, err)) ||
        (e = vd_gguf_get_bool(g, add_eos, VD_GGUF_OPTIONAL, &t->add_eos, err)) ||
        (e = wanted(g, t->add_bos, t->bos, add_bos, bos, err)) ||
        (e = wanted(g, t->add_eos, t->eos, add_eos, eos, err)))
        return e;
    t->end = t->add_eos ? t->eos : VD_TOK_NONE;
    if (t->model == VD_TOK_UGM && t->unk == VD_TOK_NONE)
        return vd_error_set(err, VD_EFORMAT, "%.200s: tokenizer.ggml.unknown_token_id is missing",
                            vd_gguf_name(g));
    return t->model == VD_TOK_WPM ? load_wpm_ids(t, g, err) : VD_OK;
}

static int longer_first(const void *a, const void *b, void *tv)
{
    const struct vd_tok *t = tv;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (t->text[x].n != t->text[y].n)
        return t->text[x].n > t->text[y].n ? -1 : 1;
    return (x > y) - (x < y);
}

static bool is_special(const struct vd_tok *t, uint32_t id)
{
    enum vd_tok_kind k = (enum vd_tok_kind)(t->flags[id] & VD_TOK_KIND);
    return (k == VD_TOK_CONTROL || k == VD_TOK_USER || k == VD_TOK_UNKNOWN) && t->text[id].n > 0;
}

static enum vd_err list(struct vd_tok *t, const struct vd_gguf *g, struct vd_error *err)
{
    for (uint32_t id = 0; id < t->n_vocab; id++)
        t->n_special += is_special(t, id);
    if (t->n_special > VD_TOK_SPECIAL_MAX)
        return vd_error_set(err, VD_ELIMIT, "%.200s: the vocabulary has %u special tokens; the limit is %d",
                            vd_gguf_name(g), t->n_special, VD_TOK_SPECIAL_MAX);
    t->special = malloc((t->n_special + 1) * sizeof *t->special);
    if (!t->special)
        return vd_error_set(err, VD_ENOMEM, "%.200s: no memory for the tokenizer", vd_gguf_name(g));
    uint32_t n = 0;
    for (uint32_t id = 0; id < t->n_vocab; id++)
        if (is_special(t, id))
            t->special[n++] = id;
    qsort_r(t->special, n, sizeof *t->special, longer_first, t);
    return VD_OK;
}

enum vd_err vd_tok_load_special(struct vd_tok *t, const struct vd_gguf *g, struct vd_error *err)
{
    enum vd_err e = load_ids(t, g, err);
    if (e)
        return e;
    mark_fill_tokens(t, g);
    mark_end_tokens(t);
    e = list(t, g, err);
    if (!e)
        mark_strips(t, g);
    return e;
}
