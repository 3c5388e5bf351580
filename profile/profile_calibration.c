/* What the calibration text says of a model: profile_table_from_capture and profile_measure_sensitivity of
 * profile/profile_compute.h. */
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
    float *counted_q, *counted_k; /* those of q and k that are not among the first n_sink of their sequence */
    int64_t n_counted;
    float *turned_k; /* k as it leaves RoPE; q turns in place */
    codec_tables *tables;
    rope_table ropes[2]; /* of the usual RoPE and of the local one: by layer_is_local */
    int64_t *sequence_start, n_sequences;
    double values_s;
} calibration_layer;

static rb_status create_turned(calibration_layer *layer, const model_facts *model, rb_error *err)
{
    const size_t head = (size_t)layer->n_tokens * (size_t)model->head_dim;
    rb_status st;
    layer->n_sequences = (layer->n_tokens + layer->context - 1) / layer->context;
    RB_TRY(st, rb_alloc(&layer->turned_k, head * (size_t)model->n_kv_heads, sizeof *layer->turned_k, "keys", err),
           done);
    RB_TRY(st, rope_table_init(&layer->ropes[0], model, &model->rope, layer->context, err), done);
    if (model->has_local_rope)
        RB_TRY(st, rope_table_init(&layer->ropes[1], model, &model->local_rope, layer->context, err), done);
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
    if (layer->context > layer->n_tokens) layer->context = layer->n_tokens;
    RB_TRY(st, codec_tables_create(&layer->tables, err), done);
    RB_TRY(st, block_statistics_create(&layer->statistics, &header->model, err), done);
    RB_TRY(st, rb_alloc(&layer->q, head * (size_t)header->model.n_q_heads, sizeof *layer->q, "queries", err), done);
    RB_TRY(st, rb_alloc(&layer->k, head * (size_t)header->model.n_kv_heads, sizeof *layer->k, "keys", err), done);
    if (header->has_values)
        RB_TRY(st,
               rb_alloc(&layer->v, (size_t)layer->n_tokens * (size_t)header->model.value_dim,
                        (size_t)header->model.n_kv_heads * sizeof *layer->v, "values", err),
               done);
    RB_TRY(st, create_turned(layer, &header->model, err), done);
done:
    return st;
}

static void free_calibration_layer(calibration_layer *layer)
{
    block_statistics_free(&layer->statistics);
    free(layer->q);
    free(layer->k);
    free(layer->v);
    free(layer->counted_q);
    free(layer->counted_k);
    free(layer->turned_k);
    codec_tables_free(layer->tables);
    for (int i = 0; i < 2; i++) rope_table_free(&layer->ropes[i]);
    free(layer->sequence_start);
}

/* Keys and queries as they enter RoPE, of all tokens or of those that count. */
typedef struct calibration_vectors {
    const float *q, *k;
    int64_t n_tokens;
} calibration_vectors;

/* The moments of every head, raw and centred. */
static rb_status measure_moments(token_statistics *out, const model_facts *model, const calibration_vectors *in,
                                 int layer, rb_error *err)
{
    const int64_t n = logit_moment_size(model_n_blocks(model)), dim = model->head_dim;
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < 2 * model->n_kv_heads; i++) {
        const int h = i / 2;
        const int64_t head = (int64_t)layer * model->n_kv_heads + h;
        const float *q = in->q + h * model_q_per_kv(model) * in->n_tokens * dim, *k = in->k + h * in->n_tokens * dim;
        rb_error mine = {0};
        const rb_status st = i % 2 == 0 ? logit_moment_measure(out->logit_moment + head * n, model, layer, q, k, NULL,
                                                               in->n_tokens, &mine)
                                        : logit_moment_measure(out->logit_moment_centered + head * n, model, layer, q,
                                                               k, out->k_mean + head * dim, in->n_tokens, &mine);
        rb_note_failure(&failure, i, st, &mine);
    }
    return rb_tell_failure(&failure, err);
}

/* What block-codebook makes of every head's keys. */
static rb_status measure_block_codebook(token_statistics *out, const model_facts *model, const calibration_vectors *in,
                                        codec_tables *tables, int layer, rb_error *err)
{
    const int64_t n_blocks = model_n_blocks(model);
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic)
    for (int h = 0; h < model->n_kv_heads; h++) {
        const int64_t head = (int64_t)layer * model->n_kv_heads + h, at = head * n_blocks;
        double weights[RB_MAX_BLOCKS];
        rb_error mine = {0};
        for (int block = 0; block < n_blocks; block++)
            weights[block] = out->q_energy[at + block] * model_query_weight(model, layer, block);
        const rb_status st = block_codebook_error_measure(out->block_codebook_map + at * BLOCK_CODEBOOK_MAP_SIZE,
                                                          out->block_codebook_error + at * BLOCK_CODEBOOK_N_BITS, model,
                                                          in->k + h * in->n_tokens * model->head_dim, in->n_tokens,
                                                          out->k_mean + head * model->head_dim, weights, tables, &mine);
        rb_note_failure(&failure, h, st, &mine);
    }
    return rb_tell_failure(&failure, err);
}

