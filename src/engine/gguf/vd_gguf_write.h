/* Makes GGUF version 3 files in memory: for tests, generators of random models, and rewriting of a model's
 * parts.
 *
 * Add keys and tensors in any order, then finish. Errors stick: after the first, every call does nothing and
 * vd_gguf_writer_finish says what it was. The writer checks names, types and sizes, so that what it finishes
 * opens with vd_gguf_open; duplicate names are found by the finish.
 *
 * Ownership: everything is copied. Thread rule: one thread at a time. */
#ifndef VD_GGUF_WRITE_H
#define VD_GGUF_WRITE_H

#include "vd_gguf.h"

struct vd_gguf_writer;

/* A file of at most max_bytes; NULL if there is no memory. Tensor data are aligned to
 * VD_GGUF_ALIGNMENT_DEFAULT, or to the value of a "general.alignment" key that is added before the first
 * tensor. */
struct vd_gguf_writer *vd_gguf_writer_new(size_t max_bytes);
void vd_gguf_writer_free(struct vd_gguf_writer *w); /* NULL is fine */

void vd_gguf_add_u32(struct vd_gguf_writer *w, const char *key, uint32_t v);
void vd_gguf_add_i32(struct vd_gguf_writer *w, const char *key, int32_t v);
void vd_gguf_add_u64(struct vd_gguf_writer *w, const char *key, uint64_t v);
void vd_gguf_add_f32(struct vd_gguf_writer *w, const char *key, float v);
void vd_gguf_add_bool(struct vd_gguf_writer *w, const char *key, bool v);
void vd_gguf_add_str(struct vd_gguf_writer *w, const char *key, const char *text);
void vd_gguf_add_array_i32(struct vd_gguf_writer *w, const char *key, const int32_t *v, size_t n);
void vd_gguf_add_array_f32(struct vd_gguf_writer *w, const char *key, const float *v, size_t n);
void vd_gguf_add_array_str(struct vd_gguf_writer *w, const char *key, const struct vd_gguf_str *v, size_t n);

/* A key of another file, of any type, as it is. */
void vd_gguf_add_kv(struct vd_gguf_writer *w, const struct vd_gguf_kv *kv);

/* A tensor; `bytes` must hold as many as type and dimensions say. NULL for all tensors or for none: then only
 * the file's head is made, by vd_gguf_writer_head, and the caller writes the data behind it. */
void vd_gguf_add_tensor(struct vd_gguf_writer *w, const char *name, uint32_t type_id, const uint64_t *ne,
                        uint32_t n_dims, const void *bytes);

/* Everything before the data, padding included. The data follow in the order of the tensors, each begun at a
 * multiple of the alignment. Errors and ownership as below. */
enum vd_err vd_gguf_writer_head(struct vd_gguf_writer *w, uint8_t **out, size_t *n_bytes,
                                struct vd_error *err);

/* The file: *out is freed with free(). The writer may only be freed after this. VD_ELIMIT, VD_ENOMEM, VD_EUSE
 * (a name or tensor that breaks the format; the message says which) or VD_EFORMAT (a duplicate). */
enum vd_err vd_gguf_writer_finish(struct vd_gguf_writer *w, uint8_t **out, size_t *n_bytes,
                                  struct vd_error *err);

#endif
