/* calibrate/capture_file.h: what is written comes back, what is damaged is refused.
 * `test_capture_file --write FILE f16|f32` writes the tiny capture for tests/programs/h5py.sh. */
#include "tests/test_support.h"

#include <omp.h>

#include "tests/calibrate/tiny_capture.h"
#include "tests/hdf5_damage.h"

static rb_error err;

/* ---- helpers --------------------------------------------------------------------------------- */

/* Everything a reader can ask of the tiny capture, in one block that can be compared. */
typedef struct tiny_content {
    capture_header header;
    int32_t tokens[CAPTURE_N_SETS][TINY_MAX_TOKENS];
    tiny_layer layers[CAPTURE_N_SETS][TINY_LAYERS]; /* v stays 0: there is no reader for it */
    double statistics[CAPTURE_N_SETS][TINY_LAYERS][3][TINY_KV_HEADS * TINY_DIM];
    double residual_energy[TINY_LAYERS];
    float metric[TINY_LAYERS][TINY_MAX_METRIC];
} tiny_content;

static rb_status read_output(const capture_file *file, tiny_content *out)
{
    rb_status st = RB_OK;
    if (out->header.model.value_dim != TINY_DIM) return rb_fail(&err, RB_EINVAL, "another size");
    if (out->header.output.is_known) st = capture_read_residual_energy(file, out->residual_energy, &err);
    for (int layer = 0; layer < TINY_LAYERS && st == RB_OK && out->header.output.has_metric; layer++)
        st = capture_read_output_metric(file, layer, out->metric[layer], &err);
    return st;
}

static rb_status read_layer(const capture_file *file, int set, int layer, tiny_content *out)
{
    block_statistics statistics;
    rb_status st;
    RB_TRY(st, block_statistics_create(&statistics, &out->header.model, &err), done);
    RB_TRY(st, capture_read_q(file, (capture_set)set, layer, out->layers[set][layer].q, &err), done);
    RB_TRY(st, capture_read_k(file, (capture_set)set, layer, out->layers[set][layer].k, &err), done);
    RB_TRY(st, capture_read_statistics(file, (capture_set)set, layer, &statistics, &err), done);
    memcpy(out->statistics[set][layer][0], statistics.q_energy, TINY_KV_HEADS * TINY_DIM / 2 * sizeof(double));
    memcpy(out->statistics[set][layer][1], statistics.k_energy, TINY_KV_HEADS * TINY_DIM / 2 * sizeof(double));
    memcpy(out->statistics[set][layer][2], statistics.k_mean, TINY_KV_HEADS * TINY_DIM * sizeof(double));
done:
    block_statistics_free(&statistics);
    return st;
}

/* RB_EINVAL stands for a capture of another size than the tiny one: it would not fit the struct. */
static rb_status read_all(const char *path, tiny_content *out)
{
    capture_file *file = NULL;
    rb_status st;
    memset(out, 0, sizeof *out);
    memset(&err, 0, sizeof err);
    RB_TRY(st, capture_open(&file, path, &err), done);
    memcpy(&out->header, capture_file_header(file), sizeof out->header);
    const model_facts *model = &out->header.model;
    if (model->n_layers != TINY_LAYERS || model->n_q_heads != TINY_Q_HEADS || model->n_kv_heads != TINY_KV_HEADS
        || model->head_dim != TINY_DIM || out->header.text[0].n_tokens != TINY_N_CALIBRATION
        || out->header.text[1].n_tokens != TINY_N_TEST) {
        st = rb_fail(&err, RB_EINVAL, "another size");
        goto done;
    }
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        RB_TRY(st, capture_read_tokens(file, (capture_set)set, out->tokens[set], &err), done);
        for (int layer = 0; layer < TINY_LAYERS; layer++) RB_TRY(st, read_layer(file, set, layer, out), done);
    }
    st = read_output(file, out);
done:
    capture_close(file);
    return st;
}

/* ---- round trip ------------------------------------------------------------------------------ */

