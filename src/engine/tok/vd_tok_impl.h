/* The inside of struct vd_tok, shared by the files of this folder that make and use it. */
#ifndef VD_TOK_IMPL_H
#define VD_TOK_IMPL_H

#include "vd_pretok.h"
#include "vd_tok.h"

/* A symbol is what merging works on: ids below n_vocab are tokens; ids from there on are strings that merges
 * pass through but that are no tokens themselves (well-made vocabularies have none). */

/* An open-addressing index of symbols by text. */
struct vd_tok_names {
    struct {
        uint32_t hash, id; /* id VD_TOK_NONE: free */
    } * slots;
    uint32_t n, mask;
};

/* An open-addressing table of merges: (left, right) -> (rank, merged). */
struct vd_tok_merge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: free */
    uint32_t rank, merged;
};

enum vd_tok_kind {
    VD_TOK_UNDEFINED,
    VD_TOK_NORMAL,
    VD_TOK_UNKNOWN,
    VD_TOK_CONTROL,
    VD_TOK_USER,
    VD_TOK_UNUSED,
    VD_TOK_BYTE
};

/* Bits of vd_tok.flags. A token that strips takes the white space beside it along. */
enum { VD_TOK_KIND = 15, VD_TOK_IS_EOG = 16, VD_TOK_STRIPS_LEFT = 32, VD_TOK_STRIPS_RIGHT = 64 };

enum vd_tok_model {
    VD_TOK_BPE, /* tokenizer.ggml.model "gpt2" */
    VD_TOK_SPM, /* "llama" */
    VD_TOK_WPM, /* "bert" */
    VD_TOK_UGM, /* "t5" */
};

/* Tokens by the bytes that they begin with; see vd_tok_prefix.h. */
struct vd_tok_prefixes {
    uint32_t *ids;
    uint32_t n;
};

struct vd_tok {
    enum vd_tok_model model;
    uint32_t n_vocab, n_symbols, symbols_max;
    uint32_t text_max;        /* bytes of the longest text of a token */
    struct vd_gguf_str *text; /* per symbol */
    uint8_t *flags;           /* per token: enum vd_tok_kind, VD_TOK_IS_EOG */
    uint32_t *piece_at;       /* n_vocab + 1 offsets into pieces */
    uint8_t *pieces;
    char *extra; /* texts of the symbols that are no tokens: a list, each begins with the next */
    struct vd_tok_names names;
    struct vd_tok_merge *merges;
    uint64_t merge_mask;
    uint32_t byte_symbol[256]; /* the symbol of a byte's stand-in character, or VD_TOK_NONE */
    uint32_t byte_token[256];  /* the token that stands for that one byte, or VD_TOK_NONE */
    uint32_t *rank;            /* SPM, per token: its score; a smaller rank is a higher score */
    uint32_t *special;         /* tokens found in text before anything else, longest first */
    uint32_t n_special;
    struct vd_tok_prefixes prefixes; /* WPM: of all tokens; UGM: of those that text can become */
    struct vd_tok_prefixes users;    /* UGM: of user-defined tokens */
    float *score, unk_score;         /* UGM: per token, and of a character that is none */
    const uint8_t *map;              /* UGM: the double array of normalisation */
    uint32_t map_nodes;
    const char *replacements;       /* UGM: NUL-terminated strings that the array leads to */
    size_t n_replacements;          /* bytes */
    bool merge_blanks;              /* UGM */
    bool lower_case, strip_accents; /* WPM */
    uint32_t bos, eos, unk;
    uint32_t end; /* what ends a text if the file wants that, or VD_TOK_NONE */
    bool add_bos, add_eos;
    bool space_prefix; /* a blank goes before text: at the start and after each special token */
    const struct vd_pretok *pre;
};

static inline uint64_t vd_tok_merge_slot(const struct vd_tok *t, uint64_t pair)
{
    uint64_t h = pair * 0x9E3779B97F4A7C15u;
    return (h ^ h >> 29) & t->merge_mask;
}

/* How far from its slot an entry of the two tables may lie. No honest vocabulary comes near it at half load.
 */
enum { VD_TOK_PROBES_MAX = 2000 };

/* The merge of two neighbours, or NULL. Two bytes without a symbol look like a free slot: that is asked
 * first. */
static inline const struct vd_tok_merge *vd_tok_merge_find(const struct vd_tok *t, uint32_t left,
                                                           uint32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | right, i = vd_tok_merge_slot(t, pair);
    for (int probes = 0; probes <= VD_TOK_PROBES_MAX; probes++, i = (i + 1) & t->merge_mask) {
        if (t->merges[i].pair == UINT64_MAX)
            return NULL;
        if (t->merges[i].pair == pair)
            return &t->merges[i];
    }
    return NULL;
}

/* Which tokens are special; needs texts, kinds and the model's defaults. */
enum vd_err vd_tok_load_special(struct vd_tok *t, const struct vd_gguf *g, struct vd_error *err);

/* A min-heap of (rank, position) in one integer. The owner allocates. */
struct vd_tok_heap {
    uint64_t *p;
    size_t n;
};

void vd_tok_heap_push(struct vd_tok_heap *h, uint64_t key);
uint64_t vd_tok_heap_pop(struct vd_tok_heap *h);

/* One vd_tok_encode. */
struct vd_tok_run {
    const struct vd_tok *t;
    struct vd_tok_ids *ids;
    struct vd_error *err;
    enum vd_err e;
};

void vd_tok_emit(struct vd_tok_run *r, uint32_t id);
bool vd_tok_no_memory(struct vd_tok_run *r, size_t n_bytes); /* notes the error; returns false */

/* The models: the ids of [p, end), p < end, which has no special token in it. */
void vd_tok_encode_bpe(struct vd_tok_run *r, const uint8_t *p, const uint8_t *end);
void vd_tok_encode_spm(struct vd_tok_run *r, const uint8_t *p, const uint8_t *end);
void vd_tok_encode_wpm(struct vd_tok_run *r, const uint8_t *p, const uint8_t *end);
void vd_tok_encode_ugm(struct vd_tok_run *r, const uint8_t *p, const uint8_t *end);

/* GPT-2's stand-in characters: every byte as a printable code point below 0x144. */
uint32_t vd_tok_byte_cpt(uint8_t b);

#endif
