/* Files written as one line of text each, so that what is wrong with one can be read:
 *   'xyz'   bytes       1:n 2:n 4:n 8:n   an integer of that many bytes, little-endian
 *   s:xyz   a string (u64 length, bytes)  z:n   n zero bytes       pad   zeros to the next multiple of 32
 * `vd_gguf_test --corpus DIR` writes them all, as the fuzz target's seeds. */
#include "vd_bytes.h"
#include "vd_file.h"
#include "vd_gguf.h"
#include "vd_gguf_write.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum { FILE_MAX = 4096 };

struct file {
    uint8_t p[FILE_MAX];
    size_t n;
};

static void put_int(struct file *f, int size, uint64_t v)
{
    for (int i = 0; i < size; i++)
        f->p[f->n++] = (uint8_t)(v >> 8 * i);
}

static struct file assemble(const char *text)
{
    struct file f = {.n = 0};
    char copy[1024];
    assert_true(strlen(text) < sizeof copy);
    strcpy(copy, text);
    for (char *save, *t = strtok_r(copy, " ", &save); t; t = strtok_r(NULL, " ", &save)) {
        size_t n = strlen(t);
        assert_true(f.n + n + 600 < FILE_MAX);
        if (t[0] == '\'') {
            memcpy(f.p + f.n, t + 1, n - 2);
            f.n += n - 2;
        } else if (t[0] == 's') {
            put_int(&f, 8, n - 2);
            memcpy(f.p + f.n, t + 2, n - 2);
            f.n += n - 2;
        } else if (t[0] == 'z') {
            f.n += strtoul(t + 2, NULL, 10);
        } else if (t[0] == 'p') {
            f.n = (f.n + 31) & ~(size_t)31;
        } else {
            put_int(&f, t[0] - '0', strtoull(t + 2, NULL, 0));
        }
    }
    return f;
}

/* One tensor w of 8 F32, one key a = 7, one array of strings t = [x, yz]. */
#define HEAD   "'GGUF' 4:3 8:1 8:2 "
#define KEYS   "s:a 4:4 4:7 s:t 4:9 4:8 8:2 s:x s:yz "
#define TENSOR "s:w 4:1 8:8 4:0 8:0 "
#define ONE    "'GGUF' 4:3 8:1 8:0 " /* no keys, then one tensor */
#define KEY    "'GGUF' 4:3 8:0 8:1 " /* no tensors, then one key */
#define X16    "xxxxxxxxxxxxxxxx"

