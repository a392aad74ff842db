/* veridem diff: where two ways to run a receipt's tokens part. For a worker whose receipts do not stand, for
 * who doubts a model file or a machine, and for who writes kernels. */
#include "vd_bytes.h"
#include "vd_cmd.h"
#include "vd_cmd_busy.h"
#include "vd_cmd_load.h"
#include "vd_cmd_receipt.h"
#include "vd_diff.h"
#include "vd_trace_model.h"

#include <stdlib.h>
#include <string.h>

enum { VD_DIFF_ROWS = 256, VD_DIFF_LOGITS = 32 };

/* One way: a model file and a kernel table. */
struct vd_diff_side {
    const char *kernel; /* NULL: the fastest */
    char path[VD_PATH_MAX];
    const struct vd_kern *kern;
    struct vd_pool *pool;
    struct vd_model *model;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    struct vd_trace_model *trace;
};

struct vd_diff_cmd {
    struct vd_cli *cli;
    struct vd_envelope e;
    uint32_t *tokens;
    struct vd_receipt receipt;
    struct vd_proof_job job;
    struct vd_diff_side side[2];
    struct vd_diff found;
};

static enum vd_err vd_diff_read(struct vd_diff_cmd *d, const char *path, struct vd_error *err)
{
    enum vd_err e = vd_cmd_read_receipt(path, &d->e, &d->tokens, err);
    if (e != VD_OK)
        return e;
    enum vd_receipt_verdict verdict = vd_envelope_check(&d->e, &d->receipt);
    if (verdict != VD_RECEIPT_OK)
        return vd_error_set(err, VD_EFORMAT, "%.200s: %s", path, vd_receipt_verdict_text(verdict));
    d->job = (struct vd_proof_job){.receipt = &d->receipt,
                                   .prompt = d->e.prompt,
                                   .output = d->e.output,
                                   .job_salt = d->e.job_salt,
                                   .controls = d->e.controls};
    return VD_OK;
}

/* Which files and kernels. */
static enum vd_err vd_diff_sides(struct vd_diff_cmd *d, struct vd_error *err)
{
    const char *model = vd_cli_text(d->cli, "model", NULL), *against = vd_cli_text(d->cli, "against", NULL);
    struct vd_diff_side *a = &d->side[0], *b = &d->side[1];
    a->kernel = vd_cli_text(d->cli, "kernel", NULL);
    b->kernel = vd_cli_text(d->cli, "against-kernel", a->kernel);
    if (!against && !vd_cli_has(d->cli, "against-kernel"))
        return vd_error_set(err, VD_EUSE, "against what? --against MODEL, --against-kernel NAME, or both");
    enum vd_err e = model ? vd_cmd_model_path(a->path, model, err)
                          : vd_cmd_model_of_root(d->cli, &d->receipt.request.model_root, a->path, err);
    if (e == VD_OK && against)
        return vd_cmd_model_path(b->path, against, err);
    memcpy(b->path, a->path, sizeof b->path);
    return e;
}

/* A kernel table that fails its own check is what somebody may be looking for: it is not asked. */
static enum vd_err vd_diff_side_open(struct vd_diff_cmd *d, struct vd_diff_side *s, struct vd_error *err)
{
    uint32_t threads = 0;
    enum vd_err e = vd_cli_u32(d->cli, "threads", 1, VD_POOL_THREADS_MAX, &threads, err);
    if (e != VD_OK)
        return e;
    s->kern = vd_kern_pick(s->kernel, err);
    e = s->kern ? vd_pool_create(&s->pool, threads, err) : err->code;
    if (e == VD_OK)
        e = vd_model_open(&s->model, s->path, s->kern, s->pool, err);
    if (e == VD_OK)
        e = vd_ctx_create(&s->ctx, s->model, s->pool, vd_replay_rows(s->model, VD_DIFF_ROWS), VD_DIFF_LOGITS,
                          err);
    if (e == VD_OK)
        e = vd_kv_pool_create(&s->cache, s->model, (size_t)1 << 30, err);
    if (e == VD_OK)
        e = vd_trace_model_open(&s->trace, s->model, s->ctx, s->cache, &d->job, err);
    return e;
}

static void vd_diff_side_close(struct vd_diff_side *s)
{
    vd_trace_model_close(s->trace);
    vd_kv_pool_destroy(s->cache);
    vd_ctx_destroy(s->ctx);
    vd_model_close(s->model);
    vd_pool_destroy(s->pool);
}

/* "embedding", "layer 3", "head": as `veridem dispute` says it */
static void vd_diff_unit_name(const struct vd_diff_cmd *d, char out[32])
{
    const struct vd_program *p = vd_model_program(d->side[0].model);
    struct vd_graph g = {p, {.sampling = d->receipt.request.sampling}};
    if (d->found.unit == 0)
        snprintf(out, 32, "embedding");
    else if (d->found.unit < vd_graph_head_unit(&g))
        snprintf(out, 32, "layer %u", vd_graph_layer(&g, d->found.unit));
    else
        snprintf(out, 32, "head");
}

