/* A trap's way, one condition after the other at the block where it turns. */
#include "vd_gateway_trap_step.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { NOW = 1000, SOON = NOW + GW_TRAP_MARGIN_BLOCKS, FAR = NOW + 500 };

/* Settled, not drawn, nothing due. */
static const struct gw_trap_facts calm = {.height = NOW,
                                          .valid_until = FAR,
                                          .planted = true,
                                          .open_until = FAR,
                                          .known = true,
                                          .settled = true,
                                          .window_end = FAR};

static void before_it_is_settled(void **state)
{
    struct gw_trap_facts f = {.height = NOW, .valid_until = SOON + 1};
    assert_int_equal(gw_trap_next(&f), GW_TRAP_PLANT);
    f.valid_until = SOON; /* its receipt might come too late: the bond is not risked */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OVER);
    f.planted = true; /* there is nothing to lose any more */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_PUBLISH);
    f.valid_until = NOW + 1;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_PUBLISH);
    f.valid_until = NOW; /* the next block does not take it any more: the bond is lost */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OVER);
}

static void after_it_is_closed(void **state)
{
    struct gw_trap_facts f = calm;
    f.settled = false; /* paid, or void */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OVER);
    f = calm;
    f.planted = false; /* opened, or its bond has burned */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OVER);
    f.disputed = true;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OVER);
}

static void one_that_is_not_drawn(void **state)
{
    struct gw_trap_facts f = calm;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_WAIT);
    f.valid_until = 0; /* that was about settling */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_WAIT);
    f.heard = f.demanded = true; /* of an audit that there is not */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_WAIT);
    f = calm;
    f.window_end = SOON + 1;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_WAIT);
    f.window_end = SOON; /* or its worker would be paid, and the bond be lost */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OPEN);
    f = calm;
    f.disputed = true;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OPEN);
    f = calm;
    f.open_until = SOON + 1;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_WAIT);
    f.open_until = SOON;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OPEN);
}

static void one_that_is_drawn(void **state)
{
    struct gw_trap_facts f = calm;
    f.drawn = true;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_WAIT);
    f.window_end = NOW; /* it is not paid while auditors may speak */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_WAIT);
    f.open_until = SOON; /* but the trap has a clock of its own */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OPEN);
    f.open_until = FAR;
    f.disputed = true;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OPEN);
    f.disputed = false;
    f.demanded = true;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_SHOW);
    f.disputed = true; /* first what has a clock on the ledger */
    assert_int_equal(gw_trap_next(&f), GW_TRAP_SHOW);
    f.disputed = f.demanded = false;
    f.heard = true;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OPEN);
    f.window_end = FAR;
    assert_int_equal(gw_trap_next(&f), GW_TRAP_OPEN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(before_it_is_settled),
        cmocka_unit_test(after_it_is_closed),
        cmocka_unit_test(one_that_is_not_drawn),
        cmocka_unit_test(one_that_is_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
