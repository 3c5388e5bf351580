/* The CUDA codec against the C reference: every width, many shapes, all types, both pairings, on random vectors of very
 * different sizes. */
#include "tests/gpu/codec_gpu_test.h"

static void mixed_plans_match_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const struct {
        int head_dim, rotary_dim;
        rope_pairing pairing;
    } shapes[] = {
        {64, 64, ROPE_SPLIT_HALF},   {128, 128, ROPE_SPLIT_HALF}, {128, 128, ROPE_INTERLEAVED},
        {96, 96, ROPE_SPLIT_HALF},   {80, 32, ROPE_SPLIT_HALF},   {16, 16, ROPE_SPLIT_HALF},
        {256, 256, ROPE_SPLIT_HALF}, {128, 64, ROPE_INTERLEAVED},
    };
    for (size_t s = 0; s < RB_COUNT(shapes); s++)
        for (int type = 0; type < CODEC_N_DTYPES; type++) {
            char what[96];
            plan_head heads[3] = {0};
            const model_facts model = facts_of(shapes[s].head_dim, shapes[s].rotary_dim, shapes[s].pairing, 3);
            mixed_widths(heads, &model, s % 2 ? CODEBOOK_SPHERE : CODEBOOK_BLOCK_GTQ);
            snprintf(what, sizeof what, "mixed head_dim %d rotary %d %s", shapes[s].head_dim, shapes[s].rotary_dim,
                     codec_dtype_name((codec_dtype)type));
            try_heads(heads, &model, (codec_dtype)type, 1000, what);
            clear_heads(heads, 3);
        }
}

static void every_uniform_width_matches_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int head_dims[] = {64, 128, 256};
    rb_error err = {0};
    for (size_t s = 0; s < RB_COUNT(head_dims); s++)
        for (int width = 1; width <= 8; width++) {
            char what[96];
            plan_head heads[2] = {0};
            const model_facts model = facts_of(head_dims[s], head_dims[s], ROPE_SPLIT_HALF, 2);
            for (int h = 0; h < 2; h++)
                assert_ok(plan_head_set_uniform(&heads[h], width, model_n_blocks(&model), 1000 + (uint64_t)h,
                                                CODEBOOK_BLOCK_GTQ, &err));
            snprintf(what, sizeof what, "uniform head_dim %d width %d", head_dims[s], width);
            try_heads(heads, &model, width % 2 ? CODEC_F16 : CODEC_BF16, 333, what);
            clear_heads(heads, 2);
        }
}

static void make_hadamard(plan_head *heads, int n)
{
    for (int h = 0; h < n; h++)
        for (int g = 0; g < heads[h].groups.n; g++) heads[h].groups.at[g].rotation.kind = ROTATION_HADAMARD;
}

static void hadamard_matches_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    for (int type = 0; type < CODEC_N_DTYPES; type++) {
        plan_head heads[3] = {0};
        const model_facts model = facts_of(128, 128, ROPE_SPLIT_HALF, 3);
        mixed_widths(heads, &model, CODEBOOK_BLOCK_GTQ);
        make_hadamard(heads, 3);
        try_heads(heads, &model, (codec_dtype)type, 500, "hadamard");
        clear_heads(heads, 3);
    }
}

/* One group a head, of the widths 1 to `most`: to 6, whose codes boundaries or cells find, and to 8, whose must be
 * searched. */
static void try_transforms(int head_dim, codec_dtype type, int most)
{
    char what[96];
    plan_head heads[8] = {0};
    const model_facts model = facts_of(head_dim, head_dim, ROPE_SPLIT_HALF, most);
    rb_error err = {0};
    for (int h = 0; h < most; h++)
        assert_ok(plan_head_set_uniform(&heads[h], h + 1, model_n_blocks(&model), 1000 + (uint64_t)h,
                                        CODEBOOK_BLOCK_GTQ, &err));
    make_hadamard(heads, most);
    snprintf(what, sizeof what, "transform head_dim %d widths to %d %s", head_dim, most, codec_dtype_name(type));
    try_heads(heads, &model, type, 70, what);
    clear_heads(heads, most);
}

static void transforms_match_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int head_dims[] = {64, 128, 256};
    for (size_t s = 0; s < RB_COUNT(head_dims); s++)
        for (int type = 0; type < CODEC_N_DTYPES; type++) {
            try_transforms(head_dims[s], (codec_dtype)type, 6);
            try_transforms(head_dims[s], (codec_dtype)type, 8);
        }
}

