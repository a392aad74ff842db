/* Matrix products with AVX2 and AVX-VNNI. */
#define VD_YMM_VNNI   1
#define VD_YMM_MATMUL vd_avxvnni_matmul
#include "vd_kern_mat_ymm.inc"
