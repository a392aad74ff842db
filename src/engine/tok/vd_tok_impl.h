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

enum { VD_TOK_IS_EOG = 16, VD_TOK_KIND = 15 }; /* bits of vd_tok.flags */

struct vd_tok {
    uint32_t n_vocab, n_symbols, symbols_max;
    struct vd_gguf_str *text; /* per symbol */
    uint8_t *flags;           /* per token: enum vd_tok_kind, VD_TOK_IS_EOG */
    uint32_t *piece_at;       /* n_vocab + 1 offsets into pieces */
    uint8_t *pieces;
    char *extra; /* texts of the symbols that are no tokens: a list, each begins with the next */
    struct vd_tok_names names;
    struct vd_tok_merge *merges;
    uint64_t merge_mask;
    uint32_t byte_symbol[256]; /* the symbol of a byte's stand-in character, or VD_TOK_NONE */
    uint32_t byte_token[256];  /* the token whose whole text is that one byte, or VD_TOK_NONE */
    uint32_t *special;         /* tokens found in text before anything else, longest first */
    uint32_t n_special;
    uint32_t bos, eos;
    bool add_bos;
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

/* GPT-2's stand-in characters: every byte as a printable code point below 0x144. */
uint32_t vd_tok_byte_cpt(uint8_t b);

#endif
