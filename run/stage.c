/* Stages, their stamps and their processes: see run/stage.h. */
#include "run/stage.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/atomic_file.h"
#include "core/child.h"
#include "core/json.h"
#include "core/message.h"
#include "core/program.h"
#include "core/sha256.h"
#include "core/sibling.h"

#define STAMP_SCHEMA "ropebits-stage"
enum { STAMP_VERSION = 1 };
static const int64_t HASHED_SIZE_BYTES = 64 << 20;

/* ---- description ----------------------------------------------------------------------------- */

void stage_init(stage *s, const char *name, const char *folder)
{
    *s = (stage){.name = name, .program = name, .folder = folder};
}

void stage_free(stage *s)
{
    for (int i = 0; i < s->n_args; i++) free(s->args[i]);
    for (int i = 0; i < s->n_inputs; i++) free(s->inputs[i]);
    for (int i = 0; i < s->n_outputs; i++) free(s->outputs[i]);
    free(s->json_output);
    *s = (stage){0};
}

static rb_status append(char **list, int *n, int max, const char *text, const char *what, rb_error *err)
{
    if (*n == max) return rb_fail(err, RB_EINVAL, "more than %d %s", max, what);
    rb_status st = rb_format(&list[*n], err, "%s", text);
    if (st == RB_OK) (*n)++;
    return st;
}

rb_status stage_add_arg(stage *s, const char *arg, rb_error *err)
{
    return append(s->args, &s->n_args, STAGE_MAX_ARGS, arg, "arguments of a stage", err);
}

rb_status stage_add_option(stage *s, const char *name, const char *value, rb_error *err)
{
    if (!value) return RB_OK;
    rb_status st = stage_add_arg(s, name, err);
    return st == RB_OK ? stage_add_arg(s, value, err) : st;
}

rb_status stage_add_input(stage *s, const char *path, rb_error *err)
{
    return append(s->inputs, &s->n_inputs, STAGE_MAX_FILES, path, "input files of a stage", err);
}

static int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

rb_status stage_add_input_model(stage *s, const char *path, rb_error *err)
{
    struct dirent **entries = NULL;
    struct stat info;
    rb_status st = RB_OK;
    if (stat(path, &info) == 0 && S_ISREG(info.st_mode)) return stage_add_input(s, path, err); /* a GGUF */
    const int n = scandir(path, &entries, is_visible, alphasort);
    if (n < 0) return rb_fail(err, RB_EIO, "%s: %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        char *file = NULL;
        if (st == RB_OK) st = rb_join_path(&file, path, entries[i]->d_name, err);
        if (st == RB_OK && stat(file, &info) == 0 && S_ISREG(info.st_mode)) st = stage_add_input(s, file, err);
        free(file);
        free(entries[i]);
    }
    free(entries);
    return st;
}

rb_status stage_path(char **out, const stage *s, const char *name_in_folder, rb_error *err)
{
    return rb_join_path(out, s->folder, name_in_folder, err);
}

rb_status stage_add_output(stage *s, const char *name_in_folder, rb_error *err)
{
    char *path = NULL;
    rb_status st = stage_path(&path, s, name_in_folder, err);
    if (st == RB_OK) st = append(s->outputs, &s->n_outputs, STAGE_MAX_FILES, path, "output files of a stage", err);
    free(path);
    return st;
}

rb_status stage_set_json_output(stage *s, const char *name_in_folder, rb_error *err)
{
    rb_status st = stage_path(&s->json_output, s, name_in_folder, err);
    if (st == RB_OK) st = stage_add_output(s, name_in_folder, err);
    return st;
}

/* ---- stamp ----------------------------------------------------------------------------------- */