static const struct bad_file {
    const char *name, *text;
    enum vd_err code;
    const char *message;
} bad_files[] = {
    {"empty", "", VD_EFORMAT, "not a GGUF file: it has 0 bytes"},
    {"short", "'GGU'", VD_EFORMAT, "it has 3 bytes"},
    {"zip", "'PK' 1:3 1:4 z:40", VD_EFORMAT, "starts with 50 4b 03 04, not with GGUF"},
    {"no-version", "'GGUF' 1:3", VD_EFORMAT,
     "ends inside the version: 4 bytes needed at offset 4, 1 there, 3 missing"},
    {"version-1", "'GGUF' 4:1 4:0 4:0", VD_EUNSUPPORTED, "GGUF version 1, which is not supported"},
    {"version-4", "'GGUF' 4:4 8:0 8:0", VD_EUNSUPPORTED,
     "GGUF version 4 is unknown; versions 2 and 3 are read"},
    {"version-0", "'GGUF' 4:0 8:0 8:0", VD_EUNSUPPORTED, "GGUF version 0 is unknown"},
    {"big-endian", "'GGUF' 4:0x03000000 8:0 8:0", VD_EUNSUPPORTED, "a big-endian GGUF file; convert it"},
    {"big-endian-magic", "'FUGG' 4:3 8:0 8:0", VD_EUNSUPPORTED, "a big-endian GGUF file"},
    {"no-counts", "'GGUF' 4:3 8:0", VD_EFORMAT,
     "ends inside the header: 8 bytes needed at offset 16, 0 there"},
    {"keys-lie", "'GGUF' 4:3 8:0 8:0x1000000000000000 z:64", VD_EFORMAT,
     "1152921504606846976 keys are announced, but the file has only 64 bytes left"},
    {"tensors-lie", "'GGUF' 4:3 8:0xffffffffffffffff 8:0 z:64", VD_EFORMAT,
     "18446744073709551615 tensors are announced, but the file has only 64 bytes left"},
    {"key-empty", KEY "8:0 4:4 4:7", VD_EFORMAT, "key 0 has an empty name"},
    {"key-length-lies", KEY "8:0xffffffffffffffff 'a' 4:4 4:7", VD_EFORMAT,
     "ends inside key 0: 18446744073709551615 bytes needed at offset 32, 9 there"},
    {"key-nul", KEY "8:2 'a' 1:0 4:4 4:7", VD_EFORMAT, "key 0, a?, has a NUL in its name"},
    {"key-type-cut", KEY "s:abcdefg 1:4", VD_EFORMAT, "ends inside the type of a key"},
    {"key-type-unknown", KEY "s:a 4:13 4:7", VD_EFORMAT, "key a has the unknown value type 13"},
    {"key-value-cut", KEY "s:abc 4:10 4:7", VD_EFORMAT,
     "key abc: 1 values of type u64 do not fit in the 4 bytes that are left of the file"},
    {"key-twice", "'GGUF' 4:3 8:0 8:3 s:a 4:4 4:7 s:b 4:4 4:7 s:a 4:5 4:7", VD_EFORMAT,
     "key a is there twice"},
    {"bool-2", KEY "s:flag 4:7 1:2", VD_EFORMAT, "key flag: a bool has the value 2; 0 and 1 are allowed"},
    {"bool-array-9", KEY "s:flag 4:9 4:7 8:2 1:0 1:9", VD_EFORMAT, "key flag: a bool has the value 9"},
    {"string-cut", KEY "s:a 4:8 8:4 'xyz'", VD_EFORMAT, "ends inside the value of key a: 4 bytes needed"},
    {"array-of-arrays", KEY "s:a 4:9 4:9 8:1 4:4 8:0", VD_EUNSUPPORTED, "key a is an array of arrays"},
    {"array-type-unknown", KEY "s:a 4:9 4:77 8:1 4:4", VD_EFORMAT,
     "key a is an array of the unknown value type 77"},
    {"array-length-lies", KEY "s:a 4:9 4:4 8:0x4000000000000000 4:1", VD_EFORMAT,
     "key a: 4611686018427387904 values of type u32 do not fit in the 4 bytes"},
    {"array-strings-lie", KEY "s:a 4:9 4:8 8:9 s:x s:y", VD_EFORMAT,
     "key a: 9 values of type string do not fit in the 18 bytes"},
    {"array-string-cut", KEY "s:a 4:9 4:8 8:2 s:x 8:9 'y'", VD_EFORMAT,
     "ends inside the value of key a: 9 bytes needed"},
    {"array-length-cut", KEY "s:a 4:9 4:8 4:0", VD_EFORMAT, "ends inside the length of an array"},
    {"alignment-string", KEY "s:general.alignment 4:8 s:x", VD_EFORMAT,
     "the key general.alignment is of type string; an integer is wanted"},
    {"alignment-0", KEY "s:general.alignment 4:4 4:0", VD_EFORMAT, "general.alignment is 0; a power of two"},
    {"alignment-24", KEY "s:general.alignment 4:4 4:24", VD_EFORMAT,
     "general.alignment is 24; a power of two"},
    {"alignment-huge", KEY "s:general.alignment 4:4 4:0x80000000", VD_EFORMAT,
     "is 2147483648; a power of two up to"},
    {"alignment-negative", KEY "s:general.alignment 4:5 4:0xffffffe0", VD_EFORMAT,
     "general.alignment is -32; 0 to"},
    {"name-empty", ONE "8:0 4:1 8:8 4:0 8:0 pad z:64", VD_EFORMAT, "tensor 0 has an empty name"},
    {"name-65", ONE "s:" X16 X16 X16 X16 "y 4:1 8:8 4:0 8:0 pad z:32", VD_EFORMAT,
     "has a name of 65 bytes; at most 64"},
    {"name-control", ONE "8:3 'a' 1:27 'b' 4:0 8:8 4:0 8:0 pad z:32", VD_EFORMAT,
     "tensor a?b has 0 dimensions"},
    {"dims-5", ONE "s:w 4:5 8:1 8:1 8:1 8:1 8:1 4:0 8:0 pad z:32", VD_EFORMAT,
     "tensor w has 5 dimensions; 1 to 4"},
    {"dim-0", ONE "s:w 4:2 8:8 8:0 4:0 8:0 pad z:32", VD_EFORMAT, "tensor w: dimension 1 is 0"},
    {"dims-overflow", ONE "s:w 4:3 8:0x100000000 8:0x100000000 8:4 4:0 8:0 pad z:32", VD_EFORMAT,
     "tensor w: the product of its dimensions overflows at 4294967296"},
    {"bytes-overflow", ONE "s:w 4:1 8:0x7fffffffffffff00 4:28 8:0 pad z:32", VD_EFORMAT,
     "tensor w: its size in bytes overflows"},
    {"type-unknown", ONE "s:w 4:1 8:8 4:99 8:0 pad z:32", VD_EUNSUPPORTED,
     "tensor w has the unknown type 99"},
    {"type-removed", ONE "s:w 4:1 8:32 4:31 8:0 pad z:32", VD_EUNSUPPORTED,
     "tensor w has type 31 (Q4_0_4_4), which was removed from the format"},
    {"row-not-blocks", ONE "s:w 4:1 8:33 4:3 8:0 pad z:64", VD_EFORMAT,
     "tensor w: a row of 33 elements is not a multiple of the 32 in a block of type Q4_1"},
    {"info-cut", ONE "s:wwwwwwww 4:1 8:8 4:0 4:0", VD_EFORMAT,
     "ends inside a tensor's offset: 8 bytes needed"},
    {"offset-unaligned", ONE "s:w 4:1 8:8 4:0 8:8 pad z:64", VD_EFORMAT,
     "tensor w: its offset 8 is not a multiple of the alignment 32"},
    {"offset-overflow", ONE "s:w 4:1 8:8 4:0 8:0x7fffffffffffffe0 pad z:32", VD_EFORMAT,
     "tensor w: its offset 9223372036854775776 overflows"},
    {"offset-beyond", ONE "s:w 4:1 8:8 4:0 8:4096 pad z:32", VD_EFORMAT,
     "the file has 96 bytes, its tensors need 4192: 4096 are missing; fetch the file again"},
    {"data-cut", HEAD KEYS TENSOR "pad z:31", VD_EFORMAT,
     "the file has 159 bytes, its tensors need 160: 1 are missing"},
    {"data-missing", HEAD KEYS TENSOR, VD_EFORMAT, "42 are missing"},
    {"tensor-twice", "'GGUF' 4:3 8:2 8:0 " TENSOR "s:w 4:1 8:8 4:0 8:32 pad z:64", VD_EFORMAT,
     "tensor w is there twice"},
    {"tensors-overlap", "'GGUF' 4:3 8:2 8:0 s:v 4:1 8:9 4:0 8:0 s:w 4:1 8:8 4:0 8:32 pad z:64", VD_EFORMAT,
     "tensors v and w overlap at offset"},
};

