/* See calibrate/merge_parts.h. */
#include "calibrate/merge_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void merge_parts_free(merge_parts *parts)
{
    /* The first opened lends its threads to the others: it may stand anywhere, and closing ends no work. */
    for (int i = 0; i < parts->n; i++) {
        cJSON_Delete(parts->at[i].options);
        capture_close(parts->at[i].file);
    }
    free(parts->at);
    *parts = (merge_parts){0};
}

static const char *path_of(const merge_part *part) { return capture_file_path(part->file); }
static const capture_header *header_of(const merge_part *part) { return capture_file_header(part->file); }

static rb_status fail_pair(rb_error *err, const merge_part *a, const merge_part *b, const char *what, const char *of_a,
                           const char *of_b)
{
    return rb_fail(err, RB_EMISMATCH, "%s and %s: %s %s and %s, expected the same", path_of(a), path_of(b), what, of_a,
                   of_b);
}

static rb_status fail_numbers(rb_error *err, const merge_part *a, const merge_part *b, const char *what, double of_a,
                              double of_b)
{
    char text_a[32], text_b[32];
    snprintf(text_a, sizeof text_a, "%.15g", of_a);
    snprintf(text_b, sizeof text_b, "%.15g", of_b);
    return fail_pair(err, a, b, what, text_a, text_b);
}

/* ---- open ------------------------------------------------------------------------------------ */

static rb_status open_part(merge_part *out, const char *path, rb_error *err)
{
    char *text = NULL;
    rb_status st;
    RB_TRY(st, capture_open(&out->file, path, err), done);
    RB_TRY(st, capture_read_options(out->file, &text, err), done);
    RB_TRY(st, rb_json_parse(&out->options, text, strlen(text), "its options", err), named);
    RB_TRY(st, shard_from_json(&out->part, out->options, "its options: shard", err), named);
    cJSON_DeleteItemFromObjectCaseSensitive(out->options, "shard");
named:
    if (st != RB_OK) st = rb_fail_in(err, st, "%s", path);
done:
    free(text);
    return st;
}

/* ---- what all captures must share ------------------------------------------------------------ */

static rb_status check_texts(const merge_part *a, const merge_part *b, rb_error *err)
{
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        const text_facts *of_a = &header_of(a)->text[set], *of_b = &header_of(b)->text[set];
        if (of_a->context != of_b->context)
            return fail_numbers(err, a, b, set ? "test context" : "context", (double)of_a->context,
                                (double)of_b->context);
        if (of_a->bos.mode != of_b->bos.mode)
            return fail_pair(err, a, b, "bos", bos_mode_name(of_a->bos.mode), bos_mode_name(of_b->bos.mode));
        if (of_a->bos.tokens.n != of_b->bos.tokens.n
            || memcmp(of_a->bos.tokens.ids, of_b->bos.tokens.ids, (size_t)of_a->bos.tokens.n * sizeof(int32_t)) != 0)
            return rb_fail(err, RB_EMISMATCH, "%s and %s: different bos_ids, expected the same", path_of(a),
                           path_of(b));
    }
    return RB_OK;
}

static rb_status check_output(const merge_part *a, const merge_part *b, rb_error *err)
{
    const capture_output *of_a = &header_of(a)->output, *of_b = &header_of(b)->output;
    if (of_a->is_known != of_b->is_known) return fail_numbers(err, a, b, "has_output", of_a->is_known, of_b->is_known);
    if (of_a->has_metric != of_b->has_metric)
        return fail_numbers(err, a, b, "has_metric", of_a->has_metric, of_b->has_metric);
    if (of_a->softcap != of_b->softcap) return fail_numbers(err, a, b, "softcap", of_a->softcap, of_b->softcap);
    for (int layer = 0; layer < header_of(a)->model.n_layers; layer++)
        if (of_a->window[layer] != of_b->window[layer])
            return fail_numbers(err, a, b, "window of a layer", (double)of_a->window[layer],
                                (double)of_b->window[layer]);
    return RB_OK;
}

/* Weights without a hash may be any, so that one file with and one without do not go together. */
static rb_status check_model(const merge_part *a, const merge_part *b, rb_error *err)
{
    const model_facts *of_a = &header_of(a)->model, *of_b = &header_of(b)->model;
    const rb_status st = model_facts_same(of_a, path_of(a), of_b, path_of(b), err);
    if (st != RB_OK || (of_a->weights_sha256[0] == '\0') == (of_b->weights_sha256[0] == '\0')) return st;
    return rb_fail(err, RB_EMISMATCH, "%s has weights_sha256 and %s has not, expected all or none (--hash-weights)",
                   path_of(of_a->weights_sha256[0] ? a : b), path_of(of_a->weights_sha256[0] ? b : a));
}

static rb_status check_pair(const merge_part *a, const merge_part *b, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_model(a, b, err), done);
    if (header_of(a)->value_type != header_of(b)->value_type)
        return fail_pair(err, a, b, "dtype", header_of(a)->value_type == RB_H5_F32 ? "f32" : "f16",
                         header_of(b)->value_type == RB_H5_F32 ? "f32" : "f16");
    if (header_of(a)->has_values != header_of(b)->has_values)
        return fail_numbers(err, a, b, "has_values", header_of(a)->has_values, header_of(b)->has_values);
    RB_TRY(st, check_texts(a, b, err), done);
    st = check_output(a, b, err);
done:
    return st;
}

/* ---- shards ---------------------------------------------------------------------------------- */

