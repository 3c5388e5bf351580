/* The shape every ropebits program has: see core/program.h. */
#include "core/program.h"

#include <assert.h>
#include <cblas.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "core/cuda_device.h"
#include "core/launcher.h"
#include "core/library_variables.h"
#include "core/message.h"
#include "core/openblas_kernels.h"
#include "core/threads.h"
#include "version.h"

/* What the common table fills. */
typedef struct common_values {
    rb_common_options options;
    const char *device;
    bool help, version, verbose, quiet; /* help is only for the table, see asks_for_help */
} common_values;

enum { N_COMMON_OPTIONS = 7 };

static const char *const DEVICES[] = {"auto", "cpu", "cuda", NULL};

static void fill_common_table(rb_option table[N_COMMON_OPTIONS], common_values *values)
{
    const rb_option rows[N_COMMON_OPTIONS] = {
        {.long_name = "json",
         .kind = RB_OPT_FLAG,
         .value = &values->options.json,
         .help = "print one JSON document on stdout"},
        {.long_name = "threads",
         .kind = RB_OPT_INT,
         .value = &values->options.threads,
         .metavar = "N",
         .min = 0,
         .max = 1024,
         .help = "threads to use; 0: all cores"},
        {.long_name = "device",
         .kind = RB_OPT_STRING,
         .value = &values->device,
         .metavar = "DEVICE",
         .suggestions = DEVICES,
         .help = "auto, cpu or cuda[:N]"},
        {.short_name = 'v',
         .long_name = "verbose",
         .kind = RB_OPT_FLAG,
         .value = &values->verbose,
         .help = "tell more on stderr"},
        {.short_name = 'q',
         .long_name = "quiet",
         .kind = RB_OPT_FLAG,
         .value = &values->quiet,
         .help = "no progress, no warnings"},
        {.short_name = 'h',
         .long_name = "help",
         .kind = RB_OPT_FLAG,
         .value = &values->help,
         .help = "print this help"},
        {.long_name = "version",
         .kind = RB_OPT_FLAG,
         .value = &values->version,
         .help = "print the versions of program and libraries"},
    };
    memcpy(table, rows, sizeof rows);
}

/* ---- help and version ------------------------------------------------------------------------ */

static void print_help(const rb_program *program, const rb_option *common)
{
    const char *line = program->synopsis;
    const char *prefix = "usage: ";
    while (*line) {
        const int length = (int)strcspn(line, "\n");
        printf("%s%.*s\n", prefix, length, line);
        prefix = "       ";
        line += length + (line[length] == '\n');
    }
    putchar('\n');
    rb_print_wrapped(stdout, program->summary, 0);
    if (program->n_options > 0) {
        printf("\nOptions:\n");
        rb_options_print(stdout, program->options, program->n_options);
    }
    printf("\nCommon options:\n");
    rb_options_print(stdout, common, N_COMMON_OPTIONS);
    printf("\nExit codes: 0 done; 1 could not (input, output, data, device); 2 wrong usage; 3 a check ran and the "
           "answer is no.\n");
    if (program->epilog) printf("\n%s\n", program->epilog);
}

const char *rb_tool_version(void) { return RB_VERSION; }

/* The library is named and not opened, since --version must work on any host. */
static void print_cuda_library(FILE *out)
{
    char *path = NULL;
    const bool is_there = rb_cuda_library_path(&path, NULL) == RB_OK && access(path, R_OK) == 0;
    fprintf(out, "CUDA      %s\n", is_there ? path : "not in this build");
    free(path);
}

void rb_print_version(FILE *out, const char *program)
{
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    fprintf(out, "ropebits%s%s %s\n", program ? " " : "", program ? program : "", RB_VERSION);
    fprintf(out, "commit    %s\n", RB_COMMIT);
    fprintf(out, "license   Apache-2.0\n");
#ifdef __clang__
    fprintf(out, "compiler  %s\n", __VERSION__); /* begins with its name */
#else
    fprintf(out, "compiler  GCC %s\n", __VERSION__);
#endif
    fprintf(out, "HDF5      %u.%u.%u (built with %d.%d.%d)\n", major, minor, release, H5_VERS_MAJOR, H5_VERS_MINOR,
            H5_VERS_RELEASE);
    fprintf(out, "%s\n", openblas_get_config()); /* starts with its name */
    fprintf(out, "zstd      %s\n", ZSTD_versionString());
    fprintf(out, "cJSON     %s\n", cJSON_Version());
    fprintf(out, "OpenSSL   %s\n", OpenSSL_version(OPENSSL_VERSION_STRING));
    print_cuda_library(out);
}

