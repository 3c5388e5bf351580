/* The shape every ropebits program has: parse -> help | version | run -> flush stdout -> exit code.
 *
 *   int main(int argc, char **argv)
 *   {
 *       profile_options opt = profile_options_default();
 *       const rb_option table[] = { ... &opt.field ... };
 *       const rb_program program = { .name = "profile", ..., .options = table, .n_options = RB_COUNT(table),
 *                                    .run = profile_run, .context = &opt };
 *       return rb_program_main(&program, argc, argv);
 *   }
 */
#ifndef RB_CORE_PROGRAM_H
#define RB_CORE_PROGRAM_H

#include <stdbool.h>

#include "core/options.h"
#include "core/status.h"

typedef enum rb_device_kind { RB_DEVICE_AUTO, RB_DEVICE_CPU, RB_DEVICE_CUDA } rb_device_kind;

/* Options every program has. */
typedef struct rb_common_options {
    bool json;       /* one JSON document on stdout instead of a table */
    int64_t threads; /* 0: all cores */
    rb_device_kind device;
    int device_index; /* cuda:N */
    bool has_device_index;
} rb_common_options;

typedef struct rb_run_args {
    void *context; /* rb_program.context */
    const rb_common_options *common;
    const rb_string_list *positionals;
} rb_run_args;

typedef struct rb_program {
    const char *name; /* "profile": messages start "profile: error: ..." */
    /* Lines after "usage: ", '\n' between them: "ropebits profile [options] CAPTURE.h5 -o PROFILE.h5". */
    const char *synopsis;
    const char *summary; /* what it does, a sentence or two */
    const char *epilog;  /* examples, exit codes beyond the common ones; may be NULL */
    const rb_option *options;
    int n_options;
    int min_positionals, max_positionals;
    const char *positional_names; /* for the message when the count is wrong: "CAPTURE.h5" */
    rb_status (*run)(const rb_run_args *args, rb_error *err);
    void *context;
    bool has_cpu_only; /* true: --device cuda is an error ("runs on the CPU only") */
    bool multiplies;   /* true: it multiplies matrices, and a limit on memory must leave room for that */
} rb_program;

/* Runs the program and returns its exit code. A usage error prints two lines on stderr (the sentence, and where help
 * is). A full or closed stdout becomes exit code 1. RB_ECHECK prints nothing more: the run has told it. */
int rb_program_main(const rb_program *program, int argc, char **argv);

/* Where a program that can use a GPU computes: on the CPU, or on a CUDA device, which is then open
 * (core/cuda_device.h). Called when it is about to compute. `auto` is a GPU, or the CPU where there is none, with a
 * message that says why. Without a number the GPU is the first one, or, where a launcher says which task of its host
 * this is (core/launcher.h), the one with that number, counted round; a message says so. Fails with RB_EDEVICE when a
 * GPU was asked for and there is none. */
rb_status rb_resolve_device(rb_device_kind *device, const rb_common_options *options, rb_error *err);

/* "0.1.0", recorded in files: the version without the commit, so that equal input gives equal bytes. */
const char *rb_tool_version(void);
/* What --version prints: program (NULL: the front command), version, commit, compiler, libraries. */
void rb_print_version(FILE *out, const char *program);

#endif
