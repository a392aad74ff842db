/* The derivation rule: what it yields for a good file, and what it says about files that lie or go beyond it.
 */
#include "vd_derive.h"

#include "vd_rope.h"
#include "vd_test_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static enum vd_err derive_bytes(const uint8_t *bytes, size_t n, struct vd_program *p, struct vd_error *err)
{
    struct vd_gguf *g;
    enum vd_err rc = vd_gguf_open(&g, bytes, n, "test.gguf", err);
    if (rc != VD_OK)
        return rc;
    rc = vd_derive_program(p, g, err);
    vd_gguf_close(g);
    return rc;
}

static enum vd_err derive(const struct vd_test_model *t, void (*extra)(struct vd_gguf_writer *w),
                          struct vd_program *p, struct vd_error *err)
{
    size_t n;
    uint8_t *bytes = vd_test_model_bytes(t, extra, &n);
    enum vd_err rc = derive_bytes(bytes, n, p, err);
    free(bytes);
    return rc;
}

static void good_file(void **state)
{
    struct vd_test_model t = vd_test_model_default;
    struct vd_program p;
    uint64_t steps[VD_PROGRAM_ROPE_MAX];
    uint8_t bytes[VD_PROGRAM_BYTES_MAX];
    t.stop = 17;
    assert_int_equal(derive(&t, NULL, &p, NULL), VD_OK);
    assert_int_equal(p.n_layers, t.n_layers);
    assert_int_equal(p.width, t.width);
    assert_int_equal(p.n_heads, t.n_heads);
    assert_int_equal(p.n_kv_heads, t.n_kv_heads);
    assert_int_equal(p.head_dim, t.head_dim);
    assert_int_equal(p.ff_width, t.ff_width);
    assert_int_equal(p.vocab, t.vocab);
    assert_int_equal(p.ctx, t.ctx);
    assert_int_equal(p.rope_pairing, VD_ROPE_ADJACENT);
    assert_int_equal(p.n_rope, t.head_dim / 2);
    assert_true(vd_num_rope_steps(10000.0f, t.head_dim, steps));
    assert_memory_equal(p.rope_steps[0], steps, t.head_dim / 2 * sizeof *steps);
    assert_true(p.eps == 1e-5f && p.attn_scale == 0.125f);
    assert_int_equal(p.n_tensors, 2 + 9 * t.n_layers);
    assert_int_equal(p.types[0], t.embd);
    assert_int_equal(p.types[2], t.mats);
    assert_int_equal(p.n_stop, 1);
    assert_int_equal(p.stop[0], 17);
    struct vd_program again;
    size_t n = vd_program_encode(&p, bytes, sizeof bytes);
    assert_true(vd_program_decode((struct vd_bytes){bytes, n}, &again));
    t.untied = true;
    assert_int_equal(derive(&t, NULL, &p, NULL), VD_OK);
    assert_int_equal(p.n_tensors, 3 + 9 * t.n_layers);
}

/* ------------------------- extras ------------------------- */