static const char *const good_files[][2] = {
    {"good", HEAD KEYS TENSOR "pad z:32"},
    {"good-v2", "'GGUF' 4:2 8:1 8:0 " TENSOR "pad z:32"},
    {"good-nothing", "'GGUF' 4:3 8:0 8:0"},
    {"good-types",
     "'GGUF' 4:3 8:2 8:14 s:a 4:0 1:255 s:b 4:1 1:254 s:c 4:2 2:65535 s:d 4:3 2:65535 s:e 4:4 4:9 "
     "s:f 4:5 4:0xffffffff s:g 4:6 4:0x3f800000 s:h 4:7 1:1 s:i 4:8 s:text s:j 4:10 8:0xffffffffffffffff "
     "s:k 4:11 8:0xffffffffffffffff s:l 4:12 8:0x3ff0000000000000 s:m 4:9 4:6 8:2 4:0 4:0x40000000 "
     "s:general.alignment 4:4 4:8 s:x 4:4 8:32 8:2 8:1 8:1 4:3 8:0 s:y 4:1 8:1 4:24 8:40 z:44"},
};

/* On the heap and of the exact size, so that a sanitizer sees a read past the end. */
static enum vd_err open_text(struct vd_gguf **g, uint8_t **copy, const char *text, struct vd_error *err)
{
    struct file f = assemble(text);
    *copy = malloc(f.n ? f.n : 1);
    memcpy(*copy, f.p, f.n);
    return vd_gguf_open(g, *copy, f.n, "m.gguf", err);
}

