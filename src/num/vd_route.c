/* Chosen by n_used passes over at most 512 logits: next to the products of one expert that is nothing. */
#include "vd_route.h"

#include <assert.h>
#include <math.h>

#include "vd_exp.h"
#include "vd_num.h"
#include "vd_sample.h"

/* The first in the order among those that stand after `last`. */
static uint32_t next_expert(const float *x, uint32_t n, bool first, uint32_t last)
{
    uint32_t best = UINT32_MAX, best_key = 0, last_key = first ? 0 : vd_num_sample_key(x[last]);
    for (uint32_t e = 0; e < n; e++) {
        uint32_t key = vd_num_sample_key(x[e]);
        if (!first && (key > last_key || (key == last_key && e <= last)))
            continue;
        if (best == UINT32_MAX || key > best_key) {
            best = e;
            best_key = key;
        }
    }
    return best;
}

static bool any_nan(const float *x, uint32_t n)
{
    for (uint32_t e = 0; e < n; e++)
        if (x[e] != x[e])
            return true;
    return false;
}

void vd_num_route(const float *x, uint32_t n, uint32_t n_used, bool norm, uint32_t *expert, float *weight)
{
    assert(n <= VD_ROUTE_MAX && n_used >= 1 && n_used <= n && n_used <= VD_ROUTE_USED_MAX);
    if (any_nan(x, n)) {
        for (uint32_t s = 0; s < n_used; s++) {
            expert[s] = s;
            weight[s] = vd_f32_from_bits(VD_NAN_BITS);
        }
        return;
    }
    float den = 0.0f;
    for (uint32_t s = 0; s < n_used; s++) {
        expert[s] = next_expert(x, n, s == 0, s ? expert[s - 1] : 0);
        weight[s] = vd_num_exp(x[expert[s]] - x[expert[0]]);
        den += norm ? weight[s] : 0.0f;
    }
    for (uint32_t e = 0; e < n && !norm; e++)
        den += vd_num_exp(x[e] - x[expert[0]]);
    for (uint32_t s = 0; s < n_used; s++)
        weight[s] = vd_num_canon(weight[s] / den);
}

float vd_num_mix(const float *weight, const float *y, uint32_t n_used)
{
    float acc = 0.0f;
    for (uint32_t s = 0; s < n_used; s++)
        acc = fmaf(weight[s], y[s], acc);
    return acc;
}