static rb_status measure_keys(token_statistics *out, const model_facts *model, const calibration_vectors *vectors,
                              const block_statistics *energies, codec_tables *tables, int layer, rb_error *err)
{
    const size_t n_energies = (size_t)model->n_kv_heads * (size_t)model_n_blocks(model),
                 n_means = (size_t)model->n_kv_heads * (size_t)model->head_dim;
    memcpy(out->q_energy + (size_t)layer * n_energies, energies->q_energy, n_energies * sizeof(double));
    memcpy(out->k_energy + (size_t)layer * n_energies, energies->k_energy, n_energies * sizeof(double));
    memcpy(out->k_mean + (size_t)layer * n_means, energies->k_mean, n_means * sizeof(double));
    const rb_status st = measure_moments(out, model, vectors, layer, err);
    return st == RB_OK ? measure_block_codebook(out, model, vectors, tables, layer, err) : st;
}

/* Nobody looks at the queries as they enter RoPE afterwards. */
static void turn_layer(calibration_layer *in, const model_facts *model, int layer)
{
    const size_t head = (size_t)in->n_tokens * (size_t)model->head_dim;
    const rope_table *rope = &in->ropes[model->layer_is_local[layer]];
    memcpy(in->turned_k, in->k, head * (size_t)model->n_kv_heads * sizeof *in->k);
    rope_apply(rope, in->q, model->n_q_heads, model->head_dim, in->sequence_start, in->n_sequences);
    rope_apply(rope, in->turned_k, model->n_kv_heads, model->head_dim, in->sequence_start, in->n_sequences);
}

/* What the layer's values do to its output at every width, the first n_sink of every sequence exact. */
static rb_status measure_values(token_statistics *out, const model_facts *model, calibration_layer *in, int layer,
                                int64_t n_sink, rb_error *err)
{
    const int n_q = model_q_per_kv(model);
    const int64_t head = in->n_tokens * model->head_dim, values = in->n_tokens * model->value_dim;
    const double started_s = rb_now_s();
    rb_status st = RB_OK;
    for (int h = 0; h < model->n_kv_heads && st == RB_OK; h++) {
        const int64_t at = (int64_t)layer * model->n_kv_heads + h;
        const value_vectors vectors = {.q = in->q + h * n_q * head,
                                       .k = in->turned_k + h * head,
                                       .v = in->v + h * values,
                                       .n_q = n_q,
                                       .n_tokens = in->n_tokens,
                                       .context = in->context,
                                       .n_sink = n_sink};
        st = value_errors(out->value_error + at * PROFILE_MAX_WIDTH, &out->value_energy[at], model, h, &vectors,
                          in->tables, err);
        if (st != RB_OK) st = rb_fail_in(err, st, "layer %d kv_head %d, values", layer, h);
    }
    in->values_s += rb_now_s() - started_s;
    return st;
}

static rb_status read_layer(calibration_layer *in, const capture_file *capture, int layer, rb_error *err)
{
    rb_status st;
    RB_TRY(st, capture_read_q(capture, CAPTURE_CALIBRATION, layer, in->q, err), done);
    RB_TRY(st, capture_read_k(capture, CAPTURE_CALIBRATION, layer, in->k, err), done);
    if (in->v) RB_TRY(st, capture_read_v(capture, CAPTURE_CALIBRATION, layer, in->v, err), done);
done:
    return st;
}

/* ---- of all tokens, and what acts as a sink -------------------------------------------------- */

