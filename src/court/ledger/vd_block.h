/* Blocks: a header and transactions, as stored and replayed.
 *
 *     tx root    = RFC 6962 Merkle root over leaf(signed transaction bytes)
 *     block hash = H("veridem/block", NUL, canonical header bytes)
 *
 * The state root is the one after the block. Block 0 is the genesis: no transactions, previous hash = genesis
 * hash. Thread rule: pure functions. */
#ifndef VD_BLOCK_H
#define VD_BLOCK_H

#include "vd_bytes.h"
#include "vd_sha256.h"

enum {
    VD_BLOCK_MAX_TXS = 4096,
    VD_BLOCK_MAX_TX_BYTES = 2 << 20, /* all transactions together */
    VD_BLOCK_MAX_BYTES = (2 << 20) + (64 << 10),
    /* Moves cost the referee up to a millisecond and rewrite the state of a game. Whoever makes a block
     * counts those that the game rejects as well: they cost the same. */
    VD_BLOCK_MAX_MOVES = 256,
    VD_BLOCK_MAX_CHALLENGES = 64,
    VD_BLOCK_HEADER_MAX_BYTES = 160,
};

struct vd_block_header {
    uint64_t height, time_ms;
    struct vd_hash prev_hash, tx_root, state_root;
    uint32_t n_txs;
};

struct vd_block {
    struct vd_block_header header;
    uint32_t n_txs;
    const struct vd_bytes *tx; /* signed transactions, VD_TX_MAX_BYTES at most each */
};

size_t vd_block_header_encode(const struct vd_block_header *h, uint8_t *buf, size_t cap_bytes);
bool vd_block_header_decode(struct vd_bytes in, struct vd_block_header *out);
struct vd_hash vd_block_hash(const struct vd_block_header *h);
struct vd_hash vd_block_tx_root(const struct vd_bytes *tx, uint32_t n_txs);

size_t vd_block_encode(const struct vd_block *b, uint8_t *buf, size_t cap_bytes);
/* Transactions point into `in`, and stand in tx[cap_txs] (VD_BLOCK_MAX_TXS suffices). Checks limits and tx
 * root. */
bool vd_block_decode(struct vd_bytes in, struct vd_block *out, struct vd_bytes *tx, size_t cap_txs);

#endif
