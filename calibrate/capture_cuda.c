/* See calibrate/capture_cuda.h. */
#include "calibrate/capture_cuda.h"

#include <stdio.h>

#include "calibrate/output_metric.h"
#include "core/message.h"

typedef struct gpu_capture {
    const capture_header *header;
    capture_writer *writer;
    capture_watch *watch;
    capture_parts *parts;
    block_statistics statistics;
    double write_s;
    rb_progress progress;
} gpu_capture;

/* Called in the hand-over thread, while the GPU computes the next layer. */
static rb_status write_captured(void *user, const captured_layer *captured, rb_error *err)
{
    gpu_capture *pass = user;
    const capture_set set = (capture_set)captured->set;
    const double started_s = rb_now_s();
    rb_status st =
        block_statistics_from_sums(&pass->statistics, &pass->header->model, captured->layer, captured->q_squares,
                                   captured->k_squares, captured->k_sums, captured->n_tokens, err);
    if (st == RB_OK && set == CAPTURE_CALIBRATION)
        st = capture_watch_layer(pass->watch, captured->layer, captured->q, captured->k,
                                 pass->header->value_type == RB_H5_F16, captured->n_tokens, &pass->statistics, err);
    if (st != RB_OK) return st;
    if (captured->residual_energy && set == CAPTURE_CALIBRATION)
        capture_set_residual_energy(pass->writer, captured->layer,
                                    output_residual_energy(captured->residual_energy, captured->n_tokens));
    if (pass->header->value_type == RB_H5_F16)
        st = capture_write_layer_f16(pass->writer, set, captured->layer, captured->q, captured->k, captured->v,
                                     &pass->statistics, err);
    else
        st = capture_write_layer(pass->writer, set, captured->layer, captured->q, captured->k, captured->v,
                                 &pass->statistics, err);
    pass->write_s += rb_now_s() - started_s;
    return st;
}

/* In that thread too, after the sets of the layer. */
static rb_status save_layer(void *user, int layer, const float *stream, rb_error *err)
{
    const gpu_capture *pass = user;
    return capture_parts_save(pass->parts, pass->writer, pass->watch, layer, stream, err);
}

static rb_status fill_stream(void *user, int64_t first, int64_t n, float *rows, rb_error *err)
{
    const gpu_capture *pass = user;
    return capture_parts_fill_stream(pass->parts, first, n, rows, err);
}

static void layer_done(void *user, int layer)
{
    gpu_capture *pass = user;
    char detail[32];
    snprintf(detail, sizeof detail, "layer %d", layer);
    rb_progress_step(&pass->progress, detail);
}

static void tell(const forward_cuda_report *report, const gpu_capture *pass)
{
    rb_message_verbose("%.3f s for %.2f GB of weights: %.2f GB/s from the file to the GPU", report->total_s,
                       (double)report->weight_bytes * 1e-9, (double)report->weight_bytes * 1e-9 / report->total_s);
    rb_message_verbose(
        "a layer took %.3f ms of the GPU (median, capture included); compressing and writing took %.3f s beside it",
        report->layer_ms, pass->write_s);
    rb_message_verbose("GPU memory %.0f MiB at most, tokens in chunks of %lld", (double)report->gpu_bytes / 0x1p20,
                       (long long)report->chunk_tokens);
}

static forward_cuda_options forward_options(const capture_header *header, layer_cuda_precision precision,
                                            int64_t max_bytes, int64_t set_start[CAPTURE_N_SETS + 1])
{
    set_start[0] = 0;
    for (int set = 0; set < CAPTURE_N_SETS; set++) set_start[set + 1] = set_start[set] + header->text[set].n_tokens;
    return (forward_cuda_options){.precision = precision,
                                  .capture_is_f32 = header->value_type == RB_H5_F32,
                                  .with_values = header->has_values,
                                  .with_residual = header->output.is_known,
                                  .set_start = set_start,
                                  .n_sets = CAPTURE_N_SETS,
                                  .max_bytes = max_bytes};
}

int64_t capture_cuda_bytes(const model_config *config, const capture_header *header, const token_batch *batch,
                           layer_cuda_precision precision, int64_t chunk_tokens)
{
    int64_t set_start[CAPTURE_N_SETS + 1];
    const forward_cuda_options options = forward_options(header, precision, 0, set_start);
    return forward_cuda_bytes(config, batch, &options, chunk_tokens);
}

rb_status capture_on_cuda(const checkpoint *ckpt, const capture_header *header, const token_batch *batch,
                          const capture_cuda_options *options, capture_writer *writer, forward_cuda_report *report,
                          rb_error *err)
{
    gpu_capture pass = {.header = header, .writer = writer, .watch = options->watch, .parts = options->parts};
    int64_t set_start[CAPTURE_N_SETS + 1];
    rb_status st;
    RB_TRY(st, block_statistics_create(&pass.statistics, &header->model, err), done);
    forward_cuda_options cuda = forward_options(header, options->precision, options->max_bytes, set_start);
    if (pass.parts) cuda.first_layer = capture_parts_n_finished(pass.parts);
    const forward_cuda_hooks hooks = {.user = &pass,
                                      .on_captured = write_captured,
                                      .on_stream = pass.parts ? save_layer : NULL,
                                      .fill_stream = fill_stream,
                                      .on_layer_done = layer_done};
    rb_progress_start(&pass.progress, "calibrate", header->model.n_layers - cuda.first_layer);
    st = forward_cuda_run(ckpt, batch, &cuda, &hooks, report, err);
    rb_progress_finish(&pass.progress);
    if (st == RB_OK) tell(report, &pass);
done:
    block_statistics_free(&pass.statistics);
    return st;
}
