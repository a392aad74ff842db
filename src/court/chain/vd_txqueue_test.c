/* Who gets in, who goes first, and what waits, without a ledger: entries are only as large as they say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "vd_txqueue.h"

static struct vd_txqueue q;
static struct vd_error err;

static int setup(void **state)
{
    vd_txq_init(&q);
    return 0;
}

static enum vd_err add(uint16_t sender, enum vd_tx_kind kind, uint16_t dispute, size_t n_bytes)
{
    struct vd_tx tx = {.sender = {{(uint8_t)sender, (uint8_t)(sender >> 8), 1}}, .kind = kind};
    if (kind == VD_TX_MOVE)
        tx.u.move.dispute_id = (struct vd_hash){{(uint8_t)dispute, (uint8_t)(dispute >> 8), 2}};
    struct vd_txq_entry *e = calloc(1, sizeof *e);
    assert_non_null(e);
    e->n_bytes = n_bytes;
    enum vd_err code = vd_txq_add(&q, e, &tx, &err);
    if (code != VD_OK)
        free(e);
    return code;
}

static void end(struct vd_txq_list *batch)
{
    struct vd_txq_list finished;
    struct vd_txq_entry *e;
    vd_txq_return(&q, batch, &finished);
    while ((e = vd_txq_list_pop(&finished)))
        free(e);
}

static int teardown(void **state)
{
    struct vd_txq_list batch;
    do {
        vd_txq_take(&q, &batch);
        end(&batch);
    } while (q.waiting.head);
    assert_int_equal(q.n_moves, 0);
    assert_int_equal(q.n_challenges, 0);
    for (int i = 0; i < VD_TXQ_BUCKETS; i++) /* nobody is remembered who has nothing here */
        assert_null(q.bucket[i]);
    return 0;
}

static void test_a_sender_has_a_quota(void **state)
{
    struct vd_txq_list batch;
    for (int i = 0; i < VD_CHAIN_SENDER_MAX_TXS; i++)
        assert_int_equal(add(1, VD_TX_TRANSFER, 0, 100), VD_OK);
    assert_int_equal(add(1, VD_TX_TRANSFER, 0, 100), VD_EAGAIN);
    assert_int_equal(add(2, VD_TX_TRANSFER, 0, 100), VD_OK);
    for (uint16_t i = 0; i < VD_CHAIN_SENDER_MAX_MOVES; i++) /* moves apart */
        assert_int_equal(add(1, VD_TX_MOVE, i, 100), VD_OK);
    assert_int_equal(add(1, VD_TX_MOVE, 9999, 100), VD_EAGAIN);
    vd_txq_take(&q, &batch);
    assert_int_equal(add(1, VD_TX_TRANSFER, 0, 100), VD_EAGAIN); /* the block is not durable yet */
    end(&batch);
    assert_int_equal(add(1, VD_TX_TRANSFER, 0, 100), VD_OK);
}

static void test_a_dispute_has_one_move(void **state)
{
    struct vd_txq_list batch;
    assert_int_equal(add(1, VD_TX_MOVE, 7, 100), VD_OK);
    assert_int_equal(add(1, VD_TX_MOVE, 7, 100), VD_EAGAIN);
    assert_int_equal(add(2, VD_TX_MOVE, 7, 100), VD_EAGAIN);
    vd_txq_take(&q, &batch);
    end(&batch);
    assert_int_equal(add(2, VD_TX_MOVE, 7, 100), VD_OK);
}

/* Whatever others send, a move gets in, and into the next block. */
static void test_moves_have_room_and_go_first(void **state)
{
    struct vd_txq_list batch;
    uint16_t sender = 10;
    uint32_t n = 0;
    for (; add(sender, VD_TX_SETTLE, 0, 100) == VD_OK; n++)
        sender = (uint16_t)(10 + (n + 1) / VD_CHAIN_SENDER_MAX_TXS);
    assert_int_equal(n, VD_CHAIN_QUEUE_MAX_TXS - VD_CHAIN_QUEUE_MOVE_TXS);
    assert_int_equal(add(1, VD_TX_TRANSFER, 0, 100), VD_EAGAIN);
    assert_int_equal(add(1, VD_TX_MOVE, 1, 90000), VD_OK);
    assert_int_equal(add(10, VD_TX_MOVE, 2, 90000), VD_OK); /* with 64 of its own before it */
    vd_txq_take(&q, &batch);
    assert_int_equal(batch.n_txs, VD_BLOCK_MAX_TXS);
    struct vd_txq_entry *e = batch.head;
    for (int i = 0; i < VD_CHAIN_SENDER_MAX_TXS; i++, e = e->next)
        assert_int_equal(e->kind, VD_TX_SETTLE);
    assert_int_equal(e->kind, VD_TX_MOVE); /* in the order of arrival */
    assert_int_equal(e->next->kind, VD_TX_MOVE);
    assert_int_equal(e->next->sender->key[0], 10);
    end(&batch);
}