static rb_status measure_all(profile_table *table, calibration_layer *in, sink_tokens *tokens,
                             const capture_file *capture, rb_error *err)
{
    const model_facts *model = &table->model;
    const size_t n_energies = (size_t)model->n_kv_heads * (size_t)table->n_blocks,
                 n_means = (size_t)model->n_kv_heads * (size_t)model->head_dim;
    const calibration_vectors vectors = {in->q, in->k, in->n_tokens};
    rb_status st = RB_OK;
    for (int layer = 0; layer < model->n_layers; layer++) {
        RB_TRY(st, capture_read_statistics(capture, CAPTURE_CALIBRATION, layer, &in->statistics, err), done);
        RB_TRY(st, read_layer(in, capture, layer, err), done);
        RB_TRY(st, measure_keys(&table->all, model, &vectors, &in->statistics, in->tables, layer, err), done);
        turn_layer(in, model, layer);
        const sink_layer sinks = {.k = in->k,
                                  .q_turned = in->q,
                                  .k_turned = in->turned_k,
                                  .v = in->v,
                                  .q_energy = table->all.q_energy + (size_t)layer * n_energies,
                                  .k_mean = table->all.k_mean + (size_t)layer * n_means,
                                  .n_tokens = in->n_tokens,
                                  .context = in->context};
        RB_TRY(st, sink_evidence_add_layer(&table->sinks, tokens, model, layer, &sinks, err), done);
        if (in->v) RB_TRY(st, measure_values(&table->all, model, in, layer, 0, err), done);
    }
done:
    return st;
}

static rb_status find_other_sinks(profile_table *table, const sink_tokens *tokens, const capture_file *capture,
                                  rb_error *err)
{
    int32_t *ids = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&ids, (size_t)table->calibration.n_tokens, sizeof *ids, "token ids", err), done);
    RB_TRY(st, capture_read_tokens(capture, CAPTURE_CALIBRATION, ids, err), done);
    st = sink_evidence_find_others(&table->sinks, tokens, ids, table->calibration.n_tokens, table->n_sink, err);
done:
    free(ids);
    return st;
}

/* ---- of those that count --------------------------------------------------------------------- */

static void take_counted(float *out, const float *x, int n_heads, int dim, const calibration_layer *in, int64_t n_sink)
{
    for (int h = 0; h < n_heads; h++)
        for (int64_t t = 0; t < in->n_tokens; t++) {
            if (t % in->context < n_sink) continue;
            memcpy(out, x + (h * in->n_tokens + t) * dim, (size_t)dim * sizeof *out);
            out += dim;
        }
}

static rb_status create_counted(calibration_layer *in, const model_facts *model, int64_t n_sink, rb_error *err)
{
    const size_t dim = (size_t)model->head_dim;
    rb_status st;
    for (int64_t t = 0; t < in->n_tokens; t++) in->n_counted += t % in->context >= n_sink;
    if (in->n_counted == 0)
        return rb_fail(err, RB_EINVAL, "sink is %lld, expected less than the %lld tokens of the capture's sequences",
                       (long long)n_sink, (long long)in->context);
    RB_TRY(st,
           rb_alloc(&in->counted_q, (size_t)in->n_counted * dim, (size_t)model->n_q_heads * sizeof *in->counted_q,
                    "queries", err),
           done);
    st = rb_alloc(&in->counted_k, (size_t)in->n_counted * dim, (size_t)model->n_kv_heads * sizeof *in->counted_k,
                  "keys", err);
done:
    return st;
}

static rb_status measure_counted(profile_table *table, calibration_layer *in, const capture_file *capture,
                                 rb_error *err)
{
    const model_facts *model = &table->model;
    const int64_t n_sink = table->n_sink;
    rb_status st;
    RB_TRY(st, create_counted(in, model, n_sink, err), done);
    const calibration_vectors vectors = {in->counted_q, in->counted_k, in->n_counted};
    for (int layer = 0; layer < model->n_layers; layer++) {
        RB_TRY(st, read_layer(in, capture, layer, err), done);
        take_counted(in->counted_q, in->q, model->n_q_heads, model->head_dim, in, n_sink);
        take_counted(in->counted_k, in->k, model->n_kv_heads, model->head_dim, in, n_sink);
        RB_TRY(st, block_statistics_compute(&in->statistics, model, layer, vectors.q, vectors.k, vectors.n_tokens, err),
               done);
        RB_TRY(st, measure_keys(&table->counted, model, &vectors, &in->statistics, in->tables, layer, err), done);
        turn_layer(in, model, layer);
        if (in->v) RB_TRY(st, measure_values(&table->counted, model, in, layer, n_sink, err), done);
    }
done:
    return st;
}

