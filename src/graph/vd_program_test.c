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

/* Every feature at once. */
static struct vd_program rich(void)
{
    struct vd_program p = sample();
    p.n_rope_tables = 2;
    for (uint32_t i = 0; i < p.n_rope; i++)
        p.rope_steps[1][i] = UINT64_C(0xFEDCBA9876543210) >> i;
    p.rope_scale[1] = 1.25f;
    p.attn_cap = 50;
    p.logit_cap = 30;
    p.embed_scale = 64.5f;
    p.window = 512;
    p.layer_flags[0] = VD_LAYER_WINDOW;
    p.layer_flags[2] = VD_LAYER_WINDOW | VD_LAYER_ROPE2;
    p.act = VD_ACT_GELU;
    p.qk_norm = p.qkv_bias = p.post_norms = p.route_norm = true;
    p.n_experts = 12;
    p.n_used = 3;
    p.n_tensors = 3 + 17 * 3;
    for (uint32_t i = 0; i < p.n_tensors; i++)
        p.types[i] = vd_program_is_vector(&p, i) ? VD_WTYPE_F32 : VD_WTYPE_Q5_0;
    return p;
}

/* Every feature of an encoder at once, but RoPE. */
static struct vd_program encoder(void)
{
    struct vd_program p = {.arith_version = 1,
                           .kind = VD_PROGRAM_ENCODER,
                           .n_layers = 3,
                           .width = 160,
                           .n_heads = 4,
                           .n_kv_heads = 2,
                           .head_dim = 32,
                           .ff_width = 96,
                           .vocab = 300,
                           .ctx = 512,
                           .eps = 1e-12f,
                           .attn_scale = 0.125f,
                           .embed_scale = 1.0f,
                           .act = VD_ACT_GELU,
                           .qkv_bias = true,
                           .n_positions = 514,
                           .token_type = true,
                           .layer_norm = true,
                           .out_bias = true,
                           .ffn_bias = true};
    p.n_tensors = vd_program_norm_tensor(&p);
    for (uint32_t i = 0; i < p.n_tensors; i++)
        p.types[i] = vd_program_is_vector(&p, i) ? VD_WTYPE_F32 : VD_WTYPE_Q8_0;
    return p;
}

/* No biases, no gate, no token types, and RoPE in place of learned positions. */
static struct vd_program plain_encoder(void)
{
    struct vd_program p = encoder();
    p.qkv_bias = p.token_type = p.out_bias = p.ffn_bias = false;
    p.ungated = true;
    p.n_positions = 0;
    p.rope_pairing = VD_ROPE_HALVES;
    p.n_rope = 16;
    p.n_rope_tables = 1;
    p.rope_scale[0] = 1;
    p.rope_steps[0][3] = 12345;
    p.n_tensors = vd_program_norm_tensor(&p);
    memset(p.types, 0, sizeof p.types);
    for (uint32_t i = 0; i < p.n_tensors; i++)
        p.types[i] = vd_program_is_vector(&p, i) ? VD_WTYPE_F32 : VD_WTYPE_F16;
    return p;
}

static void round_trip_of(struct vd_program p)
{
    struct vd_program q;
    uint8_t a[VD_PROGRAM_BYTES_MAX], b[VD_PROGRAM_BYTES_MAX];
    assert_null(vd_program_check(&p));
    size_t n = vd_program_encode(&p, a, sizeof a);
    assert_true(n > 0);
    assert_true(vd_program_decode((struct vd_bytes){a, n}, &q));
    assert_memory_equal(&p, &q, sizeof p);
    assert_int_equal(vd_program_encode(&q, b, sizeof b), n);
    assert_memory_equal(a, b, n);
    assert_int_equal(vd_program_encode(&p, b, n - 1), 0);
    for (size_t i = 0; i < n; i++) /* what is left out at the end must be a program of its own */
        if (vd_program_decode((struct vd_bytes){a, i}, &q))
            assert_true(vd_program_encode(&q, b, sizeof b) == i);
    memcpy(b, a, n);
    b[n] = 0;
    assert_false(vd_program_decode((struct vd_bytes){b, n + 1}, &q));
}