static void assert_content(const tiny_content *found, const capture_header *header)
{
    assert_ok(model_facts_same(&found->header.model, "found", &header->model, "written", &err));
    assert_int_equal(found->header.value_type, header->value_type);
    assert_int_equal(found->header.has_values, header->has_values);
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        assert_int_equal(found->header.text[set].n_tokens, header->text[set].n_tokens);
        assert_int_equal(found->header.text[set].context, header->text[set].context);
        for (int64_t i = 0; i < header->text[set].n_tokens; i++)
            assert_int_equal(found->tokens[set][i], tiny_token(set, i));
        for (int layer = 0; layer < TINY_LAYERS; layer++) {
            tiny_layer expected = tiny_vectors(header, set, layer);
            memset(expected.v, 0, sizeof expected.v);
            assert_memory_equal(&found->layers[set][layer], &expected, sizeof expected);
        }
    }
    /* Block 1 of KV head 1 in the test set of layer 1 is dims 1 and 3; block 2 lies past rotary_dim: dims 4 and 5. */
    double k_energy = 0, q_energy = 0, mean = 0;
    for (int64_t t = 0; t < TINY_N_TEST; t++) {
        k_energy +=
            pow((double)tiny_value(1, 1, TINY_K, 1, t, 1), 2) + pow((double)tiny_value(1, 1, TINY_K, 1, t, 3), 2);
        mean += (double)tiny_value(1, 1, TINY_K, 1, t, 5);
        for (int head = 2; head < 4; head++)
            q_energy += pow((double)tiny_value(1, 1, TINY_Q, head, t, 4), 2)
                        + pow((double)tiny_value(1, 1, TINY_Q, head, t, 5), 2);
    }
    assert_true(fabs(found->statistics[1][1][1][1 * 3 + 1] - k_energy / TINY_N_TEST) <= 1e-12);
    assert_true(fabs(found->statistics[1][1][0][1 * 3 + 2] - q_energy / (2 * TINY_N_TEST)) <= 1e-12);
    assert_true(fabs(found->statistics[1][1][2][1 * 6 + 5] - mean / TINY_N_TEST) <= 1e-12);
}

static void a_capture_comes_back_bit_for_bit(void **state)
{
    (void)state;
    const char *path = scratch_path("round_trip.h5");
    tiny_content *found = malloc(sizeof *found);
    for (int i = 0; i < 4; i++) {
        const capture_header header = tiny_header(i & 1 ? RB_H5_F32 : RB_H5_F16, i & 2);
        assert_ok(tiny_write(path, header.value_type, header.has_values, &err));
        assert_ok(read_all(path, found));
        assert_content(found, &header);
        assert_int_equal(count_temporary_files(scratch_path("round_trip.h5")), 0);
    }
    free(found);
}

static void the_output_comes_back_bit_for_bit(void **state)
{
    (void)state;
    const char *path = scratch_path("output.h5");
    tiny_content *found = malloc(sizeof *found);
    for (int has_metric = 0; has_metric < 2; has_metric++) {
        capture_header header = tiny_header(RB_H5_F16, true);
        float metric[TINY_MAX_METRIC];
        header.output.softcap = 30.5;
        header.output.has_metric = has_metric;
        assert_ok(tiny_write_header(path, &header, &err));
        assert_ok(read_all(path, found));
        assert_memory_equal(&found->header.output, &header.output, sizeof header.output);
        for (int layer = 0; layer < TINY_LAYERS; layer++) {
            assert_true(found->residual_energy[layer] == tiny_residual_energy(layer));
            tiny_metric(metric, &header, layer);
            if (has_metric)
                assert_memory_equal(found->metric[layer], metric, (size_t)tiny_metric_size(&header) * sizeof *metric);
        }
    }
    free(found);
}

static void a_capture_without_output_is_read(void **state)
{
    (void)state;
    const char *path = scratch_path("no_output.h5");
    capture_header header = tiny_header(RB_H5_F16, true);
    tiny_content *found = malloc(sizeof *found);
    header.output = (capture_output){0};
    assert_ok(tiny_write_header(path, &header, &err));
    assert_ok(read_all(path, found));
    assert_content(found, &header);
    assert_false(found->header.output.is_known || found->header.output.has_metric);
    free(found);
}

