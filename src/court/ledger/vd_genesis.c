/* Parameters are checked once, here, so that the ledger's arithmetic can rely on their ranges. */
#include "vd_genesis.h"
#include "vd_pb.h"
#include "vd_sha256.h"

enum { BLOCKS_MAX = 1 << 30 }; /* for windows and clocks: heights cannot overflow */

struct range {
    const char *name;
    uint64_t value, min, max;
};

static enum vd_err check_ranges(const struct vd_genesis *g, struct vd_error *err)
{
    const struct range r[] = {
        {"block_time_ms", g->block_time_ms, 10, 60000},
        {"audit_rate_ppm", g->audit_rate_ppm, 0, VD_PPM},
        {"audit_window_blocks", g->audit_window_blocks, 1, BLOCKS_MAX},
        {"move_clock_blocks", g->move_clock_blocks, 1, BLOCKS_MAX},
        {"unbonding_blocks", g->unbonding_blocks, 1, BLOCKS_MAX},
        {"request_validity_blocks", g->request_validity_blocks, 1, BLOCKS_MAX},
        {"min_stake", g->min_stake.micro, 1, VD_AMOUNT_MAX_MICRO},
        {"challenge_bond", g->challenge_bond.micro, 1, VD_AMOUNT_MAX_MICRO},
        {"slash", g->slash.micro, 1, VD_AMOUNT_MAX_MICRO},
        {"challenger_share_ppm", g->challenger_share_ppm, 0, VD_PPM / 2},
        {"max_receipt", g->max_receipt.micro, 0, VD_AMOUNT_MAX_MICRO},
        {"worker_share_ppm", g->worker_share_ppm, 0, VD_PPM},
        {"gateway_share_ppm", g->gateway_share_ppm, 0, VD_PPM},
        {"treasury_share_ppm", g->treasury_share_ppm, 0, VD_PPM},
        {"history_blocks", g->history_blocks, 0, BLOCKS_MAX},
        {"number of accounts", g->n_accounts, 1, VD_GENESIS_ACCOUNTS_MAX},
    };
    for (size_t i = 0; i < sizeof r / sizeof r[0]; i++)
        if (r[i].value < r[i].min || r[i].value > r[i].max)
            return vd_error_set(err, VD_EFORMAT, "genesis: %s is %llu; it must be %llu to %llu", r[i].name,
                                (unsigned long long)r[i].value, (unsigned long long)r[i].min,
                                (unsigned long long)r[i].max);
    uint64_t sum =
        (uint64_t)g->worker_share_ppm + g->gateway_share_ppm + g->treasury_share_ppm + g->auditor_share_ppm;
    if (sum != VD_PPM)
        return vd_error_set(err, VD_EFORMAT,
                            "genesis: the shares of worker, gateway, treasury and auditors sum to %llu ppm, "
                            "not %u",
                            (unsigned long long)sum, VD_PPM);
    return VD_OK;
}

/* With audits every parameter of theirs has a range; without, all are zero, so that a genesis has one form.
 */
static enum vd_err check_audits(const struct vd_genesis *g, struct vd_error *err)
{
    bool on = g->epoch_blocks != 0;
    const struct range r[] = {
        {"epoch_blocks", g->epoch_blocks, 0, BLOCKS_MAX},
        {"beacon_blocks", g->beacon_blocks, on, on ? g->epoch_blocks : 0},
        {"audit_commit_blocks", g->audit_commit_blocks, on, on ? BLOCKS_MAX : 0},
        {"audit_reveal_blocks", g->audit_reveal_blocks, on, on ? BLOCKS_MAX : 0},
        {"audit_data_blocks", g->audit_data_blocks, on, on ? BLOCKS_MAX : 0},
        {"auditors", g->auditors, on, on ? VD_AUDIT_SLOTS_MAX : 0},
        {"audit_new_rate_ppm", g->audit_new_rate_ppm, 0, on ? VD_PPM : 0},
        {"audit_new_receipts", g->audit_new_receipts, 0, on ? UINT32_MAX : 0},
        {"auditor_share_ppm", g->auditor_share_ppm, 0, on ? VD_PPM : 0},
        {"audit_slash", g->audit_slash.micro, on, on ? g->min_stake.micro : 0},
        {"beacon_bond", g->beacon_bond.micro, on, on ? VD_AMOUNT_MAX_MICRO : 0},
        {"trap_bond", g->trap_bond.micro, on ? g->slash.micro : 0, on ? VD_AMOUNT_MAX_MICRO : 0},
        {"trap_blocks", g->trap_blocks, on, on ? BLOCKS_MAX : 0},
        {"audit_min_reward", g->audit_min_reward.micro, on, on ? VD_AMOUNT_MAX_MICRO : 0},
    };
    for (size_t i = 0; i < sizeof r / sizeof r[0]; i++)
        if (r[i].value < r[i].min || r[i].value > r[i].max)
            return vd_error_set(
                err, VD_EFORMAT,
                "genesis: %s is %llu; it must be %llu to %llu (audits are %s: epoch_blocks is "
                "%u)",
                r[i].name, (unsigned long long)r[i].value, (unsigned long long)r[i].min,
                (unsigned long long)r[i].max, on ? "on" : "off", g->epoch_blocks);
    if (on && (uint64_t)g->epoch_blocks + g->beacon_blocks > g->audit_window_blocks)
        return vd_error_set(
            err, VD_EFORMAT,
            "genesis: audit_window_blocks is %llu; it must be epoch_blocks + beacon_blocks at "
            "least, or receipts would be paid before they are drawn",
            (unsigned long long)g->audit_window_blocks);
    if (on && vd_amount_cmp(g->trap_bond, g->max_receipt) < 0)
        return vd_error_set(err, VD_EFORMAT, "genesis: trap_bond must not be below max_receipt");
    return VD_OK;
}

