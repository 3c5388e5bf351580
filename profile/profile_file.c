/* profile.h5: see profile/profile_file.h and docs/profile-h5.md.
 *
 * The tables are small; they are zstd chunks all the same, because a chunk has a checksum and a contiguous table has
 * none: a damaged energy would become a plan that looks like any other. The reader checks the shape of every table
 * before it allocates by the model's sizes. */
#include "profile/profile_file.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/hdf5/hdf5_file.h"
#include "core/plain_name.h"
#include "plan/bit_plan.h"
#include "profile/output_sensitivity_file.h"
#include "profile/token_statistics_file.h"

enum { ZSTD_LEVEL = 1, MAX_PATH = 64 };
static const double max_avg_bits = 16.0; /* fp16 keys: beyond that is no budget */

/* ---- layout ---------------------------------------------------------------------------------- */

/* Datasets of a method, one f64 a head. */
static const struct {
    const char *name;
    size_t offset;
} score_fields[] = {
    {"logit_mae", offsetof(head_score, logit_mae)},
    {"causal_mae", offsetof(head_score, causal_mae)},
    {"attention_kl", offsetof(head_score, attention_kl)},
    {"relative_error", offsetof(head_score, relative_error)},
    {"true_bits", offsetof(head_score, true_bits)},
    {"attended_mae", offsetof(head_score, attended_mae)},
    {"token_error_median", offsetof(head_score, tail.median)},
    {"token_error_p99", offsetof(head_score, tail.p99)},
    {"token_error_p999", offsetof(head_score, tail.p999)},
    {"token_error_max", offsetof(head_score, tail.largest)},
    {"tail_ratio", offsetof(head_score, tail.ratio)},
    {"outside_share", offsetof(head_score, tail.outside)},
};

/* Datasets of /coverage, likewise. */
static const struct {
    const char *path;
    size_t offset;
} coverage_fields[] = {
    {"/coverage/key_distance", offsetof(head_coverage, key_distance)},
    {"/coverage/key_outside", offsetof(head_coverage, key_outside)},
    {"/coverage/query_shift", offsetof(head_coverage, query_shift)},
    {"/coverage/plan_transfer", offsetof(head_coverage, plan_transfer)},
};

#define SINKS   "/sinks"
#define COUNTED "/counted"
/* Tables of SINKS. */
static const struct {
    const char *path;
    size_t offset;
    bool is_of_values;
} sink_tables[] = {
    {SINKS "/attention", offsetof(sink_evidence, attention), false},
    {SINKS "/key_norm", offsetof(sink_evidence, key_norm), false},
    {SINKS "/distance", offsetof(sink_evidence, distance), false},
    {SINKS "/value_norm", offsetof(sink_evidence, value_norm), true},
    {SINKS "/harm", offsetof(sink_evidence, harm), false},
};

static double *const *sink_table(const sink_evidence *sinks, size_t i)
{
    return (double *const *)((const char *)sinks + sink_tables[i].offset);
}
static double *score_field(head_score *score, size_t field)
{
    return (double *)((char *)score + score_fields[field].offset);
}
static double *coverage_field(head_coverage *coverage, size_t field)
{
    return (double *)((char *)coverage + coverage_fields[field].offset);
}

static int64_t head_count(const model_facts *model) { return (int64_t)model->n_layers * model->n_kv_heads; }

/* Every table is [layer][kv head] and up to two dims more. */
typedef struct table_shape {
    int rank;
    int64_t dims[RB_H5_MAX_RANK];
} table_shape;

static table_shape score_shape(const model_facts *model)
{
    return (table_shape){2, {model->n_layers, model->n_kv_heads}};
}
static table_shape curve_mae_shape(const model_facts *model)
{
    return (table_shape){3, {model->n_layers, model->n_kv_heads, PROFILE_MAX_WIDTH}};
}
static table_shape curve_mse_shape(const model_facts *model)
{
    return (table_shape){4, {model->n_layers, model->n_kv_heads, PROFILE_MAX_WIDTH, model_n_blocks(model)}};
}

static table_shape sink_shape(const model_facts *model)
{
    return (table_shape){3, {model->n_layers, model->n_kv_heads, SINK_BINS}};
}