/* Half of the dims in a group that is transformed, at 3 bits; the others in two that are multiplied by their matrices.
 */
static void transforms_beside_matrices_match_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    rb_error err = {0};
    for (int type = 0; type < CODEC_N_DTYPES; type++) {
        plan_head heads[2] = {0};
        const model_facts model = facts_of(128, 128, ROPE_SPLIT_HALF, 2);
        uint8_t bits[RB_MAX_BLOCKS];
        for (int i = 0; i < model_n_blocks(&model); i++) bits[i] = i % 2 ? 3 : i % 3 ? 2 : 5;
        for (int h = 0; h < 2; h++)
            assert_ok(plan_head_set_block_widths(&heads[h], bits, model_n_blocks(&model), CODEBOOK_SPHERE, &err));
        make_hadamard(heads, 2);
        try_heads(heads, &model, (codec_dtype)type, 500, "transforms beside matrices");
        clear_heads(heads, 2);
    }
}

/* Few vectors, which have an encoder of their own; the last rows of a tile, and tiles that no warp fills. */
static void any_number_of_vectors(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int64_t counts[] = {1, 2, 3, 6, 16, 17, 31, 32, 33, 65, 8191};
    for (size_t i = 0; i < RB_COUNT(counts); i++) {
        plan_head heads[2] = {0};
        const model_facts model = facts_of(64, 64, ROPE_SPLIT_HALF, 2);
        mixed_widths(heads, &model, CODEBOOK_BLOCK_GTQ);
        try_heads(heads, &model, CODEC_F16, counts[i], "counts");
        clear_heads(heads, 2);
    }
}

/* ---- the general form ------------------------------------------------------------------------- */

/* What a head has beside its groups. */
typedef struct extras {
    bool has_log8, is_searched, has_scales, has_center, has_uncoded;
} extras;

/* Blocks by turns in `n_groups` groups of the widths `first` and up, or in no group; another share of them in every
 * head. */
static void extend_heads(plan_head *heads, const model_facts *model, int n_groups, int first, codebook_kind book,
                         rotation_kind rotation, const extras *with)
{
    const int n_blocks = model_n_blocks(model), n_shares = n_groups + with->has_uncoded;
    rb_error err = {0};
    for (int h = 0; h < model->n_kv_heads; h++) {
        double scales[RB_MAX_BLOCKS], center[RB_MAX_HEAD_DIM];
        heads[h] = (plan_head){.groups.norm = with->has_log8 ? NORM_LOG8 : NORM_FP16,
                               .groups.encoder = with->is_searched ? ENCODER_SEARCH : ENCODER_NEAREST};
        for (int g = 0; g < n_groups; g++) {
            int blocks[RB_MAX_BLOCKS], n = 0;
            for (int i = 0; i < n_blocks; i++)
                if ((i * (h + 1) + i / 5) % n_shares == g) blocks[n++] = i;
            if (n > 0)
                assert_ok(plan_head_add_group(&heads[h], 1 + (first + g - 1) % 8, blocks, n, book,
                                              with->has_log8 ? 9 + g : 0, &err));
        }
        for (int g = 0; g < heads[h].groups.n; g++) {
            heads[h].groups.at[g].rotation.kind = rotation;
            if (with->is_searched) heads[h].groups.at[g].coherence = (float[]){0.25f, 1.0f, 40.0f}[(g + h) % 3];
        }
        for (int i = 0; i < n_blocks; i++) scales[i] = exp2(sin(i * 3.7 + h));
        for (int i = 0; i < model->head_dim; i++) center[i] = 3.0 * sin(i * 1.3 + h);
        assert_ok(plan_head_set_transform(&heads[h], with->has_scales ? scales : NULL, n_blocks,
                                          with->has_center ? center : NULL, model->head_dim, &err));
    }
}

static void try_extras(int head_dim, int n_groups, int first_width, rotation_kind rotation, codebook_kind book,
                       codec_dtype type, int64_t n, const extras *with, const char *name)
{
    char what[128];
    plan_head heads[3] = {0};
    const model_facts model = facts_of(head_dim, head_dim, ROPE_SPLIT_HALF, 3);
    extend_heads(heads, &model, n_groups, first_width, book, rotation, with);
    snprintf(what, sizeof what, "%s, head_dim %d, %d groups from %d bits, %s, %s", name, head_dim, n_groups,
             first_width, rotation == ROTATION_HAAR ? "haar" : "hadamard", codec_dtype_name(type));
    try_heads(heads, &model, type, n, what);
    clear_heads(heads, 3);
}

