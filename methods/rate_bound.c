/* Reverse water filling: see methods/rate_bound.h. */
#include "methods/rate_bound.h"

#include <math.h>

#include "core/model_facts.h"
#include "core/order.h"

/* v_i = a_i b_i / 2, descending; returns how many are above 0. */
static int sorted_products(double *v, const double *a, const double *b, int n)
{
    int n_positive = 0;
    for (int i = 0; i < n; i++) v[i] = -0.5 * a[i] * b[i];
    rb_sort_doubles(v, n);
    for (int i = 0; i < n; i++) {
        v[i] = -v[i];
        n_positive += v[i] > 0.0;
    }
    return n_positive;
}

/* With k blocks above the water, log2 theta = (sum of their log2 v - bits) / k. The water stands below v_k exactly for
 * the true k and those before it, so the last k for which it does is the true one. */
double rate_bound_error(const double *q_energy, const double *k_energy, int n_blocks, double bits)
{
    double v[RB_MAX_BLOCKS], log_sum = 0.0, level = INFINITY, error = 0.0;
    const int n = sorted_products(v, q_energy, k_energy, n_blocks);
    for (int k = 1; k <= n; k++) {
        log_sum += log2(v[k - 1]);
        const double log_level = (log_sum - bits) / k;
        if (log_level > log2(v[k - 1])) break;
        level = exp2(log_level);
    }
    for (int i = 0; i < n; i++) error += fmin(level, v[i]);
    return error;
}

/* With k blocks above the water, V = k theta + sum of the others; from the smallest v up, so that small sums keep their
 * digits. */
double rate_bound_bits(const double *q_energy, const double *k_energy, int n_blocks, double error)
{
    double v[RB_MAX_BLOCKS], below = 0.0, bits = 0.0;
    const int n = sorted_products(v, q_energy, k_energy, n_blocks);
    if (n == 0) return 0.0;
    if (error <= 0.0) return INFINITY;
    int k = n;
    while (k > 0 && (error - below) / k > v[k - 1]) below += v[--k];
    const double level = k > 0 ? (error - below) / k : INFINITY;
    for (int i = 0; i < k; i++) bits += fmax(0.0, log2(v[i] / level));
    return bits;
}

rate_distance rate_bound_distance(const double *q_energy, const double *k_energy, int n_blocks, double bits,
                                  double error)
{
    const double least = rate_bound_error(q_energy, k_energy, n_blocks, bits);
    return (rate_distance){
        .bits_per_dim = (bits - rate_bound_bits(q_energy, k_energy, n_blocks, error)) / (2 * n_blocks),
        .mae_ratio = error > 0.0 || least > 0.0 ? sqrt(error / least) : 1.0,
    };
}
