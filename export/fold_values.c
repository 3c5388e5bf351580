/* See export/fold_values.h. */
#include "export/fold_values.h"

#include <stdlib.h>

#include "kernels/reference/trellis_codec.h"

static bool is_identity(const plan_trellis *own)
{
    for (int i = 0; i < own->n_dims * own->n_dims; i++)
        if (own->basis[i] != (i / own->n_dims == i % own->n_dims ? 1.0f : 0.0f)) return false;
    return true;
}

bool fold_values_is_needed(const bit_plan *plan)
{
    for (int h = 0; plan->value_heads && h < bit_plan_n_heads(plan); h++)
        if (!is_identity(&plan->value_heads[h].trellis)) return true;
    return false;
}

rb_status fold_values_invert(double **out, const bit_plan *plan, int layer, rb_error *err)
{
    const int n_heads = plan->model.n_kv_heads;
    const size_t size = (size_t)plan->model.value_dim * (size_t)plan->model.value_dim;
    double *inverses = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&inverses, (size_t)n_heads * size, sizeof *inverses, "bases of values", err), done);
    for (int h = 0; h < n_heads; h++) {
        st = trellis_invert_basis(inverses + (size_t)h * size, &bit_plan_value_head_at(plan, layer, h)->trellis, err);
        if (st != RB_OK) {
            st = rb_fail_in(err, st, "layer %d kv_head %d, values", layer, h);
            goto done;
        }
    }
    *out = inverses;
    inverses = NULL;
done:
    free(inverses);
    return st;
}

void fold_value_rows(float *rows, const double *inverse, int dims, int64_t n_columns)
{
    double sums[RB_MAX_HEAD_DIM];
    for (int64_t column = 0; column < n_columns; column++) {
        for (int i = 0; i < dims; i++) sums[i] = 0.0;
        for (int j = 0; j < dims; j++) {
            const double value = (double)rows[j * n_columns + column];
            for (int i = 0; i < dims; i++) sums[i] += value * inverse[j * dims + i];
        }
        for (int i = 0; i < dims; i++) rows[i * n_columns + column] = (float)sums[i];
    }
}

void fold_output_columns(float *columns, const float *basis, int dims)
{
    double sums[RB_MAX_HEAD_DIM];
    for (int i = 0; i < dims; i++) {
        sums[i] = 0.0;
        for (int j = 0; j < dims; j++) sums[i] += (double)columns[j] * (double)basis[i * dims + j];
    }
    for (int i = 0; i < dims; i++) columns[i] = (float)sums[i];
}

/* center [dims] <- c B^-1 */
static rb_status project_center(double *center, const plan_head *head, rb_error *err)
{
    const int n = head->trellis.n_dims;
    double *inverse = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&inverse, (size_t)n * (size_t)n, sizeof *inverse, "basis of values", err), done);
    RB_TRY(st, trellis_invert_basis(inverse, &head->trellis, err), done);
    for (int i = 0; i < n; i++) {
        center[i] = 0.0;
        for (int j = 0; j < n; j++) center[i] += (double)head->center[j] * inverse[j * n + i];
    }
done:
    free(inverse);
    return st;
}

rb_status fold_value_head(plan_head *head, rb_error *err)
{
    const int n = head->trellis.n_dims;
    double center[RB_MAX_HEAD_DIM];
    if (head->center) {
        rb_status st = project_center(center, head, err);
        if (st == RB_OK) st = plan_head_set_center(head, center, n, err);
        if (st != RB_OK) return st;
    }
    for (int i = 0; i < n * n; i++) head->trellis.basis[i] = i / n == i % n ? 1.0f : 0.0f;
    return RB_OK;
}
