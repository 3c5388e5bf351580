/* profile/profile_compute.h on a tiny capture of a model whose layers turn by two RoPEs with attention factors, and
 * whose values have a size of their own: every number is made of what belongs to its layer. */
#include "tests/test_support.h"

#include "core/threads.h"
#include "kernels/reference/head_codec.h"
#include "methods/allocator.h"
#include "profile/profile_compute.h"
#include "profile/profile_file.h"
#include "profile/profile_statistics.h"
#include "tests/calibrate/tiny_capture.h"
#include "tests/profile/profile_test.h"

enum { SIZE = TINY_N_TEST * TINY_DIM, Q_PER_KV = TINY_Q_HEADS / TINY_KV_HEADS, CONTEXT = 16 };

static rb_error err;
static capture_file *capture;
static profile_table *table;
static bit_plan *plan;

static int score(void **state)
{
    (void)state;
    const char *path = scratch_path("new.h5");
    const capture_header header = tiny_new_header();
    rb_status st;
    RB_TRY(st, tiny_write_header(path, &header, &err), done);
    RB_TRY(st, capture_open(&capture, path, &err), done);
    RB_TRY(st, profile_table_from_capture(&table, capture, 0, &err), done);
    const head_statistics statistics = profile_statistics(table, 0);
    RB_TRY(st, allocate_plan(&plan, &table->model, &table->calibration, METHOD_BLOCK_GTQ, 2.5, 3, &statistics, &err),
           done);
    RB_TRY(st, profile_score(table, capture, (const bit_plan *const *)&plan, 1, true, RB_DEVICE_CPU, &err), done);
done:
    if (st != RB_OK) fprintf(stderr, "%s\n", err.msg);
    return st == RB_OK ? 0 : -1;
}

static int free_all(void **state)
{
    (void)state;
    bit_plan_free(plan);
    profile_table_free(table);
    capture_close(capture);
    return 0;
}

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

static double naive_causal_mae(const rope_facts *rope, const float *q, const float *k, const float *k_hat)
{
    double sum = 0.0, n_pairs = 0.0;
    for (int head = 0; head < Q_PER_KV; head++)
        for (int s = 0; s < TINY_N_TEST; s++)
            for (int t = s / CONTEXT * CONTEXT; t <= s; t++, n_pairs++) {
                double error[TINY_DIM];
                for (int i = 0; i < TINY_DIM; i++)
                    error[i] = (double)k[t * TINY_DIM + i] - (double)k_hat[t * TINY_DIM + i];
                sum += fabs(turned_dot_by(&table->model, rope, q + (head * TINY_N_TEST + s) * TINY_DIM, error, t - s));
            }
    return sum / n_pairs;
}

static void keys_are_scored_by_the_rope_of_their_layer(void **state)
{
    (void)state;
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        const tiny_layer vectors = tiny_vectors(capture_file_header(capture), CAPTURE_TEST, layer);
        const rope_facts *rope = layer == 1 ? &table->model.local_rope : &table->model.rope;
        for (int h = 0; h < TINY_KV_HEADS; h++) {
            const float *q = vectors.q + h * Q_PER_KV * SIZE, *k = vectors.k + h * SIZE;
            const head_score *found = method_head(&table->methods[0], &table->model, layer, h);
            float k_hat[SIZE];
            restore(k_hat, bit_plan_head(plan, layer, h), k);
            const double mae = naive_logit_mae_by(&table->model, rope, q, Q_PER_KV, k, k_hat, TINY_N_TEST),
                         causal = naive_causal_mae(rope, q, k, k_hat);
            assert_close(found->logit_mae, mae, 1e-5 * mae);
            assert_close(found->causal_mae, causal, 4e-5 * causal);
        }
    }
}

