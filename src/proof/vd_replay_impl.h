/* Inside of replay: one receipt, or one answer being made, among those that share a pass. */
#ifndef VD_REPLAY_IMPL_H
#define VD_REPLAY_IMPL_H

#include "vd_commit.h"
#include "vd_embed.h"
#include "vd_feed.h"
#include "vd_replay.h"

struct vd_replay_one {
    const struct vd_proof_job *job;
    const uint32_t *output; /* job->output, or a stream's */
    uint32_t finish;        /* enum vd_finish, or 0: not known yet */
    bool part;              /* no commitment is made */
    bool grows;             /* it is being made: its length and its finish are not known yet */
    struct vd_graph graph;
    struct vd_feed_seq seq;
    struct vd_ctx *ctx;
    struct vd_commit *commit;
    struct vd_embed *embed; /* NULL: the result is tokens */
    uint8_t *k, *v;         /* scratch for one row; shared by all that run together */
    uint32_t stop;          /* of the last step so far, if the finish is not known */
    struct vd_replay_result *out;
};

/* Sets the result, and everything but k, v and grows, for a job whose graph fits the model; out->verdict says
 * whether it does. */
enum vd_err vd_replay_one_open(struct vd_replay_one *r, struct vd_feed *feed,
                               const struct vd_hash *model_root, const struct vd_proof_job *job,
                               struct vd_replay_result *out, struct vd_error *err);

/* Frees what open has made. */
void vd_replay_one_close(struct vd_replay_one *r);

/* The first difference counts. */
void vd_replay_differ(struct vd_replay_one *r, enum vd_replay_verdict v, uint32_t step, uint32_t want,
                      uint32_t got);

#endif
