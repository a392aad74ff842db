/* How many simple transactions per second the embedded chain makes durable, and how long one waits.
 *
 * usage: vd_chain_bench [DIR] [TRANSACTIONS] [BLOCK_MS]
 * Four submitters keep the queue full with signed transfers of 1,024 accounts (one may have 64 on their way);
 * the clock runs from the first submission to the last acknowledgement. The limit measured in the same run:
 * how often this disk syncs a 4 KiB write. */
#include "vd_chain.h"
#include "vd_clock.h"
#include "vd_court_kit.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum { SUBMITTERS = 4, SENDERS = 1024, SYNCS = 50 };

static struct vd_keypair sender[SENDERS];
static struct vd_genesis_account account[SENDERS];

struct job {
    struct vd_chain *c;
    int from;
    uint64_t n;
    atomic_ulong *applied;
};

static void done(void *arg, const struct vd_chain_result *r)
{
    atomic_fetch_add((atomic_ulong *)arg, r->err == VD_OK && r->verdict == VD_TX_OK);
}

struct small_tx {
    uint8_t b[256];
    size_t n;
};

static void *run(void *arg)
{
    struct job *j = arg;
    struct small_tx *all = calloc(j->n, sizeof *all);
    kit_check(all != NULL);
    for (uint64_t i = 0; i < j->n; i++) {
        const struct vd_keypair *from = &sender[j->from + SUBMITTERS * (i % (SENDERS / SUBMITTERS))];
        struct vd_tx tx = {.genesis = vd_chain_ledger(j->c)->genesis_hash,
                           .sender = from->pub,
                           .nonce = i / (SENDERS / SUBMITTERS),
                           .kind = VD_TX_TRANSFER,
                           .u.transfer = {sender[0].pub, {1}}};
        all[i].n = vd_tx_sign(&tx, from, all[i].b, sizeof all[i].b, NULL);
    }
    for (uint64_t i = 0; i < j->n;) {
        enum vd_err e = vd_chain_submit(j->c, (struct vd_bytes){all[i].b, all[i].n}, done, j->applied, NULL);
        if (e == VD_EAGAIN)
            vd_clock_sleep_ms(1);
        i += e == VD_OK;
    }
    free(all);
    return NULL;
}

static void make_senders(struct vd_genesis *g)
{
    for (int i = 0; i < SENDERS; i++) {
        uint8_t seed[VD_SEED_BYTES] = {(uint8_t)i, (uint8_t)(i >> 8), 'b'};
        vd_key_from_seed(&sender[i], seed);
        account[i] = (struct vd_genesis_account){sender[i].pub, {KIT_BALANCE}};
    }
    qsort(account, SENDERS, sizeof account[0], kit_account_cmp);
    g->account = account;
    g->n_accounts = SENDERS;
}

static double syncs_per_s(const char *dir)
{
    char path[512], block[4096] = {0};
    snprintf(path, sizeof path, "%s/sync-test", dir);
    int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    uint64_t t = vd_clock_ns();
    for (int i = 0; fd >= 0 && i < SYNCS; i++)
        kit_check(pwrite(fd, block, sizeof block, 4096 * i) == sizeof block && fdatasync(fd) == 0);
    t = vd_clock_ns() - t;
    close(fd);
    unlink(path);
    return SYNCS * 1e9 / (double)t;
}

int main(int argc, char **argv)
{
    static struct kit k;
    char template[] = "/tmp/vd_chain_bench.XXXXXX";
    const char *dir = argc > 1 ? argv[1] : mkdtemp(template);
    uint64_t n = argc > 2 ? strtoull(argv[2], NULL, 10) : 20000;
    struct vd_error err;
    struct vd_chain *c;
    atomic_ulong applied = 0;
    pthread_t t[SUBMITTERS];
    struct job job[SUBMITTERS];
    kit_init(&k);
    make_senders(&k.genesis);
    struct vd_chain_config config = {
        .dir = dir, .genesis = &k.genesis, .block_time_ms = argc > 3 ? (uint32_t)atoi(argv[3]) : 250};
    if (vd_chain_open(&c, &config, &err) != VD_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 3;
    }
    uint64_t begin = vd_clock_ns();
    for (int i = 0; i < SUBMITTERS; i++) {
        job[i] = (struct job){c, i, n / SUBMITTERS, &applied};
        kit_check(pthread_create(&t[i], NULL, run, &job[i]) == 0);
    }
    for (int i = 0; i < SUBMITTERS; i++)
        pthread_join(t[i], NULL);
    while (applied < n / SUBMITTERS * SUBMITTERS)
        vd_clock_sleep_ms(1);
    double s = (double)(vd_clock_ns() - begin) / 1e9;
    struct vd_chain_status status;
    vd_chain_status(c, &status);
    vd_chain_close(c);
    printf("%lu transfers durable in %.2f s (signing included): %.0f per second, %llu blocks; the disk syncs "
           "%.0f "
           "times per second\n",
           (unsigned long)applied, s, (double)applied / s, (unsigned long long)status.tip.height,
           syncs_per_s(dir));
    if (argc > 1)
        return 0;
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}