static void add_tokens(struct vd_gguf_writer *w, uint32_t n, bool control)
{
    struct vd_gguf_str piece[256];
    int32_t type[256];
    for (uint32_t i = 0; i < n; i++) {
        piece[i] = (struct vd_gguf_str){"a", 1};
        type[i] = 1;
    }
    piece[5] = (struct vd_gguf_str){"<|im_end|>", 10};
    piece[3] = (struct vd_gguf_str){"<|endoftext|>", 13};
    piece[9] = (struct vd_gguf_str){"</s>", 4}; /* a plain token that only looks like one */
    type[5] = type[3] = control ? 3 : 1;
    vd_gguf_add_array_str(w, "tokenizer.ggml.tokens", piece, n);
    vd_gguf_add_array_i32(w, "tokenizer.ggml.token_type", type, n);
}
static void with_tokens(struct vd_gguf_writer *w)
{
    add_tokens(w, vd_test_model_default.vocab, true);
    vd_gguf_add_u32(w, "tokenizer.ggml.eot_token_id", 5);
    vd_gguf_add_u32(w, "tokenizer.ggml.eom_token_id", 1);
}
static void few_tokens(struct vd_gguf_writer *w)
{
    add_tokens(w, vd_test_model_default.vocab - 1, true);
}
static void wrong_eot(struct vd_gguf_writer *w)
{
    vd_gguf_add_u32(w, "tokenizer.ggml.eot_token_id", vd_test_model_default.vocab);
}
static void wrong_vocab(struct vd_gguf_writer *w)
{
    vd_gguf_add_u32(w, "llama.vocab_size", 204);
}
static void few_experts(struct vd_gguf_writer *w)
{
    vd_gguf_add_u32(w, "llama.expert_count", 8);
}
static void shared_experts(struct vd_gguf_writer *w)
{
    vd_gguf_add_u32(w, "llama.expert_shared_count", 1);
}
static void other_prefix(struct vd_gguf_writer *w)
{
    vd_gguf_add_u32(w, "llamas.expert_shared_count", 1);
}
static void all_freqs(struct vd_gguf_writer *w)
{
    struct vd_rng r = {9, 0};
    vd_test_tensor(w, "rope_freqs.weight", VD_WTYPE_F32, 1, 32, 1.0f, 2.0f, &r);
}
static void few_freqs(struct vd_gguf_writer *w)
{
    struct vd_rng r = {9, 0};
    vd_test_tensor(w, "rope_freqs.weight", VD_WTYPE_F32, 1, 31, 1.0f, 2.0f, &r);
}
static void bad_freqs(struct vd_gguf_writer *w)
{
    struct vd_rng r = {9, 0};
    vd_test_tensor(w, "rope_freqs.weight", VD_WTYPE_F32, 1, 32, 1.0f, 0.0f, &r); /* some are below 0 */
}
static void two_outputs(struct vd_gguf_writer *w)
{
    struct vd_rng r = {9, 0};
    vd_test_tensor(w, "blk.0.attn_output.bias", VD_WTYPE_F32, 1, 160, 1.0f, 0.0f, &r);
}
static void scaling(struct vd_gguf_writer *w)
{
    vd_gguf_add_str(w, "llama.rope.scaling.type", "ntk");
}
static void no_scaling(struct vd_gguf_writer *w)
{
    vd_gguf_add_str(w, "llama.rope.scaling.type", "none");
}
static void odd_rope(struct vd_gguf_writer *w)
{
    vd_gguf_add_u32(w, "llama.rope.dimension_count", 63);
}
static void wide_rope(struct vd_gguf_writer *w)
{
    vd_gguf_add_u32(w, "llama.rope.dimension_count", 128);
}
static void bias(struct vd_gguf_writer *w)
{
    struct vd_rng r = {9, 0};
    vd_test_tensor(w, "blk.0.attn_q.bias", VD_WTYPE_F32, 1, 256, 1.0f, 0.0f, &r);
}

static void stop_tokens(void **state)
{
    struct vd_program p;
    static const uint32_t want[] = {1, 3, 5};
    assert_int_equal(derive(&vd_test_model_default, with_tokens, &p, NULL), VD_OK);
    assert_int_equal(p.n_stop, 3);
    assert_memory_equal(p.stop, want, sizeof want);
}

/* What is wrong, what the error is, and a word that its message must have. */
static void refusals(void **state)
{
    static const struct {
        void (*extra)(struct vd_gguf_writer *w);
        enum vd_err code;
        const char *word;
    } cases[] = {
        {few_tokens, VD_EFORMAT, "202 tokens"},
        {wrong_eot, VD_EFORMAT, "eot_token_id"},
        {wrong_vocab, VD_EFORMAT, "204"},
        {few_experts, VD_ENOTFOUND, "llama.expert_used_count"},
        {shared_experts, VD_EUNSUPPORTED, "llama.expert_shared_count"},
        {shared_experts, VD_EUNSUPPORTED, "known are: block_count"},
        {other_prefix, VD_OK, ""},
        {all_freqs, VD_OK, ""},
        {few_freqs, VD_EFORMAT, "rope_freqs.weight"},
        {bad_freqs, VD_EFORMAT, "factors above 0"},
        {two_outputs, VD_EUNSUPPORTED, "blk.0.attn_output.bias has no place in a llama"},
        {scaling, VD_EUNSUPPORTED, "'ntk' is not known for llama; known are: none, linear, yarn"},
        {no_scaling, VD_OK, ""},
        {odd_rope, VD_EFORMAT, "63"},
        {wide_rope, VD_EFORMAT, "128"},
        {bias, VD_ENOTFOUND, "blk.0.attn_k.bias"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct vd_program p;
        struct vd_error err = {0};
        assert_int_equal(derive(&vd_test_model_default, cases[i].extra, &p, &err), cases[i].code);
        if (cases[i].code != VD_OK && !strstr(err.msg, cases[i].word))
            fail_msg("'%s' lacks '%s'", err.msg, cases[i].word);
    }
}

/* Replaces the first occurrence of a text in the file by another of the same length. */
static enum vd_err derive_patched(const char *from, const char *to, struct vd_error *err)
{
    size_t n;
    uint8_t *bytes = vd_test_model_bytes(&vd_test_model_default, NULL, &n);
    uint8_t *at = memmem(bytes, n, from, strlen(from));
    struct vd_program p;
    assert_non_null(at);
    assert_int_equal(strlen(from), strlen(to));
    memcpy(at, to, strlen(to));
    enum vd_err rc = derive_bytes(bytes, n, &p, err);
    free(bytes);
    return rc;
}

static void other_names(void **state)
{
    struct vd_error err;
    assert_int_equal(derive_patched("llama", "gpt-2", &err), VD_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "'gpt-2' is not known; known are: llama, smollm3, qwen2, qwen3,"));
    assert_int_equal(derive_patched("blk.1.ffn_up.weight", "blk.1.ffn_uq.weight", &err), VD_ENOTFOUND);
    assert_non_null(strstr(err.msg, "blk.1.ffn_up.weight"));
    assert_int_equal(derive_patched("token_embd", "token_embx", &err), VD_ENOTFOUND);
    assert_int_equal(derive_patched("llama.block_count", "llama.block_xount", &err), VD_EUNSUPPORTED);
}