static int64_t shape_size(const table_shape *shape)
{
    int64_t n = 1;
    for (int i = 0; i < shape->rank; i++) n *= shape->dims[i];
    return n;
}

typedef struct method_path {
    char text[MAX_PATH];
} method_path;

/* "/methods/003", "/methods/003/logit_mae". */
static method_path path_of_method(int index)
{
    method_path path;
    snprintf(path.text, sizeof path.text, "/methods/%03d", index);
    return path;
}

static method_path path_of_score(int index, size_t field)
{
    method_path path;
    snprintf(path.text, sizeof path.text, "/methods/%03d/%s", index, score_fields[field].name);
    return path;
}

/* ---- writing --------------------------------------------------------------------------------- */

static rb_status write_table(hid_t file, const char *path, table_shape shape, const double *values, rb_error *err)
{
    return rb_h5_write(file, path, RB_H5_F64, shape.rank, shape.dims, values, ZSTD_LEVEL, err);
}

static rb_status write_text(hid_t file, const char *group, const text_facts *text, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_h5_make_group(file, group, err), done);
    RB_TRY(st, rb_h5_set_string(file, group, "tokens_sha256", text->tokens_sha256, err), done);
    RB_TRY(st, rb_h5_set_int(file, group, "n_tokens", text->n_tokens, err), done);
    RB_TRY(st, rb_h5_set_int(file, group, "context", text->context, err), done);
    RB_TRY(st, text_bos_write_h5(file, group, &text->bos, err), done);
done:
    return st;
}

static rb_status write_method(hid_t file, int index, const method_score *method, const model_facts *model,
                              rb_error *err)
{
    const method_path group = path_of_method(index);
    const int64_t n_heads = head_count(model);
    double *column = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&column, (size_t)n_heads, sizeof *column, "scores", err), done);
    RB_TRY(st, rb_h5_make_group(file, group.text, err), done);
    RB_TRY(st, rb_h5_set_string(file, group.text, "method", method->method, err), done);
    RB_TRY(st, rb_h5_set_number(file, group.text, "avg_bits", method->avg_bits, err), done);
    RB_TRY(st, rb_h5_set_int(file, group.text, "n_sink", method->n_sink, err), done);
    for (size_t field = 0; field < RB_COUNT(score_fields); field++) {
        for (int64_t h = 0; h < n_heads; h++) column[h] = *score_field(&method->heads[h], field);
        RB_TRY(st, write_table(file, path_of_score(index, field).text, score_shape(model), column, err), done);
    }
done:
    free(column);
    return st;
}

static rb_status write_coverage(hid_t file, const profile_table *table, rb_error *err)
{
    const int64_t n_heads = head_count(&table->model);
    double *column = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&column, (size_t)n_heads, sizeof *column, "coverage", err), done);
    RB_TRY(st, rb_h5_make_group(file, "/coverage", err), done);
    for (size_t field = 0; field < RB_COUNT(coverage_fields); field++) {
        for (int64_t h = 0; h < n_heads; h++) column[h] = *coverage_field(&table->coverage[h], field);
        RB_TRY(st, write_table(file, coverage_fields[field].path, score_shape(&table->model), column, err), done);
    }
done:
    free(column);
    return st;
}

/* Why so many first tokens are exact, and what is known of the others. */
static rb_status write_sinks(hid_t file, const profile_table *table, rb_error *err)
{
    const sink_evidence *sinks = &table->sinks;
    rb_status st;
    if (sinks->n_heads == 0) return RB_OK;
    RB_TRY(st, rb_h5_make_group(file, SINKS, err), done);
    RB_TRY(st, rb_h5_set_int(file, SINKS, "n_sink", table->n_sink, err), done);
    RB_TRY(st, rb_h5_set_int(file, SINKS, "context", sinks->context, err), done);
    for (size_t i = 0; i < RB_COUNT(sink_tables); i++)
        if (*sink_table(sinks, i))
            RB_TRY(st, write_table(file, sink_tables[i].path, sink_shape(&table->model), *sink_table(sinks, i), err),
                   done);
    if (table->n_sink > 0) {
        RB_TRY(st, rb_h5_make_group(file, COUNTED, err), done);
        RB_TRY(st, token_statistics_write(file, COUNTED, &table->counted, &table->model, err), done);
    }
done:
    return st;
}

