/* Walking a mask: a small language of nested brackets, ends, the stack's limit, loops without a byte, and
 * bytes that are no mask. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "vd_automaton.h"

struct edge {
    uint8_t state, low, high;
    uint16_t to, back;
};

/* Writes a mask; edges ascend by state. */
static struct vd_bytes make(uint8_t *out, uint16_t n_states, const uint8_t *ends, const struct edge *e,
                            unsigned n)
{
    memset(out, 7, VD_MASK_ROOT_BYTES);
    vd_le16_store(out + VD_MASK_ROOT_BYTES, n_states);
    uint8_t *p = out + VD_MASK_HEAD_BYTES;
    for (unsigned s = 0, at = 0; s < n_states; s++, p += 2) {
        vd_le16_store(p, (uint16_t)(at | (ends[s] ? 0x8000u : 0)));
        while (at < n && e[at].state == s)
            at++;
    }
    for (unsigned i = 0; i < n; i++, p += VD_AUTOMATON_EDGE_BYTES) {
        p[0] = e[i].low;
        p[1] = e[i].high;
        vd_le16_store(p + 2, e[i].to);
        vd_le16_store(p + 4, e[i].back);
    }
    return (struct vd_bytes){out, (size_t)(p - out)};
}

/* root: 0 = "<" rule ">" or a number; rule: 3 = the same again. */
static const struct edge brackets[] = {
    {0, '0', '9', 1, VD_AUTOMATON_PLAIN},
    {0, '<', '<', 2, VD_AUTOMATON_PLAIN},
    {1, '0', '9', 1, VD_AUTOMATON_PLAIN},
    {2, '0', '9', 0, 3},
    {2, '<', '<', 0, 3},
    {3, '>', '>', 4, VD_AUTOMATON_PLAIN},
};
static const uint8_t bracket_ends[] = {0, 1, 0, 0, 1};

static bool accepts(const struct vd_automaton *a, const char *text)
{
    struct vd_automaton_state s = VD_AUTOMATON_START;
    for (; *text; text++)
        if (!vd_automaton_step(a, &s, (uint8_t)*text))
            return false;
    return vd_automaton_may_end(a, &s);
}

static void test_walk(void **state)
{
    (void)state;
    uint8_t buf[256];
    struct vd_automaton a;
    assert_true(vd_automaton_open(&a, make(buf, 5, bracket_ends, brackets, 6)));
    assert_true(accepts(&a, "12") && accepts(&a, "<7>") && accepts(&a, "<<<123>>>"));
    assert_false(accepts(&a, "") || accepts(&a, "<7") || accepts(&a, "<7>>") || accepts(&a, "7>") ||
                 accepts(&a, "<>"));
    struct vd_automaton_state s = VD_AUTOMATON_START, copy;
    assert_true(vd_automaton_walk(&a, &s, (struct vd_bytes){(const uint8_t *)"<<4", 3}));
    assert_int_equal(s.depth, 2);
    uint8_t record[VD_AUTOMATON_STATE_BYTES];
    vd_automaton_state_store(record, &s);
    copy = vd_automaton_state_load(&a, record);
    assert_memory_equal(&copy, &s, sizeof s);
    record[4 + 2 * 2] = 1; /* above the stack */
    assert_int_equal(vd_automaton_state_load(&a, record).at, VD_AUTOMATON_DEAD);
    assert_true(vd_automaton_walk(&a, &s, (struct vd_bytes){(const uint8_t *)">", 1}));
    assert_true(s.depth == 1 && s.stack[1] == 0);
    assert_false(vd_automaton_walk(&a, &s, (struct vd_bytes){(const uint8_t *)">x", 2}));
    assert_true(s.at == VD_AUTOMATON_DEAD && s.depth == 0 && !vd_automaton_may_end(&a, &s));
    assert_false(vd_automaton_step(&a, &s, '1'));
}

static void test_limits(void **state)
{
    (void)state;
    uint8_t buf[256];
    struct vd_automaton a;
    vd_automaton_open(&a, make(buf, 5, bracket_ends, brackets, 6));
    struct vd_automaton_state s = VD_AUTOMATON_START;
    for (unsigned i = 0; i <= VD_AUTOMATON_STACK; i++)
        assert_true(vd_automaton_step(&a, &s, '<'));
    assert_int_equal(s.depth, VD_AUTOMATON_STACK);
    assert_false(vd_automaton_step(&a, &s, '<'));
    uint8_t long_text[VD_TOKEN_TEXT_MAX_BYTES + 1];
    memset(long_text, '1', sizeof long_text);
    s = VD_AUTOMATON_START;
    assert_true(vd_automaton_walk(&a, &s, (struct vd_bytes){long_text, VD_TOKEN_TEXT_MAX_BYTES}));
    assert_false(vd_automaton_walk(&a, &s, (struct vd_bytes){long_text, sizeof long_text}));
    s = VD_AUTOMATON_START;
    assert_false(vd_automaton_walk(&a, &s, (struct vd_bytes){long_text, 0}));
    /* 0 pushes 0 and goes to 1, which is an end with nothing to take: for ever, but for the limit */
    static const struct edge loop[] = {{0, 'a', 'z', 1, 0}};
    assert_true(vd_automaton_open(&a, make(buf, 2, (const uint8_t[]){0, 1}, loop, 1)));
    s = VD_AUTOMATON_START;
    assert_false(vd_automaton_step(&a, &s, 'b'));
}

static void test_not_a_mask(void **state)
{
    (void)state;
    uint8_t buf[256];
    struct vd_automaton a;
    struct vd_bytes good = make(buf, 5, bracket_ends, brackets, 6);
    assert_true(vd_automaton_open(&a, good));
    assert_false(vd_automaton_open(&a, (struct vd_bytes){buf, good.n - 1}));
    assert_false(vd_automaton_open(&a, (struct vd_bytes){buf, VD_MASK_HEAD_BYTES}));
    assert_false(vd_automaton_open(&a, (struct vd_bytes){buf, 0}));
    uint8_t *edge = buf + VD_MASK_HEAD_BYTES + 10;
    struct {
        uint8_t *at;
        uint8_t value;
    } bad[] = {{edge, '=' /* low above high */},
               {edge + 2, 5 /* no such target */},
               {edge + 4, 5 /* no such return state */},
               {edge + 6, '9' /* overlaps */},
               {buf + VD_MASK_HEAD_BYTES, 1 /* the first edge is not 0 */},
               {buf + VD_MASK_HEAD_BYTES + 2, 9 /* beyond the edges */},
               {buf + VD_MASK_ROOT_BYTES, 0 /* no states */}};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint8_t old = *bad[i].at, old2 = edge[5];
        *bad[i].at = bad[i].value;
        if (bad[i].at == edge + 4)
            edge[5] = 0;
        assert_false(vd_automaton_open(&a, good));
        *bad[i].at = old;
        edge[5] = old2;
    }
    assert_true(vd_automaton_open(&a, good));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walk),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_not_a_mask),
    };
    return cmocka_run_group_tests_name("automaton", tests, NULL, NULL);
}
