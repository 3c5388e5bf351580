/* ropebits-merge: makes one capture of the shards of a calibration run, or of captures from several texts. */
#include "calibrate/merge_run.h"

int main(int argc, char **argv)
{
    merge_options opt = {.every = 1};
    const rb_option table[] = {
        {.long_name = "max-tokens",
         .kind = RB_OPT_INT,
         .value = &opt.max_tokens,
         .metavar = "N",
         .min = 0,
         .max = 1 << 26,
         .help = "store at most N tokens of each set: whole sequences, evenly spread; 0: all. Statistics stay those of "
                 "all tokens"},
        {.long_name = "every",
         .kind = RB_OPT_INT,
         .value = &opt.every,
         .metavar = "K",
         .min = 1,
         .max = 1 << 26,
         .help = "store every K-th sequence of each set, from the first on; likewise"},
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "CAPTURE.h5",
         .required = true,
         .help = "the merged capture"},
    };
    const rb_program program = {
        .name = "merge",
        .synopsis = "ropebits merge [options] CAPTURE.h5 ... -o CAPTURE.h5",
        .summary = "Makes one capture of the shards of a calibration run, the same as the run without shards, or of "
                   "captures of one model from several texts. The order of the files does not matter.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 1,
        .max_positionals = RB_MAX_POSITIONALS,
        .positional_names = "CAPTURE.h5 ...",
        .run = merge_run,
        .context = &opt,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