/* Cheating must not pay (vd_genesis.h). A slash is never more than a worker has, so that it is worth the same
 * for each one. */
static enum vd_err check_deterrence(const struct vd_genesis *g, struct vd_error *err)
{
    uint64_t share = vd_amount_share(g->slash, g->challenger_share_ppm, VD_PPM).micro;
    unsigned __int128 gain = (unsigned __int128)g->max_receipt.micro * (VD_PPM - g->audit_rate_ppm);
    unsigned __int128 loss = (unsigned __int128)(g->slash.micro - share) * g->audit_rate_ppm;
    bool sampled = g->audit_rate_ppm > 0 && g->audit_rate_ppm < VD_PPM;
    if (vd_amount_cmp(g->min_stake, g->slash) < 0)
        return vd_error_set(err, VD_EFORMAT,
                            "genesis: min_stake must be at least the slash of %llu micro-credits",
                            (unsigned long long)g->slash.micro);
    if (sampled && g->max_receipt.micro == 0)
        return vd_error_set(
            err, VD_EFORMAT,
            "genesis: max_receipt is 0 (no limit); with an audit rate of %u ppm it must have one",
            g->audit_rate_ppm);
    if (sampled && gain > loss)
        return vd_error_set(
            err, VD_EFORMAT,
            "genesis: max_receipt is %llu micro-credits; with this slash and audit rate cheating "
            "would pay above %llu",
            (unsigned long long)g->max_receipt.micro,
            (unsigned long long)(loss / (VD_PPM - g->audit_rate_ppm)));
    return VD_OK;
}

static enum vd_err check_name(const struct vd_genesis *g, struct vd_error *err)
{
    size_t n = strnlen(g->network, sizeof g->network);
    bool good = n >= 1 && n <= VD_GENESIS_NAME_MAX;
    for (size_t i = 0; good && i < n; i++)
        good = g->network[i] >= 0x20 && g->network[i] < 0x7f;
    if (!good)
        return vd_error_set(err, VD_EFORMAT,
                            "genesis: the network's name must be 1 to %d printable ASCII characters",
                            VD_GENESIS_NAME_MAX);
    return VD_OK;
}

enum vd_err vd_genesis_check(const struct vd_genesis *g, struct vd_error *err)
{
    struct vd_amount supply = VD_AMOUNT_ZERO;
    if (check_name(g, err) != VD_OK || check_ranges(g, err) != VD_OK || check_deterrence(g, err) != VD_OK ||
        check_audits(g, err) != VD_OK)
        return VD_EFORMAT;
    for (uint32_t i = 0; i < g->n_accounts; i++) {
        if (i && memcmp(g->account[i - 1].key.b, g->account[i].key.b, VD_PUBKEY_BYTES) >= 0)
            return vd_error_set(err, VD_EFORMAT, "genesis: account %u: keys must ascend and differ", i);
        if (!vd_amount_add(&supply, supply, g->account[i].balance) || supply.micro >= VD_AMOUNT_MAX_MICRO)
            return vd_error_set(err, VD_EFORMAT, "genesis: the balances sum to 2^62 micro-credits or more");
    }
    return VD_OK;
}

struct vd_amount vd_genesis_supply(const struct vd_genesis *g)
{
    struct vd_amount supply = VD_AMOUNT_ZERO;
    for (uint32_t i = 0; i < g->n_accounts; i++)
        supply.micro += g->account[i].balance.micro;
    return supply;
}

