/* A block is what the sequencer chose; everything else about it follows from its bytes. */
#include "vd_block.h"
#include "vd_merkle.h"
#include "vd_pb.h"
#include "vd_tx.h"

size_t vd_block_header_encode(const struct vd_block_header *h, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, h->height);
    vd_pb_put_u64(&w, 2, h->time_ms);
    vd_pb_put_elem(&w, 3, h->prev_hash.b, VD_HASH_BYTES);
    vd_pb_put_elem(&w, 4, h->tx_root.b, VD_HASH_BYTES);
    vd_pb_put_elem(&w, 5, h->state_root.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 6, h->n_txs);
    return w.overflow ? 0 : w.n_bytes;
}

bool vd_block_header_decode(struct vd_bytes in, struct vd_block_header *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    out->height = vd_pb_get_u64(&r, 1, INT64_MAX);
    out->time_ms = vd_pb_get_u64(&r, 2, INT64_MAX);
    vd_pb_get_fixed(&r, 3, out->prev_hash.b, VD_HASH_BYTES);
    vd_pb_get_fixed(&r, 4, out->tx_root.b, VD_HASH_BYTES);
    vd_pb_get_fixed(&r, 5, out->state_root.b, VD_HASH_BYTES);
    out->n_txs = (uint32_t)vd_pb_get_u64(&r, 6, VD_BLOCK_MAX_TXS);
    return vd_pb_done(&r);
}

struct vd_hash vd_block_hash(const struct vd_block_header *h)
{
    uint8_t buf[VD_BLOCK_HEADER_MAX_BYTES];
    struct vd_sha256 s;
    struct vd_hash out;
    vd_sha256_init_tag(&s, "veridem/block");
    vd_sha256_update(&s, buf, vd_block_header_encode(h, buf, sizeof buf));
    vd_sha256_final(&s, &out);
    return out;
}

struct vd_hash vd_block_tx_root(const struct vd_bytes *tx, uint32_t n_txs)
{
    struct vd_merkle_stream s;
    vd_merkle_stream_init(&s);
    for (uint32_t i = 0; i < n_txs; i++) {
        struct vd_hash leaf = vd_merkle_leaf(tx[i].p, tx[i].n);
        vd_merkle_stream_add(&s, &leaf);
    }
    return vd_merkle_stream_root(&s);
}

size_t vd_block_encode(const struct vd_block *b, uint8_t *buf, size_t cap_bytes)
{
    uint8_t header[VD_BLOCK_HEADER_MAX_BYTES];
    size_t n = vd_block_header_encode(&b->header, header, sizeof header);
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, header, n);
    for (uint32_t i = 0; i < b->n_txs; i++)
        vd_pb_put_elem(&w, 2, b->tx[i].p, b->tx[i].n);
    return w.overflow ? 0 : w.n_bytes;
}

bool vd_block_decode(struct vd_bytes in, struct vd_block *out, struct vd_bytes *tx, size_t cap_txs)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_bytes b;
    size_t total = 0;
    if (in.n > VD_BLOCK_MAX_BYTES)
        return false;
    *out = (struct vd_block){.tx = tx};
    b = vd_pb_get_bytes(&r, 1, VD_BLOCK_HEADER_MAX_BYTES);
    if (!vd_block_header_decode(b, &out->header))
        return false;
    while (vd_pb_next_elem(&r, 2, &b, VD_TX_MAX_BYTES)) {
        total += b.n;
        if (out->n_txs == cap_txs || out->n_txs == VD_BLOCK_MAX_TXS || total > VD_BLOCK_MAX_TX_BYTES)
            return false;
        tx[out->n_txs++] = b;
    }
    struct vd_hash root = vd_block_tx_root(tx, out->n_txs);
    return vd_pb_done(&r) && out->n_txs == out->header.n_txs && vd_hash_eq(&root, &out->header.tx_root);
}
