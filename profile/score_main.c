/* ropebits-score: a table of plans by captures, such as the plan of one corpus on the text of another. */
#include "profile/score_run.h"

int main(int argc, char **argv)
{
    score_options opt = {0};
    const rb_option table[] = {
        {.long_name = "plan",
         .kind = RB_OPT_REPEATED,
         .value = &opt.plans,
         .metavar = "PLAN",
         .required = true,
         .help = "a plan.json or plan.rbp to score; may be given again"},
    };
    const rb_program program = {
        .name = "score",
        .synopsis = "ropebits score --plan PLAN [--plan PLAN ...] CAPTURE.h5 [CAPTURE.h5 ...]",
        .summary = "Scores every plan on the test text of every capture: logit error, error of the keys, true bits.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 1,
        .max_positionals = RB_MAX_POSITIONALS,
        .positional_names = "CAPTURE.h5 ...",
        .run = score_run,
        .multiplies = true,
        .context = &opt,
    };
    return rb_program_main(&program, argc, argv);
}
