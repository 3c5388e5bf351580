/* bench_allocate: how long allocation takes on a made-up model, and how near the optimum it comes, as JSON lines.
 *   bench_allocate [sweep | methods] [LAYERS HEADS BLOCKS [MAX_GROUPS]]
 * The sizes are 80 8 64 0 unless given; one thread (OMP_NUM_THREADS is not asked).
 *
 * Without a word the method is `optimal` at one budget of 3 true bits a dim, with curves cut two bits above it. `sweep`
 * takes 1.5 to 6 bits in steps of 0.25, and computes the curves once. Each budget is solved over the model and its
 * partitions are taken from the curves. `methods` does what `ropebits allocate --sweep 1.5:6:0.25` does between reading
 * the profile and writing: all methods and their expected errors, with logit moments. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "allocate/sweep.h"
#include "core/threads.h"
#include "kernels/reference/numpy_random.h"
#include "methods/global_budget.h"
#include "methods/partition.h"

typedef struct bench {
    int n_layers, n_heads_per_layer, n_blocks, n_heads;
    double *q_energy, *k_energy;
    group_distortion distortion;
    partition_curve *curves;
    budget_curve *heads;
    int32_t *points;
} bench;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Energies that spread over blocks as those of models do, e to a normal of deviation 1.5, and heads of different
 * strength; Lloyd-Max errors of the normal law, lower in small groups. */
static rb_status make_model(bench *b, rb_error *err)
{
    static const double normal_error[PARTITION_N_WIDTHS] = {1.0,      0.3634,    0.1175,    0.03454,  0.009497,
                                                            0.002499, 0.0006442, 0.0001639, 0.0000413};
    const int n = b->n_blocks;
    double *c = NULL;
    numpy_rng rng;
    rb_status st;
    RB_TRY(st, rb_alloc(&b->q_energy, (size_t)b->n_heads * n, sizeof *b->q_energy, "energies", err), done);
    RB_TRY(st, rb_alloc(&b->k_energy, (size_t)b->n_heads * n, sizeof *b->k_energy, "energies", err), done);
    RB_TRY(st, rb_alloc(&b->curves, b->n_heads, sizeof *b->curves, "curves", err), done);
    RB_TRY(st, rb_alloc(&b->heads, b->n_heads, sizeof *b->heads, "curves", err), done);
    RB_TRY(st, rb_alloc(&b->points, b->n_heads, sizeof *b->points, "points", err), done);
    RB_TRY(st, rb_alloc(&c, (size_t)PARTITION_N_WIDTHS * (n + 1), sizeof *c, "errors of groups", err), done);
    b->distortion = (group_distortion){n, c};
    for (int w = 0; w < PARTITION_N_WIDTHS; w++)
        for (int m = 1; m <= n; m++) c[w * (n + 1) + m] = normal_error[w] * (1.0 - 0.4 / (2 * m));
    numpy_rng_seed(&rng, 7);
    numpy_rng_standard_normal(&rng, b->q_energy, (size_t)b->n_heads * n);
    numpy_rng_standard_normal(&rng, b->k_energy, (size_t)b->n_heads * n);
    for (int i = 0; i < b->n_heads * n; i++) {
        b->q_energy[i] = exp(1.5 * b->q_energy[i] + 0.01 * (i / n % 97));
        b->k_energy[i] = exp(1.5 * b->k_energy[i]);
    }
done:
    return st;
}

static void free_model(bench *b)
{
    for (int h = 0; b->curves && h < b->n_heads; h++) partition_curve_free(&b->curves[h]);
    free(b->curves);
    free(b->heads);
    free(b->points);
    free(b->q_energy);
    free(b->k_energy);
    free((void *)b->distortion.c);
}

