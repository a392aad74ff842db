/* Private to the mask folder: schemas as parts of other rules. What is wrong is remembered, and said once. */
#ifndef VD_SCHEMA_IMPL_H
#define VD_SCHEMA_IMPL_H

#include "vd_rules.h"

#include <jansson.h>

struct schema;

struct schema *vd_schema_new(struct vd_rules *r, struct vd_error *err); /* NULL: no memory */
void vd_schema_free(struct schema *s);                                  /* NULL is allowed */

enum vd_err vd_schema_status(const struct schema *s); /* of all that was read */
void vd_schema_fail(struct schema *s, const char *path, const char *what);

/* The values of a schema that is `root` or a part of it, to which its references lead; both live as long as
 * s. `path`: of the part, for messages. */
vd_expr vd_schema_part(struct schema *s, const json_t *root, const json_t *part, const char *path);
vd_expr vd_schema_any_object(struct schema *s);
vd_expr vd_schema_space(struct schema *s);                 /* what may stand between JSON's parts */
vd_expr vd_schema_text(struct schema *s, const json_t *v); /* this value, as JSON */
vd_expr vd_schema_shared(struct schema *s, const char *name, vd_expr body);

#endif
