/* The hashes of trace, commitment and tokens (docs/spec/proof.md, section 3).
 *
 * Every hash of the trace is salted per step, because whoever holds the model could else confirm a guessed
 * prompt. Leaves start with a byte 0x00, so that none can pass for a Merkle node.
 *
 * Cost: on the honest path a position hashes one unit (last block: K, V and X rows), the head's unit, one
 * commit leaf and one token leaf: some 90 blocks of SHA-256 for d = 576. Sixteen positions together take
 * about a microsecond each, one alone some more.
 *
 * Thread rule: pure functions. Nothing allocates. */
#ifndef VD_TRACE_HASH_H
#define VD_TRACE_HASH_H

#include "vd_bytes.h"
#include "vd_merkle.h"
#include "vd_sha256.h"

enum { VD_JOB_SALT_BYTES = 32 };

/* salt(s) of position s. */
struct vd_hash vd_trace_salt(const uint8_t job_salt[VD_JOB_SALT_BYTES], uint32_t s);
/* Those of positions first .. first + n - 1; faster than one by one. */
void vd_trace_salts(const uint8_t job_salt[VD_JOB_SALT_BYTES], uint32_t first, size_t n, struct vd_hash *out);

/* Instead of VECTOR's number: its leaves are hashed without an address, by vd_vector_leaf. */
#define VD_TRACE_OP_VECTOR UINT32_MAX

/* The address that every leaf of an operator shares. */
struct vd_trace_at {
    struct vd_hash salt; /* salt(step) */
    uint32_t step, unit, op;
};

struct vd_hash vd_trace_leaf(const struct vd_trace_at *at, uint32_t leaf, const void *bytes, size_t n_bytes);

/* Steps that follow each other, whose hashes are made together: faster than one by one, best from 16 on. */
struct vd_trace_steps {
    uint32_t first;
    size_t n;
    const struct vd_hash *salt; /* n of them */
};
enum { VD_TRACE_LEAF_HEAD_BYTES = 14 + VD_HASH_BYTES + 4 * 4 }; /* before a leaf's bytes; not of VECTOR */
/* A leaf of an operator at each of these steps. That of step i has its n_bytes behind
 * VD_TRACE_LEAF_HEAD_BYTES at msg + i * stride, which are written here. */
void vd_trace_leaves(const struct vd_trace_steps *steps, uint32_t unit, uint32_t op, uint32_t leaf,
                     uint8_t *msg, size_t stride, size_t n_bytes, struct vd_hash *out);
/* vd_trace_unit of each; root o of step i is outs[o * steps->n + i]. */
void vd_trace_units(const struct vd_trace_steps *steps, uint32_t unit, const struct vd_hash *outs,
                    unsigned n_outs, struct vd_hash *out);

/* MTH over the leaves of an operator: its records, one after the other, are cut into leaves of leaf_bytes
 * (the last may be shorter). n_bytes > 0. */
struct vd_hash vd_trace_op_root(const struct vd_trace_at *at, const void *records, size_t n_bytes,
                                size_t leaf_bytes);
/* outs: the roots of the operators that vd_graph_outs lists, in its order. at->op is not read. */
struct vd_hash vd_trace_unit(const struct vd_trace_at *at, const struct vd_hash *outs, unsigned n_outs);
/* The leaf of the state tree: of a step whose unit hashes have the root step_root. */
struct vd_hash vd_trace_step(uint32_t s, const struct vd_hash *step_root);
/* head: the head's unit hash, NULL where the step has none (32 zero bytes). */
struct vd_hash vd_commit_leaf(uint32_t s, const struct vd_hash *block, const struct vd_hash *head);
/* Those of steps first .. first + n - 1; head[i] is zero where the step has none. */
void vd_commit_leaves(uint32_t first, size_t n, const struct vd_hash *block, const struct vd_hash *head,
                      struct vd_hash *out);

/* salt: salt(i) of sequence position i. */
struct vd_hash vd_token_leaf(const struct vd_hash *salt, uint32_t i, uint32_t token);
/* Those of n tokens at positions first, first + 1, ..., whose salts these are; faster than one by one. out
 * may be salt. */
void vd_token_leaves(const struct vd_hash *salt, uint32_t first, const uint32_t *token, size_t n,
                     struct vd_hash *out);
/* Root over n tokens at sequence positions first, first + 1, ...: the prompt root (first = 0) and the output
 * root (first = p). n == 0: 32 zero bytes. */
struct vd_hash vd_token_root(const uint8_t job_salt[VD_JOB_SALT_BYTES], uint32_t first,
                             const uint32_t *tokens, uint32_t n);

/* VECTOR's leaf k, so that who has no program can make the output root of a vector: H(0x00, "veridem/vector",
 * salt(p - 1), u32 k, u32 bits). */
struct vd_hash vd_vector_leaf(const struct vd_hash *salt, uint32_t k, uint32_t bits);
/* The output root of a vector, given as the bits of its n elements. n == 0: 32 zero bytes. */
struct vd_hash vd_vector_root(const uint8_t job_salt[VD_JOB_SALT_BYTES], uint32_t n_prompt,
                              const uint32_t *bits, uint32_t n);

/* What a request says of its tables: H("veridem/bias", bytes), H("veridem/mask", bytes); zeros for none. */
struct vd_hash vd_bias_hash(struct vd_bytes bias);
struct vd_hash vd_mask_hash(struct vd_bytes mask);
/* A leaf of the tree over a model's token texts, which a mask names (section 1). */
struct vd_hash vd_text_leaf(uint32_t id, struct vd_bytes text);

#endif
