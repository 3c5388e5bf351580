/* ropebits-tune: the least bytes that hold a limit of what a plan does to the model. */
#include <math.h>

#include "core/json.h"
#include "core/program.h"
#include "tune/tune_report.h"
#include "tune/tune_run.h"

static rb_status check_options(const tune_options *opt, rb_error *err)
{
    const bool has_needles = opt->limits.max_needles_lost != TUNE_NO_LIMIT;
    if (isnan(opt->limits.kl) && isnan(opt->limits.perplexity_increase) && !has_needles)
        return rb_fail(err, RB_EUSAGE,
                       "no limit is given, expected --kl, --perplexity-increase or --max-needles-lost, or several");
    if (has_needles && opt->evaluate.n_needles == 0)
        return rb_fail(err, RB_EUSAGE, "--max-needles-lost needs documents, expected --needles with it");
    if (!isnan(opt->from) && !isnan(opt->to) && opt->from > opt->to)
        return rb_fail(err, RB_EUSAGE, "--from is %g and --to %g, expected the smaller one first", opt->from, opt->to);
    return RB_OK;
}

static rb_status put_json(const tune_log *log, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st = tune_log_to_json(&json, log, err);
    if (st == RB_OK) st = rb_json_put(json, err);
    cJSON_Delete(json);
    return st;
}

static rb_status run(const rb_run_args *args, rb_error *err)
{
    tune_options *opt = args->context;
    tune_log log = {0};
    rb_status st;
    opt->profile = args->positionals->at[0];
    RB_TRY(st, check_options(opt, err), done);
    RB_TRY(st, tune_run(&log, opt, args->common, err), done);
    if (args->common->json) RB_TRY(st, put_json(&log, err), done);
    else st = tune_report_print(&log, opt->output, err);
    if (tune_log_answer(&log) < 0) {
        tune_report_none(&log);
        st = RB_ECHECK;
    }
done:
    tune_log_free(&log);
    return st;
}

int main(int argc, char **argv)
{
    tune_options opt = {.plan = plan_options_default(),
                        .evaluate = evaluate_options_default(),
                        .limits = {(double)NAN, (double)NAN, TUNE_NO_LIMIT},
                        .from = (double)NAN,
                        .to = (double)NAN,
                        .tolerance = 1.0,
                        .max_evaluations = 8,
                        .at_once = 3};
    static const char *const no_limit[] = {"any", NULL}; /* TUNE_NO_LIMIT */
    opt.plan.method = METHOD_TRELLIS;
    const rb_option limits[] = {
        {.long_name = "kl",
         .kind = RB_OPT_NUMBER,
         .value = &opt.limits.kl,
         .metavar = "X",
         .min = 1e-6,
         .max = 100,
         .help = "limit: mean KL of the next token from the unquantized model, nats"},
        {.long_name = "perplexity-increase",
         .kind = RB_OPT_NUMBER,
         .value = &opt.limits.perplexity_increase,
         .metavar = "PERCENT",
         .min = 0.001,
         .max = 1000,
         .help = "limit: how much higher the perplexity may be than the unquantized model's"},
        {.long_name = "max-needles-lost",
         .kind = RB_OPT_INT,
         .value = &opt.limits.max_needles_lost,
         .metavar = "N",
         .min = 0,
         .max = 1000000,
         .choices = no_limit,
         .help = "limit: how many fewer needle documents a plan may find than the unquantized model"},
        {.long_name = "from",
         .kind = RB_OPT_NUMBER,
         .value = &opt.from,
         .metavar = "B",
         .min = 0.5,
         .max = 32,
         .help = "least budget, stored bits a dim of keys and values added up; without it, the method's least"},
        {.long_name = "to",
         .kind = RB_OPT_NUMBER,
         .value = &opt.to,
         .metavar = "B",
         .min = 0.5,
         .max = 32,
         .help = "largest budget; without it, the method's largest plan"},
        {.long_name = "tolerance",
         .kind = RB_OPT_NUMBER,
         .value = &opt.tolerance,
         .metavar = "PERCENT",
         .min = 0.01,
         .max = 50,
         .help = "of the bytes a token: the search ends when a plan so much smaller is known to miss a limit"},
        {.long_name = "max-evaluations",
         .kind = RB_OPT_INT,
         .value = &opt.max_evaluations,
         .metavar = "N",
         .min = 1,
         .max = TUNE_MAX_POINTS,
         .help = "plans to evaluate at most, those of the log included"},
        {.long_name = "at-once",
         .kind = RB_OPT_INT,
         .value = &opt.at_once,
         .metavar = "N",
         .min = 1,
         .max = TUNE_MAX_AT_ONCE,
         .help = "plans of one pass over the weights; fewer take less memory, more take fewer passes"},
        {.long_name = "method",
         .kind = RB_OPT_CHOICE,
         .value = &opt.plan.method,
         .metavar = "NAME",
         .choices = allocation_method_names,
         .help = "who gets how many bits; this and the options of plans below are those of allocate"},
    };
    const rb_option outputs[] = {
        {.long_name = "log",
         .kind = RB_OPT_STRING,
         .value = &opt.log,
         .metavar = "TUNE.json",
         .help = "all points, written after each pass; a search that finds it there goes on from it"},
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "PLAN.json",
         .required = true,
         .help = "the smallest plan that was evaluated and holds"},
    };
    rb_option table[RB_COUNT(limits) + RB_COUNT(outputs) + PLAN_OPTIONS_N_ROWS + EVALUATE_TEXT_N_ROWS
                    + EVALUATE_NEEDLES_N_ROWS + EVALUATE_DEVICE_N_ROWS];
    int n = evaluate_text_rows(table, &opt.evaluate);
    n = rb_options_append(table, n, limits, RB_COUNT(limits));
    n += evaluate_needles_rows(table + n, &opt.evaluate);
    n += plan_options_rows(table + n, &opt.plan);
    n += evaluate_device_rows(table + n, &opt.evaluate);
    n = rb_options_append(table, n, outputs, RB_COUNT(outputs));
    const rb_program program = {
        .name = "tune",
        .synopsis = "ropebits tune PROFILE.h5 --model MODEL --text FILE [--method NAME] [options] -o PLAN.json\n"
                    "         (--kl X | --perplexity-increase PERCENT | --needles N --max-needles-lost N) ..",
        .summary = "Finds the least bytes that hold limits of what a plan does to the model, by evaluating a few plans "
                   "of different sizes. All limits that are given must hold.",
        .epilog = "exit codes beyond the common ones:\n"
                  "  3  no plan up to --to that was evaluated holds the limits\n",
        .options = table,
        .n_options = n,
        .min_positionals = 1,
        .max_positionals = 1,
        .positional_names = "PROFILE.h5",
        .run = run,
        .multiplies = true,
        .context = &opt,
    };
    return rb_program_main(&program, argc, argv);
}
