/* ropebits: the front command. `ropebits NAME ...` becomes the program ropebits-NAME, as git does it. The program is
 * looked for beside this executable first, so that a build folder or a bundle needs nothing else, and then on PATH. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/library_variables.h"
#include "core/nearest_name.h"
#include "core/program.h"
#include "core/sibling.h"

static const struct {
    const char *name, *summary;
} known_programs[] = {
    {"calibrate", "run a text through a checkpoint, capture its queries and keys"},
    {"import", "make a capture of what another program captured"},
    {"merge", "make one capture of shards, or of captures from several texts"},
    {"profile", "measure what every bit costs, score methods and plans"},
    {"score", "score plans on captures, such as the plan of one corpus on another"},
    {"allocate", "decide which RoPE block gets how many bits"},
    {"explain", "say why a head of a plan has its bits"},
    {"diff", "show how two plans differ"},
    {"export", "write a plan in the formats of runtimes, and a report"},
    {"inspect", "show a plan, a capture or a profile in the terminal"},
    {"encode", "code given vectors by a plan, for authors of other readers"},
    {"validate", "run the CUDA kernels against the C reference"},
    {"evaluate", "measure what a plan does to the model"},
    {"generate", "go on with a text, with a packed cache"},
    {"tune", "find the least bytes that hold a limit of KL, perplexity or needles"},
    {"compare", "tell whether a plan got worse; for CI"},
    {"run", "run the whole pipeline from one file"},
};

/* ---- finding programs ------------------------------------------------------------------------ */

static bool is_present(const char *name)
{
    rb_error err = {0};
    char *path = NULL;
    const bool present = rb_sibling_program(&path, name, &err) == RB_OK && access(path, X_OK) == 0;
    free(path);
    return present;
}

/* A word that may be part of a file name, as "../x" may not. */
static bool is_program_name(const char *name)
{
    return name[0] != '\0' && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == strlen(name);
}

/* Becomes the program. Returns RB_OK when there is none of that name, and fails when there is one that cannot be
 * started. */
static rb_status become_program(const char *name, char **argv, rb_error *err)
{
    char *path = NULL, *file = NULL;
    rb_status st;
    RB_TRY(st, rb_sibling_program(&path, name, err), done);
    RB_TRY(st, rb_format(&file, err, "ropebits-%s", name), done);
    argv[0] = path;
    execv(path, argv);
    if (errno == ENOENT) {
        argv[0] = file;
        execvp(file, argv);
    }
    if (errno != ENOENT) st = rb_fail(err, RB_EIO, "%s: %s", argv[0], strerror(errno));
done:
    free(path);
    free(file);
    return st;
}

static rb_status fail_unknown(const char *name, rb_error *err)
{
    const char *present[RB_COUNT(known_programs)];
    size_t n = 0;
    for (size_t i = 0; i < RB_COUNT(known_programs); i++)
        if (is_present(known_programs[i].name)) present[n++] = known_programs[i].name;
    const char *nearest = rb_nearest_name(name, present, n);
    if (nearest) return rb_fail(err, RB_EUSAGE, "'%s' is no ropebits program; did you mean %s?", name, nearest);
    return rb_fail(err, RB_EUSAGE, "'%s' is no ropebits program", name);
}

static rb_status run_named(const char *name, char **argv, rb_error *err)
{
    const rb_status st = is_program_name(name) ? become_program(name, argv, err) : RB_OK;
    return st != RB_OK ? st : fail_unknown(name, err);
}

/* ---- the front command's own words ----------------------------------------------------------- */

static void print_help(void)
{
    printf("usage: ropebits NAME [options] ...\n"
           "       ropebits help [NAME]\n"
           "       ropebits --version\n"
           "\n"
           "Calibrates, profiles, allocates and exports RoPE-aware bit plans for quantized KV caches.\n"
           "\n"
           "Programs:\n");
    for (size_t i = 0; i < RB_COUNT(known_programs); i++)
        if (is_present(known_programs[i].name))
            printf("  %-10s  %s\n", known_programs[i].name, known_programs[i].summary);
    printf("\n"
           "Exit codes: 0 done; 1 could not; 2 wrong usage; 3 a check ran and the answer is no.\n");
}

/* For completion in shells: as rb_options_print_completion, a line a program. */
static void print_completion(void)
{
    for (size_t i = 0; i < RB_COUNT(known_programs); i++)
        if (is_present(known_programs[i].name))
            printf("%s\t--\tprogram\t-\t%s\n", known_programs[i].name, known_programs[i].summary);
    printf("help\t--\tprogram\t-\tprint the help of a program\n"
           "--help\t-h\tflag\t-\tprint this help\n"
           "--version\t--\tflag\t-\tprint the versions of program and libraries\n");
}

static bool is_one_of(const char *word, const char *a, const char *b)
{
    return strcmp(word, a) == 0 || strcmp(word, b) == 0;
}

static rb_status run_front(int argc, char **argv, rb_error *err)
{
    if (argc < 2) return rb_fail(err, RB_EUSAGE, "no program name, expected one such as run");
    if (strcmp(argv[1], "--version") == 0) {
        rb_print_version(stdout, NULL);
        return RB_OK;
    }
    if (is_one_of(argv[1], "--help", "-h") || (argc == 2 && strcmp(argv[1], "help") == 0)) {
        print_help();
        return RB_OK;
    }
    if (argc == 2 && strcmp(argv[1], "--complete") == 0) {
        print_completion();
        return RB_OK;
    }
    if (strcmp(argv[1], "help") == 0) {
        char help[] = "--help";
        char *help_argv[] = {argv[0], help, NULL};
        return run_named(argv[2], help_argv, err);
    }
    if (argv[1][0] == '-') return rb_fail(err, RB_EUSAGE, "unknown option %s, expected a program name first", argv[1]);
    return run_named(argv[1], argv + 1, err);
}

int main(int argc, char **argv)
{
    rb_error err = {0};
    rb_library_variables_settle(argv);
    rb_status st = run_front(argc, argv, &err);
    if (fflush(stdout) != 0 || ferror(stdout)) st = rb_fail(&err, RB_EIO, "cannot write to standard output");
    if (st != RB_OK) fprintf(stderr, "ropebits: error: %s\n", err.msg);
    if (st == RB_EUSAGE) fprintf(stderr, "Try 'ropebits --help'.\n");
    return rb_exit_code(st);
}