static void round_trip(void **state)
{
    round_trip_of(sample());
    round_trip_of(rich());
    round_trip_of(encoder());
    round_trip_of(plain_encoder());
    struct vd_program p = sample(); /* a step table of zeros: no rotation */
    memset(p.rope_steps, 0, sizeof p.rope_steps);
    round_trip_of(p);
}

/* The largest program there is fits its bound, with room. */
static void the_longest(void **state)
{
    static uint8_t bytes[VD_PROGRAM_BYTES_MAX];
    struct vd_program p = rich();
    p.n_layers = VD_PROGRAM_LAYERS_MAX;
    p.head_dim = VD_PROGRAM_HEAD_DIM_MAX;
    p.n_rope = VD_PROGRAM_ROPE_MAX;
    p.vocab = VD_PROGRAM_VOCAB_MAX;
    memset(p.rope_steps, 0xFF, sizeof p.rope_steps);
    p.n_tensors = vd_program_norm_tensor(&p) + 2;
    for (uint32_t i = 0; i < p.n_tensors; i++)
        p.types[i] = vd_program_is_vector(&p, i) ? VD_WTYPE_F32 : VD_WTYPE_Q5_0;
    p.n_stop = VD_PROGRAM_STOP_MAX;
    for (uint32_t i = 0; i < p.n_stop; i++)
        p.stop[i] = VD_PROGRAM_VOCAB_MAX - VD_PROGRAM_STOP_MAX + i;
    assert_null(vd_program_check(&p));
    size_t n = vd_program_encode(&p, bytes, sizeof bytes);
    print_message("    the longest program: %zu bytes\n", n);
    assert_true(n > 6000 && n < 7 << 10);
    p = encoder(); /* which has more tensors, but fewer of other bytes */
    p.n_layers = VD_PROGRAM_LAYERS_MAX;
    p.n_tensors = VD_PROGRAM_TENSORS_MAX;
    for (uint32_t i = 0; i < p.n_tensors; i++)
        p.types[i] = vd_program_is_vector(&p, i) ? VD_WTYPE_F32 : VD_WTYPE_Q8_0;
    assert_null(vd_program_check(&p));
    assert_true(vd_program_encode(&p, bytes, sizeof bytes) < n);
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
    p = rich();
    assert_null(vd_program_check(&p));
#define BAD_RICH(change)                                                                                     \
    p = rich();                                                                                              \
    change;                                                                                                  \
    assert_non_null(vd_program_check(&p))
    BAD_RICH(p.kind = (enum vd_program_kind)0);
    BAD_RICH(p.n_rope_tables = 0);
    BAD_RICH(p.n_rope_tables = 3);
    BAD_RICH(p.n_rope_tables = 1); /* a layer uses the second */
    BAD_RICH(p.rope_scale[1] = 0);
    BAD_RICH(p.rope_scale[0] = INFINITY);
    BAD_RICH(p.attn_cap = -0.0f);
    BAD_RICH(p.attn_cap = -50);
    BAD_RICH(p.logit_cap = NAN);
    BAD_RICH(p.embed_scale = 0);
    BAD_RICH(p.embed_scale = -1);
    BAD_RICH(p.window = 0); /* a layer has one */
    BAD_RICH(p.window = (1 << 20) + 1);
    BAD_RICH(p.layer_flags[1] = 4);
    BAD_RICH(p.act = (enum vd_act)3);
    BAD_RICH(p.act = (enum vd_act)0);
    BAD_RICH(p.n_experts = 513);
    BAD_RICH(p.n_experts = 2); /* fewer than are used */
    BAD_RICH(p.n_used = 17);
    BAD_RICH(p.n_used = 0);
    BAD_RICH(p.n_experts = p.n_used = 0; p.n_tensors -= 3); /* route_norm of nothing */
    BAD_RICH(p.n_tensors -= 2);
    BAD_RICH(p.types[vd_program_layer_tensor(&p, 1, VD_T_ATTN_K_BIAS)] = VD_WTYPE_F16);
    BAD_RICH(p.types[vd_program_layer_tensor(&p, 1, VD_T_POST_FFN_NORM)] = VD_WTYPE_Q8_0);
    BAD_RICH(p.types[vd_program_layer_tensor(&p, 1, VD_T_FFN_UP)] = VD_WTYPE_Q4_K); /* 4160 = 16 * 256 + 64 */
    BAD(p.n_positions = p.ctx);
    BAD(p.token_type = true);
    BAD(p.layer_norm = true);
    BAD(p.out_bias = true);
    BAD(p.ffn_bias = true);
    BAD(p.ungated = true; p.act = VD_ACT_GELU);
#undef BAD_RICH
#undef BAD
}

