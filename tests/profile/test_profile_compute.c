/* profile/profile_compute.h on a tiny capture: which head, which tokens and which plan every number is made of. */
#include "tests/test_support.h"

#include "core/threads.h"
#include "kernels/reference/head_codec.h"
#include "methods/allocator.h"
#include "profile/profile_compute.h"
#include "profile/profile_statistics.h"
#include "tests/calibrate/tiny_capture.h"
#include "tests/profile/profile_test.h"

enum { N_PLANS = 2, SIZE = TINY_N_TEST * TINY_DIM, Q_PER_KV = TINY_Q_HEADS / TINY_KV_HEADS, N_BLOCKS = TINY_DIM / 2 };

static rb_error err;
static capture_file *capture;
static profile_table *table;
static bit_plan *plans[N_PLANS];

static int score_tiny_capture(void **state)
{
    (void)state;
    const char *path = scratch_path("tiny.h5");
    rb_status st;
    RB_TRY(st, tiny_write(path, RB_H5_F32, false, &err), done);
    RB_TRY(st, capture_open(&capture, path, &err), done);
    RB_TRY(st, profile_table_from_capture(&table, capture, 0, &err), done);
    const head_statistics statistics = profile_statistics(table, 0);
    RB_TRY(st,
           allocate_plan(&plans[0], &table->model, &table->calibration, METHOD_UNIFORM, 3, PLAN_FP16_WIDTH, &statistics,
                         &err),
           done);
    RB_TRY(st,
           allocate_plan(&plans[1], &table->model, &table->calibration, METHOD_BLOCK_GTQ, 2.5, PLAN_FP16_WIDTH,
                         &statistics, &err),
           done);
    RB_TRY(st, profile_score(table, capture, (const bit_plan *const *)plans, N_PLANS, true, RB_DEVICE_CPU, &err), done);
done:
    if (st != RB_OK) fprintf(stderr, "%s\n", err.msg);
    return st == RB_OK ? 0 : -1;
}

static int free_all(void **state)
{
    (void)state;
    for (int m = 0; m < N_PLANS; m++) bit_plan_free(plans[m]);
    profile_table_free(table);
    capture_close(capture);
    return 0;
}

/* k of the test text after the head's codec. */
static void restore(float *k_hat, const plan_head *head, const float *k)
{
    codec_tables *tables = NULL;
    head_codec *codec = NULL;
    assert_ok(codec_tables_create(&tables, &err));
    assert_ok(head_codec_create(&codec, head, &table->model, tables, &err));
    assert_ok(head_codec_round_trip(codec, k, TINY_N_TEST, k_hat, &err));
    head_codec_free(codec);
    codec_tables_free(tables);
}

/* Over pairs of one sequence: q_s against the error of k_t turned by t - s. */
static double naive_causal_mae(const float *q, const float *k, const float *k_hat)
{
    double sum = 0.0, n_pairs = 0.0;
    for (int head = 0; head < Q_PER_KV; head++)
        for (int s = 0; s < TINY_N_TEST; s++)
            for (int t = s / 16 * 16; t <= s; t++, n_pairs++) {
                double error[TINY_DIM];
                for (int i = 0; i < TINY_DIM; i++)
                    error[i] = (double)k[t * TINY_DIM + i] - (double)k_hat[t * TINY_DIM + i];
                sum += fabs(turned_dot(&table->model, q + (head * TINY_N_TEST + s) * TINY_DIM, error, t - s));
            }
    return sum / n_pairs;
}

static double naive_relative_error(const float *k, const float *k_hat)
{
    double error = 0.0, whole = 0.0;
    for (int i = 0; i < SIZE; i++) {
        error += pow((double)k[i] - (double)k_hat[i], 2.0);
        whole += pow((double)k[i], 2.0);
    }
    return sqrt(error / whole);
}

/* Largest relative error, weights and all, by the energies of this head. */
static void check_tail(const tail_error *tail, int layer, int kv_head, const float *k, const float *k_hat)
{
    const double *energy = table->all.q_energy + (layer * TINY_KV_HEADS + kv_head) * N_BLOCKS;
    double largest = 0.0;
    for (int t = 0; t < TINY_N_TEST; t++) {
        double error = 0.0, size = 0.0;
        for (int block = 0; block < N_BLOCKS; block++) {
            int dims[2];
            block_dims_by_hand(&table->model, block, dims);
            for (int i = 0; i < 2; i++) {
                const double x = k[t * TINY_DIM + dims[i]], y = k_hat[t * TINY_DIM + dims[i]];
                error += energy[block] * (x - y) * (x - y);
                size += energy[block] * x * x;
            }
        }
        largest = fmax(largest, sqrt(error / size));
    }
    assert_close(tail->largest, largest, 1e-5 * largest);
}

