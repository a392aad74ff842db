/* The bytes stand beside the text, because a token may be a part of a character. */
#include "vd_openai_logprob.h"

#include <jansson.h>
#include <math.h>

json_t *vd_openai_token_text(const struct vd_tok *tok, uint32_t id)
{
    struct vd_bytes piece = vd_tok_piece(tok, id, true);
    struct vd_tok_stream s = {{0}, 0};
    char out[3 * (VD_TOK_PIECE_MAX_BYTES + 4) + 3];
    size_t n = vd_tok_stream_put(&s, piece.p, piece.n, out);
    n += vd_tok_stream_end(&s, out + n);
    return json_stringn(out, n);
}

static json_t *token_bytes(const struct vd_tok *tok, uint32_t id)
{
    struct vd_bytes piece = vd_tok_piece(tok, id, true);
    json_t *list = json_array();
    for (size_t i = 0; i < piece.n; i++)
        json_array_append_new(list, json_integer(piece.p[i]));
    return list;
}

json_t *vd_openai_logprob_value(float x)
{
    return json_real(isfinite(x) ? (double)x : -9999.0);
}

json_t *vd_openai_logprob(const struct vd_tok *tok, uint32_t id, float x)
{
    return json_pack("{s:o, s:o, s:o}", "token", vd_openai_token_text(tok, id), "logprob",
                     vd_openai_logprob_value(x), "bytes", token_bytes(tok, id));
}
