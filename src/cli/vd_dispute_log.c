/* The ledger keeps a dispute's state, not its history; the history is in the blocks. So this follows the
 * events from the block that opened the dispute, fetches the blocks that hold its moves, and plays the game
 * from the beginning. */
#include "vd_dispute_log.h"

#include "vd_clock.h"
#include "vd_cmd_net.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { VD_DISPUTE_LOG_WAIT_MS = 20000, VD_DISPUTE_POLL_MS = 20 };

struct vd_dispute_reader {
    struct vd_ledger_client *c;
    struct vd_dispute_log *log;
    pthread_mutex_t mu;
    uint64_t seen; /* height of the last block whose events came */
    bool full;
    /* The block at hand. */
    struct vd_dispute_block block;
    uint64_t block_height;
    struct vd_bytes *tx; /* VD_BLOCK_MAX_TXS */
    struct vd_block decoded;
    /* The claim. */
    uint8_t receipt_body[VD_RECEIPT_MAX_BYTES];
    size_t receipt_bytes;
    struct vd_receipt receipt;
    struct vd_ledger_answer model_answer;
    struct vd_program *program;
    struct vd_ref_claim claim;
    struct vd_game *game;
};

/* ---- Events ---- */

static void vd_dispute_on_block(void *arg, uint64_t height, uint64_t time_ms, const struct vd_event *event,
                                size_t n_events)
{
    struct vd_dispute_reader *r = arg;
    struct vd_dispute_log *log = r->log;
    pthread_mutex_lock(&r->mu);
    for (size_t i = 0; i < n_events; i++) {
        bool ours = vd_hash_eq(&event[i].id, &log->id) || vd_hash_eq(&event[i].id, &log->record.receipt_id);
        if (!ours)
            continue;
        if (log->n_events == VD_DISPUTE_EVENTS_MAX) {
            r->full = true;
            continue;
        }
        log->event[log->n_events].height = height;
        log->event[log->n_events++].event = event[i];
    }
    r->seen = height;
    pthread_mutex_unlock(&r->mu);
}

/* All events from the block that opened the dispute up to its end, or to the ledger's height. */
static enum vd_err vd_dispute_follow(struct vd_dispute_reader *r, const struct vd_cli *cli,
                                     struct vd_error *err)
{
    struct vd_ledger_client *c;
    struct vd_ledger_client_config more = {
        .on_block = vd_dispute_on_block, .arg = r, .from_height = r->log->record.open_height};
    uint64_t until = vd_clock_ms() + VD_DISPUTE_LOG_WAIT_MS;
    uint64_t end = r->log->record.end_height ? r->log->record.end_height : vd_ledger_client_height(r->c);
    enum vd_err e = vd_cmd_ledger_open(&c, cli, NULL, &more, err);
    if (e != VD_OK)
        return e;
    for (;;) {
        pthread_mutex_lock(&r->mu);
        bool done = r->seen >= end;
        pthread_mutex_unlock(&r->mu);
        if (done)
            break;
        if (vd_clock_ms() > until) {
            e = vd_error_set(err, VD_ETIMEOUT, "the ledger's blocks from %llu to %llu did not come in %d s",
                             (unsigned long long)r->log->record.open_height, (unsigned long long)end,
                             VD_DISPUTE_LOG_WAIT_MS / 1000);
            break;
        }
        vd_clock_sleep_ms(VD_DISPUTE_POLL_MS);
    }
    vd_ledger_client_stop(c);
    return e == VD_OK && r->full
               ? vd_error_set(err, VD_ELIMIT, "the dispute has more than %d events", VD_DISPUTE_EVENTS_MAX)
               : e;
}

/* ---- Blocks ---- */

bool vd_dispute_add_part(struct vd_dispute_block *b, const struct vd_ledger_answer *a)
{
    size_t size = a->n_items == 2 && a->item[0].n == 4 ? vd_le32_load(a->item[0].p) : 0;
    if (size == 0 || size > VD_BLOCK_MAX_BYTES || (b->n_bytes && size != b->size) || a->item[1].n == 0 ||
        a->item[1].n > size - b->n_bytes)
        return false;
    memcpy(b->p + b->n_bytes, a->item[1].p, a->item[1].n);
    b->n_bytes += a->item[1].n;
    b->size = size;
    return true;
}

