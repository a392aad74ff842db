/* Compiled masks in the tests and fuzz targets of this folder. */
#ifndef VD_TEST_MASK_H
#define VD_TEST_MASK_H

#include "vd_automaton.h"

#include <assert.h>

/* Whether the mask, which opens, takes this text whole. */
static inline bool vd_test_mask_takes(struct vd_bytes mask, const char *text)
{
    struct vd_automaton a;
    struct vd_automaton_state s = VD_AUTOMATON_START;
    bool opens = vd_automaton_open(&a, mask);
    assert(opens);
    for (; opens && *text; text++)
        if (!vd_automaton_step(&a, &s, (uint8_t)*text))
            return false;
    return opens && vd_automaton_may_end(&a, &s);
}

/* What a fuzz target asks of a mask that a compiler gave. */
static inline void vd_test_mask_opens(const uint8_t *mask, size_t n, size_t max)
{
    struct vd_automaton a;
    bool opens = n <= max && vd_automaton_open(&a, (struct vd_bytes){mask, n});
    assert(opens);
    (void)opens;
}

#endif
