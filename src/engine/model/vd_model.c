/* Opening: map, derive, check, pack. Packing copies the weights once into the kernels' layout, so it is cut
 * into tasks of some hundred kilobytes for the pool, and the check for non-finite weights rides along while
 * the bytes are in the cache. The packed copy lies in one anonymous map, for which huge pages are asked:
 * decode reads all of it for every token, and with 4 KiB pages it would spend time on address translation. */
#include "vd_model.h"
#include "vd_model_internal.h"

#include "vd_gguf.h"
#include "vd_wtype.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum {
    TASK_BYTES = 512 << 10,
    HUGE_BYTES = 2 << 20, /* alignment of the packed map */
};

/* Rows [r0, r1) of a tensor: check, and pack if it is a matrix. */
struct pack_task {
    uint32_t tensor;
    const struct vd_kern_mat *mat; /* NULL: check only */
    size_t r0, r1;
};

struct packing {
    const struct vd_model *m;
    struct pack_task *task;
    size_t n_tasks, cap;
    _Atomic uint32_t bad_tensor; /* the lowest with a non-finite weight, or UINT32_MAX */
};

/* ------------------------- opening ------------------------- */

static void read_id(struct vd_file_id *id, const char *path)
{
    struct stat st;
    memset(id, 0, sizeof *id);
    if (stat(path, &st) != 0)
        return;
    id->size_bytes = (uint64_t)st.st_size;
    id->mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
    id->inode = (uint64_t)st.st_ino;
    id->device = (uint64_t)st.st_dev;
}

/* The file may be replaced while it is opened: then the id is left all zero. */
static enum vd_err open_file(struct vd_model *m, struct vd_error *err)
{
    struct vd_file_id after;
    read_id(&m->id, m->path);
    enum vd_err rc = vd_gguf_open_map(&m->gguf, m->path, err);
    read_id(&after, m->path);
    if (memcmp(&m->id, &after, sizeof after) != 0)
        memset(&m->id, 0, sizeof m->id);
    return rc;
}

static void set_dims(struct vd_model *m)
{
    const struct vd_program *p = &m->program;
    m->dims = (struct vd_dims){
        .n_layers = p->n_layers,
        .d = p->width,
        .n_heads = p->n_heads,
        .n_kv = p->n_kv_heads,
        .hd = p->head_dim,
        .ff = p->ff_width,
        .vocab = p->vocab,
        .ctx = p->ctx,
        .n_pairs = p->n_rope,
        .q_cols = (size_t)p->n_heads * p->head_dim,
        .k_cols = (size_t)p->n_kv_heads * p->head_dim,
    };
    m->rope_halves = p->rope_pairing == VD_ROPE_HALVES;
}

static enum vd_err read_program(struct vd_model *m, struct vd_error *err)
{
    enum vd_err rc = vd_derive_program(&m->program, m->gguf, err);
    if (rc != VD_OK)
        return rc;
    m->n_program_bytes = vd_program_encode(&m->program, m->program_bytes, sizeof m->program_bytes);
    assert(m->n_program_bytes > 0);
    set_dims(m);
    m->tensors = calloc(m->program.n_tensors, sizeof *m->tensors);
    m->tensor_leaves = calloc(m->program.n_tensors, sizeof *m->tensor_leaves);
    m->layers = calloc(m->program.n_layers, sizeof *m->layers);
    if (!m->tensors || !m->tensor_leaves || !m->layers)
        return vd_error_set(err, VD_ENOMEM, "%s: no memory for the list of tensors", m->path);
    for (uint32_t i = 0; i < m->program.n_tensors; i++) {
        char name[VD_GGUF_NAME_BYTES_MAX + 1];
        vd_derive_tensor_name(&m->program, i, name);
        const struct vd_gguf_tensor *t = vd_gguf_tensor_find(m->gguf, name);
        m->tensors[i] = (struct vd_tensor){vd_program_tensor(&m->program, i), t->row_bytes, t->p};
    }
    return VD_OK;
}

/* ------------------------- norms ------------------------- */

static const float *copy_norm(struct vd_model *m, size_t *at, uint32_t tensor)
{
    float *to = m->norms + *at;
    for (size_t i = 0; i < m->dims.d; i++)
        to[i] = vd_f32_from_bits(vd_le32_load(m->tensors[tensor].p + 4 * i));
    *at += m->dims.d;
    return to;
}

