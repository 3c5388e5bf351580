/* profile/coverage.h: keys drawn from one law, from another, and from none; and what coverage_measure takes from a
 * capture. */
#include "tests/profile/profile_test.h"

#include "core/threads.h"
#include "profile/coverage.h"
#include "profile/profile_compute.h"
#include "tests/calibrate/tiny_capture.h"

enum { DIM = 16, N = 4000 };

static rb_error err;

/* Correlated keys around a mean: a sum of few shared directions. */
static float *correlated_keys(int64_t n, uint64_t seed)
{
    float *noise = random_floats((size_t)(n * DIM), seed), *mix = random_floats(DIM * DIM, 99),
          *k = malloc((size_t)(n * DIM) * sizeof *k);
    assert_non_null(k);
    for (int64_t t = 0; t < n; t++)
        for (int i = 0; i < DIM; i++) {
            k[t * DIM + i] = 5.0f;
            for (int j = 0; j < DIM; j++) k[t * DIM + i] += mix[i * DIM + j] * noise[t * DIM + j];
        }
    free(noise);
    free(mix);
    return k;
}

static head_coverage cover(const float *calibration, int64_t n_calibration, const float *test, int64_t n_test)
{
    head_coverage out = {0};
    assert_ok(coverage_of_keys(&out, calibration, n_calibration, test, n_test, DIM, &err));
    return out;
}

static void keys_of_the_same_law_are_covered(void **state)
{
    (void)state;
    float *a = correlated_keys(N, 1), *b = correlated_keys(N, 2);
    const head_coverage found = cover(a, N, b, N);
    assert_close(found.key_distance, 1.0, 0.05);
    assert_close(found.key_outside, 0.01, 0.006); /* 40 of 4000, give or take four times its root */
    free(a), free(b);
}

/* Around the same mean, three times as far out: nine times the squared distance. */
static void keys_further_out_are_at_the_square_of_their_distance(void **state)
{
    (void)state;
    float *a = correlated_keys(N, 1), *b = correlated_keys(N, 2);
    for (int i = 0; i < N * DIM; i++) b[i] = 5.0f + 3.0f * (b[i] - 5.0f);
    const head_coverage found = cover(a, N, b, N);
    assert_close(found.key_distance, 9.0, 0.6);
    assert_true(found.key_outside > 0.9);
    free(a), free(b);
}

/* No larger than others, no dim beyond its range: only together are they new. One in fifty, as a needle is. */
static void keys_that_break_the_correlation_are_outside(void **state)
{
    (void)state;
    float *a = correlated_keys(N, 1), *b = correlated_keys(N, 2);
    for (int64_t t = 0; t < N; t += 50)
        for (int i = DIM - 1; i > 0; i--) { /* the dims of the key, shuffled */
            const float kept = b[t * DIM + i];
            b[t * DIM + i] = b[t * DIM + i * 7 % i];
            b[t * DIM + i * 7 % i] = kept;
        }
    const head_coverage found = cover(a, N, b, N);
    assert_true(found.key_distance > COVERAGE_LIMIT);
    assert_true(found.key_outside > 0.02 && found.key_outside < 0.04);
    free(a), free(b);
}

/* A covariance fitted to few keys fits them too well: judged on other keys of calibration, it does not make a text of
 * the same law look strange. */
static void few_calibration_keys_raise_no_alarm(void **state)
{
    (void)state;
    float *a = correlated_keys(200, 1), *b = correlated_keys(N, 2);
    assert_true(cover(a, 200, b, N).key_distance < COVERAGE_LIMIT);
    free(a), free(b);
}

/* Subspaces, equal keys, one key: a number, and 1 where test is what calibration was. */
static void degenerate_keys_give_numbers(void **state)
{
    (void)state;
    float *a = correlated_keys(64, 1), *same = malloc(64 * DIM * sizeof *same);
    assert_non_null(same);
    for (int i = 0; i < 64 * DIM; i++) same[i] = 2.0f;
    for (int t = 0; t < 64; t++) a[t * DIM] = 0.0f;
    assert_true(isfinite(cover(a, 64, a, 64).key_distance));
    assert_true(isfinite(cover(a, 1, a, 1).key_distance));
    assert_true(cover(same, 64, same, 64).key_distance == 1.0);
    assert_true(cover(same, 64, same, 64).key_outside == 0.0);
    free(a), free(same);
}

