/* The CUDA kernels of codec family block-codebook against the C reference: every number of bits, many shapes, all
 * types, maps of every kind, heads of different forms side by side. */
#include "tests/gpu/codec_gpu_test.h"

/* What a head has. */
typedef struct block_codebook_form {
    int least, most; /* bits of a block */
    int gain_bits;
    bool has_center, is_skewed; /* maps that stretch up to 30 times, and some that are singular */
} block_codebook_form;

/* Maps at about the size of some_vectors' dims. */
static void block_codebook_head(plan_head *head, const model_facts *model, int seed, const block_codebook_form *form)
{
    const int n_blocks = model_n_blocks(model);
    double maps[BLOCK_CODEBOOK_MAP_SIZE * RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS], center[RB_MAX_HEAD_DIM];
    uint8_t bits[RB_MAX_BLOCKS];
    rb_error err = {0};
    for (int i = 0; i < n_blocks; i++) {
        int dims[2];
        model_block_dims(model, i, dims);
        const double scale[2] = {exp(2.0 * sin(dims[0] * 7 % 31)), exp(2.0 * sin(dims[1] * 7 % 31))};
        bits[i] = (uint8_t)(form->least + (i * (seed + 3) + i * i / 5 + seed) % (form->most - form->least + 1));
        if (bits[i] > block_codebook_most_bits(i, form->gain_bits))
            bits[i] = (uint8_t)block_codebook_most_bits(i, form->gain_bits);
        maps[3 * i] = scale[0] * (i % 4 ? 1.0 : -1.0);
        maps[3 * i + 1] = form->is_skewed ? 5.0 * sin(i * 1.9) * scale[1] : 0.4 * sin(i * 1.9) * scale[1];
        maps[3 * i + 2] = scale[1] * (form->is_skewed ? exp(2.0 * sin(i * 2.9)) : 0.9);
        if (form->is_skewed && i % 7 == 3) maps[3 * i + i % 3] = 0.0;
        weights[i] = exp(2.0 * sin(i * 0.7 + seed));
    }
    for (int i = 0; i < model->head_dim; i++) center[i] = 3.0 * sin(i * 1.3 + seed);
    plan_head_clear(head);
    if (form->has_center) assert_ok(plan_head_set_transform(head, NULL, n_blocks, center, model->head_dim, &err));
    assert_ok(plan_head_set_block_codebook(head, bits, maps, weights, form->gain_bits, n_blocks, &err));
}

static void try_block_codebook(const model_facts *model, const block_codebook_form *form, codec_dtype type, int64_t n,
                               int n_queries, const char *name)
{
    char what[160];
    plan_head heads[3] = {0};
    for (int h = 0; h < model->n_kv_heads; h++) block_codebook_head(&heads[h], model, h, form);
    snprintf(what, sizeof what, "%s: head_dim %d rotary %d %s, bits %d to %d, gain of %d bits%s, %s", name,
             model->head_dim, model->rotary_dim, model->rope.pairing == ROPE_SPLIT_HALF ? "split" : "interleaved",
             form->least, form->most, form->gain_bits, form->has_center ? ", centre" : "", codec_dtype_name(type));
    try_queries(heads, model, type, n, n_queries, what);
    clear_heads(heads, model->n_kv_heads);
}

/* All blocks alike: each way to a nearest point; from 8 bits of 128 dims on tables have no room in shared memory.
 * From 11 on blocks have levels; block 0 has 13 bits at most beside a gain of 3. */
static void every_number_of_bits_matches_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int head_dims[] = {64, 128, 256};
    for (size_t d = 0; d < RB_COUNT(head_dims); d++)
        for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_BITS - 3; bits++) {
            const block_codebook_form form = {
                .least = bits, .most = bits, .gain_bits = bits % 2 ? 3 : 2, .has_center = bits % 3 == 0};
            const model_facts model = facts_of(head_dims[d], head_dims[d], ROPE_SPLIT_HALF, 2);
            try_block_codebook(&model, &form, (codec_dtype)(bits % CODEC_N_DTYPES), 333, N_QUERIES, "one width");
        }
}