static void test_bad_files(void **state)
{
    (void)state;
    size_t n = sizeof bad_files / sizeof bad_files[0];
    assert_true(n >= 40);
    for (size_t i = 0; i < n; i++) {
        struct vd_gguf *g;
        uint8_t *copy;
        struct vd_error err = {0};
        enum vd_err e = open_text(&g, &copy, bad_files[i].text, &err);
        if (e != bad_files[i].code || !strstr(err.msg, bad_files[i].message) ||
            strncmp(err.msg, "m.gguf: ", 8) != 0)
            fail_msg("%s: %s \"%s\"", bad_files[i].name, vd_err_name(e), err.msg);
        assert_null(g);
        free(copy);
    }
}

static void test_good_file(void **state)
{
    (void)state;
    struct vd_gguf *g;
    uint8_t *copy;
    struct vd_error err = {0};
    assert_int_equal(open_text(&g, &copy, good_files[0][1], &err), VD_OK);
    assert_int_equal(vd_gguf_alignment(g), 32);
    assert_int_equal(vd_gguf_kv_count(g), 2);
    assert_int_equal(vd_gguf_tensor_count(g), 1);
    const struct vd_gguf_tensor *t = vd_gguf_tensor_find(g, "w");
    assert_non_null(t);
    assert_ptr_equal(t, vd_gguf_tensor_at(g, 0));
    assert_string_equal(t->type->name, "F32");
    assert_int_equal(t->n_bytes, 32);
    assert_int_equal(t->offset_bytes, 128);
    assert_ptr_equal(t->p, copy + 128);
    assert_null(vd_gguf_tensor_find(g, "v"));
    assert_null(vd_gguf_tensor_find(g, "ww"));
    assert_null(vd_gguf_tensor_find(g, ""));
    struct vd_gguf_array a;
    struct vd_gguf_str s;
    size_t at = 0;
    assert_int_equal(vd_gguf_get_array(g, "t", VD_GGUF_REQUIRED, VD_GGUF_STRING, &a, &err), VD_OK);
    assert_int_equal(a.n, 2);
    assert_true(vd_gguf_array_next_str(&a, &at, &s) && vd_gguf_str_eq(s, "x"));
    assert_true(vd_gguf_array_next_str(&a, &at, &s) && vd_gguf_str_eq(s, "yz"));
    assert_false(vd_gguf_array_next_str(&a, &at, &s));
    vd_gguf_close(g);
    free(copy);
    for (size_t i = 1; i < sizeof good_files / sizeof good_files[0]; i++) {
        if (open_text(&g, &copy, good_files[i][1], &err))
            fail_msg("%s: %s", good_files[i][0], err.msg);
        vd_gguf_close(g);
        free(copy);
    }
}

