/* The JSON form of a receipt with what it hides: for people, and for programs that have no protobuf. Its
 * schema is docs/spec/receipt.schema.json. Both forms hold the same: from JSON the signed bytes are made
 * again (the encoding is canonical), so a changed field is a bad signature.
 *
 * Reading is as strict as the schema: no other members, none twice, none missing that is required, nothing
 * behind the object. Hashes, keys, signatures and tables are hexadecimal digits in lower case. Whole numbers
 * are JSON integers without fraction or exponent; those of 64 bits may also be decimal strings, and are from
 * 2^53 on, since many readers keep no more; the seed always is written as one.
 *
 * Thread rule: pure functions. */
#ifndef VD_RECEIPT_JSON_H
#define VD_RECEIPT_JSON_H

#include "vd_err.h"
#include "vd_receipt.h"

#include <jansson.h>

/* The object; NULL if memory ran out. `r` is what e->receipt's body decodes to. Members that are nothing to
 * verification ("status", "created") are the caller's to add; readers look at their form only. */
json_t *vd_receipt_to_json(const struct vd_envelope *e, const struct vd_receipt *r);

/* Reads the form above. *tokens is what e's pointers name: free() it. VD_EFORMAT names the member that is
 * missing, wrong or unknown; VD_ELIMIT: more than VD_JOB_MAX_TOKENS tokens; VD_EFALSE: they are all there,
 * and one of them was changed, since "id" is not their hash. Signatures are not checked (vd_envelope_check).
 */
enum vd_err vd_receipt_from_json(const char *text, size_t n_bytes, struct vd_envelope *e, uint32_t **tokens,
                                 struct vd_error *err);

#endif