static rb_status solve(bench *b, double bits_per_dim, budget_scope scope, rb_error *err)
{
    const double started = now_s();
    const budget_request request = {.n_layers = b->n_layers,
                                    .heads_per_layer = b->n_heads_per_layer,
                                    .curves = b->heads,
                                    .objective = OBJECTIVE_MAE,
                                    .scope = scope,
                                    .total_bits = llround(bits_per_dim * 2 * b->n_blocks * b->n_heads)};
    budget_answer answer;
    block_partition partition;
    int64_t n_groups = 0;
    const rb_status st = budget_solve(b->points, &answer, &request, err);
    if (st != RB_OK) return st;
    for (int h = 0; h < b->n_heads; h++) {
        partition_curve_at(&b->curves[h], b->points[h], &partition);
        n_groups += partition.n_groups;
    }
    printf("{\"what\": \"budget\", \"scope\": \"%s\", \"true_bits\": %.2f, \"spent\": %.4f, \"ms\": %.2f, "
           "\"objective\": %.6g, \"relative_gap\": %.2e, "
           "\"groups_per_head\": %.2f}\n",
           budget_scope_names[scope], bits_per_dim, (double)answer.stored_bits / (2.0 * b->n_blocks * b->n_heads),
           (now_s() - started) * 1e3, answer.objective, (answer.objective - answer.bound) / answer.objective,
           (double)n_groups / b->n_heads);
    return RB_OK;
}

/* Blocks agree with those beside them, and are coherent to a fifth. */
static void make_moments(float *moment, const bench *b)
{
    for (int h = 0; h < b->n_heads; h++)
        for (int i = 0; i < b->n_blocks; i++)
            for (int j = i; j < b->n_blocks; j++) {
                const int64_t x = (int64_t)h * b->n_blocks + i, y = (int64_t)h * b->n_blocks + j;
                *moment++ = (float)(0.5 * sqrt(b->q_energy[x] * b->k_energy[x] * b->q_energy[y] * b->k_energy[y])
                                    * exp2(i - j) * (i == j ? 1.0 : 0.2));
            }
}

/* Round blocks, whose error falls by a bit as that of many points does. */
static void make_block_codebook(float *map, float *error, const bench *b)
{
    for (int i = 0; i < b->n_heads * b->n_blocks; i++) {
        map[BLOCK_CODEBOOK_MAP_SIZE * i] = map[BLOCK_CODEBOOK_MAP_SIZE * i + 2] = (float)sqrt(0.5 * b->k_energy[i]);
        for (int bits = 0; bits <= BLOCK_CODEBOOK_MAX_BITS; bits++)
            error[(BLOCK_CODEBOOK_MAX_BITS + 1) * i + bits] = (float)(b->k_energy[i] * exp2(-0.92 * bits));
    }
}

static rb_status sweep_methods(const bench *b, rb_error *err)
{
    static const bool all[METHOD_N] = {true, true, true, true, true};
    const int d = 2 * b->n_blocks;
    model_facts model = {.model_type = "llama",
                         .n_layers = b->n_layers,
                         .n_q_heads = b->n_heads_per_layer,
                         .n_kv_heads = b->n_heads_per_layer,
                         .head_dim = d,
                         .rotary_dim = d,
                         .value_dim = d,
                         .attention_scale = 1.0,
                         .rope = {.attention_factor = 1, .theta = 10000.0, .factor = 1.0}};
    const optimal_options options = optimal_options_default();
    const text_facts calibration = {0};
    const double started = now_s();
    float *moment = NULL;
    float *map = NULL, *error = NULL;
    double *mean = NULL;
    int n_points = 0;
    plan_sweep sweep = {0};
    rb_status st;
    RB_TRY(st,
           rb_alloc(&moment, (size_t)b->n_heads * b->n_blocks, ((size_t)b->n_blocks + 1) * sizeof *moment / 2,
                    "moments", err),
           done);
    RB_TRY(st, rb_alloc(&mean, (size_t)b->n_heads * d, sizeof *mean, "mean keys", err), done);
    RB_TRY(
        st,
        rb_alloc(&map, (size_t)b->n_heads * b->n_blocks, BLOCK_CODEBOOK_MAP_SIZE * sizeof *map, "maps of blocks", err),
        done);
    RB_TRY(st,
           rb_alloc(&error, (size_t)b->n_heads * b->n_blocks, (BLOCK_CODEBOOK_MAX_BITS + 1) * sizeof *error,
                    "errors of blocks", err),
           done);
    make_moments(moment, b);
    make_block_codebook(map, error, b);
    memset(model.config_sha256, 'c', RB_SHA256_HEX - 1);
    for (int i = 0; i < b->n_blocks; i++) model.rope.inv_freq[i] = pow(model.rope.theta, -(double)i / b->n_blocks);
    for (int64_t i = 0; i < (int64_t)b->n_heads * d; i++)
        mean[i] = 0.4 * sqrt(b->k_energy[i / d * b->n_blocks + i % b->n_blocks]);
    const head_statistics statistics = {.q_energy = b->q_energy,
                                        .k_energy = b->k_energy,
                                        .k_mean = mean,
                                        .moment = moment,
                                        .moment_centered = moment,
                                        .block_codebook_map = map,
                                        .block_codebook_error = error};
    const plan_request request = {.model = &model,
                                  .calibration = &calibration,
                                  .statistics = &statistics,
                                  .options = &options,
                                  .value_width = PLAN_FP16_WIDTH};
    RB_TRY(st, plan_sweep_compute(&sweep, &(sweep_range){1.5, 6.0, 0.25}, &request, &request, all, err), done);
    for (int method = 0; method < METHOD_N; method++) n_points += sweep.n_points[method];
    printf("{\"what\": \"methods\", \"heads\": %d, \"blocks\": %d, \"points\": %d, \"s\": %.3f}\n", b->n_heads,
           b->n_blocks, n_points, now_s() - started);
done:
    plan_sweep_free(&sweep);
    free(map);
    free(error);
    free(moment);
    free(mean);
    return st;
}