size_t vd_genesis_encode(const struct vd_genesis *g, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_bytes(&w, 1, g->network, strnlen(g->network, sizeof g->network));
    vd_pb_put_u64(&w, 2, g->time_ms);
    vd_pb_put_u64(&w, 3, g->block_time_ms);
    vd_pb_put_u64(&w, 4, g->audit_rate_ppm);
    vd_pb_put_u64(&w, 5, g->audit_window_blocks);
    vd_pb_put_u64(&w, 6, g->move_clock_blocks);
    vd_pb_put_u64(&w, 7, g->unbonding_blocks);
    vd_pb_put_u64(&w, 8, g->request_validity_blocks);
    vd_pb_put_u64(&w, 9, g->min_stake.micro);
    vd_pb_put_u64(&w, 10, g->challenge_bond.micro);
    vd_pb_put_u64(&w, 11, g->slash.micro);
    vd_pb_put_u64(&w, 12, g->challenger_share_ppm);
    vd_pb_put_u64(&w, 13, g->worker_share_ppm);
    vd_pb_put_u64(&w, 14, g->gateway_share_ppm);
    vd_pb_put_u64(&w, 15, g->treasury_share_ppm);
    vd_pb_put_elem(&w, 16, g->treasury.b, VD_PUBKEY_BYTES);
    vd_pb_put_u64(&w, 17, g->max_receipt.micro);
    vd_pb_put_u64(&w, 18, g->steps_per_block);
    for (uint32_t i = 0; i < g->n_accounts; i++) {
        size_t mark = vd_pb_begin(&w, 19);
        vd_pb_put_elem(&w, 1, g->account[i].key.b, VD_PUBKEY_BYTES);
        vd_pb_put_u64(&w, 2, g->account[i].balance.micro);
        vd_pb_end(&w, mark, true);
    }
    vd_pb_put_u64(&w, 20, g->epoch_blocks);
    vd_pb_put_u64(&w, 21, g->beacon_blocks);
    vd_pb_put_u64(&w, 22, g->audit_commit_blocks);
    vd_pb_put_u64(&w, 23, g->audit_reveal_blocks);
    vd_pb_put_u64(&w, 24, g->audit_data_blocks);
    vd_pb_put_u64(&w, 25, g->auditors);
    vd_pb_put_u64(&w, 26, g->audit_new_rate_ppm);
    vd_pb_put_u64(&w, 27, g->audit_new_receipts);
    vd_pb_put_u64(&w, 28, g->auditor_share_ppm);
    vd_pb_put_u64(&w, 29, g->audit_slash.micro);
    vd_pb_put_u64(&w, 30, g->beacon_bond.micro);
    vd_pb_put_u64(&w, 31, g->trap_bond.micro);
    vd_pb_put_u64(&w, 32, g->trap_blocks);
    vd_pb_put_u64(&w, 33, g->audit_min_reward.micro);
    vd_pb_put_u64(&w, 34, g->history_blocks);
    vd_pb_put_u64(&w, 35, VD_LEDGER_RULES);
    return w.overflow ? 0 : w.n_bytes;
}

static bool get_fields(struct vd_pb_reader *r, struct vd_genesis *g)
{
    struct vd_bytes name = vd_pb_get_bytes(r, 1, VD_GENESIS_NAME_MAX);
    if (name.n)
        memcpy(g->network, name.p, name.n);
    r->bad |= strnlen(g->network, sizeof g->network) != name.n; /* a NUL inside would be lost */
    g->time_ms = vd_pb_get_u64(r, 2, INT64_MAX);
    g->block_time_ms = (uint32_t)vd_pb_get_u64(r, 3, UINT32_MAX);
    g->audit_rate_ppm = (uint32_t)vd_pb_get_u64(r, 4, VD_PPM);
    g->audit_window_blocks = vd_pb_get_u64(r, 5, UINT64_MAX);
    g->move_clock_blocks = vd_pb_get_u64(r, 6, UINT64_MAX);
    g->unbonding_blocks = vd_pb_get_u64(r, 7, UINT64_MAX);
    g->request_validity_blocks = vd_pb_get_u64(r, 8, UINT64_MAX);
    g->min_stake.micro = vd_pb_get_u64(r, 9, VD_AMOUNT_MAX_MICRO);
    g->challenge_bond.micro = vd_pb_get_u64(r, 10, VD_AMOUNT_MAX_MICRO);
    g->slash.micro = vd_pb_get_u64(r, 11, VD_AMOUNT_MAX_MICRO);
    g->challenger_share_ppm = (uint32_t)vd_pb_get_u64(r, 12, VD_PPM);
    g->worker_share_ppm = (uint32_t)vd_pb_get_u64(r, 13, VD_PPM);
    g->gateway_share_ppm = (uint32_t)vd_pb_get_u64(r, 14, VD_PPM);
    g->treasury_share_ppm = (uint32_t)vd_pb_get_u64(r, 15, VD_PPM);
    vd_pb_get_fixed(r, 16, g->treasury.b, VD_PUBKEY_BYTES);
    g->max_receipt.micro = vd_pb_get_u64(r, 17, VD_AMOUNT_MAX_MICRO);
    g->steps_per_block = (uint32_t)vd_pb_get_u64(r, 18, UINT32_MAX);
    return !r->bad;
}

