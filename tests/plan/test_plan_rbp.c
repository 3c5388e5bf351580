/* plan.rbp, both versions: a round trip through the library runtimes link, what it says, its size, its centroids.
 * Damage: test_plan_rbp_damage.c. */
#include "tests/test_support.h"

#include "core/half.h"
#include "kernels/reference/head_codec.h"
#include "plan/library/plan_rbp_format.h"
#include "plan/library/ropebits_plan.h"
#include "plan/plan_rbp.h"
#include "tests/plan/some_plan.h"

static void assert_same_heads(const bit_plan *a, const bit_plan *b)
{
    for (int h = 0; h < a->model.n_layers * a->model.n_kv_heads; h++)
        assert_true(plan_head_equal(&a->heads[h], &b->heads[h], &a->model));
}

static void assert_survives(bit_plan *plan)
{
    rb_error err = {0};
    bit_plan *back = NULL;
    const char *path = scratch_path("plan.rbp");
    assert_ok(plan_rbp_write(plan, path, &err));
    assert_ok(plan_rbp_read(&back, path, &err));
    assert_ok(model_facts_same(&plan->model, "written", &back->model, "read", &err));
    assert_string_equal(plan->method, back->method);
    assert_true(plan->avg_bits == back->avg_bits);
    assert_memory_equal(plan->value_widths, back->value_widths,
                        (size_t)plan->model.n_layers * (size_t)plan->model.n_kv_heads);
    assert_int_equal(plan->value_codebook, back->value_codebook);
    assert_memory_equal(&plan->calibration, &back->calibration, sizeof plan->calibration);
    assert_same_heads(plan, back);
    bit_plan_free(plan);
    bit_plan_free(back);
}

/* Frees the plan. */
static void assert_round_trip(bit_plan *plan, int value_width)
{
    bit_plan_set_value_width(plan, value_width);
    assert_survives(plan);
}

/* Widths 1 to 8, head by head. */
static bit_plan *with_mixed_values(bit_plan *plan)
{
    for (int h = 0; h < plan->model.n_layers * plan->model.n_kv_heads; h++)
        plan->value_widths[h] = (uint8_t)(1 + 3 * h % 8);
    return plan;
}

static void a_plan_survives_the_file_for_every_pairing_and_partial_rope(void **state)
{
    (void)state;
    const model_facts split = some_model(3, 2, 64, 64, ROPE_SPLIT_HALF),
                      partial = some_model(2, 2, 80, 32, ROPE_SPLIT_HALF);
    const model_facts interleaved = some_model(2, 1, 64, 64, ROPE_INTERLEAVED),
                      partly_interleaved = some_model(1, 1, 128, 64, ROPE_INTERLEAVED);
    assert_round_trip(some_plan(&split, CODEBOOK_BLOCK_GTQ), 3);
    assert_round_trip(some_plan(&partial, CODEBOOK_BLOCK_GTQ), PLAN_FP16_WIDTH);
    assert_round_trip(some_plan(&interleaved, CODEBOOK_SPHERE), 8);
    assert_round_trip(some_plan(&partly_interleaved, CODEBOOK_SPHERE), PLAN_FP16_WIDTH);
    assert_round_trip(some_general_plan(&split), 3);
    assert_round_trip(some_general_plan(&partial), PLAN_FP16_WIDTH);
    assert_round_trip(some_general_plan(&interleaved), 8);
    assert_round_trip(some_general_plan(&partly_interleaved), 1);
    assert_survives(with_mixed_values(some_plan(&split, CODEBOOK_BLOCK_GTQ)));
    assert_survives(with_mixed_values(some_general_plan(&partial)));
}

/* The plan as the library reads it from its bytes. */
static ropebits_plan *in_library(const bit_plan *plan)
{
    rb_error err = {0};
    char error[256];
    ropebits_plan *library = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    assert_int_equal(ropebits_plan_parse(&library, bytes, size, error, sizeof error), 0);
    free(bytes);
    return library;
}

static void assert_library_value_codec(const ropebits_head *read, const bit_plan *plan, int layer, int kv_head)
{
    rb_error err = {0};
    plan_head values;
    codebook book;
    assert_ok(bit_plan_value_head(plan, layer, kv_head, &values, &err));
    assert_int_equal(read->value_width, values.groups.at[0].width);
    assert_true(read->value_bits == plan_head_true_bits(&values, plan->model.head_dim) * plan->model.head_dim);
    assert_ok(codebook_build(&book, plan->value_codebook, values.groups.at[0].width, plan->model.head_dim, &err));
    assert_memory_equal(read->value_centroids, book.centroid_f32, (size_t)book.size * sizeof(float));
    plan_head_clear(&values);
}