static rb_status write_tables(hid_t file, const profile_table *table, rb_error *err)
{
    const model_facts *model = &table->model;
    rb_status st;
    RB_TRY(st, token_statistics_write(file, "", &table->all, model, err), done);
    RB_TRY(st, write_sinks(file, table, err), done);
    RB_TRY(st, output_sensitivity_write(file, &table->sensitivity, model, err), done);
    if (table->curve_logit_mae) {
        RB_TRY(st, rb_h5_make_group(file, "/curves", err), done);
        RB_TRY(st, write_table(file, "/curves/logit_mae", curve_mae_shape(model), table->curve_logit_mae, err), done);
        RB_TRY(st, write_table(file, "/curves/block_mse", curve_mse_shape(model), table->curve_block_mse, err), done);
    }
    RB_TRY(st, write_coverage(file, table, err), done);
    RB_TRY(st, rb_h5_make_group(file, "/methods", err), done);
    for (int m = 0; m < table->n_methods; m++) RB_TRY(st, write_method(file, m, &table->methods[m], model, err), done);
done:
    return st;
}

rb_status profile_file_write(const profile_table *table, const char *path, const char *options_json, rb_error *err)
{
    rb_h5_file file = {0};
    rb_status st;
    RB_TRY(st, rb_h5_create(&file, path, err), done);
    RB_TRY(st, rb_h5_set_schema(file.id, PROFILE_SCHEMA, PROFILE_VERSION, err), done);
    RB_TRY(st, model_facts_write_h5(file.id, &table->model, err), done);
    RB_TRY(st, rb_h5_set_string(file.id, "/", "capture_sha256", table->capture_sha256, err), done);
    RB_TRY(st, rb_h5_set_string(file.id, "/", "options", options_json, err), done);
    RB_TRY(st, rb_h5_set_int(file.id, "/", "n_methods", table->n_methods, err), done);
    RB_TRY(st, rb_h5_set_int(file.id, "/", "has_curves", table->curve_logit_mae != NULL, err), done);
    RB_TRY(st, write_text(file.id, "/calibration", &table->calibration, err), done);
    RB_TRY(st, write_text(file.id, "/test", &table->test, err), done);
    RB_TRY(st, write_tables(file.id, table, err), done);
    RB_TRY(st, rb_h5_publish(&file, err), done);
done:
    rb_h5_close(&file);
    return st;
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct profile_source {
    const rb_h5_contents *file;
    const char *path; /* the file's, for messages */
} profile_source;

static rb_status read_sha256(char hex[RB_SHA256_HEX], const profile_source *source, const char *group, const char *name,
                             rb_error *err)
{
    const rb_status st = rb_h5_get_string(source->file, group, name, hex, RB_SHA256_HEX, err);
    if (st != RB_OK || strspn(hex, "0123456789abcdef") == RB_SHA256_HEX - 1) return st;
    return rb_fail(err, RB_EFORMAT, "%s: %s: attribute %s is \"%s\", expected 64 hex digits", source->path, group, name,
                   hex);
}

static rb_status read_text(text_facts *text, const profile_source *source, const char *group, rb_error *err)
{
    rb_status st;
    RB_TRY(st, read_sha256(text->tokens_sha256, source, group, "tokens_sha256", err), done);
    RB_TRY(st, rb_h5_get_int(source->file, group, "n_tokens", 1, INT64_MAX, &text->n_tokens, err), done);
    RB_TRY(st, rb_h5_get_int(source->file, group, "context", 1, INT64_MAX, &text->context, err), done);
    RB_TRY(st, text_bos_read_h5(&text->bos, source->file, group, err), done);
done:
    return st;
}

static rb_status check_table(const profile_source *source, const char *path, table_shape shape, rb_error *err)
{
    return rb_h5_check_dataset(source->file, path, RB_H5_F64, shape.rank, shape.dims, err);
}

/* All tables are there with the model's shape. */
static rb_status check_tables(const profile_source *source, const model_facts *model, int n_methods, bool has_curves,
                              bool has_values, rb_error *err)
{
    rb_status st;
    RB_TRY(st, token_statistics_check(source->file, "", model, has_values, err), done);
    if (has_curves) {
        RB_TRY(st, check_table(source, "/curves/logit_mae", curve_mae_shape(model), err), done);
        RB_TRY(st, check_table(source, "/curves/block_mse", curve_mse_shape(model), err), done);
    }
    for (size_t field = 0; field < RB_COUNT(coverage_fields); field++)
        RB_TRY(st, check_table(source, coverage_fields[field].path, score_shape(model), err), done);
    for (int m = 0; m < n_methods; m++)
        for (size_t field = 0; field < RB_COUNT(score_fields); field++)
            RB_TRY(st, check_table(source, path_of_score(m, field).text, score_shape(model), err), done);
done:
    return st;
}

/* Finite, says rb_h5_read. */
static rb_status read_signed_table(double *out, const profile_source *source, const char *path, table_shape shape,
                                   rb_error *err)
{
    return rb_h5_read(source->file, path, RB_H5_F64, shape.rank, shape.dims, out, err);
}

/* Energies, errors and bits: none is negative. */
static rb_status read_table(double *out, const profile_source *source, const char *path, table_shape shape,
                            rb_error *err)
{
    const rb_status st = read_signed_table(out, source, path, shape, err);
    if (st != RB_OK) return st;
    for (int64_t i = 0; i < shape_size(&shape); i++)
        if (out[i] < 0.0)
            return rb_fail(err, RB_EFORMAT, "%s: %s: entry %lld is %g, expected a number from 0", source->path, path,
                           (long long)i, out[i]);
    return RB_OK;
}

static rb_status read_method(method_score *method, const profile_source *source, int index, const model_facts *model,
                             rb_error *err)
{
    const method_path group = path_of_method(index);
    const int64_t n_heads = head_count(model);
    double *column = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&column, (size_t)n_heads, sizeof *column, "scores", err), done);
    RB_TRY(st, rb_h5_get_string(source->file, group.text, "method", method->method, sizeof method->method, err), done);
    RB_TRY(st, rb_check_plain_name(method->method, "method", source->path, err), done);
    RB_TRY(st, rb_h5_get_number(source->file, group.text, "avg_bits", &method->avg_bits, err), done);
    if (rb_h5_has_attribute(source->file, group.text, "n_sink")) /* files of before have none */
        RB_TRY(st, rb_h5_get_int(source->file, group.text, "n_sink", 0, PLAN_MAX_EXACT, &method->n_sink, err), done);
    if (method->avg_bits < 0.0 || method->avg_bits > max_avg_bits) {
        st = rb_fail(err, RB_EFORMAT, "%s: %s: attribute avg_bits is %g, expected 0 to %g", source->path, group.text,
                     method->avg_bits, max_avg_bits);
        goto done;
    }
    for (size_t field = 0; field < RB_COUNT(score_fields); field++) {
        RB_TRY(st, read_table(column, source, path_of_score(index, field).text, score_shape(model), err), done);
        for (int64_t h = 0; h < n_heads; h++) *score_field(&method->heads[h], field) = column[h];
    }