static void get_audits(struct vd_pb_reader *r, struct vd_genesis *g)
{
    g->epoch_blocks = (uint32_t)vd_pb_get_u64(r, 20, UINT32_MAX);
    g->beacon_blocks = (uint32_t)vd_pb_get_u64(r, 21, UINT32_MAX);
    g->audit_commit_blocks = (uint32_t)vd_pb_get_u64(r, 22, UINT32_MAX);
    g->audit_reveal_blocks = (uint32_t)vd_pb_get_u64(r, 23, UINT32_MAX);
    g->audit_data_blocks = (uint32_t)vd_pb_get_u64(r, 24, UINT32_MAX);
    g->auditors = (uint32_t)vd_pb_get_u64(r, 25, UINT32_MAX);
    g->audit_new_rate_ppm = (uint32_t)vd_pb_get_u64(r, 26, VD_PPM);
    g->audit_new_receipts = vd_pb_get_u64(r, 27, UINT64_MAX);
    g->auditor_share_ppm = (uint32_t)vd_pb_get_u64(r, 28, VD_PPM);
    g->audit_slash.micro = vd_pb_get_u64(r, 29, VD_AMOUNT_MAX_MICRO);
    g->beacon_bond.micro = vd_pb_get_u64(r, 30, VD_AMOUNT_MAX_MICRO);
    g->trap_bond.micro = vd_pb_get_u64(r, 31, VD_AMOUNT_MAX_MICRO);
    g->trap_blocks = vd_pb_get_u64(r, 32, UINT64_MAX);
    g->audit_min_reward.micro = vd_pb_get_u64(r, 33, VD_AMOUNT_MAX_MICRO);
    g->history_blocks = vd_pb_get_u64(r, 34, UINT64_MAX);
}

enum vd_err vd_genesis_decode(struct vd_bytes in, struct vd_genesis *out, struct vd_genesis_account *account,
                              size_t cap_accounts, struct vd_error *err)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_bytes b;
    *out = (struct vd_genesis){.account = account};
    bool good = in.n <= VD_GENESIS_MAX_BYTES && get_fields(&r, out);
    while (good && vd_pb_next_elem(&r, 19, &b, 64)) {
        struct vd_pb_reader a = vd_pb_reader_init(b.p, b.n);
        if (out->n_accounts == cap_accounts)
            return vd_error_set(err, VD_EFORMAT, "genesis: more than %zu accounts", cap_accounts);
        struct vd_genesis_account *to = &account[out->n_accounts++];
        vd_pb_get_fixed(&a, 1, to->key.b, VD_PUBKEY_BYTES);
        to->balance.micro = vd_pb_get_u64(&a, 2, VD_AMOUNT_MAX_MICRO);
        good = vd_pb_done(&a);
    }
    if (good)
        get_audits(&r, out);
    uint64_t rules = good ? vd_pb_get_u64(&r, 35, UINT32_MAX) : 0;
    if (!good || !vd_pb_done(&r))
        return vd_error_set(err, VD_EFORMAT,
                            "genesis: the encoding is malformed or not canonical (%zu bytes)", in.n);
    if (rules != VD_LEDGER_RULES)
        return vd_error_set(
            err, VD_EVERSION,
            "genesis: this network has the ledger's rules %llu, this veridem those of %d; use the "
            "version that made it, or begin a new network",
            (unsigned long long)(rules ? rules : 1), VD_LEDGER_RULES);
    return vd_genesis_check(out, err);
}

struct vd_hash vd_genesis_hash(struct vd_bytes canonical)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init_tag(&s, "veridem/genesis");
    vd_sha256_update(&s, canonical.p, canonical.n);
    vd_sha256_final(&s, &h);
    return h;
}
