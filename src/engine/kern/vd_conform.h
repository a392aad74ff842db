/* The conformance vectors of an arithmetic version, as text (tests/data/arithmetic-1.txt): for tests only.
 *
 * A case is a line "= OPERATOR", then one line per field "NAME KIND DATA", then an empty line. Kinds: f
 * binary32 as their bits, 8 hex digits each, without spaces; b bytes, two hex digits each; u decimal integers
 * with spaces between. "NAME @ OTHER" stands for the field OTHER of the last case that is called "array".
 * Lines that begin with # are not read. Every NaN is 7fc00000.
 *
 * Memory: a case owns its fields; conform_clear frees them. */
#ifndef VD_CONFORM_H
#define VD_CONFORM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vd_bytes.h"

enum { CONFORM_FIELDS = 24, CONFORM_NAME = 24, CONFORM_LINE = 1 << 18 };

struct conform_field {
    char name[CONFORM_NAME], same_as[CONFORM_NAME]; /* same_as: written as "@" */
    char kind;
    size_t n; /* elements */
    union {
        float *f;
        uint8_t *b;
        uint64_t *u;
        void *p;
    };
};

struct conform_case {
    char op[CONFORM_NAME];
    size_t n_fields;
    struct conform_field field[CONFORM_FIELDS];
    const struct conform_case *arrays; /* where "@" looks */
    const char *table;                 /* being checked */
    bool writing;                      /* results are added, not compared */
};

static inline size_t conform_size(char kind)
{
    return kind == 'f' ? sizeof(float) : kind == 'u' ? sizeof(uint64_t) : 1;
}

static inline void conform_clear(struct conform_case *c)
{
    for (size_t i = 0; i < c->n_fields; i++)
        free(c->field[i].p);
    c->n_fields = 0;
}

static inline struct conform_field *conform_find(const struct conform_case *c, const char *name)
{
    for (size_t i = 0; i < c->n_fields; i++)
        if (strcmp(c->field[i].name, name) == 0)
            return (struct conform_field *)&c->field[i];
    return NULL;
}

static inline struct conform_field *conform_add(struct conform_case *c, const char *name, char kind,
                                                const void *data, size_t n)
{
    assert_true(c->n_fields < CONFORM_FIELDS);
    struct conform_field *f = &c->field[c->n_fields++];
    *f = (struct conform_field){.kind = kind, .n = n, .p = malloc(n * conform_size(kind) + 64)};
    assert_non_null(f->p);
    snprintf(f->name, sizeof f->name, "%s", name);
    if (data)
        memcpy(f->p, data, n * conform_size(kind));
    return f;
}

static inline void conform_add_u(struct conform_case *c, const char *name, uint64_t v)
{
    conform_add(c, name, 'u', &v, 1);
}

static inline void conform_add_f(struct conform_case *c, const char *name, float v)
{
    conform_add(c, name, 'f', &v, 1);
}

/* The field of the arrays. */
static inline void conform_add_ref(struct conform_case *c, const char *name, const char *array)
{
    const struct conform_field *a = conform_find(c->arrays, array);
    assert_non_null(a);
    struct conform_field *f = conform_add(c, name, a->kind, a->p, a->n);
    snprintf(f->same_as, sizeof f->same_as, "%s", array);
}

/* ---- what an operator reads and says ---- */

static inline const struct conform_field *conform_in(const struct conform_case *c, const char *name,
                                                     char kind)
{
    const struct conform_field *f = conform_find(c, name);
    if (!f || f->kind != kind)
        fail_msg("%s: field %s is missing", c->op, name);
    return f;
}

static inline float conform_in_f(const struct conform_case *c, const char *name)
{
    return conform_in(c, name, 'f')->f[0];
}

static inline uint64_t conform_in_u(const struct conform_case *c, const char *name)
{
    return conform_in(c, name, 'u')->u[0];
}

static inline void conform_out(struct conform_case *c, const char *name, char kind, const void *data,
                               size_t n)
{
    if (c->writing) {
        conform_add(c, name, kind, data, n);
        return;
    }
    const struct conform_field *f = conform_in(c, name, kind);
    if (f->n != n)
        fail_msg("%s, %s: %zu elements of %s, recorded %zu", c->table, c->op, n, name, f->n);
    for (size_t i = 0; i < n; i++) {
        const float *x = data;
        bool both_nan = kind == 'f' && isnan(x[i]) && isnan(f->f[i]); /* its bits are free */
        size_t size = conform_size(kind);
        if (!both_nan && memcmp((const char *)data + i * size, (const char *)f->p + i * size, size) != 0)
            fail_msg("%s, %s: element %zu of %s is not the recorded one", c->table, c->op, i, name);
    }
}

/* ---- text ---- */

static inline void conform_write(FILE *out, const struct conform_case *c)
{
    fprintf(out, "= %s\n", c->op);
    for (size_t i = 0; i < c->n_fields; i++) {
        const struct conform_field *f = &c->field[i];
        if (f->same_as[0]) {
            fprintf(out, "%s @ %s\n", f->name, f->same_as);
            continue;
        }
        fprintf(out, "%s %c ", f->name, f->kind);
        for (size_t k = 0; k < f->n; k++)
            if (f->kind == 'f')
                fprintf(out, "%08" PRIx32, isnan(f->f[k]) ? 0x7FC00000 : vd_f32_bits(f->f[k]));
            else if (f->kind == 'b')
                fprintf(out, "%02x", f->b[k]);
            else
                fprintf(out, "%s%" PRIu64, k ? " " : "", f->u[k]);
        putc('\n', out);
    }
    putc('\n', out);
}

static inline uint32_t conform_hex(const char *at, int n)
{
    char digits[9] = "";
    memcpy(digits, at, (size_t)n);
    return (uint32_t)strtoul(digits, NULL, 16);
}

static inline void conform_parse_field(struct conform_case *c, char *line)
{
    char name[CONFORM_NAME], kind, *data;
    int used = 0;
    if (sscanf(line, "%23s %c %n", name, &kind, &used) != 2)
        fail_msg("%s: a line is no field: %.40s", c->op, line);
    data = line + used;
    if (kind == '@') {
        conform_add_ref(c, name, data);
        return;
    }
    size_t len = strlen(data), n = kind == 'f' ? len / 8 : len / 2;
    struct conform_field *f = conform_add(c, name, kind, NULL, kind == 'u' ? len : n);
    for (size_t i = 0; kind == 'f' && i < n; i++)
        f->f[i] = vd_f32_from_bits(conform_hex(data + 8 * i, 8));
    for (size_t i = 0; kind == 'b' && i < n; i++)
        f->b[i] = (uint8_t)conform_hex(data + 2 * i, 2);
    for (f->n = kind == 'u' ? 0 : n; kind == 'u' && *data; data += *data == ' ')
        f->u[f->n++] = strtoull(data, &data, 10);
}

/* The next case; false at the end. `line` has CONFORM_LINE bytes. */
static inline bool conform_read(FILE *in, struct conform_case *c, char *line)
{
    c->op[0] = 0;
    while (fgets(line, CONFORM_LINE, in)) {
        size_t n = strcspn(line, "\n");
        assert_true(line[n] == '\n');
        line[n] = 0;
        if (line[0] == '#')
            continue;
        if (n == 0 && c->op[0])
            return true;
        if (line[0] == '=')
            snprintf(c->op, sizeof c->op, "%.23s", line + 2);
        else if (n)
            conform_parse_field(c, line);
    }
    return false;
}

#endif
