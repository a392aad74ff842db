/* Each hash is one line of the spec. Leaves are hashed from where the records lie: the engine hands its rows
 * over without a copy. */
#include "vd_trace_hash.h"

#include <assert.h>

enum {
    GROUP = 64, /* hashes that are made together */
    LEAF_TAG = sizeof "\0veridem/leaf",
    UNIT_TAG = sizeof "\0veridem/unit",
    COMMIT_TAG = sizeof "\0veridem/commit",
    UNIT_OUTS_MAX = 3
};

static_assert(LEAF_TAG == VD_TRACE_LEAF_HEAD_BYTES - VD_HASH_BYTES - 16, "a leaf's head");

static void start_leaf(struct vd_sha256 *s, const char *tag)
{
    vd_sha256_init(s);
    vd_sha256_update(s, "\0", 1);
    vd_sha256_update(s, tag, strlen(tag) + 1);
}

static struct vd_hash finish(struct vd_sha256 *s)
{
    struct vd_hash h;
    vd_sha256_final(s, &h);
    return h;
}

struct vd_hash vd_trace_salt(const uint8_t job_salt[VD_JOB_SALT_BYTES], uint32_t s)
{
    uint8_t msg[sizeof "veridem/salt" + 4] = "veridem/salt";
    vd_le32_store(msg + sizeof "veridem/salt", s);
    return vd_hmac_sha256(job_salt, VD_JOB_SALT_BYTES, msg, sizeof msg);
}

/* HMAC's two hashes, each of several positions together. */
void vd_trace_salts(const uint8_t job_salt[VD_JOB_SALT_BYTES], uint32_t first, size_t n, struct vd_hash *out)
{
    enum { BLOCK = 64, TAG = sizeof "veridem/salt", INNER = BLOCK + TAG + 4, OUTER = BLOCK + VD_HASH_BYTES };
    uint8_t buf[GROUP][OUTER];
    for (size_t done = 0; done < n; done += GROUP) {
        size_t some = n - done < GROUP ? n - done : GROUP;
        for (size_t i = 0; i < some; i++) {
            for (size_t k = 0; k < BLOCK; k++)
                buf[i][k] = (k < VD_JOB_SALT_BYTES ? job_salt[k] : 0) ^ 0x36;
            memcpy(buf[i] + BLOCK, "veridem/salt", TAG);
            vd_le32_store(buf[i] + BLOCK + TAG, first + (uint32_t)(done + i));
        }
        vd_sha256_many(buf, OUTER, INNER, some, out + done);
        for (size_t i = 0; i < some; i++) {
            for (size_t k = 0; k < BLOCK; k++)
                buf[i][k] ^= 0x36 ^ 0x5c;
            memcpy(buf[i] + BLOCK, out[done + i].b, VD_HASH_BYTES);
        }
        vd_sha256_many(buf, OUTER, OUTER, some, out + done);
    }
}

static void put_leaf_head(uint8_t out[VD_TRACE_LEAF_HEAD_BYTES], const struct vd_hash *salt, uint32_t step,
                          uint32_t unit, uint32_t op, uint32_t leaf)
{
    uint8_t *p = out + LEAF_TAG + VD_HASH_BYTES;
    memcpy(out, "\0veridem/leaf", LEAF_TAG);
    memcpy(out + LEAF_TAG, salt->b, VD_HASH_BYTES);
    vd_le32_store(p, step);
    vd_le32_store(p + 4, unit);
    vd_le32_store(p + 8, op);
    vd_le32_store(p + 12, leaf);
}

struct vd_hash vd_trace_leaf(const struct vd_trace_at *at, uint32_t leaf, const void *bytes, size_t n_bytes)
{
    uint8_t head[VD_TRACE_LEAF_HEAD_BYTES];
    struct vd_sha256 s;
    if (at->op == VD_TRACE_OP_VECTOR)
        return vd_vector_leaf(&at->salt, leaf, vd_le32_load(bytes)); /* of one element */
    put_leaf_head(head, &at->salt, at->step, at->unit, at->op, leaf);
    vd_sha256_init(&s);
    vd_sha256_update(&s, head, sizeof head);
    vd_sha256_update(&s, bytes, n_bytes);
    return finish(&s);
}

