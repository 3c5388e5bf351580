/* Projections of made-up plans: within the plan's bytes, the best that the runtime can say, refused where it cannot. */
#include "tests/test_support.h"

#include "export/runtimes/projection.h"
#include "tests/plan/some_plan.h"

static rb_error err;
static codec_tables *tables;
static int make_tables(void **state) { return (void)state, codec_tables_create(&tables, &err) == RB_OK ? 0 : 1; }
static int free_tables(void **state) { return (void)state, codec_tables_free(tables), 0; }

/* Keys of layer l have key_widths[l] bits in all heads, values value_width. */
static bit_plan *plan_of(const model_facts *model, const int *key_widths, int value_width)
{
    bit_plan *plan = NULL;
    assert_ok(bit_plan_create(&plan, model, &err));
    strcpy(plan->method, "by-hand");
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        assert_ok(plan_head_set_uniform(&plan->heads[h], key_widths[h / model->n_kv_heads], model_n_blocks(model), 42,
                                        CODEBOOK_BLOCK_GTQ, &err));
    bit_plan_set_value_width(plan, value_width);
    return plan;
}

static bit_plan *even_plan(int n_layers, int key_width, int value_width)
{
    const model_facts model = some_model(n_layers, 2, 64, 64, ROPE_SPLIT_HALF);
    int widths[64];
    for (int layer = 0; layer < n_layers; layer++) widths[layer] = key_width;
    return plan_of(&model, widths, value_width);
}

static int64_t plan_bytes(const bit_plan *plan)
{
    int64_t bytes = 0;
    for (int layer = 0; layer < plan->model.n_layers; layer++) bytes += projection_plan_layer_bytes(plan, layer);
    return bytes;
}

/* By bits. */
static rb_status project(projection **out, const bit_plan *plan, runtime_id id, bool may_be_larger)
{
    projection_costs costs = {0};
    assert_ok(projection_costs_create(&costs, plan, runtime_of(id), tables, &err));
    const rb_status st = projection_create(out, plan, runtime_of(id), &costs, may_be_larger, &err);
    projection_costs_clear(&costs);
    return st;
}