static void a_capture_says_how_its_sequences_begin(void **state)
{
    (void)state;
    const char *path = scratch_path("bos.h5");
    capture_header header = tiny_header(RB_H5_F16, false);
    capture_file *file;
    header.text[CAPTURE_CALIBRATION].bos = (text_bos){.mode = BOS_SEQUENCE, .tokens = {.n = 2, .ids = {7, 2}}};
    header.text[CAPTURE_TEST].bos.mode = BOS_NONE;
    assert_ok(tiny_write_header(path, &header, &err));
    assert_ok(capture_open(&file, path, &err));
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        assert_memory_equal(&capture_file_header(file)->text[set].bos, &header.text[set].bos, sizeof(text_bos));
    capture_close(file);
}

static void any_number_of_threads_writes_the_same_bytes(void **state)
{
    (void)state;
    const int n_threads = omp_get_max_threads();
    const char *paths[] = {scratch_path("one.h5"), scratch_path("five.h5")};
    char *bytes[2];
    size_t size[2];
    for (int i = 0; i < 2; i++) {
        omp_set_num_threads(i ? 5 : 1);
        assert_ok(tiny_write(paths[i], RB_H5_F16, true, &err));
        bytes[i] = damage_read_bytes(paths[i], &size[i]);
    }
    omp_set_num_threads(n_threads);
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(bytes[0], bytes[1], size[0]);
    free(bytes[0]);
    free(bytes[1]);
}

/* ---- the writer's refusals ------------------------------------------------------------------- */

static void create_refuses_a_header_that_cannot_be_true(void **state)
{
    (void)state;
    const char *path = scratch_path("refused.h5");
    capture_writer *writer;
    capture_header header = tiny_header(RB_H5_F16, false);
    header.text[CAPTURE_TEST].n_tokens = 0;
    assert_fails(tiny_create(&writer, path, &header, &err), RB_EINVAL, "0 test tokens, expected 1 to");
    header = tiny_header(RB_H5_F16, false);
    header.text[CAPTURE_CALIBRATION].context = 0;
    assert_fails(tiny_create(&writer, path, &header, &err), RB_EINVAL, "calibration context 0");
    header = tiny_header(RB_H5_I32, false);
    assert_fails(tiny_create(&writer, path, &header, &err), RB_EINVAL, "expected f16 or f32");
    header = tiny_header(RB_H5_F16, false);
    header.model.n_kv_heads = 3;
    assert_fails(tiny_create(&writer, path, &header, &err), RB_EINVAL, "4 query heads do not divide among 3 KV heads");
    header = tiny_header(RB_H5_F16, false);
    memset(header.text[CAPTURE_TEST].tokens_sha256, 'b', RB_SHA256_HEX - 1);
    assert_fails(tiny_create(&writer, path, &header, &err), RB_EINVAL, "the header says bbbb");
    assert_null(writer);
    assert_int_not_equal(access(path, F_OK), 0);
}

/* sha256sum of the ids 0, 3, 6, ... as little-endian int32, by Python: hashlib.sha256((numpy.arange(33) * 3 %
 * 97).astype('<i4').tobytes()) */
static void the_hash_of_the_tokens_is_computed(void **state)
{
    (void)state;
    const char *path = scratch_path("hash.h5");
    capture_file *file;
    assert_ok(tiny_write(path, RB_H5_F16, false, &err));
    assert_ok(capture_open(&file, path, &err));
    assert_string_equal(capture_file_header(file)->text[CAPTURE_CALIBRATION].tokens_sha256,
                        "e23c66b9c16e2f79c5bf2486d469bea4b0d0df00afb080491fc4d5ffa264c455");
    assert_string_equal(capture_file_path(file), path);
    capture_close(file);
}

static void publish_wants_every_layer_once(void **state)
{
    (void)state;
    const char *path = scratch_path("incomplete.h5");
    const capture_header header = tiny_header(RB_H5_F16, false);
    capture_writer *writer;
    assert_ok(tiny_create(&writer, path, &header, &err));
    assert_ok(tiny_write_layer(writer, &header, 0, 0, &err));
    assert_ok(tiny_write_layer(writer, &header, 0, 1, &err));
    assert_ok(tiny_write_layer(writer, &header, 1, 0, &err));
    assert_fails(tiny_write_layer(writer, &header, 0, 1, &err), RB_EINVAL, "calibration layer 1 is written already");
    assert_fails(capture_publish(writer, &err), RB_EINVAL, "test layer 1 was not written");
    capture_writer_free(writer);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(count_temporary_files(scratch_path("incomplete.h5")), 0);
}