/* Frees the plan. */
static void assert_library_costs_and_dims(bit_plan *plan)
{
    const model_facts *model = &plan->model;
    int dims[RB_MAX_HEAD_DIM];
    uint8_t bits[RB_MAX_BLOCKS];
    ropebits_plan *library = in_library(plan);
    const plan_cost cost = bit_plan_cost(plan);
    const ropebits_plan_info *info = ropebits_plan_get_info(library);
    assert_true(fabs((info->bytes_per_token) - (cost.bytes_per_token)) <= 1e-9);
    assert_true(fabs((info->key_true_bits) - (cost.key_true_bits)) <= 1e-12);
    for (int layer = 0; layer < model->n_layers; layer++)
        for (int kv_head = 0; kv_head < model->n_kv_heads; kv_head++) {
            const plan_head *head = bit_plan_head(plan, layer, kv_head);
            const ropebits_head *read = ropebits_plan_head(library, (uint32_t)layer, (uint32_t)kv_head);
            assert_true(fabs(((double)read->key_bits / model->head_dim) - (plan_head_true_bits(head, model->head_dim)))
                        <= 1e-12);
            plan_head_bits(head, bits, model_n_blocks(model));
            assert_memory_equal(read->bits, bits, (size_t)model_n_blocks(model));
            assert_library_value_codec(read, plan, layer, kv_head);
            for (int g = 0; g < head->groups.n; g++) {
                plan_group_dims(&head->groups.at[g], model, dims);
                for (int i = 0; i < head->groups.at[g].rotation.dims; i++)
                    assert_int_equal(read->groups[g].dims[i], dims[i]);
            }
        }
    assert_null(ropebits_plan_head(library, (uint32_t)model->n_layers, 0));
    assert_null(ropebits_plan_head(library, 0, (uint32_t)model->n_kv_heads));
    ropebits_plan_close(library);
    bit_plan_free(plan);
}

static void the_library_gives_the_costs_and_dims_of_the_plan(void **state)
{
    (void)state;
    const model_facts model = some_model(3, 2, 128, 64, ROPE_SPLIT_HALF);
    assert_library_costs_and_dims(some_plan(&model, CODEBOOK_BLOCK_GTQ));
    assert_library_costs_and_dims(some_general_plan(&model));
    assert_library_costs_and_dims(with_mixed_values(some_plan(&model, CODEBOOK_SPHERE)));
    ropebits_plan_close(NULL);
}

static void the_library_says_how_keys_are_coded(void **state)
{
    (void)state;
    const model_facts model = some_model(3, 2, 16, 16, ROPE_SPLIT_HALF);
    bit_plan *plan = some_general_plan(&model), *published = some_plan(&model, CODEBOOK_BLOCK_GTQ);
    ropebits_plan *library = in_library(plan);
    const ropebits_head *all = ropebits_plan_head(library, 0, 0), *none = ropebits_plan_head(library, 0, 1);
    assert_int_equal(all->norm, ROPEBITS_NORM_LOG8);
    assert_int_equal(all->norm_bits, 8);
    assert_int_equal(all->encoder, ROPEBITS_ENCODER_SEARCH);
    assert_int_equal(all->groups[1].norm_exponent, 6);
    assert_true(all->groups[1].coherence == 1.5f);
    /* 8 blocks: 0, 3, 6 with 2 bits, 1, 4, 7 with 3, and two without: 30 bits of codes, padded, and two norms. */
    assert_int_equal(all->bits[2], 0);
    assert_int_equal(all->bits[4], 3);
    assert_int_equal(all->key_bits, 32 + 2 * 8);
    assert_memory_equal(all->scales, plan->heads[0].groups.scales, 8 * sizeof *all->scales);
    assert_memory_equal(all->center, plan->heads[0].center, 16 * sizeof *all->center);
    assert_memory_equal(ropebits_plan_head(library, 2, 0)->scales, plan->heads[4].groups.scales,
                        8 * sizeof *all->scales);
    assert_memory_equal(ropebits_plan_head(library, 2, 0)->center, plan->heads[4].center, 16 * sizeof *all->center);
    assert_int_equal(ropebits_plan_head(library, 1, 1)->groups[0].norm_exponent, NORM_MIN_EXPONENT);
    assert_int_equal(none->norm, ROPEBITS_NORM_FP16);
    assert_int_equal(none->norm_bits, 16);
    assert_null(none->scales);
    assert_null(none->center);
    ropebits_plan_close(library);
    library = in_library(published);
    assert_int_equal(ropebits_plan_head(library, 0, 0)->norm_bits, 16);
    assert_int_equal(ropebits_plan_head(library, 0, 0)->encoder, ROPEBITS_ENCODER_NEAREST);
    assert_true(ropebits_plan_head(library, 0, 0)->groups[0].coherence == 1.0f);
    assert_null(ropebits_plan_head(library, 0, 0)->scales);
    ropebits_plan_close(library);
    bit_plan_free(plan);
    bit_plan_free(published);
}