static void assert_refused(const bit_plan *plan, runtime_id id, const char *sentence)
{
    projection *p = NULL;
    assert_int_equal(project(&p, plan, id, false), RB_EUNSUPPORTED);
    assert_null(p);
    if (!strstr(err.msg, sentence)) fail_msg("\"%s\" lacks \"%s\"", err.msg, sentence);
    err = (rb_error){0};
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void bytes_of_a_plan_are_those_of_its_cost(void **state)
{
    bit_plan *plan = even_plan(8, 3, 3);
    (void)state;
    assert_true((double)plan_bytes(plan) == bit_plan_cost(plan).bytes_per_token);
    bit_plan_free(plan);
}

static void a_projection_takes_no_more_bytes_than_the_plan(void **state)
{
    int n_made = 0;
    (void)state;
    for (int id = 0; id < RUNTIME_N; id++)
        for (int keys = 1; keys <= 8; keys++)
            for (int values = 1; values <= 8; values += 3) {
                bit_plan *plan = even_plan(12, keys, values);
                projection *p = NULL;
                if (project(&p, plan, (runtime_id)id, false) == RB_OK) {
                    n_made++;
                    assert_true(projection_bytes(p) <= plan_bytes(plan));
                } else {
                    assert_non_null(strstr(err.msg, "takes"));
                    err = (rb_error){0};
                    assert_ok(project(&p, plan, (runtime_id)id, true));
                    assert_true(projection_bytes(p) > plan_bytes(plan));
                }
                projection_free(p);
                bit_plan_free(plan);
            }
    assert_true(n_made > 60);
}

static void a_runtime_without_anything_so_small_says_both_sizes(void **state)
{
    bit_plan *plan = even_plan(8, 2, 2);
    projection *p = NULL;
    (void)state;
    /* 8 layers of 2 heads, 36 bytes of q4_0 for a key and a value each; the plan has 18 for each. */
    assert_refused(plan, RUNTIME_LLAMA_CPP, "llama.cpp: takes 1152 bytes a token at least, the plan 576");
    assert_ok(project(&p, plan, RUNTIME_LLAMA_CPP, true));
    assert_int_equal(projection_bytes(p), 1152);
    projection_free(p);
    bit_plan_free(plan);
}

/* ---- layers that stay 16 bits ---------------------------------------------------------------- */

static int forced_layers(int n_layers)
{
    int n = 0;
    for (int layer = 0; layer < n_layers; layer++) n += runtime_is_forced(runtime_of(RUNTIME_VLLM), layer, n_layers);
    return n;
}

static void vllm_forces_two_layers_at_either_end(void **state)
{
    const runtime *vllm = runtime_of(RUNTIME_VLLM);
    (void)state;
    assert_int_equal(forced_layers(32), 4);
    assert_true(runtime_is_forced(vllm, 0, 32) && runtime_is_forced(vllm, 1, 32) && !runtime_is_forced(vllm, 2, 32));
    assert_true(runtime_is_forced(vllm, 30, 32) && runtime_is_forced(vllm, 31, 32) && !runtime_is_forced(vllm, 29, 32));
    assert_int_equal(forced_layers(4), 4);
    assert_int_equal(forced_layers(3), 2); /* no more than half at an end */
    assert_int_equal(forced_layers(1), 0);
    assert_false(runtime_is_forced(runtime_of(RUNTIME_LLAMA_CPP), 0, 32));
}

static void forced_layers_count_in_the_bytes(void **state)
{
    bit_plan *plan = even_plan(12, 3, 3);
    projection *p = NULL;
    (void)state;
    /* 4 layers of 2 heads and 256 bytes, 8 layers of 2 heads and 26 + 28 bytes. */
    assert_refused(plan, RUNTIME_VLLM, "vllm: takes 2912 bytes a token at least");
    assert_ok(project(&p, plan, RUNTIME_VLLM, true));
    assert_int_equal(projection_bytes(p), 2912);
    assert_int_equal(projection_n_fp16_layers(p), 4);
    for (int layer = 2; layer < 10; layer++)
        assert_string_equal(p->runtime->types[projection_layer_type(p, layer, false)].name, "turboquant_3bit_nc");
    projection_free(p);
    bit_plan_free(plan);
}

/* ---- who gets the bits ----------------------------------------------------------------------- */

static int key_width(const projection *p, int layer) { return projection_keys(p, layer, 0)->width; }

static void layers_that_the_plan_favours_get_more(void **state)
{
    const model_facts model = some_model(6, 2, 64, 64, ROPE_SPLIT_HALF);
    bit_plan *plan = plan_of(&model, (const int[]){8, 4, 4, 4, 6, 6}, 4);
    projection *p = NULL;
    (void)state;
    assert_ok(project(&p, plan, RUNTIME_EXLLAMAV3, false));
    for (int layer = 1; layer < 4; layer++) {
        assert_true(key_width(p, 0) > key_width(p, layer));
        assert_true(key_width(p, 4) > key_width(p, layer));
    }
    projection_free(p);
    plan->value_widths[0] = 8; /* one head of the first layer */
    assert_ok(project(&p, plan, RUNTIME_KVTUNER, false));
    assert_true(projection_values(p, 0, 0)->width > projection_values(p, 0, 1)->width);
    projection_free(p);
    bit_plan_free(plan);
}

static void ends_of_ik_llama_cpp_follow_the_plan(void **state)
{
    const model_facts model = some_model(6, 2, 64, 64, ROPE_SPLIT_HALF);
    bit_plan *plan = plan_of(&model, (const int[]){8, 8, 4, 4, 4, 6}, 8);
    projection *p = NULL;
    (void)state;
    assert_ok(project(&p, plan, RUNTIME_IK_LLAMA_CPP, false));
    assert_true(key_width(p, 0) == key_width(p, 1) && key_width(p, 1) > key_width(p, 2));
    assert_true(key_width(p, 2) == key_width(p, 3) && key_width(p, 3) == key_width(p, 4));
    projection_free(p);
    assert_ok(project(&p, plan, RUNTIME_LLAMA_CPP, false));
    for (int layer = 1; layer < 6; layer++) assert_int_equal(projection_layer_type(p, layer, false), p->keys[0]);
    projection_free(p);
    bit_plan_free(plan);
}

/* The sum that a projection minimises, of keys and values of three layers with one head, by trying everything. */
static double cost_of(const bit_plan *plan, const runtime *r, const double *distortion, const int *types)
{
    double cost = 0.0;
    (void)r;
    for (int i = 0; i < 6; i++) {
        const double bits =
            i < 3 ? plan_head_true_bits(&plan->heads[i], 64) : bit_plan_value_stored_bits(plan, i - 3) / 64.0;
        cost += pow(4.0, bits) * distortion[types[i]];
    }
    return cost;
}

static void no_other_choice_within_the_bytes_is_better(void **state)
{
    const model_facts model = some_model(3, 1, 64, 64, ROPE_SPLIT_HALF);
    bit_plan *plan = plan_of(&model, (const int[]){5, 3, 4}, 3);
    const runtime *r = runtime_of(RUNTIME_EXLLAMAV3);
    double distortion[RUNTIME_MAX_TYPES], best = INFINITY;
    projection *p = NULL;
    int types[6];
    (void)state;
    for (int type = 0; type < r->n_types; type++)
        assert_ok(runtime_quantizer_distortion(&distortion[type], &r->types[type].keys, 64, tables, &err));
    for (int i = 0; i < 7 * 7 * 7 * 7 * 7 * 7; i++) {
        int64_t bytes = 0;
        for (int at = 0, rest = i; at < 6; at++, rest /= 7) {
            types[at] = 1 + rest % 7;
            bytes += runtime_quantizer_bits(&r->types[types[at]].keys, 64) / 8;
        }
        if (bytes <= plan_bytes(plan)) best = fmin(best, cost_of(plan, r, distortion, types));
    }
    assert_ok(project(&p, plan, r->id, false));
    for (int i = 0; i < 3; i++) {
        types[i] = p->keys[i];
        types[3 + i] = p->values[i];
    }
    assert_true(cost_of(plan, r, distortion, types) <= best * (1 + 1e-9));
    projection_free(p);
    bit_plan_free(plan);
}

/* Errors that were measured count in place of bits: as much as the plan's, by their squares. */
static void measured_errors_decide(void **state)
{
    const model_facts model = some_model(2, 1, 64, 64, ROPE_SPLIT_HALF);
    bit_plan *plan = plan_of(&model, (const int[]){4, 4}, 4);
    const runtime *r = runtime_of(RUNTIME_EXLLAMAV3);
    projection_costs costs = {0};
    projection *p = NULL;
    (void)state;
    assert_ok(projection_costs_create(&costs, plan, r, tables, &err));
    for (int type = 0; type < r->n_types; type++) /* the second layer's keys are hard, the first's easy */
        for (int layer = 0; layer < 2; layer++)
            projection_cost_measure(&costs, SIDE_KEYS, layer, type, 0.0625, 0.001,
                                    (layer + 0.125) * pow(2.0, -r->types[type].keys.width));
    assert_float_equal((float)*projection_cost(&costs, SIDE_KEYS, 1, 7), 20.25f, 1e-4);
    assert_ok(projection_create(&p, plan, r, &costs, false, &err));
    assert_true(key_width(p, 1) > key_width(p, 0));
    /* A plan that does not err at all is taken to err as 16 bits do. */
    projection_cost_measure(&costs, SIDE_VALUES, 0, 1, 0.0, 0.25, 0.5);
    assert_float_equal((float)*projection_cost(&costs, SIDE_VALUES, 0, 1), 4.0f, 1e-6);
    projection_free(p);
    projection_costs_clear(&costs);
    bit_plan_free(plan);
}

/* ---- what cannot be ------------------------------------------------------------------------- */

static void models_that_a_runtime_cannot_run_are_refused(void **state)
{
    static const int widths[3] = {8, 8, 8};
    model_facts model = some_model(3, 2, 80, 80, ROPE_SPLIT_HALF);
    bit_plan *plan = plan_of(&model, widths, 8);
    (void)state;
    assert_refused(plan, RUNTIME_VLLM, "vllm: head_dim is 80, expected a power of two");
    assert_refused(plan, RUNTIME_MLX_LM, "mlx-lm: head_dim is 80, which none of its types can code");
    bit_plan_free(plan);
    model = some_model(3, 2, 64, 64, ROPE_SPLIT_HALF);
    model.value_dim = 512;
    plan = plan_of(&model, widths, 8);
    assert_refused(plan, RUNTIME_LLAMA_CPP, "llama.cpp: values of 512 dims and keys of 64, as in a latent cache");
    bit_plan_free(plan);
    model.value_dim = 64;
    model.has_local_rope = model.layer_is_local[1] = true;
    model.local_rope = model.rope;
    plan = plan_of(&model, widths, 8);
    assert_refused(plan, RUNTIME_EXLLAMAV3, "exllamav3: the model has layers with a sliding window");
    assert_refused(plan, RUNTIME_MLX_LM, "mlx-lm: the model has layers with a sliding window");
    bit_plan_free(plan);
}

static int mlx_widths(int head_dim)
{
    const model_facts model = some_model(3, 2, head_dim, head_dim, ROPE_SPLIT_HALF);
    const runtime *mlx = runtime_of(RUNTIME_MLX_LM);
    int widths = 0;
    for (int type = 0; type < mlx->n_types; type++)
        if (runtime_has_type(mlx, type, &model)) widths |= 1 << mlx->types[type].keys.width;
    return widths;
}

/* Where its cache makes room for as many words as it writes. */
static void mlx_has_the_widths_that_fill_its_words(void **state)
{
    (void)state;
    assert_int_equal(mlx_widths(64), 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 16);
    assert_int_equal(mlx_widths(128), 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 16);
    assert_int_equal(mlx_widths(256), 1 << 2 | 1 << 4 | 1 << 8 | 1 << 16);
}

static void what_is_lost_is_told(void **state)
{
    char lost[PROJECTION_MAX_LOST][PROJECTION_LOST_SIZE];
    bit_plan *plan = even_plan(12, 8, 8);
    const double center[64] = {1.0};
    projection *p = NULL;
    (void)state;
    assert_ok(project(&p, plan, RUNTIME_KVTUNER, false));
    assert_int_equal(projection_describe_lost(lost, p, plan), 1);
    plan->n_sink = 4;
    assert_ok(plan_head_set_center(&plan->heads[3], center, 64, &err));
    assert_int_equal(projection_describe_lost(lost, p, plan), 3);
    assert_string_equal(lost[2], "the first 4 tokens in fp16");
    projection_free(p);
    assert_ok(project(&p, plan, RUNTIME_MLX_LM, false));
    assert_int_equal(projection_describe_lost(lost, p, plan), 5);
    projection_free(p);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_of_a_plan_are_those_of_its_cost),
        cmocka_unit_test(a_projection_takes_no_more_bytes_than_the_plan),
        cmocka_unit_test(a_runtime_without_anything_so_small_says_both_sizes),
        cmocka_unit_test(vllm_forces_two_layers_at_either_end),
        cmocka_unit_test(forced_layers_count_in_the_bytes),
        cmocka_unit_test(layers_that_the_plan_favours_get_more),
        cmocka_unit_test(ends_of_ik_llama_cpp_follow_the_plan),
        cmocka_unit_test(no_other_choice_within_the_bytes_is_better),
        cmocka_unit_test(measured_errors_decide),
        cmocka_unit_test(models_that_a_runtime_cannot_run_are_refused),
        cmocka_unit_test(mlx_has_the_widths_that_fill_its_words),
        cmocka_unit_test(what_is_lost_is_told),
    };
    return cmocka_run_group_tests(tests, make_tables, free_tables);
}
