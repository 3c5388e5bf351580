/* profile/profile_file.h: what is written comes back, what is damaged is refused. */
#include "tests/test_support.h"

#include <hdf5.h>

#include "core/hdf5/hdf5_file.h"
#include "profile/profile_file.h"
#include "tests/hdf5_damage.h"
#include "tests/profile/some_profile.h"

enum {
    N_METHODS = 3,
    N_LAYERS = 3,
    N_HEADS = 6,
    N_BLOCKS = 4
}; /* what some_profile_model has: 3 layers of 2 KV heads, 8 dims */
#define OPTIONS "{\"budgets\": [2, 2.5]}"

static rb_error err;

/* ---- a profile in memory and on disk --------------------------------------------------------- */

/* n numbers of which no two are equal, none a short binary fraction. */
static void fill(double *out, int64_t n, double first)
{
    for (int64_t i = 0; i < n; i++) out[i] = first + (double)i / 7.0;
}

static void fill_sinks(profile_table *table)
{
    assert_ok(profile_table_add_sinks(table, &err));
    table->sinks.context = 77;
    fill(table->sinks.attention, N_HEADS * SINK_BINS, 0.5);
    fill(table->sinks.key_norm, N_HEADS * SINK_BINS, 1.5);
    fill(table->sinks.distance, N_HEADS * SINK_BINS, 2.5);
    fill(table->sinks.value_norm, N_HEADS * SINK_BINS, 3.5);
    fill(table->sinks.harm, N_HEADS * SINK_BINS, 4.5);
    assert_ok(profile_table_add_counted(table, 2, &err));
    fill(table->counted.q_energy, N_HEADS * N_BLOCKS, 11.0);
    fill(table->counted.k_mean, N_HEADS * 2 * N_BLOCKS, -13.0);
    fill(table->counted.value_energy, N_HEADS, 14.0);
}

/* A symmetric matrix of every head; no two of a triangle are equal. */
static void fill_matrices(float *out, int dim, float first)
{
    for (int h = 0; h < N_HEADS; h++)
        for (int i = 0; i < dim; i++)
            for (int j = 0; j < dim; j++)
                out[(h * dim + i) * dim + j] =
                    first + (float)h / 7.0f - (float)(i > j ? i * dim + j : j * dim + i) / 700.0f;
}

enum { DIM = 2 * N_BLOCKS, N_MATRICES = N_HEADS * DIM * DIM };

static void fill_sensitivity(profile_table *table)
{
    output_sensitivity *s = &table->sensitivity;
    assert_ok(output_sensitivity_create(s, &table->model, true, &err));
    fill_matrices(s->key_metric, DIM, 1.0f);
    fill_matrices(s->key_covariance, DIM, 2.0f);
    fill_matrices(s->value_metric, DIM, 3.0f);
    fill_matrices(s->value_moment, DIM, 4.0f);
    fill_matrices(s->value_moment_weighted, DIM, 5.0f);
    fill(s->residual_energy, N_LAYERS, 6.0);
    s->n_tokens = 4096;
    s->n_draws = 3;
    s->seed = 11;
    s->has_output_metric = true;
}

