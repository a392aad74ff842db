/* Opening of models (bytes, non-finite weights), model root with and without its cache file, weight proofs.
 */
#include "vd_model.h"

#include "vd_merkle.h"
#include "vd_test_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

struct fixture {
    char home[VD_PATH_MAX];
    char path[VD_PATH_MAX];
    struct vd_pool *pool;
    const struct vd_kern *kern;
    struct vd_model *m;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct vd_test_model t = vd_test_model_default;
    const char *dir = getenv("TMPDIR");
    t.width = 4096 + 32; /* two parts per row */
    t.n_layers = 1;
    t.ff_width = 32;
    snprintf(f->home, sizeof f->home, "%s/vd_home_XXXXXX", dir ? dir : "/tmp");
    assert_non_null(mkdtemp(f->home));
    setenv("VERIDEM_HOME", f->home, 1);
    vd_test_model_file(&t, f->path);
    f->kern = vd_kern_pick(NULL, NULL);
    assert_int_equal(vd_pool_create(&f->pool, 2, NULL), VD_OK);
    assert_int_equal(vd_model_open(&f->m, f->path, f->kern, f->pool, NULL), VD_OK);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char command[2 * VD_PATH_MAX];
    vd_model_close(f->m);
    vd_pool_destroy(f->pool);
    unlink(f->path);
    snprintf(command, sizeof command, "rm -r '%s'", f->home);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

/* By the text of docs/spec/proof.md, one leaf after the other. */
static struct vd_hash plain_root(const struct vd_model *m)
{
    const struct vd_program *p = vd_model_program(m);
    struct vd_hash tensors[64];
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        struct vd_tensor_shape s = vd_program_tensor(p, i);
        struct vd_merkle_stream stream;
        vd_merkle_stream_init(&stream);
        for (uint32_t row = 0; row < s.rows; row++) {
            struct vd_bytes b = vd_model_tensor_bytes(m, i, row);
            for (uint32_t part = 0; part < vd_tensor_parts(s); part++) {
                size_t n = vd_tensor_part_bytes(s, part);
                struct vd_hash h = vd_weight_leaf(i, row, part, b.p + vd_tensor_part_offset(s, part), n);
                vd_merkle_stream_add(&stream, &h);
            }
        }
        struct vd_hash root = vd_merkle_stream_root(&stream);
        tensors[i] = vd_tensor_leaf(i, s, &root);
    }
    struct vd_hash top = vd_merkle_root(tensors, p->n_tensors);
    return vd_program_model_root(vd_model_program_bytes(m), p->n_tensors, &top);
}

/* The one file in the cache folder; false if there is none. */
static bool cache_file(const struct fixture *f, char out[VD_PATH_MAX])
{
    char command[2 * VD_PATH_MAX];
    snprintf(command, sizeof command, "ls -d '%s'/cache/roots/* 2>/dev/null", f->home);
    FILE *p = popen(command, "r");
    bool found = p && fgets(out, VD_PATH_MAX, p);
    if (p)
        pclose(p);
    out[strcspn(out, "\n")] = 0;
    return found;
}

static struct vd_hash fresh_root(const struct fixture *f)
{
    struct vd_model *m;
    struct vd_hash h;
    assert_int_equal(vd_model_open(&m, f->path, f->kern, NULL, NULL), VD_OK);
    assert_int_equal(vd_model_root(m, NULL, &h, NULL), VD_OK);
    vd_model_close(m);
    return h;
}

static void flip_byte(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, at, SEEK_SET);
    int c = fgetc(file);
    fseek(file, at, SEEK_SET);
    fputc(c ^ 1, file);
    fclose(file);
}

static void root_and_cache(void **state)
{
    struct fixture *f = *state;
    struct vd_hash want = plain_root(f->m), h;
    char cache[VD_PATH_MAX];
    assert_int_equal(vd_model_root_compute(f->m, f->pool, &h, NULL), VD_OK);
    assert_true(vd_hash_eq(&h, &want));
    assert_false(cache_file(f, cache));
    assert_int_equal(vd_model_root(f->m, f->pool, &h, NULL), VD_OK);
    assert_true(vd_hash_eq(&h, &want));
    assert_true(cache_file(f, cache));
    h = fresh_root(f); /* from the cache */
    assert_true(vd_hash_eq(&h, &want));
    flip_byte(cache, 40); /* a damaged cache is as good as none */
    h = fresh_root(f);
    assert_true(vd_hash_eq(&h, &want));
    assert_int_equal(truncate(cache, 40), 0);
    h = fresh_root(f);
    assert_true(vd_hash_eq(&h, &want));
}

