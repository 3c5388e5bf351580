/* Who gets how many bits: from the energies of a head's blocks to its plan. `allocate` makes plans with it, `profile`
 * uses it to score methods.
 *
 * uniform    every block gets avg_bits, a whole number: one group of all dims.
 * block-gtq  arXiv 2606.24033. Every block starts at min_bits. Then floor(n_blocks * avg_bits) - sum further bits are
 *            given one at a time, each to the block with the largest energy * 4^-bits below max_bits; ties go to the
 *            lowest index. Blocks of equal width form a group. A product n_blocks * avg_bits within 1e-9 of a whole
 *            number is that number: 30 blocks at 2.3 bits share 69 bits, not 68.
 * optimal, optimal-center, block-codebook, trellis
 *            methods/optimal.h. At avg_bits they get the bytes that block-gtq stores at avg_bits, so that methods can
 *            be compared. */
#ifndef RB_METHODS_ALLOCATOR_H
#define RB_METHODS_ALLOCATOR_H

#include <stdbool.h>

#include "plan/bit_plan.h"

/* ROW(its part of a constant's name, its name in options and files, the codec family of its heads, whether it is
 * published, whether it takes the mean key off). Methods that are not published are those of methods/optimal.h. */
#define RB_ALLOCATION_METHODS(ROW)                                            \
    ROW(UNIFORM, "uniform", FAMILY_GROUPS, true, false)                       \
    ROW(BLOCK_GTQ, "block-gtq", FAMILY_GROUPS, true, false)                   \
    ROW(OPTIMAL, "optimal", FAMILY_GROUPS, false, false)                      \
    ROW(OPTIMAL_CENTER, "optimal-center", FAMILY_GROUPS, false, true)         \
    ROW(BLOCK_CODEBOOK, "block-codebook", FAMILY_BLOCK_CODEBOOK, false, true) \
    ROW(TRELLIS, "trellis", FAMILY_TRELLIS, false, true)

#define RB_METHOD_NUMBER(NAME, name, family, is_published, is_centered) METHOD_##NAME,
typedef enum allocation_method { RB_ALLOCATION_METHODS(RB_METHOD_NUMBER) METHOD_N } allocation_method;
#undef RB_METHOD_NUMBER

bool allocation_method_is_published(allocation_method method);
bool allocation_method_is_centered(allocation_method method);
codec_family allocation_method_family(allocation_method method);
const char *allocation_method_name(allocation_method method);
bool allocation_method_from_name(const char *name, allocation_method *method);
extern const char *const allocation_method_names[]; /* NULL-terminated, for option tables */

enum { ALLOCATE_MIN_BITS = 1, ALLOCATE_MAX_BITS = 8 };

/* What an allocator may know about a head. */
typedef struct head_energy {
    int n_blocks;
    const double *q_energy, *k_energy; /* [n_blocks] */
    const model_facts *model;          /* whose RoPE in this layer multiplies queries and keys; NULL: by nothing */
    int layer;
} head_energy;

/* What a profile knows of all heads; borrowed. Methods that are not published use more than the energies. */
typedef struct head_statistics {
    const double *q_energy, *k_energy; /* [n_layers][n_kv_heads][n_blocks] */
    const double *k_mean;              /* [n_layers][n_kv_heads][head_dim]; only centred methods use it */
    /* Logit moments, [n_layers][n_kv_heads][n_blocks (n_blocks + 1) / 2], of keys as they are and less their mean:
     * profile/logit_moment.h. NULL: blocks are taken for independent. */
    const float *moment, *moment_centered;
    /* Only block-codebook uses these: profile/block_codebook_error.h. */
    /* Energies of all tokens, where the others are without the first ones of a sequence: by them block-gtq as published
     * says what a nominal budget stores. NULL: the others. */
    const double *all_q_energy, *all_k_energy;
    const float *block_codebook_map;   /* [n_layers][n_kv_heads][n_blocks][BLOCK_CODEBOOK_MAP_SIZE] */
    const float *block_codebook_error; /* [n_layers][n_kv_heads][n_blocks][BLOCK_CODEBOOK_MAX_BITS + 1] */
    /* What errors do to the output of a layer's attention, and the moments of keys and values:
     * profile/output_sensitivity.h. All NULL where the profile has none; residual_energy may be NULL by itself. */
    const float *key_metric, *key_covariance; /* [n_layers][n_kv_heads][head_dim][head_dim] */
    /* [n_layers][n_kv_heads][value_dim][value_dim] */
    const float *value_metric, *value_moment, *value_moment_weighted;
    const double *residual_energy; /* [n_layers] */
} head_statistics;

/* The same with the energies of all tokens. */
static inline head_statistics head_statistics_of_all(const head_statistics *statistics)
{
    head_statistics all = *statistics;
    if (all.all_q_energy) all.q_energy = all.all_q_energy;
    if (all.all_k_energy) all.k_energy = all.all_k_energy;
    return all;
}

/* energy[i] = (q_energy[i] + k_energy[i]) / 2 of what leaves RoPE: times the square of the block's gain */
void head_energy_mean(const head_energy *energy, double *out);

/* bits [n_blocks]. RB_EINVAL: avg_bits outside 1..8; RB_ENONFINITE: an energy that is negative or not finite, naming
 * its block. */
rb_status allocate_greedy(uint8_t *bits, const double *energy, int n_blocks, double avg_bits, rb_error *err);

/* Stored key bits of a token under block-gtq at every budget it knows: key_bits[s], for s bits over the blocks of every
 * head (s / n_blocks nominal bits a dim), s from n_blocks to most_bits <= 8 n_blocks; 0 below. One pass over the greedy
 * steps. Fails as allocate_greedy, naming the head. */
rb_status allocate_greedy_bits(int64_t *key_bits, int most_bits, const model_facts *model,
                               const head_statistics *statistics, rb_error *err);

/* Sets the head's groups by a published method. Fails as allocate_greedy, and RB_EINVAL: uniform with a fractional
 * budget, another method. */
rb_status allocate_head(plan_head *head, allocation_method method, double avg_bits, const head_energy *energy,
                        rb_error *err);

/* A plan without keys, freed with bit_plan_free: value_width 1..8 or PLAN_FP16_WIDTH. */
rb_status allocate_values(bit_plan **out, const model_facts *model, const text_facts *calibration, int value_width,
                          rb_error *err);
/* A whole plan, freed with bit_plan_free. Fails as allocate_head, methods/optimal.h and bit_plan_check. */
rb_status allocate_plan(bit_plan **out, const model_facts *model, const text_facts *calibration,
                        allocation_method method, double avg_bits, int value_width, const head_statistics *statistics,
                        rb_error *err);
/* Stored bits of all keys of a token, what bit_plan_cost calls key_true_bits times dims. */
int64_t allocate_key_bits(const bit_plan *plan);

/* Every key group's rotation becomes this kind, seeds as they are. Values have no kind of their own: they stay haar. */
void allocate_set_rotation(bit_plan *plan, rotation_kind kind);

#endif
