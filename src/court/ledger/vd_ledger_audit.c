/* Audits: who is drawn, what they said, and what follows for them.
 *
 * An auditor that says STANDS must show what the commit root is the hash of, which it knows if it replayed
 * the job, or if the worker told it; so the lazy cannot say it at all, and those who are told are what traps
 * are for. One that says DIFFERS says it to start a dispute; the verdict of that is the referee's, never the
 * auditors'. Nothing that a worker can bring about alone (losing a dispute on purpose, a conviction
 * elsewhere, silence) costs an auditor anything: only its own silence, its own false alarm, and a trap that
 * it walked into do.
 *
 * Auditors are paid when the receipt is closed, so there is nothing to claw back. */
#include "vd_audit.h"
#include "vd_ledger_impl.h"
#include "vd_pb.h"
#include "vd_trace_hash.h"

enum { AUDITORS_MAX = 256 }; /* of one model */

/* ---- records ---- */

static struct vd_state_key auditor_key(const struct vd_hash *model_root, const struct vd_pubkey *key)
{
    return vd_state_key_make(VD_STATE_AUDITOR, model_root->b, VD_HASH_BYTES, key->b);
}

static struct vd_state_key index_key(const struct vd_pubkey *auditor, const struct vd_hash *receipt_id)
{
    return vd_state_key_make(VD_INDEX_AUDITOR_AUDIT, auditor->b, VD_PUBKEY_BYTES, receipt_id->b);
}

static struct vd_event event_of(enum vd_event_kind kind, const struct vd_hash *receipt_id,
                                const struct vd_receipt_record *r, const struct vd_pubkey *a,
                                struct vd_amount amount)
{
    return (struct vd_event){.kind = kind, .id = *receipt_id, .id2 = r->escrow_id, .a = *a, .amount = amount};
}

static void count_audit(struct vd_ledger_block *b, const struct vd_pubkey *auditor, uint64_t replay_blocks,
                        bool opens)
{
    struct vd_stake s;
    vd_block_get_stake(b, auditor, &s);
    b->broken |= !opens && (s.n_open_audits == 0 || s.audit_blocks < replay_blocks);
    s.n_open_audits = opens ? s.n_open_audits + 1 : s.n_open_audits - 1;
    s.audit_blocks = opens ? s.audit_blocks + replay_blocks : s.audit_blocks - replay_blocks;
    vd_block_put_stake(b, auditor, &s);
}

/* ---- who is on a model's list ---- */

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

