/* The model root, its cache file, and proofs of single leaves.
 *
 * Hashing a model costs 30 to 60 ms per 100 MB and core, which every start would pay. So the tensor leaves
 * are kept in a small file under the home folder. Its name is the hash of what identifies the model file's
 * state (path, size, modification time, inode, device); it is believed if its checksum holds and it was made
 * for the same program. Whoever can write into the home folder can replace the binary too, so the cache needs
 * no stronger protection. */
#include "vd_file.h"
#include "vd_memory.h"
#include "vd_merkle.h"
#include "vd_model.h"
#include "vd_model_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    TASK_LEAVES = 1024,
    CACHE_HEAD_BYTES = 16, /* of the cache file: magic and version, then tensor leaves, then a checksum */
};

static const uint8_t cache_magic[CACHE_HEAD_BYTES] = "veridem/roots 1";

static_assert(VD_WEIGHT_PROOF_MAX >= 40, "a tensor has fewer than 2^32 leaves");

/* ------------------------- hashing weights ------------------------- */

struct leaf_job {
    const struct vd_tensor *t;
    uint32_t tensor, parts;
    size_t n_leaves;
    struct vd_hash *leaves;
};

static struct leaf_job leaf_job(const struct vd_model *m, uint32_t tensor, struct vd_hash *leaves)
{
    const struct vd_tensor *t = &m->tensors[tensor];
    uint32_t parts = vd_tensor_parts(t->shape);
    return (struct leaf_job){t, tensor, parts, (size_t)t->shape.rows * parts, leaves};
}

static struct vd_bytes leaf_bytes(const struct vd_tensor *t, uint32_t row, uint32_t part)
{
    const uint8_t *p = t->p + row * t->row_bytes + vd_tensor_part_offset(t->shape, part);
    return (struct vd_bytes){p, vd_tensor_part_bytes(t->shape, part)};
}

static void hash_leaves(void *arg, size_t task, unsigned thread)
{
    const struct leaf_job *j = arg;
    size_t end = (task + 1) * TASK_LEAVES < j->n_leaves ? (task + 1) * TASK_LEAVES : j->n_leaves;
    for (size_t i = task * TASK_LEAVES; i < end; i++) {
        uint32_t row = (uint32_t)(i / j->parts), part = (uint32_t)(i % j->parts);
        struct vd_bytes b = leaf_bytes(j->t, row, part);
        j->leaves[i] = vd_weight_leaf(j->tensor, row, part, b.p, b.n);
    }
}

static void hash_tensor(struct leaf_job *j, struct vd_pool *pool)
{
    size_t n_tasks = (j->n_leaves + TASK_LEAVES - 1) / TASK_LEAVES;
    if (pool && n_tasks > 1)
        vd_pool_run(pool, hash_leaves, j, n_tasks);
    else
        for (size_t i = 0; i < n_tasks; i++)
            hash_leaves(j, i, 0);
}

static size_t most_leaves(const struct vd_model *m)
{
    size_t most = 0;
    for (uint32_t i = 0; i < m->program.n_tensors; i++) {
        size_t n = (size_t)m->tensors[i].shape.rows * vd_tensor_parts(m->tensors[i].shape);
        most = n > most ? n : most;
    }
    return most;
}

static enum vd_err compute_leaves(const struct vd_model *m, struct vd_pool *pool, struct vd_hash *out,
                                  struct vd_error *err)
{
    size_t n = most_leaves(m);
    struct vd_hash *leaves = malloc(n * sizeof *leaves);
    if (!leaves)
        return vd_error_set(err, VD_ENOMEM, "%s: no memory for %zu weight hashes", m->path, n);
    for (uint32_t i = 0; i < m->program.n_tensors; i++) {
        struct leaf_job j = leaf_job(m, i, leaves);
        hash_tensor(&j, pool);
        vd_memory_let_go(m->tensors[i].p, m->tensors[i].row_bytes * m->tensors[i].shape.rows);
        struct vd_hash root = vd_merkle_root(leaves, j.n_leaves);
        out[i] = vd_tensor_leaf(i, m->tensors[i].shape, &root);
    }
    free(leaves);
    return VD_OK;
}

static struct vd_hash root_of(const struct vd_model *m, const struct vd_hash *leaves)
{
    struct vd_hash top = vd_merkle_root(leaves, m->program.n_tensors);
    return vd_program_model_root(vd_model_program_bytes(m), m->program.n_tensors, &top);
}

/* ------------------------- the cache file ------------------------- */

/* Its path; false if there is no home or the model file's state is not certain. */
static bool cache_path(const struct vd_model *m, char out[VD_PATH_MAX])
{
    struct vd_sha256 s;
    struct vd_hash name;
    char hex[2 * VD_HASH_BYTES + 1];
    if (m->id.size_bytes == 0)
        return false;
    vd_sha256_init_tag(&s, "veridem/root-cache");
    vd_sha256_update(&s, m->path, strlen(m->path) + 1);
    vd_sha256_u64(&s, m->id.size_bytes);
    vd_sha256_u64(&s, m->id.mtime_ns);
    vd_sha256_u64(&s, m->id.inode);
    vd_sha256_u64(&s, m->id.device);
    vd_sha256_final(&s, &name);
    vd_hex_encode(hex, name.b, VD_HASH_BYTES);
    return vd_home_path(out, NULL, "cache/roots/%s", hex) == VD_OK;
}

