/* Any bytes as a record, event, block header or genesis, as a peer may send them: what decodes must encode to
 * the same bytes. The first byte of the input chooses what the rest is taken for. */
#include "vd_court_kit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static uint8_t buf[VD_GENESIS_MAX_BYTES];

static void same(struct vd_bytes in, size_t n)
{
    kit_check(n == in.n && memcmp(buf, in.p, n) == 0);
}

#define RECORD(name)                                                                                         \
    static void try_##name(struct vd_bytes in)                                                               \
    {                                                                                                        \
        struct vd_##name v;                                                                                  \
        if (vd_##name##_decode(in, &v))                                                                      \
            same(in, vd_##name##_encode(&v, buf, sizeof buf));                                               \
    }
RECORD(totals)
RECORD(account)
RECORD(stake)
RECORD(model_record)
RECORD(offer)
RECORD(escrow)
RECORD(receipt_record)
RECORD(dispute)
RECORD(tx_place)
RECORD(keeper)
RECORD(beacon)
RECORD(auditor)
RECORD(audit)
RECORD(showing)
RECORD(trap)
RECORD(event)
RECORD(block_header)
#undef RECORD

static void try_genesis(struct vd_bytes in)
{
    static struct vd_genesis_account account[64];
    struct vd_genesis g;
    if (vd_genesis_decode(in, &g, account, 64, NULL) == VD_OK)
        same(in, vd_genesis_encode(&g, buf, sizeof buf));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static void (*const what[])(struct vd_bytes in) = {
        try_totals,  try_account,        try_stake,    try_model_record, try_offer,        try_escrow,
        try_dispute, try_receipt_record, try_tx_place, try_event,        try_block_header, try_genesis,
        try_keeper,  try_beacon,         try_auditor,  try_audit,        try_showing,      try_trap,
    };
    if (n_bytes)
        what[data[0] % (sizeof what / sizeof what[0])]((struct vd_bytes){data + 1, n_bytes - 1});
    return 0;
}