static void other_encoders_are_named(void **state)
{
    struct vd_error err;
    struct vd_program p;
    struct vd_test_model t = vd_test_model_default;
    t.arch = "neo-bert";
    assert_int_equal(derive(&t, NULL, &p, &err), VD_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "'neo-bert' is an encoder that is not run here"));
}

/* Each size of the header lies in turn; nothing may be accepted, and nothing may crash. */
static void lying_sizes(void **state)
{
    static const char *const keys[] = {
        "llama.block_count",          "llama.embedding_length",        "llama.feed_forward_length",
        "llama.attention.head_count", "llama.attention.head_count_kv", "llama.attention.key_length",
        "llama.context_length",
    };
    static const uint32_t lies[] = {0, 1, 2, 5, 31, 64, 96, 300, 16384, 65536, 0x7FFFFFFF, 0xFFFFFFFF};
    size_t n;
    uint8_t *bytes = vd_test_model_bytes(&vd_test_model_default, NULL, &n);
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        uint8_t *at = memmem(bytes, n, keys[k], strlen(keys[k]));
        assert_non_null(at);
        at += strlen(keys[k]) + 4; /* its type */
        uint32_t honest = vd_le32_load(at);
        for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
            struct vd_program p;
            struct vd_error err = {0};
            vd_le32_store(at, lies[i]);
            enum vd_err rc = derive_bytes(bytes, n, &p, &err);
            bool free_choice = k == 6 && lies[i] > 0 && lies[i] <= VD_PROGRAM_CTX_MAX;
            if (lies[i] != honest && !free_choice)
                assert_int_not_equal(rc, VD_OK);
            if (rc != VD_OK)
                assert_int_not_equal(strlen(err.msg), 0);
        }
        vd_le32_store(at, honest);
    }
    free(bytes);
}

static void unknown_type(void **state)
{
    struct vd_error err;
    struct vd_program p;
    struct vd_test_model t = vd_test_model_default;
    size_t n;
    vd_test_model_widen(&t);
    t.mats = VD_WTYPE_Q4_K;
    uint8_t *bytes = vd_test_model_bytes(&t, NULL, &n);
    uint8_t *at = memmem(bytes, n, "blk.2.attn_v.weight", 19);
    assert_non_null(at);
    vd_le32_store(at + 19 + 4 + 16, 21); /* Q4_K (144 bytes per block of 256) to IQ3_S (110 bytes) */
    assert_int_equal(derive_bytes(bytes, n, &p, &err), VD_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "blk.2.attn_v.weight"));
    assert_non_null(strstr(err.msg, "known are F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K,"));
    free(bytes);
}

/* ------------------------- architectures ------------------------- */

