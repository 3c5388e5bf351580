/* See layer.h. */
#include "model/layer.h"

#include <stdlib.h>
#include <string.h>

#include "model/attention.h"
#include "model/linear.h"
#include "model/vector_math.h"

/* Tokens that go through the MLP together. Gate and up of the whole batch would be the largest buffer of all. */
enum { MLP_TILE_TOKENS = 512 };

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t q_width(const model_config *c) { return (int64_t)c->facts.n_q_heads * c->facts.head_dim; }
static int64_t heads_width(const model_config *c)
{
    return ((int64_t)c->facts.n_q_heads + 2 * (int64_t)c->facts.n_kv_heads) * c->facts.head_dim;
}
static int64_t rows_width(const model_config *c) { return max_i64(c->hidden_size, q_width(c)); }
static int64_t mlp_tile_tokens(int64_t n_tokens) { return min_i64(n_tokens, MLP_TILE_TOKENS); }

static int64_t recent_width(const model_config *c, bool is_buffered)
{
    return is_buffered ? 2 * (int64_t)c->facts.n_kv_heads * c->facts.head_dim : 0;
}

rb_status layer_activations_alloc(layer_activations *a, const model_config *config, int64_t n_all, int64_t n_part,
                                  bool is_buffered, rb_error *err)
{
    const size_t f32 = sizeof(float), n = (size_t)n_part;
    rb_status st;

    *a = (layer_activations){0};
    RB_TRY(st, rb_alloc(&a->all_hidden, (size_t)n_all, (size_t)config->hidden_size * f32, "hidden states", err), done);
    RB_TRY(st, rb_alloc(&a->rows, n, (size_t)rows_width(config) * f32, "projection rows", err), done);
    RB_TRY(st, rb_alloc(&a->heads, n, (size_t)heads_width(config) * f32, "q, k and v", err), done);
    if (is_buffered)
        RB_TRY(st, rb_alloc(&a->recent, n, (size_t)recent_width(config, true) * f32, "recent k and v", err), done);
    RB_TRY(st,
           rb_alloc(&a->mlp, (size_t)mlp_tile_tokens(n_part), 2 * (size_t)config->intermediate_size * f32, "MLP tile",
                    err),
           done);
done:
    if (st != RB_OK) layer_activations_free(a);
    return st;
}

void layer_activations_free(layer_activations *a)
{
    free(a->all_hidden);
    free(a->rows);
    free(a->heads);
    free(a->recent);
    free(a->mlp);
    *a = (layer_activations){0};
}

int64_t layer_activations_bytes(const model_config *c, int64_t n_all, int64_t n_part, bool is_buffered)
{
    const int64_t part_floats = rows_width(c) + heads_width(c) + recent_width(c, is_buffered);
    return (n_all * c->hidden_size + n_part * part_floats + mlp_tile_tokens(n_part) * 2 * (int64_t)c->intermediate_size)
           * (int64_t)sizeof(float);
}

void layer_norm_rows(float *out, const float *x, const float *weight, double eps, int64_t n, int64_t width)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++) rms_norm_row(out + row * width, x + row * width, weight, (float)eps, width);
}

void layer_project_heads(const model_config *config, const layer_weights *w, layer_activations *a)
{
    const model_facts *facts = &config->facts;
    const int64_t n = a->n_tokens, d = facts->head_dim, n_q = facts->n_q_heads, n_kv = facts->n_kv_heads;

    layer_norm_rows(a->rows, a->hidden, w->at[WEIGHT_INPUT_NORM], config->norm_eps, n, config->hidden_size);
    linear_forward_heads(a->rows, config->hidden_size, w->at[WEIGHT_QKV], w->at[WEIGHT_QKV_BIAS], a->heads, n,
                         config->hidden_size, n_q + 2 * n_kv, d);
    if (w->at[WEIGHT_Q_NORM]) {
        float *q = a->heads, *k = q + n_q * n * d;
        layer_norm_rows(q, q, w->at[WEIGHT_Q_NORM], config->norm_eps, n_q * n, d);
        layer_norm_rows(k, k, w->at[WEIGHT_K_NORM], config->norm_eps, n_kv * n, d);
    }
    if (a->recent) memcpy(a->recent, a->heads + n_q * n * d, (size_t)(2 * n_kv * n * d) * sizeof *a->recent);
}

static attention_shape shape_of(const model_config *config, const int64_t *sequence_start, int64_t n_sequences,
                                bool slides)
{
    const model_facts *facts = &config->facts;
    return (attention_shape){.n_q_heads = facts->n_q_heads,
                             .n_kv_heads = facts->n_kv_heads,
                             .head_dim = facts->head_dim,
                             .n_tokens = sequence_start[n_sequences],
                             .sequence_start = sequence_start,
                             .n_sequences = n_sequences,
                             .sliding_window = slides ? config->sliding_window : 0,
                             .scale = (float)facts->attention_scale};
}

rb_status layer_attend(const model_config *config, int layer, int64_t n_recent, layer_activations *a, rb_error *err)
{
    const attention_shape shape = shape_of(config, a->sequence_start, a->n_sequences, config->layer_slides[layer]);
    const int64_t head_floats = a->n_tokens * shape.head_dim;
    const float *q = a->heads, *k = q + shape.n_q_heads * head_floats, *v = k + shape.n_kv_heads * head_floats;

    if (n_recent == 0) return attention_forward(&shape, q, k, v, a->rows, err);
    return attention_forward_buffered(&shape, q, k, v, a->recent, a->recent + shape.n_kv_heads * head_floats, n_recent,
                                      a->rows, err);
}

void layer_project_out(const model_config *config, const layer_weights *w, layer_activations *a)
{
    const int64_t width = q_width(config);
    linear_forward(a->rows, width, w->at[WEIGHT_O], w->at[WEIGHT_O_BIAS], a->hidden, config->hidden_size, a->n_tokens,
                   width, config->hidden_size, 1);
}

int64_t layer_attend_bytes(const model_config *config, const int64_t *sequence_start, int64_t n_sequences,
                           int n_threads)
{
    const attention_shape shape = shape_of(config, sequence_start, n_sequences, false);
    return attention_scratch_bytes(&shape, n_threads);
}

static void mlp_tile(const model_config *config, const layer_weights *w, float *hidden, float *normed, float *gate_up,
                     int64_t n)
{
    const int64_t width = config->hidden_size, inner = config->intermediate_size;

    layer_norm_rows(normed, hidden, w->at[WEIGHT_MLP_NORM], config->norm_eps, n, width);
    linear_forward(normed, width, w->at[WEIGHT_GATE_UP], w->at[WEIGHT_GATE_UP_BIAS], gate_up, 2 * inner, n, width,
                   2 * inner, 0);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++)
        swiglu_row(gate_up + row * 2 * inner, gate_up + row * 2 * inner + inner, inner);
    linear_forward(gate_up, 2 * inner, w->at[WEIGHT_DOWN], w->at[WEIGHT_DOWN_BIAS], hidden, width, n, inner, width, 1);
}

void layer_mlp(const model_config *config, const layer_weights *w, layer_activations *a)
{
    for (int64_t first = 0; first < a->n_tokens; first += MLP_TILE_TOKENS) {
        const int64_t n = min_i64(MLP_TILE_TOKENS, a->n_tokens - first);
        mlp_tile(config, w, a->hidden + first * config->hidden_size, a->rows, a->mlp, n);
    }
}
