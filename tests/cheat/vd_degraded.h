/* What both liars of this folder work with: the honest model's root, and a copy of the model whose layer
 * --layer has weights of lower precision, made in the role's home. */
#ifndef VD_DEGRADED_H
#define VD_DEGRADED_H

#include "vd_cmd_load.h"

/* Takes --model, and --layer (default 17) or --tamper (vd_degrade_drawn's seed) of the command line. Close
 * *out by vd_cmd_engine_close, also after a failure. */
enum vd_err vd_degraded_open(struct vd_cmd_engine *out, struct vd_hash *honest_root, const struct vd_cli *cli,
                             const char *home, struct vd_error *err);

#endif
