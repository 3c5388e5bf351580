/* core/program.h from outside: each case runs a small program in a child process and looks at its stdout, stderr and
 * exit code. */
#include "tests/test_support.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/wait.h>

#include "core/message.h"
#include "core/program.h"
#include "core/threads.h"

/* ---- the program under test ------------------------------------------------------------------ */

typedef struct sample_options {
    int64_t n_tokens;
    const char *output;
} sample_options;

/* The first argument says what to do. */
static rb_status sample_run(const rb_run_args *args, rb_error *err)
{
    const sample_options *opt = args->context;
    const char *task = args->positionals->at[0];
    if (strcmp(task, "fail") == 0) return rb_fail(err, RB_EFORMAT, "layer 3: expected 64, found 65");
    if (strcmp(task, "refuse") == 0) return rb_fail(err, RB_EUSAGE, "--output and --n-tokens exclude each other");
    if (strcmp(task, "deny") == 0) {
        printf("worse\n");
        return RB_ECHECK;
    }
    if (strcmp(task, "flood") == 0)
        for (int i = 0; i < 100000; i++) printf("line %d\n", i);
    if (strcmp(task, "open") == 0)
        return open("/dev/null", O_RDONLY) > STDERR_FILENO
                   ? RB_OK
                   : rb_fail(err, RB_EIO, "a file took the number of a standard stream");
    rb_message_verbose("telling more");
    if (strcmp(task, "resolve") == 0) {
        rb_device_kind device;
        const rb_status st = rb_resolve_device(&device, args->common, err);
        if (st == RB_OK) printf("runs on %s\n", device == RB_DEVICE_CPU ? "cpu" : "cuda");
        return st;
    }
    if (strcmp(task, "show") == 0)
        printf("n_tokens %lld output %s json %d threads %d device %d:%d\n", (long long)opt->n_tokens, opt->output,
               args->common->json, rb_threads_count(), (int)args->common->device, args->common->device_index);
    return RB_OK;
}

static int sample_main(int argc, char **argv, bool has_cpu_only)
{
    sample_options opt = {.n_tokens = 2048};
    const rb_option table[] = {
        {.long_name = "n-tokens",
         .kind = RB_OPT_INT,
         .value = &opt.n_tokens,
         .metavar = "N",
         .min = 1,
         .max = 4096,
         .help = "tokens"},
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "FILE",
         .help = "the result",
         .required = true},
    };
    const rb_program program = {
        .name = "sample",
        .synopsis = "ropebits sample [options] TASK -o FILE\nropebits sample --idle",
        .summary = "Does what it is told.",
        .epilog = "Examples: none.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 1,
        .max_positionals = 1,
        .positional_names = "TASK",
        .run = sample_run,
        .context = &opt,
        .has_cpu_only = has_cpu_only,
    };
    return rb_program_main(&program, argc, argv);
}

/* ---- running it ------------------------------------------------------------------------------ */

typedef struct outcome {
    int exit_code; /* -1: killed by a signal */
    char out[8192], err[8192];
} outcome;

static void read_back(char *text, size_t size, const char *path)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

/* In the child. */
static void point_at(int fd, const char *path)
{
    const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || dup2(file, fd) < 0) _exit(99);
}

/* stdout_path NULL: stdout is closed. */
static outcome run_to(const char *stdout_path, bool has_cpu_only, const char *line)
{
    static outcome result;
    const char *err_path = scratch_path("err");
    char copy[512], program[] = "ropebits-sample", *argv[32] = {program};
    int argc = 1, wait_status;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        point_at(STDERR_FILENO, err_path);
        if (stdout_path) point_at(STDOUT_FILENO, stdout_path);
        else close(STDOUT_FILENO);
        _exit(sample_main(argc, argv, has_cpu_only)); /* not exit: the scratch folder is the parent's to remove */
    }
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    memset(&result, 0, sizeof result);
    result.exit_code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1;
    read_back(result.err, sizeof result.err, err_path);
    return result;
}

static outcome run(const char *line)
{
    const char *out_path = scratch_path("out");
    outcome result = run_to(out_path, false, line);
    read_back(result.out, sizeof result.out, out_path);
    return result;
}

