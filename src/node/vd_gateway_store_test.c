/* The store over restarts, and keys: what is made, found, limited and revoked. */
#include "vd_gateway_keys.h"
#include "vd_gateway_store.h"
#include "vd_key.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[64];
static struct vd_gwstore *s;
static struct vd_keypair worker, gateway;

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static int setup(void **state)
{
    vd_key_init(NULL);
    vd_key_generate(&worker);
    vd_key_generate(&gateway);
    snprintf(dir, sizeof dir, "/tmp/vd_gwstore_test.XXXXXX");
    assert_non_null(mkdtemp(dir));
    return vd_gwstore_open(&s, dir, NULL) == VD_OK ? 0 : -1;
}

static int teardown(void **state)
{
    vd_gwstore_close(s);
    s = NULL;
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}

static void again(void)
{
    vd_gwstore_close(s);
    assert_int_equal(vd_gwstore_open(&s, dir, NULL), VD_OK);
}

/* An envelope that holds a countersigned receipt with this sequence. */
static struct vd_gwstore_receipt receipt(uint64_t sequence, uint64_t micro)
{
    static uint8_t bytes[2048];
    uint32_t token = 5;
    struct vd_receipt r = {.n_output = 1, .finish = VD_FINISH_LENGTH, .amount = {micro}};
    r.request = (struct vd_request){.arith_version = VD_ARITH_VERSION,
                                    .sequence = sequence,
                                    .n_prompt = 1,
                                    .max_tokens = 1,
                                    .price_out = {micro},
                                    .worker = worker.pub,
                                    .gateway = gateway.pub};
    r.request.sampling.top_p_micro = 1000000;
    r.output_root.b[0] = 1;
    struct vd_envelope e = {.n_prompt = 1, .n_output = 1, .prompt = &token, .output = &token};
    e.receipt.body_bytes = vd_receipt_encode(&r, e.receipt.body, sizeof e.receipt.body);
    assert_true(e.receipt.body_bytes > 0);
    vd_key_sign(&e.receipt.worker_sig, &worker, VD_TAG_RECEIPT, e.receipt.body, e.receipt.body_bytes);
    vd_key_sign(&e.receipt.gateway_sig, &gateway, VD_TAG_ACCEPT, e.receipt.body, e.receipt.body_bytes);
    struct vd_gwstore_receipt x = {.id = vd_signed_receipt_id(&e.receipt),
                                   .key = {{7}},
                                   .state = VD_GW_PENDING,
                                   .created_s = 1,
                                   .amount = {micro},
                                   .envelope = bytes};
    x.n_envelope = vd_envelope_encode(&e, bytes, sizeof bytes);
    return x;
}

static uint64_t spent(void)
{
    struct vd_key_id id = {{7}};
    struct vd_amount a;
    assert_int_equal(vd_gwstore_spent(s, &id, &a, NULL), VD_OK);
    return a.micro;
}

static size_t n_pending(struct vd_gwstore_pending *p, size_t skip)
{
    size_t n;
    assert_int_equal(vd_gwstore_pending_list(s, skip, p, 64, &n, NULL), VD_OK);
    return n;
}

static void test_receipts_until_settled(void **state)
{
    static struct vd_gwstore_pending p[64];
    struct vd_hash id[5];
    for (int i = 0; i < 5; i++) {
        struct vd_gwstore_receipt r = receipt((uint64_t)i + 1, 10);
        id[i] = r.id;
        assert_int_equal(vd_gwstore_finish(s, &r, NULL, NULL), VD_OK);
        assert_int_equal(vd_gwstore_finish(s, &r, NULL, NULL), VD_OK); /* twice changes nothing */
    }
    assert_int_equal(spent(), 50);
    again();
    assert_int_equal(n_pending(p, 0), 5);
    assert_true(vd_hash_eq(&p[0].id, &id[0]) && vd_hash_eq(&p[4].id, &id[4])); /* oldest first */
    struct vd_receipt r;
    assert_int_equal(vd_signed_receipt_check(&p[2].receipt, &r), VD_RECEIPT_OK);
    assert_int_equal(r.request.sequence, 3);
    assert_int_equal(n_pending(p, 3), 2);
    assert_int_equal(vd_gwstore_settle(s, id, 2, VD_GW_SETTLED, NULL), VD_OK);
    assert_int_equal(vd_gwstore_settle(s, &id[2], 1, VD_GW_REFUSED, NULL), VD_OK);
    assert_int_equal(vd_gwstore_settle(s, &id[2], 1, VD_GW_REFUSED, NULL),
                     VD_OK); /* the money comes back once */
    assert_int_equal(spent(), 40);
    again();
    assert_int_equal(n_pending(p, 0), 2);
    assert_true(vd_hash_eq(&p[0].id, &id[3]));
    struct vd_gwstore_receipt got;
    assert_int_equal(vd_gwstore_receipt_get(s, &id[0], &got, NULL), VD_OK);
    assert_int_equal(got.state, VD_GW_SETTLED);
    assert_int_equal(got.key.b[0], 7);
    free(got.envelope);
    struct vd_hash unknown = {{1}};
    assert_int_equal(vd_gwstore_receipt_get(s, &unknown, &got, NULL), VD_ENOTFOUND);
}