static void the_general_form_matches_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const struct {
        const char *name;
        extras with;
    } cases[] = {
        {"log8", {.has_log8 = true}},
        {"search", {.is_searched = true}},
        {"scales", {.has_scales = true}},
        {"centre", {.has_center = true}},
        {"scales and centre", {.has_scales = true, .has_center = true}},
        {"width 0", {.has_uncoded = true}},
        {"all", {true, true, true, true, true}},
    };
    static const int head_dims[] = {64, 128};
    for (size_t i = 0; i < RB_COUNT(cases); i++)
        for (size_t d = 0; d < RB_COUNT(head_dims); d++)
            for (int rotation = 0; rotation < ROTATION_N_KINDS; rotation++)
                for (int type = 0; type < CODEC_N_DTYPES; type++)
                    try_extras(head_dims[d], 4, 1 + (int)i % 3, (rotation_kind)rotation, CODEBOOK_SPHERE,
                               (codec_dtype)type, 500, &cases[i].with, cases[i].name);
}

/* One group of all dims, and of every other block; every width, from 6 bits on with stretches that cross several
 * boundaries. */
static void searches_of_every_width_match_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const extras with[] = {{.is_searched = true}, {true, true, true, true, true}};
    static const int head_dims[] = {16, 128, 256};
    for (size_t d = 0; d < RB_COUNT(head_dims); d++)
        for (int width = 1; width <= 8; width++)
            for (size_t i = 0; i < RB_COUNT(with); i++)
                try_extras(head_dims[d], 1, width, ROTATION_HAAR, width % 2 ? CODEBOOK_BLOCK_GTQ : CODEBOOK_SPHERE,
                           (codec_dtype)(width % 3), 333, &with[i], "one width");
}

/* Rotations and widths of every kind, the published form and the general one, with a search too, which has no encoder
 * for few. */
static void few_vectors_match_the_reference(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int64_t counts[] = {1, 2, 3, 16, 17};
    static const extras with[] = {{.has_log8 = true},
                                  {.has_scales = true, .has_center = true},
                                  {true, false, true, true, true},
                                  {.is_searched = true, .has_center = true}};
    for (size_t i = 0; i < RB_COUNT(counts); i++)
        for (int width = 1; width <= 8; width++) {
            const codec_dtype type = (codec_dtype)((i + (size_t)width) % CODEC_N_DTYPES);
            char what[96];
            rb_error err = {0};
            plan_head heads[2] = {0};
            const model_facts model = facts_of(width % 2 ? 128 : 64, width % 2 ? 128 : 64, ROPE_SPLIT_HALF, 2);
            for (int h = 0; h < 2; h++)
                assert_ok(plan_head_set_uniform(&heads[h], width, model_n_blocks(&model), 1000 + (uint64_t)h,
                                                CODEBOOK_BLOCK_GTQ, &err));
            if (width % 3 == 0) make_hadamard(heads, 2);
            snprintf(what, sizeof what, "few vectors, %d bits, %s", width, codec_dtype_name(type));
            try_heads(heads, &model, type, counts[i], what);
            clear_heads(heads, 2);
            for (size_t j = 0; j < RB_COUNT(with); j++)
                try_extras(j % 2 ? 256 : 80, 1 + width / 2, width, (rotation_kind)(width % ROTATION_N_KINDS),
                           CODEBOOK_SPHERE, type, counts[i], &with[j], "few vectors");
        }
}

/* Heads of the published form beside others: they keep their codes. */
static void kinds_of_heads_can_be_mixed(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const extras all = {true, true, true, true, true}, some = {.has_log8 = true, .has_uncoded = true};
    for (int type = 0; type < CODEC_N_DTYPES; type++) {
        plan_head heads[3] = {0}, other[3] = {0};
        const model_facts model = facts_of(128, 128, ROPE_INTERLEAVED, 3);
        mixed_widths(heads, &model, CODEBOOK_BLOCK_GTQ);
        make_hadamard(heads, 3);
        for (int h = 1; h < 3; h++) {
            clear_heads(&heads[h], 1);
            extend_heads(other, &model, 5, 2, CODEBOOK_SPHERE, ROTATION_HAAR, h == 1 ? &all : &some);
            heads[h] = other[h];
            other[h] = (plan_head){0};
            clear_heads(other, 3);
        }
        try_heads(heads, &model, (codec_dtype)type, 777, "mixed kinds");
        clear_heads(heads, 3);
    }
}