/* has_curves: and errors of values, sinks, and the sensitivity. */
static profile_table *make_profile(int n_methods, bool has_curves)
{
    static const struct {
        const char *name;
        double avg_bits;
    } names[N_METHODS] = {{"uniform", 2}, {"block-gtq", 2}, {"block-gtq", 2.5}};
    profile_table *table = some_profile(n_methods);
    memset(table->capture_sha256, 'e', RB_SHA256_HEX - 1);
    fill(table->all.q_energy, N_HEADS * N_BLOCKS, 1.0);
    fill(table->all.k_energy, N_HEADS * N_BLOCKS, 100.0);
    fill(table->all.k_mean, N_HEADS * 2 * N_BLOCKS, -3.0);
    for (int h = 0; h < N_HEADS; h++)
        table->coverage[h] = (head_coverage){1.0 + h / 7.0, h / 70.0, 2.0 + h / 7.0, 3.0 + h / 7.0};
    for (int m = 0; m < n_methods; m++) {
        double mae[N_HEADS];
        fill(mae, N_HEADS, 1.0 + m);
        set_scores(table, m, names[m].name, names[m].avg_bits, 2.0 + m / 3.0, mae);
    }
    if (has_curves) {
        assert_ok(profile_table_add_curves(table, &err));
        fill(table->curve_logit_mae, N_HEADS * PROFILE_MAX_WIDTH, 0.25);
        fill(table->curve_block_mse, N_HEADS * PROFILE_MAX_WIDTH * N_BLOCKS, 0.125);
        assert_ok(profile_table_add_values(table, &err));
        fill(table->all.value_error, N_HEADS * PROFILE_MAX_WIDTH, 0.375);
        fill(table->all.value_energy, N_HEADS, 4.0);
        fill_sinks(table);
        fill_sensitivity(table);
    }
    return table;
}

static void write_profile(const char *path, int n_methods, bool has_curves)
{
    profile_table *table = make_profile(n_methods, has_curves);
    assert_ok(profile_file_write(table, path, OPTIONS, &err));
    profile_table_free(table);
}

static bool same_text(const text_facts *a, const text_facts *b)
{
    return strcmp(a->tokens_sha256, b->tokens_sha256) == 0 && a->n_tokens == b->n_tokens && a->context == b->context
           && memcmp(&a->bos, &b->bos, sizeof a->bos) == 0;
}

static bool same_numbers(const double *a, const double *b, size_t n)
{
    return (!a && !b) || (a && b && memcmp(a, b, n * sizeof *a) == 0);
}

static bool same_matrices(const float *a, const float *b)
{
    return (!a && !b) || (a && b && memcmp(a, b, N_MATRICES * sizeof *a) == 0);
}

static bool same_sensitivity(const output_sensitivity *a, const output_sensitivity *b)
{
    return same_matrices(a->key_metric, b->key_metric) && same_matrices(a->key_covariance, b->key_covariance)
           && same_matrices(a->value_metric, b->value_metric) && same_matrices(a->value_moment, b->value_moment)
           && same_matrices(a->value_moment_weighted, b->value_moment_weighted)
           && same_numbers(a->residual_energy, b->residual_energy, N_LAYERS) && a->n_tokens == b->n_tokens
           && a->n_draws == b->n_draws && a->seed == b->seed && a->has_output_metric == b->has_output_metric;
}

