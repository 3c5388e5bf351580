/* Budgets in what is paid, and plans within them.
 *
 *   avg_bits         nominal bits per dim of the keys, as published. Methods that are not published get the bytes that
 *                    block-gtq stores at it, so that the two can be compared
 *   true_bits        stored bits per dim of the keys: codes, padding, norms
 *   total_bits       true bits per dim of the keys and of the values, added up
 *   bytes_per_token  keys and values of all layers and heads */
#ifndef RB_ALLOCATE_BUDGET_H
#define RB_ALLOCATE_BUDGET_H

#include "methods/optimal.h"

typedef enum budget_kind { BUDGET_AVG_BITS, BUDGET_TRUE_BITS, BUDGET_TOTAL_BITS, BUDGET_BYTES_PER_TOKEN } budget_kind;

typedef struct plan_budget {
    budget_kind kind;
    double amount;
} plan_budget;

/* Width of the values that go with keys of this budget, 1 to 8: its whole bits. If the budget is for both, the largest
 * width that leaves the keys half of it at least. */
int plan_budget_value_width(const plan_budget *budget, const model_facts *model);

/* Bytes a token that leave room for n_exact fp16 tokens, where n_tokens take `bytes` in all. Fails with RB_EINVAL where
 * nothing is left. */
rb_status plan_budget_of_memory(plan_budget *out, int64_t bytes, int64_t n_tokens, int64_t n_exact,
                                const model_facts *model, rb_error *err);

/* Whether the budget is for keys and values together. */
static inline bool plan_budget_is_for_both(const plan_budget *budget)
{
    return budget->kind == BUDGET_TOTAL_BITS || budget->kind == BUDGET_BYTES_PER_TOKEN;
}

typedef struct plan_request {
    const model_facts *model;
    const text_facts *calibration;
    const head_statistics *statistics;
    allocation_method method;
    const optimal_options *options; /* for methods that are not published; `method` in them is not read */
    const optimal_curves *curves;   /* built with these options, for several budgets; NULL: built for this one */
    int value_width;                /* 1..8 or PLAN_FP16_WIDTH, of all heads */
    const uint8_t *value_widths;    /* [n_layers][n_kv_heads], 1..8, in its place; NULL: none */
    bool has_trellis_values;        /* values have heads of family trellis in place of widths, */
    double value_true_bits;         /* of so many stored bits a dim on average; NAN: of the budget, which is for both,
                                     * and the method is trellis */
    bool equal_heads;               /* of method trellis and of its values: all heads of a layer have one size */
    double trellis_least_share;     /* likewise: methods/trellis_allocation.h */
    int64_t n_sink, n_recent;       /* of the plan; the statistics are those for so many sinks */
} plan_request;

/* The best plan of the method within the budget, freed with bit_plan_free. The published methods take their largest
 * nominal budget that is not dearer, block-gtq in steps of one bit of one block a head; that is the plan's avg_bits.
 * For the others avg_bits is the nominal budget that was asked for, or what their codes take, and `answer` is set.
 * Fails as allocate_plan and optimal_plan_keys; RB_EINVAL: the budget is below what the method stores at least, naming
 * both. */
rb_status allocate_within(bit_plan **out, budget_answer *answer, const plan_request *request, const plan_budget *budget,
                          rb_error *err);

#endif
