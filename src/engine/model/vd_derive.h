/* From a GGUF file to a program: derivation rule 1 of docs/spec/program.md, with one rule per architecture.
 *
 * The rule is strict: an architecture, a key of the architecture or a tensor that it does not know is refused
 * by name, since each may mean a computation that the program does not describe.
 *
 * Thread rule: pure functions. Nothing allocates, and nothing in a file can abort. */
#ifndef VD_DERIVE_H
#define VD_DERIVE_H

#include "vd_err.h"
#include "vd_gguf.h"
#include "vd_program.h"

/* Derives *out and checks every tensor's presence, type and shape. VD_EUNSUPPORTED (architecture, type, key
 * or tensor that the rule does not know; the message lists what it knows), VD_EFORMAT (the file contradicts
 * itself), VD_ENOTFOUND (a key or tensor is missing), VD_ELIMIT. Weights are not looked at, but for RoPE's
 * factors, which become part of the program. */
enum vd_err vd_derive_program(struct vd_program *out, const struct vd_gguf *g, struct vd_error *err);

/* Whether the file's architecture is one of the encoders that derivation knows. */
bool vd_derive_is_encoder(const struct vd_gguf *g);

/* A tensor's bytes in the file. */
struct vd_derive_place {
    const struct vd_gguf_tensor *file; /* may hold more than this one */
    const uint8_t *p;                  /* the first row */
    uint64_t row_bytes;
    uint64_t ne[3]; /* what the dimensions of `file` must be */
};

/* Where a tensor lies, by canonical number; false if the file does not have it. *p need not be valid, but its
 * sizes and features must be within the limits. */
bool vd_derive_find(const struct vd_program *p, const struct vd_gguf *g, uint32_t tensor,
                    struct vd_derive_place *out);

/* The file's name of a tensor, by canonical number, where each is one of its own. */
void vd_derive_tensor_name(const struct vd_program *p, uint32_t tensor, char out[VD_GGUF_NAME_BYTES_MAX + 1]);

#endif
