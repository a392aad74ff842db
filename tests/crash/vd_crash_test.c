/* Kills the ledger with SIGKILL at random moments under load, again and again on the same folder, and checks
 * after each death, from the files alone: every acknowledged transaction is there, exactly once and where it
 * was said to be; no block that was seen has changed; every credit is accounted for; and replaying all blocks
 * gives the same state and roots.
 *
 * usage: vd_crash_test kill|unsynced|detect ROUNDS LEDGER SHIM RECOVER
 *   kill      as above
 *   unsynced  and after each death all writes that were not synced are taken back (half of them in every
 * second round) detect    the same with a ledger that never syncs: succeeds when that is noticed VD_LONG=1
 * makes 200 rounds of it. The load: transfers, and receipts settled one by one. What an account sends is a
 * function of its nonce, so whatever was not acknowledged is sent again after the restart, byte for byte. */
#include "vd_clock.h"
#include "vd_court_kit.h"
#include "vd_crash.h"
#include "vd_rng.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    SENDERS = 3, /* keys 0 (client), 1 (gateway, settles), 2 (worker) of the kit */
    WINDOW = 24, /* transactions of a sender that are on their way */
    NONCES_MAX = 200000,
    LIFE_MAX_MS = 150,
    START_MAX_MS = 10000,
};

struct place {
    uint64_t height; /* 0: not known */
    uint32_t index;
};

struct sender {
    uint64_t acked, sent; /* nonces below `acked` are acknowledged, below `sent` are on their way */
    uint32_t in_flight;
    bool again;                /* something was refused: start over from `acked` when nothing is on its way */
    struct vd_hash id[WINDOW]; /* of nonce % WINDOW */
    struct place said[NONCES_MAX], found[NONCES_MAX];
};

static struct kit k;
static struct sender sender[SENDERS];
static struct vd_hash escrow_id;
static struct vd_rng rng;
static char dir[128], journal[128];
static const char *mode, *ledger_path, *shim_path, *recover_path;
static uint64_t checked_height, n_txs_found, n_taken_back, n_answers;
static struct vd_hash checked_hash;

__attribute__((format(printf, 1, 2))) static bool wrong(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("WRONG: ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    return false;
}

/* --- the load --- */

/* Transaction number `nonce` of a sender. */
static void make_tx(int who, uint64_t nonce, struct kit_tx *t)
{
    struct kit_receipt r;
    struct vd_tx tx = {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[7].pub, {1 + nonce % 3}}};
    if (who == 0 && nonce == 0)
        tx = (struct vd_tx){.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[1].pub, {KIT_BALANCE / 2}}};
    if (who == 2 && nonce == 0)
        tx = (struct vd_tx){.kind = VD_TX_STAKE, .u.stake = {{KIT_BALANCE / 2}}};
    if (who == 2 && nonce == 1)
        tx = (struct vd_tx){.kind = VD_TX_REGISTER_MODEL,
                            .u.register_model = {{k.program, k.program_bytes}, k.n_tensors, k.tensors_root}};
    if (who == 1) {
        kit_receipt(&k, &r, &escrow_id, nonce, 2, 1 + nonce % 5, UINT64_MAX);
        tx = (struct vd_tx){.kind = VD_TX_SETTLE, .u.settle = {1, {{r.bytes, r.n}}}};
    }
    kit_sign(&k, t, who, nonce, tx);
}

static bool may_send(int who)
{
    const struct sender *s = &sender[who];
    if (who == 1 && (sender[0].acked < 1 || sender[2].acked < 2))
        return false;
    return !s->again && s->in_flight < WINDOW && s->sent < NONCES_MAX;
}

static bool send_one(int fd, int who)
{
    static struct kit_tx t;
    struct sender *s = &sender[who];
    uint8_t frame[4 + 2048];
    make_tx(who, s->sent, &t);
    kit_check(t.n <= sizeof frame - 4);
    vd_le32_store(frame, (uint32_t)t.n);
    memcpy(frame + 4, t.bytes, t.n);
    s->id[s->sent % WINDOW] = t.id;
    s->sent++;
    s->in_flight++;
    return write(fd, frame, 4 + t.n) == (ssize_t)(4 + t.n);
}

/* An answer. Applied, or found applied already: it must never be missing from now on. */
static void take_answer(const struct vd_chain_result *r)
{
    n_answers++;
    for (int who = 0; who < SENDERS; who++) {
        struct sender *s = &sender[who];
        for (uint64_t n = s->acked; n < s->sent; n++) {
            if (!vd_hash_eq(&s->id[n % WINDOW], &r->tx_id))
                continue;
            bool there = r->err == VD_OK && (r->verdict == VD_TX_OK || r->verdict == VD_TX_DUPLICATE);
            s->in_flight--;
            s->again |= !there;
            if (there) {
                s->said[n] = (struct place){r->height, r->index};
                while (s->acked < s->sent && s->said[s->acked].height)
                    s->acked++;
            }
            return;
        }
    }
}

