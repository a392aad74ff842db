/* The tiles of vd_kern_mat_neon.c once more, compiled for CPUs that multiply 8-bit matrices (SMMLA). */
#include "vd_kern_neon_super.h"

TILE_FNS
SUPER_FNS
const vd_neon_tiles vd_neon_mma_tiles[VD_NEON_TYPES] = {TILE_ENTRIES, SUPER_ENTRIES};