static void values_that_do_not_fit_are_named_by_head_and_token(void **state)
{
    (void)state;
    const char *path = scratch_path("unfit.h5");
    for (int i = 0; i < 2; i++) {
        const capture_header header = tiny_header(i ? RB_H5_F32 : RB_H5_F16, true);
        tiny_layer vectors = tiny_vectors(&header, CAPTURE_TEST, 1);
        block_statistics statistics;
        capture_writer *writer;
        assert_ok(tiny_create(&writer, path, &header, &err));
        assert_ok(block_statistics_create(&statistics, &header.model, &err));
        vectors.q[(3 * TINY_N_TEST + 9) * TINY_DIM + 4] = 70000;
        vectors.v[(1 * TINY_N_TEST + 16) * TINY_DIM + 5] = NAN;
        if (i == 0)
            assert_fails(
                capture_write_layer(writer, CAPTURE_TEST, 1, vectors.q, vectors.k, vectors.v, &statistics, &err),
                RB_ENONFINITE, "unfit.h5: test layer 1 q_head 3 token 9 dim 4: query 70000 does not fit f16");
        else
            assert_fails(
                capture_write_layer(writer, CAPTURE_TEST, 1, vectors.q, vectors.k, vectors.v, &statistics, &err),
                RB_ENONFINITE, "test layer 1 kv_head 1 token 16 dim 5: value nan is not finite");
        block_statistics_free(&statistics);
        capture_writer_free(writer);
    }
}

static void publish_wants_the_output_that_the_header_says(void **state)
{
    (void)state;
    const char *path = scratch_path("no_metric.h5");
    const capture_header header = tiny_header(RB_H5_F16, true);
    float metric[TINY_MAX_METRIC];
    capture_writer *writer;
    assert_ok(tiny_create(&writer, path, &header, &err));
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        for (int layer = 0; layer < TINY_LAYERS; layer++)
            assert_ok(tiny_write_layer(writer, &header, set, layer, &err));
    assert_ok(tiny_write_output(writer, &header, 0, &err));
    assert_fails(capture_publish(writer, &err), RB_EINVAL, "output metric of layer 1 was not written");
    tiny_metric(metric, &header, 1);
    assert_ok(capture_write_output_metric(writer, 1, metric, &err));
    assert_fails(capture_publish(writer, &err), RB_EINVAL, "residual energy of layer 1 was not set");
    capture_writer_free(writer);
    assert_int_not_equal(access(path, F_OK), 0);
}

/* ---- the reader's refusals ------------------------------------------------------------------- */

/* Opens a fresh capture for change with HDF5 itself. */
static hid_t open_for_change(const char *path, rb_h5_type value_type)
{
    assert_ok(tiny_write(path, value_type, false, &err));
    const hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    assert_true(file >= 0);
    return file;
}

static void change_attribute(hid_t file, const char *object, const char *name, const void *value)
{
    hid_t holder = H5Oopen(file, object, H5P_DEFAULT), attribute = H5Aopen(holder, name, H5P_DEFAULT),
          type = H5Aget_type(attribute);
    assert_true(H5Awrite(attribute, type, value) >= 0);
    H5Tclose(type);
    H5Aclose(attribute);
    H5Oclose(holder);
}