static void start_over(struct sender *s)
{
    s->sent = s->acked;
    s->in_flight = 0;
    s->again = false;
}

/* --- one life --- */

static pid_t spawn_ledger(int *fd)
{
    int pair[2];
    kit_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    pid_t pid = fork();
    kit_check(pid >= 0);
    if (pid == 0) {
        dup2(pair[1], CRASH_FD);
        if (strcmp(mode, "kill") != 0) {
            setenv("VD_UNSYNCED_DIR", dir, 1);
            setenv("VD_UNSYNCED_JOURNAL", journal, 1);
            setenv("LD_PRELOAD", shim_path, 1);
        }
        if (strcmp(mode, "detect") == 0)
            setenv("VD_CRASH_NOSYNC", "1", 1);
        execl(ledger_path, ledger_path, dir, (char *)NULL);
        _exit(127);
    }
    close(pair[1]);
    *fd = pair[0];
    return pid;
}

/* Reads whole answers; returns false at the end. */
static bool read_answers(int fd, int wait_ms)
{
    static uint8_t buf[sizeof(struct vd_chain_result) * 64];
    static size_t have;
    struct pollfd p = {fd, POLLIN, 0};
    if (poll(&p, 1, wait_ms) <= 0)
        return true;
    ssize_t n = read(fd, buf + have, sizeof buf - have);
    if (n <= 0) {
        have = 0;
        return false;
    }
    have += (size_t)n;
    size_t at = 0;
    for (; have - at >= sizeof(struct vd_chain_result); at += sizeof(struct vd_chain_result)) {
        struct vd_chain_result r;
        memcpy(&r, buf + at, sizeof r);
        take_answer(&r);
    }
    memmove(buf, buf + at, have - at);
    have -= at;
    return true;
}

/* Kills the ledger life_ms after its start or, if `settled`, after its first answer: then it is in the middle
 * of work. */
static bool one_life(uint64_t life_ms, bool settled)
{
    int fd, status;
    pid_t pid = spawn_ledger(&fd);
    uint64_t end = vd_clock_ms() + (settled ? START_MAX_MS : life_ms), before = n_answers;
    bool alive = true;
    while (alive && vd_clock_ms() < end) {
        for (int who = 0; who < SENDERS; who++) {
            if (sender[who].again && sender[who].in_flight == 0)
                start_over(&sender[who]);
            while (alive && may_send(who))
                alive = send_one(fd, who);
        }
        alive = alive && read_answers(fd, 1);
        if (settled && n_answers > before) {
            settled = false;
            end = vd_clock_ms() + life_ms;
        }
    }
    kill(pid, SIGKILL);
    kit_check(waitpid(pid, &status, 0) == pid);
    while (read_answers(fd, 0) && poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0) > 0)
        ; /* what it said before it died counts */
    close(fd);
    for (int who = 0; who < SENDERS; who++)
        start_over(&sender[who]);
    if (WIFEXITED(status))
        return wrong("the ledger ended by itself with status %d", WEXITSTATUS(status));
    return true;
}

/* --- looking at what is left --- */

static bool check_tx(struct vd_bytes tx, uint64_t height, uint32_t index)
{
    static struct vd_tx_signed s;
    if (!vd_tx_decode(tx, &s))
        return wrong("block %" PRIu64 " holds bytes that are no transaction", height);
    for (int who = 0; who < SENDERS; who++) {
        if (!vd_pubkey_eq(&s.tx.sender, &k.key[who].pub))
            continue;
        struct place *p = &sender[who].found[s.tx.nonce];
        if (p->height)
            return wrong("nonce %" PRIu64 " of sender %d is in two blocks", s.tx.nonce, who);
        *p = (struct place){height, index};
        n_txs_found++;
        return true;
    }
    return wrong("block %" PRIu64 " holds a transaction of nobody", height);
}

static bool check_new_blocks(struct vd_store_view *v, uint64_t tip)
{
    static struct vd_bytes tx[VD_BLOCK_MAX_TXS];
    struct vd_chain_block_info info;
    struct vd_bytes bytes;
    struct vd_block b;
    if (tip < checked_height)
        return wrong("height %" PRIu64 " was there, now the chain ends at %" PRIu64, checked_height, tip);
    if (checked_height && (vd_chain_read_block(v, checked_height, &info, NULL) != VD_OK ||
                           !vd_hash_eq(&info.hash, &checked_hash)))
        return wrong("block %" PRIu64 " has changed", checked_height);
    for (uint64_t h = checked_height + 1; h <= tip; h++) {
        if (vd_store_view_block(v, h, &bytes, NULL, NULL) != VD_OK ||
            !vd_block_decode(bytes, &b, tx, VD_BLOCK_MAX_TXS))
            return wrong("block %" PRIu64 " is missing or malformed", h);
        for (uint32_t i = 0; i < b.n_txs; i++)
            if (!check_tx(tx[i], h, i))
                return false;
        checked_height = h;
        checked_hash = vd_block_hash(&b.header);
    }
    return true;
}

