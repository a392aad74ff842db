/* Every command of veridem, in the order in which the help lists them: groups stand together. */
#include "vd_cmd.h"

const struct vd_cmd *const vd_cmd_list[] = {
    &vd_cmd_key,
    NULL,
};