/* ---- checks of the command line -------------------------------------------------------------- */

/* auto, cpu, cuda, cuda:N */
static rb_status parse_device(rb_common_options *options, const char *text, rb_error *err)
{
    enum { MAX_DEVICE_INDEX = 1023 };
    static const char cuda[] = "cuda:";
    char *end;
    options->device_index = 0;
    if (strcmp(text, "auto") == 0 || strcmp(text, "cpu") == 0) {
        options->device = text[0] == 'a' ? RB_DEVICE_AUTO : RB_DEVICE_CPU;
        return RB_OK;
    }
    options->device = RB_DEVICE_CUDA;
    if (strcmp(text, "cuda") == 0) return RB_OK;
    if (strncmp(text, cuda, sizeof cuda - 1) == 0) {
        const char *digits = text + sizeof cuda - 1;
        const unsigned long index = strtoul(digits, &end, 10);
        /* strtoul would also take " 1", "+1" and "-1". */
        if (*digits >= '0' && *digits <= '9' && *end == '\0' && index <= MAX_DEVICE_INDEX) {
            options->device_index = (int)index;
            options->has_device_index = true;
            return RB_OK;
        }
    }
    return rb_fail(err, RB_EUSAGE, "--device is '%s', expected auto, cpu, cuda or cuda:N", text);
}

static rb_status check_positionals(const rb_program *program, const rb_string_list *positionals, rb_error *err)
{
    if (positionals->n < program->min_positionals)
        return rb_fail(err, RB_EUSAGE, "%d argument%s, expected %s", positionals->n, positionals->n == 1 ? "" : "s",
                       program->positional_names);
    if (positionals->n > program->max_positionals && program->max_positionals == 0)
        return rb_fail(err, RB_EUSAGE, "argument '%s', expected options only", positionals->at[0]);
    if (positionals->n > program->max_positionals)
        return rb_fail(err, RB_EUSAGE, "one argument too many, '%s', expected %s",
                       positionals->at[program->max_positionals], program->positional_names);
    return RB_OK;
}

static rb_status check_command_line(const rb_program *program, common_values *values, const rb_string_list *positionals,
                                    rb_error *err)
{
    rb_status st;
    RB_TRY(st, parse_device(&values->options, values->device, err), done);
    if (values->verbose && values->quiet) {
        st = rb_fail(err, RB_EUSAGE, "-v and -q are both given, expected one of them");
        goto done;
    }
    RB_TRY(st, check_positionals(program, positionals, err), done);
    RB_TRY(st, rb_options_check_required(program->options, program->n_options, err), done);
    if (values->options.device == RB_DEVICE_CUDA && program->has_cpu_only)
        st = rb_fail(err, RB_EDEVICE, "--device %s: %s runs on the CPU only", values->device, program->name);
done:
    return st;
}

/* Tasks of one host take its GPUs in turn. */
static rb_status choose_gpu(int *index, const rb_common_options *options, rb_error *err)
{
    const char *variable = NULL;
    int64_t rank = 0;
    int n = 0;
    *index = options->device_index;
    if (options->has_device_index || !rb_launcher_local_rank(&rank, &variable)) return RB_OK;
    const rb_status st = rb_cuda_count(&n, err);
    if (st != RB_OK) return st;
    *index = (int)(rank % n);
    if (n > 1) rb_message_info("takes GPU %d of %d, as %s is %lld", *index, n, variable, (long long)rank);
    return RB_OK;
}

rb_status rb_resolve_device(rb_device_kind *device, const rb_common_options *options, rb_error *err)
{
    rb_error reason = {0};
    int index = 0;
    *device = RB_DEVICE_CPU;
    if (options->device == RB_DEVICE_CPU) return RB_OK;
    rb_status st = choose_gpu(&index, options, &reason);
    if (st == RB_OK) st = rb_cuda_open(index, &reason);
    if (st == RB_OK) {
        *device = RB_DEVICE_CUDA;
        rb_message_verbose("runs on GPU %d, %s", rb_cuda_device()->index, rb_cuda_device()->name);
        return RB_OK;
    }
    if (options->device == RB_DEVICE_CUDA) return rb_fail(err, st, "--device cuda: %s; use --device cpu", reason.msg);
    rb_message_info("runs on the CPU: %s", reason.msg);
    return RB_OK;
}

