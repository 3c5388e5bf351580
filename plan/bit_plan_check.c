/* Whether a plan can be what it says it is: bit_plan_check of plan/bit_plan.h. */
#include <math.h>
#include <stdio.h>

#include "core/plain_name.h"
#include "plan/bit_plan.h"

/* Of a plan whose values have heads of their own. */
static rb_status check_value_head(const bit_plan *plan, int h, const model_facts *values, const char *place,
                                  rb_error *err)
{
    const plan_head *head = &plan->value_heads[h];
    char value_place[220];
    snprintf(value_place, sizeof value_place, "%s, values", place);
    if (plan->value_widths[h] != PLAN_WIDTH_OF_HEADS)
        return rb_fail(err, RB_EFORMAT, "%s: value width is %d, expected %d with heads of their own", value_place,
                       plan->value_widths[h], PLAN_WIDTH_OF_HEADS);
    const rb_status st = plan_head_check(head, values, value_place, err);
    if (st != RB_OK || head->family == FAMILY_TRELLIS) return st;
    return rb_fail(err, RB_EFORMAT, "%s: codec family is %s, expected %s", value_place,
                   codec_family_names[head->family], codec_family_names[FAMILY_TRELLIS]);
}

static rb_status check_value_width(const bit_plan *plan, int h, const char *place, rb_error *err)
{
    const int width = plan->value_widths[h];
    if (width != PLAN_FP16_WIDTH && (width < PLAN_MIN_WIDTH || width > PLAN_MAX_WIDTH))
        return rb_fail(err, RB_EFORMAT, "%s: value width is %d, expected %d to %d, or %d", place, width, PLAN_MIN_WIDTH,
                       PLAN_MAX_WIDTH, PLAN_FP16_WIDTH);
    if ((width == PLAN_FP16_WIDTH) != (plan->value_widths[0] == PLAN_FP16_WIDTH))
        return rb_fail(err, RB_EFORMAT,
                       "%s: value width is %d, the first head's is %d, expected all values to be fp16 (%d) or none",
                       place, width, plan->value_widths[0], PLAN_FP16_WIDTH);
    return RB_OK;
}

/* Kernels take a layer at a time, and each of them is of one family. */
static rb_status check_one_family(const bit_plan *plan, int h, const char *place, rb_error *err)
{
    const codec_family family = plan->heads[h].family, first = plan->heads[h - h % plan->model.n_kv_heads].family;
    if (family == first) return RB_OK;
    return rb_fail(err, RB_EFORMAT, "%s: codec family is %s, that of kv_head 0 is %s, expected one family a layer",
                   place, codec_family_names[family], codec_family_names[first]);
}

static rb_status check_exact(const bit_plan *plan, const char *where, rb_error *err)
{
    const struct {
        const char *name;
        int64_t n;
    } counts[] = {{"sink", plan->n_sink}, {"recent", plan->n_recent}};
    for (size_t i = 0; i < RB_COUNT(counts); i++)
        if (counts[i].n < 0 || counts[i].n > PLAN_MAX_EXACT)
            return rb_fail(err, RB_EFORMAT, "%s: %s is %lld, expected 0 to %d tokens", where, counts[i].name,
                           (long long)counts[i].n, PLAN_MAX_EXACT);
    return RB_OK;
}

rb_status bit_plan_check(const bit_plan *plan, const char *where, rb_error *err)
{
    const model_facts values = model_value_facts(&plan->model);
    char place[200];
    rb_status st = model_facts_check(&plan->model, where, err);
    if (st == RB_OK) st = rb_check_plain_name(plan->method, "method", where, err);
    if (st != RB_OK) return st;
    if (!isfinite(plan->avg_bits) || plan->avg_bits < 0.0)
        return rb_fail(err, RB_EFORMAT, "%s: avg_bits is %g, expected a number from 0", where, plan->avg_bits);
    if ((unsigned)plan->value_codebook >= CODEBOOK_N_KINDS)
        return rb_fail(err, RB_EFORMAT, "%s: unknown value codebook kind %d", where, (int)plan->value_codebook);
    st = check_exact(plan, where, err);
    for (int h = 0; h < bit_plan_n_heads(plan) && st == RB_OK; h++) {
        snprintf(place, sizeof place, "%.150s: layer %d kv_head %d", where, h / plan->model.n_kv_heads,
                 h % plan->model.n_kv_heads);
        st =
            plan->value_heads ? check_value_head(plan, h, &values, place, err) : check_value_width(plan, h, place, err);
        if (st == RB_OK) st = plan_head_check(&plan->heads[h], &plan->model, place, err);
        if (st == RB_OK) st = check_one_family(plan, h, place, err);
    }
    return st;
}
