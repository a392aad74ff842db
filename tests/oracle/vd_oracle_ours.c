/* Our logits of a list of tokens, as binary32 in the machine's order, to compare with another engine's:
 *
 *   vd_oracle_ours MODEL OUT TOKEN...             every row of V logits, in the order of the tokens
 *   vd_oracle_ours --last MODEL OUT TOKEN...      the d elements of their vector, pooled so
 *   vd_oracle_ours --mean MODEL OUT TOKEN...
 *   vd_oracle_ours --cls MODEL OUT TOKEN...       encoders */
#include "vd_embed.h"
#include "vd_forward.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 4096 };

static void die_if(enum vd_err rc, const struct vd_error *err)
{
    if (rc == VD_OK)
        return;
    fprintf(stderr, "%s\n", err->msg);
    exit(3);
}

static int write_vector(const struct vd_model *m, const struct vd_ctx *ctx, size_t n, enum vd_pooling pooling,
                        FILE *out)
{
    struct vd_embed *e;
    struct vd_error err;
    size_t d = vd_model_program(m)->width;
    die_if(vd_embed_create(&e, m, pooling, &err), &err);
    size_t first = pooling == VD_POOLING_LAST ? n - 1 : 0;
    for (size_t i = first; i < (pooling == VD_POOLING_CLS ? 1 : n); i++)
        vd_embed_add(e, vd_ctx_hidden(ctx, i));
    return fwrite(vd_embed_vector(e), sizeof(float), d, out) == d && fclose(out) == 0 ? 0 : 3;
}

int main(int argc, char **argv)
{
    enum vd_pooling pooling = VD_POOLING_NONE;
    if (argc > 1 && strcmp(argv[1], "--last") == 0)
        pooling = VD_POOLING_LAST;
    if (argc > 1 && strcmp(argv[1], "--mean") == 0)
        pooling = VD_POOLING_MEAN;
    if (argc > 1 && strcmp(argv[1], "--cls") == 0)
        pooling = VD_POOLING_CLS;
    argc -= pooling != VD_POOLING_NONE;
    argv += pooling != VD_POOLING_NONE;
    static struct vd_row rows[TOKENS_MAX];
    struct vd_error err;
    struct vd_pool *pool;
    struct vd_model *m;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    struct vd_kv *kv;
    size_t n = argc > 3 ? (size_t)argc - 3 : 0;
    FILE *out = n && n <= TOKENS_MAX ? fopen(argv[2], "wb") : NULL;
    if (!out) {
        fputs("usage: vd_oracle_ours MODEL OUT TOKEN...\n", stderr);
        return 2;
    }
    die_if(vd_pool_create(&pool, 2, &err), &err);
    die_if(vd_model_open(&m, argv[1], vd_kern_pick(NULL, NULL), pool, &err), &err);
    die_if(vd_ctx_create(&ctx, m, pool, n, n, &err), &err);
    die_if(vd_kv_pool_create(&cache, m, SIZE_MAX, &err), &err);
    die_if(vd_kv_open(&kv, cache, &err), &err);
    for (size_t i = 0; i < n; i++)
        rows[i] = (struct vd_row){kv, (uint32_t)i, (uint32_t)strtoul(argv[3 + i], NULL, 10), VD_ROW_LOGITS};
    die_if(vd_model_forward(ctx, rows, n, NULL, &err), &err);
    if (pooling != VD_POOLING_NONE)
        return write_vector(m, ctx, n, pooling, out);
    size_t vocab = vd_model_program(m)->vocab, written = 0;
    for (size_t i = 0; i < n; i++)
        written += fwrite(vd_ctx_logits(ctx, i), sizeof(float), vocab, out);
    return fclose(out) == 0 && written == n * vocab ? 0 : 3;
}