static void mixed_bits_match_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const struct {
        int head_dim, rotary_dim;
        rope_pairing pairing;
    } shapes[] = {
        {64, 64, ROPE_SPLIT_HALF},   {128, 128, ROPE_SPLIT_HALF}, {128, 128, ROPE_INTERLEAVED},
        {96, 96, ROPE_SPLIT_HALF},   {80, 32, ROPE_SPLIT_HALF},   {16, 16, ROPE_SPLIT_HALF},
        {256, 256, ROPE_SPLIT_HALF}, {128, 64, ROPE_INTERLEAVED}, {64, 12, ROPE_SPLIT_HALF},
    };
    for (size_t s = 0; s < RB_COUNT(shapes); s++)
        for (int type = 0; type < CODEC_N_DTYPES; type++) {
            const model_facts model = facts_of(shapes[s].head_dim, shapes[s].rotary_dim, shapes[s].pairing, 3);
            try_block_codebook(
                &model,
                &(block_codebook_form){.least = 0, .most = 8, .gain_bits = (int)s % 5, .has_center = s % 2 == 0},
                (codec_dtype)type, 1000, N_QUERIES, "mixed bits");
            try_block_codebook(
                &model,
                &(block_codebook_form){.least = 0, .most = 6, .gain_bits = 2, .has_center = true, .is_skewed = true},
                (codec_dtype)type, 500, N_QUERIES, "skewed maps");
            try_block_codebook(
                &model,
                &(block_codebook_form){.least = 0, .most = 16, .gain_bits = 3, .has_center = true, .is_skewed = true},
                (codec_dtype)type, 500, N_QUERIES, "points and levels");
        }
}

static void any_gain_matches_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    for (int gain_bits = 0; gain_bits <= BLOCK_CODEBOOK_MAX_GAIN_BITS; gain_bits++)
        for (int type = 0; type < CODEC_N_DTYPES; type++) {
            const model_facts model = facts_of(128, 128, ROPE_SPLIT_HALF, 2);
            try_block_codebook(
                &model, &(block_codebook_form){.least = 2, .most = 5, .gain_bits = gain_bits, .has_center = true},
                (codec_dtype)type, 700, N_QUERIES, "gains");
        }
}

/* Few vectors, which have an encoder of their own; the last rows of a tile, warps without a vector; batches of queries
 * that are full, half full, and several. */
static void any_number_of_vectors_and_queries(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int64_t counts[] = {1, 2, 3, 6, 15, 16, 17, 31, 32, 33, 65, 8191};
    static const int queries[] = {1, 4, 8, 13};
    const model_facts model = facts_of(64, 64, ROPE_SPLIT_HALF, 2);
    const block_codebook_form form = {.least = 1, .most = 6, .gain_bits = 3, .has_center = true};
    for (size_t i = 0; i < RB_COUNT(counts); i++)
        try_block_codebook(&model, &form, (codec_dtype)(i % CODEC_N_DTYPES), counts[i], N_QUERIES, "counts");
    for (size_t i = 0; i < RB_COUNT(queries); i++)
        try_block_codebook(&model, &form, CODEC_F16, 300, queries[i], "queries");
}

/* In every form that mixed_bits_match_the_reference has. */
static void few_vectors_match_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int64_t counts[] = {1, 2, 3, 16, 17};
    static const int head_dims[] = {16, 64, 80, 128, 256};
    static const block_codebook_form forms[] = {
        {.least = 0, .most = 8, .has_center = true},
        {.least = 1, .most = 10, .gain_bits = 3},
        {.least = 0, .most = 6, .gain_bits = 2, .has_center = true, .is_skewed = true},
        {.least = 0, .most = 16, .gain_bits = 3, .has_center = true, .is_skewed = true},
    };
    for (size_t i = 0; i < RB_COUNT(counts); i++)
        for (size_t d = 0; d < RB_COUNT(head_dims); d++)
            for (size_t f = 0; f < RB_COUNT(forms); f++) {
                const model_facts model =
                    facts_of(head_dims[d], head_dims[d], d % 2 ? ROPE_INTERLEAVED : ROPE_SPLIT_HALF, 3);
                try_block_codebook(&model, &forms[f], (codec_dtype)((i + d + f) % CODEC_N_DTYPES), counts[i], N_QUERIES,
                                   "few vectors");
            }
}