/* What an encoder must not have, and must. */
static void limits_of_encoders(void **state)
{
    struct vd_program p;
#define BAD(change)                                                                                          \
    p = encoder();                                                                                           \
    assert_null(vd_program_check(&p));                                                                       \
    change;                                                                                                  \
    assert_non_null(vd_program_check(&p))
    BAD(p.kind = (enum vd_program_kind)3);
    BAD(p.kind = VD_PROGRAM_DECODER);
    BAD(p.ctx = p.n_positions = 2049);
    BAD(p.n_positions = 511); /* below ctx */
    BAD(p.n_positions = (1 << 20) + 1);
    BAD(p.layer_norm = false);
    BAD(p.attn_cap = 30);
    BAD(p.logit_cap = 30);
    BAD(p.embed_scale = 2);
    BAD(p.window = 4);
    BAD(p.layer_flags[1] = VD_LAYER_WINDOW);
    BAD(p.qk_norm = true; p.n_tensors += 6);
    BAD(p.post_norms = true);
    BAD(p.n_experts = p.n_used = 1; p.n_tensors += 3);
    BAD(p.n_stop = 1);
    BAD(p.n_rope_tables = 1; p.rope_scale[0] = 1; p.n_rope = 4; p.rope_pairing = VD_ROPE_HALVES);
    BAD(p.rope_pairing = VD_ROPE_HALVES);
    BAD(p.n_rope = 4);
    BAD(p.ungated = true; p.act = VD_ACT_SILU; p.n_tensors -= 6);
    BAD(p.n_tensors++);
    BAD(p.n_tensors--);
    BAD(p.types[vd_program_embed_tensor(&p, VD_E_TYPE)] = VD_WTYPE_F16);
    BAD(p.types[vd_program_embed_tensor(&p, VD_E_NORM_BIAS)] = VD_WTYPE_F16);
    BAD(p.types[vd_program_layer_tensor(&p, 2, VD_T_POST_FFN_NORM_BIAS)] = VD_WTYPE_F16);
    BAD(p.types[vd_program_layer_tensor(&p, 0, VD_T_FFN_GATE_BIAS)] = VD_WTYPE_F16);
#undef BAD
#define BAD_PLAIN(change)                                                                                    \
    p = plain_encoder();                                                                                     \
    assert_null(vd_program_check(&p));                                                                       \
    change;                                                                                                  \
    assert_non_null(vd_program_check(&p))
    BAD_PLAIN(p.rope_pairing = VD_ROPE_NONE);
    BAD_PLAIN(p.n_rope = 0);
    BAD_PLAIN(p.n_rope_tables = 2; p.rope_scale[1] = 1);
    BAD_PLAIN(p.n_rope_tables = 0; p.n_rope = 0; p.rope_pairing = VD_ROPE_NONE);
#undef BAD_PLAIN
    p = encoder();
    p.types[vd_program_embed_tensor(&p, VD_E_POSITION)] = VD_WTYPE_F16;
    assert_null(vd_program_check(&p));
}

