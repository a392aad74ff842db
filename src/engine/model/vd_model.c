/* Opening: map, derive, check, pack. Packing copies the weights once into the kernels' layout, so it is cut
 * into tasks of some hundred kilobytes for the pool, and the check for non-finite weights rides along while
 * the bytes are in the cache. The packed copy lies in one anonymous map, for which huge pages are asked:
 * decode reads all of it for every token, and with 4 KiB pages it would spend time on address translation. */
#include "vd_model.h"
#include "vd_model_internal.h"

#include "vd_gguf.h"
#include "vd_memory.h"
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
        .n_tables = p->n_rope_tables,
        .q_cols = (size_t)p->n_heads * p->head_dim,
        .k_cols = (size_t)p->n_kv_heads * p->head_dim,
        .n_experts = p->n_experts,
        .n_used = p->n_experts ? p->n_used : 1,
    };
    m->rope_halves = p->rope_pairing == VD_ROPE_HALVES;
    m->score = (struct vd_kern_score){p->attn_scale, p->attn_cap};
    m->glu = p->act == VD_ACT_GELU ? m->kern->geglu : m->kern->swiglu;
    m->encoder = vd_program_is_encoder(p);
    m->ungated = p->ungated;
    m->position_tensor = p->n_positions ? vd_program_embed_tensor(p, VD_E_POSITION) : 0;
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
        struct vd_derive_place at;
        bool found = vd_derive_find(&m->program, m->gguf, i, &at);
        assert(found);
        m->tensors[i] = (struct vd_tensor){vd_program_tensor(&m->program, i), at.row_bytes, at.p};
    }
    return VD_OK;
}

/* ------------------------- where tensors go ------------------------- */

/* A layer's tensor in struct vd_layer: a pointer to floats for vectors, a matrix for the others. */
static const size_t place_in_layer[VD_T_KINDS] = {
    [VD_T_ATTN_NORM] = offsetof(struct vd_layer, attn_norm),
    [VD_T_ATTN_Q] = offsetof(struct vd_layer, q),
    [VD_T_ATTN_K] = offsetof(struct vd_layer, k),
    [VD_T_ATTN_V] = offsetof(struct vd_layer, v),
    [VD_T_ATTN_Q_BIAS] = offsetof(struct vd_layer, q_bias),
    [VD_T_ATTN_K_BIAS] = offsetof(struct vd_layer, k_bias),
    [VD_T_ATTN_V_BIAS] = offsetof(struct vd_layer, v_bias),
    [VD_T_ATTN_Q_NORM] = offsetof(struct vd_layer, q_norm),
    [VD_T_ATTN_K_NORM] = offsetof(struct vd_layer, k_norm),
    [VD_T_ATTN_OUTPUT] = offsetof(struct vd_layer, o),
    [VD_T_ATTN_OUTPUT_BIAS] = offsetof(struct vd_layer, o_bias),
    [VD_T_POST_ATTN_NORM] = offsetof(struct vd_layer, post_attn_norm.w),
    [VD_T_POST_ATTN_NORM_BIAS] = offsetof(struct vd_layer, post_attn_norm.b),
    [VD_T_FFN_NORM] = offsetof(struct vd_layer, ffn_norm),
    [VD_T_FFN_ROUTER] = offsetof(struct vd_layer, router),
    [VD_T_FFN_GATE] = offsetof(struct vd_layer, gate),
    [VD_T_FFN_GATE_BIAS] = offsetof(struct vd_layer, gate_bias),
    [VD_T_FFN_UP] = offsetof(struct vd_layer, up),
    [VD_T_FFN_UP_BIAS] = offsetof(struct vd_layer, up_bias),
    [VD_T_FFN_DOWN] = offsetof(struct vd_layer, down),
    [VD_T_FFN_DOWN_BIAS] = offsetof(struct vd_layer, down_bias),
    [VD_T_POST_FFN_NORM] = offsetof(struct vd_layer, post_ffn_norm.w),
    [VD_T_POST_FFN_NORM_BIAS] = offsetof(struct vd_layer, post_ffn_norm.b),
};

/* The same of what stands before the layers; NULL for the tables, whose rows are read from the file. */
static void *place_of_embed(struct vd_model *m, enum vd_embed_tensor t)
{
    switch (t) {
    case VD_E_TYPE:
        return &m->token_type;
    case VD_E_NORM:
        return &m->embed_norm.w;
    case VD_E_NORM_BIAS:
        return &m->embed_norm.b;
    case VD_E_TOKEN:
    case VD_E_POSITION:
    case VD_E_KINDS:
        break;
    }
    return NULL;
}