done:
    free(column);
    return st;
}

static rb_status read_coverage(profile_table *table, const profile_source *source, rb_error *err)
{
    const int64_t n_heads = head_count(&table->model);
    double *column = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&column, (size_t)n_heads, sizeof *column, "coverage", err), done);
    for (size_t field = 0; field < RB_COUNT(coverage_fields); field++) {
        RB_TRY(st, read_table(column, source, coverage_fields[field].path, score_shape(&table->model), err), done);
        for (int64_t h = 0; h < n_heads; h++) *coverage_field(&table->coverage[h], field) = column[h];
    }
done:
    free(column);
    return st;
}

static rb_status read_curves(profile_table *table, const profile_source *source, rb_error *err)
{
    rb_status st;
    RB_TRY(st, profile_table_add_curves(table, err), done);
    RB_TRY(st, read_table(table->curve_logit_mae, source, "/curves/logit_mae", curve_mae_shape(&table->model), err),
           done);
    RB_TRY(st, read_table(table->curve_block_mse, source, "/curves/block_mse", curve_mse_shape(&table->model), err),
           done);
done:
    return st;
}

/* Files of before have none: then n_sink is 0. */
static rb_status read_sinks(profile_table *table, const profile_source *source, bool has_values, rb_error *err)
{
    sink_evidence *sinks = &table->sinks;
    int64_t n_sink;
    rb_status st;
    if (!rb_h5_exists(source->file, SINKS)) return RB_OK;
    RB_TRY(st, rb_h5_get_int(source->file, SINKS, "n_sink", 0, PLAN_MAX_EXACT, &n_sink, err), done);
    for (size_t i = 0; i < RB_COUNT(sink_tables); i++)
        if (has_values || !sink_tables[i].is_of_values)
            RB_TRY(st, check_table(source, sink_tables[i].path, sink_shape(&table->model), err), done);
    if (n_sink > 0) RB_TRY(st, token_statistics_check(source->file, COUNTED, &table->model, has_values, err), done);
    RB_TRY(st, profile_table_add_sinks(table, err), done);
    RB_TRY(st, rb_h5_get_int(source->file, SINKS, "context", 1, INT64_MAX, &sinks->context, err), done);
    for (size_t i = 0; i < RB_COUNT(sink_tables); i++)
        if (has_values || !sink_tables[i].is_of_values)
            RB_TRY(st, read_table(*sink_table(sinks, i), source, sink_tables[i].path, sink_shape(&table->model), err),
                   done);
    if (n_sink == 0) goto done;
    RB_TRY(st, profile_table_add_counted(table, n_sink, err), done);
    st = token_statistics_read(&table->counted, source->file, source->path, COUNTED, &table->model, err);
done:
    return st;
}