static void test_getters(void **state)
{
    (void)state;
    struct vd_gguf *g;
    uint8_t *copy;
    struct vd_error err = {0};
    assert_int_equal(open_text(&g, &copy, good_files[3][1], &err), VD_OK);
    static const struct {
        const char *key;
        uint64_t max;
        enum vd_err e;
        uint64_t v;
    } ints[] = {
        {"a", 255, VD_OK, 255},           {"a", 254, VD_EFORMAT, 0}, {"b", 255, VD_EFORMAT, 0},
        {"c", UINT32_MAX, VD_OK, 65535},  {"d", 9, VD_EFORMAT, 0},   {"e", 9, VD_OK, 9},
        {"f", 9, VD_EFORMAT, 0},          {"g", 9, VD_EFORMAT, 0},   {"h", 9, VD_EFORMAT, 0},
        {"i", 9, VD_EFORMAT, 0},          {"j", 9, VD_EFORMAT, 0},   {"j", UINT64_MAX, VD_OK, UINT64_MAX},
        {"k", UINT64_MAX, VD_EFORMAT, 0}, {"m", 9, VD_EFORMAT, 0},   {"none", 9, VD_ENOTFOUND, 0},
    };
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        uint64_t v = 1234;
        assert_int_equal(vd_gguf_get_u64(g, ints[i].key, VD_GGUF_REQUIRED, ints[i].max, &v, &err), ints[i].e);
        assert_true(v == (ints[i].e ? 1234 : ints[i].v));
    }
    uint32_t u = 77;
    assert_int_equal(vd_gguf_get_u32(g, "none", VD_GGUF_OPTIONAL, 9, &u, &err), VD_OK);
    assert_int_equal(u, 77);
    assert_int_equal(vd_gguf_get_u32(g, "i", VD_GGUF_OPTIONAL, 9, &u, &err), VD_EFORMAT);
    assert_string_equal(err.msg, "m.gguf: the key i is of type string; an integer is wanted");
    assert_int_equal(vd_gguf_get_u32(g, "b", VD_GGUF_OPTIONAL, 9, &u, &err), VD_EFORMAT);
    assert_string_equal(err.msg, "m.gguf: the key b is -2; 0 to 9 is allowed");
    float f = 0;
    bool b = false;
    struct vd_gguf_str s;
    struct vd_gguf_array a;
    assert_int_equal(vd_gguf_get_f32(g, "g", VD_GGUF_REQUIRED, &f, &err), VD_OK);
    assert_true(f == 1.0f);
    assert_int_equal(vd_gguf_get_f32(g, "l", VD_GGUF_REQUIRED, &f, &err), VD_OK);
    assert_int_equal(vd_gguf_get_f32(g, "e", VD_GGUF_REQUIRED, &f, &err), VD_EFORMAT);
    assert_int_equal(vd_gguf_get_bool(g, "h", VD_GGUF_REQUIRED, &b, &err), VD_OK);
    assert_true(b);
    assert_int_equal(vd_gguf_get_str(g, "i", VD_GGUF_REQUIRED, &s, &err), VD_OK);
    assert_true(vd_gguf_str_eq(s, "text"));
    assert_int_equal(vd_gguf_get_array(g, "m", VD_GGUF_REQUIRED, VD_GGUF_F32, &a, &err), VD_OK);
    assert_true(a.n == 2 && vd_gguf_array_float(&a, 1) == 2.0);
    assert_int_equal(vd_gguf_get_array(g, "m", VD_GGUF_REQUIRED, VD_GGUF_I32, &a, &err), VD_EFORMAT);
    assert_string_equal(err.msg, "m.gguf: the key m is an array of f32; an array of i32 is wanted");
    vd_gguf_close(g);
    free(copy);
}

/* Every prefix of a good file is an error, never a crash, and never opens. */
static void test_every_prefix(void **state)
{
    (void)state;
    struct file f = assemble(good_files[3][1]);
    for (size_t n = 0; n < f.n; n++) {
        uint8_t *copy = malloc(n ? n : 1);
        memcpy(copy, f.p, n);
        struct vd_gguf *g;
        enum vd_err e = vd_gguf_open(&g, copy, n, "m.gguf", NULL);
        if (e == VD_OK && n < f.n - 3) /* the last tensor ends 3 bytes before the file does */
            fail_msg("%zu of %zu bytes open", n, f.n);
        vd_gguf_close(g);
        free(copy);
    }
}

static void test_writer(void **state)
{
    (void)state;
    struct vd_error err = {0};
    struct vd_gguf_writer *w = vd_gguf_writer_new(1 << 20);
    const struct vd_gguf_str words[] = {{"one", 3}, {"", 0}, {"three", 5}};
    const int32_t ints[] = {-1, 2};
    const float floats[] = {0.5f};
    uint8_t block[40];
    for (int i = 0; i < 40; i++)
        block[i] = (uint8_t)i;
    vd_gguf_add_u32(w, "general.alignment", 64);
    vd_gguf_add_tensor(w, "a", 3, (const uint64_t[]){32, 2}, 2, block);
    vd_gguf_add_tensor(w, "b", 0, (const uint64_t[]){3}, 1, block);
    vd_gguf_add_str(w, "s", "text");
    vd_gguf_add_array_str(w, "words", words, 3);
    vd_gguf_add_array_i32(w, "ints", ints, 2);
    vd_gguf_add_array_f32(w, "floats", floats, 1);
    vd_gguf_add_u64(w, "u64", 1ull << 40);
    vd_gguf_add_i32(w, "i32", -5);
    vd_gguf_add_f32(w, "f32", 1e-5f);
    vd_gguf_add_bool(w, "bool", true);
    uint8_t *p, *p2;
    size_t n, n2;
    assert_int_equal(vd_gguf_writer_finish(w, &p, &n, &err), VD_OK);
    vd_gguf_writer_free(w);

    struct vd_gguf *g;
    assert_int_equal(vd_gguf_open(&g, p, n, "w", &err), VD_OK);
    const struct vd_gguf_tensor *a = vd_gguf_tensor_find(g, "a"), *b = vd_gguf_tensor_find(g, "b");
    assert_int_equal(a->n_bytes, 40);
    assert_int_equal(a->row_bytes, 20);
    assert_memory_equal(a->p, block, 40);
    assert_int_equal(b->offset_bytes - a->offset_bytes, 64);
    assert_int_equal(a->offset_bytes % 64, 0);

    w = vd_gguf_writer_new(1 << 20); /* copied part by part, the file is the same */
    for (size_t i = 0; i < vd_gguf_kv_count(g); i++)
        vd_gguf_add_kv(w, vd_gguf_kv_at(g, i));
    vd_gguf_add_tensor(w, "a", a->type_id, a->ne, a->n_dims, a->p);
    vd_gguf_add_tensor(w, "b", b->type_id, b->ne, b->n_dims, b->p);
    assert_int_equal(vd_gguf_writer_finish(w, &p2, &n2, &err), VD_OK);
    vd_gguf_writer_free(w);
    assert_int_equal(n, n2);
    assert_memory_equal(p, p2, n);
    vd_gguf_close(g);
    free(p);
    free(p2);
}