/* Senders with moves do not shut out the others: the second half goes by arrival. */
static void test_half_of_a_block_is_for_all(void **state)
{
    struct vd_txq_list batch;
    struct vd_txq_entry *e;
    int n = 0;
    for (int i = 0; i < 20; i++)
        assert_int_equal(add(2, VD_TX_SETTLE, 0, 64 << 10), VD_OK);
    for (uint16_t i = 0; i < 40; i++)
        assert_int_equal(add(1, VD_TX_MOVE, i, 64 << 10), VD_OK);
    vd_txq_take(&q, &batch);
    assert_int_equal(batch.n_txs, 32);
    for (e = batch.head; e; e = e->next)
        assert_int_equal(e->kind, n++ < 16 ? VD_TX_MOVE : VD_TX_SETTLE);
    end(&batch);
}

static void test_challenges_are_capped(void **state)
{
    int n = 0;
    while (add((uint16_t)(10 + n / 60), VD_TX_CHALLENGE, 0, 100) == VD_OK)
        n++;
    assert_int_equal(n, VD_CHAIN_QUEUE_MAX_CHALLENGES);
    assert_int_equal(add(9, VD_TX_TRANSFER, 0, 100), VD_OK);
}

static void test_bytes_are_bounded(void **state)
{
    uint32_t n = 0;
    while (add((uint16_t)(10 + n / 60), VD_TX_SETTLE, 0, 1 << 20) == VD_OK)
        n++;
    assert_int_equal(n, (VD_CHAIN_QUEUE_MAX_BYTES - VD_CHAIN_QUEUE_MOVE_BYTES) >> 20);
    for (n = 0; add(1, VD_TX_MOVE, (uint16_t)n, 1 << 20) == VD_OK; n++)
        ;
    assert_int_equal(n, VD_CHAIN_QUEUE_MOVE_BYTES >> 20);
}

/* One that does not fit holds up its sender's later ones and nobody else's. */
static void test_what_does_not_fit_holds_up_its_sender_only(void **state)
{
    struct vd_txq_list batch;
    assert_int_equal(add(1, VD_TX_SETTLE, 0, VD_BLOCK_MAX_TX_BYTES - 1000), VD_OK);
    assert_int_equal(add(2, VD_TX_SETTLE, 0, 2000), VD_OK);
    assert_int_equal(add(2, VD_TX_STAKE, 0, 100), VD_OK);
    assert_int_equal(add(3, VD_TX_OFFER, 0, 100), VD_OK);
    vd_txq_take(&q, &batch);
    assert_int_equal(batch.n_txs, 2);
    assert_int_equal(batch.head->next->kind, VD_TX_OFFER);
    batch.head->next->deferred = true; /* nor did the block itself have room */
    vd_txq_round(&q);
    vd_txq_skip(&q, batch.head->next);
    assert_true(vd_txq_skipped(&q, batch.head->next));
    assert_false(vd_txq_skipped(&q, batch.head));
    end(&batch);
    vd_txq_take(&q, &batch);
    assert_int_equal(batch.n_txs, 3);
    assert_int_equal(batch.head->kind, VD_TX_OFFER); /* deferred ones first, then as they came */
    assert_int_equal(batch.head->next->kind, VD_TX_SETTLE);
    assert_int_equal(batch.head->next->next->kind, VD_TX_STAKE);
    batch.head->deferred = false;
    end(&batch);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_a_sender_has_a_quota),
        T(test_a_dispute_has_one_move),
        T(test_moves_have_room_and_go_first),
        T(test_half_of_a_block_is_for_all),
        T(test_challenges_are_capped),
        T(test_bytes_are_bounded),
        T(test_what_does_not_fit_holds_up_its_sender_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
