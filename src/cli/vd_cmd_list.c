/* Every command of veridem, in the order in which the help lists them: groups stand together. */
#include "vd_cmd.h"

const struct vd_cmd *const vd_cmd_list[] = {
    &vd_cmd_up,
    &vd_cmd_ledger,
    &vd_cmd_gateway,
    &vd_cmd_worker,
    &vd_cmd_verifier,
    &vd_cmd_run,
    &vd_cmd_verify,
    &vd_cmd_diff,
    &vd_cmd_model,
    &vd_cmd_bench,
    &vd_cmd_embed,
    &vd_cmd_perplexity,
    &vd_cmd_tokenize,
    &vd_cmd_detokenize,
    &vd_cmd_template,
    &vd_cmd_status,
    &vd_cmd_account,
    &vd_cmd_tx,
    &vd_cmd_receipt,
    &vd_cmd_dispute,
    &vd_cmd_audit,
    &vd_cmd_key,
    NULL,
};
