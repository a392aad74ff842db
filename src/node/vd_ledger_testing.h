/* For the tests of this folder only: the genesis of a small network, a client of its ledger, and a folder
 * that goes. Header only; whatever goes wrong ends the test program. */
#ifndef VD_LEDGER_TESTING_H
#define VD_LEDGER_TESTING_H

#include "vd_ledger_client.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VD_TEST_HOST "127.0.0.1"

static inline void must(enum vd_err e, const struct vd_error *err)
{
    if (e != VD_OK) {
        fprintf(stderr, "%s\n", err->msg);
        exit(1);
    }
}

static inline int vd_test_by_key(const void *a, const void *b)
{
    return memcmp(a, b, VD_PUBKEY_BYTES);
}

/* Blocks of 20 ms, no audits, three shares. Sorts the accounts, which are borrowed; a test changes what it is
 * about: windows, clocks, amounts. */
static inline struct vd_genesis vd_test_genesis(struct vd_genesis_account *account, uint32_t n_accounts,
                                                const struct vd_pubkey *treasury)
{
    qsort(account, n_accounts, sizeof account[0], vd_test_by_key);
    return (struct vd_genesis){.network = "test",
                               .time_ms = 1767225600000,
                               .block_time_ms = 20,
                               .audit_rate_ppm = VD_PPM,
                               .audit_window_blocks = 100,
                               .move_clock_blocks = 100,
                               .unbonding_blocks = 10,
                               .request_validity_blocks = 100,
                               .min_stake = {1000},
                               .challenge_bond = {10},
                               .slash = {1000},
                               .challenger_share_ppm = 400000,
                               .worker_share_ppm = 900000,
                               .gateway_share_ppm = 90000,
                               .treasury_share_ppm = 10000,
                               .treasury = *treasury,
                               .n_accounts = n_accounts,
                               .account = account};
}

/* Linked, within 20 s. `config` may hold what else a test wants of it (on_block, from_height). */
static inline struct vd_ledger_client *vd_test_ledger_client(struct vd_ledger_client_config config,
                                                             const struct vd_keypair *key, uint16_t port,
                                                             const struct vd_pubkey *ledger_key,
                                                             enum vd_wire_role role)
{
    struct vd_ledger_client *c = NULL;
    struct vd_error err;
    config.key = key;
    config.host = VD_TEST_HOST;
    config.port = port;
    config.ledger_key = ledger_key;
    config.role = role;
    must(vd_ledger_client_start(&c, &config, &err), &err);
    must(vd_ledger_client_wait(c, 20000, &err), &err);
    return c;
}

static inline int vd_test_remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static inline void vd_test_remove_dir(const char *dir)
{
    nftw(dir, vd_test_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

#endif
