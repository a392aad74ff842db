/* The ledger is a function of its genesis and its blocks, so whoever holds the blocks can check everything
 * else: replay them into an empty state, and compare every hash, every root, and at the end every record. */
#include "vd_chain.h"
#include "vd_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct replay {
    const char *dir;
    struct vd_store_view *from;
    struct vd_store *to;
    struct vd_genesis genesis;
    struct vd_genesis_account *accounts;
    struct vd_ledger ledger;
    struct vd_arena arena;
    struct vd_bytes *tx;
    enum vd_tx_verdict *verdict;
    struct vd_block_header last;
};

static enum vd_err differs(const struct replay *r, uint64_t height, const char *what, struct vd_error *err)
{
    return vd_error_set(err, VD_EFALSE, "%s: block %" PRIu64 ": %s", r->dir, height, what);
}

static enum vd_err check_header(const struct replay *r, const struct vd_block *b, uint64_t height,
                                struct vd_error *err)
{
    struct vd_hash prev = height ? vd_block_hash(&r->last) : r->ledger.genesis_hash;
    if (b->header.height != height)
        return differs(r, height, "its header names another height", err);
    if (!vd_hash_eq(&b->header.prev_hash, &prev))
        return differs(r, height, "it does not follow the block before", err);
    if (height == 0 && b->n_txs)
        return differs(r, height, "it is the genesis's, and holds transactions", err);
    if (height ? b->header.time_ms < r->last.time_ms : b->header.time_ms != r->genesis.time_ms)
        return differs(r, height, "its time goes back", err);
    return VD_OK;
}

/* Applies block b to the copy and compares the root. */
static enum vd_err apply(struct replay *r, struct vd_store_writer *w, const struct vd_block *b,
                         struct vd_error *err)
{
    struct vd_ledger_block work;
    struct vd_overlay genesis;
    struct vd_overlay *changes = &genesis;
    struct vd_hash root;
    enum vd_err e = VD_OK;
    if (b->header.height == 0) {
        vd_overlay_init(&genesis, vd_store_writer_kv(w), &r->arena);
        vd_ledger_write_genesis(&r->ledger, &genesis);
    } else {
        e = vd_ledger_finalize(&work, &r->ledger, vd_store_writer_kv(w), &r->arena, b, r->verdict, err);
        changes = &work.overlay;
    }
    for (uint32_t i = 0; e == VD_OK && i < b->n_txs; i++)
        if (r->verdict[i] != VD_TX_OK)
            e = differs(r, b->header.height, vd_tx_verdict_text(r->verdict[i]), err);
    if (e == VD_OK)
        e = vd_store_apply(w, changes, &r->arena, &root, err);
    if (e == VD_OK && !vd_hash_eq(&root, &b->header.state_root))
        e = differs(r, b->header.height, "replay gives another state root", err);
    return e;
}

static enum vd_err replay_block(struct replay *r, uint64_t height, struct vd_error *err)
{
    struct vd_store_writer *w;
    struct vd_bytes bytes;
    struct vd_block b;
    enum vd_err e = vd_store_view_block(r->from, height, &bytes, NULL, err);
    if (e != VD_OK)
        return e;
    if (!vd_block_decode(bytes, &b, r->tx, VD_BLOCK_MAX_TXS))
        return differs(r, height, "it is malformed or its transactions do not give its tx root", err);
    e = check_header(r, &b, height, err);
    if (e != VD_OK)
        return e;
    do {
        e = vd_store_begin(r->to, &w, err);
        if (e != VD_OK)
            return e;
        r->arena.used_bytes = 0;
        e = apply(r, w, &b, err);
        if (e == VD_OK) {
            e = vd_store_commit(w, err);
        } else {
            enum vd_err g = vd_store_abort(w, err);
            e = g == VD_OK ? e : g;
        }
    } while (e == VD_EAGAIN);
    r->last = b.header;
    return e;
}

