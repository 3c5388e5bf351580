/* A head of family trellis out of a plan.rbp: a row of the table in plan/plan_rbp_reader.c. */
#include <stdlib.h>

#include "core/half.h"
#include "plan/plan_rbp_head.h"

rb_status trellis_from_library(plan_head *out, const ropebits_head *head, const model_facts *model, rb_error *err)
{
    const int n = model->head_dim;
    double weights[RB_MAX_HEAD_DIM], *basis = NULL;
    rb_status st = rb_alloc(&basis, (size_t)n * (size_t)n, sizeof *basis, "basis", err);
    if (st != RB_OK) return st;
    for (int i = 0; i < n; i++) weights[i] = (double)head->weights[i];
    for (int i = 0; i < n * n; i++) basis[i] = (double)rb_f16_to_f32(head->basis[i]);
    st = plan_head_set_trellis(out, head->widths, basis, weights, head->gain_bits, head->gain_zero, n, err);
    free(basis);
    return st;
}
