/* Following streams: a verifier that a gateway's operator named gets every job of that gateway while it is
 * made, runs it along (src/proof/vd_replay.h), and says so at the first token, or signed statement, that is
 * not the model's; the gateway then stops the worker (docs/spec/wire.md, section 4).
 *
 * It has a context, a cache and threads of its own, so that streams wait for no replay. A stream for which
 * there is no room, or whose model is not loaded, is passed over and counted.
 *
 * Ownership: models are borrowed until stop. Thread rule: start and stop from one thread; the frames from the
 * links' threads. */
#ifndef VD_VERIFIER_FOLLOW_H
#define VD_VERIFIER_FOLLOW_H

#include "vd_link.h"
#include "vd_log.h"
#include "vd_verifier.h"

enum {
    VD_FOLLOW_STREAMS_MAX = 64,
    VD_FOLLOW_SAID_MAX = 64, /* statements of one stream that wait to be looked at */
};

struct vd_follow;

enum vd_err vd_follow_start(struct vd_follow **out, const struct vd_verifier_model *model, size_t n_models,
                            const struct vd_log *log, struct vd_error *err);
void vd_follow_stop(struct vd_follow *f); /* NULL is allowed */

/* JOB, TOKEN, PREFIX, RECEIPT or CANCEL of a gateway. */
void vd_follow_on_frame(struct vd_follow *f, struct vd_link *link, unsigned type, struct vd_bytes body);
/* Its streams end. */
void vd_follow_on_close(struct vd_follow *f, struct vd_link *link);

struct vd_follow_stats {
    uint64_t n_streams, n_right, n_wrong, n_cut, n_passed_over, n_tokens, n_statements;
};
void vd_follow_get_stats(struct vd_follow *f, struct vd_follow_stats *out);

#endif