static enum vd_err vd_dispute_block(struct vd_dispute_reader *r, uint64_t height, struct vd_error *err)
{
    struct vd_dispute_block *b = &r->block;
    enum vd_err e = VD_OK;
    if (r->block_height == height && b->n_bytes)
        return VD_OK;
    b->n_bytes = b->size = 0;
    do {
        uint8_t key[12];
        struct vd_ledger_answer a;
        struct vd_wire_query q = {.kind = VD_QUERY_BLOCK, .key = {key, sizeof key}};
        vd_le64_store(key, height);
        vd_le32_store(key + 8, (uint32_t)b->n_bytes);
        e = vd_ledger_client_query(r->c, &q, VD_LEDGER_QUERY_TIMEOUT_MS, &a, err);
        if (e != VD_OK)
            break;
        if (!vd_dispute_add_part(b, &a))
            e = vd_error_set(err, VD_EFORMAT, "the ledger's answer for block %llu is malformed",
                             (unsigned long long)height);
        vd_ledger_answer_free(&a);
    } while (e == VD_OK && b->n_bytes < b->size);
    r->block_height = height;
    if (e == VD_OK &&
        !vd_block_decode((struct vd_bytes){b->p, b->n_bytes}, &r->decoded, r->tx, VD_BLOCK_MAX_TXS))
        e = vd_error_set(err, VD_EFORMAT, "block %llu does not decode", (unsigned long long)height);
    return e;
}

/* ---- The claim: receipt and program ---- */

static bool vd_dispute_find_receipt(struct vd_dispute_reader *r)
{
    for (uint32_t i = 0; i < r->decoded.n_txs; i++) {
        struct vd_tx_signed s;
        if (!vd_tx_decode(r->decoded.tx[i], &s) || s.tx.kind != VD_TX_SETTLE)
            continue;
        for (uint32_t k = 0; k < s.tx.u.settle.n; k++) {
            struct vd_signed_receipt sr;
            if (!vd_signed_receipt_decode(s.tx.u.settle.receipt[k], &sr))
                continue;
            struct vd_hash id = vd_signed_receipt_id(&sr);
            if (!vd_hash_eq(&id, &r->log->record.receipt_id))
                continue;
            memcpy(r->receipt_body, sr.body, sr.body_bytes);
            r->receipt_bytes = sr.body_bytes;
            return true;
        }
    }
    return false;
}

static enum vd_err vd_dispute_claim(struct vd_dispute_reader *r, struct vd_error *err)
{
    struct vd_model_record model;
    enum vd_err e = vd_dispute_block(r, r->log->receipt.settle_height, err);
    if (e != VD_OK)
        return e;
    if (!vd_dispute_find_receipt(r) ||
        vd_receipt_decode((struct vd_bytes){r->receipt_body, r->receipt_bytes}, &r->receipt) != VD_RECEIPT_OK)
        return vd_error_set(err, VD_EFORMAT, "block %llu should hold the receipt, but does not",
                            (unsigned long long)r->log->receipt.settle_height);
    struct vd_state_key key =
        vd_state_key_make(VD_STATE_MODEL, r->receipt.request.model_root.b, VD_HASH_BYTES, NULL);
    e = vd_ledger_client_get(r->c, &key, VD_LEDGER_QUERY_TIMEOUT_MS, &r->model_answer, err);
    if (e != VD_OK)
        return e;
    if (r->model_answer.n_items != 1 || !vd_model_record_decode(r->model_answer.item[0], &model) ||
        !vd_program_decode(model.program, r->program) ||
        !vd_ref_claim_init(&r->claim, &r->receipt, r->program, model.program))
        return vd_error_set(err, VD_EFORMAT, "the ledger's record of the model does not fit the receipt");
    return VD_OK;
}

/* ---- The game ---- */

static const char *vd_unit_name(const struct vd_graph *g, uint32_t unit, char buf[32])
{
    if (unit == 0)
        return "the embedding";
    if (unit == vd_graph_head_unit(g))
        return vd_graph_pools(g) ? "the pooling unit" : "the head";
    snprintf(buf, 32, "layer %u", vd_graph_layer(g, unit));
    return buf;
}

/* Records of 4 bytes are floats (docs/spec/proof.md, section 2); 9 digits tell any two apart. */
static void vd_record_text(char out[VD_DISPUTE_RECORD_MAX], const uint8_t *record, size_t n_bytes)
{
    if (n_bytes != 4) {
        vd_hex_encode(out, record, n_bytes);
        return;
    }
    snprintf(out, VD_DISPUTE_RECORD_MAX, "%.9g", (double)vd_f32_from_bits(vd_le32_load(record)));
}

