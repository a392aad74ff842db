/* Receipt files, in both forms. */
#ifndef VD_CMD_RECEIPT_H
#define VD_CMD_RECEIPT_H

#include "vd_cli.h"
#include "vd_receipt.h"

enum { VD_RECEIPT_FILE_MAX = 16 << 20 };

/* The bytes of a receipt's file ("-": standard input), with a NUL behind them; free() them. VD_ELIMIT: no
 * receipt is so large. */
enum vd_err vd_cmd_slurp_receipt(uint8_t **out, size_t *n_bytes, const char *path, struct vd_error *err);

/* Reads a receipt's file ("-": standard input), protobuf or JSON. *tokens is what e's pointers name: free()
 * it; NULL on an error. Signatures are not checked. VD_EFORMAT says why it is not a receipt, VD_EFALSE
 * that members of a JSON form were changed. */
enum vd_err vd_cmd_read_receipt(const char *path, struct vd_envelope *e, uint32_t **tokens,
                                struct vd_error *err);

/* The same of bytes that were read already, with a NUL behind them; `path` is for the message. */
enum vd_err vd_cmd_parse_receipt(const char *path, struct vd_bytes file, struct vd_envelope *e,
                                 uint32_t **tokens, struct vd_error *err);

/* `veridem receipt convert`. */
extern const struct vd_cmd vd_cmd_receipt_convert;

#endif
