/* Guesses of what a job will say next, so that one forward pass can yield several of its tokens.
 *
 * A guess is fed behind the job's newest token as if it were known. Each row's token is then chosen by the
 * job's own rule, and the rows behind the first that differs from its guess are void. So guesses decide how
 * fast an output comes and nothing else: the tokens, the rows of the trace and the receipt are those of one
 * token at a time.
 *
 * Where they come from: from the job's own tokens, what followed the last time when its newest tokens were
 * said (lookup: free, and right where text repeats itself); or from a small model with the same vocabulary
 * that goes on greedily (draft). Sources: Saxena, prompt lookup decoding (2023); Leviathan et al. (2023).
 *
 * Thread rule: a draft belongs to one thread at a time, and needs the pool idle. */
#ifndef VD_GUESS_H
#define VD_GUESS_H

#include "vd_forward.h"

enum { VD_GUESS_MAX = 16 /* tokens at once */ };

/* What followed the latest earlier place where the last tokens stood: at most max tokens into out, 0 if there
 * is no such place. */
size_t vd_guess_lookup(const uint32_t *tokens, size_t n, size_t max, uint32_t *out);

/* ---- a draft model ---- */

struct vd_draft;

/* A job's place in the draft: zero before the first guess. */
struct vd_draft_seq {
    struct vd_kv *kv;
    uint32_t fed[VD_GUESS_MAX]; /* the guesses among the positions of kv, from position fed_at on */
    size_t fed_at, n_fed;
    /* of a call */
    const uint32_t *tokens; /* what is known */
    size_t n_known, want;
    uint32_t *out; /* gets the guesses */
    size_t n_out;
};

/* n_seqs: at most so many sequences at once; max_kv_bytes: of all their caches. The model is borrowed.
 * VD_EUSE, VD_ENOMEM. */
enum vd_err vd_draft_create(struct vd_draft **out, const struct vd_model *m, struct vd_pool *pool,
                            size_t n_seqs, size_t max_kv_bytes, struct vd_error *err);
void vd_draft_destroy(struct vd_draft *d); /* NULL is allowed */

/* Goes on from the known tokens of n sequences, each for at most `want` (1 to VD_GUESS_MAX) tokens. n_out may
 * be less, down to 0: while a long prompt is being read, or when the cache or the context is full. */
void vd_draft_guess(struct vd_draft *d, struct vd_draft_seq *const *seq, size_t n);
/* Gives the sequence's cache back; a later guess would read all of it again. */
void vd_draft_drop(struct vd_draft_seq *s);

#endif