static void every_head_of_a_capture_is_measured_on_its_own_keys(void **state)
{
    (void)state;
    const char *path = scratch_path("tiny.h5");
    capture_file *capture = NULL;
    profile_table *table = NULL;
    assert_ok(tiny_write(path, RB_H5_F32, false, &err));
    assert_ok(capture_open(&capture, path, &err));
    assert_ok(profile_table_from_capture(&table, capture, 0, &err));
    assert_ok(coverage_measure(table, capture, &err));
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        const tiny_layer seen = tiny_vectors(capture_file_header(capture), CAPTURE_CALIBRATION, layer),
                         test = tiny_vectors(capture_file_header(capture), CAPTURE_TEST, layer);
        for (int h = 0; h < TINY_KV_HEADS; h++) {
            const head_coverage *found = &table->coverage[layer * TINY_KV_HEADS + h];
            head_coverage expected = {0};
            double shift = 1.0;
            assert_ok(coverage_of_keys(&expected, seen.k + h * TINY_N_CALIBRATION * TINY_DIM, TINY_N_CALIBRATION,
                                       test.k + h * TINY_N_TEST * TINY_DIM, TINY_N_TEST, TINY_DIM, &err));
            assert_true(found->key_distance == expected.key_distance && found->key_outside == expected.key_outside);
            for (int block = 0; block < TINY_DIM / 2; block++) {
                double energy[2] = {0};
                int dims[2];
                block_dims_by_hand(&table->model, block, dims);
                for (int q = 2 * h; q < 2 * h + 2; q++)
                    for (int i = 0; i < 2; i++) {
                        for (int t = 0; t < TINY_N_CALIBRATION; t++)
                            energy[0] += pow((double)seen.q[(q * TINY_N_CALIBRATION + t) * TINY_DIM + dims[i]], 2)
                                         / (2 * TINY_N_CALIBRATION);
                        for (int t = 0; t < TINY_N_TEST; t++)
                            energy[1] +=
                                pow((double)test.q[(q * TINY_N_TEST + t) * TINY_DIM + dims[i]], 2) / (2 * TINY_N_TEST);
                    }
                shift = fmax(shift, fmax(energy[0] / energy[1], energy[1] / energy[0]));
            }
            assert_close(found->query_shift, shift, 1e-4 * shift); /* but for the floor under an energy of zero */
            assert_true(found->plan_transfer >= 1.0 && isfinite(found->plan_transfer));
        }
    }
    profile_table_free(table);
    capture_close(capture);
}

static void any_number_of_threads_gives_the_same_coverage(void **state)
{
    (void)state;
    const char *path = scratch_path("threads.h5");
    capture_file *capture = NULL;
    head_coverage first[TINY_LAYERS * TINY_KV_HEADS];
    assert_ok(tiny_write(path, RB_H5_F32, false, &err));
    assert_ok(capture_open(&capture, path, &err));
    for (int n = 1; n <= 4; n++) {
        profile_table *table = NULL;
        rb_threads_init(n);
        assert_ok(profile_table_from_capture(&table, capture, 0, &err));
        assert_ok(coverage_measure(table, capture, &err));
        if (n == 1) memcpy(first, table->coverage, sizeof first);
        assert_memory_equal(table->coverage, first, sizeof first);
        profile_table_free(table);
    }
    capture_close(capture);
}

int main(void)
{
    rb_threads_init(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_of_the_same_law_are_covered),
        cmocka_unit_test(keys_further_out_are_at_the_square_of_their_distance),
        cmocka_unit_test(keys_that_break_the_correlation_are_outside),
        cmocka_unit_test(few_calibration_keys_raise_no_alarm),
        cmocka_unit_test(degenerate_keys_give_numbers),
        cmocka_unit_test(every_head_of_a_capture_is_measured_on_its_own_keys),
        cmocka_unit_test(any_number_of_threads_gives_the_same_coverage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