static bool same_profile(const profile_table *a, const profile_table *b)
{
    if (model_facts_same(&a->model, "a", &b->model, "b", NULL) != RB_OK) return false;
    if (!same_text(&a->calibration, &b->calibration) || !same_text(&a->test, &b->test)
        || strcmp(a->capture_sha256, b->capture_sha256) != 0)
        return false;
    if (!same_numbers(a->all.q_energy, b->all.q_energy, N_HEADS * N_BLOCKS)
        || !same_numbers(a->all.k_energy, b->all.k_energy, N_HEADS * N_BLOCKS))
        return false;
    if (!same_numbers(a->all.k_mean, b->all.k_mean, N_HEADS * 2 * N_BLOCKS)) return false;
    if (!same_numbers(a->curve_logit_mae, b->curve_logit_mae, N_HEADS * PROFILE_MAX_WIDTH)) return false;
    if (!same_numbers(a->curve_block_mse, b->curve_block_mse, N_HEADS * PROFILE_MAX_WIDTH * N_BLOCKS)) return false;
    if (!same_numbers(a->all.value_error, b->all.value_error, N_HEADS * PROFILE_MAX_WIDTH)
        || !same_numbers(a->all.value_energy, b->all.value_energy, N_HEADS))
        return false;
    if (a->n_sink != b->n_sink || a->sinks.context != b->sinks.context
        || !same_numbers(a->sinks.attention, b->sinks.attention, N_HEADS * SINK_BINS)
        || !same_numbers(a->sinks.key_norm, b->sinks.key_norm, N_HEADS * SINK_BINS)
        || !same_numbers(a->sinks.distance, b->sinks.distance, N_HEADS * SINK_BINS)
        || !same_numbers(a->sinks.value_norm, b->sinks.value_norm, N_HEADS * SINK_BINS)
        || !same_numbers(a->sinks.harm, b->sinks.harm, N_HEADS * SINK_BINS)
        || !same_numbers(a->counted.q_energy, b->counted.q_energy, N_HEADS * N_BLOCKS)
        || !same_numbers(a->counted.k_mean, b->counted.k_mean, N_HEADS * 2 * N_BLOCKS)
        || !same_numbers(a->counted.value_energy, b->counted.value_energy, N_HEADS))
        return false;
    if (!same_sensitivity(&a->sensitivity, &b->sensitivity)) return false;
    if (memcmp(a->coverage, b->coverage, N_HEADS * sizeof *a->coverage) != 0) return false;
    if (a->n_blocks != b->n_blocks || a->n_methods != b->n_methods) return false;
    for (int m = 0; m < a->n_methods; m++) {
        const method_score *x = &a->methods[m], *y = &b->methods[m];
        if (strcmp(x->method, y->method) != 0 || x->avg_bits != y->avg_bits
            || memcmp(x->heads, y->heads, N_HEADS * sizeof *x->heads) != 0)
            return false;
    }
    return true;
}

/* ---- round trip ------------------------------------------------------------------------------ */

static void a_profile_comes_back_bit_for_bit(void **state)
{
    (void)state;
    const char *path = scratch_path("round_trip.h5");
    for (int n_methods = 0; n_methods <= N_METHODS; n_methods++)
        for (int has_curves = 0; has_curves < 2; has_curves++) {
            profile_table *written = make_profile(n_methods, has_curves), *found = NULL;
            assert_ok(profile_file_write(written, path, OPTIONS, &err));
            assert_ok(profile_file_read(&found, path, &err));
            assert_true(same_profile(written, found));
            profile_table_free(written);
            profile_table_free(found);
        }
    assert_int_equal(count_temporary_files(scratch_path("round_trip.h5")), 0);
}

/* Entry `at` of a dataset, by nothing but HDF5. */
static double stored_number(hid_t file, const char *dataset, int rank, int at)
{
    double numbers[N_HEADS * PROFILE_MAX_WIDTH * N_BLOCKS];
    hsize_t dims[RB_H5_MAX_RANK];
    hid_t set = H5Dopen2(file, dataset, H5P_DEFAULT), space = H5Dget_space(set);
    assert_int_equal(H5Sget_simple_extent_ndims(space), rank);
    assert_int_equal(H5Sget_simple_extent_dims(space, dims, NULL), rank);
    assert_true(dims[0] == N_LAYERS && dims[1] == N_HEADS / N_LAYERS);
    assert_true(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers) >= 0);
    H5Sclose(space);
    H5Dclose(set);
    return numbers[at];
}

/* Layer 2, KV head 1 is entry 5 of a score; its block 3 is entry 23 of an energy; its width 4 is entry 5 * 8 + 3 of a
 * curve. */
