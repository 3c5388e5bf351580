/* The CUDA kernels of codec family trellis against the C reference: every width, many shapes, all types, bases that are
 * matrices and bases that only scale, heads of different forms side by side. */
#include "tests/gpu/codec_gpu_test.h"

#include "kernels/reference/trellis_codec.h"

typedef enum width_order { FALLING, MIXED, ONE_WIDTH } width_order;

/* What a head has. */
typedef struct trellis_form {
    width_order order;
    int most;      /* bits of a coordinate after the first */
    int n_uncoded; /* coordinates */
    int gain_bits;
    bool has_center, is_diagonal;
} trellis_form;

static void set_widths(uint8_t *widths, int n, const trellis_form *form, int seed)
{
    const int n_coded = n - form->n_uncoded;
    for (int i = 0; i < n; i++)
        widths[i] = (uint8_t)(i >= n_coded               ? 0
                              : form->order == FALLING   ? 1 + (form->most - 1) * (n_coded - i) / n_coded
                              : form->order == ONE_WIDTH ? form->most
                                                         : 1 + (i * (seed + 5) + i * i / 7) % form->most);
    widths[0] = 8;
    if (widths[n - 1] + form->gain_bits > 8) widths[n - 1] = (uint8_t)(8 - form->gain_bits);
}

/* Coordinates of about the size of some_vectors' dims, turned into each other a little. */
static void trellis_head(plan_head *head, const model_facts *model, int seed, const trellis_form *form)
{
    const int n = model->head_dim;
    double *basis = malloc((size_t)(n * n) * sizeof *basis), weights[RB_MAX_HEAD_DIM], center[RB_MAX_HEAD_DIM];
    float *lean = normal_floats(50 + (uint64_t)seed, n * n);
    uint8_t widths[RB_MAX_HEAD_DIM];
    rb_error err = {0};
    assert_non_null(basis);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++)
            basis[i * n + j] =
                (i == j ? 1.0 : 0.0) + (form->is_diagonal ? 0.0 : 0.2 * (double)lean[i * n + j] / sqrt(n));
        for (int j = 0; j < n; j++) basis[i * n + j] *= exp(2.0 * sin(j * 7 % 31));
        weights[i] = exp(2.0 * sin(i * 0.7 + seed));
        center[i] = 3.0 * sin(i * 1.3 + seed);
    }
    set_widths(widths, n, form, seed);
    plan_head_clear(head);
    assert_ok(
        plan_head_set_trellis(head, widths, basis, weights, form->gain_bits, (1 << form->gain_bits) / 2, n, &err));
    if (form->has_center) assert_ok(plan_head_set_center(head, center, n, &err));
    free(lean);
    free(basis);
}

static void try_trellis(const model_facts *model, const trellis_form *form, codec_dtype type, int64_t n, int n_queries,
                        const char *name)
{
    char what[160];
    plan_head heads[3] = {0};
    for (int h = 0; h < model->n_kv_heads; h++) trellis_head(&heads[h], model, h, form);
    snprintf(what, sizeof what, "%s: head_dim %d, up to %d bits, %d uncoded, gain of %d bits%s%s, %s", name,
             model->head_dim, form->most, form->n_uncoded, form->gain_bits, form->has_center ? ", centre" : "",
             form->is_diagonal ? ", diagonal" : "", codec_dtype_name(type));
    try_queries(heads, model, type, n, n_queries, what);
    clear_heads(heads, model->n_kv_heads);
}

static void every_width_matches_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    for (int width = 1; width <= TRELLIS_MAX_WIDTH; width++)
        for (int kind = 0; kind < 2; kind++) {
            const trellis_form form = {.order = ONE_WIDTH,
                                       .most = width,
                                       .gain_bits = width % 4,
                                       .has_center = width % 2 == 0,
                                       .is_diagonal = kind == 1};
            const model_facts model = facts_of(kind ? 128 : 64, kind ? 128 : 64, ROPE_SPLIT_HALF, 2);
            try_trellis(&model, &form, (codec_dtype)(width % CODEC_N_DTYPES), 200, N_QUERIES, "one width");
        }
}

static void every_shape_matches_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int head_dims[] = {16, 32, 48, 64, 80, 96, 112, 128, 192, 256};
    for (size_t d = 0; d < RB_COUNT(head_dims); d++)
        for (int type = 0; type < CODEC_N_DTYPES; type++) {
            const model_facts model = facts_of(head_dims[d], head_dims[d], ROPE_SPLIT_HALF, 2);
            const int n_uncoded = type * head_dims[d] / 5;
            try_trellis(&model,
                        &(trellis_form){
                            .order = FALLING, .most = 7, .n_uncoded = n_uncoded, .gain_bits = 3, .has_center = true},
                        (codec_dtype)type, 300, N_QUERIES, "falling widths");
            try_trellis(&model, &(trellis_form){.order = MIXED, .most = 8, .n_uncoded = n_uncoded, .gain_bits = type},
                        (codec_dtype)type, 100, N_QUERIES, "mixed widths");
            try_trellis(&model,
                        &(trellis_form){.order = FALLING,
                                        .most = 6,
                                        .n_uncoded = n_uncoded,
                                        .gain_bits = 2,
                                        .has_center = type > 0,
                                        .is_diagonal = true},
                        (codec_dtype)type, 300, N_QUERIES, "only scaled");
        }
}

