/* Copies a GGUF file and lowers the precision of one layer's quantised weights: of every weight of Q4_1, Q4_0
 * and the other types with nibbles the lowest bit is rounded away (of four, 3 are left), of every Q8_0 weight
 * the lower four. Or tampers with a tensor in some other way, drawn from a seed. */
#ifndef VD_DEGRADE_H
#define VD_DEGRADE_H

#include "vd_err.h"

#include <stddef.h>
#include <stdint.h>

enum { VD_DEGRADE_WHAT_MAX = 160 };

/* Writes `to` from `from` with layer `layer` (0-based) degraded; *n_changed is the number of bytes that
 * differ. */
enum vd_err vd_degrade_layer(const char *from, const char *to, uint32_t layer, size_t *n_changed,
                             struct vd_error *err);

/* Writes `to` from `from` with one tensor of a layer tampered with, which and how drawn from `seed`: one bit
 * of a weight, a hundred, all of lower precision, or a part of the tensor zero. Scales stay finite. `what`
 * says it. */
enum vd_err vd_degrade_drawn(const char *from, const char *to, uint64_t seed, char what[VD_DEGRADE_WHAT_MAX],
                             struct vd_error *err);

#endif