static enum vd_err copy_norms(struct vd_model *m, struct vd_error *err)
{
    size_t at = 0, n = (2 * m->dims.n_layers + 1) * m->dims.d; /* d is a multiple of 32 */
    m->norms = aligned_alloc(VD_KERN_ALIGN, n * sizeof *m->norms);
    if (!m->norms)
        return vd_error_set(err, VD_ENOMEM, "%s: no memory for %zu norm weights", m->path, n);
    for (uint32_t l = 0; l < m->program.n_layers; l++) {
        m->layers[l].attn_norm = copy_norm(m, &at, vd_program_layer_tensor(&m->program, l, VD_T_ATTN_NORM));
        m->layers[l].ffn_norm = copy_norm(m, &at, vd_program_layer_tensor(&m->program, l, VD_T_FFN_NORM));
    }
    m->output_norm = copy_norm(m, &at, vd_program_norm_tensor(&m->program));
    return VD_OK;
}

/* ------------------------- matrices ------------------------- */

/* The packed matrix of a tensor, or NULL for norms and for an embedding that is not the head. */
static struct vd_kern_mat *mat_of(struct vd_model *m, uint32_t tensor)
{
    if (tensor == vd_program_head_tensor(&m->program))
        return &m->head;
    uint32_t layer;
    enum vd_layer_tensor t;
    if (!vd_program_find_tensor(&m->program, tensor, &layer, &t))
        return NULL;
    struct vd_layer *l = &m->layers[layer];
    switch (t) {
    case VD_T_ATTN_Q:
        return &l->q;
    case VD_T_ATTN_K:
        return &l->k;
    case VD_T_ATTN_V:
        return &l->v;
    case VD_T_ATTN_OUTPUT:
        return &l->o;
    case VD_T_FFN_GATE:
        return &l->gate;
    case VD_T_FFN_UP:
        return &l->up;
    case VD_T_FFN_DOWN:
        return &l->down;
    case VD_T_ATTN_NORM:
    case VD_T_ATTN_Q_BIAS:
    case VD_T_ATTN_K_BIAS:
    case VD_T_ATTN_V_BIAS:
    case VD_T_ATTN_Q_NORM:
    case VD_T_ATTN_K_NORM:
    case VD_T_POST_ATTN_NORM:
    case VD_T_FFN_NORM:
    case VD_T_FFN_ROUTER:
    case VD_T_POST_FFN_NORM:
    case VD_T_KINDS:
        break;
    }
    return NULL;
}

/* Lays the packed matrices out one after the other; with a NULL base it only adds up. */
static enum vd_err lay_out(struct vd_model *m, uint8_t *base, size_t *n_bytes, struct vd_error *err)
{
    *n_bytes = 0;
    for (uint32_t i = 0; i < m->program.n_tensors; i++) {
        struct vd_kern_mat *mat = mat_of(m, i);
        struct vd_tensor_shape s = m->tensors[i].shape;
        if (!mat)
            continue;
        size_t n = m->kern->mat_bytes(s.type, s.rows, s.cols);
        if (n == 0)
            return vd_error_set(err, VD_EUNSUPPORTED, "%s: the %s kernels cannot hold a %s matrix of %u x %u",
                                m->path, m->kern->name, vd_wtype_info(s.type)->name, s.rows, s.cols);
        *mat = (struct vd_kern_mat){s.type, s.rows, s.cols, base ? base + *n_bytes : NULL};
        *n_bytes += n;
    }
    return VD_OK;
}

