/* See codec_distortion.h. */
#include "kernels/reference/codec_distortion.h"

#include <math.h>
#include <stdlib.h>

#include "core/threads.h"
#include "kernels/reference/head_codec.h"
#include "kernels/reference/numpy_random.h"

/* Coordinates a measurement draws: its error is 1 to 2 %. With the nearest encoder above 2 bits few coordinates beyond
 * the last centroid make much of it, so it takes twice as many, and the error is up to 8 %. Norms of the vectors are
 * spread evenly over 2^8 in the logarithm, so that 8-bit norms meet all of their steps. */
enum { N_COORDINATES = 30000, NORM_OCTAVES = 8, SEED = 42, MAX_SIZES = 64 };

/* 1, 2, 3, 4, 6, 8, 12, 16, ... and max_blocks. */
static int choose_sizes(int sizes[MAX_SIZES], int max_blocks)
{
    int n = 0;
    for (int size = 1; size < max_blocks; size += size < 4 ? 1 : size & (size - 1) ? size / 3 : size / 2)
        sizes[n++] = size;
    sizes[n++] = max_blocks;
    return n;
}

static rb_status draw_vectors(float *x, int n, int dims, rb_error *err)
{
    double *normals = NULL;
    numpy_rng rng;
    rb_status st;
    RB_TRY(st, rb_alloc(&normals, (size_t)n * (size_t)dims, sizeof *normals, "random vectors", err), done);
    numpy_rng_seed(&rng, SEED);
    numpy_rng_standard_normal(&rng, normals, (size_t)n * (size_t)dims);
    for (int v = 0; v < n; v++) {
        const double stretch = exp2((double)NORM_OCTAVES * (v - n / 2) / n) / sqrt(dims);
        for (int i = 0; i < dims; i++) x[(int64_t)v * dims + i] = (float)(normals[(int64_t)v * dims + i] * stretch);
    }
done:
    free(normals);
    return st;
}

/* Mean over vectors of |x - x^|^2 / |x|^2 for one group that is the whole head. */
static rb_status measure(double *out, int width, int n_blocks, const codec_kind *kind, codec_tables *tables,
                         rb_error *err)
{
    const int dims = 2 * n_blocks, n = (kind->encoder == ENCODER_NEAREST ? 2 : 1) * N_COORDINATES / dims;
    const model_facts model = {.n_layers = 1,
                               .n_q_heads = 1,
                               .n_kv_heads = 1,
                               .head_dim = dims,
                               .rotary_dim = dims,
                               .rope = {.pairing = ROPE_INTERLEAVED}};
    plan_head head = {0};
    head_codec *codec = NULL;
    float *x = NULL, *x_hat = NULL;
    double sum = 0.0;
    rb_status st;
    RB_TRY(st, plan_head_set_uniform(&head, width, n_blocks, SEED, kind->codebook, err), done);
    head.groups.at[0].rotation.kind =
        ROTATION_HADAMARD; /* normal vectors: any rotation will do, and this one is quickly made */
    head.groups.norm = kind->norm;
    head.groups.encoder = kind->encoder;
    head.groups.at[0].norm_exponent = kind->norm == NORM_LOG8 ? NORM_OCTAVES : 0;
    RB_TRY(st, head_codec_create(&codec, &head, &model, tables, err), done);
    RB_TRY(st, rb_alloc(&x, (size_t)n * (size_t)dims, sizeof *x, "random vectors", err), done);
    RB_TRY(st, rb_alloc(&x_hat, (size_t)n * (size_t)dims, sizeof *x_hat, "random vectors", err), done);
    RB_TRY(st, draw_vectors(x, n, dims, err), done);
    RB_TRY(st, head_codec_round_trip(codec, x, n, x_hat, err), done);
    for (int v = 0; v < n; v++) {
        double error = 0.0, size = 0.0;
        for (int64_t i = (int64_t)v * dims; i < (int64_t)(v + 1) * dims; i++) {
            const double e = (double)x[i] - (double)x_hat[i];
            error += e * e;
            size += (double)x[i] * (double)x[i];
        }
        sum += error / size;
    }
    *out = sum / n;
done:
    free(x);
    free(x_hat);
    head_codec_free(codec);
    plan_head_clear(&head);
    return st;
}

/* Fills row [max_blocks + 1] between the measured sizes, linear in 1 / size. */
static void interpolate(double *row, const int *sizes, int n_sizes)
{
    for (int s = 0; s + 1 < n_sizes; s++)
        for (int size = sizes[s] + 1; size < sizes[s + 1]; size++) {
            const double near = 1.0 / sizes[s], far = 1.0 / sizes[s + 1], at = (near - 1.0 / size) / (near - far);
            row[size] = row[sizes[s]] * (1.0 - at) + row[sizes[s + 1]] * at;
        }
}

rb_status codec_distortion_measure(double *c, int max_blocks, const codec_kind *kind, rb_error *err)
{
    const int row = max_blocks + 1;
    int sizes[MAX_SIZES];
    const int n_sizes = choose_sizes(sizes, max_blocks);
    rb_first_failure failure = {0};
    codec_tables *tables = NULL;
    rb_status st;
    RB_TRY(st, codec_tables_create(&tables, err), done);
    for (int size = 0; size <= max_blocks; size++) c[size] = size > 0;
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n_sizes * PLAN_MAX_WIDTH; i++) {
        const int width = 1 + i % PLAN_MAX_WIDTH, size = sizes[i / PLAN_MAX_WIDTH];
        rb_error mine = {0};
        rb_note_failure(&failure, i, measure(&c[width * row + size], width, size, kind, tables, &mine), &mine);
    }
    RB_TRY(st, rb_tell_failure(&failure, err), done);
    for (int width = 1; width <= PLAN_MAX_WIDTH; width++) {
        c[width * row] = 0.0;
        interpolate(c + width * row, sizes, n_sizes);
    }
done:
    codec_tables_free(tables);
    return st;
}
