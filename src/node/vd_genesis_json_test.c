/* A genesis survives the round trip, its hash does not depend on layout or order, and what is wrong is named.
 */
#include "vd_genesis_json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#define KEY_A "0100000000000000000000000000000000000000000000000000000000000000"
#define KEY_B "0200000000000000000000000000000000000000000000000000000000000000"
#define HEAD                                                                                                 \
    "{\"network\":\"home\",\"time_ms\":1767225600000,\"block_time_ms\":250,\"audit_rate_ppm\":20000,"        \
    "\"audit_window_blocks\":240,\"move_clock_blocks\":40,\"steps_per_block\":2,\"unbonding_blocks\":2400,"  \
    "\"request_validity_blocks\":1200,\"min_stake_micro\":100000000,\"challenge_bond_micro\":1000000,"       \
    "\"max_receipt_micro\":1000000,\"slash_micro\":100000000,\"challenger_share_ppm\":400000,\"worker_"      \
    "share_ppm\":950000,"                                                                                    \
    "\"history_blocks\":0,\"gateway_share_ppm\":40000,\"treasury_share_ppm\":10000,\"treasury\":\"" KEY_A    \
    "\","
#define ACCOUNT(key) "{\"key\":\"" key "\",\"balance_micro\":5000000}"

static enum vd_err parse(struct vd_genesis_file *f, const char *text, struct vd_error *err)
{
    return vd_genesis_json_parse(f, text, strlen(text), "genesis.json", err);
}

static void test_round_trip(void **state)
{
    struct vd_genesis_file f, g;
    struct vd_hash a, b;
    struct vd_error err;
    if (parse(&f, HEAD "\"accounts\":[" ACCOUNT(KEY_B) "," ACCOUNT(KEY_A) "]}", &err) != VD_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(f.genesis.n_accounts, 2);
    assert_int_equal(f.genesis.account[0].key.b[0], 1);
    assert_int_equal(f.genesis.block_time_ms, 250);
    assert_int_equal(f.genesis.slash.micro, 100000000);
    char *text = vd_genesis_json_format(&f.genesis);
    assert_non_null(text);
    assert_int_equal(parse(&g, text, &err), VD_OK);
    free(text);
    assert_int_equal(vd_genesis_network_hash(&f.genesis, &a, NULL), VD_OK);
    assert_int_equal(vd_genesis_network_hash(&g.genesis, &b, NULL), VD_OK);
    assert_true(vd_hash_eq(&a, &b));
    vd_genesis_file_free(&g);

    char path[] = "/tmp/vd_genesis_test.XXXXXX";
    close(mkstemp(path));
    assert_int_equal(vd_genesis_json_save(&f.genesis, path, &err), VD_OK);
    assert_int_equal(vd_genesis_json_load(&g, path, &err), VD_OK);
    unlink(path);
    uint8_t bytes[4096];
    size_t n = vd_genesis_encode(&g.genesis, bytes, sizeof bytes);
    vd_genesis_file_free(&g);
    assert_int_equal(vd_genesis_file_decode(&g, (struct vd_bytes){bytes, n}, &err), VD_OK);
    assert_int_equal(vd_genesis_network_hash(&g.genesis, &b, NULL), VD_OK);
    assert_true(vd_hash_eq(&a, &b));
    vd_genesis_file_free(&g);
    vd_genesis_file_free(&f);
}

static void test_what_is_wrong(void **state)
{
    static const struct {
        const char *text, *names;
    } bad[] = {
        {"", "line 1"},
        {"[]", "JSON object"},
        {"{\"network\":\"a\",\"network\":\"b\"}", "duplicate"},
        {HEAD "\"accounts\":[]}", "accounts"},
        {HEAD "\"accounts\":[{\"key\":\"00\",\"balance_micro\":1}]}", "\"key\""},
        {HEAD "\"accounts\":[{\"key\":\"" KEY_A "\",\"balance_micro\":-1}]}", "balance_micro"},
        {HEAD "\"accounts\":[{\"key\":\"" KEY_A "\",\"balance_micro\":1.5}]}", "balance_micro"},
        {HEAD "\"accounts\":[" ACCOUNT(KEY_A) "],\"colour\":1}", "fields that"},
        {HEAD "\"accounts\":[" ACCOUNT(KEY_A) "," ACCOUNT(KEY_A) "]}", ""},
        {"{\"network\":\"home\"}", "time_ms"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct vd_genesis_file f;
        struct vd_error err;
        assert_int_equal(parse(&f, bad[i].text, &err), VD_EFORMAT);
        if (!strstr(err.msg, bad[i].names))
            fail_msg("\"%s\" does not name %s", err.msg, bad[i].names);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip),
                                       cmocka_unit_test(test_what_is_wrong)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
