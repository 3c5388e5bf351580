/* A capture small enough to check by eye, with values that follow a formula (tests/programs/h5py.sh has the same
 * formula in numpy): two layers, four query and two KV heads of six dims, four of which RoPE turns; 33 calibration and
 * 17 test tokens. */
#ifndef RB_TESTS_CALIBRATE_TINY_CAPTURE_H
#define RB_TESTS_CALIBRATE_TINY_CAPTURE_H

#include <stdlib.h>
#include <string.h>

#include "calibrate/capture_file.h"

enum {
    TINY_LAYERS = 2,
    TINY_Q_HEADS = 4,
    TINY_KV_HEADS = 2,
    TINY_DIM = 6,
    TINY_MAX_VALUE_DIM = 10,
    TINY_N_CALIBRATION = 33,
    TINY_N_TEST = 17,
    TINY_MAX_TOKENS = TINY_N_CALIBRATION
};
enum { TINY_Q, TINY_K, TINY_V };

static inline capture_header tiny_header(rb_h5_type value_type, bool has_values)
{
    capture_header header = {
        .model = {.model_type = "llama",
                  .n_layers = TINY_LAYERS,
                  .n_q_heads = TINY_Q_HEADS,
                  .n_kv_heads = TINY_KV_HEADS,
                  .head_dim = TINY_DIM,
                  .rotary_dim = 4,
                  .value_dim = TINY_DIM,
                  .attention_scale = 0.40824829046386302,
                  .rope = {.attention_factor = 1,
                           .kind = ROPE_LLAMA3,
                           .pairing = ROPE_SPLIT_HALF,
                           .theta = 10000,
                           .factor = 8,
                           .low_freq_factor = 1,
                           .high_freq_factor = 4,
                           .original_max_position = 8192,
                           .inv_freq = {1, 0.01}}},
        .text = {{.n_tokens = TINY_N_CALIBRATION, .context = 16}, {.n_tokens = TINY_N_TEST, .context = 16}},
        .value_type = value_type,
        .has_values = has_values,
    };
    memset(header.model.config_sha256, 'a', RB_SHA256_HEX - 1);
    if (has_values) header.output = (capture_output){.is_known = true, .has_metric = true, .window = {0, 7}};
    return header;
}

static inline int32_t tiny_token(int set, int64_t at) { return (int32_t)(at * (set + 3) % 97); }

/* Multiples of 1/8 below 16: exact in f16. */
static inline float tiny_value(int set, int layer, int vectors, int head, int64_t token, int dim)
{
    return (float)((set * 7 + layer * 5 + vectors * 3 + head * 11 + token * 13 + dim * 17) % 251 - 125) / 8.0f;
}

static inline void tiny_fill(float *out, int set, int layer, int vectors, int n_heads, int64_t n_tokens, int n_dims)
{
    for (int head = 0; head < n_heads; head++)
        for (int64_t t = 0; t < n_tokens; t++)
            for (int d = 0; d < n_dims; d++) *out++ = tiny_value(set, layer, vectors, head, t, d);
}

/* Vectors of one layer of one set, [heads][n_tokens][TINY_DIM], of v [..][value_dim]. */
typedef struct tiny_layer {
    float q[TINY_Q_HEADS * TINY_MAX_TOKENS * TINY_DIM], k[TINY_KV_HEADS * TINY_MAX_TOKENS * TINY_DIM],
        v[TINY_KV_HEADS * TINY_MAX_TOKENS * TINY_MAX_VALUE_DIM];
} tiny_layer;

static inline tiny_layer tiny_vectors(const capture_header *header, int set, int layer)
{
    tiny_layer out;
    const int64_t n_tokens = header->text[set].n_tokens;
    memset(&out, 0, sizeof out);
    tiny_fill(out.q, set, layer, TINY_Q, TINY_Q_HEADS, n_tokens, TINY_DIM);
    tiny_fill(out.k, set, layer, TINY_K, TINY_KV_HEADS, n_tokens, TINY_DIM);
    tiny_fill(out.v, set, layer, TINY_V, TINY_KV_HEADS, n_tokens, header->model.value_dim);
    return out;
}

