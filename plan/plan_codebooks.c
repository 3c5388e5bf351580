/* The distinct codebooks of a plan: see plan/plan_codebooks.h. */
#include "plan/plan_codebooks.h"

#include <stdlib.h>

static int by_spec(const void *a, const void *b)
{
    const codebook_spec *x = a, *y = b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    if (x->width != y->width) return x->width - y->width;
    return x->dims - y->dims;
}

static void collect_points(plan_codebooks *out, const bit_plan *plan)
{
    for (int h = 0; h < plan->model.n_layers * plan->model.n_kv_heads; h++)
        for (int block = 0; plan->heads[h].family == FAMILY_BLOCK_CODEBOOK && block < model_n_blocks(&plan->model);
             block++)
            out->has_points[plan->heads[h].block_codebook.bits[block]] = true;
    out->has_points[0] = false; /* nothing is stored */
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_BITS; bits++) out->n_points += out->has_points[bits];
}

rb_status plan_codebooks_collect(plan_codebooks *out, const bit_plan *plan, rb_error *err)
{
    const int n_heads = plan->model.n_layers * plan->model.n_kv_heads;
    int n_all = n_heads, n = 0;
    *out = (plan_codebooks){0};
    for (int h = 0; h < n_heads; h++) n_all += plan_head_groups(&plan->heads[h])->n;
    rb_status st = rb_alloc(&out->at, (size_t)n_all, sizeof *out->at, "codebooks of a plan", err);
    if (st != RB_OK) return st;
    collect_points(out, plan);
    for (int h = 0; h < n_heads; h++)
        for (int g = 0; g < plan_head_groups(&plan->heads[h])->n; g++) {
            const plan_group *group = &plan_head_groups(&plan->heads[h])->at[g];
            out->at[n++] = (codebook_spec){group->codebook, group->width, group->rotation.dims};
        }
    for (int h = 0; h < n_heads && bit_plan_quantizes_values(plan); h++)
        out->at[n++] = (codebook_spec){plan->value_codebook, plan->value_widths[h], plan->model.head_dim};
    qsort(out->at, (size_t)n, sizeof *out->at, by_spec);
    for (int i = 0; i < n; i++)
        if (i == 0 || by_spec(&out->at[i], &out->at[out->n - 1]) != 0) out->at[out->n++] = out->at[i];
    return RB_OK;
}

void plan_codebooks_free(plan_codebooks *books)
{
    free(books->at);
    *books = (plan_codebooks){0};
}