static void the_table_carries_the_facts_and_energies_of_the_capture(void **state)
{
    (void)state;
    const capture_header *header = capture_file_header(capture);
    char sha256[RB_SHA256_HEX];
    block_statistics statistics;
    assert_ok(model_facts_same(&table->model, "table", &header->model, "capture", &err));
    assert_memory_equal(&table->calibration, &header->text[CAPTURE_CALIBRATION], sizeof table->calibration);
    assert_memory_equal(&table->test, &header->text[CAPTURE_TEST], sizeof table->test);
    assert_ok(rb_sha256_file(sha256, capture_file_path(capture), &err));
    assert_string_equal(table->capture_sha256, sha256);
    assert_ok(block_statistics_create(&statistics, &header->model, &err));
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        const size_t n = TINY_KV_HEADS * N_BLOCKS;
        assert_ok(capture_read_statistics(capture, CAPTURE_CALIBRATION, layer, &statistics, &err));
        assert_memory_equal(table->all.q_energy + (size_t)layer * n, statistics.q_energy, n * sizeof(double));
        assert_memory_equal(table->all.k_energy + (size_t)layer * n, statistics.k_energy, n * sizeof(double));
        assert_memory_equal(table->all.k_mean + (size_t)layer * TINY_KV_HEADS * header->model.head_dim,
                            statistics.k_mean, TINY_KV_HEADS * (size_t)header->model.head_dim * sizeof(double));
    }
    block_statistics_free(&statistics);
}

static void every_head_is_scored_on_its_own_test_vectors_under_its_own_plan(void **state)
{
    (void)state;
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        const tiny_layer vectors = tiny_vectors(capture_file_header(capture), CAPTURE_TEST, layer);
        for (int kv_head = 0; kv_head < TINY_KV_HEADS; kv_head++)
            for (int m = 0; m < N_PLANS; m++) {
                const float *q = vectors.q + kv_head * Q_PER_KV * SIZE, *k = vectors.k + kv_head * SIZE;
                const plan_head *head = bit_plan_head(plans[m], layer, kv_head);
                const head_score *score = method_head(&table->methods[m], &table->model, layer, kv_head);
                float k_hat[SIZE];
                restore(k_hat, head, k);
                const double mae = naive_logit_mae(&table->model, q, Q_PER_KV, k, k_hat, TINY_N_TEST),
                             causal = naive_causal_mae(q, k, k_hat);
                assert_close(score->logit_mae, mae, 1e-5 * mae);
                assert_close(score->causal_mae, causal, 2e-5 * causal); /* logits to 1000 in f32, errors around 10 */
                check_tail(&score->tail, layer, kv_head, k, k_hat);
                assert_true(score->attended_mae > 0.0 && isfinite(score->attended_mae));
                assert_close(score->relative_error, naive_relative_error(k, k_hat), 1e-9);
                assert_true(score->true_bits == plan_head_true_bits(head, TINY_DIM));
                assert_true(score->attention_kl > 0.0 && isfinite(score->attention_kl));
            }
    }
}

static void methods_are_named_by_their_plans(void **state)
{
    (void)state;
    assert_int_equal(table->n_methods, N_PLANS);
    assert_string_equal(table->methods[0].method, "uniform");
    assert_true(table->methods[0].avg_bits == 3.0);
    assert_string_equal(table->methods[1].method, "block-gtq");
    assert_true(table->methods[1].avg_bits == 2.5);
}

