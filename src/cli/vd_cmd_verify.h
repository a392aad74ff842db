/* The parts of `veridem verify` to each other. */
#ifndef VD_CMD_VERIFY_H
#define VD_CMD_VERIFY_H

#include "vd_bytes.h"
#include "vd_cli.h"

/* The whole command for a file that is a worker's statement (PrefixEnvelope). *is: it is one; else nothing
 * was done. */
enum vd_err vd_cmd_verify_statement(struct vd_cli *cli, struct vd_bytes file, bool *is, struct vd_error *err);

#endif
