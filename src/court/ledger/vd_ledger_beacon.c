/* Keepers and their onions. A keeper commits to all its layers with one hash before anybody has settled what
 * they will draw, and can then only reveal the one that is next, or lose its bond and its place. Layers of
 * several keepers are mixed by XOR of hashes that name the keeper, so neither their order in a block nor a
 * copied anchor matters, and one keeper who keeps its layers to itself until they are due is enough. */
#include "vd_audit.h"
#include "vd_ledger_impl.h"

enum {
    KEEPERS_MAX = 16,
    BEACONS_KEPT = 1024, /* epochs; no draw needs an older one */
};

static struct vd_hash id_of(const struct vd_pubkey *key)
{
    struct vd_hash h;
    memcpy(h.b, key->b, sizeof h.b);
    return h;
}

static void expect_layer(struct vd_ledger_block *b, const struct vd_pubkey *key, const struct vd_keeper *k)
{
    struct vd_hash id = id_of(key);
    vd_block_deadline_add(b, vd_epoch_due(b->ledger->genesis, k->next_epoch), VD_DEADLINE_KEEPER, &id);
    vd_block_put_keeper(b, key, k);
}

static bool count_keeper(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    (void)key;
    (void)value;
    return ++*(uint32_t *)arg < KEEPERS_MAX;
}

enum vd_tx_verdict vd_apply_beacon_open(struct vd_deliver *d)
{
    const struct vd_genesis *g = d->b->ledger->genesis;
    const struct vd_tx_beacon_open *o = &d->tx->u.beacon_open;
    struct vd_keeper k;
    uint32_t n = 0;
    if (!g->epoch_blocks)
        return VD_TX_NO_AUDITS;
    if (o->n_layers == 0)
        return VD_TX_BAD_AMOUNT;
    if (vd_block_get_keeper(d->b, &d->tx->sender, &k))
        return VD_TX_BEACON_EXISTS;
    vd_ledger_list(&d->b->overlay.kv, VD_STATE_KEEPER, (struct vd_bytes){NULL, 0}, NULL, count_keeper, &n);
    if (n == KEEPERS_MAX)
        return VD_TX_TOO_MANY;
    if (!vd_block_debit(d->b, &d->tx->sender, g->beacon_bond))
        return VD_TX_FUNDS;
    /* Not for the epoch at hand: some of its receipts are known to whoever makes the anchor now. */
    k = (struct vd_keeper){o->anchor, o->n_layers, vd_epoch_of(g, d->b->height) + 1, g->beacon_bond};
    expect_layer(d->b, &d->tx->sender, &k);
    vd_block_event(d->b, (struct vd_event){
                             .kind = VD_EVENT_BEACON_OPENED, .a = d->tx->sender, .amount = g->beacon_bond});
    return VD_TX_OK;
}

static bool get_beacon(struct vd_ledger_block *b, uint64_t epoch, struct vd_beacon *out)
{
    struct vd_state_key key = vd_state_key_beacon(epoch);
    struct vd_bytes v;
    memset(out, 0, sizeof *out);
    if (!vd_block_get(b, &key, &v))
        return false;
    b->broken |= !vd_beacon_decode(v, out);
    return !b->broken;
}

bool vd_block_beacon(struct vd_ledger_block *b, uint64_t epoch, struct vd_hash *out)
{
    struct vd_beacon beacon;
    if (!get_beacon(b, epoch, &beacon))
        return false;
    *out = vd_beacon_value(epoch, &beacon.mix);
    return true;
}

static void mix_layer(struct vd_ledger_block *b, uint64_t epoch, const struct vd_pubkey *key,
                      const struct vd_hash *layer)
{
    struct vd_hash part = vd_beacon_part(key, layer);
    struct vd_state_key at = vd_state_key_beacon(epoch);
    struct vd_beacon beacon;
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    get_beacon(b, epoch, &beacon);
    for (int i = 0; i < VD_HASH_BYTES; i++)
        beacon.mix.b[i] ^= part.b[i];
    beacon.n_layers++;
    vd_block_put(b, &at, buf, vd_beacon_encode(&beacon, buf, sizeof buf));
    if (epoch >= BEACONS_KEPT) {
        at = vd_state_key_beacon(epoch - BEACONS_KEPT);
        vd_block_delete(b, &at);
    }
}

/* The bond goes to the keeper, or burns. */
static void end_keeper(struct vd_ledger_block *b, const struct vd_pubkey *key, struct vd_keeper *k, bool burn)
{
    struct vd_amount bond = k->bond;
    struct vd_state_key at = vd_state_key_make(VD_STATE_KEEPER, key->b, VD_PUBKEY_BYTES, NULL);
    k->bond = VD_AMOUNT_ZERO;
    vd_block_put_keeper(b, key, k);
    vd_block_delete(b, &at);
    if (burn)
        vd_block_burn(b, bond);
    else
        vd_block_credit(b, key, bond);
    vd_block_event(b, (struct vd_event){.kind = burn ? VD_EVENT_BEACON_MISSED : VD_EVENT_BEACON_ENDED,
                                        .a = *key,
                                        .amount = bond});
}

enum vd_tx_verdict vd_apply_beacon(struct vd_deliver *d)
{
    const struct vd_genesis *g = d->b->ledger->genesis;
    const struct vd_tx_beacon *t = &d->tx->u.beacon;
    const struct vd_pubkey *key = &d->tx->sender;
    struct vd_hash id = id_of(key), outer = vd_onion_outer(&t->layer);
    struct vd_keeper k;
    if (!g->epoch_blocks)
        return VD_TX_NO_AUDITS;
    if (!vd_block_get_keeper(d->b, key, &k) || t->epoch != k.next_epoch ||
        d->b->height < (t->epoch + 1) * g->epoch_blocks || d->b->height > vd_epoch_due(g, t->epoch) ||
        !vd_hash_eq(&outer, &k.anchor))
        return VD_TX_BAD_LAYER;
    vd_block_deadline_remove(d->b, vd_epoch_due(g, t->epoch), VD_DEADLINE_KEEPER, &id);
    mix_layer(d->b, t->epoch, key, &t->layer);
    vd_block_event(d->b, (struct vd_event){.kind = VD_EVENT_BEACON, .id = t->layer, .a = *key});
    k.anchor = t->layer;
    k.n_left--;
    k.next_epoch++;
    if (k.n_left)
        expect_layer(d->b, key, &k);
    else
        end_keeper(d->b, key, &k, false);
    return VD_TX_OK;
}

void vd_end_keeper_clock(struct vd_ledger_block *b, const struct vd_hash *keeper)
{
    struct vd_pubkey key;
    struct vd_keeper k;
    memcpy(key.b, keeper->b, sizeof key.b);
    if (!vd_block_get_keeper(b, &key, &k)) {
        b->broken = true;
        return;
    }
    end_keeper(b, &key, &k, true);
}