static void curves_are_the_uniform_codec_at_every_width(void **state)
{
    (void)state;
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        const tiny_layer vectors = tiny_vectors(capture_file_header(capture), CAPTURE_TEST, layer);
        for (int kv_head = 0; kv_head < TINY_KV_HEADS; kv_head++)
            for (int width = 1; width <= PROFILE_MAX_WIDTH; width++) {
                const float *q = vectors.q + kv_head * Q_PER_KV * SIZE, *k = vectors.k + kv_head * SIZE;
                const int curve = (layer * TINY_KV_HEADS + kv_head) * PROFILE_MAX_WIDTH + width - 1;
                plan_head head = {0};
                float k_hat[SIZE];
                assert_ok(plan_head_set_uniform(&head, width, N_BLOCKS, 42, CODEBOOK_BLOCK_GTQ, &err));
                restore(k_hat, &head, k);
                plan_head_clear(&head);
                const double mae = naive_logit_mae(&table->model, q, Q_PER_KV, k, k_hat, TINY_N_TEST);
                assert_close(table->curve_logit_mae[curve], mae, 1e-5 * mae);
                for (int block = 0; block < N_BLOCKS; block++) {
                    int dims[2];
                    double sum = 0.0;
                    block_dims_by_hand(&table->model, block, dims);
                    for (int t = 0; t < TINY_N_TEST; t++)
                        for (int i = 0; i < 2; i++)
                            sum += pow((double)k[t * TINY_DIM + dims[i]] - (double)k_hat[t * TINY_DIM + dims[i]], 2.0);
                    assert_close(table->curve_block_mse[curve * N_BLOCKS + block], sum / TINY_N_TEST, 1e-9);
                }
            }
    }
}

/* The table's uniform method at 3 bits and its curve at width 3 are the same candidate twice. */
static void a_uniform_method_lies_on_the_curve(void **state)
{
    (void)state;
    for (int head = 0; head < TINY_LAYERS * TINY_KV_HEADS; head++)
        assert_true(table->methods[0].heads[head].logit_mae == table->curve_logit_mae[head * PROFILE_MAX_WIDTH + 2]);
}

static void curves_are_left_out_when_not_asked_for(void **state)
{
    (void)state;
    profile_table *plain = NULL;
    assert_ok(profile_table_from_capture(&plain, capture, 0, &err));
    assert_ok(profile_score(plain, capture, (const bit_plan *const *)plans, 1, false, RB_DEVICE_CPU, &err));
    assert_null(plain->curve_logit_mae);
    assert_null(plain->curve_block_mse);
    assert_memory_equal(plain->methods[0].heads, table->methods[0].heads,
                        TINY_LAYERS * TINY_KV_HEADS * sizeof(head_score));
    profile_table_free(plain);
}

/* Energies, means and scores without the first N_SINK tokens of sequences of 16. */
static void exact_tokens_do_not_count(void **state)
{
    (void)state;
    enum { N_SINK = 3, CONTEXT = 16, N_COUNTED = TINY_N_CALIBRATION - 2 * N_SINK - 1 };
    const capture_header header = tiny_header(RB_H5_F32, false);
    const tiny_layer vectors = tiny_vectors(&header, CAPTURE_CALIBRATION, 1);
    profile_table *mine = NULL;
    double energy[N_BLOCKS] = {0}, mean = 0.0;
    assert_ok(profile_table_from_capture(&mine, capture, N_SINK, &err));
    assert_int_equal(mine->n_sink, N_SINK);
    assert_memory_equal(mine->all.k_energy, table->all.k_energy,
                        TINY_LAYERS * TINY_KV_HEADS * N_BLOCKS * sizeof(double));
    for (int t = 0; t < TINY_N_CALIBRATION; t++) {
        const float *k = vectors.k + (TINY_N_CALIBRATION + t) * TINY_DIM; /* layer 1, kv_head 1 */
        if (t % CONTEXT < N_SINK) continue;
        mean += (double)k[5] / N_COUNTED;
        energy[2] += ((double)k[4] * (double)k[4] + (double)k[5] * (double)k[5]) / N_COUNTED;
    }
    const int head = TINY_KV_HEADS + 1;
    assert_close(mine->counted.k_mean[head * TINY_DIM + 5], mean, 1e-9);
    assert_close(mine->counted.k_energy[head * N_BLOCKS + 2], energy[2], 1e-9 * energy[2]);
    assert_true(profile_table_statistics(mine, 1) == &mine->counted && profile_table_statistics(mine, 0) == &mine->all);
    assert_true(profile_table_statistics(table, 1) == &table->all);

    plans[0]->n_sink = N_SINK;
    assert_ok(profile_score(mine, capture, (const bit_plan *const *)plans, N_PLANS, true, RB_DEVICE_CPU, &err));
    plans[0]->n_sink = 0;
    const tiny_layer test = tiny_vectors(&header, CAPTURE_TEST, 1);
    const float *k = test.k + SIZE;
    float k_hat[SIZE];
    double error = 0.0, whole = 0.0;
    restore(k_hat, bit_plan_head(plans[0], 1, 1), k);
    for (int i = 0; i < SIZE; i++) {
        const double difference = (double)k[i] - (double)k_hat[i];
        if (i / TINY_DIM % CONTEXT >= N_SINK) error += difference * difference;
        whole += (double)k[i] * (double)k[i];
    }
    assert_close(method_head(&mine->methods[0], &mine->model, 1, 1)->relative_error, sqrt(error / whole), 1e-6);
    assert_int_equal(mine->methods[0].n_sink, N_SINK);
    assert_memory_equal(mine->methods[1].heads, table->methods[1].heads,
                        TINY_LAYERS * TINY_KV_HEADS * sizeof(head_score)); /* which keeps none */
    /* Curves leave as many out as the table: those of uniform at its width. */
    assert_true(mine->methods[0].heads[head].logit_mae == mine->curve_logit_mae[head * PROFILE_MAX_WIDTH + 2]);
    profile_table_free(mine);
}

