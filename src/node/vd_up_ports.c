#include "vd_up_ports.h"

#include "vd_bytes.h"
#include "vd_file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VD_PORTS_FILE_MAX = 4096 };

static enum vd_err vd_ports_path(char out[VD_PATH_MAX], const char *home, struct vd_error *err)
{
    if (snprintf(out, VD_PATH_MAX, "%s/ports.json", home) >= VD_PATH_MAX)
        return vd_error_set(err, VD_ELIMIT, "the home folder's path has more than %d bytes",
                            VD_PATH_MAX - 12);
    return VD_OK;
}

enum vd_err vd_ports_write(const char *home, const struct vd_ports *p, struct vd_error *err)
{
    char path[VD_PATH_MAX], hex[2 * VD_PUBKEY_BYTES + 1];
    enum vd_err e = vd_ports_path(path, home, err);
    if (e != VD_OK)
        return e;
    vd_hex_encode(hex, p->key.b, VD_PUBKEY_BYTES);
    json_t *v = json_pack("{s:I,s:s,s:s}", "pid", (json_int_t)p->pid, "role", p->role, "key", hex);
    if (p->http)
        json_object_set_new(v, "http", json_integer(p->http));
    if (p->link)
        json_object_set_new(v, "link", json_integer(p->link));
    char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
    json_decref(v);
    if (!text)
        return vd_error_set(err, VD_ENOMEM, "%s: no memory to write it", path);
    e = vd_file_write_atomic(path, text, strlen(text), 0600, err);
    free(text);
    return e;
}

enum vd_err vd_ports_read(const char *home, struct vd_ports *p, struct vd_error *err)
{
    char path[VD_PATH_MAX];
    uint8_t *text;
    size_t n;
    json_int_t pid, http = 0, link = 0;
    const char *key, *role;
    enum vd_err e = vd_ports_path(path, home, err);
    if (e == VD_OK)
        e = vd_file_read(&text, &n, path, VD_PORTS_FILE_MAX, err);
    if (e != VD_OK)
        return e;
    json_t *v = json_loadb((const char *)text, n, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    memset(p, 0, sizeof *p);
    bool ok = v &&
              json_unpack(v, "{s:I,s:s,s:s,s?I,s?I}", "pid", &pid, "role", &role, "key", &key, "http", &http,
                          "link", &link) == 0 &&
              pid > 0 && http >= 0 && http <= 65535 && link >= 0 && link <= 65535 &&
              strlen(role) < sizeof p->role && vd_hex_decode(p->key.b, VD_PUBKEY_BYTES, key);
    if (ok) {
        p->pid = pid;
        memcpy(p->role, role, strlen(role) + 1);
        p->http = (uint16_t)http;
        p->link = (uint16_t)link;
    }
    json_decref(v);
    return ok ? VD_OK
              : vd_error_set(err, VD_EFORMAT, "%s is damaged; start the role again, which writes it anew",
                             path);
}

void vd_ports_remove(const char *home)
{
    char path[VD_PATH_MAX];
    if (vd_ports_path(path, home, NULL) == VD_OK)
        unlink(path);
}
