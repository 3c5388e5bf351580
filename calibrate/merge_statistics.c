/* See calibrate/merge_statistics.h. */
#include "calibrate/merge_statistics.h"

#include <assert.h>

static void add(double *sums, const double *means, int64_t n, double weight)
{
    for (int64_t i = 0; i < n; i++) sums[i] += weight * means[i];
}

static void divide(double *sums, int64_t n, double by)
{
    for (int64_t i = 0; i < n; i++) sums[i] /= by;
}

void merge_statistics_add(block_statistics *sums, const block_statistics *part, int64_t n_tokens)
{
    const int64_t n_blocks = (int64_t)sums->n_kv_heads * sums->n_blocks,
                  n_dims = (int64_t)sums->n_kv_heads * sums->head_dim;
    assert(part->n_kv_heads == sums->n_kv_heads && part->head_dim == sums->head_dim);
    add(sums->q_energy, part->q_energy, n_blocks, (double)n_tokens);
    add(sums->k_energy, part->k_energy, n_blocks, (double)n_tokens);
    add(sums->k_mean, part->k_mean, n_dims, (double)n_tokens);
}

void merge_statistics_finish(block_statistics *sums, int64_t n_tokens)
{
    const int64_t n_blocks = (int64_t)sums->n_kv_heads * sums->n_blocks,
                  n_dims = (int64_t)sums->n_kv_heads * sums->head_dim;
    divide(sums->q_energy, n_blocks, (double)n_tokens);
    divide(sums->k_energy, n_blocks, (double)n_tokens);
    divide(sums->k_mean, n_dims, (double)n_tokens);
}

double merge_residual_energy(const double *energies, const int64_t *n_tokens, int n_parts)
{
    double inverse = 0.0;
    int64_t n = 0;
    for (int i = 0; i < n_parts; i++) {
        if (!(energies[i] > 0.0)) continue;
        inverse += (double)n_tokens[i] / energies[i];
        n += n_tokens[i];
    }
    return n > 0 ? (double)n / inverse : 0.0;
}