static void any_gain_matches_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    for (int gain_bits = 0; gain_bits <= TRELLIS_MAX_GAIN_BITS; gain_bits++) {
        const model_facts model = facts_of(128, 128, ROPE_SPLIT_HALF, 2);
        try_trellis(
            &model,
            &(trellis_form){
                .order = FALLING, .most = 5, .n_uncoded = gain_bits, .gain_bits = gain_bits, .has_center = true},
            (codec_dtype)(gain_bits % CODEC_N_DTYPES), 500, N_QUERIES, "gains");
    }
}

/* The last rows of a tile, warps without a vector; batches of queries that are full, half full, and several. */
static void any_number_of_vectors_and_queries(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int64_t counts[] = {6, 15, 16, 17, 31, 32, 33, 65, 4099};
    static const int queries[] = {1, 4, 8, 13};
    const model_facts model = facts_of(64, 64, ROPE_SPLIT_HALF, 2);
    for (int kind = 0; kind < 2; kind++) {
        const trellis_form form = {
            .order = FALLING, .most = 5, .n_uncoded = 7, .gain_bits = 3, .has_center = true, .is_diagonal = kind == 1};
        for (size_t i = 0; i < RB_COUNT(counts); i++)
            try_trellis(&model, &form, (codec_dtype)(i % CODEC_N_DTYPES), counts[i], N_QUERIES, "counts");
        for (size_t i = 0; i < RB_COUNT(queries); i++)
            try_trellis(&model, &form, CODEC_F16, 200, queries[i], "queries");
    }
}

/* Each of six heads has tables of its own; a basis that only scales stands beside matrices. */
static void heads_of_different_forms_share_a_layer(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    enum { N_HEADS = 6 };
    for (int type = 0; type < CODEC_N_DTYPES; type++) {
        char what[96];
        plan_head heads[N_HEADS] = {0};
        const model_facts model = facts_of(128, 128, ROPE_SPLIT_HALF, N_HEADS);
        for (int h = 0; h < N_HEADS; h++)
            trellis_head(&heads[h], &model, h,
                         &(trellis_form){.order = (width_order)(h % 3),
                                         .most = 2 + h,
                                         .n_uncoded = 23 * h,
                                         .gain_bits = h % 5,
                                         .has_center = h % 2 == 0,
                                         .is_diagonal = h == 3});
        snprintf(what, sizeof what, "six heads, %s", codec_dtype_name((codec_dtype)type));
        try_heads(heads, &model, (codec_dtype)type, 333, what);
        clear_heads(heads, N_HEADS);
    }
}

static void first_vector_that_is_not_finite_is_named(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    enum { N_TOKENS = 100, D = 64, N_HEADS = 2 };
    const model_facts model = facts_of(D, D, ROPE_SPLIT_HALF, N_HEADS);
    plan_head heads[N_HEADS] = {0};
    float *x = some_vectors(3, N_HEADS, N_TOKENS, D, CODEC_F16), *queries = normal_floats(8, N_HEADS * N_QUERIES * D);
    codec_trial trial;
    rb_error err = {0};
    for (int h = 0; h < N_HEADS; h++)
        trellis_head(&heads[h], &model, h, &(trellis_form){.most = 4, .n_uncoded = 9, .gain_bits = 2});
    x[(N_TOKENS + 37) * D + 63] = NAN;
    x[(N_TOKENS + 90) * D] = INFINITY;
    assert_ok(codec_trial_cuda(&trial,
                               &(codec_trial_input){.heads = heads,
                                                    .n_heads = N_HEADS,
                                                    .model = &model,
                                                    .tables = tables,
                                                    .type = CODEC_F16,
                                                    .x = x,
                                                    .n = N_TOKENS,
                                                    .queries = queries,
                                                    .n_queries = N_QUERIES},
                               &err));
    assert_int_equal(trial.first_bad, N_TOKENS + 37);
    assert_int_equal(trial.bytes_outside, 0);
    codec_trial_free(&trial);
    clear_heads(heads, N_HEADS);
    free(x);
    free(queries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_width_matches_the_reference),
        cmocka_unit_test(every_shape_matches_the_reference),
        cmocka_unit_test(any_gain_matches_the_reference),
        cmocka_unit_test(any_number_of_vectors_and_queries),
        cmocka_unit_test(heads_of_different_forms_share_a_layer),
        cmocka_unit_test(first_vector_that_is_not_finite_is_named),
    };
    return cmocka_run_group_tests(tests, open_tables, close_tables);
}