static void every_form(void **state)
{
    for (size_t i = 0; i < VD_TEST_FORMS; i++) {
        const struct vd_test_form *f = &vd_test_forms[i];
        struct vd_test_model t = vd_test_model_of(f);
        struct vd_program p, again;
        struct vd_error err = {0};
        uint8_t bytes[VD_PROGRAM_BYTES_MAX];
        if (derive(&t, NULL, &p, &err) != VD_OK)
            fail_msg("%s: %s", f->name, err.msg);
        assert_true(p.qkv_bias == f->bias && p.qk_norm == f->qk_norm && p.post_norms == f->post_norms);
        assert_true(p.n_experts == f->n_experts && p.n_used == f->n_used &&
                    p.route_norm == (f->n_experts > 0));
        assert_int_equal(p.n_rope, f->n_rope ? f->n_rope : t.head_dim / 2);
        assert_int_equal(p.window, f->window);
        assert_int_equal(p.act, strncmp(f->arch, "gemma", 5) == 0 ? VD_ACT_GELU : VD_ACT_SILU);
        assert_true(p.embed_scale == (p.act == VD_ACT_GELU ? sqrtf(160.0f) : 1.0f));
        assert_true(p.attn_cap == (f->caps ? 5.0f : 0.0f) && p.logit_cap == (f->caps ? 3.0f : 0.0f));
        bool adjacent = strcmp(f->arch, "llama") == 0 || strcmp(f->arch, "smollm3") == 0;
        assert_int_equal(p.rope_pairing, adjacent ? VD_ROPE_ADJACENT : VD_ROPE_HALVES);
        size_t n = vd_program_encode(&p, bytes, sizeof bytes);
        assert_true(vd_program_decode((struct vd_bytes){bytes, n}, &again));
    }
}

static void derive_form(const char *name, void (*extra)(struct vd_gguf_writer *w), struct vd_program *p)
{
    struct vd_test_model t = vd_test_model_of(vd_test_form(name));
    struct vd_error err = {0};
    if (derive(&t, extra, p, &err) != VD_OK)
        fail_msg("%s: %s", name, err.msg);
}

static void assert_flags(const struct vd_program *p, const uint8_t *want)
{
    assert_memory_equal(p->layer_flags, want, p->n_layers);
}

static void pattern_of_two(struct vd_gguf_writer *w)
{
    vd_gguf_add_u32(w, "gemma3.attention.sliding_window_pattern", 2);
}
static void swa_base(struct vd_gguf_writer *w)
{
    vd_gguf_add_f32(w, "gemma3.rope.freq_base_swa", 500.0f);
}

static void layers_differ(void **state)
{
    enum { W = VD_LAYER_WINDOW, R = VD_LAYER_ROPE2 };
    static const uint64_t zeros[VD_PROGRAM_ROPE_MAX];
    uint64_t steps[VD_PROGRAM_ROPE_MAX];
    struct vd_program p;
    derive_form("gemma2", NULL, &p);
    assert_flags(&p, (const uint8_t[]){W, 0, W});
    assert_int_equal(p.n_rope_tables, 1);
    derive_form("gemma3", NULL, &p);
    assert_flags(&p, (const uint8_t[]){W | R, W | R, W | R, W | R, W | R, 0});
    derive_form("gemma3", pattern_of_two, &p);
    assert_flags(&p, (const uint8_t[]){W | R, 0, W | R, 0, W | R, 0});
    derive_form("gemma3", swa_base, &p);
    assert_true(vd_num_rope_steps(500.0f, 64, steps));
    assert_memory_equal(p.rope_steps[1], steps, 32 * sizeof *steps);
    derive_form("smollm3", NULL, &p);
    assert_flags(&p, (const uint8_t[]){0, 0, 0, R});
    assert_memory_equal(p.rope_steps[1], zeros, sizeof zeros);
}

static void llama_window(struct vd_gguf_writer *w)
{
    vd_gguf_add_u32(w, "llama.attention.sliding_window", 100);
}
static void llama_wide_window(struct vd_gguf_writer *w)
{
    vd_gguf_add_u32(w, "llama.attention.sliding_window", 512);
}

static void windows_of_all_layers(void **state)
{
    struct vd_program p;
    derive_form("llama", llama_window, &p);
    assert_int_equal(p.window, 100);
    assert_flags(&p, (const uint8_t[]){VD_LAYER_WINDOW, VD_LAYER_WINDOW, VD_LAYER_WINDOW});
    derive_form("llama", llama_wide_window, &p); /* the context is no longer */
    assert_int_equal(p.window, 0);
    assert_flags(&p, (const uint8_t[]){0, 0, 0});
}

