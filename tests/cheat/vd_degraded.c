#include "vd_degraded.h"

#include "vd_degrade.h"

#include <stdio.h>

enum vd_err vd_degraded_open(struct vd_cmd_node *n, const struct vd_cli *cli, struct vd_error *err)
{
    char honest_path[VD_PATH_MAX], path[VD_PATH_MAX];
    struct vd_cmd_engine honest = {0};
    const char *name = vd_cli_text(cli, "model", NULL);
    uint32_t layer = 17;
    uint64_t seed = 0;
    size_t n_changed = 0;
    char what[VD_DEGRADE_WHAT_MAX];
    if (!name)
        return vd_error_set(err, VD_EUSE, "which model? Say --model MODEL");
    enum vd_err e = vd_cli_u32(cli, "layer", 0, 255, &layer, err);
    if (e == VD_OK)
        e = vd_cmd_model_path(honest_path, name, err);
    if (e == VD_OK && snprintf(path, sizeof path, "%s/degraded.gguf", n->role.home) >= (int)sizeof path)
        e = vd_error_set(err, VD_ELIMIT, "the home's path is too long");
    if (e == VD_OK)
        e = vd_cli_u64(cli, "tamper", 0, UINT64_MAX, &seed, err);
    if (e == VD_OK && vd_cli_text(cli, "tamper", NULL)) {
        e = vd_degrade_drawn(honest_path, path, seed, what, err);
    } else if (e == VD_OK) {
        e = vd_degrade_layer(honest_path, path, layer, &n_changed, err);
        snprintf(what, sizeof what, "layer %u, %zu bytes of weights changed", layer, n_changed);
    }
    if (e == VD_OK)
        e = vd_cmd_engine_open(&honest, cli, honest_path, err);
    if (e == VD_OK)
        e = vd_model_root(honest.model, honest.pool, &n->root[0], err);
    vd_cmd_engine_close(&honest);
    n->n_models = 1;
    if (e == VD_OK)
        e = vd_cmd_engine_open(&n->engine[0], cli, path, err);
    if (e == VD_OK)
        fprintf(stderr, "degraded: %s\n", what);
    return e;
}
