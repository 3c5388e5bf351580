/* Heads of plans as models have them, made up for benchmarks: no two alike. */
#ifndef RB_BENCH_RANDOM_PLANS_H
#define RB_BENCH_RANDOM_PLANS_H

#include <math.h>
#include <stdlib.h>

#include "kernels/reference/numpy_random.h"
#include "plan/bit_plan.h"

enum { RANDOM_PLAN_GAIN_BITS = 3 };

/* Family block-codebook at true_bits a dim, with a gain of 3 bits: blocks get bits as energies ask for that spread like
 * e to a normal; at 2.25 true bits 1 to 8, and 2^bits is 35 in the mean. Maps stretch up to twice. */
static inline rb_status random_block_codebook(plan_head *head, int head_dim, double true_bits, int h, rb_error *err)
{
    double spread[RB_MAX_BLOCKS], maps[BLOCK_CODEBOOK_MAP_SIZE * RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS];
    uint8_t bits[RB_MAX_BLOCKS] = {0};
    const int n = head_dim / 2;
    numpy_rng rng;
    numpy_rng_seed(&rng, 200 + (uint64_t)h);
    numpy_rng_standard_normal(&rng, spread, (size_t)n);
    for (int left = (int)(true_bits * head_dim) - RANDOM_PLAN_GAIN_BITS; left > 0; left--) {
        int best = 0; /* a bit halves the error of a block */
        for (int i = 1; i < n; i++)
            if (ldexp(exp(spread[i]), -bits[i]) > ldexp(exp(spread[best]), -bits[best])) best = i;
        bits[best]++;
    }
    for (int i = 0; i < n; i++) {
        maps[3 * i] = 1.0;
        maps[3 * i + 1] = 0.6 * sin(1.7 * i + h);
        maps[3 * i + 2] = sqrt(1.0 - maps[3 * i + 1] * maps[3 * i + 1]);
        weights[i] = exp(spread[i]);
    }
    return plan_head_set_block_codebook(head, bits, maps, weights, RANDOM_PLAN_GAIN_BITS, n, err);
}

/* Family trellis with code_bits a coordinate and a gain of 3 bits: widths as variances ask for that fall like those of
 * a model's, by a hundred from the first coordinate to the last. is_folded: the basis is no matrix, as that of values
 * is. */
static inline rb_status random_trellis(plan_head *head, int n, double code_bits, bool is_folded, int h, rb_error *err)
{
    double *basis = NULL, *lean = NULL, weights[RB_MAX_HEAD_DIM];
    uint8_t widths[RB_MAX_HEAD_DIM] = {8};
    numpy_rng rng;
    rb_status st;
    RB_TRY(st, rb_alloc(&basis, (size_t)n * (size_t)n, sizeof *basis, "basis", err), done);
    RB_TRY(st, rb_alloc(&lean, (size_t)n * (size_t)n, sizeof *lean, "basis", err), done);
    numpy_rng_seed(&rng, 300 + (uint64_t)h);
    numpy_rng_standard_normal(&rng, lean, (size_t)n * (size_t)n);
    for (int left = (int)(code_bits * n) - 8; left > 0; left--) {
        int best = 1; /* a bit quarters a variance */
        for (int i = 1; i < n; i++)
            if (pow(100.0, -(double)i / n) * pow(4.0, -widths[i])
                > pow(100.0, -(double)best / n) * pow(4.0, -widths[best]))
                best = i;
        widths[best]++;
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++)
            basis[i * n + j] =
                (i == j ? 1.0 : 0.0) + (is_folded ? 0.0 : 0.3 * (double)(float)lean[i * n + j] / sqrt(n));
        weights[i] = pow(100.0, -(double)i / n);
    }
    plan_head_clear(head);
    st = plan_head_set_trellis(head, widths, basis, weights, RANDOM_PLAN_GAIN_BITS, 4, n, err);
done:
    free(basis);
    free(lean);
    return st;
}

/* The plans of bench_decode:
 *
 *   fp16             no plan
 *   block-codebook   keys of block-codebook at 2.25 true bits a dim, values of one group of 2 bits: 2.125
 *   trellis          keys and values of trellis at 2.125 true bits
 *   k3v3             block-gtq of 3 bits as published, keys and values */
typedef enum random_plan_kind {
    RANDOM_FP16,
    RANDOM_BLOCK_CODEBOOK,
    RANDOM_TRELLIS,
    RANDOM_K3V3,
    RANDOM_N_KINDS
} random_plan_kind;
static const char *const random_plan_names[] = {"fp16", "block-codebook", "trellis", "k3v3", NULL};

static inline rb_status random_heads(bit_plan *plan, random_plan_kind kind, int h, rb_error *err)
{
    const int d = plan->model.head_dim;
    rb_status st = RB_OK;
    switch (kind) {
    case RANDOM_BLOCK_CODEBOOK: st = random_block_codebook(&plan->heads[h], d, 2.25, h, err); break;
    case RANDOM_TRELLIS:
        st = random_trellis(&plan->heads[h], d, 2.1, false, h, err);
        if (st == RB_OK) st = random_trellis(&plan->value_heads[h], plan->model.value_dim, 2.1, true, h, err);
        break;
    case RANDOM_K3V3: st = plan_head_set_uniform(&plan->heads[h], 3, d / 2, 42, CODEBOOK_BLOCK_GTQ, err); break;
    case RANDOM_FP16:
    case RANDOM_N_KINDS: break;
    }
    return st;
}

/* *out stays NULL for fp16. */
static inline rb_status random_plan_create(bit_plan **out, const model_facts *model, random_plan_kind kind,
                                           rb_error *err)
{
    rb_status st = RB_OK;
    *out = NULL;
    if (kind == RANDOM_FP16) return RB_OK;
    RB_TRY(st, bit_plan_create(out, model, err), done);
    if (kind == RANDOM_TRELLIS) RB_TRY(st, bit_plan_create_value_heads(*out, err), done);
    else bit_plan_set_value_width(*out, kind == RANDOM_K3V3 ? 3 : 2);
    for (int h = 0; h < bit_plan_n_heads(*out); h++) RB_TRY(st, random_heads(*out, kind, h, err), done);
done:
    return st;
}

#endif
