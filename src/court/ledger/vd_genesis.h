/* The first state of a network and the parameters that no transaction can change.
 *
 * Its hash, H("veridem/genesis", NUL, canonical bytes), names the network: every transaction and request is
 * bound to it. The JSON file that people write is read elsewhere (src/node); here are only the values and
 * their bytes.
 *
 * Thread rule: pure functions. */
#ifndef VD_GENESIS_H
#define VD_GENESIS_H

#include "vd_amount.h"
#include "vd_bytes.h"
#include "vd_err.h"
#include "vd_key.h"

enum {
    VD_GENESIS_NAME_MAX = 64,       /* bytes, printable ASCII */
    VD_GENESIS_ACCOUNTS_MAX = 4096, /* with a balance from the start */
    VD_GENESIS_MAX_BYTES = 512 << 10,
    VD_PPM = 1000000,
    VD_AUDIT_SLOTS_MAX = 8, /* auditors of one receipt */
    /* What the ledger does with a block (docs/spec/ledger.md, 1). It stands in the genesis bytes, so in the
     * network's name: blocks made by other rules give other states, and must not be taken for damaged ones.
     * 2: FINAL comes in the order of deadlines, audits have places, every move has time for a replay. */
    VD_LEDGER_RULES = 2,
};

struct vd_genesis_account {
    struct vd_pubkey key;
    struct vd_amount balance;
};

struct vd_genesis {
    char network[VD_GENESIS_NAME_MAX + 1];
    uint64_t time_ms;       /* since 1970, of block 0 */
    uint32_t block_time_ms; /* 10..60,000 */

    uint32_t audit_rate_ppm;      /* verifiers: the share of receipts to replay; the ledger only states it */
    uint64_t audit_window_blocks; /* a receipt may be challenged this long after it settled; >= 1 */
    uint64_t move_clock_blocks;   /* a side has this long for a move; >= 1 */
    /* Some moves need the job replayed. For those the clock is longer by a block for so many positions of the
     * job; 0: no longer. */
    uint32_t steps_per_block;
    uint64_t unbonding_blocks;        /* between UNSTAKE and WITHDRAW; >= 1 */
    uint64_t request_validity_blocks; /* an escrow's rest returns this long after ESCROW_CLOSE; >= 1 */

    struct vd_amount min_stake, challenge_bond, slash; /* slash <= min_stake */
    uint32_t challenger_share_ppm;                     /* of a slash; at most half; the rest is burned */
    /* No receipt may be worth more: what a fake one gains when nobody audits it is at most what it costs when
     * somebody does,
     *
     *     max_receipt * (1 - audit rate) <= burned part of a slash * audit rate
     *
     * the burned part only, because a worker can have itself challenged and get the rest back. 0: no limit,
     * which an audit rate of 100 % allows (and 0, where nothing is audited anyway). */
    struct vd_amount max_receipt;
    /* Of a receipt; with auditor_share_ppm their sum is VD_PPM. */
    uint32_t worker_share_ppm, gateway_share_ppm, treasury_share_ppm;
    struct vd_pubkey treasury;

    /* Audits (docs/spec/audit.md). epoch_blocks 0: there are none, and the rest of these is 0. */
    uint32_t epoch_blocks;  /* receipts that settle in one epoch are one batch */
    uint32_t beacon_blocks; /* keepers have this long after an epoch to reveal its layer; 1..epoch_blocks */
    uint32_t audit_commit_blocks, audit_reveal_blocks, audit_data_blocks; /* clocks, >= 1 */
    uint32_t auditors;            /* drawn for a receipt; 1..VD_AUDIT_SLOTS_MAX */
    uint32_t audit_new_rate_ppm;  /* instead of audit_rate_ppm for a worker that has fewer */
    uint64_t audit_new_receipts;  /* receipts FINAL than this; 0: no difference */
    uint32_t auditor_share_ppm;   /* of a receipt, to the pool that auditors are paid from */
    struct vd_amount audit_slash; /* of an auditor that is late or gives a false alarm; <= min_stake */
    struct vd_amount beacon_bond; /* of a keeper, lost with the first layer that it does not reveal */
    struct vd_amount trap_bond;   /* lost when a planted trap is not opened; >= slash and max_receipt */
    uint64_t trap_blocks;         /* a planted trap must be opened within */
    /* A receipt that would pay each of its auditors less is not drawn; >= 1, so that nobody works for
     * nothing. */
    struct vd_amount audit_min_reward;

    uint64_t history_blocks; /* so long closed disputes and audits stay in the state; 0: for ever */

    uint32_t n_accounts;
    const struct vd_genesis_account *account; /* ascending by key, no duplicates; the caller's memory */
};

/* VD_EFORMAT names the field that is out of range. Also checks that the supply is below VD_AMOUNT_MAX_MICRO.
 */
enum vd_err vd_genesis_check(const struct vd_genesis *g, struct vd_error *err);
struct vd_amount vd_genesis_supply(const struct vd_genesis *g); /* of a checked genesis */

/* Canonical bytes; 0 if cap_bytes is too small (VD_GENESIS_MAX_BYTES always suffices). */
size_t vd_genesis_encode(const struct vd_genesis *g, uint8_t *buf, size_t cap_bytes);
/* Accounts go to account[cap_accounts], which out->account then points to. Decodes and checks. VD_EVERSION:
 * of a network with other rules. */
enum vd_err vd_genesis_decode(struct vd_bytes in, struct vd_genesis *out, struct vd_genesis_account *account,
                              size_t cap_accounts, struct vd_error *err);
struct vd_hash vd_genesis_hash(struct vd_bytes canonical);

#endif