/* ---- standard streams ------------------------------------------------------------------------ */

/* A file that we open must not get the number of a standard stream that the caller closed: something that refuses all
 * use takes its place. SIGPIPE and SIGXFSZ are ignored, so that a reader who left and a file that grows past its limit
 * show as failed writes, which are cleaned up as any failure. */
static void prepare_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
            _exit(EXIT_FAILURE);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

static bool is_reader_gone(void)
{
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
}

/* A full disk is found here at the latest. */
static rb_status finish_stdout(rb_error *err)
{
    const bool had_failed = ferror(stdout) != 0;
    errno = 0;
    const bool close_failed = fclose(stdout) != 0;
    const int reason = errno;
    if (!had_failed && !close_failed) return RB_OK;
    return rb_fail(err, RB_EIO, "cannot write to standard output%s%s", reason ? ": " : "",
                   reason ? strerror(reason) : "");
}

static void report(const rb_program *program, rb_status st, const rb_error *err)
{
    assert(err->msg[0] != '\0' || st == RB_ECHECK);
    if (st == RB_ECHECK) return;
    rb_message_error("%s", err->msg);
    if (st == RB_EUSAGE) fprintf(stderr, "Try 'ropebits %s --help'.\n", program->name);
}

/* ---- the program ----------------------------------------------------------------------------- */

/* --help is looked for before parsing: it shows defaults, and people ask for it when their usage is wrong. */
static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

/* Asked by the shells' completion, no option that help speaks of. */
static bool asks_for_completion(int argc, char **argv) { return argc == 2 && strcmp(argv[1], "--complete") == 0; }

/* glibc raises its limit for separate mappings to the largest block that was ever freed, and from then on keeps such
 * blocks on a heap that fragments. The buffers of a layer would add up over the layers of a deep model. With a fixed
 * limit they go back to the system when they are freed. */
static void keep_heap_small(void)
{
#ifdef M_MMAP_THRESHOLD
    enum { MMAP_THRESHOLD_BYTES = 128 << 10 };
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
#endif
}

static rb_status run_program(const rb_program *program, int argc, char **argv, rb_error *err)
{
    common_values values = {.device = "auto"};
    rb_option common[N_COMMON_OPTIONS];
    rb_string_list positionals = {0};
    rb_status st;

    fill_common_table(common, &values);
    const rb_option *const tables[] = {program->options, common};
    const int n_options[] = {program->n_options, N_COMMON_OPTIONS};
    if (asks_for_help(argc, argv)) {
        print_help(program, common);
        return RB_OK;
    }
    if (asks_for_completion(argc, argv)) {
        for (size_t i = 0; i < RB_COUNT(tables); i++) rb_options_print_completion(stdout, tables[i], n_options[i]);
        return RB_OK;
    }
    RB_TRY(st, rb_options_parse(tables, n_options, RB_COUNT(tables), argc, argv, &positionals, err), done);
    if (values.version) {
        rb_print_version(stdout, program->name);
        return RB_OK;
    }
    RB_TRY(st, check_command_line(program, &values, &positionals, err), done);
    rb_messages_init(program->name, values.quiet ? RB_QUIET : values.verbose ? RB_VERBOSE : RB_NORMAL);
    keep_heap_small();
    rb_threads_init(values.options.threads);
    if (program->multiplies) RB_TRY(st, rb_threads_prepare(err), done);
    const rb_run_args args = {.context = program->context, .common = &values.options, .positionals = &positionals};
    st = program->run(&args, err);
done:
    return st;
}

int rb_program_main(const rb_program *program, int argc, char **argv)
{
    rb_error err = {0};
    bool is_told = false;

    rb_library_variables_settle(argv);
    if (program->multiplies) rb_openblas_take_kernels(argv);
    prepare_streams();
    rb_messages_init(program->name, RB_NORMAL);
    rb_status st = run_program(program, argc, argv, &err);
    const bool is_gone = is_reader_gone();
    const rb_status st_out = finish_stdout(&err);
    if (st_out != RB_OK && (st == RB_OK || st == RB_ECHECK)) {
        st = st_out;
        is_told = is_gone; /* a reader who left (`| head`) knows */
    }
    if (st != RB_OK && !is_told) report(program, st, &err);
    return rb_exit_code(st);
}
