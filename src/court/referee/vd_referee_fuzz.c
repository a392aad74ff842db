/* Any opening, at any record: a verdict, and never one against the worker, since no bytes verify under these
 * roots. Input: u8 step, unit (128 and more: of a program with every feature), op, record, then the opening.
 * With the unit's bit 64 a vector's job, and with op's bit 128 an encoder's.
 * Odd steps go to vd_referee_bind, or, if unit is odd too, to vd_referee_token. */
#include "vd_fuzz_jobs.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void job_of(struct vd_fuzz_job *j, const uint8_t head[4])
{
    bool is_vector = head[1] & 64, is_encoder = is_vector && head[2] & 128;
    struct vd_program p = is_encoder       ? vd_fuzz_encoder()
                          : head[1] >= 128 ? vd_fuzz_features()
                                           : vd_fuzz_plain();
    vd_fuzz_job_init(j, &p,
                     is_encoder     ? (enum vd_pooling)(1 + head[2] / 64 % 2 + head[1] / 128)
                     : !is_vector   ? VD_POOLING_NONE
                     : head[1] & 32 ? VD_POOLING_MEAN
                                    : VD_POOLING_LAST);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const struct vd_hash op_roots[VD_GRAPH_OPS_MAX];
    static const uint8_t record[VD_GRAPH_RECORD_BYTES_MAX];
    struct vd_hash zero = {{0}};
    struct vd_fuzz_job job;
    if (n_bytes < 4)
        return 0;
    job_of(&job, data);
    struct vd_bytes opening = {data + 4, n_bytes - 4};
    uint32_t step = data[0] / 2 % job.claim.graph.job.n_steps;
    if (data[0] & data[1] & 1) {
        uint32_t token;
        assert(!vd_referee_token(&job.claim, &zero, step, opening, &token));
        return 0;
    }
    if (data[0] & 1) {
        assert(!vd_referee_bind(&job.claim, &zero, step, opening));
        return 0;
    }
    struct vd_ref_point pt = {.step = step, .token = data[3] * 1000u, .op_roots = op_roots};
    struct vd_graph_op o;
    pt.unit = data[1] % vd_graph_units(&job.claim.graph, step);
    pt.op = data[2] % 64 % vd_graph_ops(&job.claim.graph, step, pt.unit);
    vd_graph_op(&job.claim.graph, step, pt.unit, pt.op, &o);
    if (o.n_records == 0)
        return 0; /* the game does not let anybody point at it */
    pt.record = data[3] * o.n_records / 256;
    uint8_t computed[VD_GRAPH_RECORD_BYTES_MAX];
    assert(vd_referee_tile(&job.claim, &pt, record, opening, computed) == VD_REF_REJECTED);
    return 0;
}
