/* From ids back to text. Tokens are pieces of bytes, not of characters; the stream below is what makes
 * characters. */
#include "vd_tok_impl.h"

#include "vd_unicode.h"

#include <assert.h>
#include <string.h>

uint32_t vd_tok_count(const struct vd_tok *t)
{
    return t->n_vocab;
}

uint32_t vd_tok_bos(const struct vd_tok *t)
{
    return t->bos;
}

uint32_t vd_tok_eos(const struct vd_tok *t)
{
    return t->eos;
}

bool vd_tok_adds_bos(const struct vd_tok *t)
{
    return t->add_bos;
}

bool vd_tok_is_eog(const struct vd_tok *t, uint32_t id)
{
    return id < t->n_vocab && (t->flags[id] & VD_TOK_IS_EOG);
}

bool vd_tok_is_control(const struct vd_tok *t, uint32_t id)
{
    if (id >= t->n_vocab)
        return false;
    enum vd_tok_kind k = (enum vd_tok_kind)(t->flags[id] & VD_TOK_KIND);
    return k == VD_TOK_CONTROL || k == VD_TOK_UNKNOWN;
}

struct vd_bytes vd_tok_piece(const struct vd_tok *t, uint32_t id, bool special)
{
    assert(id < t->n_vocab);
    if (!special && vd_tok_is_control(t, id))
        return (struct vd_bytes){t->pieces, 0};
    return (struct vd_bytes){t->pieces + t->piece_at[id], t->piece_at[id + 1] - t->piece_at[id]};
}

enum vd_err vd_tok_decode(const struct vd_tok *t, const uint32_t *ids, size_t n_ids, bool special, char *out,
                          size_t max_bytes, size_t *n_bytes, struct vd_error *err)
{
    *n_bytes = 0;
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] >= t->n_vocab)
            return vd_error_set(err, VD_EFORMAT, "token %zu has the id %u; the vocabulary has %u tokens", i,
                                ids[i], t->n_vocab);
        struct vd_bytes b = vd_tok_piece(t, ids[i], special);
        if (*n_bytes <= max_bytes && b.n <= max_bytes - *n_bytes && b.n)
            memcpy(out + *n_bytes, b.p, b.n);
        *n_bytes += b.n;
    }
    if (*n_bytes > max_bytes)
        return vd_error_set(err, VD_ELIMIT, "the text has %zu bytes; there is room for %zu", *n_bytes,
                            max_bytes);
    return VD_OK;
}

/* Passes on the whole characters at the start of p[0, n), and U+FFFD for bad parts; what is unfinished at the
 * end is held. */
static size_t pass(struct vd_tok_stream *s, const uint8_t *p, size_t n, char *out)
{
    size_t n_out = 0;
    while (n > 0) {
        int len = vd_utf8_check(p, n);
        if (len == 0)
            break;
        size_t used = (size_t)(len > 0 ? len : -len);
        memcpy(out + n_out, len > 0 ? (const char *)p : "\xEF\xBF\xBD", len > 0 ? used : 3);
        n_out += len > 0 ? used : 3;
        p += used;
        n -= used;
    }
    memmove(s->held, p, n);
    s->n_held = (uint8_t)n;
    return n_out;
}

size_t vd_tok_stream_put(struct vd_tok_stream *s, const uint8_t *piece, size_t n, char *out)
{
    size_t n_out = 0;
    while (s->n_held > 0 && n > 0) { /* byte by byte until the held character is settled */
        uint8_t joined[5];
        size_t held = s->n_held;
        memcpy(joined, s->held, held);
        joined[held] = *piece++;
        n--;
        n_out += pass(s, joined, held + 1, out + n_out);
    }
    return n_out + (n ? pass(s, piece, n, out + n_out) : 0);
}

size_t vd_tok_stream_end(struct vd_tok_stream *s, char *out)
{
    size_t n = s->n_held ? 3 : 0;
    memcpy(out, "\xEF\xBF\xBD", n);
    s->n_held = 0;
    return n;
}
