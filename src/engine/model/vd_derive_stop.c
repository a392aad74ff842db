/* Stop tokens: those that the file's keys name, and control tokens whose text ends a turn or a text in some
 * family of models. */
#include "vd_derive_impl.h"

#include <string.h>

static const char *const stop_pieces[] = {
    "<|endoftext|>",      "<|im_end|>", "<|end|>",    "<|eot_id|>", "<|eom_id|>",
    "<|end_of_text|>",    "<EOT>",      "<|return|>", "<|call|>",   "<end_of_turn>",
    "<end_of_utterance>", "</s>",       "<eos>",
};

static const char *const stop_keys[] = {
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
};

enum { TOKEN_TYPE_CONTROL = 3 };

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* Keeps the list ascending and without doubles. */
static void add_stop(struct vd_derive *d, uint32_t token)
{
    struct vd_program *p = d->p;
    uint32_t i = 0;
    while (i < p->n_stop && p->stop[i] < token)
        i++;
    if (i < p->n_stop && p->stop[i] == token)
        return;
    if (p->n_stop == VD_PROGRAM_STOP_MAX) {
        vd_derive_fail(d, VD_ELIMIT, "more than %d stop tokens", VD_PROGRAM_STOP_MAX);
        return;
    }
    memmove(&p->stop[i + 1], &p->stop[i], (p->n_stop - i) * sizeof p->stop[0]);
    p->stop[i] = token;
    p->n_stop++;
}

static bool is_stop_piece(struct vd_gguf_str s)
{
    for (size_t i = 0; i < COUNT(stop_pieces); i++)
        if (vd_gguf_str_eq(s, stop_pieces[i]))
            return true;
    return false;
}

static void stop_by_text(struct vd_derive *d)
{
    struct vd_gguf_array tokens, types;
    struct vd_gguf_str piece;
    size_t at = 0;
    if (d->rc != VD_OK || !vd_gguf_find(d->g, "tokenizer.ggml.tokens"))
        return;
    d->rc =
        vd_gguf_get_array(d->g, "tokenizer.ggml.tokens", VD_GGUF_REQUIRED, VD_GGUF_STRING, &tokens, d->err);
    if (d->rc == VD_OK)
        d->rc = vd_gguf_get_array(d->g, "tokenizer.ggml.token_type", VD_GGUF_REQUIRED, VD_GGUF_I32, &types,
                                  d->err);
    if (d->rc != VD_OK)
        return;
    if (tokens.n != d->p->vocab || types.n != d->p->vocab) {
        vd_derive_fail(d, VD_EFORMAT,
                       "%llu tokens and %llu token types for an embedding of %u rows; they must be alike",
                       (unsigned long long)tokens.n, (unsigned long long)types.n, d->p->vocab);
        return;
    }
    for (uint32_t i = 0; vd_gguf_array_next_str(&tokens, &at, &piece); i++)
        if (is_stop_piece(piece) && vd_gguf_array_int(&types, i) == TOKEN_TYPE_CONTROL)
            add_stop(d, i);
}

void vd_derive_stops(struct vd_derive *d)
{
    d->p->n_stop = 0;
    for (size_t i = 0; i < COUNT(stop_keys); i++) {
        uint32_t token;
        if (d->rc != VD_OK || !vd_gguf_find(d->g, stop_keys[i]))
            continue;
        d->rc = vd_gguf_get_u32(d->g, stop_keys[i], VD_GGUF_REQUIRED, d->p->vocab - 1, &token, d->err);
        if (d->rc == VD_OK)
            add_stop(d, token);
    }
    stop_by_text(d);
}
