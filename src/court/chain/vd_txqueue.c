/* One list in the order of arrival, and a table of those who have something in it. The order of a sender's
 * own transactions never changes, or their nonces would refuse them; priority is therefore a sender's, not a
 * transaction's. */
#include "vd_txqueue.h"

#include <assert.h>
#include <stdlib.h>

_Static_assert(VD_LEDGER_NONCE_AHEAD >= 2 * (VD_CHAIN_SENDER_MAX_TXS + VD_CHAIN_SENDER_MAX_MOVES),
               "a sender that uses its quota is not refused, even by a state that is a block old");

void vd_txq_list_init(struct vd_txq_list *l)
{
    *l = (struct vd_txq_list){.head = NULL};
    l->tail = &l->head;
}

void vd_txq_list_push(struct vd_txq_list *l, struct vd_txq_entry *e)
{
    e->next = NULL;
    *l->tail = e;
    l->tail = &e->next;
    l->n_txs++;
    l->n_bytes += e->n_bytes;
}

struct vd_txq_entry *vd_txq_list_pop(struct vd_txq_list *l)
{
    struct vd_txq_entry *e = l->head;
    if (!e)
        return NULL;
    l->head = e->next;
    if (!l->head)
        l->tail = &l->head;
    l->n_txs--;
    l->n_bytes -= e->n_bytes;
    return e;
}

void vd_txq_init(struct vd_txqueue *q)
{
    memset(q, 0, sizeof *q);
    vd_txq_list_init(&q->waiting);
}

/* --- parties --- */

static struct vd_txq_party **bucket_of(struct vd_txqueue *q, const uint8_t key[32])
{
    return &q->bucket[(key[0] | (uint32_t)key[1] << 8) % VD_TXQ_BUCKETS];
}

/* Found or made; one that has nothing waiting must be dropped again. NULL: no memory. */
static struct vd_txq_party *party_get(struct vd_txqueue *q, const uint8_t key[32])
{
    struct vd_txq_party **bucket = bucket_of(q, key), *p = *bucket;
    while (p && memcmp(p->key, key, sizeof p->key) != 0)
        p = p->next;
    if (p)
        return p;
    p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    memcpy(p->key, key, sizeof p->key);
    p->next = *bucket;
    return *bucket = p;
}

static void party_drop(struct vd_txqueue *q, struct vd_txq_party *p)
{
    if (!p || p->n_txs || p->n_moves)
        return;
    struct vd_txq_party **at = bucket_of(q, p->key);
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    free(p);
}

/* +1 or -1 of what e counts for. */
static void count(struct vd_txqueue *q, struct vd_txq_entry *e, int by)
{
    uint32_t n = (uint32_t)by;
    if (e->kind == VD_TX_MOVE) {
        q->n_moves += n;
        e->sender->n_moves += n;
        e->dispute->n_moves += n;
    } else {
        q->n_challenges += e->kind == VD_TX_CHALLENGE ? n : 0;
        e->sender->n_txs += n;
    }
}

/* --- in --- */

static enum vd_err has_room(const struct vd_txqueue *q, const struct vd_txq_entry *e, struct vd_error *err)
{
    bool move = e->kind == VD_TX_MOVE;
    uint32_t max_txs = VD_CHAIN_QUEUE_MAX_TXS - (move ? 0 : VD_CHAIN_QUEUE_MOVE_TXS);
    size_t max_bytes = VD_CHAIN_QUEUE_MAX_BYTES - (move ? 0 : VD_CHAIN_QUEUE_MOVE_BYTES);
    if (q->waiting.n_txs >= max_txs || q->waiting.n_bytes + e->n_bytes > max_bytes)
        return vd_error_set(err, VD_EAGAIN, "chain: %u transactions are waiting; try again after a block",
                            q->waiting.n_txs);
    if (e->kind == VD_TX_CHALLENGE && q->n_challenges >= VD_CHAIN_QUEUE_MAX_CHALLENGES)
        return vd_error_set(err, VD_EAGAIN, "chain: %u challenges are waiting; try again after a block",
                            q->n_challenges);
    if (!move && e->sender->n_txs >= VD_CHAIN_SENDER_MAX_TXS)
        return vd_error_set(err, VD_EAGAIN,
                            "chain: %u transactions of this sender are waiting; try again after a block",
                            e->sender->n_txs);
    if (move && (e->sender->n_moves >= VD_CHAIN_SENDER_MAX_MOVES || e->dispute->n_moves))
        return vd_error_set(err, VD_EAGAIN,
                            "chain: a move in this dispute, or %d of this sender, are waiting",
                            VD_CHAIN_SENDER_MAX_MOVES);
    return VD_OK;
}