/* Another weight in a file of the same size: the cache must not be believed. */
static void changed_file(void **state)
{
    struct fixture *f = *state;
    struct vd_hash before = fresh_root(f);
    struct stat st;
    assert_int_equal(stat(f->path, &st), 0);
    flip_byte(f->path, (long)st.st_size - 1000);
    struct vd_hash after = fresh_root(f);
    assert_false(vd_hash_eq(&before, &after));
}

static void weight_proofs(void **state)
{
    struct fixture *f = *state;
    const struct vd_program *p = vd_model_program(f->m);
    struct vd_hash want;
    struct vd_rng r = {3, 0};
    assert_int_equal(vd_model_root(f->m, NULL, &want, NULL), VD_OK);
    for (uint32_t t = 0; t < p->n_tensors; t++) {
        struct vd_tensor_shape s = vd_program_tensor(p, t);
        struct vd_weight_proof proof;
        uint32_t row = (uint32_t)vd_rng_below(&r, s.rows), parts = vd_tensor_parts(s);
        uint32_t part = (uint32_t)vd_rng_below(&r, parts);
        assert_int_equal(vd_model_weight_proof(f->m, f->pool, t, row, part, &proof, NULL), VD_OK);
        struct vd_hash h = vd_weight_leaf(t, row, part, proof.bytes.p, proof.bytes.n);
        size_t n = (size_t)s.rows * parts, leaf = (size_t)row * parts + part;
        assert_int_equal(proof.n_path, vd_merkle_range_proof_len(n, leaf, 1));
        h = vd_merkle_range_root(n, leaf, 1, &h, proof.path);
        h = vd_tensor_leaf(t, s, &h);
        h = vd_merkle_range_root(p->n_tensors, t, 1, &h, proof.tensor_path);
        h = vd_program_model_root(vd_model_program_bytes(f->m), p->n_tensors, &h);
        assert_true(vd_hash_eq(&h, &want));
    }
}

/* A NaN or infinity in every kind of tensor is refused, with its place. */
static void non_finite_weights(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"token_embd.weight", "blk.0.attn_k.weight", "output_norm.weight"};
    size_t n;
    uint8_t *file;
    assert_int_equal(vd_file_read(&file, &n, f->path, 1 << 28, NULL), VD_OK);
    for (size_t i = 0; i < 3; i++) {
        struct vd_gguf *g;
        struct vd_model *m;
        struct vd_error err = {0};
        char path[VD_PATH_MAX];
        assert_int_equal(vd_gguf_open(&g, file, n, "test", NULL), VD_OK);
        const struct vd_gguf_tensor *t = vd_gguf_tensor_find(g, names[i]);
        uint8_t *at = file + t->offset_bytes + (t->ne[1] > 1 ? 5 * t->row_bytes : 0), keep[4];
        bool is_f32 = t->type_id == VD_WTYPE_F32;
        memcpy(keep, at, 4);
        if (is_f32)
            vd_le32_store(at, 0x7FC00000);
        else
            vd_le16_store(at, 0x7C00);
        vd_gguf_close(g);
        vd_test_write_file(file, n, path);
        assert_int_equal(vd_model_open(&m, path, f->kern, f->pool, &err), VD_EFORMAT);
        assert_non_null(strstr(err.msg, names[i]));
        assert_non_null(strstr(err.msg, is_f32 ? "row 0 " : "row 5 "));
        assert_null(m);
        unlink(path);
        memcpy(at, keep, 4);
    }
    free(file);
}

static void no_file(void **state)
{
    struct fixture *f = *state;
    struct vd_model *m;
    struct vd_error err;
    assert_int_equal(vd_model_open(&m, "/nonexistent.gguf", f->kern, NULL, &err), VD_ENOTFOUND);
    assert_non_null(strstr(err.msg, "/nonexistent.gguf"));
    assert_null(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(root_and_cache, set_up, tear_down),
        cmocka_unit_test_setup_teardown(changed_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(weight_proofs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(non_finite_weights, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_file, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
