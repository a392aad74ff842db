/* What both liars of this folder work with: the honest model's root, and a copy of the model whose layer
 * --layer has weights of lower precision, made in the role's home. */
#ifndef VD_DEGRADED_H
#define VD_DEGRADED_H

#include "vd_cmd_node.h"

#define VD_DEGRADED_OPTS                                                                                     \
    {"layer", 0, "N", "the layer of lower precision (default 17)", false},                                   \
    {                                                                                                        \
        "tamper", 0, "SEED", "or a tensor, and what is done to it, drawn from a seed", false                 \
    }

/* `open` of a liar: takes --model, and --layer (default 17) or --tamper (vd_degrade_drawn's seed) of the
 * command line. */
enum vd_err vd_degraded_open(struct vd_cmd_node *n, const struct vd_cli *cli, struct vd_error *err);

#endif
