/* The plan of one head, whatever its family: see kernels/reference/plan_head.h. */
#include "kernels/reference/plan_head.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"

#define RB_FAMILY_NAME(NAME, prefix, name) name,
const char *const codec_family_names[FAMILY_N_KINDS + 1] = {RB_CODEC_FAMILIES(RB_FAMILY_NAME) NULL};
#undef RB_FAMILY_NAME

#define RB_FAMILY_DECLARATION(NAME, prefix, name) extern const plan_head_functions prefix##_plan_functions;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION

static const plan_head_functions *functions_of(const plan_head *head)
{
#define RB_FAMILY_ROW(NAME, prefix, name) &prefix##_plan_functions,
    static const plan_head_functions *const table[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW
    return table[head->family];
}

/* ---- life ------------------------------------------------------------------------------------ */

void plan_head_clear(plan_head *head)
{
    functions_of(head)->clear(head);
    free(head->center);
    *head = (plan_head){0};
}

rb_status plan_head_copy(plan_head *out, const plan_head *head, int n_blocks, int head_dim, rb_error *err)
{
    rb_status st;
    *out = (plan_head){.family = head->family};
    RB_TRY(st, plan_floats_copy(&out->center, head->center, head_dim, err), done);
    RB_TRY(st, functions_of(head)->copy(out, head, n_blocks, err), done);
done:
    if (st != RB_OK) plan_head_clear(out);
    return st;
}

rb_status plan_head_set_center(plan_head *head, const double *center, int head_dim, rb_error *err)
{
    return plan_floats_round(&head->center, center, head_dim, err);
}

/* ---- looking --------------------------------------------------------------------------------- */

bool plan_head_equal(const plan_head *a, const plan_head *b, const model_facts *model)
{
    return a->family == b->family && plan_floats_equal(a->center, b->center, model->head_dim)
           && functions_of(a)->equal(a, b, model_n_blocks(model));
}

void plan_head_bits(const plan_head *head, uint8_t *bits, int n_blocks)
{
    memset(bits, 0, (size_t)n_blocks);
    functions_of(head)->bits(head, bits, n_blocks);
}

bool plan_head_bits_are_of_block(const plan_head *head) { return functions_of(head)->bits_are_of_block; }
int plan_head_code_bits(const plan_head *head, int n_blocks) { return functions_of(head)->code_bits(head, n_blocks); }
int plan_head_stored_bits(const plan_head *head, int n_blocks)
{
    return functions_of(head)->stored_bits(head, n_blocks);
}

double plan_head_nominal_bits(const plan_head *head, int head_dim)
{
    return (double)plan_head_code_bits(head, head_dim / 2) / head_dim;
}

double plan_head_true_bits(const plan_head *head, int head_dim)
{
    return (double)plan_head_stored_bits(head, head_dim / 2) / head_dim;
}

bool plan_head_is_published_form(const plan_head *head, int n_blocks)
{
    return !head->center && functions_of(head)->is_published_form(head, n_blocks);
}

rb_status plan_head_check(const plan_head *head, const model_facts *model, const char *where, rb_error *err)
{
    rb_status st;
    if ((unsigned)head->family >= FAMILY_N_KINDS)
        return rb_fail(err, RB_EFORMAT, "%s: unknown codec family %d", where, (int)head->family);
    st = functions_of(head)->check(head, model_n_blocks(model), where, err);
    return st == RB_OK ? plan_floats_check(head->center, model->head_dim, -INFINITY, "center", where, err) : st;
}

/* ---- numbers that fp16 holds, so that plan.json, plan.rbp and a kernel hold the same --------- */

bool plan_floats_equal(const float *a, const float *b, int n)
{
    return a && b ? memcmp(a, b, (size_t)n * sizeof *a) == 0 : a == b;
}

rb_status plan_floats_copy(float **out, const float *from, int n, rb_error *err)
{
    if (!from) return RB_OK;
    rb_status st = rb_alloc(out, (size_t)n, sizeof **out, "numbers of a head", err);
    if (st == RB_OK) memcpy(*out, from, (size_t)n * sizeof **out);
    return st;
}

float plan_fp16(double value) { return rb_f16_to_f32(rb_f32_to_f16((float)value)); }

rb_status plan_floats_round(float **out, const double *from, int n, rb_error *err)
{
    free(*out);
    *out = NULL;
    if (!from) return RB_OK;
    rb_status st = rb_alloc(out, (size_t)n, sizeof **out, "numbers of a head", err);
    for (int i = 0; st == RB_OK && i < n; i++) (*out)[i] = plan_fp16(from[i]);
    return st;
}

rb_status plan_floats_check(const float *values, int n, float above, const char *what, const char *where, rb_error *err)
{
    for (int i = 0; values && i < n; i++)
        if (!(values[i] > above) || !isfinite(values[i]) || rb_f16_to_f32(rb_f32_to_f16(values[i])) != values[i])
            return rb_fail(err, RB_EFORMAT, "%s: %s %d is %.9g, expected a number%s that fp16 holds", where, what, i,
                           (double)values[i], above == 0.0f ? " above 0" : "");
    return RB_OK;
}
