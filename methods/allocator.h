/* Who gets how many bits: from the energies of a head's blocks to its plan. Library of the `allocate` stage; `profile`
 * uses it to score methods.
 *
 * uniform    every block avg_bits (a whole number), one group of all dims.
 * block-gtq  arXiv 2606.24033: start at min_bits; then floor(n_blocks * avg_bits) - sum further bits, one at a time,
 * each to the block with the largest energy * 4^-bits below max_bits; ties to the lowest index. Blocks of equal width
 * form a group. A product n_blocks * avg_bits within 1e-9 of a whole number is that number: 30 blocks at 2.3 bits share
 * 69 bits, not 68. optimal, optimal-center, block-codebook, best  methods/optimal.h. At avg_bits they get the bytes
 * that block-gtq stores at avg_bits, so they can be compared. */
#ifndef RB_METHODS_ALLOCATOR_H
#define RB_METHODS_ALLOCATOR_H

#include <stdbool.h>

#include "plan/bit_plan.h"

typedef enum allocation_method {
    METHOD_UNIFORM,
    METHOD_BLOCK_GTQ,
    METHOD_OPTIMAL,
    METHOD_OPTIMAL_CENTER,
    METHOD_BLOCK_CODEBOOK,
    METHOD_BEST,
    METHOD_N
} allocation_method;
bool allocation_method_is_published(
    allocation_method method); /* uniform, block-gtq; the others are methods/optimal.h's */
const char *allocation_method_name(allocation_method method);
bool allocation_method_from_name(const char *name, allocation_method *method);
extern const char *const allocation_method_names[]; /* NULL-terminated, for option tables */

enum { ALLOCATE_MIN_BITS = 1, ALLOCATE_MAX_BITS = 8 };

/* What an allocator may know about a head. */
typedef struct head_energy {
    int n_blocks;
    const double *q_energy, *k_energy; /* [n_blocks] */
} head_energy;

/* Of all heads: energies [n_layers][n_kv_heads][n_blocks]; mean keys [n_layers][n_kv_heads][head_dim] (used by
 * optimal-center alone; may be NULL without); logit moments [n_layers][n_kv_heads][n_blocks (n_blocks + 1) / 2] of
 * profile/logit_moment.h (used by the optimal methods; NULL: blocks are taken for independent); maps and errors of
 * profile/block_codebook_error.h, [n_layers][n_kv_heads][n_blocks][BLOCK_CODEBOOK_MAP_SIZE] and
 * [..][BLOCK_CODEBOOK_MAX_BITS + 1] (used by block-codebook and best). */
typedef struct head_statistics {
    const double *q_energy, *k_energy, *k_mean;
    const float *moment, *moment_centered, *block_codebook_map, *block_codebook_error;
} head_statistics;

/* energy[i] = (q_energy[i] + k_energy[i]) / 2 */
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
