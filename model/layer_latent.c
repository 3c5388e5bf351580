/* Latents in place of keys and values (MLA, arXiv 2405.04434): see model/layer.h and latent_config. */
#include <string.h>

#include "model/layer.h"
#include "model/linear.h"

/* out[row] = the dims [first, first + n_dims) of row, n rows. */
static void copy_dims(float *out, int64_t out_width, int64_t out_first, const float *from, int64_t from_width,
                      int64_t from_first, int64_t n_dims, int64_t n)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++)
        memcpy(out + row * out_width + out_first, from + row * from_width + from_first, (size_t)n_dims * sizeof *out);
}

static int64_t dims_without_rope(const model_config *config) { return config->query_dim - config->facts.head_dim; }

static void project_queries(const model_config *config, const layer_weights *w, const float *normed,
                            layer_activations *a)
{
    const int64_t n = a->n_tokens, hidden = config->hidden_size, rank = config->latent.q_rank,
                  n_heads = config->facts.n_q_heads;
    const float *input = normed;
    int64_t width = hidden;
    if (rank > 0) {
        linear_forward(normed, hidden, w->at[WEIGHT_Q_A], w->at[WEIGHT_Q_A_BIAS], a->latent.down, rank, n, hidden, rank,
                       0);
        layer_norm_rows(a->latent.down, a->latent.down, w->at[WEIGHT_Q_A_NORM], NULL, config->latent.norm_eps, n, rank);
        input = a->latent.down;
        width = rank;
    }
    linear_forward_heads(input, width, w->at[WEIGHT_Q_B], NULL, a->latent.q, n, width, n_heads, config->query_dim);
    copy_dims(a->heads, config->facts.head_dim, 0, a->latent.q, config->query_dim, dims_without_rope(config),
              config->facts.head_dim, n_heads * n);
}

void layer_project_latents(const model_config *config, const layer_weights *w, const float *normed,
                           layer_activations *a)
{
    const int64_t n = a->n_tokens, hidden = config->hidden_size, rank = config->latent.kv_rank,
                  d = config->facts.head_dim, width = rank + d;
    float *k = a->heads + (int64_t)config->facts.n_q_heads * n * d, *latent = k + n * d;

    project_queries(config, w, normed, a);
    linear_forward(normed, hidden, w->at[WEIGHT_KV_A], w->at[WEIGHT_KV_A_BIAS], a->latent.down, width, n, hidden, width,
                   0);
    copy_dims(latent, rank, 0, a->latent.down, width, 0, rank, n);
    copy_dims(k, d, 0, a->latent.down, width, rank, d, n);
    layer_norm_rows(latent, latent, w->at[WEIGHT_KV_A_NORM], NULL, config->latent.norm_eps, n, rank);
}

void layer_join_queries(const model_config *config, layer_activations *a)
{
    const int64_t d = config->facts.head_dim;
    copy_dims(a->latent.q, config->query_dim, dims_without_rope(config), a->heads, d, 0, d,
              config->facts.n_q_heads * a->n_tokens);
}

void layer_expand_latents(const model_config *config, const layer_weights *w, const float *k, const float *latent,
                          layer_activations *a, float *out_k, float *out_v)
{
    const int64_t n = a->n_tokens, n_heads = config->facts.n_q_heads, rank = config->latent.kv_rank,
                  plain = dims_without_rope(config), v_dim = config->attended_dim, d = config->facts.head_dim,
                  width = plain + v_dim;
    linear_forward_heads(latent, rank, w->at[WEIGHT_KV_B], NULL, a->latent.up, n, rank, n_heads, width);
    copy_dims(out_k, config->query_dim, 0, a->latent.up, width, 0, plain, n_heads * n);
    copy_dims(out_v, v_dim, 0, a->latent.up, width, plain, v_dim, n_heads * n);
    for (int64_t head = 0; head < n_heads; head++)
        copy_dims(out_k + head * n * config->query_dim, config->query_dim, plain, k, d, 0, d, n);
}