/* A worker could fill the disk with what it says and never answers for. */
static void test_statements_have_an_end(void **state)
{
    static struct vd_gwstore_pending p[64];
    struct vd_gwstore_receipt r = receipt(1, 10), got;
    struct vd_hash first = {{1}};
    assert_int_equal(vd_gwstore_finish(s, &r, NULL, NULL), VD_OK);
    struct vd_hash paid = r.id;
    r.state = VD_GW_PREFIX;
    for (uint32_t i = 0; i <= VD_GWSTORE_STATEMENTS_MAX; i++) {
        r.id = first;
        vd_le32_store(r.id.b + 4, i);
        assert_int_equal(vd_gwstore_finish(s, &r, NULL, NULL), VD_OK);
        assert_int_equal(vd_gwstore_finish(s, &r, NULL, NULL), VD_OK); /* twice takes one place */
    }
    again();
    assert_int_equal(vd_gwstore_receipt_get(s, &first, &got, NULL), VD_ENOTFOUND);
    vd_le32_store(first.b + 4, 1);
    const struct vd_hash kept[] = {first, r.id, paid};
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(vd_gwstore_receipt_get(s, &kept[i], &got, NULL), VD_OK);
        free(got.envelope);
    }
    assert_int_equal(n_pending(p, 0), 1);
    assert_int_equal(spent(), 10);
}

static void test_the_escrow_in_use(void **state)
{
    struct vd_hash a = {{1}}, b = {{2}}, is = {{9}};
    assert_int_equal(vd_gwstore_escrow(s, &is, NULL), VD_OK);
    assert_true(vd_hash_is_zero(&is));
    assert_int_equal(vd_gwstore_set_escrow(s, &a, NULL), VD_OK);
    assert_int_equal(vd_gwstore_set_escrow(s, &b, NULL), VD_OK);
    again();
    assert_int_equal(vd_gwstore_escrow(s, &is, NULL), VD_OK);
    assert_true(vd_hash_eq(&is, &b));
}

static void test_sequences_never_twice(void **state)
{
    struct vd_hash a = {{1}}, b = {{2}};
    uint64_t first;
    assert_int_equal(vd_gwstore_take_sequences(s, &a, 10, 1000, &first, NULL), VD_OK);
    assert_int_equal(first, 1000);
    again();
    assert_int_equal(vd_gwstore_take_sequences(s, &a, 10, 5, &first, NULL), VD_OK);
    assert_int_equal(first, 1010);
    assert_int_equal(vd_gwstore_take_sequences(s, &b, 10, 5, &first, NULL), VD_OK);
    assert_int_equal(first, 5);
}

static void test_answers_for_retries(void **state)
{
    struct vd_gwstore_receipt r = receipt(1, 10);
    char text[] = "an answer";
    struct vd_gwstore_once o = {.slot = {{1}},
                                .fingerprint = {{2}},
                                .until_s = 100,
                                .created_s = 50,
                                .n_prompt = 3,
                                .n_output = 4,
                                .finish = VD_FINISH_LENGTH,
                                .receipt_id = r.id,
                                .amount = {10},
                                .reply_id = "chatcmpl-1",
                                .text = text,
                                .n_text = 9},
                           got;
    assert_int_equal(vd_gwstore_finish(s, &r, &o, NULL), VD_OK);
    again();
    assert_int_equal(vd_gwstore_once_get(s, &o.slot, 100, &got, NULL), VD_OK);
    assert_memory_equal(got.text, "an answer", 9);
    assert_string_equal(got.reply_id, "chatcmpl-1");
    assert_true(got.n_prompt == 3 && got.n_output == 4 && got.finish == VD_FINISH_LENGTH &&
                got.created_s == 50);
    assert_true(vd_hash_eq(&got.receipt_id, &r.id) && vd_hash_eq(&got.fingerprint, &o.fingerprint));
    free(got.text);
    assert_int_equal(vd_gwstore_once_get(s, &o.slot, 101, &got, NULL), VD_ENOTFOUND);
    assert_int_equal(vd_gwstore_once_purge(s, 99, NULL), VD_OK);
    assert_int_equal(vd_gwstore_once_get(s, &o.slot, 99, &got, NULL), VD_OK);
    free(got.text);
    assert_int_equal(vd_gwstore_once_purge(s, 101, NULL), VD_OK);
    assert_int_equal(vd_gwstore_once_get(s, &o.slot, 99, &got, NULL), VD_ENOTFOUND);
}

