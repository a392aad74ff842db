/* The tiles of vd_kern_neon_dot.h once more, compiled for CPUs that multiply 8-bit matrices (SMMLA). */
#include "vd_kern_neon_dot.h"

TILE_FNS
const vd_neon_tiles vd_neon_mma_tiles[] = TILE_TABLE;