/* The first option that differs. Where the model was is no difference: what it is was checked. */
static rb_status check_options(const merge_part *a, const merge_part *b, rb_error *err)
{
    const cJSON *const both[] = {a->options, b->options};
    for (int i = 0; i < 2; i++)
        for (const cJSON *item = both[i]->child; item; item = item->next) {
            const cJSON *other = rb_json_find(both[1 - i], item->string);
            if (strcmp(item->string, "model") == 0 || (other && cJSON_Compare(item, other, true))) continue;
            return rb_fail(err, RB_EMISMATCH, "%s and %s: different options %s, expected shards of one run", path_of(a),
                           path_of(b), item->string);
        }
    return RB_OK;
}

static rb_status check_shards(const merge_part *a, const merge_part *b, rb_error *err)
{
    if ((a->part.count == 0) != (b->part.count == 0))
        return rb_fail(err, RB_EMISMATCH, "%s is a shard and %s is none, expected shards of one run, or none",
                       path_of(a->part.count ? a : b), path_of(a->part.count ? b : a));
    if (a->part.count == 0) return RB_OK;
    if (a->part.count != b->part.count)
        return fail_numbers(err, a, b, "numbers of shards", (double)a->part.count, (double)b->part.count);
    const rb_status st = check_options(a, b, err);
    for (int set = 0; set < CAPTURE_N_SETS && st == RB_OK; set++)
        if (strcmp(a->part.tokens_sha256[set], b->part.tokens_sha256[set]) != 0)
            return rb_fail(err, RB_EMISMATCH,
                           "%s and %s: shards of different %s tokens (SHA-256 %.12s... and %.12s...), expected one run",
                           path_of(a), path_of(b), capture_set_name((capture_set)set), a->part.tokens_sha256[set],
                           b->part.tokens_sha256[set]);
    return st;
}

/* Adds "3" or ", 3". */
static void append_number(char *list, size_t size, int64_t number)
{
    const size_t n = strlen(list);
    snprintf(list + n, size - n, "%s%lld", n ? ", " : "", (long long)number);
}

/* Shards in the order of their numbers. */
static rb_status check_all_shards(const merge_parts *parts, rb_error *err)
{
    const int64_t count = parts->at[0].part.count;
    char missing[SHARD_MAX * 5] = "";
    for (int i = 0; i + 1 < parts->n; i++)
        if (parts->at[i].part.index == parts->at[i + 1].part.index)
            return rb_fail(err, RB_EMISMATCH, "%s and %s are both shard %lld/%lld, expected each once",
                           path_of(&parts->at[i]), path_of(&parts->at[i + 1]), (long long)parts->at[i].part.index,
                           (long long)count);
    for (int64_t index = 0, i = 0; index < count; index++) {
        if (i < parts->n && parts->at[i].part.index == index) {
            i++;
            continue;
        }
        append_number(missing, sizeof missing, index);
    }
    if (missing[0] == '\0') return RB_OK;
    return rb_fail(err, RB_EMISMATCH, "%d of the %lld shards 0 to %lld are given, missing: %s", parts->n,
                   (long long)count, (long long)count - 1, missing);
}

/* ---- order ----------------------------------------------------------------------------------- */

static bool ends_short(const capture_header *header)
{
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        if (header->text[set].n_tokens % header->text[set].context != 0) return true;
    return false;
}

static int compare_texts(const merge_part *a, const merge_part *b)
{
    const int order = strcmp(header_of(a)->text[CAPTURE_CALIBRATION].tokens_sha256,
                             header_of(b)->text[CAPTURE_CALIBRATION].tokens_sha256);
    return order
               ? order
               : strcmp(header_of(a)->text[CAPTURE_TEST].tokens_sha256, header_of(b)->text[CAPTURE_TEST].tokens_sha256);
}

static int compare_parts(const void *left, const void *right)
{
    const merge_part *a = left, *b = right;
    const int shorter = ends_short(header_of(a)) - ends_short(header_of(b));
    if (a->part.count > 0) return (a->part.index > b->part.index) - (a->part.index < b->part.index);
    return shorter ? shorter : compare_texts(a, b);
}

static rb_status check_no_text_twice(const merge_parts *parts, rb_error *err)
{
    for (int i = 0; i < parts->n; i++)
        for (int j = i + 1; j < parts->n; j++)
            if (strcmp(header_of(&parts->at[i])->text[CAPTURE_CALIBRATION].tokens_sha256,
                       header_of(&parts->at[j])->text[CAPTURE_CALIBRATION].tokens_sha256)
                == 0)
                return rb_fail(err, RB_EMISMATCH, "%s and %s have the same calibration tokens, expected each text once",
                               path_of(&parts->at[i]), path_of(&parts->at[j]));
    return RB_OK;
}

/* ---- all of it ------------------------------------------------------------------------------- */

rb_status merge_parts_open(merge_parts *out, const rb_string_list *paths, rb_error *err)
{
    rb_status st;
    *out = (merge_parts){0};
    RB_TRY(st, rb_alloc(&out->at, (size_t)paths->n, sizeof *out->at, "captures", err), done);
    for (int i = 0; i < paths->n; i++) {
        out->n++;
        RB_TRY(st, open_part(&out->at[i], paths->at[i], err), done);
        capture_share_threads(out->at[i].file, out->at[0].file);
        RB_TRY(st, check_pair(&out->at[0], &out->at[i], err), done);
        RB_TRY(st, check_shards(&out->at[0], &out->at[i], err), done);
    }
    out->are_shards = out->at[0].part.count > 0;
    qsort(out->at, (size_t)out->n, sizeof *out->at, compare_parts);
    st = out->are_shards ? check_all_shards(out, err) : check_no_text_twice(out, err);
done:
    return st;
}