/* The latest block as the store knows it, and every record of the state. */
static enum vd_err compare_end(struct replay *r, const struct vd_store_tip *tip, struct vd_error *err)
{
    struct vd_store_view *copy;
    struct vd_bytes key = {NULL, 0};
    char hex[2 * VD_KVS_KEY_MAX_BYTES + 1] = "";
    struct vd_hash hash = vd_block_hash(&r->last);
    if (!vd_hash_eq(&hash, &tip->block_hash) || !vd_hash_eq(&r->last.state_root, &tip->state_root))
        return differs(r, tip->height, "the store's latest hash or root is another", err);
    enum vd_err e = vd_store_view_open(r->to, &copy, err);
    if (e != VD_OK)
        return e;
    if (!vd_store_view_same(r->from, copy, &key)) {
        if (key.n <= VD_KVS_KEY_MAX_BYTES)
            vd_hex_encode(hex, key.p, key.n);
        e = vd_error_set(err, VD_EFALSE, "%s: block %" PRIu64 ": replay gives another record %s", r->dir,
                         tip->height, hex);
    }
    vd_store_view_close(copy);
    return e;
}

static enum vd_err start(struct replay *r, struct vd_error *err)
{
    struct vd_bytes genesis;
    r->arena = vd_arena_init(malloc(VD_LEDGER_ARENA_BYTES), VD_LEDGER_ARENA_BYTES);
    r->accounts = calloc(VD_GENESIS_ACCOUNTS_MAX, sizeof *r->accounts);
    r->tx = calloc(VD_BLOCK_MAX_TXS, sizeof *r->tx);
    r->verdict = calloc(VD_BLOCK_MAX_TXS, sizeof *r->verdict);
    if (!r->arena.base || !r->accounts || !r->tx || !r->verdict)
        return vd_error_set(err, VD_ENOMEM, "%s: not enough memory to replay", r->dir);
    enum vd_err e = vd_store_view_genesis(r->from, &genesis, err);
    if (e == VD_OK)
        e = vd_genesis_decode(genesis, &r->genesis, r->accounts, VD_GENESIS_ACCOUNTS_MAX, err);
    return e == VD_OK ? vd_ledger_init(&r->ledger, &r->genesis, &r->arena, err) : e;
}

static enum vd_err replay_all(struct replay *r, uint64_t max_height, uint64_t *n_blocks, struct vd_error *err)
{
    struct vd_store_tip tip;
    enum vd_err e = vd_store_view_tip(r->from, &tip, err);
    if (e == VD_OK && tip.empty)
        return vd_error_set(err, VD_ENOTFOUND, "%s: there is no ledger here", r->dir);
    if (e == VD_OK)
        e = start(r, err);
    bool all = max_height == 0 || max_height >= tip.height;
    uint64_t end = all ? tip.height : max_height;
    for (uint64_t h = 0; e == VD_OK && h <= end; h++) {
        e = replay_block(r, h, err);
        if (e == VD_OK && n_blocks)
            *n_blocks = h + 1;
    }
    return e == VD_OK && all ? compare_end(r, &tip, err) : e;
}

static void remove_copy(const char *dir)
{
    static const char *const file[] = {"data.mdb", "lock.mdb", "owner.lock"};
    char path[VD_PATH_MAX + 32];
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, file[i]);
        unlink(path);
    }
    rmdir(dir);
}

enum vd_err vd_chain_verify(const char *dir, uint64_t max_height, uint64_t *n_blocks, struct vd_error *err)
{
    char copy[VD_PATH_MAX], file[VD_PATH_MAX];
    struct vd_store_config scratch = {.scratch = true};
    struct replay r = {.dir = dir};
    struct vd_store *from = NULL;
    if (n_blocks)
        *n_blocks = 0;
    if (snprintf(copy, sizeof copy, "%s/replay", dir) >= (int)sizeof copy ||
        snprintf(file, sizeof file, "%s/data.mdb", dir) >= (int)sizeof file)
        return vd_error_set(err, VD_ELIMIT, "%s: the path is too long", dir);
    if (access(file, F_OK) != 0) /* opening a store would make one */
        return vd_error_set(err, VD_ENOTFOUND, "%s: there is no ledger here", dir);
    enum vd_err e = vd_store_open(&from, dir, NULL, err);
    if (e == VD_OK) {
        remove_copy(copy); /* of a replay that was interrupted */
        e = vd_store_open(&r.to, copy, &scratch, err);
    }
    if (e == VD_OK)
        e = vd_store_view_open(from, &r.from, err);
    if (e == VD_OK)
        e = replay_all(&r, max_height, n_blocks, err);
    vd_store_view_close(r.from);
    vd_store_close(r.to);
    if (from)
        remove_copy(copy);
    vd_store_close(from);
    free(r.arena.base);
    free(r.accounts);
    free(r.tx);
    free(r.verdict);
    return e;
}