static void open_refuses_what_does_not_hold_together(void **state)
{
    (void)state;
    const char *path = scratch_path("changed.h5");
    capture_file *capture;
    hid_t file = open_for_change(path, RB_H5_F16);
    change_attribute(file, "/test/tokens", "tokens_sha256",
                     "0000000000000000000000000000000000000000000000000000000000000000");
    H5Fclose(file);
    assert_fails(capture_open(&capture, path, &err), RB_EFORMAT, "its tokens_sha256 says 0000");
    file = open_for_change(path, RB_H5_F16);
    change_attribute(file, "/", "n_layers", &(int64_t){3});
    H5Fclose(file);
    assert_fails(capture_open(&capture, path, &err), RB_EFORMAT, "calibration/layer_002: missing");
    file = open_for_change(path, RB_H5_F16);
    change_attribute(file, "/", "n_q_heads", &(int64_t){6});
    H5Fclose(file);
    assert_fails(capture_open(&capture, path, &err), RB_EFORMAT,
                 "calibration/layer_000/q: shape 4 x 33 x 6, expected 6 x 33 x 6");
    file = open_for_change(path, RB_H5_F16);
    change_attribute(file, "/", "capture_point", "postrope");
    H5Fclose(file);
    assert_fails(capture_open(&capture, path, &err), RB_EFORMAT, "capture_point postrope, expected pre-rope");
    file = open_for_change(path, RB_H5_F16);
    change_attribute(file, "/", "value_type", "f32");
    H5Fclose(file);
    assert_fails(capture_open(&capture, path, &err), RB_EFORMAT, "expected little-endian f32");
    file = open_for_change(path, RB_H5_F16);
    change_attribute(file, "/", "schema_version", &(int64_t){2});
    H5Fclose(file);
    assert_fails(capture_open(&capture, path, &err), RB_EFORMAT, "ropebits-capture version 2, expected 1");
    file = open_for_change(path, RB_H5_F16);
    H5Ldelete(file, "/test/layer_001/k_mean", H5P_DEFAULT);
    H5Fclose(file);
    assert_fails(capture_open(&capture, path, &err), RB_EFORMAT, "test/layer_001/k_mean: missing");
    file = open_for_change(path, RB_H5_F16);
    H5Adelete(file, "rope_theta");
    H5Fclose(file);
    assert_fails(capture_open(&capture, path, &err), RB_EFORMAT, "attribute rope_theta is missing");
    assert_fails(capture_open(&capture, "configs/demo-text/heldout.txt", &err), RB_EFORMAT, "not an HDF5 file");
    assert_null(capture);
}

static void open_refuses_an_output_that_does_not_hold_together(void **state)
{
    (void)state;
    static const char *const names[] = {"output", "output/layer_001", "output/window", "output/residual_energy"};
    const char *path = scratch_path("bad_output.h5");
    capture_file *capture;
    for (size_t i = 0; i < RB_COUNT(names); i++) {
        assert_ok(tiny_write(path, RB_H5_F16, true, &err));
        const hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
        assert_true(H5Ldelete(file, names[i], H5P_DEFAULT) >= 0);
        H5Fclose(file);
        assert_fails(capture_open(&capture, path, &err), RB_EFORMAT, "missing");
    }
    capture_header header = tiny_header(RB_H5_F16, true);
    header.output.window[1] = -3;
    assert_ok(tiny_write_header(path, &header, &err));
    assert_fails(capture_open(&capture, path, &err), RB_EFORMAT, "layer 1 sees -3 keys, expected a number from 0");
    header = tiny_header(RB_H5_F16, true);
    header.output.softcap = -1.5;
    assert_ok(tiny_write_header(path, &header, &err));
    assert_fails(capture_open(&capture, path, &err), RB_EFORMAT, "softcap -1.5, expected a number from 0");
}

static void a_non_finite_value_is_named_by_head_and_token(void **state)
{
    (void)state;
    const char *path = scratch_path("nan.h5");
    float *k = malloc(TINY_KV_HEADS * TINY_N_CALIBRATION * TINY_DIM * sizeof *k);
    capture_file *capture;
    hid_t file = open_for_change(path, RB_H5_F32), dataset = H5Dopen2(file, "calibration/layer_001/k", H5P_DEFAULT);
    assert_true(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, k) >= 0);
    k[(1 * TINY_N_CALIBRATION + 32) * TINY_DIM + 2] = -INFINITY;
    assert_true(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, k) >= 0);
    H5Dclose(dataset);
    H5Fclose(file);
    assert_ok(capture_open(&capture, path, &err));
    assert_fails(capture_read_k(capture, CAPTURE_CALIBRATION, 1, k, &err), RB_ENONFINITE,
                 "nan.h5: calibration layer 1 kv_head 1 token 32 dim 2: key -inf is not finite");
    assert_ok(capture_read_k(capture, CAPTURE_CALIBRATION, 0, k, &err));
    capture_close(capture);
    free(k);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void a_capture_cut_anywhere_is_refused(void **state)
{
    (void)state;
    const char *path = scratch_path("cut.h5");
    tiny_content *found = malloc(sizeof *found);
    size_t size;
    assert_ok(tiny_write(path, RB_H5_F16, true, &err));
    char *bytes = damage_read_bytes(path, &size);
    for (size_t i = 0; i < DAMAGE_N_CUTS; i++) {
        const size_t cut = damage_cut(i, size);
        damage_write_bytes(path, bytes, cut);
        assert_one_sentence(read_all(path, found), &err, "cut", cut);
    }
    free(bytes);
    free(found);
}

