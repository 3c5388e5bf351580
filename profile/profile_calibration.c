/* What the calibration text says of a model: profile_table_from_capture of profile/profile_compute.h. */
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "profile/logit_moment.h"
#include "profile/profile_compute.h"

typedef struct calibration_layer {
    block_statistics statistics;
    float *q, *k;       /* [n_q_heads][n_tokens][head_dim], [n_kv_heads][n_tokens][head_dim] */
    int64_t n_tokens;
} calibration_layer;

static rb_status create_calibration_layer(calibration_layer *layer, const capture_header *header, rb_error *err)
{
    const size_t head = (size_t)header->text[CAPTURE_CALIBRATION].n_tokens * (size_t)header->model.head_dim;
    rb_status st;
    layer->n_tokens = header->text[CAPTURE_CALIBRATION].n_tokens;
    RB_TRY(st, block_statistics_create(&layer->statistics, &header->model, err), done);
    RB_TRY(st, rb_alloc(&layer->q, head * (size_t)header->model.n_q_heads, sizeof *layer->q, "queries", err), done);
    RB_TRY(st, rb_alloc(&layer->k, head * (size_t)header->model.n_kv_heads, sizeof *layer->k, "keys", err), done);
done:
    return st;
}

static void free_calibration_layer(calibration_layer *layer)
{
    block_statistics_free(&layer->statistics);
    free(layer->q);
    free(layer->k);
}

/* The moments of every head, raw and centred. */
static rb_status measure_moments(profile_table *table, const calibration_layer *in, int layer, rb_error *err)
{
    const model_facts *model = &table->model;
    const int64_t n = logit_moment_size(table->n_blocks), dim = model->head_dim;
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < 2 * model->n_kv_heads; i++) {
        const int h = i / 2;
        const int64_t head = (int64_t)layer * model->n_kv_heads + h;
        const float *q = in->q + h * model_q_per_kv(model) * in->n_tokens * dim, *k = in->k + h * in->n_tokens * dim;
        rb_error mine = {0};
        const rb_status st = i % 2 == 0 ? logit_moment_measure(table->logit_moment + head * n, model, q, k, NULL, in->n_tokens, &mine)
                                        : logit_moment_measure(table->logit_moment_centered + head * n, model, q, k, table->k_mean + head * dim, in->n_tokens, &mine);
        rb_note_failure(&failure, i, st, &mine);
    }
    return rb_tell_failure(&failure, err);
}

static rb_status read_calibration(profile_table *table, const capture_file *capture, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    const size_t n_energies = (size_t)header->model.n_kv_heads * (size_t)model_n_blocks(&header->model);
    const size_t n_means = (size_t)header->model.n_kv_heads * (size_t)header->model.head_dim;
    calibration_layer in = {0};
    rb_status st;
    RB_TRY(st, create_calibration_layer(&in, header, err), done);
    for (int layer = 0; layer < header->model.n_layers; layer++) {
        RB_TRY(st, capture_read_statistics(capture, CAPTURE_CALIBRATION, layer, &in.statistics, err), done);
        RB_TRY(st, capture_read_q(capture, CAPTURE_CALIBRATION, layer, in.q, err), done);
        RB_TRY(st, capture_read_k(capture, CAPTURE_CALIBRATION, layer, in.k, err), done);
        memcpy(table->q_energy + (size_t)layer * n_energies, in.statistics.q_energy, n_energies * sizeof(double));
        memcpy(table->k_energy + (size_t)layer * n_energies, in.statistics.k_energy, n_energies * sizeof(double));
        memcpy(table->k_mean + (size_t)layer * n_means, in.statistics.k_mean, n_means * sizeof(double));
        RB_TRY(st, measure_moments(table, &in, layer, err), done);
    }
done:
    free_calibration_layer(&in);
    return st;
}

rb_status profile_table_from_capture(profile_table **out, const capture_file *capture, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    profile_table *table = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, profile_table_create(&table, &header->model, err), done);
    table->calibration = header->text[CAPTURE_CALIBRATION];
    table->test = header->text[CAPTURE_TEST];
    RB_TRY(st, rb_sha256_file_start(&table->hashing, capture_file_path(capture), err), done);
    RB_TRY(st, read_calibration(table, capture, err), done);
    *out = table;
    table = NULL;
done:
    profile_table_free(table);
    return st;
}
