/* What is not an operator: whether receipt, commit tree and state tree say the same (BIND), at every step and
 * at each way in which a job can end. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "vd_dispute_kit.h"

/* ---- BIND ---- */

/* What opens it does so to the byte, and under this state root only. */
static void binds_exactly(struct fixture *f, uint32_t step)
{
    static uint8_t opening[VD_OPENING_MAX_BYTES + 1];
    struct vd_hash root = f->trace->state_root;
    size_t n;
    assert_int_equal(vd_opening_bind(f->trace, step, opening, VD_OPENING_MAX_BYTES, &n, NULL), VD_OK);
    assert_true(vd_referee_bind(&f->claim, &root, step, (struct vd_bytes){opening, n}));
    assert_false(vd_referee_bind(&f->claim, &root, step, (struct vd_bytes){opening, n - 1}));
    assert_false(vd_referee_bind(&f->claim, &root, step, (struct vd_bytes){opening, n + 1}));
    root.b[31] ^= 1;
    assert_false(vd_referee_bind(&f->claim, &root, step, (struct vd_bytes){opening, n}));
}

static void honest_receipt_binds_everywhere(void **state)
{
    struct fixture f = fixture_new(&both, VD_ROPE_ADJACENT);
    for (uint32_t s = 0; s < f.job->graph.job.n_steps; s++)
        assert_int_equal(bind_at(&f, &f.claim, s), VD_GAME_CHALLENGER_BIND);
    binds_exactly(&f, 0);
    binds_exactly(&f, f.job->graph.job.n_steps - 1);
    fixture_free(&f);
}

static void lying_tokens(void **state)
{
    struct fixture f = fixture_shared();
    struct vd_toy_job *liar = toy_job_copy(f.job, PROMPT);
    liar->output[1] ^= 1; /* chosen at step PROMPT, fed at PROMPT + 1 */
    struct vd_trace *t = toy_trace(liar);
    struct vd_ref_claim claim = toy_claim(liar, t);
    expect_unbound(&f, &claim, t, PROMPT);
    vd_trace_destroy(t);
    toy_job_free(liar);
}

static void lying_ends(void **state)
{
    struct fixture f = fixture_shared();
    uint32_t last = f.job->graph.job.n_steps - 1;
    struct vd_ref_claim claim = f.claim;
    assert_int_equal(f.claim.finish, VD_FINISH_LENGTH);
    claim.finish = VD_FINISH_STOP;
    expect_unbound(&f, &claim, f.trace, last);
    claim.finish = VD_FINISH_CANCELLED; /* it was not: it ended by itself */
    expect_unbound(&f, &claim, f.trace, last);
    claim.finish = VD_FINISH_FAIL;
    expect_unbound(&f, &claim, f.trace, last);
}

/* The first of the output's tokens is a stop token, and the worker went on. */
static void tokens_after_the_end(void **state)
{
    struct fixture f = fixture_new(&greedy, VD_ROPE_ADJACENT);
    f.model->program.stop[f.model->program.n_stop++] = f.job->output[1];
    toy_hash(f.model);
    struct vd_toy_job *liar = toy_job_copy(f.job, PROMPT - 1);
    struct vd_trace *t = toy_trace(liar);
    struct vd_ref_claim claim = toy_claim(liar, t);
    expect_unbound(&f, &claim, t, f.job->output[0] == f.job->output[1] ? PROMPT - 1 : PROMPT);
    vd_trace_destroy(t);
    toy_job_free(liar);
    fixture_free(&f);
}

/* A cancelled answer: fewer tokens than the model would give, no stop. */
static void cancelled(void **state)
{
    struct fixture f = fixture_shared();
    struct vd_toy_job *j = toy_job_copy(f.job, PROMPT + 1);
    j->graph.job.n_output = 2;
    j->graph.job.n_steps = PROMPT + 1;
    j->finish = VD_FINISH_CANCELLED;
    struct vd_trace *t = toy_trace(j);
    struct fixture g = {f.model, j, t, toy_claim(j, t)};
    for (uint32_t s = 0; s <= PROMPT; s++)
        assert_int_equal(bind_at(&g, &g.claim, s), VD_GAME_CHALLENGER_BIND);
    struct vd_ref_claim claim = g.claim;
    claim.finish = VD_FINISH_LENGTH;
    expect_unbound(&g, &claim, t, PROMPT);
    vd_trace_destroy(t);
    toy_job_free(j);
}

/* A commit root that belongs to another trace: found by the descent in the commit tree. */
static void lying_commit_root(void **state)
{
    struct fixture f = fixture_shared();
    struct vd_hash leaf = f.trace->commit[3];
    struct match m;
    struct vd_ref_claim claim = f.claim;
    struct vd_trace liar = *f.trace;
    liar.commit = malloc(f.job->graph.job.n_steps * sizeof leaf);
    memcpy(liar.commit, f.trace->commit, f.job->graph.job.n_steps * sizeof leaf);
    liar.commit[3].b[0] ^= 1;
    claim.commit_root = vd_merkle_root(liar.commit, f.job->graph.job.n_steps);
    liar.u = (struct vd_trace_unit_data){0};
    assert_int_equal(play(&m, &claim, &liar, f.trace), VD_OK);
    assert_int_equal(m.result, VD_GAME_REJECT_OPENING);
    assert_int_equal(m.game.phase, VD_PHASE_W_BIND_OPEN);
    assert_int_equal(m.game.step, 3);
    free(liar.commit);
}

/* ---- FAIL ---- */

static void failed_job(void **state)
{
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    static const struct vd_sampling *const all[] = {&greedy, &both};
    for (unsigned i = 0; i < 2; i++) {
        struct vd_toy_model *model = toy_model_new(&p, 2, 0.1f);
        for (uint32_t e = 0; e < p.width; e++) /* finite weights, logits that are not */
            vd_le32_store(model->weights[vd_program_norm_tensor(&p)] + 4 * e, vd_f32_bits(3e38f));
        toy_hash(model);
        struct vd_toy_job *job = toy_job_new(model, 5, 8, all[i]);
        struct vd_trace *t = toy_trace(job);
        struct fixture f = {model, job, t, toy_claim(job, t)};
        assert_int_equal(job->finish, VD_FINISH_FAIL);
        assert_int_equal(job->graph.job.n_output, 0);
        assert_true(vd_graph_valid(&job->graph));
        for (uint32_t s = 0; s < 5; s++)
            assert_int_equal(bind_at(&f, &f.claim, s), VD_GAME_CHALLENGER_BIND);
        false_challenges_in(&f, 4, 3);
        lie_everywhere(&f, 4, 3);
        fixture_free(&f);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(honest_receipt_binds_everywhere),
        cmocka_unit_test(lying_tokens),
        cmocka_unit_test(lying_ends),
        cmocka_unit_test(tokens_after_the_end),
        cmocka_unit_test(cancelled),
        cmocka_unit_test(lying_commit_root),
        cmocka_unit_test(failed_job),
    };
    RUN_DISPUTE_TESTS(tests);
}