static enum vd_err map_packed(struct vd_model *m, struct vd_error *err)
{
    size_t n;
    enum vd_err rc = lay_out(m, NULL, &n, err);
    if (rc != VD_OK)
        return rc;
    m->packed_bytes = n + HUGE_BYTES;
    m->packed = mmap(NULL, m->packed_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->packed == MAP_FAILED) {
        m->packed = NULL;
        return vd_error_set(err, VD_ENOMEM, "%s: no memory for %zu bytes of weights", m->path, n);
    }
    madvise(m->packed, m->packed_bytes, MADV_HUGEPAGE); /* a wish: its failure changes nothing */
    uintptr_t base = ((uintptr_t)m->packed + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    return lay_out(m, (uint8_t *)base, &n, err);
}

static size_t task_rows(const struct vd_tensor *t)
{
    size_t rows = TASK_BYTES / t->row_bytes / VD_KERN_ROWS * VD_KERN_ROWS;
    return rows > 0 ? rows : VD_KERN_ROWS;
}

static enum vd_err list_tasks(struct vd_model *m, struct packing *p, struct vd_error *err)
{
    for (uint32_t i = 0; i < m->program.n_tensors; i++)
        p->cap += m->tensors[i].shape.rows / task_rows(&m->tensors[i]) + 1;
    p->task = calloc(p->cap, sizeof *p->task);
    if (!p->task)
        return vd_error_set(err, VD_ENOMEM, "%s: no memory for %zu packing tasks", m->path, p->cap);
    for (uint32_t i = 0; i < m->program.n_tensors; i++) {
        size_t rows = m->tensors[i].shape.rows, step = task_rows(&m->tensors[i]);
        for (size_t r = 0; r < rows; r += step)
            p->task[p->n_tasks++] = (struct pack_task){i, mat_of(m, i), r, r + step < rows ? r + step : rows};
    }
    return VD_OK;
}

static void pack_one(void *arg, size_t task, unsigned thread)
{
    struct packing *p = arg;
    const struct pack_task *t = &p->task[task];
    const struct vd_tensor *tensor = &p->m->tensors[t->tensor];
    const uint8_t *src = tensor->p + t->r0 * tensor->row_bytes;
    if (!vd_num_weights_finite(tensor->shape.type, src, (t->r1 - t->r0) * tensor->shape.cols)) {
        uint32_t low = atomic_load(&p->bad_tensor);
        while (t->tensor < low && !atomic_compare_exchange_weak(&p->bad_tensor, &low, t->tensor))
            ;
    } else if (t->mat) {
        p->m->kern->mat_pack(t->mat, t->r0, t->r1, src);
    }
}

/* The first row of a tensor that holds a non-finite weight. */
static uint32_t bad_row(const struct vd_tensor *t)
{
    uint32_t row = 0;
    while (vd_num_weights_finite(t->shape.type, t->p + row * t->row_bytes, t->shape.cols))
        row++;
    return row;
}

static enum vd_err pack(struct vd_model *m, struct vd_pool *pool, struct vd_error *err)
{
    struct packing p = {.m = m, .bad_tensor = UINT32_MAX};
    enum vd_err rc = map_packed(m, err);
    if (rc == VD_OK)
        rc = list_tasks(m, &p, err);
    if (rc != VD_OK)
        return rc;
    if (pool)
        vd_pool_run(pool, pack_one, &p, p.n_tasks);
    else
        for (size_t i = 0; i < p.n_tasks; i++)
            pack_one(&p, i, 0);
    free(p.task);
    if (p.bad_tensor == UINT32_MAX)
        return VD_OK;
    char name[VD_GGUF_NAME_BYTES_MAX + 1];
    vd_derive_tensor_name(&m->program, p.bad_tensor, name);
    return vd_error_set(
        err, VD_EFORMAT,
        "%s: row %u of tensor %s holds a weight or scale that is not finite; the file is damaged or "
        "its training failed",
        m->path, bad_row(&m->tensors[p.bad_tensor]), name);
}

enum vd_err vd_model_open(struct vd_model **out, const char *path, const struct vd_kern *kern,
                          struct vd_pool *pool, struct vd_error *err)
{
    *out = NULL;
    struct vd_model *m = calloc(1, sizeof *m);
    if (!m || !(m->path = strdup(path))) {
        free(m);
        return vd_error_set(err, VD_ENOMEM, "%s: no memory for a model", path);
    }
    m->kern = kern;
    pthread_mutex_init(&m->root_lock, NULL);
    enum vd_err rc = open_file(m, err);
    if (rc == VD_OK)
        rc = read_program(m, err);
    if (rc == VD_OK)
        rc = copy_norms(m, err);
    if (rc == VD_OK)
        rc = pack(m, pool, err);
    if (rc != VD_OK) {
        vd_model_close(m);
        return rc;
    }
    *out = m;
    return VD_OK;
}

void vd_model_close(struct vd_model *m)
{
    if (!m)
        return;
    if (m->packed)
        munmap(m->packed, m->packed_bytes);
    free(m->norms);
    free(m->layers);
    free(m->tensor_leaves);
    free(m->tensors);
    vd_gguf_close(m->gguf);
    pthread_mutex_destroy(&m->root_lock);
    free(m->path);
    free(m);
}

/* ------------------------- questions ------------------------- */

const char *vd_model_path(const struct vd_model *m)
{
    return m->path;
}

const struct vd_gguf *vd_model_gguf(const struct vd_model *m)
{
    return m->gguf;
}

const struct vd_kern *vd_model_kern(const struct vd_model *m)
{
    return m->kern;
}

const struct vd_program *vd_model_program(const struct vd_model *m)
{
    return &m->program;
}

struct vd_bytes vd_model_program_bytes(const struct vd_model *m)
{
    return (struct vd_bytes){m->program_bytes, m->n_program_bytes};
}

struct vd_bytes vd_model_tensor_bytes(const struct vd_model *m, uint32_t tensor, uint32_t row)
{
    assert(tensor < m->program.n_tensors && row < m->tensors[tensor].shape.rows);
    const struct vd_tensor *t = &m->tensors[tensor];
    return (struct vd_bytes){t->p + row * t->row_bytes, t->row_bytes};
}

size_t vd_model_k_row_bytes(const struct vd_model *m)
{
    return m->dims.n_kv * (m->dims.hd / VD_KERN_BLOCK * 4 + m->dims.hd);
}

size_t vd_model_v_row_bytes(const struct vd_model *m)
{
    return m->dims.n_kv * (4 + m->dims.hd);
}