/* Floats of one layer's output metric, and the metric: 1 + b b^T of each KV head. */
static inline int tiny_metric_size(const capture_header *header)
{
    const int n = TINY_Q_HEADS / TINY_KV_HEADS * header->model.value_dim;
    return TINY_KV_HEADS * n * n;
}
enum { TINY_MAX_METRIC = TINY_KV_HEADS * 2 * TINY_MAX_VALUE_DIM * 2 * TINY_MAX_VALUE_DIM };

static inline void tiny_metric(float *out, const capture_header *header, int layer)
{
    const int n = TINY_Q_HEADS / TINY_KV_HEADS * header->model.value_dim;
    for (int head = 0; head < TINY_KV_HEADS; head++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                const int a = (i * 7 + layer * 3 + head) % 5, b = (j * 7 + layer * 3 + head) % 5;
                *out++ = (i == j ? 1.0f : 0.0f) + (float)(a * b) / 16.0f;
            }
}

static inline double tiny_residual_energy(int layer) { return 10.0 + layer; }

static inline void tiny_tokens(const capture_header *header, int32_t *ids, int set)
{
    for (int64_t i = 0; i < header->text[set].n_tokens; i++) ids[i] = tiny_token(set, i);
}

static inline rb_status tiny_create(capture_writer **out, const char *path, const capture_header *header, rb_error *err)
{
    int32_t calibration[TINY_MAX_TOKENS], test[TINY_MAX_TOKENS];
    const int32_t *const tokens[CAPTURE_N_SETS] = {calibration, test};
    tiny_tokens(header, calibration, CAPTURE_CALIBRATION);
    tiny_tokens(header, test, CAPTURE_TEST);
    return capture_create(out, path, header, tokens, "{\"n_tokens\": 33}", err);
}

static inline rb_status tiny_write_layer(capture_writer *writer, const capture_header *header, int set, int layer,
                                         rb_error *err)
{
    const tiny_layer vectors = tiny_vectors(header, set, layer);
    block_statistics statistics;
    rb_status st = block_statistics_create(&statistics, &header->model, err);
    if (st == RB_OK)
        st = block_statistics_compute(&statistics, &header->model, layer, vectors.q, vectors.k,
                                      header->text[set].n_tokens, err);
    if (st == RB_OK)
        st = capture_write_layer(writer, (capture_set)set, layer, vectors.q, vectors.k,
                                 header->has_values ? vectors.v : NULL, &statistics, err);
    block_statistics_free(&statistics);
    return st;
}

static inline rb_status tiny_write_output(capture_writer *writer, const capture_header *header, int layer,
                                          rb_error *err)
{
    float metric[TINY_MAX_METRIC];
    if (!header->output.is_known) return RB_OK;
    capture_set_residual_energy(writer, layer, tiny_residual_energy(layer));
    tiny_metric(metric, header, layer);
    return header->output.has_metric ? capture_write_output_metric(writer, layer, metric, err) : RB_OK;
}

static inline rb_status tiny_write_header(const char *path, const capture_header *header, rb_error *err)
{
    capture_writer *writer = NULL;
    rb_status st = tiny_create(&writer, path, header, err);
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        for (int layer = 0; layer < TINY_LAYERS && st == RB_OK; layer++)
            st = tiny_write_layer(writer, header, set, layer, err);
    for (int layer = 0; layer < TINY_LAYERS && st == RB_OK; layer++) st = tiny_write_output(writer, header, layer, err);
    if (st == RB_OK) st = capture_publish(writer, err);
    capture_writer_free(writer);
    return st;
}

static inline rb_status tiny_write(const char *path, rb_h5_type value_type, bool has_values, rb_error *err)
{
    const capture_header header = tiny_header(value_type, has_values);
    return tiny_write_header(path, &header, err);
}

/* A capture of a model with everything that most do not have: layer 1 turns by a RoPE of its own, both have an
 * attention factor, pairs are interleaved, values are longer than keys. */
static inline capture_header tiny_new_header(void)
{
    capture_header header = tiny_header(RB_H5_F32, true);
    model_facts *model = &header.model;
    model->value_dim = TINY_MAX_VALUE_DIM;
    model->rope.pairing = ROPE_INTERLEAVED;
    model->rope.attention_factor = 1.2;
    model->has_local_rope = model->layer_is_local[1] = true;
    model->local_rope = model->rope;
    model->local_rope.attention_factor = 1.5;
    model->local_rope.inv_freq[0] = 0.7;
    model->local_rope.inv_freq[1] = 0.05;
    return header;
}

#endif