/* n_sink: SINK_AUTO, or what is asked for. */
static rb_status read_calibration(profile_table *table, const capture_file *capture, int64_t n_sink, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    calibration_layer in = {0};
    sink_tokens tokens = {0};
    rb_status st;
    RB_TRY(st, create_calibration_layer(&in, header, err), done);
    RB_TRY(st, sink_tokens_create(&tokens, in.n_tokens, err), done);
    if (header->has_values) RB_TRY(st, profile_table_add_values(table, err), done);
    RB_TRY(st, profile_table_add_sinks(table, err), done);
    RB_TRY(st, measure_all(table, &in, &tokens, capture, err), done);
    if (n_sink == SINK_AUTO) n_sink = sink_choose(&table->sinks);
    if (n_sink > 0) {
        RB_TRY(st, profile_table_add_counted(table, n_sink, err), done);
        RB_TRY(st, measure_counted(table, &in, capture, err), done);
    }
    RB_TRY(st, find_other_sinks(table, &tokens, capture, err), done);
    if (header->has_values) rb_message_verbose("output errors of values took %.3f s", in.values_s);
done:
    sink_tokens_free(&tokens);
    free_calibration_layer(&in);
    return st;
}

rb_status profile_table_from_capture(profile_table **out, const capture_file *capture, int64_t n_sink, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    profile_table *table = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, profile_table_create(&table, &header->model, err), done);
    table->calibration = header->text[CAPTURE_CALIBRATION];
    table->test = header->text[CAPTURE_TEST];
    RB_TRY(st, rb_sha256_file_start(&table->hashing, capture_file_path(capture), err), done);
    RB_TRY(st, read_calibration(table, capture, n_sink, err), done);
    *out = table;
    table = NULL;
done:
    profile_table_free(table);
    return st;
}

/* ---- what errors do to the output ------------------------------------------------------------ */

/* metric: room for a layer's output metric, or NULL. */
static rb_status measure_layer(profile_table *table, calibration_layer *in, const capture_file *capture, int layer,
                               int64_t n_limit, float *metric, rb_error *err)
{
    const model_facts *model = &table->model;
    const capture_output *output = &capture_file_header(capture)->output;
    rb_status st;
    RB_TRY(st, read_layer(in, capture, layer, err), done);
    turn_layer(in, model, layer);
    if (metric) RB_TRY(st, capture_read_output_metric(capture, layer, metric, err), done);
    const sensitivity_layer vectors = {.q = in->q,
                                       .turned_k = in->turned_k,
                                       .k = in->k,
                                       .v = in->v,
                                       .output_metric = metric,
                                       .rope = &in->ropes[model->layer_is_local[layer]],
                                       .n_tokens = in->n_tokens,
                                       .context = in->context,
                                       .n_sink = table->n_sink,
                                       .window = output->window[layer],
                                       .softcap = output->softcap,
                                       .n_limit = n_limit};
    st = output_sensitivity_measure(&table->sensitivity, model, layer, &vectors, err);
done:
    return st;
}

static rb_status measure_layers(profile_table *table, calibration_layer *in, const capture_file *capture,
                                int64_t n_limit, rb_error *err)
{
    const model_facts *model = &table->model;
    const size_t n = (size_t)model_q_per_kv(model) * (size_t)model->value_dim;
    rb_progress progress;
    float *metric = NULL;
    rb_status st = RB_OK;
    if (table->sensitivity.has_output_metric)
        RB_TRY(st, rb_alloc(&metric, (size_t)model->n_kv_heads * n * n, sizeof *metric, "output metric", err), done);
    rb_progress_start(&progress, "profile: metrics", model->n_layers);
    for (int layer = 0; layer < model->n_layers && st == RB_OK; layer++) {
        st = measure_layer(table, in, capture, layer, n_limit, metric, err);
        if (st == RB_OK) rb_progress_step(&progress, NULL);
    }
    rb_progress_finish(&progress);
done:
    free(metric);
    return st;
}

rb_status profile_measure_sensitivity(profile_table *table, const capture_file *capture,
                                      const sensitivity_options *options, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    output_sensitivity *out = &table->sensitivity;
    calibration_layer in = {0};
    const double started_s = rb_now_s();
    rb_status st;
    if (!header->has_values || options->n_tokens == 0) return RB_OK;
    RB_TRY(st, output_sensitivity_create(out, &table->model, header->output.is_known, err), done);
    out->n_draws = (int)options->n_draws;
    out->seed = SENSITIVITY_SEED;
    out->has_output_metric = header->output.has_metric;
    if (!out->has_output_metric)
        rb_message_info("the capture has no output metric: every dim of a head's output counts alike");
    if (out->residual_energy) RB_TRY(st, capture_read_residual_energy(capture, out->residual_energy, err), done);
    RB_TRY(st, create_calibration_layer(&in, header, err), done);
    RB_TRY(st, measure_layers(table, &in, capture, options->n_tokens, err), done);
    rb_message_verbose("metrics of the attention's output took %.3f s", rb_now_s() - started_s);
done:
    free_calibration_layer(&in);
    return st;
}
