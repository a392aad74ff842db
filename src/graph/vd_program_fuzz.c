/* Any bytes: decoded programs are valid and encode to the same bytes, and every table can be asked about
 * them. */
#include "vd_graph.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct vd_program p;
    uint8_t again[VD_PROGRAM_BYTES_MAX];
    if (!vd_program_decode((struct vd_bytes){data, n_bytes}, &p))
        return 0;
    size_t n = vd_program_encode(&p, again, sizeof again);
    assert(n == n_bytes && memcmp(again, data, n) == 0);
    struct vd_graph g = {&p, {.n_prompt = 1, .n_output = 1, .n_steps = 1, .max_tokens = 1}};
    if (vd_program_is_encoder(&p))
        g.job = (struct vd_graph_job){.n_prompt = 1,
                                      .n_output = p.width,
                                      .n_steps = 1,
                                      .max_tokens = p.width,
                                      .sampling = {.pooling = VD_POOLING_CLS}};
    assert(vd_graph_valid(&g));
    for (uint32_t u = 0; u < vd_graph_units(&g, 0); u++)
        for (uint32_t op = 0; op < vd_graph_ops(&g, 0, u); op++) {
            struct vd_graph_input in[VD_GRAPH_INPUTS_MAX];
            struct vd_graph_op o;
            vd_graph_op(&g, 0, u, op, &o);
            assert(o.leaf_records >= 1);
            assert((size_t)o.leaf_records * o.record_bytes <= VD_GRAPH_LEAF_BYTES_MAX);
            if (o.n_records)
                vd_graph_inputs(&g, 0, &o, o.n_records - 1, in);
        }
    return 0;
}