static void stretched(void **state)
{
    struct vd_program plain, p;
    struct vd_rope_rule rule = {.freq_base = 10000.0f, .n_dims = 64, .stretch = 4.0f, .yarn_ctx = 128};
    uint64_t steps[VD_PROGRAM_ROPE_MAX];
    derive_form("llama", NULL, &plain);
    derive_form("llama-linear", NULL, &p);
    for (uint32_t i = 0; i < p.n_rope; i++)
        assert_true(plain.rope_steps[0][i] - 4 * p.rope_steps[0][i] + 2 <= 4);
    derive_form("llama-yarn", NULL, &p);
    assert_true(vd_num_rope_steps_by(&rule, steps));
    assert_memory_equal(p.rope_steps[0], steps, p.n_rope * sizeof *steps);
    assert_true(p.rope_scale[0] == vd_num_rope_yarn_scale(4.0f));
    derive_form("phi3-long", NULL,
                &p); /* 512 positions, the first context was 128: the long factors, around 4 */
    assert_true(p.rope_scale[0] == 1.19f);
    assert_true(p.rope_steps[0][0] < plain.rope_steps[0][0] &&
                p.rope_steps[0][0] > plain.rope_steps[0][0] / 8);
}

/* Parts of a fused tensor lie one after the other, and the whole has the sum of their rows. */
static void fused_tensors(void **state)
{
    struct vd_test_model t = vd_test_model_of(vd_test_form("phi3"));
    struct vd_derive_place q, k, v, gate, up;
    struct vd_program p;
    struct vd_gguf *g;
    struct vd_error err = {0};
    size_t n;
    uint8_t *bytes = vd_test_model_bytes(&t, NULL, &n);
    assert_int_equal(vd_gguf_open(&g, bytes, n, "test.gguf", &err), VD_OK);
    assert_int_equal(vd_derive_program(&p, g, &err), VD_OK);
    assert_true(vd_derive_find(&p, g, vd_program_layer_tensor(&p, 1, VD_T_ATTN_Q), &q));
    assert_true(vd_derive_find(&p, g, vd_program_layer_tensor(&p, 1, VD_T_ATTN_K), &k));
    assert_true(vd_derive_find(&p, g, vd_program_layer_tensor(&p, 1, VD_T_ATTN_V), &v));
    assert_true(vd_derive_find(&p, g, vd_program_layer_tensor(&p, 1, VD_T_FFN_GATE), &gate));
    assert_true(vd_derive_find(&p, g, vd_program_layer_tensor(&p, 1, VD_T_FFN_UP), &up));
    assert_true(q.file == k.file && k.file == v.file && gate.file == up.file && q.file != up.file);
    assert_true(q.p == q.file->p && k.p == q.p + 256 * q.row_bytes && v.p == k.p + 128 * q.row_bytes);
    assert_true(gate.p == gate.file->p && up.p == gate.p + 544 * gate.row_bytes);
    vd_gguf_close(g);
    free(bytes);
}

/* ------------------------- encoders ------------------------- */

static void every_encoder(void **state)
{
    for (size_t i = 0; i < VD_TEST_ENCODERS; i++) {
        const struct vd_test_form *f = &vd_test_forms[VD_TEST_FORMS + i];
        struct vd_test_model t = vd_test_model_of(f);
        struct vd_program p, again;
        struct vd_error err = {0};
        uint8_t bytes[VD_PROGRAM_BYTES_MAX];
        bool bert = strcmp(f->arch, "bert") == 0;
        if (derive(&t, NULL, &p, &err) != VD_OK)
            fail_msg("%s: %s", f->name, err.msg);
        assert_true(vd_program_is_encoder(&p) && p.layer_norm && p.token_type && p.eps == 1e-12f);
        assert_true(p.qkv_bias == bert && p.out_bias == bert && p.ffn_bias == bert && p.ungated == bert);
        assert_int_equal(p.act, bert ? VD_ACT_GELU : VD_ACT_SILU);
        assert_int_equal(p.n_positions, bert ? t.ctx : 0);
        assert_int_equal(p.rope_pairing, bert ? VD_ROPE_NONE : VD_ROPE_HALVES);
        assert_int_equal(p.n_rope, bert ? 0 : 32);
        assert_int_equal(p.n_stop, 0);
        size_t n = vd_program_encode(&p, bytes, sizeof bytes);
        assert_true(vd_program_decode((struct vd_bytes){bytes, n}, &again));
    }
}

