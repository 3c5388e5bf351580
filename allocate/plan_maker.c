/* See plan_maker.h. */
#include "allocate/plan_maker.h"

#include <math.h>
#include <stdlib.h>

#include "core/message.h"
#include "methods/trellis_allocation.h"
#include "profile/profile_statistics.h"

rb_status plan_maker_begin(plan_maker *out, const plan_options *options, const plan_budget *budget, rb_error *err)
{
    rb_status st;
    *out = (plan_maker){.options = options, .method = (allocation_method)options->method};
    RB_TRY(st, value_options_check(&options->values, out->method, budget, options->equal_heads, err), done);
    RB_TRY(st, plan_options_resolve(&out->optimal, &out->method, options, err), done);
    out->optimal.method = out->method;
done:
    return st;
}

enum { ENOUGH_TOKENS = 4096 }; /* below, plans of trellis lose a good part of what they gain: docs/method.md */

static void warn_of_few_tokens(const plan_maker *maker)
{
    const int64_t n = maker->profile->sensitivity.n_tokens;
    if (maker->method != METHOD_TRELLIS && !value_options_want_trellis(&maker->options->values, maker->method)) return;
    if (maker->profile->sensitivity.key_metric && n < ENOUGH_TOKENS)
        rb_message_warn("the sensitivity of the outputs was measured on %lld tokens, and trellis wants %d or more: "
                        "calibrate --n-tokens %d",
                        (long long)n, ENOUGH_TOKENS, 2 * ENOUGH_TOKENS);
}

void plan_maker_set_profile(plan_maker *maker, const profile_table *profile)
{
    maker->profile = profile;
    maker->n_sink = plan_options_sinks(maker->options, allocation_method_is_published(maker->method), profile);
    maker->statistics = profile_statistics(profile, maker->n_sink);
    plan_options_warn_of_sinks(maker->n_sink, profile);
    warn_of_few_tokens(maker);
}

void plan_maker_end(plan_maker *maker)
{
    optimal_curves_free(maker->curves);
    *maker = (plan_maker){0};
}

static rb_status build_curves(plan_maker *maker, rb_error *err)
{
    if (maker->curves || allocation_method_is_published(maker->method) || maker->method == METHOD_TRELLIS) return RB_OK;
    return optimal_curves_build(&maker->curves, &maker->profile->model, &maker->statistics, &maker->optimal, err);
}

rb_status plan_maker_make(made_plan *out, plan_maker *maker, const plan_budget *budget, rb_error *err)
{
    const plan_options *options = maker->options;
    value_choice values = {0};
    rb_status st;
    *out = (made_plan){0};
    RB_TRY(st,
           value_options_choose(&values, &options->values, maker->method, budget, maker->profile, maker->n_sink, err),
           done);
    RB_TRY(st, build_curves(maker, err), done);
    const plan_request request = {.model = &maker->profile->model,
                                  .calibration = &maker->profile->calibration,
                                  .statistics = &maker->statistics,
                                  .method = maker->method,
                                  .options = &maker->optimal,
                                  .curves = maker->curves,
                                  .value_width = values.width,
                                  .value_widths = values.widths,
                                  .has_trellis_values = values.is_trellis,
                                  .value_true_bits = values.true_bits,
                                  .equal_heads = options->equal_heads,
                                  .trellis_least_share =
                                      isnan(options->least_share) ? TRELLIS_LEAST_SHARE : options->least_share,
                                  .n_sink = maker->n_sink,
                                  .n_recent = options->n_recent};
    RB_TRY(st, allocate_within(&out->plan, &out->answer, &request, budget, err), done);
    allocate_set_rotation(out->plan, (rotation_kind)options->rotation);
    out->has_answer = !allocation_method_is_published(maker->method);
    out->has_value_answer = values.widths != NULL;
    out->value_answer = values.answer;
done:
    free(values.widths);
    return st;
}
