/* See layer.h. */
#include "model/layer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/linear.h"
#include "model/vector_math.h"

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- sizes ----------------------------------------------------------------------------------- */

static int64_t attended_width(const model_config *c) { return (int64_t)c->facts.n_q_heads * c->attended_dim; }
static int64_t kv_width(const model_config *c)
{
    return (int64_t)c->facts.n_kv_heads * (c->facts.head_dim + c->facts.value_dim);
}
static int64_t heads_width(const model_config *c)
{
    return (int64_t)c->facts.n_q_heads * c->facts.head_dim + kv_width(c);
}
static int64_t rows_width(const model_config *c) { return max_i64(c->hidden_size, attended_width(c)); }
static int64_t recent_width(const model_config *c, bool is_buffered) { return is_buffered ? kv_width(c) : 0; }
static int64_t mlp_tile_tokens(int64_t n_tokens) { return min_i64(n_tokens, MLP_TILE_TOKENS); }

/* Whether every product is added to the residual stream as it is made. */
static bool adds_at_once(const model_config *c)
{
    return c->residual_scale == 1 && !c->has_parallel_residual
           && layer_weight_capacity(c, WEIGHT_ATTENTION_OUT_NORM) == 0
           && layer_weight_capacity(c, WEIGHT_MLP_OUT_NORM) == 0;
}
static int64_t out_width(const model_config *c) { return adds_at_once(c) ? 0 : c->hidden_size; }

/* Floats of a token in each array of latent_heads. */
typedef struct latent_widths {
    int64_t q, v, recent_k, recent_v, down, up;
} latent_widths;

static latent_widths latent_widths_of(const model_config *c, bool is_buffered)
{
    if (!c->has_latent_cache) return (latent_widths){0};
    const int64_t n = c->facts.n_q_heads, q = n * c->query_dim, v = attended_width(c);
    return (latent_widths){.q = q,
                           .v = v,
                           .recent_k = is_buffered ? q : 0,
                           .recent_v = is_buffered ? v : 0,
                           .down = max_i64(c->latent.kv_rank + c->facts.head_dim, c->latent.q_rank),
                           .up = n * (c->query_dim - c->facts.head_dim + c->attended_dim)};
}

int64_t layer_gate_up_width(const model_config *config, int64_t width)
{
    return config->family->has_plain_mlp ? width : 2 * width;
}
static int64_t mlp_width(const model_config *c) { return layer_gate_up_width(c, c->intermediate_size); }

/* ---- memory ---------------------------------------------------------------------------------- */

static rb_status alloc_rows(float **out, int64_t n, int64_t width, const char *what, rb_error *err)
{
    return width > 0 ? rb_alloc(out, (size_t)n, (size_t)width * sizeof(float), what, err) : RB_OK;
}

static rb_status alloc_latents(latent_heads *l, const latent_widths *width, int64_t n, rb_error *err)
{
    rb_status st;
    RB_TRY(st, alloc_rows(&l->q, n, width->q, "queries", err), done);
    RB_TRY(st, alloc_rows(&l->k, n, width->q, "keys", err), done);
    RB_TRY(st, alloc_rows(&l->v, n, width->v, "values", err), done);
    RB_TRY(st, alloc_rows(&l->recent_k, n, width->recent_k, "recent keys", err), done);
    RB_TRY(st, alloc_rows(&l->recent_v, n, width->recent_v, "recent values", err), done);
    RB_TRY(st, alloc_rows(&l->down, n, width->down, "latents", err), done);
    RB_TRY(st, alloc_rows(&l->up, n, width->up, "keys and values of latents", err), done);
done:
    return st;
}

