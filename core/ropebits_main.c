/* ropebits: the front command. `ropebits NAME ...` runs ropebits-NAME, as git does: from the folder of this executable, else from PATH. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/program.h"
#include "core/sibling.h"

static const struct {
    const char *name, *summary;
} programs[] = {
    {"run", "the whole pipeline from one file"},
    {"calibrate", "checkpoint + text -> capture.h5: queries and keys that enter RoPE"},
    {"profile", "capture.h5 -> profile.h5: what every bit costs in logit error"},
    {"allocate", "profile.h5 -> plan.json: who gets how many bits"},
    {"export", "plan.json -> plan.rbp, C header, safetensors, report"},
    {"inspect", "print a plan, its bits as a heat map"},
    {"validate", "run the quantize kernels against the C reference"},
    {"evaluate", "what a plan does to the model: perplexity, KL, needles"},
    {"compare", "exit 3 when a new summary is worse than a base"},
};

static bool is_installed(const char *name)
{
    rb_error ignored = {0};
    char *path = NULL;
    const bool found = rb_sibling_program(&path, name, &ignored) == RB_OK && access(path, X_OK) == 0;
    free(path);
    return found;
}

static void print_usage(FILE *out)
{
    fprintf(out, "usage: ropebits NAME [options] ...\n       ropebits help NAME\n       ropebits --version\n\n"
                 "Calibrates and profiles RoPE-aware KV-cache quantization, and emits bit plans for other runtimes.\n\n");
    for (size_t i = 0; i < RB_COUNT(programs); i++)
        if (is_installed(programs[i].name)) fprintf(out, "  %-10s %s\n", programs[i].name, programs[i].summary);
    fprintf(out, "\n'ropebits help NAME' tells more.\n");
}

/* Levenshtein distance, for a suggestion; names are short. */
static int edit_distance(const char *a, const char *b)
{
    enum { MAX_NAME = 32 };
    int row[MAX_NAME + 1];
    const int n_a = (int)strlen(a), n_b = (int)strlen(b);
    if (n_a > MAX_NAME || n_b > MAX_NAME) return MAX_NAME;
    for (int j = 0; j <= n_b; j++) row[j] = j;
    for (int i = 1; i <= n_a; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n_b; j++) {
            const int substituted = diagonal + (a[i - 1] != b[j - 1]);
            const int shorter = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = substituted < shorter ? substituted : shorter;
        }
    }
    return row[n_b];
}

static const char *nearest_program(const char *name)
{
    enum { MAX_DISTANCE = 2 };
    const char *nearest = NULL;
    int best = MAX_DISTANCE + 1;
    for (size_t i = 0; i < RB_COUNT(programs); i++) {
        const int distance = edit_distance(name, programs[i].name);
        if (distance < best && is_installed(programs[i].name)) {
            best = distance;
            nearest = programs[i].name;
        }
    }
    return nearest;
}

static int fail_usage(const char *sentence, const char *name)
{
    fprintf(stderr, "ropebits: error: %s%s\n", sentence, name);
    fprintf(stderr, "Try 'ropebits --help'.\n");
    return rb_exit_code(RB_EUSAGE);
}

/* Replaces this process; returns only on failure. */
static int run_program(const char *name, char **argv)
{
    rb_error err = {0};
    char *path = NULL, *on_path = NULL;
    if (strchr(name, '/') || rb_sibling_program(&path, name, &err) != RB_OK || rb_format(&on_path, &err, "ropebits-%s", name) != RB_OK) {
        free(path);
        return fail_usage(err.msg[0] ? err.msg : "no such program: ", err.msg[0] ? "" : name);
    }
    execv(path, argv);
    execvp(on_path, argv);
    const int failure = errno;
    free(path);
    free(on_path);
    if (failure != ENOENT) {
        fprintf(stderr, "ropebits: error: ropebits-%s cannot be started: %s\n", name, strerror(failure));
        return rb_exit_code(RB_EIO);
    }
    const char *nearest = nearest_program(name);
    fprintf(stderr, "ropebits: error: there is no program \"%s\"", name);
    if (nearest) fprintf(stderr, ", did you mean \"%s\"?", nearest);
    fprintf(stderr, "\nTry 'ropebits --help'.\n");
    return rb_exit_code(RB_EUSAGE);
}

static int finish(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    fprintf(stderr, "ropebits: error: standard output cannot be written: %s\n", strerror(errno));
    return rb_exit_code(RB_EIO);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return rb_exit_code(RB_EUSAGE);
    }
    const bool is_help = strcmp(argv[1], "help") == 0;
    if (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0 || (is_help && argc == 2)) {
        print_usage(stdout);
        return finish();
    }
    if (strcmp(argv[1], "--version") == 0) {
        rb_print_version(stdout, NULL);
        return finish();
    }
    if (is_help) {
        char help[] = "--help";
        char *help_argv[] = {argv[2], help, NULL};
        return run_program(argv[2], help_argv);
    }
    if (argv[1][0] == '-') return fail_usage("unknown option ", argv[1]);
    return run_program(argv[1], argv + 1);
}
