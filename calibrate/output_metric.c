/* See calibrate/output_metric.h. */
#include "calibrate/output_metric.h"

#include <cblas.h>
#include <stdlib.h>

#include "core/threads.h"
#include "model/layer_weights.h"
#include "model/vector_math.h"

enum { TILE = 128 }; /* columns of o_proj; fixed, so that products do not depend on threads */

capture_output output_facts(const model_config *config)
{
    capture_output facts = {
        .is_known = true, .has_metric = !config->has_latent_cache, .softcap = config->attention_softcap};
    for (int layer = 0; layer < config->facts.n_layers; layer++)
        facts.window[layer] = config->layer_slides[layer] ? config->sliding_window : 0;
    return facts;
}

/* The tensor of a weight that is one tensor; NULL where the layer lacks it. */
static const layer_tensor *find_tensor(const model_config *config, layer_weight weight, int layer)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    for (int i = 0; i < tensors->n_layer; i++)
        if (tensors->layer[i].weight == weight && layer_tensor_is_used(config, &tensors->layer[i], layer))
            return &tensors->layer[i];
    return NULL;
}

/* What the rows of o_proj count: the norm after it, residual_scale. */
static rb_status scale_rows(float *w, int64_t width, const checkpoint *model, int layer, rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const layer_tensor *norm = find_tensor(config, WEIGHT_ATTENTION_OUT_NORM, layer);
    float *weight = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&weight, (size_t)config->hidden_size, sizeof *weight, "weights of a norm", err), done);
    if (norm) RB_TRY(st, layer_tensor_load(model, norm, layer, 0, weight, err), done);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < config->hidden_size; row++)
        scale_row(w + row * width, w + row * width, (norm ? weight[row] : 1.0f) * (float)config->residual_scale, width);
done:
    free(weight);
    return st;
}

typedef struct metric_tile {
    int64_t row, column, n_rows, n_columns;
} metric_tile;

static metric_tile tile_at(int64_t i, int64_t n)
{
    const int64_t n_tiles = (n + TILE - 1) / TILE;
    metric_tile tile = {.row = i / n_tiles * TILE, .column = i % n_tiles * TILE};
    tile.n_rows = n - tile.row < TILE ? n - tile.row : TILE;
    tile.n_columns = n - tile.column < TILE ? n - tile.column : TILE;
    return tile;
}

/* w [hidden_size][n_kv_heads * n]. Tiles above the diagonal are those below it, turned. */
static void multiply_heads(float *metric, const float *w, int64_t hidden, int n_heads, int64_t n)
{
    const int64_t side = (n + TILE - 1) / TILE, width = n_heads * n;
#pragma omp parallel for schedule(dynamic)
    for (int64_t item = 0; item < n_heads * side * side; item++) {
        const int64_t head = item / (side * side);
        const metric_tile tile = tile_at(item % (side * side), n);
        float *out = metric + head * n * n;
        if (tile.column > tile.row) continue;
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)tile.n_rows, (int)tile.n_columns, (int)hidden, 1.0f,
                    w + head * n + tile.row, (int)width, w + head * n + tile.column, (int)width, 0.0f,
                    out + tile.row * n + tile.column, (int)n);
        for (int64_t i = tile.row; i < tile.row + tile.n_rows; i++)
            for (int64_t j = tile.column; j < tile.column + tile.n_columns && j < i; j++)
                out[j * n + i] = out[i * n + j];
    }
}

rb_status output_metric_compute(float *metric, const checkpoint *model, int layer, rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const layer_tensor *o_proj = find_tensor(config, WEIGHT_O, layer);
    const int64_t n = (int64_t)model_q_per_kv(&config->facts) * config->facts.value_dim,
                  width = config->facts.n_kv_heads * n;
    float *w = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&w, (size_t)config->hidden_size * (size_t)width, sizeof *w, "o_proj of a layer", err), done);
    RB_TRY(st, layer_tensor_load(model, o_proj, layer, 0, w, err), done);
    RB_TRY(st, scale_rows(w, width, model, layer, err), done);
    multiply_heads(metric, w, config->hidden_size, config->facts.n_kv_heads, n);
done:
    free(w);
    return st;
}

rb_status output_metric_write(capture_writer *writer, const checkpoint *model, rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const size_t n = (size_t)(model_q_per_kv(&config->facts) * config->facts.value_dim);
    float *metric = NULL;
    rb_status st;
    if (config->has_latent_cache) return RB_OK;
    RB_TRY(st, rb_alloc(&metric, (size_t)config->facts.n_kv_heads * n * n, sizeof *metric, "output metric", err), done);
    for (int layer = 0; layer < config->facts.n_layers; layer++) {
        RB_TRY(st, output_metric_compute(metric, model, layer, err), done);
        RB_TRY(st, capture_write_output_metric(writer, layer, metric, err), done);
    }
done:
    free(metric);
    return st;
}

double output_residual_energy(const double *energies, int64_t n_tokens)
{
    double inverse = 0.0;
    int64_t n = 0;
    for (int64_t t = 0; t < n_tokens; t++) {
        if (!(energies[t] > 0.0)) continue;
        inverse += 1.0 / energies[t];
        n++;
    }
    return n > 0 ? (double)n / inverse : 0.0;
}
