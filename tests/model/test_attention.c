/* Tiled attention against the definition: every query over all its keys, in double. Grouped heads, several sequences,
 * windows, sizes beside the tile and chunk edges (128 queries, 512 keys). */
#include "tests/test_support.h"

#include <omp.h>

#include "core/threads.h"
#include "model/attention.h"
#include "tests/model/float_test.h"

enum { MAX_SEQUENCES = 4 };

typedef struct attention_case {
    int n_q_heads, n_kv_heads, head_dim, sliding_window;
    int n_sequences;
    int64_t lengths[MAX_SEQUENCES];
} attention_case;

static const attention_case cases[] = {
    {1, 1, 64, 0, 1, {1}},           {4, 2, 48, 0, 2, {31, 33}},
    {6, 2, 128, 0, 3, {129, 1, 64}}, {3, 3, 80, 0, 1, {129}},
    {6, 1, 64, 0, 2, {33, 200}},     {4, 4, 48, 0, 1, {700}},
    {2, 1, 64, 0, 2, {513, 1030}},   {40, 2, 48, 0, 1, {70}},
    {4, 2, 48, 16, 2, {31, 129}},    {6, 2, 80, 1, 1, {33}},
    {2, 2, 64, 7, 2, {1, 300}},      {2, 1, 128, 600, 1, {1300}},
    {8, 2, 64, 4096, 1, {129}},      {3, 1, 64, 33, 4, {31, 33, 129, 1}},
};

typedef struct attention_data {
    attention_shape shape;
    int64_t starts[MAX_SEQUENCES + 1];
    float *q, *k, *v, *out;
    float *recent_k, *recent_v; /* of a buffered run, else NULL */
    int64_t n_recent;
} attention_data;

static void make_data(attention_data *data, const attention_case *c, float magnitude)
{
    *data = (attention_data){0};
    data->starts[0] = 0;
    for (int s = 0; s < c->n_sequences; s++) data->starts[s + 1] = data->starts[s] + c->lengths[s];
    data->shape = (attention_shape){.n_q_heads = c->n_q_heads,
                                    .n_kv_heads = c->n_kv_heads,
                                    .head_dim = c->head_dim,
                                    .value_dim = c->head_dim,
                                    .n_tokens = data->starts[c->n_sequences],
                                    .sequence_start = data->starts,
                                    .n_sequences = c->n_sequences,
                                    .sliding_window = c->sliding_window,
                                    .scale = 1.0f / sqrtf((float)c->head_dim)};
    const size_t per_head = (size_t)data->shape.n_tokens * (size_t)c->head_dim;
    data->q = random_floats(per_head * (size_t)c->n_q_heads, 1);
    data->k = random_floats(per_head * (size_t)c->n_kv_heads, 2);
    data->v = random_floats(per_head * (size_t)c->n_kv_heads, 3);
    data->out = random_floats(per_head * (size_t)c->n_q_heads, 4);
    for (size_t i = 0; i < per_head * (size_t)c->n_q_heads; i++) data->q[i] *= magnitude;
}

static void free_data(attention_data *data)
{
    free(data->q);
    free(data->k);
    free(data->v);
    free(data->out);
    free(data->recent_k);
    free(data->recent_v);
}

static const float *row_of(const attention_data *data, const float *all, const float *recent, int64_t kv_head,
                           int64_t query, int64_t key)
{
    return (query - key < data->n_recent ? recent : all)
           + (kv_head * data->shape.n_tokens + key) * data->shape.head_dim;
}

/* Output of one query of one head, by the definition. */
static void attend_plainly(const attention_shape *shape, int q_head, int64_t first_key, int64_t query,
                           const attention_data *data, double *out)
{
    const int64_t d = shape->head_dim, kv_head = q_head / (shape->n_q_heads / shape->n_kv_heads);
    const float *q = data->q + (q_head * shape->n_tokens + query) * d;
    double largest = -INFINITY, sum = 0.0;
    double *score = malloc((size_t)(query + 1) * sizeof *score);
    assert_non_null(score);

    for (int64_t key = first_key; key <= query; key++) {
        const float *k = row_of(data, data->k, data->recent_k, kv_head, query, key);
        score[key] = 0.0;
        for (int64_t i = 0; i < d; i++) score[key] += (double)q[i] * k[i];
        score[key] *= (double)shape->scale;
        largest = fmax(largest, score[key]);
    }
    memset(out, 0, (size_t)d * sizeof *out);
    for (int64_t key = first_key; key <= query; key++) {
        const float *v = row_of(data, data->v, data->recent_v, kv_head, query, key);
        const double p = exp(score[key] - largest);
        sum += p;
        for (int64_t i = 0; i < d; i++) out[i] += p * v[i];
    }
    for (int64_t i = 0; i < d; i++) out[i] /= sum;
    free(score);
}

