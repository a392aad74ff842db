/* Private to `veridem bench`: the rows of whole jobs, and how a row is told. */
#ifndef VD_CMD_BENCHMARK_H
#define VD_CMD_BENCHMARK_H

#include "vd_cmd_load.h"

enum { VD_BENCH_REPS_MAX = 100 };

double vd_bench_median(double *v, uint32_t n); /* puts them in order */

/* A row: reps rates (tokens per second; they are put in order) and what else there is to say, as text (a
 * column of its own) and as members of the row's JSON, which it takes over. Printed, or appended to `list` if
 * that is not NULL. */
void vd_bench_line(struct vd_cli *cli, json_t *list, const char *name, double *rate, uint32_t reps,
                   const char *note, json_t *more);

/* What is generated, not only decoded: `n_tok` tokens by the engine, with sampling, texts and callbacks.
 *
 * Speculation: greedy on a text that has to say itself again, without guesses, by lookup, and by the draft if
 * there is one; with the part of the guesses that were right. */
enum vd_err vd_bench_spec(struct vd_cmd_engine *g, struct vd_cli *cli, json_t *list, uint32_t n_tok,
                          uint32_t reps, struct vd_error *err);
/* Masks: a text, and JSON of a schema; with the time that the mask took for a token, from the first on, and
 * what part of the time of a token that is. */
enum vd_err vd_bench_mask(struct vd_cmd_engine *g, struct vd_cli *cli, json_t *list, uint32_t n_tok,
                          uint32_t reps, struct vd_error *err);
/* Vectors of texts of n_tok tokens, n_texts at once. */
enum vd_err vd_bench_embed(struct vd_cmd_engine *g, struct vd_cli *cli, json_t *list, uint32_t n_tok,
                           uint32_t n_texts, uint32_t reps, struct vd_error *err);

#endif
