/* The worker's job files: what is put comes back, survives a second opening, and damage is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "vd_file.h"
#include "vd_worker_jobs.h"

static char dir[64];

static int make_dir(void **state)
{
    snprintf(dir, sizeof dir, "/tmp/vd_jobs_XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
    char line[128];
    snprintf(line, sizeof line, "rm -rf '%s'", dir);
    return system(line);
}

/* An envelope of n prompt and n output tokens; nothing checks its signatures here. */
static struct vd_envelope make(uint32_t n, uint32_t *tokens)
{
    struct vd_receipt r = {.finish = VD_FINISH_LENGTH, .n_output = n};
    struct vd_envelope e = {.n_prompt = n, .n_output = n, .prompt = tokens, .output = tokens + n};
    for (uint32_t i = 0; i < 2 * n; i++)
        tokens[i] = i * 7;
    r.request.arith_version = VD_ARITH_VERSION;
    r.request.n_prompt = n;
    r.request.max_tokens = n;
    r.request.valid_until = 9;
    r.request.price_out.micro = 3;
    memset(r.output_root.b, n & 0xff, 32);
    r.amount.micro = 3 * (uint64_t)n;
    e.receipt.body_bytes = vd_receipt_encode(&r, e.receipt.body, sizeof e.receipt.body);
    memset(e.job_salt, 5, sizeof e.job_salt);
    memset(e.receipt.worker_sig.b, 1, VD_SIG_BYTES);
    return e;
}

static void comes_back_whole(void **state)
{
    uint32_t tokens[1000], *back;
    struct vd_worker_jobs j;
    struct vd_envelope e = make(500, tokens), got;
    struct vd_hash id = vd_signed_receipt_id(&e.receipt);
    assert_int_equal(vd_worker_jobs_open(&j, dir, NULL), VD_OK);
    assert_int_equal(vd_worker_jobs_get(&j, &id, &got, &back, NULL), VD_ENOTFOUND);
    assert_int_equal(vd_worker_jobs_put(&j, &e, NULL), VD_OK);
    memset(e.receipt.gateway_sig.b, 2, VD_SIG_BYTES); /* the gateway accepted: written again */
    assert_int_equal(vd_worker_jobs_put(&j, &e, NULL), VD_OK);
    assert_int_equal(vd_worker_jobs_open(&j, dir, NULL), VD_OK);
    assert_int_equal(vd_worker_jobs_get(&j, &id, &got, &back, NULL), VD_OK);
    assert_int_equal(got.n_prompt, 500);
    assert_int_equal(got.n_output, 500);
    assert_memory_equal(back, tokens, sizeof tokens);
    assert_memory_equal(&got.receipt.gateway_sig, &e.receipt.gateway_sig, VD_SIG_BYTES);
    assert_memory_equal(got.job_salt, e.job_salt, 32);
    free(back);
}

static void lists_and_drops(void **state)
{
    uint32_t tokens[200];
    struct vd_worker_jobs j;
    struct vd_hash *ids, want[3];
    size_t n, found = 0;
    char path[256];
    assert_int_equal(vd_worker_jobs_open(&j, dir, NULL), VD_OK);
    snprintf(path, sizeof path, "%s/notes.txt", dir);
    assert_int_equal(vd_file_write_atomic(path, "x", 1, 0600, NULL), VD_OK);
    for (uint32_t i = 0; i < 3; i++) {
        struct vd_envelope e = make(i + 1, tokens);
        want[i] = vd_signed_receipt_id(&e.receipt);
        assert_int_equal(vd_worker_jobs_put(&j, &e, NULL), VD_OK);
    }
    assert_int_equal(vd_worker_jobs_list(&j, &ids, &n, NULL), VD_OK);
    assert_int_equal(n, 3);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < 3; k++)
            found += vd_hash_eq(&ids[i], &want[k]);
    assert_int_equal(found, 3);
    free(ids);
    assert_int_equal(vd_worker_jobs_drop(&j, &want[1], NULL), VD_OK);
    assert_int_equal(vd_worker_jobs_drop(&j, &want[1], NULL), VD_OK);
    assert_int_equal(vd_worker_jobs_list(&j, &ids, &n, NULL), VD_OK);
    assert_int_equal(n, 2);
    free(ids);
}

static void damage_is_named(void **state)
{
    uint32_t tokens[200], *back;
    struct vd_worker_jobs j;
    struct vd_envelope a = make(50, tokens), got;
    struct vd_hash id = vd_signed_receipt_id(&a.receipt), other = id;
    struct vd_error err;
    char from[256], to[256], hex[65];
    struct stat st;
    assert_int_equal(vd_worker_jobs_open(&j, dir, NULL), VD_OK);
    assert_int_equal(vd_worker_jobs_put(&j, &a, NULL), VD_OK);
    vd_hex_encode(hex, id.b, 32);
    snprintf(from, sizeof from, "%s/%s.receipt", dir, hex);
    assert_int_equal(stat(from, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    other.b[0] ^= 1;
    vd_hex_encode(hex, other.b, 32);
    snprintf(to, sizeof to, "%s/%s.receipt", dir, hex);
    assert_int_equal(link(from, to), 0);
    assert_int_equal(vd_worker_jobs_get(&j, &other, &got, &back, &err), VD_EFORMAT);
    assert_int_equal(truncate(from, 90), 0);
    assert_int_equal(vd_worker_jobs_get(&j, &id, &got, &back, &err), VD_EFORMAT);
    assert_non_null(strstr(err.msg, from));
}

static void height_is_kept(void **state)
{
    struct vd_worker_jobs j;
    uint64_t h = 7;
    assert_int_equal(vd_worker_jobs_open(&j, dir, NULL), VD_OK);
    assert_int_equal(vd_worker_jobs_height(&j, &h, NULL), VD_OK);
    assert_int_equal(h, 0);
    assert_int_equal(vd_worker_jobs_set_height(&j, 123456789012, NULL), VD_OK);
    assert_int_equal(vd_worker_jobs_height(&j, &h, NULL), VD_OK);
    assert_true(h == 123456789012);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(comes_back_whole, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(lists_and_drops, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(damage_is_named, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(height_is_kept, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
