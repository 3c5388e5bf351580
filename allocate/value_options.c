/* See value_options.h. */
#include "allocate/value_options.h"

#include <math.h>

#include "methods/value_budget.h"

enum { LEAST_VALUE_BITS = 2 }; /* values of 1 bit lose needles whatever their mean error says: docs/method.md, Values */

const char *const value_scope_names[] = {"model", "head", NULL};
const char *const value_codec_names[] = {"auto", "published", "trellis", NULL};

value_options value_options_default(void)
{
    return (value_options){.bits = VALUES_AS_KEYS, .least_bits = LEAST_VALUE_BITS};
}

bool value_options_want_trellis(const value_options *options, allocation_method method)
{
    return options->bits != PLAN_FP16_WIDTH
           && (options->codec == VALUE_CODEC_TRELLIS
               || (options->codec == VALUE_CODEC_AUTO && method == METHOD_TRELLIS));
}

static rb_status check_trellis(const value_options *options, rb_error *err)
{
    if (options->scope == VALUES_PER_HEAD)
        return rb_fail(err, RB_EUSAGE,
                       "--value-per head is for widths of published values, expected none with trellis");
    if (options->bits != VALUES_AS_KEYS && options->bits > PLAN_MAX_WIDTH)
        return rb_fail(err, RB_EUSAGE, "--value-bits is %g, expected up to %d, or %d", options->bits, PLAN_MAX_WIDTH,
                       PLAN_FP16_WIDTH);
    return RB_OK;
}

static rb_status check_widths(const value_options *options, rb_error *err)
{
    const double bits = options->bits;
    if (bits == VALUES_AS_KEYS || (bits == PLAN_FP16_WIDTH && options->scope == VALUES_PER_MODEL)) return RB_OK;
    if (options->scope == VALUES_PER_HEAD && (bits < PLAN_MIN_WIDTH || bits > PLAN_MAX_WIDTH))
        return rb_fail(err, RB_EUSAGE, "--value-bits is %g with --value-per head, expected %d to %d", bits,
                       PLAN_MIN_WIDTH, PLAN_MAX_WIDTH);
    if (options->scope == VALUES_PER_MODEL && bits != floor(bits))
        return rb_fail(err, RB_EUSAGE, "--value-bits is %g, expected a whole number without --value-per head", bits);
    if (options->scope == VALUES_PER_MODEL && bits > PLAN_MAX_WIDTH)
        return rb_fail(err, RB_EUSAGE, "--value-bits is %g, expected %d to %d, or %d", bits, PLAN_MIN_WIDTH,
                       PLAN_MAX_WIDTH, PLAN_FP16_WIDTH);
    return RB_OK;
}

rb_status value_options_check(const value_options *options, allocation_method method, const plan_budget *budget,
                              bool equal_heads, rb_error *err)
{
    const bool trellis = value_options_want_trellis(options, method);
    if (equal_heads && method != METHOD_TRELLIS && !trellis)
        return rb_fail(err, RB_EUSAGE,
                       "--equal-heads is of trellis, expected --method trellis or --value-codec trellis");
    if (options->codec == VALUE_CODEC_TRELLIS && options->bits == PLAN_FP16_WIDTH)
        return rb_fail(err, RB_EUSAGE, "--value-bits is %d: values stay fp16, expected no --value-codec",
                       PLAN_FP16_WIDTH);
    if (trellis && options->bits == VALUES_AS_KEYS && plan_budget_is_for_both(budget) && method != METHOD_TRELLIS)
        return rb_fail(err, RB_EUSAGE,
                       "a budget for keys and values is shared by method trellis only, expected "
                       "--value-bits with %s",
                       allocation_method_name(method));
    return trellis ? check_trellis(options, err) : check_widths(options, err);
}

static rb_status allot_widths(value_choice *out, const value_options *options, double avg_bits,
                              const profile_table *profile, int64_t n_sink, rb_error *err)
{
    const token_statistics *known = profile_table_statistics(profile, n_sink);
    const value_statistics statistics = {known->value_error, known->value_energy};
    if (!known->value_error)
        return rb_fail(err, RB_EINVAL,
                       "--value-per head needs the errors of values, which the profile has not: its capture has no "
                       "values (calibrate --values)");
    rb_status st = rb_alloc(&out->widths, (size_t)profile->model.n_layers * (size_t)profile->model.n_kv_heads,
                            sizeof *out->widths, "widths of values", err);
    return st == RB_OK ? value_budget_solve(out->widths, &out->answer, &profile->model, &statistics, avg_bits,
                                            (int)options->least_bits, err)
                       : st;
}

rb_status value_options_choose(value_choice *out, const value_options *options, allocation_method method,
                               const plan_budget *budget, const profile_table *profile, int64_t n_sink, rb_error *err)
{
    const bool as_keys = options->bits == VALUES_AS_KEYS;
    const double bits = as_keys ? plan_budget_value_width(budget, &profile->model) : options->bits;
    *out = (value_choice){.is_trellis = value_options_want_trellis(options, method),
                          .true_bits = options->bits,
                          .width = PLAN_FP16_WIDTH};
    if (out->is_trellis) {
        if (as_keys) out->true_bits = plan_budget_is_for_both(budget) ? (double)NAN : budget->amount;
        return RB_OK;
    }
    out->width = (int)bits;
    if (options->scope == VALUES_PER_HEAD) return allot_widths(out, options, bits, profile, n_sink, err);
    return RB_OK;
}
