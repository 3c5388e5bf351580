/* The shape of every program: see core/program.h. */
#include "core/program.h"

#include <cblas.h>
#include <errno.h>
#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "core/message.h"
#include "core/threads.h"
#include "version.h"    /* generated: RB_VERSION, RB_COMMIT */

const char *rb_tool_version(void) { return RB_VERSION; }

void rb_print_version(FILE *out, const char *program)
{
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    fprintf(out, "ropebits%s%s %s (commit %s)\n", program ? " " : "", program ? program : "", RB_VERSION, RB_COMMIT);
    fprintf(out, "compiler %s, HDF5 %u.%u.%u, zstd %s, %s\n", __VERSION__, major, minor, release, ZSTD_versionString(), openblas_get_config());
    fprintf(out, "CUDA: not in this build\n");
}

/* ---- common options ------------------------------------------------------------------------------------------------------------- */

typedef struct common_values {
    bool help, version, verbose, quiet;
    const char *device;
    rb_common_options options;
} common_values;

enum { N_COMMON = 7 };

static void common_table(rb_option table[N_COMMON], common_values *values)
{
    const rb_option common[N_COMMON] = {
        {.short_name = 'h', .long_name = "help", .kind = RB_OPT_FLAG, .value = &values->help, .help = "print this and stop"},
        {.long_name = "version", .kind = RB_OPT_FLAG, .value = &values->version, .help = "print versions and stop"},
        {.short_name = 'v', .long_name = "verbose", .kind = RB_OPT_FLAG, .value = &values->verbose, .help = "say more on stderr: every step, where the time went"},
        {.short_name = 'q', .long_name = "quiet", .kind = RB_OPT_FLAG, .value = &values->quiet, .help = "errors only on stderr"},
        {.long_name = "json", .kind = RB_OPT_FLAG, .value = &values->options.json, .help = "print one JSON document"},
        {.long_name = "threads", .kind = RB_OPT_INT, .value = &values->options.threads, .metavar = "N", .min = 0, .max = 1024, .help = "threads; 0: all cores"},
        {.long_name = "device", .kind = RB_OPT_STRING, .value = &values->device, .metavar = "WHERE", .help = "auto, cpu or cuda[:N]"},
    };
    memcpy(table, common, sizeof common);
}

static rb_status parse_device(common_values *values, rb_error *err)
{
    const char *text = values->device;
    char *end;
    if (strcmp(text, "auto") == 0) {
        values->options.device = RB_DEVICE_AUTO;
    } else if (strcmp(text, "cpu") == 0) {
        values->options.device = RB_DEVICE_CPU;
    } else if (strcmp(text, "cuda") == 0) {
        values->options.device = RB_DEVICE_CUDA;
    } else if (strncmp(text, "cuda:", 5) == 0 && text[5] >= '0' && text[5] <= '9') {
        const long index = strtol(text + 5, &end, 10);
        if (*end != '\0' || index > 1023) return rb_fail(err, RB_EUSAGE, "--device is \"%s\", expected cuda:N with N up to 1023", text);
        values->options.device = RB_DEVICE_CUDA;
        values->options.device_index = (int)index;
    } else {
        return rb_fail(err, RB_EUSAGE, "--device is \"%s\", expected auto, cpu or cuda[:N]", text);
    }
    return RB_OK;
}

static rb_status check_device(const rb_program *program, const rb_common_options *common, rb_error *err)
{
    if (common->device != RB_DEVICE_CUDA) return RB_OK;
    if (program->has_cpu_only) return rb_fail(err, RB_EDEVICE, "--device cuda: %s runs on the CPU only", program->name);
    return rb_fail(err, RB_EDEVICE, "--device cuda: this build has no CUDA side, expected --device cpu or auto");
}

static rb_status check_positionals(const rb_program *program, const rb_string_list *positionals, rb_error *err)
{
    const int n = positionals->n;
    if (n < program->min_positionals) return rb_fail(err, RB_EUSAGE, "found %d arguments, expected %s", n, program->positional_names);
    if (n > program->max_positionals && program->max_positionals == 0) return rb_fail(err, RB_EUSAGE, "unexpected argument \"%s\"", positionals->at[0]);
    if (n > program->max_positionals)
        return rb_fail(err, RB_EUSAGE, "unexpected argument \"%s\" behind %s", positionals->at[program->max_positionals], program->positional_names);
    return RB_OK;
}

/* ---- the frame ------------------------------------------------------------------------------------------------------------------ */

static void print_help(const rb_program *program, const rb_option *common, int n_common)
{
    const char *line = program->synopsis;
    for (const char *label = "usage: "; *line; label = "       ") {
        const int length = (int)strcspn(line, "\n");
        printf("%s%.*s\n", label, length, line);
        line += length + (line[length] == '\n');
    }
    printf("\n%s\n", program->summary);
    if (program->n_options > 0) printf("\noptions\n");
    rb_options_print(stdout, program->options, program->n_options);
    printf("\noptions of every ropebits program\n");
    rb_options_print(stdout, common, n_common);
    printf("\nexit codes: 0 done, 1 could not (input, output, data, device), 2 wrong usage, 3 a check ran and the answer is no\n");
    if (program->epilog) printf("\n%s\n", program->epilog);
}

/* A full disk or a closed pipe shows here. Keeps an earlier message. */
static rb_status finish_stdout(rb_error *err)
{
    const bool had_error = ferror(stdout) != 0;
    if (fflush(stdout) != 0 || had_error) return rb_fail(err, RB_EIO, "standard output cannot be written: %s", strerror(errno ? errno : EIO));
    return RB_OK;
}

static rb_status run_program(const rb_program *program, const common_values *values, const rb_string_list *positionals, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_options_check_required(program->options, program->n_options, err), done);
    RB_TRY(st, check_positionals(program, positionals, err), done);
    RB_TRY(st, check_device(program, &values->options, err), done);
    rb_threads_init(values->options.threads);
    const rb_run_args args = {.context = program->context, .common = &values->options, .positionals = positionals};
    RB_TRY(st, program->run(&args, err), done);
done:
    return st;
}

int rb_program_main(const rb_program *program, int argc, char **argv)
{
    common_values values = {.device = "auto"};
    rb_option common[N_COMMON];
    rb_string_list positionals = {0};
    rb_error err = {0};
    rb_status st, st_out;

    rb_messages_init(program->name, RB_NORMAL);
    common_table(common, &values);
    const rb_option *const tables[] = {program->options, common};
    const int n_options[] = {program->n_options, N_COMMON};
    st = rb_options_parse(tables, n_options, (int)RB_COUNT(tables), argc, argv, &positionals, &err);
    if (st == RB_OK) st = parse_device(&values, &err);
    rb_messages_init(program->name, values.quiet ? RB_QUIET : values.verbose ? RB_VERBOSE : RB_NORMAL);
    if (st == RB_OK) {
        if (values.help) {
            values = (common_values){.device = "auto"};     /* the help shows defaults, not this command line */
            print_help(program, common, N_COMMON);
        } else if (values.version) {
            rb_print_version(stdout, program->name);
        } else {
            st = run_program(program, &values, &positionals, &err);
        }
    }
    st_out = finish_stdout(&err);
    if (st == RB_OK) st = st_out;
    if (st != RB_OK && err.msg[0]) rb_message_error("%s", err.msg);
    if (st == RB_EUSAGE) fprintf(stderr, "Try 'ropebits %s --help'.\n", program->name);
    return rb_exit_code(st);
}