/* {"path", "size_bytes", "sha256" | "modified_ns"} */
static rb_status file_to_json(cJSON **out, const char *path, rb_error *err)
{
    struct stat info;
    char hex[RB_SHA256_HEX], modified[32];
    rb_status st;
    *out = NULL;
    if (stat(path, &info) != 0) return rb_fail(err, RB_EIO, "%s: %s", path, strerror(errno));
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "path", path, err), done);
    RB_TRY(st, rb_json_add_number(*out, "size_bytes", (double)info.st_size, err), done);
    if (info.st_size <= HASHED_SIZE_BYTES) {
        RB_TRY(st, rb_sha256_file(hex, path, err), done);
        RB_TRY(st, rb_json_add_string(*out, "sha256", hex, err), done);
    } else {
        /* As text, because nanoseconds since 1970 need more than the 53 bits of a double. */
        snprintf(modified, sizeof modified, "%" PRId64 "%09ld", (int64_t)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
        RB_TRY(st, rb_json_add_string(*out, "modified_ns", modified, err), done);
    }
done:
    if (st != RB_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return st;
}

static rb_status files_to_json(cJSON *stamp, const char *key, const char *first, char *const *paths, int n,
                               rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for a stamp");
    for (int i = first ? -1 : 0; i < n && st == RB_OK; i++) {
        st = file_to_json(&item, i < 0 ? first : paths[i], err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
    }
    if (st == RB_OK) return rb_json_add_item(stamp, key, &list, err);
    cJSON_Delete(list);
    return st;
}

/* What the stage reads, the program first, as an object {"inputs": [...]}. */
static rb_status make_inputs(cJSON **out, const stage *s, const char *program, rb_error *err)
{
    rb_status st = rb_json_new_object(out, err);
    if (st == RB_OK) st = files_to_json(*out, "inputs", program, s->inputs, s->n_inputs, err);
    if (st != RB_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return st;
}

/* inputs: of make_inputs. */
static rb_status make_stamp(cJSON **out, const stage *s, const cJSON *inputs, rb_error *err)
{
    cJSON *command = NULL;
    rb_status st;
    *out = cJSON_Duplicate(inputs, true);
    if (!*out) return rb_fail(err, RB_ENOMEM, "out of memory for a stamp");
    RB_TRY(st, rb_json_add_string(*out, "schema", STAMP_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(*out, "version", STAMP_VERSION, err), done);
    RB_TRY(st, rb_json_add_string(*out, "stage", s->name, err), done);
    RB_TRY(st, rb_json_add_string(*out, "tool_version", rb_tool_version(), err), done);
    command = cJSON_CreateStringArray((const char *const *)s->args, s->n_args);
    if (!command) {
        st = rb_fail(err, RB_ENOMEM, "out of memory for a stamp");
        goto done;
    }
    RB_TRY(st, rb_json_add_item(*out, "command", &command, err), done);
    RB_TRY(st, files_to_json(*out, "outputs", NULL, s->outputs, s->n_outputs, err), done);
done:
    if (st != RB_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return st;
}

static rb_status stamp_path(char **out, const stage *s, rb_error *err)
{
    return rb_format(out, err, "%s/.stages/%s.json", s->folder, s->name);
}

/* Any trouble (no stamp, a damaged one, a missing output) means that the stage must run. */
static bool is_current(const stage *s, const cJSON *inputs)
{
    rb_error ignored = {0};
    cJSON *was = NULL, *is = NULL;
    char *path = NULL;
    const bool current = stamp_path(&path, s, &ignored) == RB_OK && access(path, R_OK) == 0
                         && rb_json_read(&was, path, 0, &ignored) == RB_OK
                         && make_stamp(&is, s, inputs, &ignored) == RB_OK && cJSON_Compare(was, is, true);
    cJSON_Delete(was);
    cJSON_Delete(is);
    free(path);
    return current;
}

static rb_status write_stamp(const stage *s, const cJSON *inputs, rb_error *err)
{
    cJSON *stamp = NULL;
    char *path = NULL, *folder = NULL;
    rb_status st;
    RB_TRY(st, stage_path(&folder, s, ".stages", err), done);
    RB_TRY(st, rb_make_folder(folder, err), done);
    RB_TRY(st, make_stamp(&stamp, s, inputs, err), done);
    RB_TRY(st, stamp_path(&path, s, err), done);
    RB_TRY(st, rb_json_write(stamp, path, err), done);
done:
    cJSON_Delete(stamp);
    free(path);
    free(folder);
    return st;
}

/* What the stage has read is known only where its inputs are the same before and after: else it runs again next time.
 */
static rb_status stamp_if_unchanged(const stage *s, const char *program, const cJSON *before, rb_error *err)
{
    rb_error ignored = {0};
    cJSON *after = NULL;
    rb_status st = RB_OK;
    if (before && make_inputs(&after, s, program, &ignored) == RB_OK && cJSON_Compare(before, after, true))
        st = write_stamp(s, before, err);
    else rb_message_warn("an input of %s changed while it ran: the next run does it again", s->name);
    cJSON_Delete(after);
    return st;
}

/* ---- process --------------------------------------------------------------------------------- */

static rb_status status_of_exit(const stage *s, int wait_status, rb_error *err)
{
    if (WIFSIGNALED(wait_status))
        return rb_fail(err, RB_EIO, "stage %s was ended by signal %d (%s)", s->name, WTERMSIG(wait_status),
                       strsignal(WTERMSIG(wait_status)));
    switch (WEXITSTATUS(wait_status)) {
    case 0: return RB_OK;
    case 2: return rb_fail(err, RB_EUSAGE, "stage %s refused its options", s->name);
    case 3: return rb_fail(err, RB_ECHECK, "stage %s: the check says no", s->name);
    default: return rb_fail(err, RB_EINVAL, "stage %s failed", s->name);
    }
}

static rb_status execute(const stage *s, const char *program, const char *const *run_args, rb_error *err)
{
    enum { EXTRA = 16 };
    const char *argv[STAGE_MAX_ARGS + EXTRA];
    char *tmp = NULL;
    int n = 0, how = 0;
    rb_status st;

    argv[n++] = program;
    for (int i = 0; run_args[i] && n < EXTRA - 2; i++) argv[n++] = run_args[i];
    argv[n++] = "--json";
    for (int i = 0; i < s->n_args; i++) argv[n++] = s->args[i];
    argv[n] = NULL;
    RB_TRY(st, rb_atomic_begin(&tmp, s->json_output, err), done);
    RB_TRY(st, rb_child_run(&how, argv, tmp, err), done);
    RB_TRY(st, status_of_exit(s, how, err), done);
    RB_TRY(st, rb_atomic_publish(tmp, s->json_output, err), done);
done:
    if (st != RB_OK) rb_atomic_discard(tmp);
    free(tmp);
    return st;
}

rb_status stage_run(const stage *s, const char *const *run_args, bool *ran, rb_error *err)
{
    rb_error ignored = {0};
    cJSON *inputs = NULL; /* NULL: one cannot be read, and the stage says so itself */
    char *program = NULL;
    rb_status st;
    *ran = false;
    RB_TRY(st, rb_sibling_program(&program, s->program, err), done);
    if (make_inputs(&inputs, s, program, &ignored) == RB_OK && is_current(s, inputs)) goto done;
    *ran = true;
    RB_TRY(st, execute(s, program, run_args, err), done);
    RB_TRY(st, stamp_if_unchanged(s, program, inputs, err), done);
done:
    cJSON_Delete(inputs);
    free(program);
    return st;
}
