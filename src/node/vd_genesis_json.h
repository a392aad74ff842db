/* The genesis as the JSON file that people write and share, and back.
 *
 *     {"network": "home", "time_ms": 1767225600000, "block_time_ms": 250,
 *      "audit_rate_ppm": 20000, "audit_window_blocks": 240, "move_clock_blocks": 40,
 *      "steps_per_block": 2, "unbonding_blocks": 2400, "request_validity_blocks": 1200,
 *      "min_stake_micro": 100000000, "challenge_bond_micro": 1000000, "slash_micro": 100000000,
 *      "max_receipt_micro": 1000000, "challenger_share_ppm": 400000, "worker_share_ppm": 950000,
 *      "gateway_share_ppm": 40000, "treasury_share_ppm": 10000, "treasury": "<64 hex digits>",
 *      "accounts": [{"key": "<64 hex digits>", "balance_micro": 1000000000}, ...]}
 *
 * and, for a network with audits, "epoch_blocks", "beacon_blocks", "audit_commit_blocks",
 * "audit_reveal_blocks", "audit_data_blocks", "auditors", "audit_new_rate_ppm", "audit_new_receipts",
 * "auditor_share_ppm", "audit_slash_micro", "beacon_bond_micro", "trap_bond_micro" and "trap_blocks", all of
 * them (docs/spec/audit.md).
 *
 * All fields are needed, others are errors, amounts are whole micro-credits. The order of the accounts and
 * the layout of the file do not matter: the network's hash is over the canonical bytes (vd_genesis.h).
 *
 * Ownership: struct vd_genesis_file owns its accounts until vd_genesis_file_free. Thread rule: functions of
 * their arguments and of the file system. */
#ifndef VD_GENESIS_JSON_H
#define VD_GENESIS_JSON_H

#include "vd_genesis.h"

enum { VD_GENESIS_JSON_MAX_BYTES = 2 << 20 };

struct vd_genesis_file {
    struct vd_genesis genesis; /* checked; .account points to `account` */
    struct vd_genesis_account *account;
};

/* VD_EFORMAT names the line, or the field and what it must be; VD_ELIMIT. `name` is for messages. */
enum vd_err vd_genesis_json_parse(struct vd_genesis_file *out, const char *text, size_t n_bytes,
                                  const char *name, struct vd_error *err);
/* `path` may be a stream: vd_stream_read. */
enum vd_err vd_genesis_json_load(struct vd_genesis_file *out, const char *path, struct vd_error *err);
/* The same from canonical bytes, such as a ledger sends. */
enum vd_err vd_genesis_file_decode(struct vd_genesis_file *out, struct vd_bytes canonical,
                                   struct vd_error *err);
void vd_genesis_file_free(struct vd_genesis_file *f); /* a cleared one is fine */

/* The text, NUL-terminated, which the caller frees with free(). NULL: no memory. */
char *vd_genesis_json_format(const struct vd_genesis *g);
enum vd_err vd_genesis_json_save(const struct vd_genesis *g, const char *path, struct vd_error *err);

/* The hash that names the network. VD_ENOMEM. */
enum vd_err vd_genesis_network_hash(const struct vd_genesis *g, struct vd_hash *out, struct vd_error *err);

#endif
