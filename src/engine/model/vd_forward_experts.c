/* Mixture of experts: the rows of a pass are sorted by expert, so that an expert's weights are read once for
 * all the rows that use it, and put together again in the order of their own choice, which the arithmetic
 * prescribes. A row that uses n experts stands n times among the sorted ones. */
#include "vd_forward_impl.h"
#include "vd_route.h"

void vd_fw_route(const struct vd_model *m, const float *logits, size_t n, struct route *r)
{
    const struct vd_dims *dims = &m->dims;
    size_t used = dims->n_used, at = 0;
    memset(r->next, 0, dims->n_experts * sizeof *r->next);
    for (size_t t = 0; t < n; t++) {
        vd_num_route(logits + t * dims->n_experts, (uint32_t)dims->n_experts, (uint32_t)used,
                     m->program.route_norm, r->expert + t * used, r->weight + t * used);
        for (size_t s = 0; s < used; s++)
            r->next[r->expert[t * used + s]]++;
    }
    r->n_runs = 0;
    for (uint32_t e = 0; e < dims->n_experts; e++) {
        size_t count = r->next[e];
        if (count > 0)
            r->run[r->n_runs++] = (struct expert_run){e, at, count};
        r->next[e] = (uint32_t)at;
        at += count;
    }
    for (size_t i = 0; i < n * used; i++) {
        r->place[i] = r->next[r->expert[i]]++;
        r->source[r->place[i]] = (uint32_t)(i / used);
    }
}

struct vd_kern_rhs vd_fw_gather(const struct vd_model *m, const struct route *r, unsigned forms,
                                const float *h, size_t i0, size_t i1, float *to, const struct acts *act)
{
    size_t d = m->dims.d;
    for (size_t i = i0; i < i1; i++)
        memcpy(to + i * d, h + r->source[i] * d, d * sizeof *h);
    return vd_fw_quant(m, forms, to, d, d, i0, i1, act);
}

/* Gate and up, activated: rows [base + f, + step) of the weights for places [a, end), which read rows of rhs
 * from t on. */
static void up_step(const struct vd_model *m, const struct vd_layer *l, const struct vd_kern_rhs *rhs,
                    size_t base, size_t f, size_t step, size_t a, size_t end, size_t t, float *gate,
                    struct thread_buf *buf)
{
    size_t ff = m->dims.ff, row = base + f;
    for (size_t n; a < end; a += n, t += n) {
        n = vd_fw_min(TILE_ROWS, end - a);
        m->kern->matmul(&l->gate, row, row + step, rhs, t, t + n,
                        vd_fw_moved_back(gate + a * ff, t * ff + base), ff, buf->scratch);
        m->kern->matmul(&l->up, row, row + step, rhs, t, t + n, vd_fw_moved_back(buf->up, t * FF_STEP + row),
                        FF_STEP, buf->scratch);
        for (size_t k = 0; k < n; k++)
            m->glu(gate + (a + k) * ff + f, buf->up + k * FF_STEP, step, gate + (a + k) * ff + f);
    }
}

/* One row needs no sorting: all its experts read row 0. */
void vd_fw_experts_up(const struct vd_model *m, const struct vd_layer *l, const struct route *r, bool one_row,
                      const struct vd_kern_rhs *rhs, size_t f0, size_t f1, float *gate,
                      struct thread_buf *buf)
{
    for (size_t i = 0; i < r->n_runs; i++) {
        size_t base = r->run[i].expert * m->dims.ff, first = r->run[i].first;
        for (size_t f = f0; f < f1; f += FF_STEP)
            up_step(m, l, rhs, base, f, vd_fw_min(FF_STEP, f1 - f), first, first + r->run[i].count,
                    one_row ? 0 : first, gate, buf);
    }
}

void vd_fw_experts_down(const struct vd_model *m, const struct vd_layer *l, const struct route *r,
                        const struct vd_kern_rhs *rhs, size_t r0, size_t r1, size_t n, float *out, float *y,
                        struct thread_buf *buf)
{
    size_t d = m->dims.d, used = m->dims.n_used;
    if (r0 == r1)
        return;
    for (size_t i = 0; i < r->n_runs; i++) {
        const struct expert_run *run = &r->run[i];
        m->kern->matmul(&l->down, run->expert * d + r0, run->expert * d + r1, rhs, run->first,
                        run->first + run->count, vd_fw_moved_back(out, run->expert * d), d, buf->scratch);
    }
    for (size_t t = 0; t < n; t++) {
        memset(y + t * d + r0, 0, (r1 - r0) * sizeof *y);
        for (size_t s = 0; s < used; s++)
            m->kern->madd(out + r->place[t * used + s] * d + r0, r->weight[t * used + s], r1 - r0,
                          y + t * d + r0);
    }
}