/* Over the program too, so that leaves made by another derivation rule do not count. */
static struct vd_hash cache_checksum(const struct vd_model *m, const uint8_t *file, size_t n_bytes)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init_tag(&s, "veridem/root-cache-file");
    vd_sha256_update(&s, m->program_bytes, m->n_program_bytes);
    vd_sha256_update(&s, file, n_bytes);
    vd_sha256_final(&s, &h);
    return h;
}

static bool cache_read(struct vd_model *m)
{
    char path[VD_PATH_MAX];
    uint8_t *file;
    size_t n, leaves_bytes = m->program.n_tensors * sizeof(struct vd_hash);
    size_t want = CACHE_HEAD_BYTES + leaves_bytes + VD_HASH_BYTES;
    if (!cache_path(m, path) || vd_file_read(&file, &n, path, want, NULL) != VD_OK)
        return false;
    bool ok = n == want && memcmp(file, cache_magic, CACHE_HEAD_BYTES) == 0;
    if (ok) {
        struct vd_hash sum = cache_checksum(m, file, n - VD_HASH_BYTES);
        ok = memcmp(sum.b, file + n - VD_HASH_BYTES, VD_HASH_BYTES) == 0;
    }
    if (ok)
        memcpy(m->tensor_leaves, file + CACHE_HEAD_BYTES, leaves_bytes);
    free(file);
    return ok;
}

/* A cache that cannot be written only costs time, so errors end here. */
static void cache_write(const struct vd_model *m)
{
    char path[VD_PATH_MAX], dir[VD_PATH_MAX];
    size_t leaves_bytes = m->program.n_tensors * sizeof(struct vd_hash);
    size_t n = CACHE_HEAD_BYTES + leaves_bytes + VD_HASH_BYTES;
    uint8_t *file = malloc(n);
    if (file && cache_path(m, path) && vd_home_path(dir, NULL, "cache/roots") == VD_OK &&
        vd_dir_make(dir, NULL) == VD_OK) {
        memcpy(file, cache_magic, CACHE_HEAD_BYTES);
        memcpy(file + CACHE_HEAD_BYTES, m->tensor_leaves, leaves_bytes);
        struct vd_hash sum = cache_checksum(m, file, n - VD_HASH_BYTES);
        memcpy(file + n - VD_HASH_BYTES, sum.b, VD_HASH_BYTES);
        vd_file_write_atomic(path, file, n, 0600, NULL);
    }
    free(file);
}

/* ------------------------- public ------------------------- */

enum vd_err vd_model_root_compute(const struct vd_model *m, struct vd_pool *pool, struct vd_hash *out,
                                  struct vd_error *err)
{
    struct vd_hash *leaves = malloc(m->program.n_tensors * sizeof *leaves);
    if (!leaves)
        return vd_error_set(err, VD_ENOMEM, "%s: no memory for the tensors' hashes", m->path);
    enum vd_err rc = compute_leaves(m, pool, leaves, err);
    if (rc == VD_OK)
        *out = root_of(m, leaves);
    free(leaves);
    return rc;
}

static enum vd_err know_root(struct vd_model *m, struct vd_pool *pool, struct vd_error *err)
{
    if (m->root_known)
        return VD_OK;
    if (!cache_read(m)) {
        enum vd_err rc = compute_leaves(m, pool, m->tensor_leaves, err);
        if (rc != VD_OK)
            return rc;
        cache_write(m);
    }
    m->root = root_of(m, m->tensor_leaves);
    m->root_known = true;
    return VD_OK;
}

enum vd_err vd_model_root(struct vd_model *m, struct vd_pool *pool, struct vd_hash *out, struct vd_error *err)
{
    pthread_mutex_lock(&m->root_lock);
    enum vd_err rc = know_root(m, pool, err);
    if (rc == VD_OK)
        *out = m->root;
    pthread_mutex_unlock(&m->root_lock);
    return rc;
}

enum vd_err vd_model_weight_proof(struct vd_model *m, struct vd_pool *pool, uint32_t tensor, uint32_t row,
                                  uint32_t part, struct vd_weight_proof *out, struct vd_error *err)
{
    struct vd_hash root;
    assert(tensor < m->program.n_tensors);
    struct leaf_job j = leaf_job(m, tensor, NULL);
    assert(row < j.t->shape.rows && part < j.parts);
    enum vd_err rc = vd_model_root(m, pool, &root, err);
    if (rc != VD_OK)
        return rc;
    j.leaves = malloc(j.n_leaves * sizeof *j.leaves);
    if (!j.leaves)
        return vd_error_set(err, VD_ENOMEM, "%s: no memory for %zu weight hashes", m->path, j.n_leaves);
    hash_tensor(&j, pool);
    size_t leaf = (size_t)row * j.parts + part;
    out->tensor = tensor;
    out->row = row;
    out->part = part;
    out->bytes = leaf_bytes(j.t, row, part);
    out->n_path = vd_merkle_range_proof_len(j.n_leaves, leaf, 1);
    out->n_tensor_path = vd_merkle_range_proof_len(m->program.n_tensors, tensor, 1);
    vd_merkle_range_prove(j.leaves, j.n_leaves, leaf, 1, out->path);
    vd_merkle_range_prove(m->tensor_leaves, m->program.n_tensors, tensor, 1, out->tensor_path);
    free(j.leaves);
    return VD_OK;
}