static void strike_off(struct vd_ledger_block *b, const struct vd_hash *model_root,
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

/* min(stake, most) goes, and the auditor is struck off the model's list: who is away must not be drawn for
 * later batches. */
static struct vd_amount slash(struct vd_ledger_block *b, const struct vd_audit *a, struct vd_audit_slot *slot,
                              struct vd_amount most)
{
    struct vd_stake s;
    vd_block_get_stake(b, &slot->auditor, &s);
    struct vd_amount loss = vd_amount_cmp(s.amount, most) < 0 ? s.amount : most;
    vd_block_sub(b, &s.amount, loss);
    vd_block_put_stake(b, &slot->auditor, &s);
    vd_block_add(b, &slot->slashed, loss);
    strike_off(b, &a->model_root, &slot->auditor);
    return loss;
}

/* ---- auditors ---- */

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
        strike_off(d->b, &t->model_root, &d->tx->sender);
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

/* The receipt is not paid before this height, and can be challenged up to it. */
static void extend_window(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *r,
                          uint64_t height)
{
    if (height <= r->window_end_height)
        return;
    r->window_end_height = height;
    vd_block_deadline_add(b, height, VD_DEADLINE_RECEIPT, id);
}

static void set_phase(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_audit *a,
                      enum vd_audit_phase phase, uint64_t blocks)
{
    if (a->deadline_height)
        vd_block_deadline_remove(b, a->deadline_height, VD_DEADLINE_AUDIT, id);
    a->phase = phase;
    a->deadline_height = blocks ? b->height + blocks : 0;
    if (blocks)
        vd_block_deadline_add(b, a->deadline_height, VD_DEADLINE_AUDIT, id);
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
    set_phase(b, id, &a, VD_AUDIT_COMMITTING, a.clock_blocks);
    r->audited = r->audit_open = true;
    for (uint32_t i = 0; i < a.n_slots; i++) {
        struct vd_state_key at = index_key(&a.slot[i].auditor, id);
        struct vd_event e = event_of(VD_EVENT_AUDIT_DRAWN, id, r, &a.slot[i].auditor, VD_AMOUNT_ZERO);
        e.b = r->worker;
        count_audit(b, &a.slot[i].auditor, a.replay_blocks, true);
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

/* A receipt's part of the pool, divided by how often a receipt is drawn and by how many it is shared: over
 * many receipts auditors get what receipts paid in, and nobody gains by auditing receipts of its own. */
static struct vd_amount reward_of(struct vd_ledger_block *b, uint32_t rate_ppm,
                                  const struct vd_receipt_record *r, struct vd_amount fund)
{
    unsigned __int128 num = (unsigned __int128)r->amount.micro * b->ledger->genesis->auditor_share_ppm;
    unsigned __int128 reward = num / ((uint64_t)rate_ppm * b->ledger->genesis->auditors);
    return reward > fund.micro ? fund : vd_amount_micro((uint64_t)reward);
}

/* By its worker's rate, and only if it pays its auditors the least: who made them work for nothing could keep
 * them from the others. */
static bool is_drawn(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *r,
                     const struct vd_hash *beacon)
{
    static const struct vd_amount all = {VD_AMOUNT_MAX_MICRO};
    r->drawn_rate_ppm = rate_of(b, r);
    return vd_audit_is_drawn(beacon, id, r->drawn_rate_ppm) &&
           vd_amount_cmp(reward_of(b, r->drawn_rate_ppm, r, all), b->ledger->genesis->audit_min_reward) >= 0;
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

/* ---- phases ---- */

static uint32_t count_slots(const struct vd_audit *a, enum vd_audit_slot_status s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_slots; i++)
        n += a->slot[i].status == s;
    return n;
}

/* All was said that will be. Whoever found a difference has time to challenge. */
static void heard(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_audit *a,
                  struct vd_receipt_record *r)
{
    set_phase(b, id, a, VD_AUDIT_HEARD, 0);
    r->audit_open = false;
    if (count_slots(a, VD_SLOT_DIFFERS))
        extend_window(b, id, r, b->height + a->clock_blocks);
    vd_block_put_audit(b, id, a);
    vd_block_put_receipt(b, id, r);
    vd_block_event(b, event_of(VD_EVENT_AUDIT_DONE, id, r, &r->worker, VD_AMOUNT_ZERO));
    vd_receipt_release(b, id, r);
}

static void reveal_from_now(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_audit *a,
                            struct vd_receipt_record *r)
{
    set_phase(b, id, a, VD_AUDIT_REVEALING, b->ledger->genesis->audit_reveal_blocks);
    vd_block_put_audit(b, id, a);
    vd_block_event(b, event_of(VD_EVENT_AUDIT_OPEN, id, r, &r->worker, VD_AMOUNT_ZERO));
}

/* Those who have this status were to act and did not. */
static void miss(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_audit *a,
                 const struct vd_receipt_record *r, enum vd_audit_slot_status late)
{
    for (uint32_t i = 0; i < a->n_slots; i++) {
        struct vd_audit_slot *s = &a->slot[i];
        if (s->status != late)
            continue;
        struct vd_amount loss = slash(b, a, s, b->ledger->genesis->audit_slash);
        s->status = VD_SLOT_MISSED;
        s->commitment = (struct vd_hash){{0}};
        vd_block_burn(b, loss);
        vd_block_event(b, event_of(VD_EVENT_AUDIT_MISSED, id, r, &s->auditor, loss));
    }
}

static void withheld(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *r)
{
    vd_block_event(b, event_of(VD_EVENT_WITHHELD, id, r, &r->worker, VD_AMOUNT_ZERO));
    vd_receipt_void(b, id, r, VD_VOID_WITHHELD);
}

void vd_end_audit_clock(struct vd_ledger_block *b, const struct vd_hash *receipt_id)
{
    struct vd_receipt_record r;
    struct vd_audit a;
    if (!vd_block_get_audit(b, receipt_id, &a) || !vd_block_get_receipt(b, receipt_id, &r) ||
        r.status != VD_RECEIPT_SETTLED) {
        b->broken = true;
        return;
    }
    a.deadline_height = 0; /* it is gone already */
    switch (a.phase) {
    case VD_AUDIT_COMMITTING:
        miss(b, receipt_id, &a, &r, VD_SLOT_DRAWN);
        if (count_slots(&a, VD_SLOT_COMMITTED))
            reveal_from_now(b, receipt_id, &a, &r);
        else
            heard(b, receipt_id, &a, &r);
        return;
    case VD_AUDIT_DATA_DUE:
        if (b->totals.n_full_blocks > a.full_blocks) { /* blocks that had no room for them do not count */
            uint64_t more = b->totals.n_full_blocks - a.full_blocks;
            a.full_blocks = b->totals.n_full_blocks;
            set_phase(b, receipt_id, &a, VD_AUDIT_DATA_DUE, more);
            vd_block_put_audit(b, receipt_id, &a);
            return;
        }
        vd_block_put_audit(b, receipt_id, &a);
        withheld(b, receipt_id, &r);
        return;
    case VD_AUDIT_REVEALING:
        miss(b, receipt_id, &a, &r, VD_SLOT_COMMITTED);
        heard(b, receipt_id, &a, &r);
        return;
    case VD_AUDIT_HEARD:
    case VD_AUDIT_CLOSED:
        break;
    }
    b->broken = true;
}

/* The audit of a receipt that is SETTLED, in a phase that has not run out. */
static enum vd_tx_verdict find(struct vd_ledger_block *b, const struct vd_hash *receipt_id,
                               struct vd_audit *a, struct vd_receipt_record *r)
{
    if (!vd_block_get_receipt(b, receipt_id, r) || !vd_block_get_audit(b, receipt_id, a))
        return VD_TX_UNKNOWN_RECEIPT;
    if (r->status != VD_RECEIPT_SETTLED || a->deadline_height < b->height)
        return VD_TX_WRONG_PHASE;
    return VD_TX_OK;
}

static struct vd_audit_slot *slot_of(struct vd_audit *a, const struct vd_pubkey *key)
{
    for (uint32_t i = 0; i < a->n_slots; i++)
        if (vd_pubkey_eq(&a->slot[i].auditor, key))
            return &a->slot[i];
    return NULL;
}

enum vd_tx_verdict vd_apply_audit_commit(struct vd_deliver *d)
{
    const struct vd_tx_audit_commit *t = &d->tx->u.audit_commit;
    struct vd_receipt_record r;
    struct vd_audit a;
    enum vd_tx_verdict v = find(d->b, &t->receipt_id, &a, &r);
    if (v != VD_TX_OK)
        return v;
    struct vd_audit_slot *s = slot_of(&a, &d->tx->sender);
    if (!s)
        return VD_TX_NOT_DRAWN;
    if ((a.phase != VD_AUDIT_COMMITTING && a.phase != VD_AUDIT_DATA_DUE) || s->status != VD_SLOT_DRAWN)
        return VD_TX_WRONG_PHASE;
    if (vd_hash_is_zero(&t->commitment))
        return VD_TX_BAD_REVEAL;
    s->status = VD_SLOT_COMMITTED;
    s->commitment = t->commitment;
    vd_block_event(d->b, event_of(VD_EVENT_AUDIT_COMMITTED, &t->receipt_id, &r, &s->auditor, VD_AMOUNT_ZERO));
    if (count_slots(&a, VD_SLOT_DRAWN) == 0)
        reveal_from_now(d->b, &t->receipt_id, &a, &r);
    else
        vd_block_put_audit(d->b, &t->receipt_id, &a);
    return VD_TX_OK;
}

/* Is it what was committed to, and, if it says so, does the receipt's root follow from it? */
static bool reveal_fits(struct vd_ledger_block *b, const struct vd_audit_slot *s,
                        const struct vd_tx_audit_reveal *t, const struct vd_receipt_record *r)
{
    struct vd_hash commitment = vd_audit_commitment(&s->auditor, t);
    struct vd_receipt receipt;
    if (!vd_hash_eq(&commitment, &s->commitment))
        return false;
    if (t->verdict != VD_AUDIT_STANDS && (!vd_hash_is_zero(&t->half[0]) || !vd_hash_is_zero(&t->half[1])))
        return false;
    if (t->verdict == VD_AUDIT_DIFFERS)
        return true;
    if (vd_receipt_decode(r->body, &receipt) != VD_RECEIPT_OK) {
        b->broken = true;
        return false;
    }
    if (t->verdict == VD_AUDIT_UNFIT)
        return !vd_hash_is_zero(&receipt.request.bias_hash) || !vd_hash_is_zero(&receipt.request.mask_hash);
    return vd_audit_halves_fit(&receipt, t->half);
}

enum vd_tx_verdict vd_apply_audit_reveal(struct vd_deliver *d)
{
    const struct vd_tx_audit_reveal *t = &d->tx->u.audit_reveal;
    struct vd_receipt_record r;
    struct vd_audit a;
    enum vd_tx_verdict v = find(d->b, &t->receipt_id, &a, &r);
    if (v != VD_TX_OK)
        return v;
    struct vd_audit_slot *s = slot_of(&a, &d->tx->sender);
    if (!s)
        return VD_TX_NOT_DRAWN;
    if (a.phase != VD_AUDIT_REVEALING || s->status != VD_SLOT_COMMITTED)
        return VD_TX_WRONG_PHASE;
    if (!reveal_fits(d->b, s, t, &r))
        return VD_TX_BAD_REVEAL;
    s->status = t->verdict == VD_AUDIT_STANDS    ? VD_SLOT_STANDS
                : t->verdict == VD_AUDIT_DIFFERS ? VD_SLOT_DIFFERS
                                                 : VD_SLOT_UNFIT;
    s->commitment = (struct vd_hash){{0}};
    vd_block_event(d->b, event_of(VD_EVENT_AUDIT_REVEALED, &t->receipt_id, &r, &s->auditor,
                                  vd_amount_micro(t->verdict)));
    if (count_slots(&a, VD_SLOT_COMMITTED) == 0)
        heard(d->b, &t->receipt_id, &a, &r);
    else
        vd_block_put_audit(d->b, &t->receipt_id, &a);
    return VD_TX_OK;
}

/* ---- data ---- */

/* AUDIT_DATA that show the whole. */
static uint64_t count_parts(struct vd_ledger_block *b, const struct vd_receipt_record *record)
{
    struct vd_receipt r;
    if (vd_receipt_decode(record->body, &r) != VD_RECEIPT_OK) {
        b->broken = true;
        return 1;
    }
    return ((uint64_t)r.request.n_prompt + r.n_output + VD_AUDIT_CHUNK_TOKENS - 1) / VD_AUDIT_CHUNK_TOKENS;
}

enum vd_tx_verdict vd_apply_audit_demand(struct vd_deliver *d)
{
    const struct vd_hash *id = &d->tx->u.audit_demand.receipt_id;
    struct vd_receipt_record r;
    struct vd_audit a;
    enum vd_tx_verdict v = find(d->b, id, &a, &r);
    if (v != VD_TX_OK)
        return v;
    struct vd_audit_slot *s = slot_of(&a, &d->tx->sender);
    if (!s)
        return VD_TX_NOT_DRAWN;
    if (a.phase != VD_AUDIT_COMMITTING || s->status != VD_SLOT_DRAWN || a.demanded)
        return VD_TX_WRONG_PHASE;
    a.demanded = true;
    a.full_blocks = d->b->totals.n_full_blocks;
    set_phase(d->b, id, &a, VD_AUDIT_DATA_DUE,
              d->b->ledger->genesis->audit_data_blocks * count_parts(d->b, &r));
    vd_block_put_audit(d->b, id, &a);
    struct vd_event e = event_of(VD_EVENT_AUDIT_DEMANDED, id, &r, &r.worker, VD_AMOUNT_ZERO);
    e.b = d->tx->sender;
    vd_block_event(d->b, e);
    return VD_TX_OK;
}

static struct vd_state_key showing_key(const struct vd_hash *receipt_id, const struct vd_pubkey *who)
{
    return vd_state_key_make(VD_STATE_SHOWING, receipt_id->b, VD_HASH_BYTES, who->b);
}

/* Peaks that stand, smallest first, from and to a stream of n leaves. */
static void stream_load(struct vd_merkle_stream *s, uint64_t n, const struct vd_showing *from)
{
    uint32_t k = 0;
    s->n = n;
    for (unsigned i = 0; i < 64 && n >> i; i++)
        if (n >> i & 1)
            s->peak[i] = from->peak[k++];
}

static void stream_store(const struct vd_merkle_stream *s, struct vd_showing *to)
{
    to->n_peaks = 0;
    for (unsigned i = 0; i < 64 && s->n >> i; i++)
        if (s->n >> i & 1)
            to->peak[to->n_peaks++] = s->peak[i];
}

/* Of the next token, or of the next element of a vector's bits. */
static struct vd_hash shown_leaf(const struct vd_showing *w, const struct vd_receipt *r, uint32_t token)
{
    uint32_t p = r->request.n_prompt, at = w->n_tokens;
    bool vector = r->request.sampling.pooling != VD_POOLING_NONE && at >= p;
    struct vd_hash salt = vd_trace_salt(w->salt.b, vector ? p - 1 : at);
    return vector ? vd_vector_leaf(&salt, at - p, token) : vd_token_leaf(&salt, at, token);
}

/* Takes the tokens of one part; false if a root does not come out. Peaks: VD_JOB_MAX_TOKENS is below 2^24. */
static bool show_tokens(struct vd_showing *w, const struct vd_receipt *r, struct vd_bytes tokens)
{
    uint32_t p = r->request.n_prompt, all = p + r->n_output;
    struct vd_merkle_stream tree;
    stream_load(&tree, w->n_tokens < p ? w->n_tokens : w->n_tokens - p, w);
    for (size_t i = 0; i < tokens.n; i += 4) {
        struct vd_hash leaf = shown_leaf(w, r, vd_le32_load(tokens.p + i));
        vd_merkle_stream_add(&tree, &leaf);
        w->n_tokens++;
        if (w->n_tokens == p || w->n_tokens == all) {
            struct vd_hash root = vd_merkle_stream_root(&tree);
            if (!vd_hash_eq(&root, w->n_tokens == p ? &r->request.prompt_root : &r->output_root))
                return false;
            vd_merkle_stream_init(&tree);
        }
    }
    stream_store(&tree, w);
    return true;
}

/* The tables that the request names come with the first part, and are kept as they came. */
static bool show_tables(struct vd_deliver *d, const struct vd_receipt *r)
{
    const struct vd_tx_audit_data *t = &d->tx->u.audit_data;
    struct vd_controls controls = {t->bias, t->mask};
    if (t->first)
        return t->bias.n == 0 && t->mask.n == 0;
    if (!vd_controls_check(&r->request, &controls))
        return false;
    struct vd_state_key at = vd_state_key_shown(&t->receipt_id, &d->tx->sender, UINT32_MAX);
    size_t cap = t->bias.n + t->mask.n + 16;
    uint8_t *buf = vd_arena_alloc(d->b->arena, cap, 1);
    struct vd_pb_writer w = vd_pb_writer_init(buf, buf ? cap : 0);
    vd_pb_put_bytes(&w, 1, t->bias.p, t->bias.n);
    vd_pb_put_bytes(&w, 2, t->mask.p, t->mask.n);
    d->b->overlay.full |= !buf;
    if (w.n_bytes)
        vd_block_put(d->b, &at, buf, w.n_bytes);
    return true;
}

static enum vd_tx_verdict show_part(struct vd_deliver *d, const struct vd_receipt_record *record,
                                    struct vd_showing *w, bool *all)
{
    const struct vd_tx_audit_data *t = &d->tx->u.audit_data;
    struct vd_hash commit = vd_salt_commit(t->salt.b);
    struct vd_receipt r;
    if (vd_receipt_decode(record->body, &r) != VD_RECEIPT_OK) {
        d->b->broken = true;
        return VD_TX_BAD_DATA;
    }
    uint32_t n = r.request.n_prompt + r.n_output;
    if (w->n_tokens == 0)
        *w = (struct vd_showing){.salt = t->salt};
    uint32_t rest = n - w->n_tokens, want = rest < VD_AUDIT_CHUNK_TOKENS ? rest : VD_AUDIT_CHUNK_TOKENS;
    if (!vd_hash_eq(&commit, &r.request.salt_commit) || t->first != w->n_tokens ||
        t->tokens.n != 4 * (size_t)want || !show_tables(d, &r) || !show_tokens(w, &r, t->tokens))
        return VD_TX_BAD_DATA;
    *all = w->n_tokens == n;
    return VD_TX_OK;
}

static void forget_showing(struct vd_ledger_block *b, const struct vd_hash *receipt_id,
                           const struct vd_pubkey *who)
{
    struct vd_state_key at = showing_key(receipt_id, who);
    struct vd_showing w;
    struct vd_bytes there;
    if (!vd_block_get(b, &at, &there) || !vd_showing_decode(there, &w))
        return;
    for (uint32_t first = 0; first < w.n_tokens; first += VD_AUDIT_CHUNK_TOKENS) {
        struct vd_state_key shown = vd_state_key_shown(receipt_id, who, first);
        vd_block_delete(b, &shown);
    }
    struct vd_state_key tables = vd_state_key_shown(receipt_id, who, UINT32_MAX);
    vd_block_delete(b, &tables);
    vd_block_delete(b, &at);
}

enum vd_tx_verdict vd_apply_audit_data(struct vd_deliver *d)
{
    const struct vd_tx_audit_data *t = &d->tx->u.audit_data;
    struct vd_state_key at = showing_key(&t->receipt_id, &d->tx->sender);
    struct vd_state_key shown = vd_state_key_shown(&t->receipt_id, &d->tx->sender, t->first);
    struct vd_receipt_record r;
    struct vd_showing w = {.n_tokens = 0};
    struct vd_audit a;
    struct vd_bytes there;
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    bool all = false;
    enum vd_tx_verdict v = find(d->b, &t->receipt_id, &a, &r);
    if (v != VD_TX_OK)
        return v;
    if (!vd_pubkey_eq(&d->tx->sender, &a.worker) && !vd_pubkey_eq(&d->tx->sender, &a.gateway))
        return VD_TX_NOT_DRAWN;
    if (a.phase != VD_AUDIT_DATA_DUE)
        return VD_TX_WRONG_PHASE;
    if (d->b->n_shown == VD_BLOCK_MAX_SHOWINGS || d->b->n_showings == VD_BLOCK_MAX_SHOWING_TRIES)
        return VD_TX_BLOCK_FULL;
    d->b->n_showings++; /* and stays so if it is refused */
    if (vd_block_get(d->b, &at, &there) && !vd_showing_decode(there, &w))
        d->b->broken = true;
    v = show_part(d, &r, &w, &all);
    if (v != VD_TX_OK)
        return v;
    d->b->n_shown++;
    vd_block_put(d->b, &at, buf, vd_showing_encode(&w, buf, sizeof buf));
    vd_block_put(d->b, &shown, t->tokens.p, t->tokens.n);
    if (all) {
        a.shown_by = d->tx->sender;
        set_phase(d->b, &t->receipt_id, &a, VD_AUDIT_COMMITTING, a.clock_blocks);
        struct vd_event e = event_of(VD_EVENT_AUDIT_SHOWN, &t->receipt_id, &r, &r.worker, VD_AMOUNT_ZERO);
        e.b = d->tx->sender;
        vd_block_event(d->b, e);
    }
    vd_block_put_audit(d->b, &t->receipt_id, &a);
    return VD_TX_OK;
}

/* ---- the end ---- */

static void pay(struct vd_ledger_block *b, const struct vd_hash *id, const struct vd_receipt_record *r,
                const struct vd_audit *a, struct vd_audit_slot *s, struct vd_amount *fund)
{
    s->paid = reward_of(b, a->rate_ppm, r, *fund);
    vd_block_sub(b, fund, s->paid);
    vd_block_credit(b, &s->auditor, s->paid);
    if (s->paid.micro)
        vd_block_event(b, event_of(VD_EVENT_AUDIT_PAID, id, r, &s->auditor, s->paid));
}

/* What follows for one auditor. Those who have not spoken yet, because the receipt was voided before, were
 * not late: nothing. */
static struct vd_amount judge(struct vd_ledger_block *b, const struct vd_hash *id,
                              const struct vd_receipt_record *r, const struct vd_audit *a,
                              struct vd_audit_slot *s, struct vd_amount *fund)
{
    const struct vd_genesis *g = b->ledger->genesis;
    bool wrong = r->void_why == VD_VOID_VERDICT || r->void_why == VD_VOID_TRAP;
    struct vd_amount loss = VD_AMOUNT_ZERO;
    if (s->status == VD_SLOT_STANDS) {
        if (r->void_why == VD_VOID_TRAP)
            loss = slash(b, a, s, g->slash);
        else if (!wrong)
            pay(b, id, r, a, s, fund);
    } else if (s->status == VD_SLOT_DIFFERS) {
        if (r->status == VD_RECEIPT_FINAL)
            loss = slash(b, a, s, g->audit_slash);
        else
            pay(b, id, r, a, s, fund);
    }
    if (loss.micro)
        vd_block_event(b, event_of(VD_EVENT_AUDIT_SLASHED, id, r, &s->auditor, loss));
    return loss;
}

struct vd_amount vd_audit_close(struct vd_ledger_block *b, const struct vd_hash *receipt_id,
                                struct vd_receipt_record *r, struct vd_amount *fund)
{
    struct vd_amount lost = VD_AMOUNT_ZERO;
    struct vd_audit a;
    if (!r->audited)
        return lost;
    if (!vd_block_get_audit(b, receipt_id, &a)) {
        b->broken = true;
        return lost;
    }
    set_phase(b, receipt_id, &a, VD_AUDIT_CLOSED, 0);
    for (uint32_t i = 0; i < a.n_slots; i++) {
        struct vd_state_key at = index_key(&a.slot[i].auditor, receipt_id);
        a.slot[i].commitment = (struct vd_hash){{0}};
        count_audit(b, &a.slot[i].auditor, a.replay_blocks, false);
        vd_block_delete(b, &at);
        vd_block_add(b, &lost, judge(b, receipt_id, r, &a, &a.slot[i], fund));
    }
    forget_showing(b, receipt_id, &a.worker);
    forget_showing(b, receipt_id, &a.gateway);
    r->audit_open = false;
    vd_block_put_audit(b, receipt_id, &a);
    vd_block_put_receipt(b, receipt_id, r);
    if (b->ledger->genesis->history_blocks)
        vd_block_deadline_add(b, b->height + b->ledger->genesis->history_blocks, VD_DEADLINE_PAST_AUDIT,
                              receipt_id);
    return lost;
}

void vd_end_past_audit(struct vd_ledger_block *b, const struct vd_hash *receipt_id)
{
    struct vd_state_key at = vd_state_key_make(VD_STATE_AUDIT, receipt_id->b, VD_HASH_BYTES, NULL);
    struct vd_audit a;
    b->broken |= !vd_block_get_audit(b, receipt_id, &a) || a.phase != VD_AUDIT_CLOSED;
    vd_block_delete(b, &at);
}
