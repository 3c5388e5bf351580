/* ropebits-inspect: what a plan, a capture or a profile holds, in the terminal or as JSON. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "calibrate/capture_file.h"
#include "core/program.h"
#include "export/inspect.h"
#include "profile/profile_file.h"

typedef enum colour_choice { COLOUR_AUTO, COLOUR_ALWAYS, COLOUR_NEVER } colour_choice;

typedef struct inspect_options {
    int colour;
    int64_t layer; /* -1: all */
} inspect_options;

/* Captures and profiles are HDF5 files, plans are not. */
static bool is_hdf5(const char *path)
{
    static const char magic[] = "\x89HDF\r\n\x1a\n";
    char start[sizeof magic - 1] = {0};
    FILE *file = fopen(path, "rb");
    const bool is_it =
        file && fread(start, 1, sizeof start, file) == sizeof start && memcmp(start, magic, sizeof start) == 0;
    if (file) fclose(file);
    return is_it;
}

static rb_status inspect_hdf5(const inspect_request *request, rb_error *err)
{
    rb_h5_file file = {0};
    char schema[64] = "";
    rb_status st;
    RB_TRY(st, rb_h5_open(&file, request->path, err), done);
    RB_TRY(st, rb_h5_get_string(file.contents, "/", "schema", schema, sizeof schema, err), done);
done:
    rb_h5_close(&file);
    if (st != RB_OK) return st;
    if (strcmp(schema, CAPTURE_SCHEMA) == 0) return inspect_capture(request, err);
    if (strcmp(schema, PROFILE_SCHEMA) == 0) return inspect_profile(request, err);
    return rb_fail(err, RB_EFORMAT, "%s: schema is \"%s\", expected \"%s\" or \"%s\"", request->path, schema,
                   CAPTURE_SCHEMA, PROFILE_SCHEMA);
}

static rb_status inspect_run(const rb_run_args *args, rb_error *err)
{
    const inspect_options *opt = args->context;
    const inspect_request request = {.path = args->positionals->at[0],
                                     .layer = opt->layer,
                                     .as_json = args->common->json,
                                     .in_colour = opt->colour == COLOUR_ALWAYS
                                                  || (opt->colour == COLOUR_AUTO && isatty(STDOUT_FILENO))};
    return is_hdf5(request.path) ? inspect_hdf5(&request, err) : inspect_plan(&request, err);
}

int main(int argc, char **argv)
{
    static const char *const colours[] = {"auto", "always", "never", NULL};
    inspect_options opt = {.colour = COLOUR_AUTO, .layer = -1};
    const rb_option table[] = {
        {.long_name = "layer",
         .kind = RB_OPT_INT,
         .value = &opt.layer,
         .metavar = "N",
         .min = -1,
         .max = 65535,
         .help = "show this layer only; -1: all"},
        {.long_name = "color",
         .kind = RB_OPT_CHOICE,
         .value = &opt.colour,
         .metavar = "WHEN",
         .choices = colours,
         .help = "colours of a plan's heat map"},
    };
    const rb_program program = {
        .name = "inspect",
        .synopsis = "ropebits inspect [options] FILE",
        .summary =
            "Prints what a file is for and what is in it. Of a plan (plan.rbp or plan.json) what it costs, and the "
            "bits of every RoPE block as a heat map; with --json as plan.json. Of a capture or a profile the "
            "texts, sizes, statistics of every layer, and what was measured.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 1,
        .max_positionals = 1,
        .positional_names = "FILE",
        .run = inspect_run,
        .context = &opt,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