/* Values: the energy of the attended ones, weights by both sides of a logit turned and multiplied. */
static void values_are_attended_by_the_rope_of_their_layer(void **state)
{
    (void)state;
    enum { DIM = TINY_MAX_VALUE_DIM, N = TINY_N_CALIBRATION, STRIDE = 8 };
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        const tiny_layer vectors = tiny_vectors(capture_file_header(capture), CAPTURE_CALIBRATION, layer);
        const rope_facts *rope = layer == 1 ? &table->model.local_rope : &table->model.rope;
        for (int h = 0; h < TINY_KV_HEADS; h++) {
            double energy = 0.0;
            int n = 0;
            for (int g = 0; g < Q_PER_KV; g++)
                for (int s = 0; s < N; s++) {
                    const int first = s / CONTEXT * CONTEXT;
                    double p[CONTEXT], most = -INFINITY, sum = 0.0, out[DIM] = {0.0};
                    if ((s - first) % STRIDE != STRIDE - 1 && s + 1 != N) continue;
                    for (int t = first; t <= s; t++) {
                        double key[TINY_DIM];
                        for (int i = 0; i < TINY_DIM; i++) key[i] = (double)vectors.k[(h * N + t) * TINY_DIM + i];
                        p[t - first] = table->model.attention_scale
                                       * turned_dot_by(&table->model, rope,
                                                       vectors.q + ((h * Q_PER_KV + g) * N + s) * TINY_DIM, key, t - s);
                        most = fmax(most, p[t - first]);
                    }
                    for (int t = first; t <= s; t++) sum += p[t - first] = exp(p[t - first] - most);
                    for (int t = first; t <= s; t++)
                        for (int i = 0; i < DIM; i++)
                            out[i] += p[t - first] / sum * (double)vectors.v[(h * N + t) * DIM + i];
                    for (int i = 0; i < DIM; i++) energy += out[i] * out[i];
                    n++;
                }
            assert_close(table->all.value_energy[layer * TINY_KV_HEADS + h], energy / n, 1e-3 * energy / n);
        }
    }
}

enum { N_DRAWS = 3, N_LIMIT = 20 };

/* output_sensitivity_measure of what belongs to the layer, by hand; is_known: of a capture with /output. */
static void measure_by_hand(output_sensitivity *out, const capture_header *header, int layer, int64_t n_sink,
                            bool is_known)
{
    static const int64_t starts[] = {0, CONTEXT, 2 * CONTEXT, TINY_N_CALIBRATION};
    const model_facts *model = &header->model;
    tiny_layer vectors = tiny_vectors(header, CAPTURE_CALIBRATION, layer), turned = vectors;
    float metric[TINY_MAX_METRIC];
    rope_table rope = {0};
    assert_ok(rope_table_init(&rope, model, layer == 1 ? &model->local_rope : &model->rope, CONTEXT, &err));
    rope_apply(&rope, turned.q, TINY_Q_HEADS, TINY_DIM, starts, 3);
    rope_apply(&rope, turned.k, TINY_KV_HEADS, TINY_DIM, starts, 3);
    tiny_metric(metric, header, layer);
    const sensitivity_layer in = {.q = turned.q,
                                  .turned_k = turned.k,
                                  .k = vectors.k,
                                  .v = vectors.v,
                                  .output_metric = is_known ? metric : NULL,
                                  .rope = &rope,
                                  .n_tokens = TINY_N_CALIBRATION,
                                  .context = CONTEXT,
                                  .n_sink = n_sink,
                                  .window = is_known ? header->output.window[layer] : 0,
                                  .softcap = is_known ? header->output.softcap : 0.0,
                                  .n_limit = N_LIMIT};
    assert_ok(output_sensitivity_measure(out, model, layer, &in, &err));
    rope_table_free(&rope);
}

static void assert_same_sensitivity(const output_sensitivity *a, const output_sensitivity *b)
{
    const size_t keys = TINY_LAYERS * TINY_KV_HEADS * TINY_DIM * TINY_DIM * sizeof(float),
                 values = TINY_LAYERS * TINY_KV_HEADS * TINY_MAX_VALUE_DIM * TINY_MAX_VALUE_DIM * sizeof(float);
    assert_memory_equal(a->key_metric, b->key_metric, keys);
    assert_memory_equal(a->key_covariance, b->key_covariance, keys);
    assert_memory_equal(a->value_metric, b->value_metric, values);
    assert_memory_equal(a->value_moment, b->value_moment, values);
    assert_memory_equal(a->value_moment_weighted, b->value_moment_weighted, values);
    assert_int_equal(a->n_tokens, b->n_tokens);
}

