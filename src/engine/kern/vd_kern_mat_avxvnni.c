/* Matrix products with AVX2 and AVX-VNNI. */
#define VD_YMM_VNNI   1
#define VD_YMM_MATMUL vd_avxvnni_matmul
#define VD_YMM_BOUNDS vd_avxvnni_bounds
#include "vd_kern_mat_ymm.inc"
#include "vd_kern_split_ymm.inc"
