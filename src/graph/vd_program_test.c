/* Programs: one value, one encoding; every limit refuses; shapes and roots. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>

#include "vd_num.h"
#include "vd_program.h"

static struct vd_program sample(void)
{
    struct vd_program p = {VD_PROGRAM_PLAIN,     .n_layers = 3,
                           .width = 4160,        .n_heads = 6,
                           .n_kv_heads = 2,      .head_dim = 64,
                           .ff_width = 96,       .vocab = 300,
                           .ctx = 2048,          .rope_pairing = VD_ROPE_ADJACENT,
                           .n_rope = 32,         .eps = 1e-5f,
                           .attn_scale = 0.125f, .n_tensors = 3 + 9 * 3,
                           .n_stop = 2,          .stop = {0, 7}};
    for (uint32_t i = 0; i < p.n_rope; i++)
        p.rope_steps[0][i] = UINT64_C(0x123456789ABCDEF) >> i;
    for (uint32_t i = 0; i < p.n_tensors; i++)
        p.types[i] = VD_WTYPE_Q4_1;
    for (uint32_t l = 0; l < p.n_layers; l++) {
        p.types[vd_program_layer_tensor(&p, l, VD_T_ATTN_NORM)] = VD_WTYPE_F32;
        p.types[vd_program_layer_tensor(&p, l, VD_T_FFN_NORM)] = VD_WTYPE_F32;
    }
    p.types[vd_program_norm_tensor(&p)] = VD_WTYPE_F32;
    p.types[0] = VD_WTYPE_Q8_0;
    return p;
}

static void round_trip(void **state)
{
    struct vd_program p = sample(), q;
    uint8_t a[VD_PROGRAM_BYTES_MAX], b[VD_PROGRAM_BYTES_MAX];
    assert_null(vd_program_check(&p));
    size_t n = vd_program_encode(&p, a, sizeof a);
    assert_true(n > 0);
    assert_true(vd_program_decode((struct vd_bytes){a, n}, &q));
    assert_memory_equal(&p, &q, sizeof p);
    assert_int_equal(vd_program_encode(&q, b, sizeof b), n);
    assert_memory_equal(a, b, n);
    assert_int_equal(vd_program_encode(&p, b, n - 1), 0);
    for (size_t i = 0; i < n; i++) /* only the program without stop tokens is a prefix */
        if (vd_program_decode((struct vd_bytes){a, i}, &q))
            assert_true(q.n_stop == 0 && vd_program_encode(&q, b, sizeof b) == i);
    memcpy(b, a, n);
    b[n] = 0;
    assert_false(vd_program_decode((struct vd_bytes){b, n + 1}, &q));
}

static void limits(void **state)
{
    struct vd_program p;
#define BAD(change)                                                                                          \
    p = sample();                                                                                            \
    change;                                                                                                  \
    assert_non_null(vd_program_check(&p))
    BAD(p.arith_version = 2);
    BAD(p.n_layers = 257);
    BAD(p.width = 4161);
    BAD(p.width = 16416);
    BAD(p.n_heads = 7);
    BAD(p.n_kv_heads = 0);
    BAD(p.head_dim = 48);
    BAD(p.head_dim = 288);
    BAD(p.ff_width = 65568);
    BAD(p.vocab = (1 << 20) + 1);
    BAD(p.ctx = 0);
    BAD(p.n_rope = 33);
    BAD(p.n_rope = 0);
    BAD(p.eps = 0);
    BAD(p.eps = INFINITY);
    BAD(p.attn_scale = -1);
    BAD(p.attn_scale = NAN);
    BAD(p.stop[1] = 300);
    BAD(p.stop[1] = 0);
    BAD(p.n_stop = 17);
    BAD(p.types[5] = 4);
    BAD(p.types[vd_program_norm_tensor(&p)] = VD_WTYPE_F16);
    BAD(p.types[vd_program_layer_tensor(&p, 2, VD_T_FFN_NORM)] = VD_WTYPE_F16);
    BAD(p.n_tensors = 28);
#undef BAD
}

static void shapes(void **state)
{
    struct vd_program p = sample();
    struct vd_tensor_shape t = vd_program_tensor(&p, 0);
    assert_int_equal(t.rows, 300);
    assert_int_equal(t.cols, 4160);
    assert_int_equal(vd_tensor_parts(t), 2);
    assert_int_equal(vd_tensor_part_bytes(t, 0), 4096 / 32 * 34);
    assert_int_equal(vd_tensor_part_bytes(t, 1), 64 / 32 * 34);
    assert_int_equal(vd_tensor_part_offset(t, 1), 4096 / 32 * 34);
    t = vd_program_tensor(&p, vd_program_layer_tensor(&p, 1, VD_T_FFN_DOWN));
    assert_int_equal(t.rows, 4160);
    assert_int_equal(t.cols, 96);
    t = vd_program_tensor(&p, vd_program_layer_tensor(&p, 2, VD_T_ATTN_K));
    assert_int_equal(t.rows, 128);
    t = vd_program_tensor(&p, vd_program_norm_tensor(&p));
    assert_int_equal(t.rows, 1);
    assert_int_equal(vd_program_head_tensor(&p), 2 + 27);
    assert_int_equal(vd_program_tensor(&p, 29).rows, 300);
    p.n_tensors--;
    assert_true(vd_program_tied(&p));
    assert_int_equal(vd_program_head_tensor(&p), 0);
}

/* Every field of a hash counts. */
static void hashes_bind_everything(void **state)
{
    struct vd_tensor_shape t = {VD_WTYPE_Q4_1, 4, 64};
    struct vd_hash zero = {{0}}, a = vd_weight_leaf(1, 2, 3, "x", 1), b;
    const uint32_t other[3][3] = {{0, 2, 3}, {1, 0, 3}, {1, 2, 0}};
    for (unsigned i = 0; i < 3; i++) {
        b = vd_weight_leaf(other[i][0], other[i][1], other[i][2], "x", 1);
        assert_false(vd_hash_eq(&a, &b));
    }
    a = vd_tensor_leaf(1, t, &zero);
    t.type = VD_WTYPE_Q4_0;
    b = vd_tensor_leaf(1, t, &zero);
    assert_false(vd_hash_eq(&a, &b));
    a = vd_program_model_root((struct vd_bytes){(const uint8_t *)"p", 1}, 5, &zero);
    b = vd_program_model_root((struct vd_bytes){(const uint8_t *)"p", 1}, 6, &zero);
    assert_false(vd_hash_eq(&a, &b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(limits),
        cmocka_unit_test(shapes),
        cmocka_unit_test(hashes_bind_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