static void vd_diff_print_json(const struct vd_diff_cmd *d)
{
    const struct vd_diff *f = &d->found;
    json_t *a =
        json_pack("{s:b,s:I}", "equal", !f->differ, "positions", (json_int_t)vd_receipt_n_steps(&d->receipt));
    if (f->differ) {
        char unit[32], value[2][VD_DIFF_VALUE_TEXT_MAX];
        vd_diff_unit_name(d, unit);
        for (unsigned i = 0; i < 2; i++)
            vd_diff_value_text(f, i, value[i]);
        json_object_update_new(a, json_pack("{s:I,s:s,s:I,s:s,s:I,s:I,s:I,s:[s,s],s:[b,b]}", "position",
                                            (json_int_t)f->step, "unit", unit, "op", (json_int_t)f->op,
                                            "operator", vd_op_name(f->what.kind), "record",
                                            (json_int_t)f->record, "records", (json_int_t)f->what.n_records,
                                            "offset", (json_int_t)f->offset, "values", value[0], value[1],
                                            "foreign", f->foreign[0], f->foreign[1]));
    }
    vd_cli_json(d->cli, a);
}

static void vd_diff_print(const struct vd_diff_cmd *d)
{
    const struct vd_diff *f = &d->found;
    FILE *out = d->cli->out;
    uint32_t n = vd_receipt_n_steps(&d->receipt), n_prompt = d->receipt.request.n_prompt;
    char unit[32], value[VD_DIFF_VALUE_TEXT_MAX];
    if (!f->differ) {
        fprintf(out, "equal: every operator gives the same bits at all %u positions\n", n);
        return;
    }
    vd_diff_unit_name(d, unit);
    fprintf(out, "position    %u of %u (%s)\n", f->step, n, f->step < n_prompt ? "prompt" : "answer");
    fprintf(out, "unit        %s\noperator    %s, number %u", unit, vd_op_name(f->what.kind), f->op);
    if (f->what.kind == VD_OP_PART || f->what.kind == VD_OP_SUM)
        fprintf(out, ", of %u rows by %u columns", f->what.rows, f->what.cols);
    fprintf(out, "\nrecord      %llu of %llu, byte %u of %u\n", (unsigned long long)f->record,
            (unsigned long long)f->what.n_records, f->offset, f->what.record_bytes);
    for (unsigned i = 0; i < 2; i++) {
        vd_diff_value_text(f, i, value);
        fprintf(out, "value %c     %-28s %s, %s%s\n", 'A' + (int)i, value, d->side[i].path,
                d->side[i].kern->name, f->foreign[i] ? ": not what src/num computes" : "");
    }
    if (f->foreign[0] || f->foreign[1])
        fprintf(out,
                "Of a run that is not src/num's only the rows that a unit hands on are known: what differs "
                "first in them is shown,\nand the operator that went wrong is it or one before it.\n");
}

static enum vd_err vd_diff_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_diff_cmd *d = calloc(1, sizeof *d);
    if (!d)
        return vd_error_set(err, VD_ENOMEM, "no memory to compare");
    d->cli = cli;
    enum vd_err e = vd_diff_read(d, cli->arg[0], err);
    if (e == VD_OK)
        e = vd_diff_sides(d, err);
    for (unsigned i = 0; e == VD_OK && i < 2; i++)
        e = vd_diff_side_open(d, &d->side[i], err);
    if (e == VD_OK) {
        struct vd_busy busy;
        vd_busy_begin(&busy, cli, "running %u tokens both ways", vd_receipt_n_steps(&d->receipt));
        e = vd_diff_find(vd_trace_model_trace(d->side[0].trace), vd_trace_model_trace(d->side[1].trace),
                         &d->found, err);
        vd_busy_end(&busy);
    }
    if (e == VD_OK) {
        if (cli->json)
            vd_diff_print_json(d);
        else
            vd_diff_print(d);
        if (d->found.differ)
            e = vd_error_set(err, VD_EFALSE, "the two differ");
    }
    for (unsigned i = 0; i < 2; i++)
        vd_diff_side_close(&d->side[i]);
    free(d->tokens);
    free(d);
    return e;
}

static const struct vd_cli_opt vd_diff_opts[] = {
    {"model", 'm', "MODEL", "run A's model (default: the listed file with the receipt's root)", false},
    {"against", 0, "MODEL", "run B's model (default: the same file)", false},
    {"against-kernel", 0, "NAME", "run B's kernels (default: the same)", false},
    VD_CMD_OPTS_COMPUTE,
    {0},
};
const struct vd_cmd vd_cmd_diff = {
    .name = "diff",
    .group = "Models and text",
    .usage = "RECEIPT",
    .summary = "where two models or kernels part on a receipt's tokens",
    .help =
        "Runs the tokens of RECEIPT (a file as for `veridem verify`) twice, with another model file or other "
        "kernels the\n"
        "second time, and says where the two runs part first: position, layer, operator, record, and both "
        "values. Nothing\n"
        "is said about who is right, or whether the receipt stands. Exit status 0: every bit is equal; 1: "
        "not.",
    .opts = vd_diff_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_diff_run,
};
