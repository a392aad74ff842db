/* Private to src/court/ledger: what the files that apply transactions share.
 *
 * Records are read and written only through these functions. A put compares with the record that stands there
 * and adds the difference to the bucket that holds its money, so the totals are sums over records by
 * construction, and the conservation check at the end of a block means something. A record that does not
 * decode, or a bucket below zero, sets b->broken: the block then cannot end.
 *
 * `get` functions return false and clear *out if there is no record. */
#ifndef VD_LEDGER_IMPL_H
#define VD_LEDGER_IMPL_H

#include "vd_ledger.h"

bool vd_block_get_account(struct vd_ledger_block *b, const struct vd_pubkey *key, struct vd_account *out);
void vd_block_put_account(struct vd_ledger_block *b, const struct vd_pubkey *key, const struct vd_account *v);
bool vd_block_get_stake(struct vd_ledger_block *b, const struct vd_pubkey *worker, struct vd_stake *out);
void vd_block_put_stake(struct vd_ledger_block *b, const struct vd_pubkey *worker, const struct vd_stake *v);
bool vd_block_get_escrow(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_escrow *out);
void vd_block_put_escrow(struct vd_ledger_block *b, const struct vd_hash *id, const struct vd_escrow *v);
bool vd_block_get_receipt(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *out);
void vd_block_put_receipt(struct vd_ledger_block *b, const struct vd_hash *id,
                          const struct vd_receipt_record *v);
bool vd_block_get_dispute(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_dispute *out);
void vd_block_put_dispute(struct vd_ledger_block *b, const struct vd_hash *id, const struct vd_dispute *v);
bool vd_block_get_keeper(struct vd_ledger_block *b, const struct vd_pubkey *key, struct vd_keeper *out);
void vd_block_put_keeper(struct vd_ledger_block *b, const struct vd_pubkey *key, const struct vd_keeper *v);
bool vd_block_get_trap(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_trap *out);
void vd_block_put_trap(struct vd_ledger_block *b, const struct vd_hash *id, const struct vd_trap *v);
bool vd_block_get_audit(struct vd_ledger_block *b, const struct vd_hash *receipt_id, struct vd_audit *out);
void vd_block_put_audit(struct vd_ledger_block *b, const struct vd_hash *receipt_id,
                        const struct vd_audit *v);
bool vd_block_get_model(struct vd_ledger_block *b, const struct vd_hash *root, struct vd_model_record *out);

void vd_block_put(struct vd_ledger_block *b, const struct vd_state_key *k, const void *p, size_t n_bytes);
void vd_block_delete(struct vd_ledger_block *b, const struct vd_state_key *k);
bool vd_block_get(struct vd_ledger_block *b, const struct vd_state_key *k, struct vd_bytes *value);

/* Money into an account (made if need be), out of one (false: it holds less), and out of the world. */
void vd_block_credit(struct vd_ledger_block *b, const struct vd_pubkey *key, struct vd_amount amount);
bool vd_block_debit(struct vd_ledger_block *b, const struct vd_pubkey *key, struct vd_amount amount);
void vd_block_burn(struct vd_ledger_block *b, struct vd_amount amount);
/* *out = a + x or a - x; out of range is damage (b->broken), because limits were checked before. */
void vd_block_add(struct vd_ledger_block *b, struct vd_amount *a, struct vd_amount x);
void vd_block_sub(struct vd_ledger_block *b, struct vd_amount *a, struct vd_amount x);

void vd_block_event(struct vd_ledger_block *b, struct vd_event e); /* tx_index is filled in */

/* What ends at a height. The numbers give the order within one block: disputes, keepers, draws and audits
 * before the windows that wait for them, escrows after these. */
enum vd_deadline {
    VD_DEADLINE_DISPUTE = 1,
    VD_DEADLINE_KEEPER = 2, /* id: the keeper's key */
    VD_DEADLINE_DRAW = 3,   /* id: the receipt's, as in the next two */
    VD_DEADLINE_AUDIT = 4,
    VD_DEADLINE_RECEIPT = 5,
    VD_DEADLINE_ESCROW = 6,
    VD_DEADLINE_TRAP = 7,
    VD_DEADLINE_PAST_DISPUTE = 8, /* closed ones leave the state */
    VD_DEADLINE_PAST_AUDIT = 9,
};
void vd_block_deadline_add(struct vd_ledger_block *b, uint64_t height, enum vd_deadline d,
                           const struct vd_hash *id);
void vd_block_deadline_remove(struct vd_ledger_block *b, uint64_t height, enum vd_deadline d,
                              const struct vd_hash *id);

/* The kinds. The sender's account and nonce are already dealt with; whatever a refused one wrote is undone by
 * the caller. */