static void test_map_grows(void **state)
{
    size_t n = 3 << 20;
    char *text = calloc(1, n);
    for (uint64_t i = 1; i <= 30; i++) { /* 90 MB in a map of 64 */
        struct vd_gwstore_receipt r = receipt(i, 1);
        struct vd_gwstore_once o = {
            .slot = {{(uint8_t)i}}, .until_s = 100, .finish = VD_FINISH_STOP, .text = text, .n_text = n};
        assert_int_equal(vd_gwstore_finish(s, &r, &o, NULL), VD_OK);
    }
    free(text);
    assert_int_equal(spent(), 30);
    again();
    assert_int_equal(spent(), 30);
}

static void test_one_owner(void **state)
{
    struct vd_gwstore *second = NULL;
    struct vd_error err;
    assert_int_equal(vd_gwstore_open(&second, dir, &err), VD_EBUSY);
}

static void test_keys(void **state)
{
    struct vd_gateway_keys *k;
    struct vd_api_key made, found, *list;
    char first[VD_API_KEY_TEXT_MAX], second[VD_API_KEY_TEXT_MAX], path[128], id[33];
    struct vd_error err;
    size_t n;
    assert_int_equal(vd_gateway_keys_open(&k, dir, &err), VD_OK); /* no file: no keys */
    assert_int_equal(vd_gateway_key_new(dir, "alice", vd_amount_micro(5), first, &made, &err), VD_OK);
    assert_int_equal(strlen(first), 46);
    assert_int_equal(strncmp(first, "vd-", 3), 0);
    vd_gateway_keys_close(k);
    assert_int_equal(vd_gateway_keys_open(&k, dir, &err), VD_OK);
    assert_true(vd_gateway_keys_find(k, first, &found));
    assert_string_equal(found.label, "alice");
    assert_int_equal(found.limit.micro, 5);
    first[10] ^= 1;
    assert_false(vd_gateway_keys_find(k, first, &found));
    first[10] ^= 1;
    assert_false(vd_gateway_keys_find(k, "", &found));
    assert_int_equal(vd_gateway_key_new(dir, "bob", VD_AMOUNT_ZERO, second, &made, &err), VD_OK);
    usleep(600000); /* a running gateway looks again after half a second */
    assert_true(vd_gateway_keys_find(k, second, &found));
    vd_hex_encode(id, found.id.b, VD_KEY_ID_BYTES);
    assert_int_equal(vd_gateway_key_revoke(dir, id, &err), VD_OK);
    assert_int_equal(vd_gateway_key_revoke(dir, "bob", &err), VD_ENOTFOUND);
    assert_int_equal(vd_gateway_key_list(dir, &list, &n, &err), VD_OK);
    assert_int_equal(n, 1);
    free(list);
    usleep(600000);
    assert_false(vd_gateway_keys_find(k, second, &found));
    assert_true(vd_gateway_keys_find(k, first, &found));
    vd_gateway_keys_close(k);
    struct stat st;
    snprintf(path, sizeof path, "%s/api-keys.json", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    FILE *f = fopen(path, "r");
    char text[4096] = "";
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    assert_null(strstr(text, first)); /* only its hash */
    assert_int_equal(vd_gateway_key_new(dir, "bad\nlabel", VD_AMOUNT_ZERO, first, &made, &err), VD_EUSE);
    f = fopen(path, "w");
    fputs("[{]", f);
    fclose(f);
    assert_int_equal(vd_gateway_key_list(dir, &list, &n, &err), VD_EFORMAT);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(test_receipts_until_settled),
                                       T(test_statements_have_an_end),
                                       T(test_the_escrow_in_use),
                                       T(test_sequences_never_twice),
                                       T(test_answers_for_retries),
                                       T(test_map_grows),
                                       T(test_one_owner),
                                       T(test_keys)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
