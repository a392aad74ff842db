#include "vd_cmd_net.h"

#include "vd_bytes.h"
#include "vd_file.h"
#include "vd_up_ports.h"

#include <string.h>

enum { VD_CONNECT_MS = 4000 }; /* a person waits for it */

enum vd_err vd_cmd_parse_peer(const char *what, const char *text, struct vd_cmd_peer *out,
                              struct vd_error *err)
{
    const char *at = strchr(text, '@');
    struct vd_error why;
    memset(out, 0, sizeof *out);
    if (at) {
        char hex[2 * VD_PUBKEY_BYTES + 1] = "";
        if (at - text == 2 * VD_PUBKEY_BYTES)
            memcpy(hex, text, 2 * VD_PUBKEY_BYTES);
        enum vd_err e = vd_cli_parse_hash("the public key before the @", hex, out->key.b, &why);
        if (e != VD_OK)
            return vd_error_set(
                err, e, "%s %.100s: what stands before the @ must be a public key, 64 hexadecimal digits",
                what, text);
        out->pinned = true;
    }
    enum vd_err e = vd_link_parse_addr(at ? at + 1 : text, out->host, &out->port, &why);
    return e == VD_OK ? VD_OK : vd_error_set(err, e, "%s: %s", what, why.msg);
}

enum vd_err vd_cmd_ledger_peer(const struct vd_cli *cli, struct vd_cmd_peer *out, struct vd_error *err)
{
    const char *text = vd_cli_text(cli, "ledger", NULL);
    char home[VD_PATH_MAX];
    struct vd_ports p;
    if (text)
        return vd_cmd_parse_peer("--ledger", text, out, err);
    enum vd_err e = vd_home_path(home, err, "ledger");
    if (e != VD_OK)
        return e;
    e = vd_ports_read(home, &p, NULL);
    if (e != VD_OK || !p.link)
        return vd_error_set(err, VD_EUSE,
                            "which ledger? Say --ledger host:port (no `veridem up` runs in this home)");
    memset(out, 0, sizeof *out);
    snprintf(out->host, sizeof out->host, "127.0.0.1");
    out->port = p.link;
    out->pinned = true;
    out->key = p.key;
    return VD_OK;
}

enum vd_err vd_cmd_ledger_open(struct vd_ledger_client **out, const struct vd_cli *cli,
                               const struct vd_keypair *key, const struct vd_ledger_client_config *more,
                               struct vd_error *err)
{
    struct vd_cmd_peer peer = {0};
    struct vd_keypair fresh;
    enum vd_err e = vd_cmd_ledger_peer(cli, &peer, err);
    if (e != VD_OK)
        return e;
    if (!key) {
        vd_key_generate(&fresh);
        key = &fresh;
    }
    struct vd_ledger_client_config c = more ? *more : (struct vd_ledger_client_config){0};
    c.key = key;
    c.host = peer.host;
    c.port = peer.port;
    c.ledger_key = peer.pinned ? &peer.key : NULL;
    c.role = VD_ROLE_CLIENT;
    e = vd_ledger_client_start(out, &c, err);
    if (e != VD_OK)
        return e;
    e = vd_ledger_client_wait(*out, VD_CONNECT_MS, err);
    if (e != VD_OK) {
        vd_ledger_client_stop(*out);
        *out = NULL;
    }
    return e;
}

json_t *vd_cmd_json_amount(struct vd_amount a)
{
    return json_integer((json_int_t)a.micro);
}