/* Of a longer context the program takes what it may. */
static void long_encoder(void **state)
{
    struct vd_test_model t = vd_test_model_of(vd_test_form("bert"));
    struct vd_program p;
    t.ctx = 2500;
    assert_int_equal(derive(&t, NULL, &p, NULL), VD_OK);
    assert_true(p.ctx == 2048 && p.n_positions == 2500);
}

static void pooler(struct vd_gguf_writer *w)
{
    struct vd_rng r = {9, 0};
    vd_test_tensor(w, "cls.weight", VD_WTYPE_F32, 192, 192, 1.0f, 0.0f, &r);
}
static void gate_bias(struct vd_gguf_writer *w)
{
    struct vd_rng r = {9, 0};
    vd_test_tensor(w, "blk.0.ffn_gate.bias", VD_WTYPE_F32, 1, 544, 1.0f, 0.0f, &r);
}
static void q_norm(struct vd_gguf_writer *w)
{
    struct vd_rng r = {9, 0};
    vd_test_tensor(w, "blk.0.attn_q_norm.weight", VD_WTYPE_F32, 1, 64, 1.0f, 0.0f, &r);
}
static void alibi(struct vd_gguf_writer *w)
{
    vd_gguf_add_f32(w, "bert.attention.max_alibi_bias", 8.0f);
}

static void encoder_refusals(void **state)
{
    static const struct {
        const char *form;
        void (*extra)(struct vd_gguf_writer *w);
        enum vd_err code;
        const char *word;
    } cases[] = {
        {"bert", pooler, VD_EUNSUPPORTED, "cls.weight has no place in a bert"},
        {"bert", q_norm, VD_EUNSUPPORTED, "blk.0.attn_q_norm.weight has no place"},
        {"nomic-bert", gate_bias, VD_EUNSUPPORTED, "blk.0.ffn_gate.bias has no place in a nomic-bert"},
        {"bert", alibi, VD_EUNSUPPORTED, "bert.attention.max_alibi_bias"},
    };
    struct vd_error err = {0};
    struct vd_program p;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct vd_test_model t = vd_test_model_of(vd_test_form(cases[i].form));
        assert_int_equal(derive(&t, cases[i].extra, &p, &err), cases[i].code);
        if (!strstr(err.msg, cases[i].word))
            fail_msg("'%s' lacks '%s'", err.msg, cases[i].word);
    }
    struct vd_test_model t = vd_test_model_of(vd_test_form("bert"));
    t.causal = true;
    assert_int_equal(derive(&t, NULL, &p, &err), VD_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "bert.attention.causal is true"));
}

/* Row 0 of the kinds of text, and the parts of fused tensors, of biases too. */
static void encoder_places(void **state)
{
    struct vd_test_model t = vd_test_model_of(vd_test_form("bert-fused"));
    struct vd_derive_place type, k, kb;
    struct vd_program p;
    struct vd_gguf *g;
    struct vd_error err = {0};
    size_t n;
    uint8_t *bytes = vd_test_model_bytes(&t, NULL, &n);
    assert_int_equal(vd_gguf_open(&g, bytes, n, "test.gguf", &err), VD_OK);
    assert_true(vd_derive_is_encoder(g));
    assert_int_equal(vd_derive_program(&p, g, &err), VD_OK);
    assert_true(vd_derive_find(&p, g, vd_program_embed_tensor(&p, VD_E_TYPE), &type));
    assert_true(type.ne[1] == 2 && type.p == type.file->p);
    assert_true(vd_derive_find(&p, g, vd_program_layer_tensor(&p, 1, VD_T_ATTN_K), &k));
    assert_true(k.p == k.file->p + 192 * k.row_bytes);
    assert_true(vd_derive_find(&p, g, vd_program_layer_tensor(&p, 1, VD_T_ATTN_K_BIAS), &kb));
    assert_true(kb.p == kb.file->p + 192 * sizeof(float));
    vd_gguf_close(g);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_file),
        cmocka_unit_test(stop_tokens),
        cmocka_unit_test(refusals),
        cmocka_unit_test(other_names),
        cmocka_unit_test(other_encoders_are_named),
        cmocka_unit_test(lying_sizes),
        cmocka_unit_test(unknown_type),
        cmocka_unit_test(every_form),
        cmocka_unit_test(layers_differ),
        cmocka_unit_test(windows_of_all_layers),
        cmocka_unit_test(stretched),
        cmocka_unit_test(fused_tensors),
        cmocka_unit_test(every_encoder),
        cmocka_unit_test(long_encoder),
        cmocka_unit_test(encoder_refusals),
        cmocka_unit_test(encoder_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
