/* The process that is killed: a ledger on the embedded chain, fed through descriptor 3.
 *
 * usage: vd_crash_ledger DIR
 * VD_CRASH_NOSYNC=1 makes LMDB never sync, which the test must notice: the test of the test. */
#include "vd_court_kit.h"
#include "vd_crash.h"

#include <stdio.h>
#include <unistd.h>

static bool read_full(void *p, size_t n)
{
    for (size_t got = 0; got < n;) {
        ssize_t k = read(CRASH_FD, (uint8_t *)p + got, n - got);
        if (k <= 0)
            return false;
        got += (size_t)k;
    }
    return true;
}

/* From the chain's thread, one at a time: an answer is one write. */
static void answer(void *arg, const struct vd_chain_result *r)
{
    if (write(CRASH_FD, r, sizeof *r) != sizeof *r)
        _exit(1);
}

int main(int argc, char **argv)
{
    static struct kit k;
    static uint8_t tx[VD_TX_MAX_BYTES];
    struct vd_chain *c;
    struct vd_error err;
    uint32_t n;
    kit_init(&k);
    struct vd_chain_config config = {
        .dir = argc > 1 ? argv[1] : "",
        .genesis = &k.genesis,
        .block_time_ms = CRASH_BLOCK_MS,
        .store = {.map_bytes = 256 << 10, .scratch = getenv("VD_CRASH_NOSYNC") != NULL}};
    if (vd_chain_open(&c, &config, &err) != VD_OK) {
        fprintf(stderr, "vd_crash_ledger: %s\n", err.msg);
        return 3;
    }
    while (read_full(&n, sizeof n) && n <= sizeof tx && read_full(tx, n))
        while (vd_chain_submit(c, (struct vd_bytes){tx, n}, answer, NULL, &err) == VD_EAGAIN)
            usleep(1000);
    vd_chain_close(c);
    return 0;
}
