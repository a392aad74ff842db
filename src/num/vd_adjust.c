/* The float operations are those of llama.cpp's sampler, so that people find what they know; the windows are
 * ours, bounded so that whoever checks one logit can be shown every token that it depends on. */
#include "vd_adjust.h"

#include <assert.h>

static uint32_t last(uint32_t end, uint32_t n)
{
    return end > n ? end - n : 0;
}

static uint32_t max32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static bool counts(const struct vd_sampling *p)
{
    return p->presence_micro != 0 || p->frequency_micro != 0;
}

uint32_t vd_num_repeat_begin(const struct vd_sampling *p, uint32_t step)
{
    return p->repeat_micro ? last(step + 1, p->repeat_last_n) : step + 1;
}

uint32_t vd_num_count_begin(const struct vd_sampling *p, uint32_t n_prompt, uint32_t step)
{
    return counts(p) ? max32(n_prompt, last(step + 1, VD_PENALTY_WINDOW)) : step + 1;
}

uint32_t vd_num_penalty_begin(const struct vd_sampling *p, uint32_t n_prompt, uint32_t step)
{
    uint32_t a = vd_num_repeat_begin(p, step), b = vd_num_count_begin(p, n_prompt, step);
    return a < b ? a : b;
}

struct vd_penalty_seen vd_num_penalty_seen(const struct vd_sampling *p, uint32_t n_prompt, uint32_t begin,
                                           uint32_t step, const uint32_t *tokens, uint32_t id)
{
    struct vd_penalty_seen seen = {false, 0};
    uint32_t repeat = vd_num_repeat_begin(p, step), count = vd_num_count_begin(p, n_prompt, step);
    for (uint32_t at = begin; at <= step; at++) {
        if (tokens[at - begin] != id)
            continue;
        seen.repeated = seen.repeated || at >= repeat;
        seen.count += at >= count;
    }
    return seen;
}

float vd_num_penalty(const struct vd_sampling *p, struct vd_penalty_seen seen, float x)
{
    if (seen.repeated) {
        float r = (float)p->repeat_micro / 1e6f;
        x = x > 0.0f ? x / r : x * r;
    }
    if (seen.count > 0) {
        float frequency = (float)p->frequency_micro / 1e6f, presence = (float)p->presence_micro / 1e6f;
        float less = (float)seen.count * frequency;
        less = less + presence;
        x = x - less;
    }
    return x;
}

float vd_num_bias(float x, int32_t micro)
{
    return x + (float)micro / 1e6f;
}

bool vd_bias_valid(struct vd_bytes table)
{
    uint32_t n = vd_bias_count(table);
    if (table.n == 0 || table.n % VD_BIAS_ENTRY_BYTES != 0 || table.n > VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        int32_t micro = vd_bias_micro(table, i);
        if ((i > 0 && vd_bias_id(table, i) <= vd_bias_id(table, i - 1)) || micro == 0 ||
            micro > VD_BIAS_MICRO_MAX || micro < -VD_BIAS_MICRO_MAX)
            return false;
    }
    return true;
}

float vd_bias_apply(struct vd_bytes table, uint32_t id, float x)
{
    for (uint32_t i = 0; i < vd_bias_count(table); i++)
        if (vd_bias_id(table, i) == id)
            return vd_num_bias(x, vd_bias_micro(table, i));
    return x;
}