void vd_trace_leaves(const struct vd_trace_steps *steps, uint32_t unit, uint32_t op, uint32_t leaf,
                     uint8_t *msg, size_t stride, size_t n_bytes, struct vd_hash *out)
{
    assert(op != VD_TRACE_OP_VECTOR);
    for (size_t i = 0; i < steps->n; i++)
        put_leaf_head(msg + i * stride, &steps->salt[i], steps->first + (uint32_t)i, unit, op, leaf);
    vd_sha256_many(msg, stride, VD_TRACE_LEAF_HEAD_BYTES + n_bytes, steps->n, out);
}

struct vd_hash vd_trace_op_root(const struct vd_trace_at *at, const void *records, size_t n_bytes,
                                size_t leaf_bytes)
{
    struct vd_merkle_stream tree;
    const uint8_t *p = records;
    if (n_bytes <= leaf_bytes)
        return vd_trace_leaf(at, 0, p, n_bytes);
    vd_merkle_stream_init(&tree);
    for (uint32_t k = 0; n_bytes; k++) {
        size_t n = n_bytes < leaf_bytes ? n_bytes : leaf_bytes;
        struct vd_hash h = vd_trace_leaf(at, k, p, n);
        vd_merkle_stream_add(&tree, &h);
        p += n;
        n_bytes -= n;
    }
    return vd_merkle_stream_root(&tree);
}

struct vd_hash vd_trace_unit(const struct vd_trace_at *at, const struct vd_hash *outs, unsigned n_outs)
{
    struct vd_sha256 s;
    start_leaf(&s, "veridem/unit");
    vd_sha256_hash(&s, &at->salt);
    vd_sha256_u32(&s, at->step);
    vd_sha256_u32(&s, at->unit);
    for (unsigned i = 0; i < n_outs; i++)
        vd_sha256_hash(&s, &outs[i]);
    return finish(&s);
}

void vd_trace_units(const struct vd_trace_steps *steps, uint32_t unit, const struct vd_hash *outs,
                    unsigned n_outs, struct vd_hash *out)
{
    enum { OUTS = UNIT_TAG + VD_HASH_BYTES + 8 };
    uint8_t buf[GROUP][OUTS + UNIT_OUTS_MAX * VD_HASH_BYTES];
    assert(n_outs <= UNIT_OUTS_MAX);
    for (size_t done = 0; done < steps->n; done += GROUP) {
        size_t some = steps->n - done < GROUP ? steps->n - done : GROUP;
        for (size_t i = 0; i < some; i++) {
            memcpy(buf[i], "\0veridem/unit", UNIT_TAG);
            memcpy(buf[i] + UNIT_TAG, steps->salt[done + i].b, VD_HASH_BYTES);
            vd_le32_store(buf[i] + OUTS - 8, steps->first + (uint32_t)(done + i));
            vd_le32_store(buf[i] + OUTS - 4, unit);
            for (unsigned o = 0; o < n_outs; o++)
                memcpy(buf[i] + OUTS + o * VD_HASH_BYTES, outs[o * steps->n + done + i].b, VD_HASH_BYTES);
        }
        vd_sha256_many(buf, sizeof buf[0], OUTS + n_outs * VD_HASH_BYTES, some, out + done);
    }
}

struct vd_hash vd_trace_step(uint32_t step, const struct vd_hash *step_root)
{
    struct vd_sha256 s;
    start_leaf(&s, "veridem/step");
    vd_sha256_u32(&s, step);
    vd_sha256_hash(&s, step_root);
    return finish(&s);
}

struct vd_hash vd_commit_leaf(uint32_t step, const struct vd_hash *block, const struct vd_hash *head)
{
    static const struct vd_hash zero;
    struct vd_sha256 s;
    start_leaf(&s, "veridem/commit");
    vd_sha256_u32(&s, step);
    vd_sha256_hash(&s, block);
    vd_sha256_hash(&s, head ? head : &zero);
    return finish(&s);
}

void vd_commit_leaves(uint32_t first, size_t n, const struct vd_hash *block, const struct vd_hash *head,
                      struct vd_hash *out)
{
    enum { HASHES = COMMIT_TAG + 4 };
    uint8_t buf[GROUP][HASHES + 2 * VD_HASH_BYTES];
    for (size_t done = 0; done < n; done += GROUP) {
        size_t some = n - done < GROUP ? n - done : GROUP;
        for (size_t i = 0; i < some; i++) {
            memcpy(buf[i], "\0veridem/commit", COMMIT_TAG);
            vd_le32_store(buf[i] + COMMIT_TAG, first + (uint32_t)(done + i));
            memcpy(buf[i] + HASHES, block[done + i].b, VD_HASH_BYTES);
            memcpy(buf[i] + HASHES + VD_HASH_BYTES, head[done + i].b, VD_HASH_BYTES);
        }
        vd_sha256_many(buf, sizeof buf[0], sizeof buf[0], some, out + done);
    }
}