/* By its RoPE, window, softcap and output metric; a capture without /output has none of the last three. */
static void the_sensitivity_is_that_of_the_layer(void **state)
{
    (void)state;
    enum { N_SINK = 2 };
    const sensitivity_options options = {.n_tokens = N_LIMIT, .n_draws = N_DRAWS}, none = {.n_tokens = 0};
    for (int is_known = 0; is_known < 2; is_known++) {
        const char *path = scratch_path(is_known ? "sensitive.h5" : "old.h5");
        capture_header header = tiny_new_header();
        capture_file *file = NULL;
        profile_table *found = NULL;
        output_sensitivity expected;
        header.output.softcap = 40.0;
        if (!is_known) header.output = (capture_output){0};
        assert_ok(tiny_write_header(path, &header, &err));
        assert_ok(capture_open(&file, path, &err));
        assert_ok(profile_table_from_capture(&found, file, N_SINK, &err));
        assert_ok(profile_measure_sensitivity(found, file, &none, &err));
        assert_null(found->sensitivity.key_metric);
        assert_ok(profile_measure_sensitivity(found, file, &options, &err));
        assert_ok(output_sensitivity_create(&expected, &header.model, false, &err));
        expected.n_draws = N_DRAWS;
        expected.seed = SENSITIVITY_SEED;
        for (int layer = 0; layer < TINY_LAYERS; layer++) measure_by_hand(&expected, &header, layer, N_SINK, is_known);
        assert_same_sensitivity(&found->sensitivity, &expected);
        assert_int_equal(found->sensitivity.has_output_metric, is_known);
        const head_statistics statistics = profile_statistics(found, N_SINK);
        assert_true(statistics.key_metric == found->sensitivity.key_metric && statistics.value_moment_weighted);
        assert_int_equal(statistics.residual_energy != NULL, is_known);
        for (int layer = 0; layer < TINY_LAYERS && is_known; layer++)
            assert_true(statistics.residual_energy[layer] == tiny_residual_energy(layer));
        output_sensitivity_free(&expected);
        profile_table_free(found);
        capture_close(file);
    }
}

static void the_file_keeps_the_model(void **state)
{
    (void)state;
    const char *path = scratch_path("profile.h5");
    profile_table *back = NULL;
    assert_ok(profile_file_write(table, path, "{}", &err));
    assert_ok(profile_file_read(&back, path, &err));
    assert_memory_equal(&back->model, &table->model, sizeof back->model);
    profile_table_free(back);
}

static void values_of_another_size_are_read_back(void **state)
{
    (void)state;
    enum { DIM = TINY_MAX_VALUE_DIM };
    float v[TINY_KV_HEADS * TINY_MAX_TOKENS * DIM];
    const tiny_layer vectors = tiny_vectors(capture_file_header(capture), CAPTURE_TEST, 1);
    assert_ok(capture_read_v(capture, CAPTURE_TEST, 1, v, &err));
    assert_memory_equal(v, vectors.v, TINY_KV_HEADS * TINY_N_TEST * DIM * sizeof *v);
    /* A message counts by their dims. */
    const capture_header header = tiny_new_header();
    const char *path = scratch_path("bad.h5");
    capture_writer *writer = NULL;
    block_statistics statistics;
    tiny_layer bad = vectors;
    bad.v[(TINY_N_TEST + 3) * DIM + 9] = INFINITY;
    assert_ok(tiny_create(&writer, path, &header, &err));
    assert_ok(block_statistics_create(&statistics, &header.model, &err));
    assert_fails(capture_write_layer(writer, CAPTURE_TEST, 1, bad.q, bad.k, bad.v, &statistics, &err), RB_ENONFINITE,
                 "test layer 1 kv_head 1 token 3 dim 9: value inf is not finite");
    block_statistics_free(&statistics);
    capture_writer_free(writer);
}

int main(void)
{
    rb_threads_init(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_scored_by_the_rope_of_their_layer),
        cmocka_unit_test(values_are_attended_by_the_rope_of_their_layer),
        cmocka_unit_test(the_sensitivity_is_that_of_the_layer),
        cmocka_unit_test(the_file_keeps_the_model),
        cmocka_unit_test(values_of_another_size_are_read_back),
    };
    return cmocka_run_group_tests(tests, score, free_all);
}
