/* Money. An amount is a number of credits in a struct, so that it cannot be mixed with a count, and every
 * operation that can leave the range returns a bool that must be looked at.
 *
 * The unit on the wire and in state is the micro-credit (1 credit = 1,000,000). The total supply of any
 * genesis is below 2^62, so that a sum over a whole ledger cannot wrap unseen. */
#ifndef VD_AMOUNT_H
#define VD_AMOUNT_H

#include <stdbool.h>
#include <stdint.h>

struct vd_amount {
    uint64_t micro;
};

#define VD_AMOUNT_MAX_MICRO (UINT64_C(1) << 62)
#define VD_AMOUNT_ZERO      ((struct vd_amount){0})

static inline struct vd_amount vd_amount_micro(uint64_t micro)
{
    return (struct vd_amount){micro};
}

/* *out = a + b; false, and *out unchanged, if that exceeds VD_AMOUNT_MAX_MICRO. */
__attribute__((warn_unused_result)) static inline bool vd_amount_add(struct vd_amount *out,
                                                                     struct vd_amount a, struct vd_amount b)
{
    if (a.micro > VD_AMOUNT_MAX_MICRO || b.micro > VD_AMOUNT_MAX_MICRO - a.micro)
        return false;
    out->micro = a.micro + b.micro;
    return true;
}

/* *out = a - b; false, and *out unchanged, if b > a. */
__attribute__((warn_unused_result)) static inline bool vd_amount_sub(struct vd_amount *out,
                                                                     struct vd_amount a, struct vd_amount b)
{
    if (b.micro > a.micro)
        return false;
    out->micro = a.micro - b.micro;
    return true;
}

/* *out = price * count; false if it exceeds VD_AMOUNT_MAX_MICRO. */
__attribute__((warn_unused_result)) static inline bool vd_amount_mul(struct vd_amount *out,
                                                                     struct vd_amount price, uint64_t count)
{
    if (count && price.micro > VD_AMOUNT_MAX_MICRO / count)
        return false;
    out->micro = price.micro * count;
    return true;
}

/* floor(a * num / den), exact in 128 bits. den > 0, num <= den. */
static inline struct vd_amount vd_amount_share(struct vd_amount a, uint32_t num, uint32_t den)
{
    return (struct vd_amount){(uint64_t)((unsigned __int128)a.micro * num / den)};
}

static inline int vd_amount_cmp(struct vd_amount a, struct vd_amount b)
{
    return (a.micro > b.micro) - (a.micro < b.micro);
}

#endif
