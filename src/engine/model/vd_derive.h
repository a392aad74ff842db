/* From a GGUF file to a program: derivation rule 1 of docs/spec/program.md.
 *
 * The rule is strict: a key of the architecture that it does not know, or a tensor that it would not use, is
 * refused, since both may mean a computation that the program does not describe.
 *
 * Thread rule: pure functions. Nothing allocates, and nothing in a file can abort. */
#ifndef VD_DERIVE_H
#define VD_DERIVE_H

#include "vd_err.h"
#include "vd_gguf.h"
#include "vd_program.h"

/* Derives *out and checks every tensor's presence, type and shape. VD_EUNSUPPORTED (architecture, type, key
 * or tensor that the rule does not know; the message lists what it knows), VD_EFORMAT (the file contradicts
 * itself), VD_ENOTFOUND (a key or tensor is missing), VD_ELIMIT. Weights are not looked at. */
enum vd_err vd_derive_program(struct vd_program *out, const struct vd_gguf *g, struct vd_error *err);

/* The file's name of a tensor, by canonical number. */
void vd_derive_tensor_name(const struct vd_program *p, uint32_t tensor, char out[VD_GGUF_NAME_BYTES_MAX + 1]);

#endif
