/* Any bytes: opening must not crash, and whatever opens must be readable in full through the interface. */
#include "vd_gguf.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static uint64_t read_kv(const struct vd_gguf_kv *kv)
{
    uint64_t sum = kv->key.n;
    const struct vd_gguf_array *a = &kv->array;
    struct vd_gguf_str s;
    for (size_t at = 0; a->type == VD_GGUF_STRING && vd_gguf_array_next_str(a, &at, &s);)
        sum += s.n ? (uint64_t)s.p[s.n - 1] : 0;
    for (uint64_t i = 0; a->type != VD_GGUF_STRING && i < a->n; i++)
        sum += a->type == VD_GGUF_F32 || a->type == VD_GGUF_F64 ? vd_gguf_array_float(a, i) > 0
                                                                : (uint64_t)vd_gguf_array_int(a, i);
    return sum;
}

static void must(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct vd_gguf *g;
    struct vd_error err = {0};
    enum vd_err e = vd_gguf_open(&g, data, n_bytes, "fuzz", &err);
    must((e == VD_OK) == (g != NULL));
    must(e == VD_OK || (err.code == e && err.msg[0] && !strchr(err.msg, '\n')));
    if (e)
        return 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < vd_gguf_kv_count(g); i++)
        sum += read_kv(vd_gguf_kv_at(g, i));
    for (size_t i = 0; i < vd_gguf_tensor_count(g); i++) {
        const struct vd_gguf_tensor *t = vd_gguf_tensor_at(g, i);
        char name[VD_GGUF_NAME_BYTES_MAX + 1] = {0};
        memcpy(name, t->name.p, t->name.n);
        must(vd_gguf_tensor_find(g, name) == t);
        must(t->p >= data && t->n_bytes <= n_bytes && t->p + t->n_bytes <= data + n_bytes);
        sum += t->p[0] + t->p[t->n_bytes - 1];
    }
    vd_gguf_close(g);
    static volatile uint64_t sink; /* keeps the reads above */
    sink = sum;
    return sink != sum;
}
