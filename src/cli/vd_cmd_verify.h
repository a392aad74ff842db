/* The parts of `veridem verify` to each other. */
#ifndef VD_CMD_VERIFY_H
#define VD_CMD_VERIFY_H

#include "vd_bytes.h"
#include "vd_cli.h"

/* All that is to be done for a file that is a worker's statement (PrefixEnvelope). *is: it is one; else
 * nothing was done. With --json *answer is what it comes to, if it came so far; else it is printed. */
enum vd_err vd_cmd_verify_statement(const struct vd_cli *cli, struct vd_bytes file, bool *is, json_t **answer,
                                    struct vd_error *err);

#endif