static void datasets_hold_what_their_names_say(void **state)
{
    (void)state;
    const char *path = scratch_path("names.h5");
    const double mae = 2.0 + 5.0 / 7.0; /* method 1 */
    write_profile(path, N_METHODS, true);
    const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(file >= 0);
    assert_true(stored_number(file, "/methods/001/logit_mae", 2, 5) == mae);
    assert_true(stored_number(file, "/methods/001/causal_mae", 2, 5) == 2 * mae);
    assert_true(stored_number(file, "/methods/001/attention_kl", 2, 5) == mae / 64);
    assert_true(stored_number(file, "/methods/001/relative_error", 2, 5) == mae / 16);
    assert_true(stored_number(file, "/methods/001/true_bits", 2, 5) == 2.0 + 1 / 3.0);
    assert_true(stored_number(file, "/methods/001/attended_mae", 2, 5) == 3 * mae);
    assert_true(stored_number(file, "/methods/001/token_error_median", 2, 5) == mae / 32);
    assert_true(stored_number(file, "/methods/001/token_error_p99", 2, 5) == mae / 8);
    assert_true(stored_number(file, "/methods/001/token_error_p999", 2, 5) == mae / 4);
    assert_true(stored_number(file, "/methods/001/token_error_max", 2, 5) == mae / 2);
    assert_true(stored_number(file, "/methods/001/tail_ratio", 2, 5) == mae / 3);
    assert_true(stored_number(file, "/methods/001/outside_share", 2, 5) == mae / 128);
    assert_true(stored_number(file, "/coverage/key_distance", 2, 5) == 1.0 + 5 / 7.0);
    assert_true(stored_number(file, "/coverage/key_outside", 2, 5) == 5 / 70.0);
    assert_true(stored_number(file, "/coverage/query_shift", 2, 5) == 2.0 + 5 / 7.0);
    assert_true(stored_number(file, "/coverage/plan_transfer", 2, 5) == 3.0 + 5 / 7.0);
    assert_true(stored_number(file, "/q_energy", 3, 23) == 1.0 + 23.0 / 7.0);
    assert_true(stored_number(file, "/k_energy", 3, 23) == 100.0 + 23.0 / 7.0);
    assert_true(stored_number(file, "/curves/logit_mae", 3, 43) == 0.25 + 43.0 / 7.0);
    assert_true(stored_number(file, "/curves/block_mse", 4, 43 * 4 + 3) == 0.125 + 175.0 / 7.0);
    assert_true(stored_number(file, "/value_error", 3, 43) == 0.375 + 43.0 / 7.0);
    assert_true(stored_number(file, "/value_energy", 2, 5) == 4.0 + 5.0 / 7.0);
    H5Fclose(file);
}

static void writing_again_gives_the_same_bytes(void **state)
{
    (void)state;
    size_t size[2];
    char *bytes[2];
    for (int i = 0; i < 2; i++) {
        const char *path = scratch_path(i ? "second.h5" : "first.h5");
        write_profile(path, N_METHODS, true);
        bytes[i] = damage_read_bytes(path, &size[i]);
    }
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(bytes[0], bytes[1], size[0]);
    free(bytes[0]);
    free(bytes[1]);
}

/* ---- the writer's refusals ------------------------------------------------------------------- */

static void what_cannot_be_written_leaves_nothing(void **state)
{
    (void)state;
    profile_table *table = make_profile(N_METHODS, true);
    const char *path = scratch_path("refused.h5");
    assert_fails(profile_file_write(table, scratch_path("absent/p.h5"), OPTIONS, &err), RB_EIO, "absent");
    table->methods[2].heads[4].attention_kl = NAN;
    assert_fails(profile_file_write(table, path, OPTIONS, &err), RB_ENONFINITE, "/methods/002/attention_kl");
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(count_temporary_files(scratch_path("refused.h5")), 0);
    profile_table_free(table);
}

/* ---- the reader's refusals ------------------------------------------------------------------- */

/* A fresh profile, opened for change with HDF5 itself. */
static hid_t open_for_change(const char *path, bool has_curves)
{
    write_profile(path, N_METHODS, has_curves);
    const hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    assert_true(file >= 0);
    return file;
}

static void change_attribute(const char *path, const char *object, const char *name, const void *value)
{
    hid_t file = open_for_change(path, true), holder = H5Oopen(file, object, H5P_DEFAULT),
          attribute = H5Aopen(holder, name, H5P_DEFAULT);
    hid_t type = H5Aget_type(attribute);
    assert_true(H5Awrite(attribute, type, value) >= 0);
    H5Tclose(type);
    H5Aclose(attribute);
    H5Oclose(holder);
    H5Fclose(file);
}

