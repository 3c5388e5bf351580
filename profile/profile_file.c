/* profile.h5: see profile/profile_file.h and docs/profile-h5.md. */
#include "profile/profile_file.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/hdf5_file.h"


/* Datasets of a method, one f64 a head. */
static const struct {
    const char *name;
    size_t offset;
} score_fields[] = {
    {"logit_mae", offsetof(head_score, logit_mae)},           {"causal_mae", offsetof(head_score, causal_mae)},
    {"attention_kl", offsetof(head_score, attention_kl)},     {"relative_error", offsetof(head_score, relative_error)},
    {"true_bits", offsetof(head_score, true_bits)},
};

static double *score_field(head_score *score, size_t field) { return (double *)((char *)score + score_fields[field].offset); }

static int64_t head_count(const model_facts *model) { return (int64_t)model->n_layers * model->n_kv_heads; }

/* ---- writing ------------------------------------------------------------------------------------------------------------------- */

static rb_status write_text(hid_t file, const char *group, const text_facts *text, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_h5_make_group(file, group, err), done);
    RB_TRY(st, rb_h5_set_string(file, group, "tokens_sha256", text->tokens_sha256, err), done);
    RB_TRY(st, rb_h5_set_int(file, group, "n_tokens", text->n_tokens, err), done);
    RB_TRY(st, rb_h5_set_int(file, group, "context", text->context, err), done);
done:
    return st;
}

static rb_status write_method(hid_t file, int index, method_score *method, const model_facts *model, rb_error *err)
{
    const int64_t dims[] = {model->n_layers, model->n_kv_heads}, n_heads = head_count(model);
    char group[32], path[64];
    double *column = NULL;
    rb_status st;
    snprintf(group, sizeof group, "/methods/%03d", index);
    RB_TRY(st, rb_alloc(&column, (size_t)n_heads, sizeof *column, "scores", err), done);
    RB_TRY(st, rb_h5_make_group(file, group, err), done);
    RB_TRY(st, rb_h5_set_string(file, group, "method", method->method, err), done);
    RB_TRY(st, rb_h5_set_number(file, group, "avg_bits", method->avg_bits, err), done);
    for (size_t field = 0; field < RB_COUNT(score_fields); field++) {
        for (int64_t h = 0; h < n_heads; h++) column[h] = *score_field(&method->heads[h], field);
        snprintf(path, sizeof path, "%s/%s", group, score_fields[field].name);
        RB_TRY(st, rb_h5_write(file, path, RB_H5_F64, 2, dims, column, 0, err), done);
    }
done:
    free(column);
    return st;
}

static rb_status write_tables(hid_t file, const profile_table *table, rb_error *err)
{
    const model_facts *model = &table->model;
    const int64_t energy_dims[] = {model->n_layers, model->n_kv_heads, table->n_blocks};
    const int64_t mae_dims[] = {model->n_layers, model->n_kv_heads, PROFILE_MAX_WIDTH};
    const int64_t mse_dims[] = {model->n_layers, model->n_kv_heads, PROFILE_MAX_WIDTH, table->n_blocks};
    rb_status st;
    RB_TRY(st, rb_h5_write(file, "/q_energy", RB_H5_F64, 3, energy_dims, table->q_energy, 0, err), done);
    RB_TRY(st, rb_h5_write(file, "/k_energy", RB_H5_F64, 3, energy_dims, table->k_energy, 0, err), done);
    if (table->curve_logit_mae) {
        RB_TRY(st, rb_h5_make_group(file, "/curves", err), done);
        RB_TRY(st, rb_h5_write(file, "/curves/logit_mae", RB_H5_F64, 3, mae_dims, table->curve_logit_mae, 0, err), done);
        RB_TRY(st, rb_h5_write(file, "/curves/block_mse", RB_H5_F64, 4, mse_dims, table->curve_block_mse, 0, err), done);
    }
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
    RB_TRY(st, write_text(file.id, "/calibration", &table->calibration, err), done);
    RB_TRY(st, write_text(file.id, "/test", &table->test, err), done);
    RB_TRY(st, write_tables(file.id, table, err), done);
    RB_TRY(st, rb_h5_publish(&file, err), done);
done:
    rb_h5_close(&file);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------------- */

static rb_status read_text(text_facts *text, hid_t file, const char *group, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_h5_get_string(file, group, "tokens_sha256", text->tokens_sha256, sizeof text->tokens_sha256, err), done);
    RB_TRY(st, rb_h5_get_int(file, group, "n_tokens", 1, INT64_MAX, &text->n_tokens, err), done);
    RB_TRY(st, rb_h5_get_int(file, group, "context", 1, INT64_MAX, &text->context, err), done);
done:
    return st;
}

