/* Method `trellis`: keys and values of all heads in bases of their own (trellis_basis.h), and one currency for what
 * their errors do. The harm of an error is what it does to the output of its layer's attention, squared, over the
 * squared size of the residual stream that the output is added to (profile/output_sensitivity.h): a share of what the
 * next layers see. So bits are given to keys and values, heads and layers alike by what they save
 * (methods/global_budget.h). How well it follows the divergence of next tokens: docs/method.md. */
#ifndef RB_METHODS_TRELLIS_ALLOCATION_H
#define RB_METHODS_TRELLIS_ALLOCATION_H

#include "methods/allocator.h"
#include "methods/global_budget.h"
#include "methods/trellis_curve.h"

typedef struct trellis_curves trellis_curves;

/* Which parts of the cache are wanted. */
typedef enum trellis_part { TRELLIS_KEYS = 1, TRELLIS_VALUES = 2, TRELLIS_BOTH = 3 } trellis_part;

/* Fails with RB_EINVAL where the statistics have no sensitivity, and as trellis_head_create, naming the head. Keeps
 * pointers into the model and the statistics. */
rb_status trellis_curves_build(trellis_curves **out, trellis_part parts, const model_facts *model,
                               const head_statistics *statistics, rb_error *err);
void trellis_curves_free(trellis_curves *curves); /* accepts NULL */

/* The keys of head h, layer * n_kv_heads + kv_head, of curves with keys; borrowed. */
const trellis_head *trellis_curves_key_head(const trellis_curves *curves, int h);
/* The metric is of small errors. Those of keys are exponentiated on their way, so that keys of few bits do more harm
 * than it says, about this many times: docs/method.md. */
#define TRELLIS_KEY_HARM 2.0

/* The least share if nobody asks. Harm is a mean over text: what a rare token needs of a head, it does not tell. */
#define TRELLIS_LEAST_SHARE 0.5

/* What a harm to the output of this layer counts: 1 over the energy of the residual stream; 1 where that is not known.
 */
double trellis_layer_weight(const head_statistics *statistics, int layer);

typedef struct trellis_budget {
    trellis_part parts;
    int64_t total_bits; /* stored, of all these parts of a token */
    double least_share; /* no head gets less than this share of an equal one, 0 to 1 */
    bool equal_heads;   /* keys of a layer have one size, and so have its values; what is left over is not spent */
} trellis_budget;

/* Sets keys, values or both of the plan. `answer` as budget_solve gives it. RB_EINVAL: a budget below what the heads
 * store at least, naming both. */
rb_status trellis_plan(bit_plan *plan, budget_answer *answer, const trellis_curves *curves,
                       const trellis_budget *budget, rb_error *err);

#endif