rb_status layer_activations_alloc(layer_activations *a, const model_config *config, int64_t n_all, int64_t n_part,
                                  bool is_buffered, rb_error *err)
{
    const latent_widths latent = latent_widths_of(config, is_buffered);
    rb_status st;

    *a = (layer_activations){0};
    RB_TRY(st, alloc_rows(&a->all_hidden, n_all, config->hidden_size, "hidden states", err), done);
    RB_TRY(st, alloc_rows(&a->rows, n_part, rows_width(config), "projection rows", err), done);
    RB_TRY(st, alloc_rows(&a->heads, n_part, heads_width(config), "q, k and v", err), done);
    RB_TRY(st, alloc_rows(&a->recent, n_part, recent_width(config, is_buffered), "recent k and v", err), done);
    RB_TRY(st, alloc_rows(&a->mlp, mlp_tile_tokens(n_part), mlp_width(config), "MLP tile", err), done);
    RB_TRY(st, alloc_rows(&a->out, n_part, out_width(config), "layer output", err), done);
    RB_TRY(st, alloc_latents(&a->latent, &latent, n_part, err), done);
done:
    if (st != RB_OK) layer_activations_free(a);
    return st;
}

void layer_activations_free(layer_activations *a)
{
    latent_heads *l = &a->latent;
    float *const all[] = {a->all_hidden, a->rows, a->heads,    a->recent,   a->mlp,  a->out, l->q,
                          l->k,          l->v,    l->recent_k, l->recent_v, l->down, l->up};
    for (size_t i = 0; i < RB_COUNT(all); i++) free(all[i]);
    free(a->energy);
    *a = (layer_activations){0};
}

int64_t layer_activations_bytes(const model_config *c, int64_t n_all, int64_t n_part, bool is_buffered)
{
    const latent_widths l = latent_widths_of(c, is_buffered);
    const int64_t part_floats = rows_width(c) + heads_width(c) + recent_width(c, is_buffered) + out_width(c) + 2 * l.q
                                + l.v + l.recent_k + l.recent_v + l.down + l.up;
    return (n_all * c->hidden_size + n_part * part_floats + mlp_tile_tokens(n_part) * mlp_width(c))
           * (int64_t)sizeof(float);
}

/* ---- rows ------------------------------------------------------------------------------------ */

void layer_norm_rows(float *out, const float *x, const float *weight, const float *bias, double eps, int64_t n,
                     int64_t width)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++) {
        if (bias) layer_norm_row(out + row * width, x + row * width, weight, bias, (float)eps, width);
        else rms_norm_row(out + row * width, x + row * width, weight, (float)eps, width);
    }
}

/* The normalised rows, or the rows themselves where the layer has no such norm. */
static const float *norm_or_same(const model_config *config, float *out, const float *x, const float *weight,
                                 const float *bias, int64_t n)
{
    if (!weight) return x;
    layer_norm_rows(out, x, weight, bias, config->norm_eps, n, config->hidden_size);
    return out;
}

static void activate_row(activation_kind kind, float *x, int64_t n)
{
    switch (kind) {
    case ACTIVATION_SILU: silu_row(x, n); break;
    case ACTIVATION_GELU: gelu_row(x, n); break;
    case ACTIVATION_GELU_TANH: gelu_tanh_row(x, n); break;
    }
}

void layer_activate_rows(const model_config *config, float *rows, int64_t n, int64_t width)
{
    const int64_t stride = layer_gate_up_width(config, width);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++) {
        float *gate = rows + row * stride;
        if (config->activation == ACTIVATION_SILU && !config->family->has_plain_mlp) {
            swiglu_row(gate, gate + width, width);
            continue;
        }
        activate_row(config->activation, gate, width);
        if (!config->family->has_plain_mlp) multiply_row(gate, gate + width, width);
    }
}

/* hidden += residual_scale * norm(product); the product is overwritten. */
static void add_product(const model_config *config, const float *norm, float *product, float *hidden, int64_t n)
{
    const int64_t width = config->hidden_size;
    if (norm) layer_norm_rows(product, product, norm, NULL, config->norm_eps, n, width);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++)
        add_scaled_row(hidden + row * width, product + row * width, (float)config->residual_scale, width);
}

/* ---- heads ----------------------------------------------------------------------------------- */