struct vd_hash vd_token_leaf(const struct vd_hash *salt, uint32_t i, uint32_t token)
{
    struct vd_sha256 s;
    start_leaf(&s, "veridem/token");
    vd_sha256_hash(&s, salt);
    vd_sha256_u32(&s, i);
    vd_sha256_u32(&s, token);
    return finish(&s);
}

void vd_token_leaves(const struct vd_hash *salt, uint32_t first, const uint32_t *token, size_t n,
                     struct vd_hash *out)
{
    enum { TAG = sizeof "\0veridem/token", BYTES = TAG + VD_HASH_BYTES + 8 };
    uint8_t buf[GROUP][BYTES];
    for (size_t done = 0; done < n; done += GROUP) {
        size_t some = n - done < GROUP ? n - done : GROUP;
        for (size_t i = 0; i < some; i++) {
            memcpy(buf[i], "\0veridem/token", TAG);
            memcpy(buf[i] + TAG, salt[done + i].b, VD_HASH_BYTES);
            vd_le32_store(buf[i] + TAG + VD_HASH_BYTES, first + (uint32_t)(done + i));
            vd_le32_store(buf[i] + TAG + VD_HASH_BYTES + 4, token[done + i]);
        }
        vd_sha256_many(buf, BYTES, BYTES, some, out + done);
    }
}

static struct vd_hash table_hash(const char *tag, struct vd_bytes table)
{
    struct vd_sha256 s;
    if (table.n == 0)
        return (struct vd_hash){{0}};
    vd_sha256_init_tag(&s, tag);
    vd_sha256_update(&s, table.p, table.n);
    return finish(&s);
}

struct vd_hash vd_bias_hash(struct vd_bytes bias)
{
    return table_hash("veridem/bias", bias);
}

struct vd_hash vd_mask_hash(struct vd_bytes mask)
{
    return table_hash("veridem/mask", mask);
}

struct vd_hash vd_text_leaf(uint32_t id, struct vd_bytes text)
{
    struct vd_sha256 s;
    start_leaf(&s, "veridem/text");
    vd_sha256_u32(&s, id);
    vd_sha256_update(&s, text.p, text.n);
    return finish(&s);
}

struct vd_hash vd_token_root(const uint8_t job_salt[VD_JOB_SALT_BYTES], uint32_t first,
                             const uint32_t *tokens, uint32_t n)
{
    struct vd_merkle_stream tree;
    struct vd_hash salt[GROUP], leaf[GROUP];
    if (n == 0)
        return (struct vd_hash){{0}};
    vd_merkle_stream_init(&tree);
    for (uint32_t done = 0; done < n; done += GROUP) {
        uint32_t some = n - done < GROUP ? n - done : GROUP;
        vd_trace_salts(job_salt, first + done, some, salt);
        vd_token_leaves(salt, first + done, tokens + done, some, leaf);
        vd_merkle_stream_add_all(&tree, leaf, some);
    }
    return vd_merkle_stream_root(&tree);
}

struct vd_hash vd_vector_leaf(const struct vd_hash *salt, uint32_t k, uint32_t bits)
{
    struct vd_sha256 s;
    start_leaf(&s, "veridem/vector");
    vd_sha256_hash(&s, salt);
    vd_sha256_u32(&s, k);
    vd_sha256_u32(&s, bits);
    return finish(&s);
}

struct vd_hash vd_vector_root(const uint8_t job_salt[VD_JOB_SALT_BYTES], uint32_t n_prompt,
                              const uint32_t *bits, uint32_t n)
{
    struct vd_merkle_stream tree;
    if (n == 0)
        return (struct vd_hash){{0}};
    struct vd_hash salt = vd_trace_salt(job_salt, n_prompt - 1);
    vd_merkle_stream_init(&tree);
    for (uint32_t k = 0; k < n; k++) {
        struct vd_hash leaf = vd_vector_leaf(&salt, k, bits[k]);
        vd_merkle_stream_add(&tree, &leaf);
    }
    return vd_merkle_stream_root(&tree);
}
