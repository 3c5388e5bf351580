/* Method `optimal`: the cheapest keys for the logit error, under the group model of design.md, section 3
 * (docs/method.md).
 *
 * Per head the exact best partition into groups with a width each (partition.h), with the measured error of every width
 * and group size instead of 4^-width (kernels/reference/codec_distortion.h); over heads and layers one budget of stored
 * bits (global_budget.h). Keys may be equalized and centred first: equalize  scale_i = (q_energy_i / k_energy_i)^(1/4):
 * every block then has equal query and key energy, which is the least a group's cost can be; center    center = mean
 * key of the calibration text; k_energy is that of the rest. The method is then called `optimal-center`.
 *
 * Method `block-codebook`: every head of the family of that name (kernels/reference/block_codebook_codec.h), its bits
 * by block_codebook_curve.h; `best`: per head the family that has the lower error at the bytes it gets. Both take the
 * mean key off. */
#ifndef RB_METHODS_OPTIMAL_H
#define RB_METHODS_OPTIMAL_H

#include "methods/allocator.h"
#include "methods/global_budget.h"
#include "plan/bit_plan.h"

enum { OPTIMAL_OWN_SCOPE = -1 };

typedef struct optimal_options {
    bool equalize, center;
    unsigned families; /* bit f: codec_family f is allowed; of several, per head the one that errs less */
    int gain_bits;     /* of block-codebook, 0 to BLOCK_CODEBOOK_MAX_GAIN_BITS */
    codebook_kind codebook;
    rotation_kind rotation;
    norm_kind norm;
    plan_encoder encoder;
    unsigned widths; /* bit w: width w is allowed, 0..8 */
    int max_groups;  /* of a head; 0: no limit */
    int scope; /* budget_scope, or OPTIMAL_OWN_SCOPE: the model for groups; a head for planes: the first layers, whose
                * logits are small, lose needles to the others else (docs/method.md) */
    double least_share; /* no head gets less than this share of an equal one, 0 to 1 */
    budget_objective objective;
} optimal_options;

/* Of groups, gains of 3 bits. Equalized, not centred, sphere codebook, haar, 8-bit norms, search encoder, widths 0 to
 * 8, any number of groups, budgets of the method's own scope, mae, and a least share of 0.9: without it the sum over
 * layers is a percent lower at most and a layer of small logits pays for it (docs/method.md). */
optimal_options optimal_options_default(void);

/* Sets `center` and `families`: optimal is of groups, optimal-center of groups centred, block-codebook of planes, best
 * of both, centred. */
void optimal_options_set_method(optimal_options *options, allocation_method method);

/* The curves of all heads of a model, from which plans for any budget are taken. */
typedef struct optimal_curves optimal_curves;

/* Copies what it needs. Fails as partition_curves_build; RB_EINVAL: planes without block_codebook_map and
 * block_codebook_error. */
rb_status optimal_curves_build(optimal_curves **out, const model_facts *model, const head_statistics *statistics,
                               const optimal_options *options, rb_error *err);
void optimal_curves_free(optimal_curves *curves);

/* The best keys within a budget of stored key bits a token, all layers and heads together, of a plan whose model is the
 * curves'; sets its method too. Fails as budget_solve. */
rb_status optimal_plan_keys(bit_plan *plan, budget_answer *answer, const optimal_curves *curves, int64_t key_bits,
                            rb_error *err);

#endif