static rb_status read_all(profile_table **out, const profile_source *source, rb_error *err)
{
    profile_table *table = NULL;
    model_facts model;
    int64_t n_methods = 0, has_curves = 0;
    rb_status st;
    RB_TRY(st, rb_h5_check_schema(source->file, source->path, PROFILE_SCHEMA, PROFILE_VERSION, err), done);
    RB_TRY(st, model_facts_read_h5(&model, source->file, source->path, err), done);
    RB_TRY(st, rb_h5_get_int(source->file, "/", "n_methods", 0, PROFILE_MAX_METHODS, &n_methods, err), done);
    RB_TRY(st, rb_h5_get_int(source->file, "/", "has_curves", 0, 1, &has_curves, err), done);
    /* If one of the two is there, both must be: a single one is damage. */
    const bool has_values = rb_h5_exists(source->file, "/value_error") || rb_h5_exists(source->file, "/value_energy");
    RB_TRY(st, check_tables(source, &model, (int)n_methods, has_curves == 1, has_values, err), done);
    RB_TRY(st, profile_table_create(&table, &model, err), done);
    RB_TRY(st, profile_table_add_methods(table, (int)n_methods, err), done);
    RB_TRY(st, read_sha256(table->capture_sha256, source, "/", "capture_sha256", err), done);
    RB_TRY(st, read_text(&table->calibration, source, "/calibration", err), done);
    RB_TRY(st, read_text(&table->test, source, "/test", err), done);
    if (has_values) RB_TRY(st, profile_table_add_values(table, err), done);
    RB_TRY(st, token_statistics_read(&table->all, source->file, source->path, "", &model, err), done);
    RB_TRY(st, read_sinks(table, source, has_values, err), done);
    RB_TRY(st, output_sensitivity_read(&table->sensitivity, source->file, source->path, &model, err), done);
    if (has_curves) RB_TRY(st, read_curves(table, source, err), done);
    RB_TRY(st, read_coverage(table, source, err), done);
    for (int m = 0; m < table->n_methods; m++)
        RB_TRY(st, read_method(&table->methods[m], source, m, &model, err), done);
    *out = table;
    table = NULL;
done:
    profile_table_free(table);
    return st;
}

rb_status profile_file_read(profile_table **out, const char *path, rb_error *err)
{
    rb_h5_file file = {0};
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_h5_open(&file, path, err), done);
    const profile_source source = {file.contents, path};
    RB_TRY(st, read_all(out, &source, err), done);
done:
    rb_h5_close(&file);
    return st;
}
