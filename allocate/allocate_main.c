/* ropebits-allocate: from a profile's energies to a plan. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "allocate/allocate_report.h"
#include "allocate/plan_maker.h"
#include "allocate/sweep.h"
#include "core/json.h"
#include "core/message.h"
#include "core/program.h"
#include "core/table.h"
#include "plan/plan_json.h"
#include "profile/profile_file.h"
#include "profile/profile_statistics.h"

typedef struct allocate_options {
    const char *sweep;
    double avg_bits, true_bits, total_bits, bytes_per_token; /* NAN: not given; one of them, or memory */
    int64_t memory, context;
    rb_string_list evaluations; /* of a sweep */
    plan_options plan;
    const char *output;
} allocate_options;

/* ---- options --------------------------------------------------------------------------------- */

static rb_status budget_of(plan_budget *out, const allocate_options *opt, rb_error *err)
{
    const int n_given = !isnan(opt->avg_bits) + !isnan(opt->true_bits) + !isnan(opt->total_bits)
                        + !isnan(opt->bytes_per_token) + (opt->memory > 0);
    if (opt->plan.method < 0) return rb_fail(err, RB_EUSAGE, "--method NAME is missing");
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

/* ---- sweep ----------------------------------------------------------------------------------- */

static rb_status check_sweep(const allocate_options *opt, rb_error *err)
{
    if (!isnan(opt->avg_bits) || !isnan(opt->true_bits) || !isnan(opt->total_bits) || !isnan(opt->bytes_per_token)
        || opt->memory > 0 || opt->context > 0)
        return rb_fail(err, RB_EUSAGE, "--sweep has budgets of its own, expected no other");
    if (opt->plan.method < 0 && opt->plan.center)
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

static rb_status print_points(const plan_sweep *sweep, rb_error *err)
{
    static const char *const heads[] = {"method",           "asked",      "true bits", "expected MAE",
                                        "bits above bound", "bound's MAE"};
    rb_table cells = {.n_left = 1};
    for (size_t i = 0; i < RB_COUNT(heads); i++) rb_table_add(&cells, "%s", heads[i]);
    rb_table_end_row(&cells);
    for (int method = 0; method < METHOD_N; method++)
        for (int i = 0; i < sweep->n_points[method]; i++) {
            const sweep_point *point = &sweep->points[method][i];
            rb_table_add(&cells, "%s", allocation_method_name((allocation_method)method));
            rb_table_add_number(&cells, 3, point->asked_bits);
            rb_table_add_number(&cells, 3, point->true_bits);
            rb_table_add(&cells, "%.4g", point->prediction.logit_mae);
            rb_table_add_number(&cells, 3, point->prediction.bits_above_bound);
            rb_table_add(&cells, "%.4g", point->prediction.bound_logit_mae);
            rb_table_end_row(&cells);
        }
    const rb_status st = rb_table_print(stdout, &cells, err);
    rb_table_free(&cells);
    return st;
}

static rb_status print_measured(const measured_points *measured, rb_error *err)
{
    rb_table cells = {.n_left = 1};
    if (measured->n == 0) return RB_OK;
    printf("\n");
    rb_table_add(&cells, "evaluated");
    rb_table_add(&cells, "key bits");
    rb_table_add(&cells, "val bits");
    rb_table_add(&cells, "KL");
    rb_table_end_row(&cells);
    for (int i = 0; i < measured->n; i++) {
        const measured_point *point = &measured->at[i];
        rb_table_add(&cells, "%s", point->method);
        rb_table_add_number(&cells, 3, point->key_true_bits);
        rb_table_add_number(&cells, 3, point->value_true_bits);
        rb_table_add_number(&cells, 5, point->kl);
        rb_table_end_row(&cells);
    }
    const rb_status st = rb_table_print(stdout, &cells, err);
    rb_table_free(&cells);
    return st;
}

static rb_status print_sweep(const plan_sweep *sweep, const measured_points *measured, const char *path,
                             const char *picture, rb_error *err)
{
    rb_status st;
    RB_TRY(st, print_points(sweep, err), done);
    RB_TRY(st, print_measured(measured, err), done);
    printf("\nsweep    %s\npicture  %s\n", rb_shown(path).text, rb_shown(picture).text);
done:
    return st;
}

static rb_status sweep_run(const rb_run_args *args, rb_error *err)
{
    const allocate_options *opt = args->context;
    allocation_method method = opt->plan.method < 0 ? METHOD_OPTIMAL : (allocation_method)opt->plan.method;
    bool methods[METHOD_N];
    profile_table *profile = NULL;
    plan_sweep sweep = {0};
    measured_points measured = {0};
    optimal_options options;
    sweep_range range;
    cJSON *json = NULL;
    char *picture = NULL;
    rb_status st;
    RB_TRY(st, check_sweep(opt, err), done);
    RB_TRY(st, sweep_range_parse(&range, opt->sweep, err), done);
    RB_TRY(st, plan_options_resolve(&options, &method, &opt->plan, err), done);
    RB_TRY(st, profile_file_read(&profile, args->positionals->at[0], err), done);
    for (int m = 0; m < METHOD_N; m++)
        methods[m] = opt->plan.method < 0 ? m != METHOD_TRELLIS || profile->sensitivity.key_metric : m == (int)method;
    if (!methods[METHOD_TRELLIS] && opt->plan.method < 0)
        rb_message_info("trellis is left out: the profile has no sensitivity of the outputs (calibrate --values)");
    RB_TRY(st, measured_points_read(&measured, &opt->evaluations, &profile->model, err), done);
    const head_statistics own = profile_statistics(profile, plan_options_sinks(&opt->plan, false, profile)),
                          published = profile_statistics(profile, plan_options_sinks(&opt->plan, true, profile));
    plan_request requests[] = {{.model = &profile->model,
                                .calibration = &profile->calibration,
                                .statistics = &own,
                                .options = &options,
                                .value_width = PLAN_FP16_WIDTH,
                                .n_sink = plan_options_sinks(&opt->plan, false, profile)},
                               {0}};
    requests[1] = requests[0];
    requests[1].statistics = &published;
    requests[1].n_sink = plan_options_sinks(&opt->plan, true, profile);
    plan_options_warn_of_sinks(requests[0].n_sink, profile);
    RB_TRY(st, plan_sweep_compute(&sweep, &range, &requests[0], &requests[1], methods, err), done);
    RB_TRY(st, plan_sweep_to_json(&json, &sweep, &measured, &requests[0], err), done);
    RB_TRY(st, picture_path(&picture, opt->output, err), done);
    RB_TRY(st, plan_sweep_draw(&sweep, &measured, &profile->model, picture, err), done);
    RB_TRY(st, rb_json_write(json, opt->output, err), done);
    if (args->common->json) st = rb_json_put(json, err);
    else st = print_sweep(&sweep, &measured, opt->output, picture, err);
done:
    cJSON_Delete(json);
    free(picture);
    measured_points_free(&measured);
    plan_sweep_free(&sweep);
    profile_table_free(profile);
    return st;
}

/* ---- one plan -------------------------------------------------------------------------------- */

static rb_status allocate_run(const rb_run_args *args, rb_error *err)
{
    const allocate_options *opt = args->context;
    allocate_report report = {
        .path = opt->output, .context = opt->context, .rotation = (rotation_kind)opt->plan.rotation};
    profile_table *profile = NULL;
    plan_maker maker = {0};
    made_plan made = {0};
    plan_budget budget;
    rb_status st;
    if (opt->sweep) return sweep_run(args, err);
    if (opt->evaluations.n > 0) return rb_fail(err, RB_EUSAGE, "--evaluation is of a sweep, expected --sweep with it");
    RB_TRY(st, budget_of(&budget, opt, err), done);
    RB_TRY(st, plan_maker_begin(&maker, &opt->plan, &budget, err), done);
    RB_TRY(st, profile_file_read(&profile, args->positionals->at[0], err), done);
    plan_maker_set_profile(&maker, profile);
    if (opt->memory > 0)
        RB_TRY(st,
               plan_budget_of_memory(&budget, opt->memory, opt->context, maker.n_sink + opt->plan.n_recent,
                                     &profile->model, err),
               done);
    RB_TRY(st, plan_maker_make(&made, &maker, &budget, err), done);
    report.budget = budget;
    report.has_answer = made.has_answer;
    report.answer = made.answer;
    report.has_value_answer = made.has_value_answer;
    report.value_answer = made.value_answer;
    RB_TRY(st, plan_json_write(made.plan, opt->output, err), done);
    RB_TRY(st, allocate_report_predict(&report, made.plan, profile, err), done);
    allocate_report_warn(&report);
    if (args->common->json) st = allocate_report_put_json(&report, err);
    else allocate_report_print(&report);
done:
    bit_plan_free(made.plan);
    plan_maker_end(&maker);
    profile_table_free(profile);
    return st;
}

int main(int argc, char **argv)
{
    allocate_options opt = {.avg_bits = (double)NAN,
                            .true_bits = (double)NAN,
                            .total_bits = (double)NAN,
                            .bytes_per_token = (double)NAN,
                            .plan = plan_options_default()};
    const rb_option budgets[] = {
        {.long_name = "method",
         .kind = RB_OPT_CHOICE,
         .value = &opt.plan.method,
         .metavar = "NAME",
         .choices = allocation_method_names,
         .help = "who gets how many bits; required without --sweep"},
        {.long_name = "sweep",
         .kind = RB_OPT_STRING,
         .value = &opt.sweep,
         .metavar = "FROM:TO:STEP",
         .help = "no plan, but the error to expect at all these true bits, as 1.5:6:0.25: of --method, or of all; as "
                 "JSON, and beside it as a picture"},
        {.long_name = "evaluation",
         .kind = RB_OPT_REPEATED,
         .value = &opt.evaluations,
         .metavar = "FILE",
         .help = "of a sweep: a result of evaluate or a log of tune, whose KL is shown too; may be given several "
                 "times"},
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
    };
    const rb_option output[] = {
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "PLAN.json",
         .required = true,
         .help = "the plan, or the sweep"},
    };
    rb_option table[RB_COUNT(budgets) + PLAN_OPTIONS_N_ROWS + RB_COUNT(output)];
    int n = rb_options_append(table, 0, budgets, RB_COUNT(budgets));
    n += plan_options_rows(table + n, &opt.plan);
    n = rb_options_append(table, n, output, RB_COUNT(output));
    const rb_program program = {
        .name = "allocate",
        .synopsis = "ropebits allocate PROFILE.h5 --method NAME [options] -o PLAN.json\n"
                    "         (--avg-bits B | --true-bits B | --total-bits B | --bytes-per-token N | --memory SIZE "
                    "--context N)\n"
                    "ropebits allocate PROFILE.h5 --sweep FROM:TO:STEP [--method NAME] [options] -o SWEEP.json",
        .summary = "Decides who gets how many bits from the energies of a profile, and says what the plan costs in "
                   "true bits: codes, norms and padding.",
        .options = table,
        .n_options = n,
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
