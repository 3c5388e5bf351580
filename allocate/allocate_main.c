/* ropebits-allocate: from a profile's energies to a plan. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "allocate/allocate_report.h"
#include "allocate/sweep.h"
#include "allocate/value_options.h"
#include "core/json.h"
#include "core/message.h"
#include "core/program.h"
#include "plan/plan_json.h"
#include "profile/profile_file.h"
#include "profile/profile_statistics.h"

typedef struct allocate_options {
    int method; /* allocation_method; -1: not given */
    const char *sweep;
    double avg_bits, true_bits, total_bits, bytes_per_token; /* NAN: not given; one of them, or memory */
    int64_t memory, context;
    int64_t n_sink, n_recent; /* n_sink: or SINK_AUTO */
    value_options values;
    bool equal_heads; /* of method trellis and of its values */
    int rotation;     /* rotation_kind, of the keys */
    /* Only methods that are not published have these. */
    bool center, no_equalize;
    int norm, encoder, codebook, scope;
    int64_t max_groups, gain_bits;
    double least_share;
    rb_number_list widths;
    const char *output;
} allocate_options;

/* ---- options --------------------------------------------------------------------------------- */

static rb_status budget_of(plan_budget *out, const allocate_options *opt, rb_error *err)
{
    const int n_given = !isnan(opt->avg_bits) + !isnan(opt->true_bits) + !isnan(opt->total_bits)
                        + !isnan(opt->bytes_per_token) + (opt->memory > 0);
    if (opt->method < 0) return rb_fail(err, RB_EUSAGE, "--method NAME is missing");
    if (n_given != 1)
        return rb_fail(err, RB_EUSAGE,
                       "%d budgets are given, expected one of --avg-bits, --true-bits, --total-bits, "
                       "--bytes-per-token, or --memory with --context",
                       n_given);
    if ((opt->memory > 0) != (opt->context > 0))
        return rb_fail(err, RB_EUSAGE,
                       "--memory and --context go together: the cache of so many tokens takes that much");
    if (!isnan(opt->avg_bits)) *out = (plan_budget){BUDGET_AVG_BITS, opt->avg_bits};
    else if (!isnan(opt->true_bits)) *out = (plan_budget){BUDGET_TRUE_BITS, opt->true_bits};
    else if (!isnan(opt->total_bits)) *out = (plan_budget){BUDGET_TOTAL_BITS, opt->total_bits};
    else *out = (plan_budget){BUDGET_BYTES_PER_TOKEN, opt->bytes_per_token}; /* of a memory: once the sinks are known */
    return RB_OK;
}

/* An option that would do nothing is refused. `own`: what is asked for. */
static rb_status check_options(allocation_method method, const optimal_options *own, const allocate_options *opt,
                               rb_error *err)
{
    const optimal_options usual = optimal_options_default();
    const bool has_budget = own->scope != usual.scope || own->least_share != usual.least_share;
    if (allocation_method_is_published(method)) {
        optimal_options unrotated = *own;
        unrotated.rotation = usual.rotation;
        if (!optimal_foreign_options(&unrotated, &usual, -1) && !has_budget && !opt->center) return RB_OK;
        return rb_fail(err, RB_EUSAGE,
                       "%s has no options but its budget, values and rotation; the others are of --method optimal",
                       allocation_method_name(method));
    }
    if (opt->method < 0) return RB_OK; /* a sweep over all has a method for every option */
    const char *refusal = optimal_foreign_options(own, &usual, (int)allocation_method_family(method));
    return refusal ? rb_fail(err, RB_EUSAGE, "%s %s", allocation_method_name(method), refusal) : RB_OK;
}

static rb_status optimal_options_of(optimal_options *out, allocation_method *method, const allocate_options *opt,
                                    rb_error *err)
{
    optimal_options own = optimal_options_default();
    own.equalize = !opt->no_equalize;
    if (*method == METHOD_OPTIMAL && opt->center) *method = METHOD_OPTIMAL_CENTER;
    own.gain_bits = (int)opt->gain_bits;
    own.codebook = (codebook_kind)opt->codebook;
    own.norm = (norm_kind)opt->norm;
    own.encoder = (plan_encoder)opt->encoder;
    own.max_groups = (int)opt->max_groups;
    own.scope = opt->scope;
    own.least_share = opt->least_share;
    if (opt->widths.n > 0) own.widths = 0;
    for (int i = 0; i < opt->widths.n; i++) {
        if (opt->widths.at[i] != floor(opt->widths.at[i]))
            return rb_fail(err, RB_EUSAGE, "--widths has %g, expected whole numbers of bits", opt->widths.at[i]);
        own.widths |= 1u << (int)opt->widths.at[i];
    }
    if (own.widths >> 1 == 0) return rb_fail(err, RB_EUSAGE, "--widths has 0 alone, expected a width above it");
    own.rotation = (rotation_kind)opt->rotation;
    const rb_status st = check_options(*method, &own, opt, err);
    if (st == RB_OK) *out = own;
    return st;
}