/* Number `at` of a dataset becomes `value`. */
static void change_number(const char *path, const char *dataset, int at, double value)
{
    double numbers[N_HEADS * PROFILE_MAX_WIDTH * N_BLOCKS]; /* room for the largest */
    hid_t file = open_for_change(path, true), set = H5Dopen2(file, dataset, H5P_DEFAULT);
    assert_true(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers) >= 0);
    numbers[at] = value;
    assert_true(H5Dwrite(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers) >= 0);
    H5Dclose(set);
    H5Fclose(file);
}

static void a_file_of_another_kind_is_refused(void **state)
{
    (void)state;
    const char *path = scratch_path("kind.h5");
    profile_table *table;
    assert_fails(profile_file_read(&table, scratch_path("absent.h5"), &err), RB_EIO, "absent.h5");
    assert_fails(profile_file_read(&table, "configs/demo.json", &err), RB_EFORMAT, "not an HDF5 file");
    change_attribute(path, "/", "schema", "ropebits-capture");
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT,
                 "kind.h5: schema ropebits-capture, expected ropebits-profile");
    change_attribute(path, "/", "schema_version", &(int64_t){1});
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "kind.h5: ropebits-profile version 1, expected 5");
    assert_null(table);
}

static void tables_that_do_not_fit_the_model_are_refused(void **state)
{
    (void)state;
    const char *path = scratch_path("shape.h5");
    profile_table *table;
    change_attribute(path, "/", "n_layers", &(int64_t){4});
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "q_energy: shape 3 x 2 x 4, expected 4 x 2 x 4");
    change_attribute(path, "/", "n_methods", &(int64_t){N_METHODS + 1});
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "shape.h5: /methods/003: missing");
    change_attribute(path, "/", "n_methods", &(int64_t){PROFILE_MAX_METHODS + 1});
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "attribute n_methods is 257, expected 0 to 256");
    hid_t file = open_for_change(path, false);
    H5Fclose(file);
    assert_ok(profile_file_read(&table, path, &err));
    assert_null(table->curve_logit_mae);
    assert_null(table->all.value_error);
    profile_table_free(table);
    file = open_for_change(path, true);
    H5Ldelete(file, "/curves", H5P_DEFAULT);
    H5Fclose(file);
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "/curves: missing");
    file = open_for_change(path, true);
    H5Ldelete(file, "/value_energy", H5P_DEFAULT);
    H5Fclose(file);
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "/value_energy: missing");
    file = open_for_change(path, true);
    H5Ldelete(file, "/value_error", H5P_DEFAULT);
    H5Fclose(file);
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "/value_error: missing");
    file = open_for_change(path, true);
    H5Ldelete(file, "/methods/001/true_bits", H5P_DEFAULT);
    H5Fclose(file);
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "/methods/001/true_bits: missing");
    assert_null(table);
}

/* Of a profile with sinks, the tables without them are needed; of one without evidence nothing is. */
static void sinks_are_whole_or_absent(void **state)
{
    (void)state;
    const char *path = scratch_path("sinks.h5");
    profile_table *table;
    hid_t file = open_for_change(path, true);
    H5Ldelete(file, "/counted/k_mean", H5P_DEFAULT);
    H5Fclose(file);
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "/counted/k_mean: missing");
    file = open_for_change(path, true);
    H5Ldelete(file, "/sinks/value_norm", H5P_DEFAULT);
    H5Fclose(file);
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "/sinks/value_norm: missing");
    change_attribute(path, "/sinks", "n_sink", &(int64_t){-1});
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "/sinks: attribute n_sink is -1");
    change_attribute(path, "/sinks", "n_sink", &(int64_t){1LL << 40});
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "/sinks: attribute n_sink is 1099511627776");
    file = open_for_change(path, true);
    H5Ldelete(file, "/sinks", H5P_DEFAULT);
    H5Fclose(file);
    assert_ok(profile_file_read(&table, path, &err));
    assert_true(table->n_sink == 0 && table->sinks.n_heads == 0);
    profile_table_free(table);
}