static void assert_outcome(const char *line, int exit_code, const char *out, const char *err)
{
    const outcome result = run(line);
    if (result.exit_code != exit_code)
        fail_msg("%s: exit code %d, expected %d: %s", line, result.exit_code, exit_code, result.err);
    assert_string_equal(result.out, out);
    assert_string_equal(result.err, err);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void options_reach_the_run(void **state)
{
    (void)state;
    assert_outcome("show -o x --n-tokens 7 --json --threads 3 --device cpu", 0,
                   "n_tokens 7 output x json 1 threads 3 device 1:0\n", "");
    assert_outcome("show -o x --threads 1 --device cuda:2", 0, "n_tokens 2048 output x json 0 threads 1 device 2:2\n",
                   "");
    assert_outcome("show -o x --threads 1", 0, "n_tokens 2048 output x json 0 threads 1 device 0:0\n", ""); /* auto */
    assert_outcome("idle -o x -v", 0, "", "sample: info: telling more\n");
    assert_outcome("idle -o x", 0, "", "");
    assert_outcome("idle -o x -q", 0, "", "");
}

static void a_failure_is_one_line_and_exit_code_1(void **state)
{
    (void)state;
    assert_outcome("fail -o x", 1, "", "sample: error: layer 3: expected 64, found 65\n");
    assert_outcome("fail -o x -q", 1, "", "sample: error: layer 3: expected 64, found 65\n");
}

static void a_check_that_says_no_is_exit_code_3(void **state)
{
    (void)state;
    assert_outcome("deny -o x", 3, "worse\n", "");
}

static void wrong_usage_is_two_lines_and_exit_code_2(void **state)
{
    (void)state;
#define TRY "\nTry 'ropebits sample --help'.\n"
    assert_outcome("-o x", 2, "", "sample: error: 0 arguments, expected TASK" TRY);
    assert_outcome("show b -o x", 2, "", "sample: error: one argument too many, 'b', expected TASK" TRY);
    assert_outcome("show", 2, "", "sample: error: -o (--output) FILE is missing" TRY);
    assert_outcome("show -o x --n-token 8", 2, "",
                   "sample: error: unknown option --n-token; did you mean --n-tokens?" TRY);
    assert_outcome("show -o x --threads 1025", 2, "", "sample: error: --threads is 1025, expected 0 to 1024" TRY);
    assert_outcome("show -o x -v -q", 2, "", "sample: error: -v and -q are both given, expected one of them" TRY);
    assert_outcome("refuse -o x", 2, "", "sample: error: --output and --n-tokens exclude each other" TRY);
}

static void devices_are_checked_by_name(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda:1x", "cuda:99999999999999999999", "CPU"};
    for (size_t i = 0; i < RB_COUNT(wrong); i++) {
        char line[128], expected[256];
        snprintf(line, sizeof line, "show -o x --device %s", wrong[i]);
        snprintf(expected, sizeof expected, "sample: error: --device is '%s', expected auto, cpu, cuda or cuda:N" TRY,
                 wrong[i]);
        assert_outcome(line, 2, "", expected);
    }
    const outcome cpu_only = run_to(scratch_path("out"), true, "show -o x --device cuda");
    assert_int_equal(cpu_only.exit_code, 1);
    assert_string_equal(cpu_only.err, "sample: error: --device cuda: sample runs on the CPU only\n");
}

/* Whatever this host has: here there is no CUDA side. */
static void without_a_cuda_side_auto_is_the_cpu_and_says_so(void **state)
{
    (void)state;
#define NOT_THERE "no CUDA side: /absent/ropebits_cuda.so is not there (built where nvcc is, or with CUDA=1)"
    setenv("ROPEBITS_CUDA_LIBRARY", "/absent/ropebits_cuda.so", 1);
    assert_outcome("resolve -o x", 0, "runs on cpu\n", "sample: info: runs on the CPU: " NOT_THERE "\n");
    assert_outcome("resolve -o x -q", 0, "runs on cpu\n", "");
    assert_outcome("resolve -o x --device cpu", 0, "runs on cpu\n", "");
    assert_outcome("resolve -o x --device cuda", 1, "",
                   "sample: error: --device cuda: " NOT_THERE "; use --device cpu\n");
    assert_non_null(strstr(run("--version").out, "CUDA      not in this build"));
    setenv("ROPEBITS_CUDA_LIBRARY", "/dev/null", 1);
    const outcome damaged = run("resolve -o x --device cuda");
    assert_int_equal(damaged.exit_code, 1);
    assert_memory_equal(damaged.err, "sample: error: --device cuda: /dev/null cannot be loaded: ", 58);
    unsetenv("ROPEBITS_CUDA_LIBRARY");
}

static void help_goes_to_stdout_whatever_else_is_wrong(void **state)
{
    (void)state;
    static const char *const lines[] = {"--help", "-h", "--n-tokens 7 --bogus --help", "a b c -h"};
    for (size_t i = 0; i < RB_COUNT(lines); i++) {
        const outcome result = run(lines[i]);
        assert_int_equal(result.exit_code, 0);
        assert_string_equal(result.err, "");
        assert_memory_equal(
            result.out,
            "usage: ropebits sample [options] TASK -o FILE\n       ropebits sample --idle\n\nDoes what it is told.\n",
            99);
        assert_non_null(strstr(result.out, "tokens (default 2048)")); /* and not 7 */
        assert_non_null(strstr(result.out, "--threads N"));
        assert_non_null(strstr(result.out, "\nExamples: none.\n"));
    }
    assert_int_equal(run("idle -o x -- --help").exit_code, 2); /* an argument, and one too many */
}

static void version_names_program_and_libraries(void **state)
{
    (void)state;
    const outcome result = run("--version");
    char first[64];
    snprintf(first, sizeof first, "ropebits sample %s\ncommit ", rb_tool_version());
    assert_int_equal(result.exit_code, 0);
    assert_memory_equal(result.out, first, strlen(first));
    static const char *const words[] = {
        "\nlicense   Apache-2.0\n", "compiler  GCC", "\nHDF5 ", "\nOpenBLAS ", "\nzstd ", "\nCUDA      "};
    for (size_t i = 0; i < RB_COUNT(words); i++) assert_non_null(strstr(result.out, words[i]));
}

static void a_full_stdout_is_exit_code_1(void **state)
{
    (void)state;
    static const char *const lines[] = {"show -o x", "flood -o x", "deny -o x", "--help", "--version"};
    for (size_t i = 0; i < RB_COUNT(lines); i++) {
        const outcome result = run_to("/dev/full", false, lines[i]);
        assert_int_equal(result.exit_code, 1);
        assert_memory_equal(result.err, "sample: error: cannot write to standard output", 46);
    }
    assert_int_equal(run_to("/dev/full", false, "idle -o x").exit_code, 0); /* nothing to write */
    const outcome failed = run_to("/dev/full", false, "fail -o x");
    assert_string_equal(failed.err, "sample: error: layer 3: expected 64, found 65\n");
}

static void a_closed_stdout_is_exit_code_1_and_no_file_takes_its_place(void **state)
{
    (void)state;
    assert_int_equal(run_to(NULL, false, "show -o x").exit_code, 1);
    assert_int_equal(run_to(NULL, false, "idle -o x").exit_code, 0);
    const outcome opened = run_to(NULL, false, "open -o x");
    assert_string_equal(opened.err, "");
    assert_int_equal(opened.exit_code, 0);
}

static void a_reader_who_left_is_exit_code_1_without_a_word(void **state)
{
    (void)state;
    int ends[2], wait_status;
    outcome result = {0};
    const char *path = scratch_path("err");
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char program[] = "ropebits-sample", task[] = "flood", output[] = "-ox", *argv[] = {program, task, output, NULL};
        point_at(STDERR_FILENO, path);
        if (dup2(ends[1], STDOUT_FILENO) < 0) _exit(99);
        _exit(sample_main(3, argv, false));
    }
    close(ends[1]);
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 1);
    read_back(result.err, sizeof result.err, path);
    assert_string_equal(result.err, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_reach_the_run),
        cmocka_unit_test(a_failure_is_one_line_and_exit_code_1),
        cmocka_unit_test(a_check_that_says_no_is_exit_code_3),
        cmocka_unit_test(wrong_usage_is_two_lines_and_exit_code_2),
        cmocka_unit_test(devices_are_checked_by_name),
        cmocka_unit_test(help_goes_to_stdout_whatever_else_is_wrong),
        cmocka_unit_test(without_a_cuda_side_auto_is_the_cpu_and_says_so),
        cmocka_unit_test(version_names_program_and_libraries),
        cmocka_unit_test(a_full_stdout_is_exit_code_1),
        cmocka_unit_test(a_closed_stdout_is_exit_code_1_and_no_file_takes_its_place),
        cmocka_unit_test(a_reader_who_left_is_exit_code_1_without_a_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
