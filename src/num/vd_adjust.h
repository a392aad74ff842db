/* What is done to a logit before a token is chosen, each by a function of its own and in this order:
 * penalties for tokens that were there before, the request's bias, the request's mask
 * (docs/spec/arithmetic.md, 13).
 *
 * Repetition looks at the last repeat_last_n tokens of the sequence, prompt included; frequency and presence
 * at output tokens among the sequence's last VD_PENALTY_WINDOW. Thread rule: pure functions. */
#ifndef VD_ADJUST_H
#define VD_ADJUST_H

#include "vd_bytes.h"
#include "vd_sample.h"

enum {
    VD_PENALTY_WINDOW = 1024,    /* tokens that a penalty can see */
    VD_REPEAT_LAST_DEFAULT = 64, /* repeat_last_n, where nobody says otherwise */
    VD_BIAS_MAX = 300,           /* entries of a bias table */
    VD_BIAS_ENTRY_BYTES = 8,     /* u32 id, i32 millionths */
    VD_BIAS_MICRO_MAX = 100 * 1000000,
    VD_REPEAT_MICRO_MIN = 10000,    /* 0.01 */
    VD_REPEAT_MICRO_MAX = 10000000, /* 10 */
    VD_PENALTY_MICRO_MAX = 2000000, /* frequency and presence, either sign */
};

/* The tables that a request names by their hashes: biases, and a mask (vd_automaton.h); n 0: none. Borrowed.
 */
struct vd_controls {
    struct vd_bytes bias, mask;
};

/* True if some penalty is on. */
static inline bool vd_num_penalised(const struct vd_sampling *p)
{
    return p->repeat_micro != 0 || p->presence_micro != 0 || p->frequency_micro != 0;
}

/* The first sequence position that repetition looks at, and that frequency and presence do; step + 1: none.
 */
uint32_t vd_num_repeat_begin(const struct vd_sampling *p, uint32_t step);
uint32_t vd_num_count_begin(const struct vd_sampling *p, uint32_t n_prompt, uint32_t step);
/* The first of the sequence positions that the penalties look at when the token after position `step` is
 * chosen; the last is `step`. */
uint32_t vd_num_penalty_begin(const struct vd_sampling *p, uint32_t n_prompt, uint32_t step);

/* What the window says of one id. tokens[0 .. step - begin] are those at positions begin .. step. */
struct vd_penalty_seen {
    bool repeated;  /* it is among the last repeat_last_n tokens */
    uint32_t count; /* of it among the output tokens that frequency and presence look at */
};
struct vd_penalty_seen vd_num_penalty_seen(const struct vd_sampling *p, uint32_t n_prompt, uint32_t begin,
                                           uint32_t step, const uint32_t *tokens, uint32_t id);

/* The logit after the penalties. */
float vd_num_penalty(const struct vd_sampling *p, struct vd_penalty_seen seen, float x);

/* x + (float)micro / 10^6 */
float vd_num_bias(float x, int32_t micro);

/* ---- the table of biases: 1 to VD_BIAS_MAX entries, ids ascending, no bias 0 or beyond the limits ---- */

bool vd_bias_valid(struct vd_bytes table);
static inline uint32_t vd_bias_count(struct vd_bytes table)
{
    return (uint32_t)(table.n / VD_BIAS_ENTRY_BYTES);
}
static inline uint32_t vd_bias_id(struct vd_bytes table, uint32_t i)
{
    return vd_le32_load(table.p + (size_t)VD_BIAS_ENTRY_BYTES * i);
}
static inline int32_t vd_bias_micro(struct vd_bytes table, uint32_t i)
{
    return (int32_t)vd_le32_load(table.p + (size_t)VD_BIAS_ENTRY_BYTES * i + 4);
}
/* The logit of `id` with its bias, if the table has one (the first of that id, in a table that is not valid).
 */
float vd_bias_apply(struct vd_bytes table, uint32_t id, float x);

#endif
