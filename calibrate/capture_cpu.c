/* See calibrate/capture_cpu.h. */
#include "calibrate/capture_cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/output_metric.h"
#include "core/message.h"
#include "model/forward.h"

typedef struct capture_pass {
    const capture_header *header;
    capture_writer *writer;
    block_statistics statistics;
    capture_watch *watch;
    capture_parts *parts; /* NULL: none */
    float *q, *k, *v;     /* one set's share of a layer, contiguous */
    double statistics_s, write_s, save_s;
    rb_progress progress;
} capture_pass;

/* [n_heads][n_all][dim] -> [n_heads][n][dim], tokens from `first` on. */
static void slice_tokens(float *out, const float *heads, int n_heads, int64_t n_all, int64_t first, int64_t n, int dim)
{
#pragma omp parallel for schedule(static)
    for (int head = 0; head < n_heads; head++)
        memcpy(out + head * n * dim, heads + (head * n_all + first) * dim, (size_t)(n * dim) * sizeof *out);
}

static rb_status capture_layer(void *user, layer_heads *heads, rb_error *err)
{
    capture_pass *pass = user;
    const model_facts *model = &pass->header->model;
    int64_t first = 0;
    rb_status st = RB_OK;
    for (int set = 0; set < CAPTURE_N_SETS && st == RB_OK; set++) {
        const int64_t n = pass->header->text[set].n_tokens;
        slice_tokens(pass->q, heads->q, model->n_q_heads, heads->n_tokens, first, n, model->head_dim);
        slice_tokens(pass->k, heads->k, model->n_kv_heads, heads->n_tokens, first, n, model->head_dim);
        if (pass->v) slice_tokens(pass->v, heads->v, model->n_kv_heads, heads->n_tokens, first, n, model->value_dim);
        const double statistics_from_s = rb_now_s();
        st = block_statistics_compute(&pass->statistics, model, heads->layer, pass->q, pass->k, n, err);
        if (st == RB_OK && set == CAPTURE_CALIBRATION)
            st = capture_watch_layer(pass->watch, heads->layer, pass->q, pass->k, false, n, &pass->statistics, err);
        const double write_from_s = rb_now_s();
        if (st == RB_OK)
            st = capture_write_layer(pass->writer, (capture_set)set, heads->layer, pass->q, pass->k, pass->v,
                                     &pass->statistics, err);
        pass->statistics_s += write_from_s - statistics_from_s;
        pass->write_s += rb_now_s() - write_from_s;
        first += n;
    }
    return st;
}

/* The batch is one part, calibration tokens first. */
static rb_status capture_residual(void *user, const layer_heads *heads, const double *energy, rb_error *err)
{
    const capture_pass *pass = user;
    (void)err;
    capture_set_residual_energy(pass->writer, heads->layer,
                                output_residual_energy(energy, pass->header->text[CAPTURE_CALIBRATION].n_tokens));
    return RB_OK;
}

static rb_status save_layer(void *user, int layer, const float *stream, rb_error *err)
{
    capture_pass *pass = user;
    const double started_s = rb_now_s();
    const rb_status st = capture_parts_save(pass->parts, pass->writer, pass->watch, layer, stream, err);
    pass->save_s += rb_now_s() - started_s;
    return st;
}

static rb_status fill_stream(void *user, int64_t first, int64_t n, float *rows, rb_error *err)
{
    const capture_pass *pass = user;
    return capture_parts_fill_stream(pass->parts, first, n, rows, err);
}

static void layer_done(void *user, int layer)
{
    capture_pass *pass = user;
    char detail[32];
    snprintf(detail, sizeof detail, "layer %d", layer);
    rb_progress_step(&pass->progress, detail);
}

static rb_status alloc_pass(capture_pass *pass, rb_error *err)
{
    const model_facts *model = &pass->header->model;
    const int64_t n_calibration = pass->header->text[CAPTURE_CALIBRATION].n_tokens,
                  n_test = pass->header->text[CAPTURE_TEST].n_tokens;
    const size_t most = (size_t)(n_calibration > n_test ? n_calibration : n_test),
                 head_floats = most * (size_t)model->head_dim, value_floats = most * (size_t)model->value_dim;
    rb_status st;
    RB_TRY(st, rb_alloc(&pass->q, head_floats * (size_t)model->n_q_heads, sizeof *pass->q, "captured queries", err),
           done);
    RB_TRY(st, rb_alloc(&pass->k, head_floats * (size_t)model->n_kv_heads, sizeof *pass->k, "captured keys", err),
           done);
    if (pass->header->has_values)
        RB_TRY(st,
               rb_alloc(&pass->v, value_floats * (size_t)model->n_kv_heads, sizeof *pass->v, "captured values", err),
               done);
    RB_TRY(st, block_statistics_create(&pass->statistics, model, err), done);
done:
    return st;
}

rb_status capture_on_cpu(const checkpoint *ckpt, const capture_header *header, const token_batch *batch,
                         capture_writer *writer, capture_watch *watch, capture_parts *parts, rb_error *err)
{
    capture_pass pass = {.header = header, .writer = writer, .watch = watch, .parts = parts};
    const int first_layer = parts ? capture_parts_n_finished(parts) : 0;
    rb_status st;
    RB_TRY(st, alloc_pass(&pass, err), done);
    const forward_hooks hooks = {.user = &pass,
                                 .on_qkv = capture_layer,
                                 .on_residual = header->output.is_known ? capture_residual : NULL,
                                 .on_stream = parts ? save_layer : NULL,
                                 .first_layer = first_layer,
                                 .fill_stream = fill_stream,
                                 .on_layer_done = layer_done};
    const double started_s = rb_now_s();
    rb_progress_start(&pass.progress, "calibrate", header->model.n_layers - first_layer);
    st = forward_run(ckpt, batch, &hooks, err);
    rb_progress_finish(&pass.progress);
    if (st != RB_OK) goto done;
    rb_message_verbose("forward pass took %.3f s, energies took %.3f s, compressing and writing took %.3f s",
                       rb_now_s() - started_s - pass.statistics_s - pass.write_s - pass.save_s, pass.statistics_s,
                       pass.write_s);
    if (parts) rb_message_verbose("saving what a run could continue from took %.3f s", pass.save_s);
done:
    block_statistics_free(&pass.statistics);
    free(pass.q);
    free(pass.k);
    free(pass.v);
    return st;
}
