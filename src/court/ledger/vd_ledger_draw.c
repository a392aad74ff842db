/* Who audits: the lists of auditors, and the draw.
 *
 * Once a layer of the beacon is revealed everybody can compute what is drawn, and who: so what a draw reads
 * was fixed before, and nobody takes it away while draws wait for their turn or their place. */
#include "vd_audit.h"
#include "vd_ledger_impl.h"

enum { AUDITORS_MAX = 256 }; /* of one model */

/* ---- who is on a model's list ---- */

static struct vd_state_key auditor_key(const struct vd_hash *model_root, const struct vd_pubkey *key)
{
    return vd_state_key_make(VD_STATE_AUDITOR, model_root->b, VD_HASH_BYTES, key->b);
}

static bool get_auditor(struct vd_ledger_block *b, const struct vd_state_key *key, struct vd_auditor *out)
{
    struct vd_bytes there;
    memset(out, 0, sizeof *out);
    if (!vd_block_get(b, key, &there))
        return false;
    b->broken |= !vd_auditor_decode(there, out);
    return !b->broken;
}

static void put_auditor(struct vd_ledger_block *b, const struct vd_state_key *key, const struct vd_auditor *a)
{
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    vd_block_put(b, key, buf, vd_auditor_encode(a, buf, sizeof buf));
}

/* The last height at which a batch that ended before `off_height` is drawn, if there is room. Who withdraws
 * is drawn for these all the same: once a layer is revealed everybody can compute the draw, and must not step
 * aside from it, or push others into it. */
static uint64_t listed_until(const struct vd_genesis *g, uint64_t off_height)
{
    uint64_t epoch = vd_epoch_of(g, off_height), due = epoch ? vd_epoch_due(g, epoch - 1) : 0;
    return due > off_height ? due : off_height;
}

bool vd_block_may_be_drawn(const struct vd_ledger_block *b, uint64_t listed_until_height)
{
    bool draws_wait = b->totals.place_height >= b->height;
    uint64_t longer = draws_wait ? b->ledger->genesis->audit_window_blocks : 0;
    return b->height <= listed_until_height + longer;
}

void vd_audit_strike_off(struct vd_ledger_block *b, const struct vd_hash *model_root,
                         const struct vd_pubkey *who)
{
    struct vd_state_key key = auditor_key(model_root, who);
    struct vd_auditor a;
    struct vd_stake s;
    if (!get_auditor(b, &key, &a) || a.off_height)
        return;
    a.off_height = b->height;
    put_auditor(b, &key, &a);
    vd_block_get_stake(b, who, &s);
    b->broken |= s.n_listed == 0;
    s.n_listed--;
    s.listed_until_height = listed_until(b->ledger->genesis, b->height);
    vd_block_put_stake(b, who, &s);
}

/* How many a model has, and one whose place is free again. */
struct roll {
    struct vd_ledger_block *b;
    uint32_t n;
    bool found;
    struct vd_state_key stale;
};

static bool call_roll(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct roll *l = arg;
    struct vd_auditor a;
    if (!vd_auditor_decode(value, &a)) {
        l->b->broken = true;
        return false;
    }
    if (!l->found && a.off_height &&
        !vd_block_may_be_drawn(l->b, listed_until(l->b->ledger->genesis, a.off_height))) {
        l->found = true;
        memcpy(l->stale.b, key.p, key.n);
        l->stale.n = key.n;
    }
    return ++l->n < AUDITORS_MAX;
}

static enum vd_tx_verdict enlist(struct vd_deliver *d, const struct vd_state_key *key,
                                 struct vd_amount *weight)
{
    const struct vd_genesis *g = d->b->ledger->genesis;
    const struct vd_hash *model_root = &d->tx->u.auditor.model_root;
    struct roll roll = {.b = d->b};
    struct vd_auditor a;
    struct vd_stake s;
    bool known = get_auditor(d->b, key, &a);
    if (known && (a.off_height == 0 || vd_block_may_be_drawn(d->b, listed_until(g, a.off_height))))
        return VD_TX_WRONG_PHASE;
    vd_ledger_list(&d->b->overlay.kv, VD_STATE_AUDITOR, (struct vd_bytes){model_root->b, VD_HASH_BYTES}, NULL,
                   call_roll, &roll);
    if (!known && roll.n == AUDITORS_MAX && !roll.found)
        return VD_TX_TOO_MANY;
    if (!known && roll.n == AUDITORS_MAX)
        vd_block_delete(d->b, &roll.stale);
    vd_block_get_stake(d->b, &d->tx->sender, &s);
    if (vd_amount_cmp(s.amount, g->min_stake) < 0)
        return VD_TX_BELOW_MIN_STAKE;
    a = (struct vd_auditor){s.amount, d->b->height, 0};
    put_auditor(d->b, key, &a);
    s.n_listed++;
    vd_block_put_stake(d->b, &d->tx->sender, &s);
    *weight = s.amount;
    return VD_TX_OK;
}

