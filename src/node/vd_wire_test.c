/* Each message survives put and get; limits are refused on both sides. Given a folder, writes one frame of
 * each type there: the seeds of tests/corpus/vd_wire_fuzz. */
#include "vd_wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

static uint8_t buf[VD_WIRE_BODY_MAX];
static uint32_t token_memory[1 << 16];
static const char *corpus_dir;

static struct vd_bytes text(const char *s)
{
    return (struct vd_bytes){(const uint8_t *)s, strlen(s)};
}

static struct vd_hash hash(uint8_t fill)
{
    struct vd_hash h;
    memset(h.b, fill, sizeof h.b);
    return h;
}

static void save(unsigned type, const char *name, struct vd_bytes body)
{
    char path[4096];
    if (!corpus_dir)
        return;
    snprintf(path, sizeof path, "%s/%s", corpus_dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fputc((int)type, f), (int)type);
    assert_int_equal(fwrite(body.p, 1, body.n, f), body.n);
    fclose(f);
}

static bool same(struct vd_bytes a, struct vd_bytes b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* put, get, put again: equal bytes; every shorter body that decodes must not encode to the longer one. */
#define ROUND_TRIP(type, TYPE, m, got, get_call)                                                             \
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);                                              \
    assert_true(vd_wire_put_##type(&w, &m));                                                                 \
    struct vd_bytes body = {buf, w.n_bytes};                                                                 \
    save(TYPE, #type, body);                                                                                 \
    assert_true(get_call);                                                                                   \
    do {                                                                                                     \
        static uint8_t again[1 << 16];                                                                       \
        struct vd_pb_writer w2 = vd_pb_writer_init(again, sizeof again);                                     \
        assert_true(vd_wire_put_##type(&w2, &got));                                                          \
        assert_true(same(body, (struct vd_bytes){again, w2.n_bytes}));                                       \
        struct vd_pb_writer w3 = vd_pb_writer_init(again, body.n ? body.n - 1 : 0);                          \
        assert_true(body.n == 0 || !vd_wire_put_##type(&w3, &got));                                          \
    } while (0)

static void test_hello(void **state)
{
    static struct vd_wire_hello m, got;
    m = (struct vd_wire_hello){.role = VD_ROLE_WORKER,
                               .software = text("veridem 0.1.0"),
                               .arithmetic = 1,
                               .genesis = hash(7),
                               .height = 99,
                               .n_offers = VD_WIRE_OFFERS_MAX};
    for (size_t i = 0; i < m.n_offers; i++)
        m.offer[i] = (struct vd_wire_offer){hash((uint8_t)i), 4, {100}, {300}, 2048};
    ROUND_TRIP(hello, VD_WIRE_HELLO, m, got, vd_wire_get_hello(&got, body));
    assert_int_equal(got.n_offers, VD_WIRE_OFFERS_MAX);
    assert_int_equal(got.offer[5].price_out.micro, 300);
    assert_int_equal(got.offer[5].context_tok, 2048);
    assert_true(same(got.software, m.software));
    m.software = text("two\nlines");
    w = vd_pb_writer_init(buf, sizeof buf);
    assert_false(vd_wire_put_hello(&w, &m));
    m.software = text("x");
    m.role = (enum vd_wire_role)9;
    w = vd_pb_writer_init(buf, sizeof buf);
    assert_false(vd_wire_put_hello(&w, &m));
}

static void test_job(void **state)
{
    uint32_t prompt[] = {1, 0, 4294967295u, 49151}, resume[] = {5};
    uint8_t request[VD_REQUEST_MAX_BYTES + 1] = {1, 2, 3};
    struct vd_wire_job m = {.request = {request, VD_REQUEST_MAX_BYTES},
                            .salt = hash(3),
                            .prompt = {prompt, 4},
                            .resume = {resume, 1},
                            .account = hash(6)};
    struct vd_wire_job got;
    memset(m.request_sig.b, 9, sizeof m.request_sig.b);
    struct vd_arena arena = vd_arena_init(token_memory, sizeof token_memory);
    ROUND_TRIP(job, VD_WIRE_JOB, m, got, vd_wire_get_job(&got, body, &arena));
    assert_int_equal(got.prompt.n, 4);
    assert_memory_equal(got.prompt.v, prompt, sizeof prompt);
    assert_int_equal(got.resume.n, 1);
    assert_int_equal(got.resume.v[0], 5);
    assert_true(vd_hash_eq(&got.account, &m.account));
    assert_int_equal(arena.used_bytes, 5 * 4);
    struct vd_arena small = vd_arena_init(token_memory, 8);
    assert_false(vd_wire_get_job(&got, body, &small));
    m.request.n++;
    w = vd_pb_writer_init(buf, sizeof buf);
    assert_false(vd_wire_put_job(&w, &m));
}

static void test_token(void **state)
{
    uint32_t ids[] = {17, 18};
    uint8_t logprobs[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    struct vd_wire_token m = {hash(1), 12, {ids, 2}, {logprobs, sizeof logprobs}}, got;
    struct vd_arena arena = vd_arena_init(token_memory, sizeof token_memory);
    ROUND_TRIP(token, VD_WIRE_TOKEN, m, got, vd_wire_get_token(&got, body, &arena));
    assert_int_equal(got.index, 12);
    assert_int_equal(got.ids.v[1], 18);
    assert_int_equal(got.logprobs.n, sizeof logprobs);
}

static void test_receipt_accept_cancel(void **state)
{
    {
        struct vd_wire_receipt m = {hash(1), text("receipt bytes"), {{5}}}, got;
        ROUND_TRIP(receipt, VD_WIRE_RECEIPT, m, got, vd_wire_get_receipt(&got, body));
        assert_true(same(got.receipt, m.receipt));
    }
    {
        struct vd_wire_accept m = {hash(1), hash(2), {{5}}}, got;
        ROUND_TRIP(accept, VD_WIRE_ACCEPT, m, got, vd_wire_get_accept(&got, body));
        assert_true(vd_hash_eq(&got.receipt_id, &m.receipt_id));
    }
    {
        struct vd_wire_prefix m = {hash(1), text("statement bytes"), {{5}}}, got;
        ROUND_TRIP(prefix, VD_WIRE_PREFIX, m, got, vd_wire_get_prefix(&got, body));
        assert_true(same(got.statement, m.statement));
    }
    struct vd_wire_cancel m = {hash(1)}, got;
    ROUND_TRIP(cancel, VD_WIRE_CANCEL, m, got, vd_wire_get_cancel(&got, body));
}

static void test_refuse(void **state)
{
    struct vd_wire_refuse m = {hash(4), VD_REFUSE_BUSY, text("4 of 4 jobs")}, got;
    ROUND_TRIP(refuse, VD_WIRE_REFUSE, m, got, vd_wire_get_refuse(&got, body));
    assert_int_equal(got.code, VD_REFUSE_BUSY);
    assert_true(vd_wire_refuse_retry(VD_REFUSE_BUSY));
    assert_false(vd_wire_refuse_retry(VD_REFUSE_NOT_FOUND));
    m.code = (enum vd_wire_refuse_code)99;
    w = vd_pb_writer_init(buf, sizeof buf);
    assert_true(vd_wire_put_refuse(&w, &m));
    assert_false(vd_wire_get_refuse(&got, (struct vd_bytes){buf, w.n_bytes}));
}

static void test_audit(void **state)
{
    {
        struct vd_wire_audit_get m = {hash(8)}, got;
        ROUND_TRIP(audit_get, VD_WIRE_AUDIT_GET, m, got, vd_wire_get_audit_get(&got, body));
    }
    struct vd_wire_audit_data m = {hash(8), text("an envelope")}, got;
    ROUND_TRIP(audit_data, VD_WIRE_AUDIT_DATA, m, got, vd_wire_get_audit_data(&got, body));
    assert_true(same(got.envelope, m.envelope));
}

static void test_submit_result(void **state)
{
    {
        struct vd_wire_submit m = {77, text("signed transaction")}, got;
        ROUND_TRIP(submit, VD_WIRE_SUBMIT, m, got, vd_wire_get_submit(&got, body));
        assert_int_equal(got.tag, 77);
        m.tx.n = VD_WIRE_TX_MAX + 1;
        w = vd_pb_writer_init(buf, sizeof buf);
        w.cap_bytes = 16; /* the bytes are not there: only the limit may speak */
        assert_false(vd_wire_put_submit(&w, &m));
    }
    struct vd_wire_result m = {77, hash(2), 5, 1000, text("the nonce is not the sender's next one")}, got;
    ROUND_TRIP(result, VD_WIRE_RESULT, m, got, vd_wire_get_result(&got, body));
    assert_int_equal(got.code, 5);
    assert_int_equal(got.height, 1000);
}

static void test_query_value(void **state)
{
    {
        struct vd_wire_query m = {1, VD_QUERY_LIST_PREFIX, text("o"), text("ok"), 10}, got;
        ROUND_TRIP(query, VD_WIRE_QUERY, m, got, vd_wire_get_query(&got, body));
        assert_int_equal(got.limit, 10);
        assert_true(same(got.after, m.after));
    }
    static struct vd_wire_value m, got;
    m = (struct vd_wire_value){
        .tag = 1, .height = 4, .n_items = 3, .item = {text("a"), text(""), text("ccc")}};
    ROUND_TRIP(value, VD_WIRE_VALUE, m, got, vd_wire_get_value(&got, body));
    assert_int_equal(got.n_items, 3);
    assert_int_equal(got.item[1].n, 0);
    m.n_items = VD_WIRE_ITEMS_MAX + 1;
    w = vd_pb_writer_init(buf, sizeof buf);
    assert_false(vd_wire_put_value(&w, &m));
}

static void test_too_many_items(void **state)
{
    static struct vd_wire_value got;
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    for (int i = 0; i < VD_WIRE_ITEMS_MAX; i++)
        vd_pb_put_elem(&w, 4, "x", 1);
    assert_true(vd_wire_get_value(&got, (struct vd_bytes){buf, w.n_bytes}));
    vd_pb_put_elem(&w, 4, "x", 1);
    assert_false(vd_wire_get_value(&got, (struct vd_bytes){buf, w.n_bytes}));
}

static void test_subscribe_block(void **state)
{
    {
        struct vd_wire_subscribe m = {12}, got;
        ROUND_TRIP(subscribe, VD_WIRE_SUBSCRIBE, m, got, vd_wire_get_subscribe(&got, body));
        assert_int_equal(got.from_height, 12);
    }
    static struct vd_wire_block m, got;
    m = (struct vd_wire_block){.height = 5,
                               .time_ms = 6,
                               .hash = hash(1),
                               .more = 1,
                               .n_events = 2,
                               .event = {text("e"), text("f")}};
    ROUND_TRIP(block, VD_WIRE_BLOCK, m, got, vd_wire_get_block(&got, body));
    assert_int_equal(got.n_events, 2);
    assert_int_equal(got.more, 1);
}

static void test_bye_ping(void **state)
{
    {
        struct vd_wire_bye m = {VD_EVERSION, text("speaks veridem/2")}, got;
        ROUND_TRIP(bye, VD_WIRE_BYE, m, got, vd_wire_get_bye(&got, body));
        assert_int_equal(got.code, VD_EVERSION);
    }
    struct vd_wire_ping m = {UINT64_MAX}, got;
    ROUND_TRIP(ping, VD_WIRE_PING, m, got, vd_wire_get_ping(&got, body));
    assert_true(got.nonce == UINT64_MAX);
    assert_true(vd_wire_get_ping(&got, (struct vd_bytes){NULL, 0}));
    assert_int_equal(got.nonce, 0);
}

int main(int argc, char **argv)
{
    corpus_dir = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),          cmocka_unit_test(test_job),
        cmocka_unit_test(test_token),          cmocka_unit_test(test_receipt_accept_cancel),
        cmocka_unit_test(test_refuse),         cmocka_unit_test(test_audit),
        cmocka_unit_test(test_submit_result),  cmocka_unit_test(test_query_value),
        cmocka_unit_test(test_too_many_items), cmocka_unit_test(test_subscribe_block),
        cmocka_unit_test(test_bye_ping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
