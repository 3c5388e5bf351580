/* The distinct codebooks of a plan: see plan/plan_codebooks.h. */
#include "plan/plan_codebooks.h"

#include <stdlib.h>
#include <string.h>

#include "plan/plan_family.h"

static int by_spec(const void *a, const void *b)
{
    const codebook_spec *x = a, *y = b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    if (x->width != y->width) return x->width - y->width;
    return x->dims - y->dims;
}

rb_status plan_codebooks_add(plan_codebooks *books, const codebook_spec *spec, rb_error *err)
{
    if (books->n == books->room) {
        const int room = 2 * books->room + 64;
        codebook_spec *grown = realloc(books->at, (size_t)room * sizeof *grown);
        if (!grown) return rb_fail(err, RB_ENOMEM, "out of memory for codebooks of a plan");
        books->at = grown;
        books->room = room;
    }
    books->at[books->n++] = *spec;
    return RB_OK;
}

static rb_status add_values(plan_codebooks *out, const bit_plan *plan, int h, rb_error *err)
{
    if (plan->value_heads) {
        const model_facts values = model_value_facts(&plan->model);
        return plan_family_of(&plan->value_heads[h])->add_codebooks(out, &plan->value_heads[h], &values, err);
    }
    const codebook_spec spec = {plan->value_codebook, plan->value_widths[h], plan->model.value_dim};
    return bit_plan_quantizes_values(plan) ? plan_codebooks_add(out, &spec, err) : RB_OK;
}

static void keep_distinct(plan_codebooks *books)
{
    const int n = books->n;
    if (n > 0) qsort(books->at, (size_t)n, sizeof *books->at, by_spec);
    books->n = 0;
    for (int i = 0; i < n; i++)
        if (i == 0 || by_spec(&books->at[i], &books->at[books->n - 1]) != 0) books->at[books->n++] = books->at[i];
}

rb_status plan_codebooks_collect(plan_codebooks *out, const bit_plan *plan, rb_error *err)
{
    rb_status st = RB_OK;
    *out = (plan_codebooks){0};
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        RB_TRY(st, plan_family_of(&plan->heads[h])->add_codebooks(out, &plan->heads[h], &plan->model, err), done);
        RB_TRY(st, add_values(out, plan, h, err), done);
    }
    keep_distinct(out);
    for (int bits = 1; bits <= PLAN_MAX_POINT_BITS; bits++) out->n_points += out->has_points[bits];
    for (int bits = 1; bits <= PLAN_MAX_LEVEL_BITS; bits++) out->n_levels += out->has_levels[bits];
    for (int width = 1; width <= PLAN_MAX_TRELLIS_WIDTH; width++) out->n_trellis += out->has_trellis[width];
done:
    if (st != RB_OK) plan_codebooks_free(out);
    return st;
}

void plan_codebooks_free(plan_codebooks *books)
{
    free(books->at);
    *books = (plan_codebooks){0};
}

rb_status plan_points_build(float **out, int bits, rb_error *err)
{
    const size_t size = (size_t)1 << bits;
    block_codebook *book = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&book, 1, sizeof *book, "points of a plan", err), done);
    RB_TRY(st, block_codebook_build(book, bits, err), done);
    RB_TRY(st, rb_alloc(out, 2 * size, sizeof **out, "points of a plan", err), done);
    memcpy(*out, book->x, size * sizeof **out);
    memcpy(*out + size, book->y, size * sizeof **out);
done:
    free(book);
    return st;
}