enum vd_tx_verdict vd_apply_auditor(struct vd_deliver *d)
{
    const struct vd_tx_auditor *t = &d->tx->u.auditor;
    struct vd_state_key key = auditor_key(&t->model_root, &d->tx->sender);
    struct vd_state_key model = vd_state_key_make(VD_STATE_MODEL, t->model_root.b, VD_HASH_BYTES, NULL);
    struct vd_event e = {.kind = VD_EVENT_AUDITOR, .id = t->model_root, .a = d->tx->sender};
    struct vd_bytes there;
    enum vd_tx_verdict v = VD_TX_OK;
    if (!d->b->ledger->genesis->epoch_blocks)
        return VD_TX_NO_AUDITS;
    if (!vd_block_get(d->b, &model, &there))
        return VD_TX_UNKNOWN_MODEL;
    if (t->on)
        v = enlist(d, &key, &e.amount);
    else
        vd_audit_strike_off(d->b, &t->model_root, &d->tx->sender);
    if (v == VD_TX_OK)
        vd_block_event(d->b, e);
    return v;
}

/* ---- drawing ---- */

struct candidates {
    struct vd_ledger_block *b;
    const struct vd_receipt_record *r;
    uint64_t before_height; /* registered earlier than this, and not withdrawn by then */
    uint32_t n;
    uint64_t total;
    struct {
        struct vd_pubkey key;
        uint64_t weight;
    } list[AUDITORS_MAX];
};

static bool add_candidate(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct candidates *c = arg;
    struct vd_auditor a;
    struct vd_pubkey who;
    struct vd_stake s;
    if (key.n != 1 + VD_HASH_BYTES + VD_PUBKEY_BYTES || !vd_auditor_decode(value, &a)) {
        c->b->broken = true;
        return false;
    }
    memcpy(who.b, key.p + 1 + VD_HASH_BYTES, VD_PUBKEY_BYTES);
    vd_block_get_stake(c->b, &who, &s);
    bool fits = a.height < c->before_height && (!a.off_height || a.off_height >= c->before_height) &&
                !vd_pubkey_eq(&who, &c->r->worker) && !vd_pubkey_eq(&who, &c->r->gateway) &&
                vd_amount_cmp(s.amount, c->b->ledger->genesis->min_stake) >= 0;
    if (fits) {
        uint64_t weight = a.weight.micro < s.amount.micro ? a.weight.micro : s.amount.micro;
        c->list[c->n].key = who;
        c->list[c->n++].weight = weight;
        c->total += weight; /* at most the supply */
    }
    return c->n < AUDITORS_MAX;
}

/* One of them by weight, who is then no candidate any more. */
static struct vd_pubkey pick(struct candidates *c, uint64_t point)
{
    uint32_t i = 0;
    while (i + 1 < c->n && point >= c->list[i].weight)
        point -= c->list[i++].weight;
    struct vd_pubkey key = c->list[i].key;
    c->total -= c->list[i].weight;
    c->n--;
    memmove(&c->list[i], &c->list[i + 1], (c->n - i) * sizeof c->list[0]);
    return key;
}

/* An auditor with several audits at once gets time for this one after all the others, however long those
 * are: somebody may have large jobs of its own drawn to make it late with a small one. */
static uint64_t clock_of(struct vd_ledger_block *b, const struct vd_audit *a)
{
    uint64_t most = 0;
    struct vd_stake s;
    for (uint32_t i = 0; i < a->n_slots; i++) {
        vd_block_get_stake(b, &a->slot[i].auditor, &s);
        most = s.audit_blocks > most ? s.audit_blocks : most;
    }
    return b->ledger->genesis->audit_commit_blocks + most + a->replay_blocks;
}

static void open_audit(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *r,
                       const struct vd_hash *beacon, uint64_t epoch, uint32_t rate_ppm)
{
    const struct vd_genesis *g = b->ledger->genesis;
    struct vd_audit a = {.worker = r->worker,
                         .gateway = r->gateway,
                         .model_root = r->model_root,
                         .epoch = epoch,
                         .rate_ppm = rate_ppm,
                         .draw_height = b->height,
                         .replay_blocks = vd_block_replay_blocks(b, r)};
    struct candidates *c = vd_arena_alloc(b->arena, sizeof *c, _Alignof(struct candidates));
    if (!c) {
        b->overlay.full = true;
        return;
    }
    *c = (struct candidates){.b = b, .r = r, .before_height = (epoch + 1) * g->epoch_blocks};
    vd_ledger_list(&b->overlay.kv, VD_STATE_AUDITOR, (struct vd_bytes){r->model_root.b, VD_HASH_BYTES}, NULL,
                   add_candidate, c);
    while (a.n_slots < g->auditors && c->n) {
        struct vd_pubkey who = pick(c, vd_audit_point(beacon, id, a.n_slots, c->total));
        a.slot[a.n_slots++] = (struct vd_audit_slot){.auditor = who, .status = VD_SLOT_DRAWN};
    }
    if (!a.n_slots) { /* nobody holds the model */
        r->drawn_epoch = r->drawn_rate_ppm = 0;
        vd_block_put_receipt(b, id, r);
        vd_receipt_release(b, id, r);
        return;
    }
    a.clock_blocks = clock_of(b, &a);
    vd_audit_set_phase(b, id, &a, VD_AUDIT_COMMITTING, a.clock_blocks);
    r->audited = r->audit_open = true;
    for (uint32_t i = 0; i < a.n_slots; i++) {
        struct vd_state_key at = vd_audit_index_key(&a.slot[i].auditor, id);
        struct vd_event e = vd_audit_event(VD_EVENT_AUDIT_DRAWN, id, r, &a.slot[i].auditor, VD_AMOUNT_ZERO);
        e.b = r->worker;
        vd_audit_count(b, &a.slot[i].auditor, a.replay_blocks, true);
        vd_block_put(b, &at, NULL, 0);
        vd_block_event(b, e);
    }
    vd_block_put_audit(b, id, &a);
    vd_block_put_receipt(b, id, r);
}

