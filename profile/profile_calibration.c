/* What the calibration text says of a model: profile_table_from_capture of profile/profile_compute.h. */
#include <stdlib.h>
#include <string.h>

#include "core/message.h"
#include "core/threads.h"
#include "model/rope_apply.h"
#include "profile/block_codebook_error.h"
#include "profile/logit_moment.h"
#include "profile/profile_compute.h"
#include "profile/value_error.h"

typedef struct calibration_layer {
    block_statistics statistics;
    float *q, *k; /* [n_q_heads or n_kv_heads][n_tokens][head_dim] */
    float *v;     /* [n_kv_heads][n_tokens][value_dim]; NULL for a capture without values */
    int64_t n_tokens, context;
    codec_tables *tables;
    /* For what values do. */
    rope_table ropes[2]; /* of the usual RoPE and of the local one: by layer_is_local */
    int64_t *sequence_start, n_sequences;
    double values_s;
} calibration_layer;

static rb_status create_values(calibration_layer *layer, const model_facts *model, rb_error *err)
{
    const size_t n_values = (size_t)layer->n_tokens * (size_t)model->value_dim * (size_t)model->n_kv_heads;
    const int64_t n_positions = layer->context < layer->n_tokens ? layer->context : layer->n_tokens;
    rb_status st;
    layer->n_sequences = (layer->n_tokens + layer->context - 1) / layer->context;
    RB_TRY(st, rb_alloc(&layer->v, n_values, sizeof *layer->v, "values", err), done);
    RB_TRY(st, rope_table_init(&layer->ropes[0], model, &model->rope, n_positions, err), done);
    if (model->has_local_rope)
        RB_TRY(st, rope_table_init(&layer->ropes[1], model, &model->local_rope, n_positions, err), done);
    RB_TRY(st,
           rb_alloc(&layer->sequence_start, (size_t)layer->n_sequences + 1, sizeof *layer->sequence_start, "sequences",
                    err),
           done);
    for (int64_t i = 0; i <= layer->n_sequences; i++)
        layer->sequence_start[i] = i < layer->n_sequences ? i * layer->context : layer->n_tokens;
done:
    return st;
}

static rb_status create_calibration_layer(calibration_layer *layer, const capture_header *header, rb_error *err)
{
    const size_t head = (size_t)header->text[CAPTURE_CALIBRATION].n_tokens * (size_t)header->model.head_dim;
    rb_status st;
    layer->n_tokens = header->text[CAPTURE_CALIBRATION].n_tokens;
    layer->context = header->text[CAPTURE_CALIBRATION].context;
    RB_TRY(st, codec_tables_create(&layer->tables, err), done);
    RB_TRY(st, block_statistics_create(&layer->statistics, &header->model, err), done);
    RB_TRY(st, rb_alloc(&layer->q, head * (size_t)header->model.n_q_heads, sizeof *layer->q, "queries", err), done);
    RB_TRY(st, rb_alloc(&layer->k, head * (size_t)header->model.n_kv_heads, sizeof *layer->k, "keys", err), done);
    if (header->has_values) RB_TRY(st, create_values(layer, &header->model, err), done);
done:
    return st;
}

static void free_calibration_layer(calibration_layer *layer)
{
    block_statistics_free(&layer->statistics);
    free(layer->q);
    free(layer->k);
    free(layer->v);
    codec_tables_free(layer->tables);
    for (int i = 0; i < 2; i++) rope_table_free(&layer->ropes[i]);
    free(layer->sequence_start);
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
        const rb_status st = i % 2 == 0 ? logit_moment_measure(table->logit_moment + head * n, model, layer, q, k, NULL,
                                                               in->n_tokens, &mine)
                                        : logit_moment_measure(table->logit_moment_centered + head * n, model, layer, q,
                                                               k, table->k_mean + head * dim, in->n_tokens, &mine);
        rb_note_failure(&failure, i, st, &mine);
    }
    return rb_tell_failure(&failure, err);
}