/* The whole address of the tile, and both values; of a long record the 8 bytes in which they first differ. */
static void vd_dispute_tile(struct vd_dispute_reader *r, const struct vd_move *m, char *where)
{
    struct vd_dispute_log *log = r->log;
    struct vd_game_tile tile;
    char unit[32], at[32] = "";
    if (vd_game_tile(r->game, &r->claim, m->index, m->data, &tile) == VD_REF_REJECTED)
        return;
    size_t n = tile.op.record_bytes, from = 0, shown = n == 4 ? VD_DISPUTE_RECORD_MAX : 16;
    vd_record_text(log->worker_record, tile.worker_record, n);
    vd_record_text(log->true_record, tile.true_record, n);
    if (n > 8) {
        while (from + 8 < n && memcmp(tile.worker_record + from, tile.true_record + from, 8) == 0)
            from += 8;
        snprintf(at, sizeof at, " (bytes from %zu on)", from);
    }
    snprintf(where, VD_DISPUTE_WHERE_MAX,
             "position %u, %s, operator %u %s, record %llu of %llu%s: worker %.*s, recomputed %.*s",
             r->game->step, vd_unit_name(&r->claim.graph, r->game->unit, unit), r->game->op,
             vd_op_name(tile.op.kind), (unsigned long long)tile.record, (unsigned long long)tile.op.n_records,
             at, (int)shown, log->worker_record + 2 * from, (int)shown, log->true_record + 2 * from);
}

static void vd_span_text(char *out, const char *what, struct vd_merkle_span s)
{
    if (s.count == 1)
        snprintf(out, VD_DISPUTE_WHERE_MAX, "%s %llu", what, (unsigned long long)s.first);
    else
        snprintf(out, VD_DISPUTE_WHERE_MAX, "%ss %llu to %llu", what, (unsigned long long)s.first,
                 (unsigned long long)(s.first + s.count - 1));
}

/* What a move says, in the field's words; r->game is the game after it. TILE: vd_dispute_tile. */
static void vd_dispute_where(struct vd_dispute_reader *r, const struct vd_move *m, char *out)
{
    const struct vd_game *g = r->game;
    struct vd_graph_op o;
    char buf[32];
    bool encoder = vd_program_is_encoder(r->claim.graph.program);
    switch (m->kind) {
    case VD_MOVE_STEP:
        vd_span_text(out, encoder ? "unit" : "position", g->steps.span);
        break;
    case VD_MOVE_BIND_NODE:
        vd_span_text(out, "position", g->steps.span);
        break;
    case VD_MOVE_BIND:
        snprintf(out, VD_DISPUTE_WHERE_MAX, "position %llu: commit and state side by side",
                 (unsigned long long)m->index);
        break;
    case VD_MOVE_UNIT:
        if (encoder)
            vd_span_text(out, "position", g->units.span);
        else
            snprintf(out, VD_DISPUTE_WHERE_MAX, "%s", vd_unit_name(&r->claim.graph, g->unit, buf));
        break;
    case VD_MOVE_OP:
        vd_graph_op(&r->claim.graph, g->step, g->unit, g->op, &o);
        snprintf(out, VD_DISPUTE_WHERE_MAX, "operator %u, %s", g->op, vd_op_name(o.kind));
        break;
    case VD_MOVE_LEAF:
        vd_span_text(out, "leaf", g->leaves.span);
        break;
    case VD_MOVE_TILE:
        break;
    case VD_MOVE_SALT:
        snprintf(out, VD_DISPUTE_WHERE_MAX, "the position's salt");
        break;
    case VD_MOVE_RECORDS:
    case VD_MOVE_BIND_OPEN:
        snprintf(out, VD_DISPUTE_WHERE_MAX, "%zu bytes opened", m->data.n);
        break;
    case VD_MOVE_STATE:
    case VD_MOVE_NODES:
    case VD_MOVE_UNITS:
    case VD_MOVE_OPS:
    case VD_MOVE_LEAVES:
    case VD_MOVE_BIND_NODES:
        snprintf(out, VD_DISPUTE_WHERE_MAX, "%zu hashes shown", m->nodes.n / VD_HASH_BYTES);
        break;
    }
}