static void change_matrices(const char *path, const char *dataset, int at, float value)
{
    static float numbers[N_MATRICES];
    hid_t file = open_for_change(path, true), set = H5Dopen2(file, dataset, H5P_DEFAULT);
    assert_true(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers) >= 0);
    numbers[at] = value;
    assert_true(H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers) >= 0);
    H5Dclose(set);
    H5Fclose(file);
}

static void the_sensitivity_is_whole_or_absent(void **state)
{
    (void)state;
    static const char *const names[] = {"/sensitivity",
                                        "/sensitivity/key_metric",
                                        "/sensitivity/key_covariance",
                                        "/sensitivity/value_metric",
                                        "/sensitivity/value_moment",
                                        "/sensitivity/value_moment_weighted",
                                        "/sensitivity/residual_energy"};
    const char *path = scratch_path("sensitivity.h5");
    profile_table *table;
    for (size_t i = 0; i < RB_COUNT(names); i++) {
        hid_t file = open_for_change(path, true);
        H5Ldelete(file, names[i], H5P_DEFAULT);
        H5Fclose(file);
        assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "missing");
    }
    hid_t file = open_for_change(path, true);
    H5Adelete(file, "has_sensitivity");
    H5Fclose(file);
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "attribute has_sensitivity is missing");
    file = open_for_change(path, true);
    H5Adelete(file, "has_sensitivity"); /* as in files of builds before */
    H5Ldelete(file, "/sensitivity", H5P_DEFAULT);
    H5Fclose(file);
    assert_ok(profile_file_read(&table, path, &err));
    assert_null(table->sensitivity.key_metric);
    assert_null(table->sensitivity.residual_energy);
    profile_table_free(table);
    change_matrices(path, "/sensitivity/key_metric", DIM + 1, -0.5f);
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT,
                 "/sensitivity/key_metric: head 0: diagonal entry 1 is -0.5, expected a number from 0");
    change_matrices(path, "/sensitivity/value_moment", DIM * DIM + 3, 0.25f);
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "/sensitivity/value_moment: head 1: entry (3, 0)");
    change_number(path, "/sensitivity/residual_energy", 2, -1.0);
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "layer 2 has -1, expected a number from 0");
    change_attribute(path, "/sensitivity", "n_draws", &(int64_t){0});
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "attribute n_draws is 0, expected 1 to 64");
}

static void facts_out_of_their_range_are_refused(void **state)
{
    (void)state;
    const char *path = scratch_path("facts.h5");
    profile_table *table;
    change_attribute(path, "/test", "context", &(int64_t){0});
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "/test: attribute context is 0");
    change_attribute(path, "/methods/001", "avg_bits", &(double){16.5});
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT,
                 "facts.h5: /methods/001: attribute avg_bits is 16.5, expected 0 to 16");
    change_attribute(path, "/", "capture_sha256", "EEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEE");
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "facts.h5: /: attribute capture_sha256 is \"EEEE");
    change_attribute(path, "/calibration", "tokens_sha256",
                     "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccx");
    assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, "expected 64 hex digits");
    assert_null(table);
}

