/* Routing to experts: which of them a position uses, and with what weight.
 *
 * The n_used largest of n logits are chosen, in the order of vd_num_sample_key: key descending, then id
 * ascending. With max the first one's logit,
 *
 *   p_e = exp(x_e - max)
 *   den = p of the chosen ones added up in their order (norm: weights that add up to 1), or p of all added
 * up, ids ascending weight = p / den, a NaN stored as 7FC00000
 *
 * If any logit is NaN the chosen are 0 .. n_used - 1, each with the weight 7FC00000. */
#ifndef VD_ROUTE_H
#define VD_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#define VD_ROUTE_MAX      512u /* experts */
#define VD_ROUTE_USED_MAX 16u

/* x[0..n): the router's logits, n <= VD_ROUTE_MAX; expert[0..n_used), weight[0..n_used) are filled, n_used in
 * 1 .. n and at most VD_ROUTE_USED_MAX. */
void vd_num_route(const float *x, uint32_t n, uint32_t n_used, bool norm, uint32_t *expert, float *weight);

/* What the chosen experts' outputs add up to: acc = +0; acc = fma(weight[s], y[s], acc), s ascending. */
float vd_num_mix(const float *weight, const float *y, uint32_t n_used);

#endif