/* Restores a key by what plan/library/ropebits_plan.h says and the library gives, rotations aside. codes in coding
 * order. */
static void restore_by_the_header(float *x, const ropebits_head *head, const ropebits_plan_info *info,
                                  const uint8_t *codes, const uint16_t *norms)
{
    rb_error err = {0};
    double y[RB_MAX_HEAD_DIM] = {0}, unit[RB_MAX_HEAD_DIM], *rotation = NULL;
    for (int g = 0; g < head->n_groups; g++) {
        const ropebits_group *group = &head->groups[g];
        const int m = group->n_dims;
        double square = 0.0, norm = (double)rb_f16_to_f32(norms[g]);
        if (head->norm == ROPEBITS_NORM_LOG8)
            norm = norms[g] ? exp2(group->norm_exponent - (255 - norms[g]) / 16.0) : 0.0;
        assert_ok(rb_alloc(&rotation, (size_t)m * (size_t)m, sizeof *rotation, "rotation", &err));
        assert_ok(rotation_build(rotation, &(rotation_spec){(rotation_kind)group->rotation, group->seed, m}, &err));
        for (int j = 0; j < m; j++) unit[j] = (double)group->centroids[*codes++];
        for (int j = 0; j < m; j++) square += unit[j] * unit[j];
        for (int i = 0; i < m; i++)
            for (int j = 0; j < m; j++) y[group->dims[i]] += norm / sqrt(square) * rotation[j * m + i] * unit[j];
        free(rotation);
    }
    for (uint32_t block = 0; block < info->head_dim / 2; block++)
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t dim = block + half * info->head_dim / 2; /* split-half, all blocks turn */
            x[dim] = (float)(y[dim] / (head->scales ? (double)head->scales[block] : 1.0)
                             + (head->center ? (double)head->center[dim] : 0.0));
        }
}

static void what_the_header_says_restores_the_quantizers_keys(void **state)
{
    (void)state;
    enum { N_KEYS = 8, HEAD_DIM = 32 };
    rb_error err = {0};
    const model_facts model = some_model(4, 2, HEAD_DIM, HEAD_DIM, ROPE_SPLIT_HALF);
    bit_plan *plan = some_general_plan(&model);
    ropebits_plan *library = in_library(plan);
    codec_tables *tables = NULL;
    float keys[N_KEYS][HEAD_DIM], expected[N_KEYS][HEAD_DIM], found[HEAD_DIM];
    uint8_t codes[N_KEYS][HEAD_DIM];
    uint16_t norms[N_KEYS * 2];
    assert_ok(codec_tables_create(&tables, &err));
    for (int t = 0; t < N_KEYS; t++)
        for (int i = 0; i < HEAD_DIM; i++) keys[t][i] = (float)sin(1.7 * t + 0.9 * i * i) * (float)(1 + i % 5);
    for (uint32_t h = 0; h < 8; h++) {
        head_codec *codec = NULL;
        assert_ok(head_codec_create(&codec, &plan->heads[h], &model, tables, &err));
        assert_ok(head_codec_encode(codec, keys[0], N_KEYS, codes[0], norms, &err));
        assert_ok(head_codec_decode(codec, codes[0], norms, N_KEYS, expected[0], &err));
        for (int t = 0; t < N_KEYS; t++) {
            restore_by_the_header(found, ropebits_plan_head(library, h / 2, h % 2), ropebits_plan_get_info(library),
                                  codes[t], norms + 2 * t);
            for (int i = 0; i < HEAD_DIM; i++)
                if (!(fabsf(found[i] - expected[t][i]) <= 1e-4f))
                    fail_msg("head %u key %d dim %d: %g, expected %g", h, t, i, (double)found[i],
                             (double)expected[t][i]);
        }
        head_codec_free(codec);
    }
    codec_tables_free(tables);
    ropebits_plan_close(library);
    bit_plan_free(plan);
}

