/* See profile/output_sensitivity_file.h. */
#include "profile/output_sensitivity_file.h"

#include <stddef.h>

#define GROUP           "/sensitivity"
#define RESIDUAL_ENERGY GROUP "/residual_energy"
enum { ZSTD_LEVEL = 1 };

static const struct {
    const char *path;
    size_t offset; /* of a float * */
    bool is_of_values;
} tables[] = {
    {GROUP "/key_metric", offsetof(output_sensitivity, key_metric), false},
    {GROUP "/key_covariance", offsetof(output_sensitivity, key_covariance), false},
    {GROUP "/value_metric", offsetof(output_sensitivity, value_metric), true},
    {GROUP "/value_moment", offsetof(output_sensitivity, value_moment), true},
    {GROUP "/value_moment_weighted", offsetof(output_sensitivity, value_moment_weighted), true},
};

static float *table_at(const output_sensitivity *sensitivity, size_t i)
{
    return *(float *const *)((const char *)sensitivity + tables[i].offset);
}

static int table_dim(size_t i, const model_facts *model)
{
    return tables[i].is_of_values ? model->value_dim : model->head_dim;
}

static void table_dims(int64_t dims[4], size_t i, const model_facts *model)
{
    dims[0] = model->n_layers;
    dims[1] = model->n_kv_heads;
    dims[2] = dims[3] = table_dim(i, model);
}

rb_status output_sensitivity_write(hid_t file, const output_sensitivity *s, const model_facts *model, rb_error *err)
{
    int64_t dims[4];
    rb_status st;
    if (!s->key_metric) return RB_OK;
    RB_TRY(st, rb_h5_set_int(file, "/", "has_sensitivity", 1, err), done);
    RB_TRY(st, rb_h5_make_group(file, GROUP, err), done);
    RB_TRY(st, rb_h5_set_int(file, GROUP, "n_tokens", s->n_tokens, err), done);
    RB_TRY(st, rb_h5_set_int(file, GROUP, "n_draws", s->n_draws, err), done);
    RB_TRY(st, rb_h5_set_int(file, GROUP, "seed", s->seed, err), done);
    RB_TRY(st, rb_h5_set_int(file, GROUP, "has_output_metric", s->has_output_metric, err), done);
    RB_TRY(st, rb_h5_set_int(file, GROUP, "has_residual_energy", s->residual_energy != NULL, err), done);
    for (size_t i = 0; i < RB_COUNT(tables); i++) {
        table_dims(dims, i, model);
        RB_TRY(st, rb_h5_write(file, tables[i].path, RB_H5_F32, 4, dims, table_at(s, i), ZSTD_LEVEL, err), done);
    }
    if (s->residual_energy)
        st = rb_h5_write(file, RESIDUAL_ENERGY, RB_H5_F64, 1, dims, s->residual_energy, ZSTD_LEVEL, err);
done:
    return st;
}

static rb_status check_tables(const rb_h5_contents *file, const model_facts *model, bool has_residual, rb_error *err)
{
    int64_t dims[4];
    rb_status st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(tables) && st == RB_OK; i++) {
        table_dims(dims, i, model);
        st = rb_h5_check_dataset(file, tables[i].path, RB_H5_F32, 4, dims, err);
    }
    return st == RB_OK && has_residual ? rb_h5_check_dataset(file, RESIDUAL_ENERGY, RB_H5_F64, 1, dims, err) : st;
}

static rb_status check_matrix(const float *x, int dim, const char *path, size_t table, int64_t head, rb_error *err)
{
    for (int64_t i = 0; i < dim; i++) {
        if (x[i * dim + i] < 0.0f)
            return rb_fail(err, RB_EFORMAT, "%s: %s: head %lld: diagonal entry %lld is %g, expected a number from 0",
                           path, tables[table].path, (long long)head, (long long)i, (double)x[i * dim + i]);
        for (int64_t j = 0; j < i; j++)
            if (x[i * dim + j] != x[j * dim + i])
                return rb_fail(err, RB_EFORMAT,
                               "%s: %s: head %lld: entry (%lld, %lld) is %g, expected %g as at (%lld, %lld)", path,
                               tables[table].path, (long long)head, (long long)i, (long long)j, (double)x[i * dim + j],
                               (double)x[j * dim + i], (long long)j, (long long)i);
    }
    return RB_OK;
}

static rb_status read_table(const output_sensitivity *out, size_t i, const rb_h5_contents *file, const char *path,
                            const model_facts *model, rb_error *err)
{
    const int dim = table_dim(i, model);
    int64_t dims[4];
    table_dims(dims, i, model);
    rb_status st = rb_h5_read(file, tables[i].path, RB_H5_F32, 4, dims, table_at(out, i), err);
    for (int64_t head = 0; head < dims[0] * dims[1] && st == RB_OK; head++)
        st = check_matrix(table_at(out, i) + head * dim * dim, dim, path, i, head, err);
    return st;
}

static rb_status read_residual(const output_sensitivity *out, const rb_h5_contents *file, const char *path,
                               const model_facts *model, rb_error *err)
{
    int64_t dims[] = {model->n_layers};
    const rb_status st = rb_h5_read(file, RESIDUAL_ENERGY, RB_H5_F64, 1, dims, out->residual_energy, err);
    for (int64_t i = 0; i < dims[0] && st == RB_OK; i++)
        if (out->residual_energy[i] < 0.0)
            return rb_fail(err, RB_EFORMAT, "%s: %s: layer %lld has %g, expected a number from 0", path,
                           RESIDUAL_ENERGY, (long long)i, out->residual_energy[i]);
    return st;
}

rb_status output_sensitivity_read(output_sensitivity *out, const rb_h5_contents *file, const char *path,
                                  const model_facts *model, rb_error *err)
{
    int64_t has_sensitivity, has_metric, has_residual, n_draws, n_tokens, seed;
    rb_status st;
    /* If one of the two is there, both must be: a single one is damage. */
    if (!rb_h5_has_attribute(file, "/", "has_sensitivity") && !rb_h5_exists(file, GROUP)) return RB_OK;
    RB_TRY(st, rb_h5_get_int(file, "/", "has_sensitivity", 1, 1, &has_sensitivity, err), done);
    RB_TRY(st, rb_h5_get_int(file, GROUP, "n_tokens", 1, INT64_MAX, &n_tokens, err), done);
    RB_TRY(st, rb_h5_get_int(file, GROUP, "n_draws", 1, SENSITIVITY_MAX_DRAWS, &n_draws, err), done);
    RB_TRY(st, rb_h5_get_int(file, GROUP, "seed", 0, INT64_MAX, &seed, err), done);
    RB_TRY(st, rb_h5_get_int(file, GROUP, "has_output_metric", 0, 1, &has_metric, err), done);
    RB_TRY(st, rb_h5_get_int(file, GROUP, "has_residual_energy", 0, 1, &has_residual, err), done);
    RB_TRY(st, check_tables(file, model, has_residual == 1, err), done);
    RB_TRY(st, output_sensitivity_create(out, model, has_residual == 1, err), done);
    out->n_tokens = n_tokens;
    out->n_draws = (int)n_draws;
    out->seed = seed;
    out->has_output_metric = has_metric == 1;
    for (size_t i = 0; i < RB_COUNT(tables); i++) RB_TRY(st, read_table(out, i, file, path, model, err), done);
    if (has_residual == 1) st = read_residual(out, file, path, model, err);
done:
    return st;
}