static void tensors_of_encoders(void **state)
{
    static const enum vd_layer_tensor all[] = {VD_T_ATTN_Q,         VD_T_ATTN_K,
                                               VD_T_ATTN_V,         VD_T_ATTN_Q_BIAS,
                                               VD_T_ATTN_K_BIAS,    VD_T_ATTN_V_BIAS,
                                               VD_T_ATTN_OUTPUT,    VD_T_ATTN_OUTPUT_BIAS,
                                               VD_T_POST_ATTN_NORM, VD_T_POST_ATTN_NORM_BIAS,
                                               VD_T_FFN_GATE,       VD_T_FFN_GATE_BIAS,
                                               VD_T_FFN_UP,         VD_T_FFN_UP_BIAS,
                                               VD_T_FFN_DOWN,       VD_T_FFN_DOWN_BIAS,
                                               VD_T_POST_FFN_NORM,  VD_T_POST_FFN_NORM_BIAS};
    static const enum vd_layer_tensor few[] = {VD_T_ATTN_Q,         VD_T_ATTN_K,
                                               VD_T_ATTN_V,         VD_T_ATTN_OUTPUT,
                                               VD_T_POST_ATTN_NORM, VD_T_POST_ATTN_NORM_BIAS,
                                               VD_T_FFN_UP,         VD_T_FFN_DOWN,
                                               VD_T_POST_FFN_NORM,  VD_T_POST_FFN_NORM_BIAS};
    enum { N_ALL = sizeof all / sizeof all[0], N_FEW = sizeof few / sizeof few[0] };
    struct vd_program p = encoder(), q = plain_encoder();
    enum vd_embed_tensor e;
    for (uint32_t i = 0; i < VD_E_KINDS; i++) {
        assert_int_equal(vd_program_embed_tensor(&p, (enum vd_embed_tensor)i), i);
        assert_true(vd_program_find_embed(&p, i, &e) && e == (enum vd_embed_tensor)i);
    }
    assert_false(vd_program_find_embed(&p, VD_E_KINDS, &e));
    assert_int_equal(vd_program_embed_tensor(&q, VD_E_NORM), 1);
    assert_int_equal(vd_program_embed_tensor(&q, VD_E_NORM_BIAS), 2);
    for (uint32_t i = 0; i < N_ALL; i++)
        assert_int_equal(vd_program_layer_tensor(&p, 2, all[i]), VD_E_KINDS + 2 * N_ALL + i);
    for (uint32_t i = 0; i < N_FEW; i++)
        assert_int_equal(vd_program_layer_tensor(&q, 1, few[i]), 3 + N_FEW + i);
    assert_int_equal(p.n_tensors, VD_E_KINDS + 3 * N_ALL);
    assert_int_equal(q.n_tensors, 3 + 3 * N_FEW);
    for (uint32_t i = 0; i < p.n_tensors; i++) { /* each is one or the other */
        uint32_t layer;
        enum vd_layer_tensor t;
        assert_true(vd_program_find_embed(&p, i, &e) != vd_program_find_tensor(&p, i, &layer, &t));
    }
    const struct {
        uint32_t tensor, rows, cols;
    } want[] = {{0, 300, 160},
                {vd_program_embed_tensor(&p, VD_E_TYPE), 1, 160},
                {vd_program_embed_tensor(&p, VD_E_POSITION), 514, 160},
                {vd_program_embed_tensor(&p, VD_E_NORM_BIAS), 1, 160},
                {vd_program_layer_tensor(&p, 0, VD_T_ATTN_K), 64, 160},
                {vd_program_layer_tensor(&p, 0, VD_T_ATTN_Q_BIAS), 1, 128},
                {vd_program_layer_tensor(&p, 1, VD_T_ATTN_OUTPUT_BIAS), 1, 160},
                {vd_program_layer_tensor(&p, 2, VD_T_FFN_GATE), 96, 160},
                {vd_program_layer_tensor(&p, 2, VD_T_FFN_UP_BIAS), 1, 96},
                {vd_program_layer_tensor(&p, 2, VD_T_FFN_DOWN_BIAS), 1, 160},
                {vd_program_layer_tensor(&p, 2, VD_T_POST_FFN_NORM_BIAS), 1, 160}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        struct vd_tensor_shape s = vd_program_tensor(&p, want[i].tensor);
        assert_int_equal(s.rows, want[i].rows);
        assert_int_equal(s.cols, want[i].cols);
        assert_int_equal(vd_program_is_vector(&p, want[i].tensor), s.rows == 1);
    }
}