/* block-gtq centroids are rebuilt from one table a width: they must be the quantizer's own, bit for bit, for every
 * group size. */
static void centroids_are_those_of_the_quantizer_for_every_group_size(void **state)
{
    (void)state;
    rb_error err = {0};
    for (int head_dim = 2; head_dim <= 256; head_dim += 2) {
        for (int kind = 0; kind < CODEBOOK_N_KINDS; kind++) {
            if (kind == CODEBOOK_SPHERE && head_dim % 62 != 2) continue; /* stored as they are: a few sizes will do */
            const model_facts model = some_model(CODEBOOK_MAX_WIDTH, 1, head_dim, head_dim, ROPE_SPLIT_HALF);
            bit_plan *plan = NULL;
            assert_ok(bit_plan_create(&plan, &model, &err));
            strcpy(plan->method, "uniform");
            plan->avg_bits = 3.0;
            bit_plan_set_value_width(plan, PLAN_FP16_WIDTH);
            for (int w = 1; w <= CODEBOOK_MAX_WIDTH; w++)
                assert_ok(plan_head_set_uniform(bit_plan_head(plan, w - 1, 0), w, head_dim / 2, 42, (codebook_kind)kind,
                                                &err));
            ropebits_plan *library = in_library(plan);
            for (int w = 1; w <= CODEBOOK_MAX_WIDTH; w++) {
                codebook book;
                assert_ok(codebook_build(&book, (codebook_kind)kind, w, head_dim, &err));
                assert_memory_equal(ropebits_plan_head(library, (uint32_t)w - 1, 0)->groups[0].centroids,
                                    book.centroid_f32, (size_t)book.size * sizeof(float));
            }
            ropebits_plan_close(library);
            bit_plan_free(plan);
        }
    }
}

static void a_plan_of_32_layers_and_8_heads_stays_under_16_kib(void **state)
{
    (void)state;
    rb_error err = {0};
    const model_facts model = some_model(32, 8, 128, 128, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_BLOCK_GTQ);
    uint8_t *bytes = NULL;
    size_t size = 0;
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    assert_true(size < 16 * 1024);
    bit_plan_free(plan);
    free(bytes);
}
static void a_hadamard_plan_survives_the_file(void **state)
{
    (void)state;
    rb_error err = {0};
    const model_facts model = some_model(2, 2, 64, 64, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_BLOCK_GTQ), *back = NULL;
    const char *path = scratch_path("hadamard.rbp");
    for (int h = 0; h < 4; h++)
        for (int g = 0; g < plan->heads[h].groups.n; g++)
            plan->heads[h].groups.at[g].rotation.kind = h == 2 ? ROTATION_HAAR : ROTATION_HADAMARD;
    assert_ok(plan_rbp_write(plan, path, &err));
    assert_ok(plan_rbp_read(&back, path, &err));
    assert_int_equal(back->heads[0].groups.at[0].rotation.kind, ROTATION_HADAMARD);
    assert_same_heads(plan, back);
    bit_plan_free(plan);
    bit_plan_free(back);
}
static void a_missing_file_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    bit_plan *plan = NULL;
    assert_fails(plan_rbp_read(&plan, scratch_path("absent.rbp"), &err), RB_EFORMAT, "absent.rbp: No such file");
    assert_null(plan);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_survives_the_file_for_every_pairing_and_partial_rope),
        cmocka_unit_test(the_library_gives_the_costs_and_dims_of_the_plan),
        cmocka_unit_test(the_library_says_how_keys_are_coded),
        cmocka_unit_test(what_the_header_says_restores_the_quantizers_keys),
        cmocka_unit_test(centroids_are_those_of_the_quantizer_for_every_group_size),
        cmocka_unit_test(a_plan_of_32_layers_and_8_heads_stays_under_16_kib),
        cmocka_unit_test(a_hadamard_plan_survives_the_file),
        cmocka_unit_test(a_missing_file_is_named),
    };
    return cmocka_run_group_tests_name("plan_rbp", tests, NULL, NULL);
}