/* Largest difference from the definition; infinite when a value is NaN. */
static double worst_error(const attention_data *data)
{
    const attention_shape *shape = &data->shape;
    double expected[128], worst = 0.0;
    for (int64_t s = 0; s < shape->n_sequences; s++) {
        for (int64_t query = shape->sequence_start[s]; query < shape->sequence_start[s + 1]; query++) {
            int64_t first_key = shape->sequence_start[s];
            if (shape->sliding_window && query - shape->sliding_window + 1 > first_key)
                first_key = query - shape->sliding_window + 1;
            for (int head = 0; head < shape->n_q_heads; head++) {
                attend_plainly(shape, head, first_key, query, data, expected);
                const float *out = data->out + (query * shape->n_q_heads + head) * shape->head_dim;
                for (int i = 0; i < shape->head_dim; i++)
                    worst = fmax(worst, isnan(out[i]) ? INFINITY : fabs(out[i] - expected[i]));
            }
        }
    }
    return worst;
}

/* A score is a sum of up to 128 products below `magnitude`, their sizes adding up to a quarter of that, times 1 /
 * sqrt(128): 2.9 magnitude. Four f32 roundings of that size are 7e-7 magnitude; exp makes it a relative error of the
 * weights, and values are below 1. */
static double tolerance_for(float magnitude) { return 4e-7 + 7e-7 * (double)magnitude; }

static void check_cases(float magnitude)
{
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        attention_data data;
        make_data(&data, &cases[i], magnitude);
        assert_ok(attention_forward(&data.shape, data.q, data.k, data.v, data.out, &err));
        const double worst = worst_error(&data);
        if (!(worst < tolerance_for(magnitude)))
            fail_msg("case %d: error %.3g, expected below %.3g", (int)i, worst, tolerance_for(magnitude));
        free_data(&data);
    }
}

static void attention_equals_the_definition(void **state)
{
    (void)state;
    check_cases(1.0f);
}

/* Scores up to some 30: the running maximum climbs from chunk to chunk and single keys take nearly all the weight. */
static void attention_equals_the_definition_with_peaked_weights(void **state)
{
    (void)state;
    check_cases(20.0f);
}

static void attention_survives_scores_far_beyond_the_range_of_exp(void **state)
{
    (void)state;
    check_cases(1000.0f);
}

/* Keys and values of the last tokens from other arrays: none but the query's own, less and more than a tile, all. */
static void buffered_attention_equals_the_definition(void **state)
{
    (void)state;
    rb_error err = {0};
    const int64_t n_recent[] = {1, 16, 200, 5000};
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        attention_data data;
        make_data(&data, &cases[i], 1.0f);
        const size_t floats = (size_t)data.shape.n_tokens * (size_t)(data.shape.n_kv_heads * data.shape.head_dim);
        data.recent_k = random_floats(floats, 5);
        data.recent_v = random_floats(floats, 6);
        for (size_t r = 0; r < RB_COUNT(n_recent); r++) {
            data.n_recent = n_recent[r];
            assert_ok(attention_forward_buffered(&data.shape, data.q, data.k, data.v, data.recent_k, data.recent_v,
                                                 n_recent[r], data.out, &err));
            const double worst = worst_error(&data);
            if (!(worst < tolerance_for(1.0f)))
                fail_msg("case %d, %d recent: error %.3g, expected below %.3g", (int)i, (int)n_recent[r], worst,
                         tolerance_for(1.0f));
        }
        free_data(&data);
    }
}

/* Keys before the window of a tile's first query are not even multiplied by zero, so NaN there goes nowhere. The last
 * sequence starts afresh. */
static void attention_touches_no_key_before_the_window_or_the_sequence(void **state)
{
    (void)state;
    rb_error err = {0};
    const attention_case c = {2, 1, 48, 150, 2, {700, 100}};
    attention_data data;
    make_data(&data, &c, 1.0f);
    for (int64_t i = 0; i < 300 * 48; i++) data.k[i] = data.v[i] = NAN;
    assert_ok(attention_forward(&data.shape, data.q, data.k, data.v, data.out, &err));
    for (int64_t i = 0; i < 300 * 2 * 48; i++) assert_true(isnan(data.out[i]));
    /* tiles of 128 queries: the one from 512 on sees keys from 363 */
    for (int64_t i = 512 * 2 * 48; i < 800 * 2 * 48; i++) assert_true(isfinite(data.out[i]));
    free_data(&data);
}

