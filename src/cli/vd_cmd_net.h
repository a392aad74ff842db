/* --ledger ADDR: a link to a ledger for the commands that ask it, and the addresses that roles take. */
#ifndef VD_CMD_NET_H
#define VD_CMD_NET_H

#include "vd_cli.h"
#include "vd_json_hex.h"
#include "vd_key.h"
#include "vd_ledger_client.h"

/* For the table of options of every command that asks a ledger. */
#define VD_CMD_OPTS_LEDGER                                                                                   \
    {                                                                                                        \
        "ledger", 0, "ADDR", "host:port or PUBKEY@host:port (default: the one that `veridem up` runs here)", \
            false                                                                                            \
    }
#define VD_CMD_OPTS_KEY                                                                                      \
    {                                                                                                        \
        "key", 'k', "NAME|FILE", "whose money it is (default: the key \"default\")", false                   \
    }

struct vd_cmd_peer {
    char host[256];
    uint16_t port;
    bool pinned; /* `key` is the only one to accept there */
    struct vd_pubkey key;
};
/* "host:port" or "64 hex digits@host:port". */
enum vd_err vd_cmd_parse_peer(const char *what, const char *text, struct vd_cmd_peer *out,
                              struct vd_error *err);

/* The ledger that --ledger names, or $VERIDEM_HOME/ledger/ports.json. */
enum vd_err vd_cmd_ledger_peer(const struct vd_cli *cli, struct vd_cmd_peer *out, struct vd_error *err);

/* Connects as `key`, or as a client of no account if it is NULL, and waits until the link is up. `more` (may
 * be NULL) gives on_block, arg and from_height. Stop with vd_ledger_client_stop. */
enum vd_err vd_cmd_ledger_open(struct vd_ledger_client **out, const struct vd_cli *cli,
                               const struct vd_keypair *key, const struct vd_ledger_client_config *more,
                               struct vd_error *err);

json_t *vd_cmd_json_amount(struct vd_amount a); /* micro-credits as an integer */

#endif