static void test_writer_errors(void **state)
{
    (void)state;
    struct vd_error err = {0};
    uint8_t *p, data[128] = {0};
    size_t n;
    struct vd_gguf_writer *w = vd_gguf_writer_new(200);
    vd_gguf_add_tensor(w, "a", 0, (const uint64_t[]){32}, 1, data);
    vd_gguf_add_tensor(w, "b", 0, (const uint64_t[]){32}, 1, data);
    assert_int_equal(vd_gguf_writer_finish(w, &p, &n, &err), VD_ELIMIT);
    assert_null(p);
    vd_gguf_writer_free(w);
    w = vd_gguf_writer_new(1000);
    vd_gguf_add_tensor(w, "odd", 3, (const uint64_t[]){33}, 1, data);
    assert_int_equal(vd_gguf_writer_finish(w, &p, &n, &err), VD_EUSE);
    assert_non_null(strstr(err.msg, "tensor odd"));
    vd_gguf_writer_free(w);
    w = vd_gguf_writer_new(1000);
    vd_gguf_add_u32(w, "k", 1);
    vd_gguf_add_u32(w, "k", 1);
    assert_int_equal(vd_gguf_writer_finish(w, &p, &n, &err), VD_EFORMAT);
    assert_non_null(strstr(err.msg, "key k is there twice"));
    vd_gguf_writer_free(w);
}

static void test_open_map(void **state)
{
    (void)state;
    char path[] = "/tmp/vd_gguf_test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    struct file f = assemble(good_files[0][1]);
    assert_int_equal(write(fd, f.p, f.n), f.n);
    close(fd);
    struct vd_gguf *g;
    struct vd_error err = {0};
    assert_int_equal(vd_gguf_open_map(&g, path, &err), VD_OK);
    assert_string_equal(vd_gguf_name(g), path);
    assert_non_null(vd_gguf_find(g, "a"));
    vd_gguf_close(g);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(vd_gguf_open_map(&g, path, &err), VD_EFORMAT);
    assert_non_null(strstr(err.msg, path));
    unlink(path);
    assert_int_equal(vd_gguf_open_map(&g, path, &err), VD_ENOTFOUND);
}

static int write_corpus(const char *dir)
{
    char path[VD_PATH_MAX];
    struct vd_error err = {0};
    enum vd_err e = vd_dir_make(dir, &err);
    for (size_t i = 0; !e && i < sizeof bad_files / sizeof bad_files[0]; i++) {
        struct file f = assemble(bad_files[i].text);
        snprintf(path, sizeof path, "%s/%s", dir, bad_files[i].name);
        e = vd_file_write_atomic(path, f.p, f.n, 0644, &err);
    }
    for (size_t i = 0; !e && i < sizeof good_files / sizeof good_files[0]; i++) {
        struct file f = assemble(good_files[i][1]);
        snprintf(path, sizeof path, "%s/%s", dir, good_files[i][0]);
        e = vd_file_write_atomic(path, f.p, f.n, 0644, &err);
    }
    if (e)
        fprintf(stderr, "%s\n", err.msg);
    return e != VD_OK;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--corpus") == 0)
        return write_corpus(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_good_file),
        cmocka_unit_test(test_getters),   cmocka_unit_test(test_every_prefix),
        cmocka_unit_test(test_writer),    cmocka_unit_test(test_writer_errors),
        cmocka_unit_test(test_open_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