/* ---- sinks ----------------------------------------------------------------------------------- */

/* Methods as published keep no token exact unless they are asked to. */
static int64_t sinks_of(const allocate_options *opt, bool is_published, const profile_table *profile)
{
    if (opt->n_sink != SINK_AUTO) return opt->n_sink;
    return is_published ? 0 : profile->n_sink;
}

static void warn_of_other_sinks(int64_t n_sink, const profile_table *profile)
{
    if (n_sink == 0 || n_sink == profile->n_sink) return;
    if (profile->n_sink == 0)
        rb_message_warn(
            "--sink is %lld, and the profile's statistics are of all tokens: profile --sink %lld leaves the "
            "first ones out",
            (long long)n_sink, (long long)n_sink);
    else
        rb_message_warn("--sink is %lld, and the profile's statistics are of all tokens but the first %lld: profile "
                        "--sink %lld fits",
                        (long long)n_sink, (long long)profile->n_sink, (long long)n_sink);
}

/* ---- sensitivity ----------------------------------------------------------------------------- */

enum { ENOUGH_TOKENS = 4096 }; /* below, plans of trellis lose a good part of what they gain: docs/method.md */

static void warn_of_few_tokens(const allocate_options *opt, allocation_method method, const profile_table *profile)
{
    const int64_t n = profile->sensitivity.n_tokens;
    if (method != METHOD_TRELLIS && !value_options_want_trellis(&opt->values, method)) return;
    if (profile->sensitivity.key_metric && n < ENOUGH_TOKENS)
        rb_message_warn("the sensitivity of the outputs was measured on %lld tokens, and trellis wants %d or more: "
                        "calibrate --n-tokens %d",
                        (long long)n, ENOUGH_TOKENS, 2 * ENOUGH_TOKENS);
}

/* ---- sweep ----------------------------------------------------------------------------------- */

static rb_status check_sweep(const allocate_options *opt, rb_error *err)
{
    if (!isnan(opt->avg_bits) || !isnan(opt->true_bits) || !isnan(opt->total_bits) || !isnan(opt->bytes_per_token)
        || opt->memory > 0 || opt->context > 0)
        return rb_fail(err, RB_EUSAGE, "--sweep has budgets of its own, expected no other");
    if (opt->method < 0 && opt->center)
        return rb_fail(err, RB_EUSAGE,
                       "--sweep goes over optimal and optimal-center, expected --center with --method optimal only");
    return RB_OK;
}

/* FILE.json -> FILE.svg; freed by free(). */
static rb_status picture_path(char **out, const char *path, rb_error *err)
{
    const size_t length = strlen(path);
    const int kept = (int)(length > 5 && strcmp(path + length - 5, ".json") == 0 ? length - 5 : length);
    return rb_format(out, err, "%.*s.svg", kept, path);
}

static void print_sweep(const plan_sweep *sweep, const char *path, const char *picture)
{
    printf("%-16s %9s %9s %14s %16s %12s\n", "method", "asked", "true bits", "expected MAE", "bits above bound",
           "bound's MAE");
    for (int method = 0; method < METHOD_N; method++)
        for (int i = 0; i < sweep->n_points[method]; i++) {
            const sweep_point *point = &sweep->points[method][i];
            printf("%-16s %9.3f %9.3f %14.4g %16.3f %12.4g\n", allocation_method_name((allocation_method)method),
                   point->asked_bits, point->true_bits, point->prediction.logit_mae, point->prediction.bits_above_bound,
                   point->prediction.bound_logit_mae);
        }
    printf("\nsweep    %s\npicture  %s\n", path, picture);
}