struct vd_deliver {
    struct vd_ledger_block *b;
    const struct vd_tx *tx;
    struct vd_hash id;
    bool verified;
};
enum vd_tx_verdict vd_apply_transfer(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_stake(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_unstake(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_withdraw(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_register_model(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_offer(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_escrow_open(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_escrow_topup(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_escrow_close(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_settle(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_challenge(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_move(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_beacon_open(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_beacon(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_auditor(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_audit_commit(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_audit_reveal(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_audit_demand(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_audit_data(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_trap_plant(struct vd_deliver *d);
enum vd_tx_verdict vd_apply_trap_open(struct vd_deliver *d);

/* The parts of a kind that need no state; vd_ledger_check runs them. */
enum vd_tx_verdict vd_check_register_model(const struct vd_tx_register_model *m, struct vd_hash *model_root);
/* Decodes a signed receipt and its body; unless `verified`, checks its signatures. */
enum vd_tx_verdict vd_check_receipt(struct vd_bytes in, bool verified, struct vd_signed_receipt *s,
                                    struct vd_receipt *r);

/* Deadlines. */
void vd_end_dispute_clock(struct vd_ledger_block *b, const struct vd_hash *dispute_id);
void vd_end_receipt_window(struct vd_ledger_block *b, const struct vd_hash *receipt_id);
void vd_end_escrow(struct vd_ledger_block *b, const struct vd_hash *escrow_id);
void vd_end_keeper_clock(struct vd_ledger_block *b, const struct vd_hash *keeper);
void vd_end_draw(struct vd_ledger_block *b, const struct vd_hash *receipt_id);
void vd_end_past_audit(struct vd_ledger_block *b, const struct vd_hash *receipt_id);
void vd_end_past_dispute(struct vd_ledger_block *b, const struct vd_hash *dispute_id);
void vd_end_audit_clock(struct vd_ledger_block *b, const struct vd_hash *receipt_id);
void vd_end_trap(struct vd_ledger_block *b, const struct vd_hash *trap_id);

/* What held a receipt up is over: a dispute, its audit, or its draw. If its window has passed as well, its
 * turn to be paid comes at the end of this block, behind every draw that is due by then. */
void vd_receipt_release(struct vd_ledger_block *b, const struct vd_hash *id,
                        const struct vd_receipt_record *r);
/* Not paid: the amount goes back. VERDICT, LATE: the stake is slashed; returns the challenger's share, which
 * the caller pays out. WITHHELD: the same, but all of the slash burns, and 0 is returned. TRAP: the worker
 * loses nothing; returns what auditors lost, for the caller to deal with. */
struct vd_amount vd_receipt_void(struct vd_ledger_block *b, const struct vd_hash *id,
                                 struct vd_receipt_record *r, enum vd_void_why why);

/* The receipt's status has just changed: its audit, if any, ends, and each auditor gets or loses what it
 * must; *fund is what they are paid from. Returns what those lost who are slashed, still to be burned or
 * shared. */
struct vd_amount vd_audit_close(struct vd_ledger_block *b, const struct vd_hash *receipt_id,
                                struct vd_receipt_record *r, struct vd_amount *fund);
/* What the files of audits share. */
struct vd_state_key vd_audit_index_key(const struct vd_pubkey *auditor, const struct vd_hash *receipt_id);
struct vd_event vd_audit_event(enum vd_event_kind kind, const struct vd_hash *receipt_id,
                               const struct vd_receipt_record *r, const struct vd_pubkey *a,
                               struct vd_amount amount);
/* One more audit of this auditor is open, or one less, with the blocks that its replay takes. */
void vd_audit_count(struct vd_ledger_block *b, const struct vd_pubkey *auditor, uint64_t replay_blocks,
                    bool opens);
/* The phase begins and ends after so many blocks; 0: it has no end. The caller writes *a. */
void vd_audit_set_phase(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_audit *a,
                        enum vd_audit_phase phase, uint64_t blocks);
/* What one auditor gets for a receipt that this rate drew, and at most what the fund holds. */
struct vd_amount vd_audit_reward(struct vd_ledger_block *b, uint32_t rate_ppm,
                                 const struct vd_receipt_record *r, struct vd_amount fund);
/* The audit of a receipt that is SETTLED, in a phase that has not run out; and an auditor's place in it, NULL
 * if it was not drawn. */
enum vd_tx_verdict vd_audit_find(struct vd_ledger_block *b, const struct vd_hash *receipt_id,
                                 struct vd_audit *a, struct vd_receipt_record *r);
struct vd_audit_slot *vd_audit_slot_of(struct vd_audit *a, const struct vd_pubkey *key);
/* The auditor withdraws from a model's list, or is struck off it. */
void vd_audit_strike_off(struct vd_ledger_block *b, const struct vd_hash *model_root,
                         const struct vd_pubkey *who);
/* What was shown by one goes. */
void vd_audit_forget_data(struct vd_ledger_block *b, const struct vd_hash *receipt_id,
                          const struct vd_pubkey *who);
/* The beacon of an epoch; false: no layer of it was revealed. */
bool vd_block_beacon(struct vd_ledger_block *b, uint64_t epoch, struct vd_hash *out);
/* May one who withdrew, and is held up to this height, still be drawn in this block or later? While draws
 * wait for room it is held longer, by an audit window at most. */
bool vd_block_may_be_drawn(const struct vd_ledger_block *b, uint64_t listed_until_height);
/* Blocks that clocks grow by for a replay of the receipt's job. */
uint64_t vd_block_replay_blocks(struct vd_ledger_block *b, const struct vd_receipt_record *r);

#endif
