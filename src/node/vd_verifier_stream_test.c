/* Streams that a gateway passes on to a verifier: which are right, which are wrong, and which say nothing. */
#include "vd_test_roles.h"

enum { N = 20 }; /* tokens of the answer */

/* What a gateway passes on to a follower, of the job that was asked last. */
struct passed {
    uint32_t n_resume, n_tokens, from; /* TOKENs: of from .. n_tokens - 1 */
    bool other_root, cancels;          /* else the receipt, or one with another commit root */
    bool nothing_more;                 /* neither */
};

static void pass_on(struct fixture *f, const struct passed *p)
{
    struct vd_link *l = f->verifier_link;
    struct vd_wire_job m = {.request = {f->request, f->n_request},
                            .prompt = {f->prompt, PROMPT},
                            .resume = {f->a.tokens, p->n_resume}};
    memcpy(m.salt.b, f->salt, VD_SALT_BYTES);
    SEND(l, VD_WIRE_JOB, vd_wire_put_job, &m, 1 << 16);
    struct vd_wire_token t = {
        .job = f->a.job, .index = p->from, .ids = {f->a.tokens + p->from, p->n_tokens - p->from}};
    if (t.ids.n)
        SEND(l, VD_WIRE_TOKEN, vd_wire_put_token, &t, 4096);
    uint8_t body[VD_RECEIPT_MAX_BYTES];
    struct vd_receipt r = read_receipt(&f->a.signed_receipt);
    r.commit_root.b[0] ^= p->other_root;
    struct vd_wire_receipt x = {.job = f->a.job, .receipt = {body, vd_receipt_encode(&r, body, sizeof body)}};
    struct vd_wire_cancel c = {.job = f->a.job};
    if (p->cancels)
        SEND(l, VD_WIRE_CANCEL, vd_wire_put_cancel, &c, 64);
    else if (!p->nothing_more)
        SEND(l, VD_WIRE_RECEIPT, vd_wire_put_receipt, &x, 2048);
}

static uint64_t n_judged(const struct vd_verifier_stats *v)
{
    return v->n_streams_right + v->n_streams_wrong + v->n_streams_cut;
}

/* right, wrong, cut: how many more of each there are once the stream is over. */
static void expect_followed(struct fixture *f, struct passed p, unsigned right, unsigned wrong, unsigned cut)
{
    struct vd_verifier_stats before = counts_of(f).v;
    f->a.refused = false;
    pass_on(f, &p);
    AWAIT(f, n_judged(&is.v) > n_judged(&before));
    struct vd_verifier_stats after = counts_of(f).v;
    assert_int_equal(after.n_streams_right - before.n_streams_right, right);
    assert_int_equal(after.n_streams_wrong - before.n_streams_wrong, wrong);
    assert_int_equal(after.n_streams_cut - before.n_streams_cut, cut);
    if (wrong)
        AWAIT(f, f->a.refused && f->a.code == VD_REFUSE_WRONG);
}

/* The answer that is passed on, and who follows. */
static int setup_follower(void **state)
{
    int rc = setup(state);
    struct fixture *f = *state;
    start_worker(f);
    start_verifier(f);
    a_receipt(f, N);
    assert_int_equal(f->a.n_tokens, N);
    return rc;
}

static void what_is_passed_on_is_followed(void **state)
{
    struct fixture *f = *state;
    expect_followed(f, (struct passed){.n_tokens = N}, 1, 0, 0);
    expect_followed(f, (struct passed){.n_tokens = N, .n_resume = 8, .from = 8}, 1, 0, 0);
    expect_followed(f, (struct passed){.n_tokens = N, .other_root = true}, 0, 1, 0);
    expect_followed(f, (struct passed){.n_tokens = 10, .cancels = true}, 0, 0, 1);
    expect_followed(f, (struct passed){.n_tokens = N, .n_resume = 8, .from = 9}, 0, 0, 1); /* a gap */
    expect_followed(f, (struct passed){.n_tokens = N + 1}, 0, 0, 1); /* more than were asked for */
    expect_followed(f, (struct passed){.n_tokens = 10}, 0, 0, 1);    /* a receipt of others */
    f->a.tokens[3] ^= 1; /* an earlier worker's, which this one has not gone on from */
    expect_followed(f, (struct passed){.n_tokens = 8, .n_resume = 8, .from = 8, .cancels = true}, 0, 0, 1);
}

static void places_become_free(void **state)
{
    for (unsigned i = 0; i <= VD_FOLLOW_STREAMS_MAX; i++) {
        expect_followed(*state, (struct passed){.n_tokens = N}, 1, 0, 0);
        expect_followed(*state, (struct passed){.n_tokens = N, .n_resume = 8, .from = 9}, 0, 0, 1);
    }
}

/* Which is one stream each time, though the verdict about the one before has not fallen. */
static void a_job_may_come_again(void **state)
{
    enum { AT_ONCE = 8 };
    struct fixture *f = *state;
    for (unsigned i = 0; i < AT_ONCE; i++)
        pass_on(f, &(struct passed){.n_tokens = N});
    AWAIT(f, n_judged(&is.v) == AT_ONCE);
    assert_int_equal(counts_of(f).v.n_streams_right, AT_ONCE);
}

static void a_link_that_ends_cuts_its_streams_off(void **state)
{
    struct fixture *f = *state;
    pass_on(f, &(struct passed){.n_tokens = 4, .nothing_more = true});
    AWAIT(f, is.v.n_streams == 1);
    vd_link_close(f->verifier_link, VD_OK, "");
    AWAIT(f, is.v.n_streams_cut == 1);
    AWAIT(f, is.v.n_links == 1);
}

#define F(name) cmocka_unit_test_setup_teardown(name, setup_follower, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        F(what_is_passed_on_is_followed),
        F(places_become_free),
        F(a_job_may_come_again),
        F(a_link_that_ends_cuts_its_streams_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
