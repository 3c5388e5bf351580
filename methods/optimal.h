/* Methods that are not published: the cheapest keys for the logit error (docs/method.md).
 *
 * Every head brings a curve, the variance of its logit's error by stored bytes. One budget of stored bits is shared
 * over heads and layers (global_budget.h), and a head is then made at the point of its curve that it got. What a curve
 * is depends on the codec family of the method:
 *
 *   optimal         groups: the exact best partition of the blocks into groups with a width each (groups_curve.h)
 *   optimal-center  the same of keys less the mean key of the calibration text
 *   block-codebook  block-codebook, of keys less their mean: the bits of every block (block_codebook_curve.h)
 *
 * A family is one row of functions, optimal_family. */
#ifndef RB_METHODS_OPTIMAL_H
#define RB_METHODS_OPTIMAL_H

#include "methods/allocator.h"
#include "methods/global_budget.h"
#include "plan/bit_plan.h"

enum { OPTIMAL_OWN_SCOPE = -1 };

typedef struct optimal_options {
    allocation_method method; /* none of the published ones */
    int scope;                /* budget_scope, or OPTIMAL_OWN_SCOPE: the family's */
    double least_share;       /* no head gets less than this share of an equal one, 0 to 1 */
    budget_objective objective;
    /* Family groups. */
    bool equalize;
    codebook_kind codebook;
    rotation_kind rotation;
    norm_kind norm;
    plan_encoder encoder;
    unsigned widths; /* bit w: width w is allowed, 0..8 */
    int max_groups;  /* a head has at most so many; 0: any number */
    /* Family block-codebook. */
    int gain_bits; /* 0 to BLOCK_CODEBOOK_MAX_GAIN_BITS */
} optimal_options;

/* Method optimal, budgets of the family's own scope, mae, and a least share of 0.9: without it the sum over layers is a
 * percent lower at most, and a layer of small logits pays for it (docs/method.md). Groups are equalized, with the
 * sphere codebook, haar, norms of 8 bits, the search encoder, widths 0 to 8 and any number of groups; gains have 3
 * bits. */
optimal_options optimal_options_default(void);

/* Whether `own` differs from `usual` in an option that some family other than this one has (-1: any family). Returns
 * the end of a sentence on a method without such options, "has no gain, expected ..."; NULL: it does not. */
const char *optimal_foreign_options(const optimal_options *own, const optimal_options *usual, int family);

/* The curves of all heads of a model, from which plans for any budget are taken. */
typedef struct optimal_curves optimal_curves;

/* Borrows the statistics. Fails as the family's build; RB_EINVAL: statistics that the family needs are missing. */
rb_status optimal_curves_build(optimal_curves **out, const model_facts *model, const head_statistics *statistics,
                               const optimal_options *options, rb_error *err);
void optimal_curves_free(optimal_curves *curves);

/* The best keys within a budget of stored key bits a token, all layers and heads together, for a plan whose model is
 * the curves'; sets its method too. Fails as budget_solve. */
rb_status optimal_plan_keys(bit_plan *plan, budget_answer *answer, const optimal_curves *curves, int64_t key_bits,
                            rb_error *err);

/* ---- what a family gives: one row of functions in the table of optimal.c --------------------- */

/* What curves are made from; borrowed for as long as the curves live. */
typedef struct optimal_input {
    const model_facts *model;
    const optimal_options *options;
    const head_statistics *statistics; /* q_energy times model_query_weight */
    int n_heads, n_blocks;
    const double *k_mean; /* [n_heads][head_dim]: what the method takes off the keys; NULL: nothing */
    const float *moment;  /* [n_heads][n_blocks (n_blocks + 1) / 2], of what is left of the keys; NULL: none is known */
} optimal_input;

/* `curves` is the family's own. */
typedef struct optimal_family {
    budget_scope scope; /* who shares a budget if nobody asks */
    /* Errors of its curves are harms that add up over heads: their sum is minimised, whatever the objective and the
     * least share of the options (methods/trellis_allocation.h). */
    bool sums_harm;
    /* What a head that stores anything stores at least. */
    int64_t (*least_bits)(const optimal_options *options);
    rb_status (*build)(void **curves, const optimal_input *input, rb_error *err); /* freed also after a failure */
    void (*free)(void *curves);                                                   /* accepts NULL */
    budget_curve (*curve)(const void *curves, int h);
    /* An empty head becomes the one of this point; its centre is set by the caller. */
    rb_status (*make_head)(plan_head *head, const void *curves, int h, int point, rb_error *err);
    /* Whether options that only this family has differ, and what is said of another family's method then. */
    bool (*has_options)(const optimal_options *own, const optimal_options *usual);
    const char *refusal;
} optimal_family;

#endif
