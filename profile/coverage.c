/* See profile/coverage.h. */
#include "profile/coverage.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/order.h"
#include "core/threads.h"
#include "methods/allocator.h"

enum { TILE = 256 }; /* keys a triangular solve takes; fixed, so that sums do not depend on threads */
/* This share of the mean variance is added to the diagonal: keys may live in a subspace, or be fewer than dims. */
static const double ridge = 1e-6;
static const double quantile = 0.99;

/* ---- keys ------------------------------------------------------------------------------------ */

/* Mean and Cholesky factor of the covariance of n keys. */
typedef struct key_law {
    int dim;
    double *mean, *factor; /* [dim], [dim][dim] lower triangle */
    double *tile;          /* [TILE][dim] scratch */
} key_law;

static void free_law(key_law *law)
{
    free(law->mean);
    free(law->factor);
    free(law->tile);
}

/* tile = keys - mean. */
static void centre(key_law *law, const float *k, int n)
{
    for (int64_t t = 0; t < n; t++)
        for (int i = 0; i < law->dim; i++) law->tile[t * law->dim + i] = (double)k[t * law->dim + i] - law->mean[i];
}

static int tile_size(int64_t at, int64_t n) { return (int)(n - at < TILE ? n - at : TILE); }

static rb_status fit_law(key_law *law, const float *k, int64_t n, int dim, rb_error *err)
{
    const size_t d = (size_t)dim;
    double trace = 0.0;
    rb_status st;
    law->dim = dim;
    RB_TRY(st, rb_alloc(&law->mean, d, sizeof *law->mean, "coverage", err), done);
    RB_TRY(st, rb_alloc(&law->factor, d * d, sizeof *law->factor, "coverage", err), done);
    RB_TRY(st, rb_alloc(&law->tile, TILE * d, sizeof *law->tile, "coverage", err), done);
    for (int64_t t = 0; t < n; t++)
        for (int i = 0; i < dim; i++) law->mean[i] += (double)k[t * dim + i] / (double)n;
    for (int64_t at = 0; at < n; at += TILE) {
        centre(law, k + at * dim, tile_size(at, n));
        cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, dim, tile_size(at, n), 1.0 / (double)n, law->tile, dim, 1.0,
                    law->factor, dim);
    }
    for (int i = 0; i < dim; i++) trace += law->factor[i * (dim + 1)];
    const double added = trace > 0.0 ? ridge * trace / dim : 1.0; /* keys that are all the same: any measure will do */
    for (int i = 0; i < dim; i++) law->factor[i * (dim + 1)] += added;
    if (LAPACKE_dpotrf_work(LAPACK_ROW_MAJOR, 'L', dim, law->factor, dim) != 0)
        st = rb_fail(err, RB_ENONFINITE,
                     "the covariance of the calibration keys has no Cholesky factor: keys too large or not finite");
done:
    return st;
}

/* distance [n]. */
static void measure_distances(float *distance, key_law *law, const float *k, int64_t n)
{
    for (int64_t at = 0; at < n; at += TILE) {
        const int size = tile_size(at, n);
        centre(law, k + at * law->dim, size);
        cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, size, law->dim, 1.0, law->factor,
                    law->dim, law->tile, law->dim);
        for (int64_t t = 0; t < size; t++)
            distance[at + t] =
                (float)(cblas_ddot(law->dim, law->tile + t * law->dim, 1, law->tile + t * law->dim, 1) / law->dim);
    }
}

rb_status coverage_of_keys(head_coverage *out, const float *calibration, int64_t n_calibration, const float *test,
                           int64_t n_test, int head_dim, rb_error *err)
{
    const int64_t half = n_calibration / 2,
                  n_rest = n_calibration - half; /* a single key is the rest, and the law too */
    key_law law = {0};
    float *distance = NULL;
    int64_t n_outside = 0;
    rb_status st;
    RB_TRY(st, rb_alloc(&distance, (size_t)(n_rest > n_test ? n_rest : n_test), sizeof *distance, "coverage", err),
           done);
    RB_TRY(st, fit_law(&law, calibration, half > 0 ? half : 1, head_dim, err), done);
    measure_distances(distance, &law, calibration + half * head_dim, n_rest);
    rb_sort_floats(distance, n_rest);
    const double seen = (double)distance[rb_quantile_place(n_rest, quantile)];
    measure_distances(distance, &law, test, n_test);
    for (int64_t t = 0; t < n_test; t++) n_outside += (double)distance[t] > seen;
    rb_sort_floats(distance, n_test);
    out->key_distance = seen > 0.0 ? (double)distance[rb_quantile_place(n_test, quantile)] / seen : 1.0;
    out->key_outside = (double)n_outside / (double)n_test;
done:
    free(distance);
    free_law(&law);
    return st;
}

/* ---- energies -------------------------------------------------------------------------------- */

