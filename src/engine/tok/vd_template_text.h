/* JSON of a value, for the filter tojson: as Python's json.dumps(v, ensure_ascii=False, indent=...), on one
 * line if indent is negative. False after an error of the run. */
#ifndef VD_TEMPLATE_TEXT_H
#define VD_TEMPLATE_TEXT_H

#include "vd_template_impl.h"

bool vd_op_json(struct vd_run *r, const struct vd_value *v, int indent, struct vd_str *out);

#endif