/* Each of six heads has tables of its own: other bits, gains and maps, a centre or none. */
static void heads_of_different_forms_share_a_layer(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    enum { N_HEADS = 6 };
    for (int kind = 0; kind < 2; kind++)
        for (int type = 0; type < CODEC_N_DTYPES; type++) {
            char what[96];
            plan_head heads[N_HEADS] = {0};
            const model_facts model = facts_of(128, 128, kind ? ROPE_INTERLEAVED : ROPE_SPLIT_HALF, N_HEADS);
            for (int h = 0; h < N_HEADS; h++)
                block_codebook_head(&heads[h], &model, h,
                                    &(block_codebook_form){.least = h % 2,
                                                           .most = kind ? 2 + h : 7,
                                                           .gain_bits = kind ? h % 4 : 3,
                                                           .has_center = kind == 0 || h % 3 == 0,
                                                           .is_skewed = kind && h == 4});
            snprintf(what, sizeof what, "six heads, kind %d, %s", kind, codec_dtype_name((codec_dtype)type));
            try_heads(heads, &model, (codec_dtype)type, 777, what);
            clear_heads(heads, N_HEADS);
        }
}

/* One vector of n; a later one too. */
static void try_bad_vector(float bad, int dim, codec_dtype type, int64_t n, int64_t bad_vector, int64_t later)
{
    enum { BAD_HEAD = 1, D = 64 };
    codec_trial trial;
    rb_error err = {0};
    plan_head heads[2] = {0};
    const model_facts model = facts_of(D, D, ROPE_SPLIT_HALF, 2);
    for (int h = 0; h < 2; h++)
        block_codebook_head(&heads[h], &model, h, &(block_codebook_form){.least = 0, .most = 4, .gain_bits = 3});
    float *x = some_vectors(3, 2, n, D, type), *queries = normal_floats(4, 2 * N_QUERIES * D);
    x[(BAD_HEAD * n + bad_vector) * D + dim] = x[(BAD_HEAD * n + later) * D + dim] = bad;
    codec_dtype_round(x, 2 * n * D, type);
    const codec_trial_input in = {.heads = heads,
                                  .n_heads = 2,
                                  .model = &model,
                                  .tables = tables,
                                  .type = type,
                                  .x = x,
                                  .n = n,
                                  .queries = queries,
                                  .n_queries = N_QUERIES};
    assert_ok(codec_trial_cuda(&trial, &in, &err));
    assert_int_equal(trial.first_bad, isfinite(bad) ? -1 : BAD_HEAD * n + bad_vector);
    codec_trial_free(&trial);
    clear_heads(heads, 2);
    free(x);
    free(queries);
}

/* In a block of no bits too. Large numbers are no reason to refuse. */
static void a_vector_that_is_not_finite_is_named(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const float bad[] = {NAN, INFINITY, -INFINITY, 60000.0f};
    for (size_t i = 0; i < RB_COUNT(bad); i++)
        for (int dim = 0; dim < 64; dim += 9)
            for (int type = 0; type < CODEC_N_DTYPES; type++) {
                try_bad_vector(bad[i], dim, (codec_dtype)type, 100, 57, 77);
                try_bad_vector(bad[i], dim, (codec_dtype)type, 8, 5, 7);
            }
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(every_number_of_bits_matches_the_reference),
        cmocka_unit_test(mixed_bits_match_the_reference),
        cmocka_unit_test(any_gain_matches_the_reference),
        cmocka_unit_test(any_number_of_vectors_and_queries),
        cmocka_unit_test(few_vectors_match_the_reference),
        cmocka_unit_test(heads_of_different_forms_share_a_layer),
        cmocka_unit_test(a_vector_that_is_not_finite_is_named),
    };
    return cmocka_run_group_tests(cases, open_tables, close_tables);
}
