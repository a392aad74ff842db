/* Who gets an answer's data from the gateway: verifiers, and who has challenged its receipt. */
#include "vd_test_gateway.h"

/* Who asks for data over a link. */
struct audit {
    pthread_mutex_t mu;
    pthread_cond_t changed;
    unsigned type; /* of its answer; 0: none yet */
};

static void audit_frame(void *arg, struct vd_link *l, unsigned type, struct vd_bytes body)
{
    struct audit *a = arg;
    (void)l;
    pthread_mutex_lock(&a->mu);
    if (type != VD_WIRE_HELLO)
        a->type = type;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->mu);
}

static unsigned audit_get(struct vd_link *l, struct audit *a, const struct vd_hash *id)
{
    uint8_t buf[64];
    struct vd_wire_audit_get m = {*id};
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    vd_wire_put_audit_get(&w, &m);
    pthread_mutex_lock(&a->mu);
    a->type = 0;
    vd_link_send(l, VD_WIRE_AUDIT_GET, buf, w.n_bytes, NULL);
    while (!a->type)
        pthread_cond_wait(&a->changed, &a->mu);
    unsigned type = a->type;
    pthread_mutex_unlock(&a->mu);
    return type;
}

static struct vd_link *audit_link(struct audit *a, int who, enum vd_wire_role role)
{
    struct vd_link_config c = {.key = &t.key[who], .cb = {.arg = a, .on_frame = audit_frame}};
    pthread_mutex_init(&a->mu, NULL);
    pthread_cond_init(&a->changed, NULL);
    return link_to_gateway(&c, role, NULL);
}

/* A verifier's link gets envelopes, a stranger's does not, and unknown ids are refused. */
static void test_audits(void **state)
{
    struct audit a = {.type = 0}, b = {.type = 0};
    struct reply r = post(CHAT, ASK("Audit me.", ",\"max_tokens\":4"));
    struct vd_hash id, unknown = {{1}};
    assert_true(vd_hex_decode(id.b, 32, r.receipt));
    free(r.body);
    struct vd_link *l = audit_link(&a, WORKER_B, VD_ROLE_VERIFIER),
                   *m = audit_link(&b, FOLLOWER, VD_ROLE_CLIENT);
    assert_int_equal(audit_get(l, &a, &id), VD_WIRE_AUDIT_DATA);
    assert_int_equal(audit_get(l, &a, &unknown), VD_WIRE_REFUSE);
    assert_int_equal(audit_get(m, &b, &id), VD_WIRE_REFUSE);
    vd_link_finish(m);
    vd_link_finish(l);
}

/* n disputes about the receipt; false if its window has passed meanwhile. */
static bool challenge(struct vd_ledger_client *c, const struct vd_hash *receipt_id, size_t n)
{
    struct vd_tx tx[VD_LEDGER_SEND_MAX];
    struct vd_ledger_sending s[VD_LEDGER_SEND_MAX];
    bool all = true;
    for (size_t i = 0; i < n; i++) {
        tx[i] = (struct vd_tx){.kind = VD_TX_CHALLENGE, .u.challenge.receipt_id = *receipt_id};
        s[i] = (struct vd_ledger_sending){.tx = &tx[i]};
    }
    vd_ledger_client_send_all(c, s, n, WAIT_MS);
    for (size_t i = 0; i < n; i++)
        all &= s[i].result == VD_OK;
    return all;
}

/* Who challenged a receipt gets its data, though it has no stake and many others challenged it too. */
static void test_a_challenger_gets_the_data(void **state)
{
    enum { OTHERS = 24, TRIES = 10 };
    struct vd_ledger_client *mine = client_of(FOLLOWER), *others = client_of(LEDGER);
    struct audit a = {.type = 0};
    struct vd_link *l = audit_link(&a, FOLLOWER, VD_ROLE_CLIENT);
    struct vd_hash id;
    bool open = false;
    for (int i = 0; !open && i < TRIES; i++) {
        struct vd_receipt_record record;
        struct reply r = post(CHAT, ASK("Challenge me.", ",\"max_tokens\":2"));
        assert_true(vd_hex_decode(id.b, 32, r.receipt));
        free(r.body);
        uint64_t until = vd_clock_ms() + WAIT_MS;
        while (vd_ledger_client_receipt(others, &id, &record, NULL) != VD_OK && vd_clock_ms() < until)
            vd_clock_sleep_ms(5);
        open = challenge(others, &id, OTHERS);
        assert_int_equal(audit_get(l, &a, &id), VD_WIRE_REFUSE);
        open = open && challenge(mine, &id, 1);
    }
    assert_true(open);
    assert_int_equal(audit_get(l, &a, &id), VD_WIRE_AUDIT_DATA);
    vd_link_finish(l);
    vd_ledger_client_stop(mine);
    vd_ledger_client_stop(others);
}

int main(void)
{
    if (!model_is_there())
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_audits),
        cmocka_unit_test(test_a_challenger_gets_the_data),
    };
    return cmocka_run_group_tests(tests, network_up, network_down);
}