static bool check_acknowledged(void)
{
    for (int who = 0; who < SENDERS; who++)
        for (uint64_t n = 0; n < NONCES_MAX; n++) {
            const struct place *said = &sender[who].said[n], *found = &sender[who].found[n];
            if (said->height && !found->height)
                return wrong("nonce %" PRIu64 " of sender %d was acknowledged in block %" PRIu64
                             " and is lost",
                             n, who, said->height);
            if (said->height && (said->height != found->height || said->index != found->index))
                return wrong("nonce %" PRIu64 " of sender %d stands elsewhere than was said", n, who);
        }
    return true;
}

static bool check_files(void)
{
    struct vd_store *s;
    struct vd_store_view *v;
    struct vd_store_tip tip;
    struct vd_totals totals;
    struct vd_error err;
    if (vd_store_open(&s, dir, NULL, &err) != VD_OK)
        return wrong("%s", err.msg);
    kit_check(vd_store_view_open(s, &v, &err) == VD_OK && vd_store_view_tip(v, &tip, &err) == VD_OK);
    bool good =
        tip.empty ? checked_height == 0 || wrong("the chain is gone") : check_new_blocks(v, tip.height);
    good = good && check_acknowledged();
    if (good && !tip.empty) {
        struct vd_kvs *kv = vd_store_view_kv(v);
        good = kit_audit(kv, &k.genesis) || wrong("credits are missing");
        kit_check(vd_ledger_get_totals(kv, &totals));
        if (good && totals.n_txs != n_txs_found)
            good = wrong("the state counts %" PRIu64 " transactions, the blocks hold %" PRIu64, totals.n_txs,
                         n_txs_found);
    }
    vd_store_view_close(v);
    vd_store_close(s);
    return good;
}

static bool check_replay(void)
{
    struct vd_error err;
    enum vd_err e = vd_chain_verify(dir, 0, NULL, &err);
    return e == VD_OK || (e == VD_ENOTFOUND && checked_height == 0) || wrong("%s", err.msg);
}

static bool take_back(uint64_t seed)
{
    char cmd[8400];
    unsigned long writes = 0;
    snprintf(cmd, sizeof cmd, "%s %s %" PRIu64, recover_path, journal, seed);
    FILE *f = popen(cmd, "r");
    bool good = f && fscanf(f, "took back %lu writes", &writes) == 1;
    if (f && pclose(f) != 0)
        good = false;
    n_taken_back += writes;
    return good || wrong("unsynced_recover failed");
}

static bool run(int rounds)
{
    int replay_every = rounds > 40 ? 25 : 5;
    for (int i = 1; i <= rounds; i++) {
        uint64_t life = 1 + vd_rng_below(&rng, LIFE_MAX_MS);
        bool good = one_life(life, vd_rng_below(&rng, 4) != 0);
        if (good && strcmp(mode, "kill") != 0)
            good = take_back(i % 2 ? 0 : (uint64_t)i);
        good = good && check_files();
        if (good && (i % replay_every == 0 || i == rounds))
            good = check_replay();
        if (!good) {
            printf("in round %d, after %" PRIu64 " ms of life\n", i, life);
            return false;
        }
    }
    if (strcmp(mode, "unsynced") == 0 && n_taken_back == 0)
        return wrong("no write was ever taken back: the test says nothing");
    return true;
}

int main(int argc, char **argv)
{
    struct kit_tx *first = malloc(sizeof *first);
    char base[] = "/tmp/vd_crash.XXXXXX", cmd[200];
    if (argc != 6 || !first || !mkdtemp(base)) {
        fprintf(stderr, "usage: vd_crash_test kill|unsynced|detect ROUNDS LEDGER SHIM RECOVER\n");
        return 2;
    }
    mode = argv[1];
    ledger_path = argv[3];
    shim_path = argv[4];
    recover_path = argv[5];
    const char *seed = getenv("VD_SEED");
    rng.seed = seed ? strtoull(seed, NULL, 10) : 1;
    snprintf(dir, sizeof dir, "%s/ledger", base);
    snprintf(journal, sizeof journal, "%s/journal", base);
    kit_check(mkdir(journal, 0700) == 0);
    signal(SIGPIPE, SIG_IGN);
    kit_init(&k);
    make_tx(0, 0, first);
    escrow_id = first->id;
    bool held = run(getenv("VD_LONG") ? 200 : atoi(argv[2]));
    printf("%s: %" PRIu64 " transactions in %" PRIu64 " blocks, %" PRIu64 " unsynced writes taken back: %s\n",
           mode, n_txs_found, checked_height, n_taken_back,
           held ? "nothing acknowledged is lost" : "see above");
    snprintf(cmd, sizeof cmd, "rm -rf %s", base);
    if (system(cmd) != 0)
        perror(base);
    free(first);
    kit_free(&k);
    return held != (strcmp(mode, "detect") != 0);
}