enum vd_err vd_txq_add(struct vd_txqueue *q, struct vd_txq_entry *e, const struct vd_tx *tx,
                       struct vd_error *err)
{
    bool move = tx->kind == VD_TX_MOVE;
    e->kind = tx->kind;
    e->sender = party_get(q, tx->sender.b);
    e->dispute = move ? party_get(q, tx->u.move.dispute_id.b) : NULL;
    enum vd_err code = VD_OK;
    if (!e->sender || (move && !e->dispute))
        code = vd_error_set(err, VD_ENOMEM, "chain: not enough memory to queue a transaction");
    if (code == VD_OK)
        code = has_room(q, e, err);
    if (code == VD_OK) {
        count(q, e, 1);
        vd_txq_list_push(&q->waiting, e);
        return VD_OK;
    }
    party_drop(q, e->dispute);
    party_drop(q, e->sender);
    return code;
}

/* --- out --- */

void vd_txq_round(struct vd_txqueue *q)
{
    q->round++;
}

void vd_txq_skip(struct vd_txqueue *q, struct vd_txq_entry *e)
{
    e->sender->skipped = q->round;
}

bool vd_txq_skipped(const struct vd_txqueue *q, const struct vd_txq_entry *e)
{
    return e->sender->skipped == q->round;
}

static void take_pass(struct vd_txqueue *q, struct vd_txq_list *batch, bool movers_only, uint32_t max_txs,
                      size_t max_bytes)
{
    struct vd_txq_list rest;
    struct vd_txq_entry *e;
    vd_txq_round(q);
    vd_txq_list_init(&rest);
    while (batch->n_txs < max_txs && (e = vd_txq_list_pop(&q->waiting))) {
        bool fits = batch->n_bytes + e->n_bytes <= max_bytes;
        if (vd_txq_skipped(q, e) || (movers_only && !e->sender->n_moves)) {
            vd_txq_list_push(&rest, e);
        } else if (!fits) {
            vd_txq_skip(q, e);
            vd_txq_list_push(&rest, e);
        } else {
            vd_txq_list_push(batch, e);
        }
    }
    while ((e = vd_txq_list_pop(&q->waiting)))
        vd_txq_list_push(&rest, e);
    while ((e = vd_txq_list_pop(&rest)))
        vd_txq_list_push(&q->waiting, e);
}

void vd_txq_take(struct vd_txqueue *q, struct vd_txq_list *batch)
{
    vd_txq_list_init(batch);
    if (q->n_moves)
        take_pass(q, batch, true, VD_BLOCK_MAX_TXS / 2, VD_BLOCK_MAX_TX_BYTES / 2);
    take_pass(q, batch, false, VD_BLOCK_MAX_TXS, VD_BLOCK_MAX_TX_BYTES);
}

void vd_txq_return(struct vd_txqueue *q, struct vd_txq_list *batch, struct vd_txq_list *finished)
{
    struct vd_txq_list again;
    struct vd_txq_entry *e;
    vd_txq_list_init(&again);
    vd_txq_list_init(finished);
    while ((e = vd_txq_list_pop(batch))) {
        if (e->deferred) {
            vd_txq_list_push(&again, e);
            continue;
        }
        count(q, e, -1);
        party_drop(q, e->dispute);
        party_drop(q, e->sender);
        vd_txq_list_push(finished, e);
    }
    while ((e = vd_txq_list_pop(&q->waiting)))
        vd_txq_list_push(&again, e);
    while ((e = vd_txq_list_pop(&again)))
        vd_txq_list_push(&q->waiting, e);
}
