/* Where two runs part, over a toy model: a run that is changed in one record of any operator is found to part
 * there, and one whose engine computes something else than its operators at the row where it does. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "vd_diff.h"
#include "vd_toy.h"

enum { PROMPT = 6, TOKENS = 4 };

static struct vd_toy_model *model;
static struct vd_toy_job *job;
static struct vd_trace *honest;

static int setup(void **state)
{
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    const struct vd_sampling warm = {.temp_micro = 800000, .top_k = 50, .top_p_micro = 950000, .seed = 3};
    model = toy_model_new(&p, 1, 0.1f);
    job = toy_job_new(model, PROMPT, TOKENS, &warm);
    honest = toy_trace(job);
    return 0;
}

static int teardown(void **state)
{
    vd_trace_destroy(honest);
    toy_job_free(job);
    toy_model_free(model);
    return 0;
}

static void equal_runs(void **state)
{
    struct vd_diff d;
    struct vd_trace *again = toy_trace(job);
    assert_int_equal(vd_diff_find(honest, again, &d, NULL), VD_OK);
    assert_false(d.differ);
    vd_trace_destroy(again);
}

static void expect(uint32_t step, uint32_t unit, uint32_t op, uint64_t record)
{
    struct vd_diff d;
    struct vd_graph_op what;
    char text[2][VD_DIFF_VALUE_TEXT_MAX];
    struct vd_toy_job *other = toy_job_copy(job, step);
    vd_graph_op(&job->graph, step, unit, op, &what);
    other->lie = (struct vd_toy_lie){true, step, unit, op, record, what.record_bytes};
    struct vd_trace *t = toy_trace(other);
    assert_int_equal(vd_diff_find(honest, t, &d, NULL), VD_OK);
    assert_true(d.differ && !d.foreign[0] && !d.foreign[1]);
    assert_int_equal(d.step, step);
    assert_int_equal(d.unit, unit);
    assert_int_equal(d.op, op);
    assert_int_equal(d.what.kind, what.kind);
    assert_int_equal(d.record, record);
    assert_int_equal(d.offset, 0);
    const uint8_t *at = honest->u.records[op] + record * what.record_bytes;
    assert_memory_equal(d.value[0], at, d.n_value_bytes);
    assert_memory_equal(d.value[1], t->u.records[op] + record * what.record_bytes, d.n_value_bytes);
    vd_diff_value_text(&d, 0, text[0]);
    vd_diff_value_text(&d, 1, text[1]);
    assert_string_not_equal(text[0], text[1]);
    vd_trace_destroy(t);
    toy_job_free(other);
}

static void every_operator(void **state)
{
    uint32_t last = job->graph.job.n_steps - 1;
    const uint32_t at[][2] = {{0, 0}, {2, 1}, {last, 2}, {last, 3}};
    struct vd_rng rng = {1, 0};
    for (unsigned i = 0; i < sizeof at / sizeof at[0]; i++)
        for (uint32_t o = 0; o < vd_graph_ops(&job->graph, at[i][0], at[i][1]); o++) {
            struct vd_graph_op op;
            vd_graph_op(&job->graph, at[i][0], at[i][1], o, &op);
            if (op.n_records)
                expect(at[i][0], at[i][1], o, vd_rng_below(&rng, op.n_records));
        }
}

/* ---- an engine whose rows are not its operators' ---- */

struct bent {
    const struct vd_trace_sink *sink;
    uint32_t step, unit;
    float x[VD_PROGRAM_WIDTH_MAX];
    uint8_t v[65536];
};

static struct bent bent;

static void bend(void *arg, uint32_t step, uint32_t unit, const struct vd_graph_rows *told)
{
    struct vd_graph_rows rows = *told;
    uint32_t width = model->program.width, n_v = model->program.n_kv_heads * (4 + model->program.head_dim);
    (void)arg;
    if (step == bent.step && unit == bent.unit) {
        if (rows.x) {
            memcpy(bent.x, rows.x, width * sizeof *rows.x);
            bent.x[5] += 1.0f;
            rows.x = bent.x;
        } else {
            memcpy(bent.v, rows.v, n_v);
            bent.v[4 + model->program.head_dim + 4 + 3] ^= 1; /* of head 1: lane 3 */
            rows.v = bent.v;
        }
    }
    bent.sink->row(bent.sink->arg, step, unit, &rows);
}

static void pass_token(void *arg, uint32_t step, uint32_t token, enum vd_stop stop)
{
    (void)arg;
    bent.sink->token(bent.sink->arg, step, token, stop);
}

static enum vd_err run_bent(void *arg, uint32_t n_steps, const struct vd_trace_sink *sink,
                            struct vd_error *err)
{
    struct vd_trace_sink mine = {NULL, bend, pass_token, NULL, NULL};
    bent.sink = sink;
    return toy_run(arg, n_steps, &mine, err);
}

static void expect_bent(uint32_t step, uint32_t unit, enum vd_op kind, uint64_t record, uint32_t offset)
{
    struct vd_trace_source source = toy_source(job);
    struct vd_trace *t;
    struct vd_diff d;
    bent.step = step;
    bent.unit = unit;
    source.run = run_bent;
    assert_int_equal(vd_trace_create(&t, &job->graph, job->prompt, job->output, job->job_salt, &source, NULL),
                     VD_OK);
    assert_int_equal(vd_diff_find(honest, t, &d, NULL), VD_OK);
    assert_true(d.differ && !d.foreign[0] && d.foreign[1]);
    assert_int_equal(d.step, step);
    assert_int_equal(d.unit, unit);
    assert_int_equal(d.what.kind, kind);
    assert_int_equal(d.record, record);
    assert_int_equal(d.offset, offset);
    vd_trace_destroy(t);
}

static void a_kernel_that_computes_something_else(void **state)
{
    uint32_t last = job->graph.job.n_steps - 1, blocks = model->program.n_layers;
    expect_bent(3, 0, VD_OP_EMBED, 5, 0);
    expect_bent(last, blocks, VD_OP_ADD, 5, 0);
    expect_bent(2, blocks, VD_OP_VROW, 1, 4 + 3); /* a last block without X */
}

static void other_sizes(void **state)
{
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    struct vd_graph g = job->graph;
    struct vd_trace other = *honest;
    struct vd_diff d;
    p.width += 32;
    g.program = &p;
    other.graph = g;
    assert_int_equal(vd_diff_find(honest, &other, &d, NULL), VD_EUSE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_runs),
        cmocka_unit_test(every_operator),
        cmocka_unit_test(a_kernel_that_computes_something_else),
        cmocka_unit_test(other_sizes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
