/* Private to this folder: blocks of several messages at once. */
#ifndef VD_SHA256_IMPL_H
#define VD_SHA256_IMPL_H

#include "vd_sha256.h"

enum { VD_SHA256_BLOCK = 64, VD_SHA256_LANES = 16 };

extern const uint32_t vd_sha256_round[64];

/* One block of each message: word k of message i's state is state[k][i]. */
void vd_sha256_lanes_avx512(uint32_t state[8][VD_SHA256_LANES], const uint8_t *const p[VD_SHA256_LANES]);

#endif