static enum vd_err vd_dispute_play(struct vd_dispute_reader *r, uint64_t height, uint32_t index,
                                   struct vd_error *err)
{
    struct vd_dispute_log *log = r->log;
    struct vd_tx_signed s;
    struct vd_move m;
    enum vd_err e = vd_dispute_block(r, height, err);
    if (e != VD_OK)
        return e;
    if (index >= r->decoded.n_txs || !vd_tx_decode(r->decoded.tx[index], &s) || s.tx.kind != VD_TX_MOVE ||
        !vd_move_decode(s.tx.u.move.move, &m) || log->n_moves == VD_DISPUTE_MOVES_MAX)
        return vd_error_set(err, VD_EFORMAT, "block %llu should hold a move, but does not",
                            (unsigned long long)height);
    struct vd_dispute_step *step = &log->move[log->n_moves++];
    step->height = height;
    step->kind = m.kind;
    step->n_bytes = s.tx.u.move.move.n;
    step->side = vd_pubkey_eq(&s.tx.sender, &log->record.worker) ? VD_GAME_WORKER : VD_GAME_CHALLENGER;
    if (m.kind == VD_MOVE_TILE && r->game->phase == VD_PHASE_C_TILE &&
        m.index < vd_game_tile_records(r->game, &r->claim))
        vd_dispute_tile(r, &m, step->where);
    uint64_t began = vd_clock_ns();
    enum vd_game_result result = vd_game_move(r->game, &r->claim, NULL, step->side, s.tx.u.move.move);
    step->referee_ns = vd_clock_ns() - began;
    step->result = vd_game_result_text(result);
    vd_dispute_where(r, &m, step->where);
    if (vd_game_rejected(result))
        return vd_error_set(err, VD_EFALSE, "the ledger accepted move %zu, %s, but here it is: %s",
                            log->n_moves, vd_move_name(m.kind), step->result);
    return VD_OK;
}

/* ---- All of it ---- */

static enum vd_err vd_dispute_read_all(struct vd_dispute_reader *r, const struct vd_cli *cli,
                                       struct vd_error *err)
{
    struct vd_dispute_log *log = r->log;
    char hex[65];
    enum vd_err e = vd_ledger_client_dispute(r->c, &log->id, &log->record, err);
    vd_hex_encode(hex, log->id.b, VD_HASH_BYTES);
    if (e == VD_ENOTFOUND)
        return vd_error_set(err, e, "there is no dispute %s; `veridem dispute list` shows what there is",
                            hex);
    if (e == VD_OK)
        e = vd_ledger_client_receipt(r->c, &log->record.receipt_id, &log->receipt, err);
    if (e == VD_OK)
        e = vd_dispute_follow(r, cli, err);
    if (e == VD_OK)
        e = vd_dispute_claim(r, err);
    if (e != VD_OK)
        return e;
    vd_game_open(r->game);
    for (size_t i = 0; e == VD_OK && i < log->n_events; i++)
        if (log->event[i].event.kind == VD_EVENT_MOVED && vd_hash_eq(&log->event[i].event.id, &log->id))
            e = vd_dispute_play(r, log->event[i].height, log->event[i].event.tx_index, err);
    return e;
}

enum vd_err vd_dispute_log_read(struct vd_dispute_log **out, const struct vd_cli *cli,
                                const struct vd_hash *id, struct vd_error *err)
{
    struct vd_dispute_reader *r = calloc(1, sizeof *r);
    struct vd_dispute_log *log = calloc(1, sizeof *log);
    if (r) {
        r->block.p = malloc(VD_BLOCK_MAX_BYTES);
        r->tx = calloc(VD_BLOCK_MAX_TXS, sizeof *r->tx);
        r->program = malloc(sizeof *r->program);
        r->game = malloc(sizeof *r->game);
    }
    bool memory = r && log && r->block.p && r->tx && r->program && r->game;
    enum vd_err e = memory ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory to read a dispute");
    if (memory)
        e = vd_cmd_ledger_open(&r->c, cli, NULL, NULL, err);
    if (memory && e == VD_OK) {
        pthread_mutex_init(&r->mu, NULL);
        r->log = log;
        log->id = *id;
        e = vd_dispute_read_all(r, cli, err);
        vd_ledger_answer_free(&r->model_answer);
        pthread_mutex_destroy(&r->mu);
        vd_ledger_client_stop(r->c);
    }
    if (r) {
        free(r->block.p);
        free(r->tx);
        free(r->program);
        free(r->game);
        free(r);
    }
    if (e != VD_OK)
        free(log);
    else
        *out = log;
    return e;
}
