/* Blocks in parts, from a ledger that need not be honest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vd_bytes.h"
#include "vd_dispute_log.h"

static bool add(struct vd_dispute_block *b, uint32_t size, size_t n)
{
    static const uint8_t bytes[64];
    uint8_t text[4];
    vd_le32_store(text, size);
    struct vd_bytes item[] = {{text, sizeof text}, {bytes, n}};
    struct vd_ledger_answer a = {.n_items = 2, .item = item};
    return vd_dispute_add_part(b, &a);
}

static void parts_of_a_block(void **state)
{
    struct vd_dispute_block b = {.p = calloc(1, VD_BLOCK_MAX_BYTES)};
    struct vd_ledger_answer none = {.n_items = 0};
    assert_non_null(b.p);
    assert_false(vd_dispute_add_part(&b, &none));
    assert_false(add(&b, 0, 10));
    assert_false(add(&b, 100, 0));
    assert_false(add(&b, VD_BLOCK_MAX_BYTES + 1, 10));
    assert_false(add(&b, 9, 10));
    assert_true(add(&b, 100, 60));
    assert_false(add(&b, 100, 41));
    assert_false(add(&b, 50, 40)); /* less than is there already: nothing bounds a part of that */
    assert_false(add(&b, 200, 40));
    assert_true(add(&b, 100, 40));
    assert_int_equal(b.n_bytes, b.size);
    free(b.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(parts_of_a_block)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