static double query_shift(const double *calibration, const double *test, int n_blocks)
{
    double whole = 0.0, largest = 1.0;
    for (int i = 0; i < n_blocks; i++) whole += calibration[i] + test[i];
    for (int i = 0; i < n_blocks && whole > 0.0; i++) {
        const double least = ridge * whole / n_blocks, a = calibration[i] + least, b = test[i] + least;
        largest = fmax(largest, fmax(a / b, b / a));
    }
    return largest;
}

static double predicted_error(const double *energy, const uint8_t *bits, int n_blocks)
{
    double sum = 0.0;
    for (int i = 0; i < n_blocks; i++) sum += ldexp(energy[i], -2 * bits[i]);
    return sum;
}

static rb_status plan_transfer(double *out, const head_energy *calibration, const head_energy *test, rb_error *err)
{
    double seen[RB_MAX_BLOCKS], found[RB_MAX_BLOCKS];
    uint8_t bits_seen[RB_MAX_BLOCKS], bits_found[RB_MAX_BLOCKS];
    rb_status st;
    head_energy_mean(calibration, seen);
    head_energy_mean(test, found);
    RB_TRY(st, allocate_greedy(bits_seen, seen, calibration->n_blocks, COVERAGE_BITS, err), done);
    RB_TRY(st, allocate_greedy(bits_found, found, test->n_blocks, COVERAGE_BITS, err), done);
    const double best = predicted_error(found, bits_found, test->n_blocks);
    *out = best > 0.0 ? predicted_error(found, bits_seen, test->n_blocks) / best : 1.0;
done:
    return st;
}

/* ---- a layer --------------------------------------------------------------------------------- */

typedef struct layer_keys {
    float *k[CAPTURE_N_SETS]; /* [n_kv_heads][n_tokens][head_dim] */
    int64_t n[CAPTURE_N_SETS];
    block_statistics statistics[CAPTURE_N_SETS];
} layer_keys;

static rb_status measure_head(head_coverage *out, const layer_keys *keys, const model_facts *model, int layer,
                              int kv_head, rb_error *err)
{
    const int head_dim = model->head_dim;
    const float *k[CAPTURE_N_SETS];
    head_energy energy[CAPTURE_N_SETS];
    rb_status st;
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        const block_statistics *s = &keys->statistics[set];
        k[set] = keys->k[set] + kv_head * keys->n[set] * head_dim;
        energy[set] = (head_energy){s->n_blocks, s->q_energy + kv_head * s->n_blocks,
                                    s->k_energy + kv_head * s->n_blocks, model, layer};
    }
    RB_TRY(st,
           coverage_of_keys(out, k[CAPTURE_CALIBRATION], keys->n[CAPTURE_CALIBRATION], k[CAPTURE_TEST],
                            keys->n[CAPTURE_TEST], head_dim, err),
           done);
    RB_TRY(st, plan_transfer(&out->plan_transfer, &energy[CAPTURE_CALIBRATION], &energy[CAPTURE_TEST], err), done);
    out->query_shift =
        query_shift(energy[CAPTURE_CALIBRATION].q_energy, energy[CAPTURE_TEST].q_energy, energy[CAPTURE_TEST].n_blocks);
done:
    return st;
}

static rb_status measure_layer(profile_table *table, const layer_keys *keys, int layer, rb_error *err)
{
    const model_facts *model = &table->model;
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic)
    for (int h = 0; h < model->n_kv_heads; h++) {
        rb_error mine = {0};
        const rb_status st =
            measure_head(&table->coverage[layer * model->n_kv_heads + h], keys, model, layer, h, &mine);
        rb_note_failure(&failure, h, st, &mine);
    }
    const rb_status st = rb_tell_failure(&failure, err);
    return st == RB_OK ? RB_OK : rb_fail_in(err, st, "layer %d kv_head %d", layer, (int)failure.index);
}

rb_status coverage_measure(profile_table *table, const capture_file *capture, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    const model_facts *model = &table->model;
    layer_keys keys = {0};
    rb_status st;
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        keys.n[set] = header->text[set].n_tokens;
        RB_TRY(st,
               rb_alloc(&keys.k[set], (size_t)keys.n[set] * (size_t)model->n_kv_heads * (size_t)model->head_dim,
                        sizeof *keys.k[set], "keys", err),
               done);
        RB_TRY(st, block_statistics_create(&keys.statistics[set], model, err), done);
    }
    for (int layer = 0; layer < model->n_layers; layer++) {
        for (int set = 0; set < CAPTURE_N_SETS; set++) {
            RB_TRY(st, capture_read_k(capture, (capture_set)set, layer, keys.k[set], err), done);
            RB_TRY(st, capture_read_statistics(capture, (capture_set)set, layer, &keys.statistics[set], err), done);
        }
        RB_TRY(st, measure_layer(table, &keys, layer, err), done);
    }
done:
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        free(keys.k[set]);
        block_statistics_free(&keys.statistics[set]);
    }
    return st;
}