/* The canonical order, by features; number and place are each other's opposite. */
static void tensors_by_feature(void **state)
{
    static const enum vd_layer_tensor plain[] = {VD_T_ATTN_NORM, VD_T_ATTN_Q,      VD_T_ATTN_K,
                                                 VD_T_ATTN_V,    VD_T_ATTN_OUTPUT, VD_T_FFN_NORM,
                                                 VD_T_FFN_GATE,  VD_T_FFN_UP,      VD_T_FFN_DOWN};
    struct vd_program p = sample(), r = rich();
    assert_int_equal(vd_program_per_layer(&p), 9);
    assert_int_equal(vd_program_per_layer(&r), 17);
    for (uint32_t i = 0; i < 9; i++)
        assert_int_equal(vd_program_layer_tensor(&p, 2, plain[i]), 1 + 2 * 9 + i);
    for (uint32_t i = 0, at = 0; i < VD_T_KINDS; i++)
        if (vd_program_has_tensor(&r, (enum vd_layer_tensor)i))
            assert_int_equal(vd_program_layer_tensor(&r, 1, (enum vd_layer_tensor)i), 1 + 17 + at++);
    for (unsigned features = 0; features < 16; features++) {
        p = rich();
        p.qkv_bias = features & 1;
        p.qk_norm = features >> 1 & 1;
        p.post_norms = features >> 2 & 1;
        p.n_experts = features & 8 ? 4 : 0;
        p.n_tensors = vd_program_norm_tensor(&p) + 1;
        uint32_t layer, n = 0;
        enum vd_layer_tensor t;
        for (uint32_t i = 0; i < p.n_tensors; i++) {
            if (!vd_program_find_tensor(&p, i, &layer, &t))
                continue;
            n++;
            assert_true(vd_program_has_tensor(&p, t));
            assert_int_equal(vd_program_layer_tensor(&p, layer, t), i);
        }
        assert_int_equal(n, p.n_layers * vd_program_per_layer(&p));
        assert_false(vd_program_find_tensor(&p, 0, &layer, &t));
        assert_false(vd_program_find_tensor(&p, vd_program_norm_tensor(&p), &layer, &t));
    }
}

static void shapes_of_features(void **state)
{
    struct vd_program p = rich();
    const struct {
        enum vd_layer_tensor t;
        uint32_t rows, cols;
    } want[] = {{VD_T_ATTN_Q_BIAS, 1, 384},     {VD_T_ATTN_V_BIAS, 1, 128},    {VD_T_ATTN_Q_NORM, 1, 64},
                {VD_T_POST_ATTN_NORM, 1, 4160}, {VD_T_FFN_ROUTER, 12, 4160},   {VD_T_FFN_GATE, 12 * 96, 4160},
                {VD_T_FFN_UP, 12 * 96, 4160},   {VD_T_FFN_DOWN, 12 * 4160, 96}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        struct vd_tensor_shape s = vd_program_tensor(&p, vd_program_layer_tensor(&p, 2, want[i].t));
        assert_int_equal(s.rows, want[i].rows);
        assert_int_equal(s.cols, want[i].cols);
    }
    assert_int_equal(vd_program_first_key(&p, 0, 511), 0);
    assert_int_equal(vd_program_first_key(&p, 0, 512), 1);
    assert_int_equal(vd_program_first_key(&p, 1, 2000), 0);
    assert_int_equal(vd_program_rope_table(&p, 2), 1);
    assert_int_equal(vd_program_rope_table(&p, 0), 0);
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
        cmocka_unit_test(limits_of_encoders),
        cmocka_unit_test(the_longest),
        cmocka_unit_test(tensors_of_encoders),
        cmocka_unit_test(tensors_by_feature),
        cmocka_unit_test(shapes),
        cmocka_unit_test(shapes_of_features),
        cmocka_unit_test(hashes_bind_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
