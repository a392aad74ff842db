#include "vd_worker_game.h"

#include <stdlib.h>
#include <string.h>

enum { VD_MOVE_WAIT_MS = 30000 };

enum vd_err vd_game_case_init(struct vd_game_case *c, const struct vd_envelope *envelope, uint32_t *tokens,
                              const struct vd_model *model, struct vd_error *err)
{
    memset(c, 0, sizeof *c);
    c->envelope = *envelope;
    c->tokens = tokens;
    c->receipt_id = vd_signed_receipt_id(&envelope->receipt);
    struct vd_bytes body = {c->envelope.receipt.body, c->envelope.receipt.body_bytes};
    enum vd_err e = VD_OK;
    if (vd_receipt_decode(body, &c->receipt) != VD_RECEIPT_OK)
        e = vd_error_set(err, VD_EFORMAT, "the receipt does not decode");
    else if (envelope->n_prompt != c->receipt.request.n_prompt || envelope->n_output != c->receipt.n_output)
        e = vd_error_set(err, VD_EFORMAT, "the receipt and its tokens differ in number");
    else if (!vd_ref_claim_init(&c->claim, &c->receipt, vd_model_program(model),
                                vd_model_program_bytes(model)))
        e = vd_error_set(err, VD_EUNSUPPORTED, "the model's program cannot run the receipt's job");
    c->job = (struct vd_proof_job){&c->receipt, c->envelope.prompt, c->envelope.output, c->envelope.job_salt};
    if (e != VD_OK)
        vd_game_case_free(c);
    return e;
}

void vd_game_case_free(struct vd_game_case *c)
{
    free(c->tokens);
    memset(c, 0, sizeof *c);
}

enum vd_err vd_game_fetch(struct vd_ledger_client *ledger, const struct vd_hash *dispute,
                          const struct vd_game_case *c, struct vd_dispute *record, struct vd_game *game,
                          struct vd_error *err)
{
    struct vd_ledger_answer a;
    enum vd_err e = vd_ledger_client_dispute(ledger, dispute, record, err);
    if (e != VD_OK || !vd_dispute_open(record->status))
        return e;
    struct vd_state_key key = vd_state_key_make(VD_STATE_GAME, dispute->b, VD_HASH_BYTES, NULL);
    e = vd_ledger_client_get(ledger, &key, VD_LEDGER_QUERY_TIMEOUT_MS, &a, err);
    if (e != VD_OK)
        return e;
    if (a.n_items != 1 || !vd_game_decode(a.item[0], &c->claim, game))
        e = vd_error_set(err, VD_EFORMAT, "the ledger's record of the game does not decode");
    vd_ledger_answer_free(&a);
    return e;
}

enum vd_err vd_game_send(struct vd_ledger_client *ledger, const struct vd_hash *dispute,
                         const struct vd_player_move *move, struct vd_error *err)
{
    struct vd_ledger_outcome o;
    struct vd_tx tx = {.kind = VD_TX_MOVE};
    tx.u.move.dispute_id = *dispute;
    tx.u.move.move = (struct vd_bytes){move->bytes, move->n_bytes};
    return vd_ledger_client_send(ledger, &tx, VD_MOVE_WAIT_MS, &o, err);
}
