/* The same as vd_oracle_ours by llama.cpp's library, with a cache in binary32. Built by oracle_test.py
 * against the build that it is given; never a part of ours. */
#include "llama.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void quiet(enum ggml_log_level level, const char *text, void *arg)
{
    (void)arg;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

/* The vector of all tokens, pooled; not of length 1 here. */
static int write_vector(struct llama_context *ctx, size_t width, FILE *out)
{
    const float *v = llama_get_embeddings_seq(ctx, 0);
    return v && fwrite(v, sizeof *v, width, out) == width && fclose(out) == 0 ? 0 : 3;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        enum llama_pooling_type type;
    } ways[] = {{"--last", LLAMA_POOLING_TYPE_LAST},
                {"--mean", LLAMA_POOLING_TYPE_MEAN},
                {"--cls", LLAMA_POOLING_TYPE_CLS}};
    enum llama_pooling_type pooling = LLAMA_POOLING_TYPE_NONE;
    for (size_t i = 0; argc > 1 && i < sizeof ways / sizeof *ways; i++)
        if (strcmp(argv[1], ways[i].name) == 0)
            pooling = ways[i].type;
    bool pools = pooling != LLAMA_POOLING_TYPE_NONE;
    argv += pools;
    argc -= pools;
    int n = argc - 3;
    FILE *out = n > 0 ? fopen(argv[2], "wb") : NULL;
    if (!out)
        return 2;
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model *m = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!m)
        return 3;
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = (uint32_t)llama_model_n_ctx_train(m); /* LongRoPE goes by it */
    p.n_ctx = p.n_ctx > 4096 ? 4096 : p.n_ctx;
    p.n_batch = p.n_ubatch = 512;
    p.n_threads = p.n_threads_batch = 2;
    p.type_k = p.type_v = GGML_TYPE_F32;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    p.embeddings = pools;
    p.pooling_type = pooling;
    struct llama_context *ctx = llama_init_from_model(m, p);
    struct llama_batch b = llama_batch_init(n, 0, 1);
    for (int i = 0; i < n; i++) {
        b.token[i] = atoi(argv[3 + i]);
        b.pos[i] = i;
        b.n_seq_id[i] = 1;
        b.seq_id[i][0] = 0;
        b.logits[i] = 1;
    }
    b.n_tokens = n;
    bool encoder = ctx && !llama_get_memory(ctx);
    if (!ctx || (encoder ? llama_encode(ctx, b) : llama_decode(ctx, b)) != 0)
        return 3;
    if (pools)
        return write_vector(ctx, (size_t)llama_model_n_embd(m), out);
    size_t vocab = (size_t)llama_vocab_n_tokens(llama_model_get_vocab(m)), written = 0;
    for (int i = 0; i < n; i++)
        written += fwrite(llama_get_logits_ith(ctx, i), sizeof(float), vocab, out);
    return fclose(out) == 0 && written == (size_t)n * vocab ? 0 : 3;
}
