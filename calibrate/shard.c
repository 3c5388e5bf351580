/* See calibrate/shard.h. */
#include "calibrate/shard.h"

#include <stdlib.h>
#include <string.h>

#include "calibrate/capture_file.h"
#include "core/launcher.h"
#include "core/message.h"

/* ---- which ----------------------------------------------------------------------------------- */

/* Digits up to `end`, as "07" and " 7" are no way to write a shard. */
static bool parse_digits(int64_t *out, const char *text, const char *end)
{
    enum { MAX_DIGITS = 9 };
    const size_t n = (size_t)(end - text);
    if (n == 0 || n > MAX_DIGITS || strspn(text, "0123456789") < n || (n > 1 && text[0] == '0')) return false;
    *out = strtoll(text, NULL, 10);
    return true;
}

static rb_status parse_shard(shard *out, const char *option, rb_error *err)
{
    const char *slash = strchr(option, '/');
    if (!slash || !parse_digits(&out->index, option, slash)
        || !parse_digits(&out->count, slash + 1, option + strlen(option)))
        return rb_fail(err, RB_EUSAGE, "--shard is '%s', expected i/n such as 0/4, auto or none", option);
    if (out->count < 1 || out->count > SHARD_MAX)
        return rb_fail(err, RB_EUSAGE, "--shard %s: %lld shards, expected 1 to %d", option, (long long)out->count,
                       SHARD_MAX);
    if (out->index >= out->count)
        return rb_fail(err, RB_EUSAGE, "--shard %s: shard %lld, expected 0 to %lld", option, (long long)out->index,
                       (long long)out->count - 1);
    return RB_OK;
}

static rb_status ask_launcher(shard *out, bool must_say, rb_error *err)
{
    launcher_task task;
    rb_status st = rb_launcher_task(&task, err);
    if (st != RB_OK) return rb_fail_in(err, st, "which shard");
    if (task.count == 0 && must_say)
        return rb_fail(err, RB_EUSAGE,
                       "--shard auto: none of SLURM_ARRAY_TASK_ID, SLURM_PROCID of a step and OMPI_COMM_WORLD_RANK is "
                       "set with its count, expected a task of sbatch --array, srun or mpirun");
    if (task.count > SHARD_MAX)
        return rb_fail(err, RB_EINVAL, "%s: %lld tasks, expected at most %d shards; --shard none calibrates the whole",
                       task.variable, (long long)task.count, SHARD_MAX);
    if (task.count == 1)
        rb_message_info("the only task of its job (%s): calibrates the whole text, no shard", task.variable);
    if (task.count <= 1) return RB_OK;
    *out = (shard){.index = task.index, .count = task.count, .is_of_launcher = true};
    rb_message_info("calibrates shard %lld/%lld (of 0 to %lld), as the environment says (%s%s%s); --shard none: the "
                    "whole text",
                    (long long)task.index, (long long)task.count, (long long)task.count - 1, task.variable,
                    task.within ? ", " : "", task.within ? task.within : "");
    return RB_OK;
}

rb_status shard_choose(shard *out, const char *option, rb_error *err)
{
    *out = (shard){0};
    if (option && strcmp(option, "none") == 0) return RB_OK;
    if (!option || strcmp(option, "auto") == 0) return ask_launcher(out, option != NULL, err);
    return parse_shard(out, option, err);
}

rb_status shard_output(char **path, const char *output, const shard *part, rb_error *err)
{
    *path = NULL;
    if (!output) return RB_OK;
    if (!shard_is_part(part) || !part->is_of_launcher) return rb_format(path, err, "%s", output);
    const char *slash = strrchr(output, '/'), *name = slash ? slash + 1 : output, *dot = strrchr(name, '.');
    const int length = (int)(dot && dot > name ? dot - output : (ptrdiff_t)strlen(output));
    return rb_format(path, err, "%.*s-%lld-of-%lld%s", length, output, (long long)part->index, (long long)part->count,
                     output + length);
}

