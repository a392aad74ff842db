/* For the tests of this folder: a mask, and what a job needs beside it, that limit an answer without ending
 * it at once.
 *
 * The bytes are of the program and last; the texts are the caller's. Thread rule: one thread makes them. */
#ifndef VD_TEST_CONTROLS_H
#define VD_TEST_CONTROLS_H

#include "vd_automaton.h"
#include "vd_bytes.h"
#include "vd_texts.h"

#include <stdlib.h>
#include <string.h>

/* Over texts of this root: "a" or "b", then any number of "c" and "d", which a called rule takes one by one.
 */
static inline struct vd_bytes vd_test_mask_over(const struct vd_hash *texts_root)
{
    static uint8_t mask[VD_MASK_HEAD_BYTES + 2 * 4 + 4 * VD_AUTOMATON_EDGE_BYTES];
    static const uint8_t body[] = {4,   0,   0,   0,   1,    0x80, 2,    0,   3, 0x80, /* ends: 1 and 3 */
                                   'a', 'b', 1,   0,   0xFF, 0xFF, 'c',  'd', 2, 0,
                                   1,   0,   'c', 'd', 3,    0,    0xFF, 0xFF};
    memcpy(mask, texts_root->b, VD_MASK_ROOT_BYTES);
    memcpy(mask + VD_MASK_ROOT_BYTES, body, sizeof body);
    return (struct vd_bytes){mask, VD_MASK_ROOT_BYTES + sizeof body};
}

struct vd_test_controls {
    struct vd_texts *texts; /* one letter from a to h for each token; vd_texts_free */
    struct vd_bytes bias, mask;
};

static inline enum vd_err vd_test_controls_make(struct vd_test_controls *c, uint32_t vocab)
{
    static const char letters[] = "abcdefgh";
    static uint8_t bias[8 * 2];
    struct vd_bytes *text = calloc(vocab, sizeof *text);
    for (uint32_t i = 0; text && i < vocab; i++)
        text[i] = (struct vd_bytes){(const uint8_t *)letters + i % 8, 1};
    enum vd_err e = text ? vd_texts_create_from(&c->texts, text, vocab, NULL) : VD_ENOMEM;
    free(text);
    if (e != VD_OK)
        return e;
    struct vd_hash root = vd_texts_root(c->texts);
    vd_le32_store(bias, 3);
    vd_le32_store(bias + 4, 900000);
    vd_le32_store(bias + 8, 100);
    vd_le32_store(bias + 12, (uint32_t)-50000000);
    c->bias = (struct vd_bytes){bias, sizeof bias};
    c->mask = vd_test_mask_over(&root);
    return VD_OK;
}

#endif