static uint32_t rate_of(struct vd_ledger_block *b, const struct vd_receipt_record *r)
{
    const struct vd_genesis *g = b->ledger->genesis;
    struct vd_stake s;
    vd_block_get_stake(b, &r->worker, &s);
    return s.n_final < g->audit_new_receipts && g->audit_new_rate_ppm > g->audit_rate_ppm
               ? g->audit_new_rate_ppm
               : g->audit_rate_ppm;
}

/* By its worker's rate, and only if it pays its auditors the least: who made them work for nothing could keep
 * them from the others. */
static bool is_drawn(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *r,
                     const struct vd_hash *beacon)
{
    static const struct vd_amount all = {VD_AMOUNT_MAX_MICRO};
    r->drawn_rate_ppm = rate_of(b, r);
    return vd_audit_is_drawn(beacon, id, r->drawn_rate_ppm) &&
           vd_amount_cmp(vd_audit_reward(b, r->drawn_rate_ppm, r, all),
                         b->ledger->genesis->audit_min_reward) >= 0;
}

/* The epoch by whose beacon a receipt is drawn, and its auditors: its own, or if that has none the last that
 * is due by now. False: no layer of that was revealed either. */
static bool find_beacon(struct vd_ledger_block *b, const struct vd_receipt_record *r, uint64_t last,
                        uint64_t *epoch, struct vd_hash *beacon)
{
    *epoch = r->drawn_epoch ? r->drawn_epoch - 1 : vd_epoch_of(b->ledger->genesis, r->settle_height);
    if (vd_block_beacon(b, *epoch, beacon))
        return true;
    *epoch = last;
    return vd_block_beacon(b, last, beacon);
}

/* The next block in which one more audit may open: this one, as long as there is room. */
static uint64_t take_place(struct vd_ledger_block *b)
{
    struct vd_totals *t = &b->totals;
    uint64_t first = b->height + (b->n_draws == VD_BLOCK_MAX_DRAWS);
    if (t->place_height < first) {
        t->place_height = first;
        t->n_places = 0;
    }
    if (t->n_places == VD_BLOCK_MAX_DRAWS) {
        t->place_height++;
        t->n_places = 0;
    }
    t->n_places++;
    return t->place_height;
}

/* At the end of the last block in which the layers of the receipt's epoch may be revealed. If none was, a
 * later epoch's beacon will do, as long as the window is open. Then, if it was drawn and there was no room,
 * in the block of its place: it comes back once, so those that wait cost a block nothing. (Again only if
 * deadlines were so far behind that the places of several blocks came up in one.) */
void vd_end_draw(struct vd_ledger_block *b, const struct vd_hash *receipt_id)
{
    const struct vd_genesis *g = b->ledger->genesis;
    struct vd_receipt_record r;
    struct vd_hash beacon;
    if (!vd_block_get_receipt(b, receipt_id, &r)) {
        b->broken = true;
        return;
    }
    if (r.status != VD_RECEIPT_SETTLED)
        return;
    uint64_t last = vd_epoch_of(g, b->height + 1 - g->beacon_blocks) - 1; /* that is due */
    uint64_t epoch, place = b->height;
    if (!find_beacon(b, &r, last, &epoch, &beacon)) {
        if (r.drawn_epoch || vd_epoch_due(g, last + 1) < r.window_end_height)
            vd_block_deadline_add(b, vd_epoch_due(g, last + 1), VD_DEADLINE_DRAW, receipt_id);
        else
            vd_receipt_release(b, receipt_id, &r); /* a worker must not lose by a keeper's silence */
        return;
    }
    if (!r.drawn_epoch) {
        if (!is_drawn(b, receipt_id, &r, &beacon)) {
            vd_receipt_release(b, receipt_id, &r);
            return;
        }
        r.drawn_epoch = epoch + 1; /* and stays drawn, by this beacon, however long there is no room */
        place = take_place(b);
    } else if (b->n_draws == VD_BLOCK_MAX_DRAWS) {
        place = take_place(b);
    }
    if (place == b->height) {
        b->n_draws++;
        open_audit(b, receipt_id, &r, &beacon, epoch, r.drawn_rate_ppm);
        return;
    }
    vd_block_deadline_add(b, place, VD_DEADLINE_DRAW, receipt_id);
    vd_block_put_receipt(b, receipt_id, &r);
}