static rb_status check_not_negative(const double *values, int64_t n, const char *path, rb_error *err)
{
    for (int64_t i = 0; i < n; i++)
        if (values[i] < 0.0) return rb_fail(err, RB_EFORMAT, "%s: entry %lld is %g, expected a number from 0", path, (long long)i, values[i]);
    return RB_OK;
}

/* Energies, errors and bits: none may be negative. */
static rb_status read_numbers(double *out, hid_t file, const char *path, int rank, const int64_t *shape, rb_error *err)
{
    int64_t dims[RB_H5_MAX_RANK], n = 1;
    for (int i = 0; i < rank; i++) {
        dims[i] = shape[i];
        n *= shape[i];
    }
    rb_status st = rb_h5_read(file, path, RB_H5_F64, rank, dims, out, err);
    return st == RB_OK ? check_not_negative(out, n, path, err) : st;
}

static rb_status read_method(method_score *method, hid_t file, int index, const model_facts *model, rb_error *err)
{
    const int64_t dims[] = {model->n_layers, model->n_kv_heads}, n_heads = head_count(model);
    char group[32], path[64];
    double *column = NULL;
    rb_status st;
    snprintf(group, sizeof group, "/methods/%03d", index);
    RB_TRY(st, rb_alloc(&column, (size_t)n_heads, sizeof *column, "scores", err), done);
    RB_TRY(st, rb_h5_get_string(file, group, "method", method->method, sizeof method->method, err), done);
    RB_TRY(st, rb_h5_get_number(file, group, "avg_bits", &method->avg_bits, err), done);
    for (size_t field = 0; field < RB_COUNT(score_fields); field++) {
        snprintf(path, sizeof path, "%s/%s", group, score_fields[field].name);
        RB_TRY(st, read_numbers(column, file, path, 2, dims, err), done);
        for (int64_t h = 0; h < n_heads; h++) *score_field(&method->heads[h], field) = column[h];
    }
done:
    free(column);
    return st;
}

static rb_status read_curves(profile_table *table, hid_t file, rb_error *err)
{
    const model_facts *model = &table->model;
    const int64_t mae_dims[] = {model->n_layers, model->n_kv_heads, PROFILE_MAX_WIDTH};
    const int64_t mse_dims[] = {model->n_layers, model->n_kv_heads, PROFILE_MAX_WIDTH, table->n_blocks};
    const size_t n = (size_t)head_count(model) * PROFILE_MAX_WIDTH;
    rb_status st;
    RB_TRY(st, rb_alloc(&table->curve_logit_mae, n, sizeof(double), "error curves", err), done);
    RB_TRY(st, rb_alloc(&table->curve_block_mse, n * (size_t)table->n_blocks, sizeof(double), "error curves", err), done);
    RB_TRY(st, read_numbers(table->curve_logit_mae, file, "/curves/logit_mae", 3, mae_dims, err), done);
    RB_TRY(st, read_numbers(table->curve_block_mse, file, "/curves/block_mse", 4, mse_dims, err), done);
done:
    return st;
}

static rb_status read_all(profile_table **out, hid_t file, const char *path, rb_error *err)
{
    profile_table *table = NULL;
    model_facts model;
    int64_t n_methods = 0;
    rb_status st;
    RB_TRY(st, rb_h5_check_schema(file, path, PROFILE_SCHEMA, PROFILE_VERSION, err), done);
    RB_TRY(st, model_facts_read_h5(&model, file, path, err), done);
    RB_TRY(st, rb_h5_get_int(file, "/", "n_methods", 0, PROFILE_MAX_METHODS, &n_methods, err), done);
    RB_TRY(st, profile_table_create(&table, &model, (int)n_methods, err), done);
    const int64_t energy_dims[] = {model.n_layers, model.n_kv_heads, table->n_blocks};
    RB_TRY(st, rb_h5_get_string(file, "/", "capture_sha256", table->capture_sha256, sizeof table->capture_sha256, err), done);
    RB_TRY(st, read_text(&table->calibration, file, "/calibration", err), done);
    RB_TRY(st, read_text(&table->test, file, "/test", err), done);
    RB_TRY(st, read_numbers(table->q_energy, file, "/q_energy", 3, energy_dims, err), done);
    RB_TRY(st, read_numbers(table->k_energy, file, "/k_energy", 3, energy_dims, err), done);
    if (rb_h5_exists(file, "/curves")) RB_TRY(st, read_curves(table, file, err), done);
    for (int m = 0; m < table->n_methods; m++) RB_TRY(st, read_method(&table->methods[m], file, m, &model, err), done);
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
    st = read_all(out, file.id, path, err);
    if (st != RB_OK && !strstr(err->msg, path)) rb_fail_in(err, st, "%s", path);
done:
    rb_h5_close(&file);
    return st;
}