/* Six heads of other widths each, in the published form and in the general one. */
static void many_heads_share_a_layer(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    enum { N_HEADS = 6 };
    for (int is_general = 0; is_general < 2; is_general++)
        for (int type = 0; type < CODEC_N_DTYPES; type++) {
            char what[96];
            plan_head heads[N_HEADS] = {0};
            const model_facts model = facts_of(128, 128, ROPE_SPLIT_HALF, N_HEADS);
            mixed_widths(heads, &model, CODEBOOK_SPHERE);
            for (int h = 0; is_general && h < N_HEADS; h++) {
                heads[h].groups.norm = NORM_LOG8;
                heads[h].groups.encoder = ENCODER_SEARCH;
                for (int g = 0; g < heads[h].groups.n; g++) heads[h].groups.at[g].norm_exponent = 9;
            }
            snprintf(what, sizeof what, "six heads, %s, %s", is_general ? "general" : "published",
                     codec_dtype_name((codec_dtype)type));
            try_heads(heads, &model, (codec_dtype)type, 777, what);
            clear_heads(heads, N_HEADS);
        }
}

/* One vector of n; a later one too. with: NULL for the published form. */
static void try_bad_vector(float bad, codec_dtype type, const extras *with, int64_t n, int64_t bad_vector,
                           int64_t later)
{
    enum { BAD_HEAD = 1, D = 64 };
    codec_trial trial;
    rb_error err = {0};
    plan_head heads[2] = {0};
    const model_facts model = facts_of(D, D, ROPE_SPLIT_HALF, 2);
    if (with) extend_heads(heads, &model, 1, 3, CODEBOOK_SPHERE, ROTATION_HAAR, with);
    else mixed_widths(heads, &model, CODEBOOK_BLOCK_GTQ);
    float *x = some_vectors(3, 2, n, D, type), *queries = normal_floats(4, 2 * N_QUERIES * D);
    for (int j = 0; j < D; j++) x[(BAD_HEAD * n + bad_vector) * D + j] = x[(BAD_HEAD * n + later) * D + j] = bad;
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
    assert_int_equal(trial.first_bad, BAD_HEAD * n + bad_vector);
    codec_trial_free(&trial);
    clear_heads(heads, 2);
    free(x);
    free(queries);
}

static void a_vector_that_cannot_be_stored_is_named(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const float bad[] = {NAN, INFINITY, 60000.0f}; /* 64 times 60000: the norm leaves fp16 */
    static const extras searched = {.is_searched = true, .has_center = true}, shifted = {.has_center = true};
    for (size_t i = 0; i < RB_COUNT(bad); i++)
        for (int type = 0; type < CODEC_N_DTYPES; type++) {
            try_bad_vector(bad[i], (codec_dtype)type, NULL, 100, 57, 77);
            try_bad_vector(bad[i], (codec_dtype)type, &searched, 100, 57, 77);
            try_bad_vector(bad[i], (codec_dtype)type, NULL, 8, 5, 7);
            try_bad_vector(bad[i], (codec_dtype)type, &shifted, 8, 5, 7);
        }
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(mixed_plans_match_the_reference),
        cmocka_unit_test(every_uniform_width_matches_the_reference),
        cmocka_unit_test(hadamard_matches_the_reference),
        cmocka_unit_test(transforms_match_the_reference),
        cmocka_unit_test(transforms_beside_matrices_match_the_reference),
        cmocka_unit_test(any_number_of_vectors),
        cmocka_unit_test(the_general_form_matches_the_reference),
        cmocka_unit_test(searches_of_every_width_match_the_reference),
        cmocka_unit_test(few_vectors_match_the_reference),
        cmocka_unit_test(kinds_of_heads_can_be_mixed),
        cmocka_unit_test(many_heads_share_a_layer),
        cmocka_unit_test(a_vector_that_cannot_be_stored_is_named),
    };
    return cmocka_run_group_tests(cases, open_tables, close_tables);
}