/* Metadata carry HDF5's checksums and chunks zstd's: a flipped bit is found, or is in a byte that nothing uses. */
static void a_flipped_bit_is_found_or_changes_nothing(void **state)
{
    (void)state;
    const size_t n_flips = getenv("RB_ALL_FLIPS") ? SIZE_MAX : 200;
    const char *path = scratch_path("flipped.h5");
    tiny_content *whole = malloc(sizeof *whole), *found = malloc(sizeof *found);
    size_t size, n_found = 0;
    assert_ok(tiny_write(path, RB_H5_F16, true, &err));
    assert_ok(read_all(path, whole));
    char *bytes = damage_read_bytes(path, &size);
    const size_t step = size / n_flips + 1;
    for (size_t at = 0; at < size; at += step) {
        const char bit = (char)(1 << (at / step % 8));
        bytes[at] ^= bit;
        damage_write_bytes(path, bytes, size);
        bytes[at] ^= bit;
        const rb_status st = read_all(path, found);
        if (st == RB_OK) {
            assert_memory_equal(found, whole, sizeof *whole);
        } else {
            assert_one_sentence(st, &err, "flip", at);
            n_found++;
        }
    }
    assert_true(n_found > 50);
    free(bytes);
    free(whole);
    free(found);
}

static rb_status read_everything(const char *path, rb_error *e)
{
    static tiny_content found;
    const rb_status st = read_all(path, &found);
    *e = err;
    return st;
}

/* Some of these end libhdf5 by a signal. */
static void a_capture_damaged_under_good_checksums_ends_in_one_sentence(void **state)
{
    (void)state;
    const char *path = scratch_path("good.h5");
    assert_ok(tiny_write(path, RB_H5_F16, true, &err));
    assert_true(damage_many(path, scratch_path("damaged.h5"), read_everything) > 50);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_capture_comes_back_bit_for_bit),
        cmocka_unit_test(the_output_comes_back_bit_for_bit),
        cmocka_unit_test(a_capture_without_output_is_read),
        cmocka_unit_test(a_capture_says_how_its_sequences_begin),
        cmocka_unit_test(any_number_of_threads_writes_the_same_bytes),
        cmocka_unit_test(create_refuses_a_header_that_cannot_be_true),
        cmocka_unit_test(the_hash_of_the_tokens_is_computed),
        cmocka_unit_test(publish_wants_every_layer_once),
        cmocka_unit_test(publish_wants_the_output_that_the_header_says),
        cmocka_unit_test(values_that_do_not_fit_are_named_by_head_and_token),
        cmocka_unit_test(open_refuses_what_does_not_hold_together),
        cmocka_unit_test(open_refuses_an_output_that_does_not_hold_together),
        cmocka_unit_test(a_non_finite_value_is_named_by_head_and_token),
        cmocka_unit_test(a_capture_cut_anywhere_is_refused),
        cmocka_unit_test(a_flipped_bit_is_found_or_changes_nothing),
        cmocka_unit_test(a_capture_damaged_under_good_checksums_ends_in_one_sentence),
    };
    if (argc == 4 && strcmp(argv[1], "--write") == 0) {
        const rb_status st = tiny_write(argv[2], strcmp(argv[3], "f32") == 0 ? RB_H5_F32 : RB_H5_F16, true, &err);
        if (st != RB_OK) fprintf(stderr, "%s\n", err.msg);
        return rb_exit_code(st);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