static void a_capture_of_only_sinks_is_refused(void **state)
{
    (void)state;
    profile_table *mine = NULL;
    assert_fails(profile_table_from_capture(&mine, capture, 16, &err), RB_EINVAL,
                 "sink is 16, expected less than the 16 tokens of the capture's sequences");
}

/* Test keys of 60000 in every dim: each fits f16, their norm does not. */
static void keys_whose_norm_fits_no_f16_are_named(void **state)
{
    (void)state;
    const char *path = scratch_path("huge.h5");
    const capture_header header = tiny_header(RB_H5_F32, false);
    capture_writer *writer = NULL;
    capture_file *huge = NULL;
    profile_table *scores = NULL;
    assert_ok(tiny_create(&writer, path, &header, &err));
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        for (int layer = 0; layer < TINY_LAYERS; layer++) {
            if (set != CAPTURE_TEST || layer != 1) {
                assert_ok(tiny_write_layer(writer, &header, set, layer, &err));
                continue;
            }
            tiny_layer vectors = tiny_vectors(&header, set, layer);
            block_statistics statistics;
            for (int i = 0; i < TINY_DIM; i++) vectors.k[SIZE + 5 * TINY_DIM + i] = 60000.0f;
            assert_ok(block_statistics_create(&statistics, &header.model, &err));
            assert_ok(
                block_statistics_compute(&statistics, &header.model, layer, vectors.q, vectors.k, TINY_N_TEST, &err));
            assert_ok(capture_write_layer(writer, CAPTURE_TEST, layer, vectors.q, vectors.k, NULL, &statistics, &err));
            block_statistics_free(&statistics);
        }
    assert_ok(capture_publish(writer, &err));
    capture_writer_free(writer);
    assert_ok(capture_open(&huge, path, &err));
    assert_ok(profile_table_from_capture(&scores, huge, 0, &err));
    assert_fails(profile_score(scores, huge, (const bit_plan *const *)plans, N_PLANS, false, RB_DEVICE_CPU, &err),
                 RB_ENONFINITE, "layer 1 kv_head 1");
    profile_table_free(scores);
    capture_close(huge);
}

int main(void)
{
    rb_threads_init(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_carries_the_facts_and_energies_of_the_capture),
        cmocka_unit_test(every_head_is_scored_on_its_own_test_vectors_under_its_own_plan),
        cmocka_unit_test(methods_are_named_by_their_plans),
        cmocka_unit_test(curves_are_the_uniform_codec_at_every_width),
        cmocka_unit_test(a_uniform_method_lies_on_the_curve),
        cmocka_unit_test(exact_tokens_do_not_count),
        cmocka_unit_test(a_capture_of_only_sinks_is_refused),
        cmocka_unit_test(curves_are_left_out_when_not_asked_for),
        cmocka_unit_test(keys_whose_norm_fits_no_f16_are_named),
    };
    return cmocka_run_group_tests(tests, score_tiny_capture, free_all);
}
