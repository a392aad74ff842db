/* veridem key: make and show the key that names an account or a role. */
#include "vd_cmd.h"

#include "vd_bytes.h"
#include "vd_file.h"
#include "vd_key.h"

#include <string.h>
#include <unistd.h>

static enum vd_err vd_key_path(char out[VD_PATH_MAX], const char *name, struct vd_error *err)
{
    if (strchr(name, '/'))
        return snprintf(out, VD_PATH_MAX, "%s", name) < VD_PATH_MAX
                   ? VD_OK
                   : vd_error_set(err, VD_ELIMIT, "the path of the key has more than %d bytes",
                                  VD_PATH_MAX - 1);
    return vd_home_path(out, err, "keys/%s.key", name);
}

enum vd_err vd_cmd_load_key(struct vd_keypair *out, const char *name, bool create, struct vd_error *err)
{
    char path[VD_PATH_MAX], dir[VD_PATH_MAX];
    enum vd_err e = vd_key_path(path, name, err);
    if (e == VD_OK && create) {
        memcpy(dir, path, sizeof dir);
        *strrchr(dir, '/') = 0;
        e = dir[0] ? vd_dir_make(dir, err) : VD_OK;
    }
    if (e == VD_OK)
        e = vd_key_load(out, path, create, err);
    if (e == VD_ENOTFOUND && !create)
        return vd_error_set(err, e, "there is no key %.200s; `veridem key new%s%.100s` makes one", path,
                            strcmp(name, "default") == 0 ? "" : " ",
                            strcmp(name, "default") == 0 ? "" : name);
    return e;
}

static enum vd_err vd_key_print(struct vd_cli *cli, const char *name, struct vd_keypair *k,
                                struct vd_error *err)
{
    char hex[65], path[VD_PATH_MAX];
    vd_hex_encode(hex, k->pub.b, sizeof k->pub.b);
    vd_key_wipe(k);
    enum vd_err e = vd_key_path(path, name, err);
    if (e != VD_OK)
        return e;
    if (cli->json)
        vd_cli_json(cli, json_pack("{s:s,s:s}", "key", hex, "file", path));
    else
        fprintf(cli->out, "%s\n", hex);
    return VD_OK;
}

static enum vd_err vd_key_new(struct vd_cli *cli, struct vd_error *err)
{
    char path[VD_PATH_MAX];
    struct vd_keypair k;
    const char *name = cli->n_args ? cli->arg[0] : "default";
    enum vd_err e = vd_key_path(path, name, err);
    if (e == VD_OK && access(path, F_OK) == 0)
        return vd_error_set(err, VD_ECONFLICT, "%s exists and stays as it is; name another key", path);
    if (e == VD_OK)
        e = vd_cmd_load_key(&k, name, true, err);
    if (e == VD_OK && !cli->json)
        fprintf(stderr, "the secret is in %s\n", path);
    return e == VD_OK ? vd_key_print(cli, name, &k, err) : e;
}

static enum vd_err vd_key_show(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_keypair k;
    const char *name = cli->n_args ? cli->arg[0] : "default";
    enum vd_err e = vd_cmd_load_key(&k, name, false, err);
    return e == VD_OK ? vd_key_print(cli, name, &k, err) : e;
}

static const struct vd_cmd vd_cmd_key_new = {
    .name = "new",
    .usage = "[NAME|FILE]",
    .summary = "make a key that does not exist yet",
    .help =
        "Writes a new Ed25519 secret to $VERIDEM_HOME/keys/NAME.key (NAME: default), readable by its owner "
        "only,\n"
        "or to FILE when the argument holds a slash, and prints the public key: the name of the account.\n"
        "Whoever has the file has the money. Keep a copy; there is no other way back.",
    .max_args = 1,
    .run = vd_key_new,
};
static const struct vd_cmd vd_cmd_key_show = {
    .name = "show",
    .usage = "[NAME|FILE]",
    .summary = "print the public key",
    .help =
        "Nothing else, so that K=$(veridem key show role) works; --json also names the file. The secret is "
        "never printed. A key file that others can read is refused; `chmod 600` mends it.",
    .max_args = 1,
    .run = vd_key_show,
};
static const struct vd_cmd *const vd_cmd_key_sub[] = {&vd_cmd_key_new, &vd_cmd_key_show, NULL};

const struct vd_cmd vd_cmd_key = {
    .name = "key",
    .group = "Money and history",
    .usage = "",
    .summary = "make and show keys",
    .help = "A key names an account, a role and its end of every encrypted link.",
    .sub = vd_cmd_key_sub,
};