static void numbers_that_cannot_be_are_refused(void **state)
{
    (void)state;
    static const char *const datasets[] = {
        "/q_energy",    "/k_energy",       "/curves/logit_mae",      "/curves/block_mse",
        "/value_error", "/value_energy",   "/methods/000/logit_mae", "/methods/002/true_bits",
        "/sinks/harm",  "/sinks/distance", "/counted/k_energy",      "/counted/value_error"};
    const char *path = scratch_path("numbers.h5");
    profile_table *table;
    char expected[64];
    for (size_t i = 0; i < RB_COUNT(datasets); i++) {
        change_number(path, datasets[i], N_HEADS - 1, -0.5);
        snprintf(expected, sizeof expected, "numbers.h5: %s: entry 5 is -0.5", datasets[i]);
        assert_fails(profile_file_read(&table, path, &err), RB_EFORMAT, expected);
        change_number(path, datasets[i], 0, INFINITY);
        assert_fails(profile_file_read(&table, path, &err), RB_ENONFINITE, datasets[i]);
        assert_null(table);
    }
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void a_profile_cut_anywhere_is_refused(void **state)
{
    (void)state;
    const char *path = scratch_path("cut.h5");
    profile_table *table;
    size_t size;
    write_profile(path, N_METHODS, true);
    char *bytes = damage_read_bytes(path, &size);
    for (size_t i = 0; i < DAMAGE_N_CUTS; i++) {
        const size_t cut = damage_cut(i, size);
        damage_write_bytes(path, bytes, cut);
        memset(&err, 0, sizeof err);
        assert_one_sentence(profile_file_read(&table, path, &err), &err, "cut", cut);
    }
    free(bytes);
}

/* Metadata carry HDF5's checksums and chunks zstd's: a flipped bit is found, or is in a byte that nothing uses. */
static void a_flipped_bit_is_found_or_changes_nothing(void **state)
{
    (void)state;
    const size_t n_flips = getenv("RB_ALL_FLIPS") ? SIZE_MAX : 200;
    const char *path = scratch_path("flipped.h5");
    profile_table *whole = make_profile(N_METHODS, true), *found;
    size_t size, n_found = 0;
    assert_ok(profile_file_write(whole, path, OPTIONS, &err));
    char *bytes = damage_read_bytes(path, &size);
    const size_t step = size / n_flips + 1;
    for (size_t at = 0; at < size; at += step) {
        const char bit = (char)(1 << (at / step % 8));
        bytes[at] ^= bit;
        damage_write_bytes(path, bytes, size);
        bytes[at] ^= bit;
        memset(&err, 0, sizeof err);
        const rb_status st = profile_file_read(&found, path, &err);
        if (st == RB_OK) {
            if (!same_profile(whole, found)) fail_msg("a flip at byte %zu changed the profile unseen", at);
        } else {
            assert_one_sentence(st, &err, "flip", at);
            n_found++;
        }
        profile_table_free(found);
    }
    assert_true(n_found > 50);
    free(bytes);
    profile_table_free(whole);
}

static rb_status read_everything(const char *path, rb_error *e)
{
    profile_table *found;
    const rb_status st = profile_file_read(&found, path, e);
    profile_table_free(found);
    return st;
}

/* Some of these end libhdf5 by a signal. */
static void a_profile_damaged_under_good_checksums_ends_in_one_sentence(void **state)
{
    (void)state;
    const char *path = scratch_path("good.h5");
    profile_table *whole = make_profile(N_METHODS, true);
    assert_ok(profile_file_write(whole, path, OPTIONS, &err));
    assert_true(damage_many(path, scratch_path("damaged.h5"), read_everything) > 50);
    profile_table_free(whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_profile_comes_back_bit_for_bit),
        cmocka_unit_test(datasets_hold_what_their_names_say),
        cmocka_unit_test(writing_again_gives_the_same_bytes),
        cmocka_unit_test(what_cannot_be_written_leaves_nothing),
        cmocka_unit_test(a_file_of_another_kind_is_refused),
        cmocka_unit_test(tables_that_do_not_fit_the_model_are_refused),
        cmocka_unit_test(sinks_are_whole_or_absent),
        cmocka_unit_test(the_sensitivity_is_whole_or_absent),
        cmocka_unit_test(facts_out_of_their_range_are_refused),
        cmocka_unit_test(numbers_that_cannot_be_are_refused),
        cmocka_unit_test(a_profile_cut_anywhere_is_refused),
        cmocka_unit_test(a_flipped_bit_is_found_or_changes_nothing),
        cmocka_unit_test(a_profile_damaged_under_good_checksums_ends_in_one_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
