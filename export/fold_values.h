/* The bases of values of family trellis folded into a model: then its values are their own coordinates, z = v B^-1, and
 * a runtime needs no product to find or use them. For export/plan_folded.c. */
#ifndef RB_EXPORT_FOLD_VALUES_H
#define RB_EXPORT_FOLD_VALUES_H

#include "plan/bit_plan.h"

/* Whether values have heads of their own, and one of them a basis other than the identity. */
bool fold_values_is_needed(const bit_plan *plan);

/* *out = [n_kv_heads][value_dim][value_dim], the inverse of every basis of a layer, owned by the caller. RB_EFORMAT
 * where there is none. */
rb_status fold_values_invert(double **out, const bit_plan *plan, int layer, rb_error *err);

/* Rows [dims][n_columns] of v_proj, or its bias (n_columns 1), of one KV head -> those that give v B^-1. */
void fold_value_rows(float *rows, const double *inverse, int dims, int64_t n_columns);

/* Columns [dims] of a row of o_proj, of one query head -> those that take z for v. */
void fold_output_columns(float *columns, const float *basis, int dims);

/* The head becomes that of the folded model: its basis the identity, its centre c B^-1, rounded to fp16. */
rb_status fold_value_head(plan_head *head, rb_error *err);

#endif