/* RMSNorm over all heads of a token together. heads [n_heads][n][d], weight [n_heads * d]. */
static void norm_wide(const model_config *config, float *heads, const float *weight, int n_heads, int64_t n)
{
    const int64_t d = config->facts.head_dim;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n; t++) {
        float sum = 0.0f;
        for (int head = 0; head < n_heads; head++) sum += square_sum_row(heads + (head * n + t) * d, d);
        const float inverse = 1.0f / sqrtf(sum / (float)(n_heads * d) + (float)config->norm_eps);
        for (int head = 0; head < n_heads; head++) {
            float *row = heads + (head * n + t) * d;
            scale_row(row, row, inverse, d);
            multiply_row(row, weight + head * d, d);
        }
    }
}

static void norm_heads(const model_config *config, const layer_weights *w, float *q, float *k, int64_t n)
{
    const model_facts *facts = &config->facts;
    const int64_t d = facts->head_dim;
    if (config->extras & EXTRA_WIDE_QK_NORM) {
        norm_wide(config, q, w->at[WEIGHT_Q_NORM], facts->n_q_heads, n);
        norm_wide(config, k, w->at[WEIGHT_K_NORM], facts->n_kv_heads, n);
    } else if (config->extras & EXTRA_QK_NORM) {
        layer_norm_rows(q, q, w->at[WEIGHT_Q_NORM], NULL, config->norm_eps, facts->n_q_heads * n, d);
        layer_norm_rows(k, k, w->at[WEIGHT_K_NORM], NULL, config->norm_eps, facts->n_kv_heads * n, d);
    }
}

void layer_project_heads(const model_config *config, const layer_weights *w, layer_activations *a)
{
    const model_facts *facts = &config->facts;
    const int64_t n = a->n_tokens, d = facts->head_dim, n_q = facts->n_q_heads, n_kv = facts->n_kv_heads;
    const float *normed =
        norm_or_same(config, a->rows, a->hidden, w->at[WEIGHT_INPUT_NORM], w->at[WEIGHT_INPUT_NORM_BIAS], n);

    if (config->has_latent_cache) {
        layer_project_latents(config, w, normed, a);
    } else {
        linear_forward_heads(normed, config->hidden_size, w->at[WEIGHT_QKV], w->at[WEIGHT_QKV_BIAS], a->heads, n,
                             config->hidden_size, n_q + 2 * n_kv, d);
        norm_heads(config, w, a->heads, a->heads + n_q * n * d, n);
    }
    if (a->recent) memcpy(a->recent, a->heads + n_q * n * d, (size_t)(n * kv_width(config)) * sizeof *a->recent);
}

/* ---- attention ------------------------------------------------------------------------------- */

attention_shape layer_attention_shape(const model_config *config, const int64_t *sequence_start, int64_t n_sequences,
                                      bool slides)
{
    const model_facts *facts = &config->facts;
    return (attention_shape){.n_q_heads = facts->n_q_heads,
                             .n_kv_heads = config->has_latent_cache ? facts->n_q_heads : facts->n_kv_heads,
                             .head_dim = config->query_dim,
                             .value_dim = config->attended_dim,
                             .n_tokens = sequence_start[n_sequences],
                             .sequence_start = sequence_start,
                             .n_sequences = n_sequences,
                             .sliding_window = slides ? config->sliding_window : 0,
                             .scale = (float)facts->attention_scale,
                             .softcap = (float)config->attention_softcap};
}

static rb_status attend_latents(const model_config *config, const layer_weights *w, const attention_shape *shape,
                                int64_t n_recent, layer_activations *a, rb_error *err)
{
    const model_facts *facts = &config->facts;
    latent_heads *l = &a->latent;
    const float *k = a->heads + (int64_t)facts->n_q_heads * a->n_tokens * facts->head_dim;
    const int64_t k_floats = a->n_tokens * facts->head_dim;

    layer_join_queries(config, a);
    layer_expand_latents(config, w, k, k + k_floats, a, l->k, l->v);
    if (n_recent == 0) return attention_forward(shape, l->q, l->k, l->v, a->rows, err);
    layer_expand_latents(config, w, a->recent, a->recent + k_floats, a, l->recent_k, l->recent_v);
    return attention_forward_buffered(shape, l->q, l->k, l->v, l->recent_k, l->recent_v, n_recent, a->rows, err);
}