/* What block-codebook makes of every head's keys. */
static rb_status measure_block_codebook(profile_table *table, const calibration_layer *in, int layer, rb_error *err)
{
    const model_facts *model = &table->model;
    const int64_t n_blocks = table->n_blocks;
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic)
    for (int h = 0; h < model->n_kv_heads; h++) {
        const int64_t head = (int64_t)layer * model->n_kv_heads + h, at = head * n_blocks;
        double weights[RB_MAX_BLOCKS];
        rb_error mine = {0};
        for (int block = 0; block < n_blocks; block++)
            weights[block] = table->q_energy[at + block] * model_query_weight(model, layer, block);
        const rb_status st = block_codebook_error_measure(
            table->block_codebook_map + at * BLOCK_CODEBOOK_MAP_SIZE,
            table->block_codebook_error + at * BLOCK_CODEBOOK_N_BITS, model, in->k + h * in->n_tokens * model->head_dim,
            in->n_tokens, table->k_mean + head * model->head_dim, weights, in->tables, &mine);
        rb_note_failure(&failure, h, st, &mine);
    }
    return rb_tell_failure(&failure, err);
}

/* What the layer's values do to its output at every width. Turns queries and keys in place: nobody looks at them
 * afterwards. */
static rb_status measure_values(profile_table *table, calibration_layer *in, const capture_file *capture, int layer,
                                rb_error *err)
{
    const model_facts *model = &table->model;
    const int n_q = model_q_per_kv(model);
    const int64_t head = in->n_tokens * model->head_dim, values = in->n_tokens * model->value_dim;
    const rope_table *rope = &in->ropes[model->layer_is_local[layer]];
    const double started_s = rb_now_s();
    rb_status st;
    RB_TRY(st, capture_read_v(capture, CAPTURE_CALIBRATION, layer, in->v, err), done);
    rope_apply(rope, in->q, model->n_q_heads, model->head_dim, in->sequence_start, in->n_sequences);
    rope_apply(rope, in->k, model->n_kv_heads, model->head_dim, in->sequence_start, in->n_sequences);
    for (int h = 0; h < model->n_kv_heads; h++) {
        const int64_t at = (int64_t)layer * model->n_kv_heads + h;
        const value_vectors vectors = {in->q + h * n_q * head, in->k + h * head, in->v + h * values, n_q,
                                       in->n_tokens,           in->context};
        st = value_errors(table->value_error + at * PROFILE_MAX_WIDTH, &table->value_energy[at], model, h, &vectors,
                          in->tables, err);
        if (st != RB_OK) {
            st = rb_fail_in(err, st, "layer %d kv_head %d, values", layer, h);
            goto done;
        }
    }
    in->values_s += rb_now_s() - started_s;
done:
    return st;
}

static rb_status read_calibration(profile_table *table, const capture_file *capture, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    const size_t n_energies = (size_t)header->model.n_kv_heads * (size_t)model_n_blocks(&header->model);
    const size_t n_means = (size_t)header->model.n_kv_heads * (size_t)header->model.head_dim;
    calibration_layer in = {0};
    rb_status st;
    RB_TRY(st, create_calibration_layer(&in, header, err), done);
    if (header->has_values) RB_TRY(st, profile_table_add_values(table, err), done);
    for (int layer = 0; layer < header->model.n_layers; layer++) {
        RB_TRY(st, capture_read_statistics(capture, CAPTURE_CALIBRATION, layer, &in.statistics, err), done);
        RB_TRY(st, capture_read_q(capture, CAPTURE_CALIBRATION, layer, in.q, err), done);
        RB_TRY(st, capture_read_k(capture, CAPTURE_CALIBRATION, layer, in.k, err), done);
        memcpy(table->q_energy + (size_t)layer * n_energies, in.statistics.q_energy, n_energies * sizeof(double));
        memcpy(table->k_energy + (size_t)layer * n_energies, in.statistics.k_energy, n_energies * sizeof(double));
        memcpy(table->k_mean + (size_t)layer * n_means, in.statistics.k_mean, n_means * sizeof(double));
        RB_TRY(st, measure_moments(table, &in, layer, err), done);
        RB_TRY(st, measure_block_codebook(table, &in, layer, err), done);
        if (header->has_values) RB_TRY(st, measure_values(table, &in, capture, layer, err), done);
    }
    if (header->has_values) rb_message_verbose("output errors of values took %.3f s", in.values_s);
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
