/* What a worker needs on the ledger before gateways may use it: its models registered, its stake, its offers.
 * Each step looks first and sends a transaction only if something is missing, so a restart sends none. */
#include "vd_merkle.h"
#include "vd_worker_impl.h"

#include <stdlib.h>

enum { VD_SETUP_WAIT_MS = 60000 };

/* The root over the tensors, which a registration carries, from the proof of the first weight leaf. */
static enum vd_err vd_setup_tensors_root(struct vd_worker_offer *o, struct vd_hash *out, struct vd_error *err)
{
    struct vd_weight_proof *p = malloc(sizeof *p);
    if (!p)
        return vd_error_set(err, VD_ENOMEM, "no memory for a proof");
    enum vd_err e = vd_model_weight_proof(o->m.model, o->m.pool, 0, 0, 0, p, err);
    if (e == VD_OK) {
        const struct vd_program *program = vd_model_program(o->m.model);
        struct vd_tensor_shape t = vd_program_tensor(program, 0);
        struct vd_hash leaf = vd_weight_leaf(0, 0, 0, p->bytes.p, p->bytes.n);
        struct vd_hash root = vd_merkle_range_root((size_t)t.rows * vd_tensor_parts(t), 0, 1, &leaf, p->path);
        leaf = vd_tensor_leaf(0, t, &root);
        *out = vd_merkle_range_root(program->n_tensors, 0, 1, &leaf, p->tensor_path);
    }
    free(p);
    return e;
}

static enum vd_err vd_setup_send(struct vd_worker *w, struct vd_tx *tx, struct vd_error *err)
{
    struct vd_ledger_outcome o;
    struct vd_error why;
    enum vd_err e = vd_ledger_client_send(w->ledger, tx, VD_SETUP_WAIT_MS, &o, &why);
    if (e == VD_OK) {
        vd_log_event(&w->log, VD_LOG_INFO, "transaction applied", "kind=%s height=%llu",
                     vd_tx_kind_name(tx->kind), (unsigned long long)o.height);
        return VD_OK;
    }
    bool funds = e == VD_EFALSE && (o.verdict == VD_TX_FUNDS || o.verdict == VD_TX_UNKNOWN_ACCOUNT);
    return vd_error_set(err,
                        funds            ? VD_EFUNDS
                        : e == VD_EFALSE ? VD_ECONFLICT
                                         : e,
                        "%s: %s%s", vd_tx_kind_name(tx->kind), why.msg,
                        funds ? "; transfer credits to this worker's account first" : "");
}

static enum vd_err vd_setup_model(struct vd_worker *w, struct vd_worker_offer *o, struct vd_error *err)
{
    struct vd_model_record known;
    struct vd_hash root;
    struct vd_tx tx = {.kind = VD_TX_REGISTER_MODEL};
    enum vd_err e = vd_ledger_client_model(w->ledger, &o->m.root, &known, err);
    if (e != VD_ENOTFOUND)
        return e;
    struct vd_tx_register_model *r = &tx.u.register_model;
    r->program = vd_model_program_bytes(o->m.model);
    r->n_tensors = vd_model_program(o->m.model)->n_tensors;
    e = vd_setup_tensors_root(o, &r->tensors_root, err);
    if (e != VD_OK)
        return e;
    root = vd_program_model_root(r->program, r->n_tensors, &r->tensors_root);
    if (!vd_hash_eq(&root, &o->m.root))
        return vd_error_set(err, VD_ENOTFOUND,
                            "the ledger does not know the model root that is to be offered, and %.200s "
                            "has another",
                            vd_model_path(o->m.model));
    e = vd_setup_send(w, &tx, err);
    /* Another worker may have been faster. */
    return e == VD_ECONFLICT ? vd_ledger_client_model(w->ledger, &o->m.root, &known, err) : e;
}

static enum vd_err vd_setup_stake(struct vd_worker *w, struct vd_amount want, struct vd_error *err)
{
    struct vd_stake have = {0};
    struct vd_tx tx = {.kind = VD_TX_STAKE};
    enum vd_err e = vd_ledger_client_stake(w->ledger, &w->key.pub, &have, err);
    if (e != VD_OK && e != VD_ENOTFOUND)
        return e;
    if (want.micro < w->rules->min_stake.micro)
        want = w->rules->min_stake;
    if (vd_amount_sub(&tx.u.stake.amount, want, have.amount) && tx.u.stake.amount.micro) {
        e = vd_setup_send(w, &tx, err);
        if (e != VD_OK)
            return e;
        have.amount = want;
    }
    w->stake_micro = have.amount.micro;
    w->exposed_micro = have.unsettled.micro;
    return VD_OK;
}

static enum vd_err vd_setup_offer(struct vd_worker *w, struct vd_worker_offer *o, struct vd_error *err)
{
    struct vd_offer have;
    struct vd_tx tx = {.kind = VD_TX_OFFER};
    enum vd_err e = vd_ledger_client_offer(w->ledger, &o->m.root, &w->key.pub, &have, err);
    if (e == VD_OK && have.price_in.micro == o->m.price_in.micro &&
        have.price_out.micro == o->m.price_out.micro && have.capacity == o->m.capacity)
        return VD_OK;
    if (e != VD_OK && e != VD_ENOTFOUND)
        return e;
    tx.u.offer = (struct vd_tx_offer){o->m.root, o->m.price_in, o->m.price_out, o->m.capacity};
    return vd_setup_send(w, &tx, err);
}

/* The sequences of the receipts that an earlier life of this worker signed. */
static enum vd_err vd_setup_seen(struct vd_worker *w, struct vd_error *err)
{
    struct vd_hash *ids;
    size_t n;
    enum vd_err e = vd_worker_jobs_list(&w->jobs, &ids, &n, err);
    for (size_t i = 0; e == VD_OK && i < n; i++) {
        struct vd_envelope env;
        struct vd_receipt r;
        uint32_t *tokens;
        if (vd_worker_jobs_get(&w->jobs, &ids[i], &env, &tokens, NULL) != VD_OK)
            continue; /* told when it is needed */
        if (vd_receipt_decode((struct vd_bytes){env.receipt.body, env.receipt.body_bytes}, &r) ==
            VD_RECEIPT_OK)
            (void)vd_worker_see(w, &r.request.escrow_id, r.request.sequence);
        free(tokens);
    }
    free(ids);
    return e;
}

enum vd_err vd_worker_setup(struct vd_worker *w, struct vd_amount stake, struct vd_error *err)
{
    enum vd_err e = vd_setup_seen(w, err);
    if (e == VD_OK)
        e = vd_setup_stake(w, stake, err);
    for (size_t i = 0; e == VD_OK && i < w->n_offers; i++) {
        e = vd_setup_model(w, &w->offer[i], err);
        if (e == VD_OK)
            e = vd_setup_offer(w, &w->offer[i], err);
    }
    return e;
}
