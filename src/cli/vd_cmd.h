/* The commands, each in its file vd_cmd_<name>.c, and the few things that several of them need. */
#ifndef VD_CMD_H
#define VD_CMD_H

#include "vd_cli.h"
#include "vd_key.h"

/* All of them, in the order of the help, NULL-terminated. */
extern const struct vd_cmd *const vd_cmd_list[];

extern const struct vd_cmd vd_cmd_up, vd_cmd_ledger, vd_cmd_gateway, vd_cmd_worker, vd_cmd_verifier;
extern const struct vd_cmd vd_cmd_run, vd_cmd_verify, vd_cmd_diff, vd_cmd_model, vd_cmd_bench,
    vd_cmd_perplexity, vd_cmd_embed;
extern const struct vd_cmd vd_cmd_tokenize, vd_cmd_detokenize, vd_cmd_template;
extern const struct vd_cmd vd_cmd_status, vd_cmd_account, vd_cmd_tx, vd_cmd_receipt, vd_cmd_dispute,
    vd_cmd_audit, vd_cmd_key;

/* Loads $VERIDEM_HOME/keys/NAME.key, or the file NAME when it holds a slash; makes it if absent and `create`.
 */
enum vd_err vd_cmd_load_key(struct vd_keypair *out, const char *name, bool create, struct vd_error *err);

#endif
