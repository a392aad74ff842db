/* The values that templates work on: a small immutable tree, built by the caller or by the template.
 *
 * Ownership: a value borrows everything it points to. Strings are UTF-8 bytes with a length; maps keep their
 * order, and have string keys that are all different. Thread rule: pure functions of their arguments. */
#ifndef VD_VALUE_H
#define VD_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum vd_value_type {
    VD_VALUE_UNDEFINED, /* what a missing name or key gives; s is that name, for messages */
    VD_VALUE_NONE,
    VD_VALUE_BOOL,
    VD_VALUE_INT,
    VD_VALUE_FLOAT,
    VD_VALUE_STR,
    VD_VALUE_LIST,
    VD_VALUE_MAP,
    VD_VALUE_NAMESPACE, /* made by templates only: a map whose entries can be set */
    VD_VALUE_LOOP,      /* made by templates only: the variable `loop` */
    VD_VALUE_MACRO,     /* made by templates only */
    VD_VALUE_FUNCTION,  /* made by templates only: the i-th of the functions that there are */
    VD_VALUE_METHOD,    /* made by templates only: a method with the value that it is of */
};

struct vd_str {
    const char *p;
    size_t n;
};

struct vd_value {
    enum vd_value_type type;
    bool is_tuple;  /* a list that Python would show in round brackets */
    bool is_lazy;   /* a list that Python would make while it is read: it has no length and cannot be shown */
    bool is_markup; /* a string that counts as escaped: what is added to it with + is escaped first */
    union {
        bool b;
        int64_t i;
        double f;
        struct vd_str s;
        struct {
            const struct vd_value *p; /* a list's n items; a map's n pairs: key, value, key, value ... */
            size_t n;
        } list;
        struct vd_namespace *ns;
        struct vd_loop *loop;
        const struct vd_macro *macro;
        const struct vd_method *method;
    };
};

static inline struct vd_str vd_str_of(const char *text)
{
    return (struct vd_str){text, strlen(text)};
}
static inline bool vd_str_eq(struct vd_str a, struct vd_str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool vd_str_is(struct vd_str a, const char *text)
{
    return vd_str_eq(a, vd_str_of(text));
}
static inline struct vd_value vd_value_none(void)
{
    return (struct vd_value){.type = VD_VALUE_NONE};
}
static inline struct vd_value vd_value_bool(bool b)
{
    return (struct vd_value){.type = VD_VALUE_BOOL, .b = b};
}
static inline struct vd_value vd_value_int(int64_t i)
{
    return (struct vd_value){.type = VD_VALUE_INT, .i = i};
}
static inline struct vd_value vd_value_float(double f)
{
    return (struct vd_value){.type = VD_VALUE_FLOAT, .f = f};
}
static inline struct vd_value vd_value_str(const char *p, size_t n)
{
    return (struct vd_value){.type = VD_VALUE_STR, .s = {p, n}};
}
static inline struct vd_value vd_value_text(const char *text)
{
    return vd_value_str(text, strlen(text));
}
static inline struct vd_value vd_value_list(const struct vd_value *items, size_t n)
{
    return (struct vd_value){.type = VD_VALUE_LIST, .list = {items, n}};
}
static inline struct vd_value vd_value_map(const struct vd_value *pairs, size_t n)
{
    return (struct vd_value){.type = VD_VALUE_MAP, .list = {pairs, n}};
}

/* The value of a map's key, or NULL. */
const struct vd_value *vd_value_get(const struct vd_value *map, struct vd_str key);

/* "string", "list", ... for messages. */
const char *vd_value_type_name(enum vd_value_type t);

#endif
