/* One onion has LAYERS layers; a layer costs as many hashes as lie below it, some milliseconds at most, once
 * an epoch. When it is used up, or was lost, the next one has another seed, since the epoch that it begins
 * with is another. */
#include "vd_onion.h"
#include "vd_audit.h"

#include <stdlib.h>
#include <string.h>

enum { LAYERS = 1 << 15 };

static void seed_of(const struct vd_keypair *key, uint64_t first_epoch, uint8_t seed[32])
{
    static const char tag[] = "veridem/keeper";
    uint8_t what[sizeof tag + 8];
    memcpy(what, tag, sizeof tag);
    vd_le64_store(what + sizeof tag, first_epoch);
    struct vd_hash h = vd_hmac_sha256(key->secret, VD_SEED_BYTES, what, sizeof what);
    memcpy(seed, h.b, 32);
}

static void on_done(void *arg, const struct vd_chain_result *r)
{
    struct vd_onion_keeper *k = arg;
    bool ok = r->err == VD_OK && r->verdict == VD_TX_OK;
    atomic_fetch_add(ok ? &k->n_layers : &k->n_refused, 1);
    if (!ok && r->err != VD_ECANCELLED)
        vd_log_event(k->log, VD_LOG_WARN, "the beacon's transaction was not taken", "why=%s",
                     r->err != VD_OK ? vd_err_text(r->err) : vd_tx_verdict_text(r->verdict));
    atomic_store(&k->sending, false);
}

static void send(struct vd_onion_keeper *k, struct vd_tx *tx, uint64_t nonce)
{
    uint8_t buf[512];
    struct vd_error why;
    tx->genesis = vd_chain_ledger(k->chain)->genesis_hash;
    tx->sender = k->key->pub;
    tx->nonce = nonce;
    size_t n = vd_tx_sign(tx, k->key, buf, sizeof buf, NULL);
    atomic_store(&k->sending, true);
    if (n == 0 || vd_chain_submit(k->chain, (struct vd_bytes){buf, n}, on_done, k, &why) != VD_OK)
        atomic_store(&k->sending, false); /* with the next block again */
}

static void open_onion(struct vd_onion_keeper *k, const struct vd_genesis *g, const struct vd_account *a,
                       uint64_t height)
{
    struct vd_tx tx = {.kind = VD_TX_BEACON_OPEN, .u.beacon_open.n_layers = LAYERS};
    uint64_t next = height + 1; /* the block it will stand in, at best */
    uint8_t seed[32];
    char hex[2 * VD_PUBKEY_BYTES + 1];
    if (vd_amount_cmp(a->balance, g->beacon_bond) < 0) {
        vd_hex_encode(hex, k->key->pub.b, VD_PUBKEY_BYTES);
        if (!k->said_poor)
            vd_log_event(k->log, VD_LOG_WARN, "no beacon: the ledger's account cannot pay the bond",
                         "bond_micro=%llu account=%s mend=transfer credits to it",
                         (unsigned long long)g->beacon_bond.micro, hex);
        k->said_poor = true;
        return;
    }
    if (vd_epoch_of(g, next) != vd_epoch_of(g, next + 2))
        return; /* it could come into the next epoch, and the seed would be another's */
    seed_of(k->key, vd_epoch_of(g, next) + 1, seed);
    tx.u.beacon_open.anchor = vd_onion_layer(seed, LAYERS);
    send(k, &tx, a->nonce);
}

static void reveal(struct vd_onion_keeper *k, const struct vd_keeper *record, uint64_t nonce)
{
    struct vd_tx tx = {.kind = VD_TX_BEACON, .u.beacon.epoch = record->next_epoch};
    uint8_t seed[32];
    seed_of(k->key, record->next_epoch - (LAYERS - record->n_left), seed);
    tx.u.beacon.layer = vd_onion_layer(seed, record->n_left - 1);
    struct vd_hash outer = vd_onion_outer(&tx.u.beacon.layer);
    if (vd_hash_eq(&outer, &record->anchor))
        send(k, &tx, nonce);
    else if (!k->said_poor) {
        vd_log_event(k->log, VD_LOG_ERROR, "this account's beacon was opened with another onion",
                     "epoch=%llu", (unsigned long long)record->next_epoch);
        k->said_poor = true;
    }
}

void vd_onion_tick(struct vd_onion_keeper *k)
{
    const struct vd_genesis *g = vd_chain_genesis(k->chain);
    struct vd_store_view *v;
    struct vd_store_tip tip;
    struct vd_account a = {.nonce = 0};
    struct vd_keeper record = {.n_left = 0};
    if (!g->epoch_blocks || atomic_load(&k->sending) || vd_chain_view_open(k->chain, &v, NULL) != VD_OK)
        return;
    bool known = vd_ledger_get_account(vd_store_view_kv(v), &k->key->pub, &a);
    bool keeps = vd_ledger_get_keeper(vd_store_view_kv(v), &k->key->pub, &record);
    bool good = vd_store_view_tip(v, &tip, NULL) == VD_OK && !vd_store_view_kv(v)->failed;
    vd_store_view_close(v);
    if (!good)
        return;
    if (keeps && tip.height + 1 >= (record.next_epoch + 1) * g->epoch_blocks)
        reveal(k, &record, a.nonce);
    else if (!keeps && (known || !k->said_poor))
        open_onion(k, g, &a, tip.height);
}