static rb_status sweep_run(const rb_run_args *args, rb_error *err)
{
    const allocate_options *opt = args->context;
    allocation_method method = opt->method < 0 ? METHOD_OPTIMAL : (allocation_method)opt->method;
    bool methods[METHOD_N];
    profile_table *profile = NULL;
    plan_sweep sweep = {0};
    optimal_options options;
    sweep_range range;
    cJSON *json = NULL;
    char *picture = NULL;
    rb_status st;
    RB_TRY(st, check_sweep(opt, err), done);
    RB_TRY(st, sweep_range_parse(&range, opt->sweep, err), done);
    RB_TRY(st, optimal_options_of(&options, &method, opt, err), done);
    for (int m = 0; m < METHOD_N; m++) methods[m] = opt->method < 0 || m == (int)method;
    RB_TRY(st, profile_file_read(&profile, args->positionals->at[0], err), done);
    const head_statistics own = profile_statistics(profile, sinks_of(opt, false, profile)),
                          published = profile_statistics(profile, sinks_of(opt, true, profile));
    plan_request requests[] = {{.model = &profile->model,
                                .calibration = &profile->calibration,
                                .statistics = &own,
                                .options = &options,
                                .value_width = PLAN_FP16_WIDTH,
                                .n_sink = sinks_of(opt, false, profile)},
                               {0}};
    requests[1] = requests[0];
    requests[1].statistics = &published;
    requests[1].n_sink = sinks_of(opt, true, profile);
    warn_of_other_sinks(requests[0].n_sink, profile);
    RB_TRY(st, plan_sweep_compute(&sweep, &range, &requests[0], &requests[1], methods, err), done);
    RB_TRY(st, plan_sweep_to_json(&json, &sweep, &requests[0], err), done);
    RB_TRY(st, picture_path(&picture, opt->output, err), done);
    RB_TRY(st, plan_sweep_draw(&sweep, &profile->model, picture, err), done);
    RB_TRY(st, rb_json_write(json, opt->output, err), done);
    if (args->common->json) st = rb_json_put(json, err);
    else print_sweep(&sweep, opt->output, picture);
done:
    cJSON_Delete(json);
    free(picture);
    plan_sweep_free(&sweep);
    profile_table_free(profile);
    return st;
}

/* ---- one plan -------------------------------------------------------------------------------- */

static rb_status allocate_run(const rb_run_args *args, rb_error *err)
{
    const allocate_options *opt = args->context;
    allocation_method method = (allocation_method)opt->method;
    allocate_report report = {.path = opt->output, .context = opt->context, .rotation = (rotation_kind)opt->rotation};
    profile_table *profile = NULL;
    bit_plan *plan = NULL;
    uint8_t *widths = NULL;
    optimal_options options;
    plan_budget budget;
    rb_status st;
    if (opt->sweep) return sweep_run(args, err);
    RB_TRY(st, budget_of(&budget, opt, err), done);
    RB_TRY(st, value_options_check(&opt->values, method, &budget, opt->equal_heads, err), done);
    RB_TRY(st, optimal_options_of(&options, &method, opt, err), done);
    RB_TRY(st, profile_file_read(&profile, args->positionals->at[0], err), done);
    const int64_t n_sink = sinks_of(opt, allocation_method_is_published(method), profile);
    warn_of_other_sinks(n_sink, profile);
    warn_of_few_tokens(opt, method, profile);
    if (opt->memory > 0)
        RB_TRY(st,
               plan_budget_of_memory(&budget, opt->memory, opt->context, n_sink + opt->n_recent, &profile->model, err),
               done);
    value_choice values;
    RB_TRY(st, value_options_choose(&values, &opt->values, method, &budget, profile, n_sink, err), done);
    widths = values.widths;
    report.has_value_answer = widths != NULL;
    report.value_answer = values.answer;
    const head_statistics statistics = profile_statistics(profile, n_sink);
    const plan_request request = {.model = &profile->model,
                                  .calibration = &profile->calibration,
                                  .statistics = &statistics,
                                  .method = method,
                                  .options = &options,
                                  .value_width = values.width,
                                  .value_widths = widths,
                                  .has_trellis_values = values.is_trellis,
                                  .value_true_bits = values.true_bits,
                                  .equal_heads = opt->equal_heads,
                                  .n_sink = n_sink,
                                  .n_recent = opt->n_recent};
    RB_TRY(st, allocate_within(&plan, &report.answer, &request, &budget, err), done);
    report.has_answer = !allocation_method_is_published(method);
    allocate_set_rotation(plan, (rotation_kind)opt->rotation);
    RB_TRY(st, plan_json_write(plan, opt->output, err), done);
    RB_TRY(st, allocate_report_predict(&report, plan, profile, err), done);
    if (args->common->json) st = allocate_report_put_json(&report, err);
    else allocate_report_print(&report);
done:
    free(widths);
    bit_plan_free(plan);
    profile_table_free(profile);
    return st;
}