int main(int argc, char **argv)
{
    const int methods = argc > 1 && strcmp(argv[1], "methods") == 0, sweep = argc > 1 && strcmp(argv[1], "sweep") == 0,
              named = methods || sweep;
    char **size = argv + 1 + named;
    const int n_sizes = argc - 1 - named;
    bench b = {.n_layers = n_sizes > 0 ? atoi(size[0]) : 80,
               .n_heads_per_layer = n_sizes > 1 ? atoi(size[1]) : 8,
               .n_blocks = n_sizes > 2 ? atoi(size[2]) : 64};
    partition_options options = partition_options_default();
    rb_error err = {0};
    rb_status st;
    b.n_heads = b.n_layers * b.n_heads_per_layer;
    options.max_groups = n_sizes > 3 ? atoi(size[3]) : 0;
    if (!sweep) options.max_bits = 5 * 2 * b.n_blocks;
    rb_threads_init(1);

    RB_TRY(st, make_model(&b, &err), done);
    if (methods) {
        st = sweep_methods(&b, &err);
        goto done;
    }
    const double started = now_s();
    RB_TRY(st,
           partition_curves_build(b.curves, b.n_heads, b.n_blocks, b.q_energy, b.k_energy, NULL, &b.distortion, 1,
                                  &options, &err),
           done);
    const double curves_s = now_s() - started;
    for (int h = 0; h < b.n_heads; h++) b.heads[h] = (budget_curve){b.curves[h].n_points, b.curves[h].error};
    printf("{\"what\": \"curves\", \"heads\": %d, \"blocks\": %d, \"max_groups\": %d, \"points\": %d, \"ms_per_head\": "
           "%.3f, \"s\": %.3f}\n",
           b.n_heads, b.n_blocks, options.max_groups, b.curves[0].n_points, curves_s / b.n_heads * 1e3, curves_s);
    for (double bits = sweep ? 1.5 : 3.0; bits <= (sweep ? 6.0 : 3.0); bits += 0.25)
        RB_TRY(st, solve(&b, bits, SCOPE_MODEL, &err), done);
    printf("{\"what\": \"all\", \"s\": %.3f}\n", now_s() - started);
    RB_TRY(st, solve(&b, 3.0, SCOPE_LAYER, &err), done);
    RB_TRY(st, solve(&b, 3.0, SCOPE_HEAD, &err), done);
done:
    free_model(&b);
    if (st != RB_OK) fprintf(stderr, "bench_allocate: %s\n", err.msg);
    return rb_exit_code(st);
}