/* ---- its tokens ------------------------------------------------------------------------------ */

/* First token of shard `index` of a set, or the set's end for the count. */
static int64_t first_token(const text_facts *text, const shard *part, int64_t index)
{
    const int64_t n_sequences = (text->n_tokens + text->context - 1) / text->context,
                  first = index * n_sequences / part->count * text->context;
    return first < text->n_tokens ? first : text->n_tokens;
}

static rb_status check_enough(const text_facts *text, const shard *part, capture_set set, rb_error *err)
{
    const int64_t n_sequences = (text->n_tokens + text->context - 1) / text->context;
    if (n_sequences >= part->count) return RB_OK;
    return rb_fail(err, RB_EINVAL,
                   "%lld %s tokens are %lld sequences of %lld, expected at least one for each of the %lld shards",
                   (long long)text->n_tokens, capture_set_name(set), (long long)n_sequences, (long long)text->context,
                   (long long)part->count);
}

rb_status shard_cut(shard *part, int32_t *ids, int64_t *n_ids, text_facts text[2], rb_error *err)
{
    int64_t from = 0, to = 0;
    rb_status st;
    if (!shard_is_part(part)) return RB_OK;
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        const int64_t n_all = text[set].n_tokens, first = first_token(&text[set], part, part->index),
                      n = first_token(&text[set], part, part->index + 1) - first;
        RB_TRY(st, check_enough(&text[set], part, (capture_set)set, err), done);
        RB_TRY(st, rb_sha256_bytes(part->tokens_sha256[set], ids + from, (size_t)n_all * sizeof *ids, err), done);
        memmove(ids + to, ids + from + first, (size_t)n * sizeof *ids);
        text[set].n_tokens = n;
        from += n_all;
        to += n;
    }
    *n_ids = to;
done:
    return st;
}

/* ---- what is recorded ------------------------------------------------------------------------ */

static const char *const hash_names[] = {"calibration_sha256", "test_sha256"};

rb_status shard_to_json(cJSON *options, const shard *part, rb_error *err)
{
    cJSON *item = NULL;
    rb_status st;
    if (!shard_is_part(part)) return RB_OK;
    RB_TRY(st, rb_json_new_object(&item, err), done);
    RB_TRY(st, rb_json_add_number(item, "index", (double)part->index, err), done);
    RB_TRY(st, rb_json_add_number(item, "count", (double)part->count, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        RB_TRY(st, rb_json_add_string(item, hash_names[set], part->tokens_sha256[set], err), done);
    RB_TRY(st, rb_json_add_item(options, "shard", &item, err), done);
done:
    cJSON_Delete(item);
    return st;
}

static rb_status read_hash(char hash[RB_SHA256_HEX], const cJSON *item, const char *name, const char *where,
                           rb_error *err)
{
    const char *text = NULL;
    const rb_status st = rb_json_get_string(item, name, where, &text, err);
    if (st != RB_OK) return st;
    if (strlen(text) != RB_SHA256_HEX - 1 || strspn(text, "0123456789abcdef") != RB_SHA256_HEX - 1)
        return rb_fail(err, RB_EFORMAT, "%s.%s: '%s', expected a SHA-256", where, name, text);
    memcpy(hash, text, RB_SHA256_HEX);
    return RB_OK;
}

rb_status shard_from_json(shard *out, const cJSON *options, const char *where, rb_error *err)
{
    const cJSON *item = NULL;
    rb_status st;
    *out = (shard){0};
    if (!rb_json_find(options, "shard")) return RB_OK;
    RB_TRY(st, rb_json_get_object(options, "shard", where, &item, err), done);
    RB_TRY(st, rb_json_get_int(item, "count", where, 2, SHARD_MAX, &out->count, err), done);
    RB_TRY(st, rb_json_get_int(item, "index", where, 0, out->count - 1, &out->index, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        RB_TRY(st, read_hash(out->tokens_sha256[set], item, hash_names[set], where, err), done);
done:
    return st;
}