rb_status layer_attend(const model_config *config, const layer_weights *w, int layer, int64_t n_recent,
                       layer_activations *a, rb_error *err)
{
    const attention_shape shape =
        layer_attention_shape(config, a->sequence_start, a->n_sequences, config->layer_slides[layer]);
    if (config->has_latent_cache) return attend_latents(config, w, &shape, n_recent, a, err);

    const int64_t head_floats = a->n_tokens * shape.head_dim;
    const float *q = a->heads, *k = q + shape.n_q_heads * head_floats, *v = k + shape.n_kv_heads * head_floats;
    if (n_recent == 0) return attention_forward(&shape, q, k, v, a->rows, err);
    return attention_forward_buffered(&shape, q, k, v, a->recent, a->recent + shape.n_kv_heads * head_floats, n_recent,
                                      a->rows, err);
}

int64_t layer_attend_bytes(const model_config *config, const int64_t *sequence_start, int64_t n_sequences,
                           int n_threads)
{
    const attention_shape shape = layer_attention_shape(config, sequence_start, n_sequences, false);
    return attention_scratch_bytes(&shape, n_threads);
}

static void multiply_energies(double *energy, const float *rows, double factor, int64_t n, int64_t width)
{
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n; t++) energy[t] *= factor * (double)square_sum_row(rows + t * width, width);
}

void layer_measure_residual(const model_config *config, layer_activations *a)
{
    multiply_energies(a->energy, a->hidden, 1.0, a->n_tokens, config->hidden_size);
}

void layer_project_out(const model_config *config, const layer_weights *w, layer_activations *a)
{
    const int64_t width = attended_width(config), hidden = config->hidden_size;
    float *to = a->out ? a->out : a->hidden;
    linear_forward(a->rows, width, w->at[WEIGHT_O], w->at[WEIGHT_O_BIAS], to, hidden, a->n_tokens, width, hidden,
                   to == a->hidden);
    for (int64_t t = 0; a->energy && t < a->n_tokens; t++) a->energy[t] = 1.0;
    if (a->energy && w->at[WEIGHT_ATTENTION_OUT_NORM])
        multiply_energies(a->energy, to, 1.0 / (double)hidden, a->n_tokens, hidden);
    if (a->out && !config->has_parallel_residual)
        add_product(config, w->at[WEIGHT_ATTENTION_OUT_NORM], a->out, a->hidden, a->n_tokens);
}

/* ---- MLP ------------------------------------------------------------------------------------- */

/* product: where the result goes before it is added; hidden itself where it is added at once. */
static void mlp_tile(const model_config *config, const layer_weights *w, float *hidden, float *product, float *normed,
                     float *gate_up, int64_t n)
{
    const int64_t width = config->hidden_size, inner = config->intermediate_size,
                  stride = layer_gate_up_width(config, inner);
    const float *input = norm_or_same(config, normed, hidden, w->at[WEIGHT_MLP_NORM], w->at[WEIGHT_MLP_NORM_BIAS], n);

    linear_forward(input, width, w->at[WEIGHT_GATE_UP], w->at[WEIGHT_GATE_UP_BIAS], gate_up, stride, n, width, stride,
                   0);
    layer_activate_rows(config, gate_up, n, inner);
    linear_forward(gate_up, stride, w->at[WEIGHT_DOWN], w->at[WEIGHT_DOWN_BIAS], product, width, n, inner, width,
                   product == hidden);
    if (product != hidden) add_product(config, w->at[WEIGHT_MLP_OUT_NORM], product, hidden, n);
}

void layer_mlp(const model_config *config, const layer_weights *w, layer_activations *a)
{
    const int64_t width = config->hidden_size;
    const bool adds = !a->out || config->has_parallel_residual; /* `out` holds the attention's share then */
    for (int64_t first = 0; first < a->n_tokens; first += MLP_TILE_TOKENS) {
        const int64_t n = min_i64(MLP_TILE_TOKENS, a->n_tokens - first);
        float *hidden = a->hidden + first * width;
        mlp_tile(config, w, hidden, adds ? hidden : a->out + first * width, a->rows, a->mlp, n);
    }
    if (config->has_parallel_residual) add_product(config, NULL, a->out, a->hidden, a->n_tokens);
}