static void attention_gives_the_same_bytes_for_any_thread_count(void **state)
{
    (void)state;
    rb_error err = {0};
    const attention_case c = {6, 2, 64, 0, 3, {333, 70, 611}};
    const int threads[] = {1, 2, 4};
    attention_data data[3];
    for (int i = 0; i < 3; i++) {
        make_data(&data[i], &c, 3.0f);
        omp_set_num_threads(threads[i]);
        assert_ok(attention_forward(&data[i].shape, data[i].q, data[i].k, data[i].v, data[i].out, &err));
        assert_memory_equal(data[i].out, data[0].out, (size_t)data[0].shape.n_tokens * 6 * 64 * sizeof(float));
    }
    for (int i = 0; i < 3; i++) free_data(&data[i]);
    rb_threads_init(0);
}

static void scratch_does_not_grow_with_the_context(void **state)
{
    (void)state;
    const int64_t one_long[] = {0, 131072};
    attention_shape shape = {.n_q_heads = 32,
                             .n_kv_heads = 8,
                             .head_dim = 128,
                             .value_dim = 128,
                             .n_tokens = 131072,
                             .sequence_start = one_long,
                             .n_sequences = 1};
    /* per thread 256 rows of 512 scores, q, weighted v, maximum and sum; beside them one entry of three words for 64
     * queries */
    const int64_t per_thread = 256 * (512 + 2 * 128 + 2) * 4;
    assert_int_equal(attention_scratch_bytes(&shape, 2), 2 * per_thread + 131072 / 64 * 24);
}

/* Rows of q from a later token on give the rows of out from there on. Tiles begin elsewhere then, so f32 sums differ.
 */
static void later_queries_get_the_rows_that_they_get_among_all(void **state)
{
    (void)state;
    rb_error err = {0};
    static const int64_t first_queries[] = {1, 31, 200, 232};
    for (int n_recent = 0; n_recent <= 20; n_recent += 20) {
        for (size_t i = 0; i < RB_COUNT(first_queries); i++) {
            const attention_case c = {6, 2, 64, n_recent ? 0 : 50, 2, {33, 200}};
            const int64_t first = first_queries[i], n = 233, d = c.head_dim, left = n - first;
            attention_data data;
            make_data(&data, &c, 1.0f);
            const float *recent_k = random_floats((size_t)(n * 2 * d), 5),
                        *recent_v = random_floats((size_t)(n * 2 * d), 6);
            float *q = malloc((size_t)(6 * left * d) * sizeof *q), *out = malloc((size_t)(6 * left * d) * sizeof *out);
            for (int h = 0; h < 6; h++)
                memcpy(q + h * left * d, data.q + (h * n + first) * d, (size_t)(left * d) * sizeof *q);
            attention_shape later = data.shape;
            later.first_query = first;
            if (n_recent == 0) {
                assert_ok(attention_forward(&data.shape, data.q, data.k, data.v, data.out, &err));
                assert_ok(attention_forward(&later, q, data.k, data.v, out, &err));
            } else {
                assert_ok(attention_forward_buffered(&data.shape, data.q, data.k, data.v, recent_k, recent_v, n_recent,
                                                     data.out, &err));
                assert_ok(
                    attention_forward_buffered(&later, q, data.k, data.v, recent_k, recent_v, n_recent, out, &err));
            }
            for (int64_t j = 0; j < 6 * left * d; j++) assert_close(out[j], data.out[first * 6 * d + j], 1e-5);
            free((void *)recent_k), free((void *)recent_v), free(q), free(out);
            free_data(&data);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_equals_the_definition),
        cmocka_unit_test(attention_equals_the_definition_with_peaked_weights),
        cmocka_unit_test(attention_survives_scores_far_beyond_the_range_of_exp),
        cmocka_unit_test(buffered_attention_equals_the_definition),
        cmocka_unit_test(attention_touches_no_key_before_the_window_or_the_sequence),
        cmocka_unit_test(attention_gives_the_same_bytes_for_any_thread_count),
        cmocka_unit_test(later_queries_get_the_rows_that_they_get_among_all),
        cmocka_unit_test(scratch_does_not_grow_with_the_context),
    };
    rb_threads_init(0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