int main(int argc, char **argv)
{
    const optimal_options usual = optimal_options_default();
    static const char *const sinks[] = {"auto", NULL}; /* SINK_AUTO */
    allocate_options opt = {.method = -1,
                            .n_sink = SINK_AUTO,
                            .avg_bits = (double)NAN,
                            .true_bits = (double)NAN,
                            .total_bits = (double)NAN,
                            .bytes_per_token = (double)NAN,
                            .values = value_options_default(),
                            .rotation = ROTATION_HAAR,
                            .gain_bits = usual.gain_bits,
                            .norm = (int)usual.norm,
                            .encoder = (int)usual.encoder,
                            .codebook = (int)usual.codebook,
                            .scope = usual.scope,
                            .least_share = usual.least_share};
    const rb_option table[] = {
        {.long_name = "method",
         .kind = RB_OPT_CHOICE,
         .value = &opt.method,
         .metavar = "NAME",
         .choices = allocation_method_names,
         .help = "who gets how many bits; required without --sweep"},
        {.long_name = "sweep",
         .kind = RB_OPT_STRING,
         .value = &opt.sweep,
         .metavar = "FROM:TO:STEP",
         .help = "no plan, but the error to expect at all these true bits, as 1.5:6:0.25: of --method, or of all; as "
                 "JSON, and beside it as a picture"},
        {.long_name = "avg-bits",
         .kind = RB_OPT_NUMBER,
         .value = &opt.avg_bits,
         .metavar = "B",
         .min = ALLOCATE_MIN_BITS,
         .max = ALLOCATE_MAX_BITS,
         .help = "nominal bits per dim of the keys, as published; optimal: the bytes block-gtq stores at them"},
        {.long_name = "true-bits",
         .kind = RB_OPT_NUMBER,
         .value = &opt.true_bits,
         .metavar = "B",
         .min = 0.25,
         .max = 17,
         .help = "stored bits per dim of the keys: codes, norms, padding"},
        {.long_name = "total-bits",
         .kind = RB_OPT_NUMBER,
         .value = &opt.total_bits,
         .metavar = "B",
         .min = 0.5,
         .max = 32,
         .help = "stored bits per dim of keys and values added up; trellis: shared by what errors do"},
        {.long_name = "bytes-per-token",
         .kind = RB_OPT_NUMBER,
         .value = &opt.bytes_per_token,
         .metavar = "N",
         .min = 1,
         .max = 1e12,
         .help = "keys and values of all layers together"},
        {.long_name = "memory",
         .kind = RB_OPT_SIZE,
         .value = &opt.memory,
         .metavar = "SIZE",
         .min = 1,
         .max = 1e15,
         .help = "the whole cache of --context tokens, as 4GiB"},
        {.long_name = "context",
         .kind = RB_OPT_INT,
         .value = &opt.context,
         .metavar = "N",
         .min = 1,
         .max = 1e12,
         .help = "tokens that --memory holds"},
        {.long_name = "sink",
         .kind = RB_OPT_INT,
         .value = &opt.n_sink,
         .metavar = "N",
         .min = 0,
         .max = PLAN_MAX_EXACT,
         .choices = sinks,
         .help =
             "first tokens of a sequence that stay fp16; auto: as many as pays by the profile, and none for uniform "
             "and block-gtq"},
        {.long_name = "recent",
         .kind = RB_OPT_INT,
         .value = &opt.n_recent,
         .metavar = "N",
         .min = 0,
         .max = PLAN_MAX_EXACT,
         .help = "last tokens before a query, its own included, that stay fp16"},
        {.long_name = "value-bits",
         .kind = RB_OPT_NUMBER,
         .value = &opt.values.bits,
         .metavar = "B",
         .min = VALUES_AS_KEYS,
         .max = PLAN_FP16_WIDTH,
         .help = "bits per dim of the values, 1 to 8, or 16: they stay fp16; 0: as the keys, rounded down. Of trellis "
                 "stored bits, any number; 0: as the keys, or of a budget for both"},
        {.long_name = "value-codec",
         .kind = RB_OPT_CHOICE,
         .value = &opt.values.codec,
         .metavar = "NAME",
         .choices = value_codec_names,
         .help = "how values are coded: as published, or by a trellis; auto: trellis with method trellis"},
        {.long_name = "equal-heads",
         .kind = RB_OPT_FLAG,
         .value = &opt.equal_heads,
         .help = "trellis: the keys of a layer have one size, and so have its values, as paged caches want it"},
        {.long_name = "value-per",
         .kind = RB_OPT_CHOICE,
         .value = &opt.values.scope,
         .metavar = "SCOPE",
         .choices = value_scope_names,
         .help = "who shares a width of the values; head: each KV head its own, --value-bits on average, by measured "
                 "errors"},
        {.long_name = "least-value-bits",
         .kind = RB_OPT_INT,
         .value = &opt.values.least_bits,
         .metavar = "N",
         .min = PLAN_MIN_WIDTH,
         .max = PLAN_MAX_WIDTH,
         .help = "least width with --value-per head; an average below it has its own whole bits"},
        {.long_name = "rotation",
         .kind = RB_OPT_CHOICE,
         .value = &opt.rotation,
         .metavar = "KIND",
         .choices = rotation_kind_names,
         .help = "of the key groups; hadamard is the faster one for a runtime that transforms by butterflies"},
        {.long_name = "center",
         .kind = RB_OPT_FLAG,
         .value = &opt.center,
         .help = "optimal: take the mean key off before coding; the runtime quantizes before RoPE or adds its part of "
                 "the logit"},
        {.long_name = "gain-bits",
         .kind = RB_OPT_INT,
         .value = &opt.gain_bits,
         .metavar = "N",
         .min = 0,
         .max = BLOCK_CODEBOOK_MAX_GAIN_BITS,
         .help = "block-codebook: of the gain that brings a rare key within the codebooks; 0: none, which "
                 "averages do not notice and retrieval does"},
        {.long_name = "no-equalize",
         .kind = RB_OPT_FLAG,
         .value = &opt.no_equalize,
         .help = "optimal: leave the scale of every block as it is"},
        {.long_name = "norm",
         .kind = RB_OPT_CHOICE,
         .value = &opt.norm,
         .metavar = "KIND",
         .choices = norm_kind_names,
         .help = "optimal: how a group's norm is stored"},
        {.long_name = "encoder",
         .kind = RB_OPT_CHOICE,
         .value = &opt.encoder,
         .metavar = "KIND",
         .choices = plan_encoder_names,
         .help = "optimal: how codes are chosen; decoders are the same"},
        {.long_name = "codebook",
         .kind = RB_OPT_CHOICE,
         .value = &opt.codebook,
         .metavar = "KIND",
         .choices = codebook_kind_names,
         .help = "optimal: of the keys"},
        {.long_name = "groups",
         .kind = RB_OPT_INT,
         .value = &opt.max_groups,
         .metavar = "N",
         .min = 0,
         .max = RB_MAX_BLOCKS,
         .help = "optimal: most groups of a head; 0: any number"},
        {.long_name = "widths",
         .kind = RB_OPT_NUMBERS,
         .value = &opt.widths,
         .metavar = "LIST",
         .min = 0,
         .max = PLAN_MAX_WIDTH,
         .help = "optimal: widths that the runtime's kernels know, as 2,4,8; 0: blocks may be dropped"},
        {.long_name = "per",
         .kind = RB_OPT_CHOICE,
         .value = &opt.scope,
         .metavar = "SCOPE",
         .choices = budget_scope_names,
         .help = "optimal: who shares the budget; otherwise the model, with block-codebook a head"},
        {.long_name = "least-share",
         .kind = RB_OPT_NUMBER,
         .value = &opt.least_share,
         .metavar = "X",
         .min = 0,
         .max = 1,
         .help = "optimal: least part of an equal share of the budget that a head gets"},
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "PLAN.json",
         .required = true,
         .help = "the plan, or the sweep"},
    };
    const rb_program program = {
        .name = "allocate",
        .synopsis = "ropebits allocate PROFILE.h5 --method NAME [options] -o PLAN.json\n"
                    "         (--avg-bits B | --true-bits B | --total-bits B | --bytes-per-token N | --memory SIZE "
                    "--context N)\n"
                    "ropebits allocate PROFILE.h5 --sweep FROM:TO:STEP [--method NAME] [options] -o SWEEP.json",
        .summary = "Decides who gets how many bits from the energies of a profile, and says what the plan costs in "
                   "true bits: codes, norms and padding.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 1,
        .max_positionals = 1,
        .positional_names = "PROFILE.h5",
        .run = allocate_run,
        .multiplies = true,
        .context = &opt,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