static void *place_of(struct vd_model *m, uint32_t tensor)
{
    enum vd_embed_tensor e;
    enum vd_layer_tensor t;
    uint32_t layer;
    bool encoder = vd_program_is_encoder(&m->program);
    if (!encoder && tensor == vd_program_head_tensor(&m->program))
        return &m->head;
    if (!encoder && tensor == vd_program_norm_tensor(&m->program))
        return &m->output_norm;
    if (vd_program_find_embed(&m->program, tensor, &e))
        return place_of_embed(m, e);
    if (!vd_program_find_tensor(&m->program, tensor, &layer, &t))
        return NULL;
    return (char *)&m->layers[layer] + place_in_layer[t];
}

/* The packed matrix of a tensor, or NULL for vectors and for tables that are not the head. */
static struct vd_kern_mat *mat_of(struct vd_model *m, uint32_t tensor)
{
    return vd_program_is_vector(&m->program, tensor) ? NULL : place_of(m, tensor);
}

/* ------------------------- vectors ------------------------- */

static enum vd_err copy_vectors(struct vd_model *m, struct vd_error *err)
{
    size_t at = 0, n = 0;
    for (uint32_t i = 0; i < m->program.n_tensors; i++)
        n += vd_program_is_vector(&m->program, i) ? m->tensors[i].shape.cols : 0;
    m->vectors = aligned_alloc(VD_KERN_ALIGN, n * sizeof *m->vectors); /* all lengths are multiples of 32 */
    if (!m->vectors)
        return vd_error_set(err, VD_ENOMEM, "%s: no memory for %zu weights of norms and biases", m->path, n);
    for (uint32_t i = 0; i < m->program.n_tensors; i++) {
        if (!vd_program_is_vector(&m->program, i))
            continue;
        const float **place = place_of(m, i);
        *place = m->vectors + at;
        for (size_t k = 0; k < m->tensors[i].shape.cols; k++)
            m->vectors[at++] = vd_f32_from_bits(vd_le32_load(m->tensors[i].p + 4 * k));
    }
    return VD_OK;
}

/* ------------------------- matrices ------------------------- */

static unsigned form_of(const struct vd_kern_mat *w)
{
    unsigned block = w->data ? vd_wtype_info(w->type)->act_block : 0;
    return block == VD_KERN_BLOCK ? VD_ACT_FORM_32 : block == VD_KERN_BLOCK256 ? VD_ACT_FORM_256 : 0;
}

/* Which forms each input is quantised to, by which table and constants a layer runs, and where its rows lie
 * in the cache. */
static void set_layers(struct vd_model *m)
{
    m->all_forms = m->head_forms = form_of(&m->head);
    for (uint32_t i = 0; i < m->program.n_layers; i++) {
        struct vd_layer *l = &m->layers[i];
        l->qkv_forms = form_of(&l->q) | form_of(&l->k) | form_of(&l->v);
        l->o_forms = form_of(&l->o);
        l->router_forms = form_of(&l->router);
        l->ff_forms = form_of(&l->gate) | form_of(&l->up);
        l->down_forms = form_of(&l->down);
        l->rope_table = vd_program_rope_table(&m->program, i);
        bool window = m->program.layer_flags[i] & VD_LAYER_WINDOW && i + 1 < m->program.n_layers;
        l->kv_kind = window ? VD_KV_WINDOW : VD_KV_WHOLE;
        l->kv_place = m->n_kv_layers[l->kv_kind]++;
        m->all_forms |= l->qkv_forms | l->o_forms | l->router_forms | l->ff_forms | l->down_forms;
    }
}

/* Whether the likeliest token can be found from bounds of the logits: these are the head's outputs. */
static bool can_screen(const struct vd_model *m, enum vd_wtype head)
{
    return m->kern->can_split && m->kern->can_split(head) && m->program.logit_cap == 0.0f;
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
        *mat = (struct vd_kern_mat){s.type, s.rows, s.cols, base ? base + *n_bytes : NULL,
                                    mat == &m->head && can_screen(m, s.type)};
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
    uint64_t available = vd_memory_available();
    if (m->packed_bytes > available)
        return vd_error_set(err, VD_ENOMEM,
                            "%s: the model takes %zu bytes of memory, and %llu are available; stop what else "
                            "runs, or use a smaller model",
                            m->path, m->packed_bytes, (unsigned long long)available);
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
    vd_memory_let_go(src, (t->r1 - t->r0) * tensor->row_bytes);
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
        rc = copy_vectors(m, err);
    if (rc == VD_OK)
        rc = pack(m, pool, err);
    if (rc != VD_OK) {
        vd_model_close(m);
        return rc;
    }
    set_layers(m);
    *out = m;
    return VD_OK;
}

void vd_model_close(struct vd_model *m)
{
    if (!m)
        return;
    if (m->packed)
        munmap(m->packed, m->packed_bytes);
    free(m->vectors);
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

size_t vd_model_q_row_bytes(const struct vd_model *m)
{
    return m->dims.n_heads * (m->dims.hd / VD_KERN_BLOCK * 4 + m->dims.hd);
}
