/* JSON of a value, for the filter tojson: as Python's json.dumps. False after an error of the run. */
#ifndef VD_TEMPLATE_TEXT_H
#define VD_TEMPLATE_TEXT_H

#include "vd_template_impl.h"

struct vd_json_style {
    bool lines;                      /* each item on a line of its own, `indent` once per level before it */
    bool ascii;                      /* \u for what is not ASCII */
    bool sort_keys;                  /* maps in the order of their keys */
    struct vd_str indent, item, key; /* item: what stands between items; key: after a key */
};

bool vd_op_json(struct vd_run *r, const struct vd_value *v, const struct vd_json_style *style,
                struct vd_str *out);

#endif
