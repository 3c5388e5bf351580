/* Energies, allocations and logit MAE against numbers that Python made (numpy forward pass, numpy codec;
 * tests/fixtures/demo-llama-reference.json, others in ../shared/reference): the whole way from a checkpoint and token
 * ids to the number everything is judged by. RB_TEST_REPORT=1 prints the largest deviations. */
#include "tests/test_support.h"

#include "calibrate/block_statistics.h"
#include "core/json.h"
#include "core/threads.h"
#include "kernels/reference/head_codec.h"
#include "methods/allocator.h"
#include "model/forward.h"
#include "profile/logit_error.h"

/* Two f32 forward passes: only rounding tells the energies apart. A code at a boundary may fall either way, which
 * moves a mean over 10^5 errors by far less than this. */
static const double energy_tolerance = 1e-4, mae_tolerance = 2e-3;

enum { MAX_TOKENS = 4096, N_METHODS = 4 };

static const struct {
    const char *name; /* in the reference */
    allocation_method method;
    int bits;
    const char *bits_name; /* of the allocation */
} methods[N_METHODS] = {
    {"uniform@2", METHOD_UNIFORM, 2, "2"},
    {"block-gtq@2", METHOD_BLOCK_GTQ, 2, "2"},
    {"uniform@3", METHOD_UNIFORM, 3, "3"},
    {"block-gtq@3", METHOD_BLOCK_GTQ, 3, "3"},
};

typedef struct deviation {
    double energy, head_mae, layer_mae; /* largest, relative */
} deviation;

typedef struct reference_run {
    const cJSON *reference;
    const model_facts *model;
    int64_t n_calibration, n_test;
    codec_tables *tables;
    offset_table *offsets;
    float *q, *k; /* a set's share of a layer, contiguous */
    block_statistics statistics;
    double mae_sum[N_METHODS]; /* over the heads of a layer */
    deviation worst;
} reference_run;

/* ---- the reference --------------------------------------------------------------------------- */

static double reference_number(const cJSON *object, const char *key)
{
    const cJSON *item = rb_json_find(object, key);
    if (!cJSON_IsNumber(item)) fail_msg("the reference has no number %s", key);
    return item->valuedouble;
}

static const cJSON *reference_list(const cJSON *object, const char *key, int n)
{
    const cJSON *item = rb_json_find(object, key);
    if (!cJSON_IsArray(item) || (n >= 0 && cJSON_GetArraySize(item) != n))
        fail_msg("the reference has no list %s of %d", key, n);
    return item;
}

/* Heads are listed layer by layer, KV head by KV head. */
static const cJSON *reference_head(const reference_run *run, int layer, int kv_head)
{
    const cJSON *head =
        cJSON_GetArrayItem(reference_list(run->reference, "heads", run->model->n_layers * run->model->n_kv_heads),
                           layer * run->model->n_kv_heads + kv_head);
    assert_int_equal((int)reference_number(head, "layer"), layer);
    assert_int_equal((int)reference_number(head, "kv_head"), kv_head);
    return head;
}

static double check_relative(double found, double expected, double tolerance, const char *what, int layer, int kv_head)
{
    const double relative = fabs(found / expected - 1.0);
    if (!(relative <= tolerance))
        fail_msg("layer %d kv_head %d: %s is %.9g, the reference says %.9g", layer, kv_head, what, found, expected);
    return relative;
}

/* ---- one layer ------------------------------------------------------------------------------- */

/* Tokens [first, first + n) of every head. */
static void slice(float *out, const float *heads, int n_heads, int64_t n_all, int64_t first, int64_t n, int dim)
{
    for (int head = 0; head < n_heads; head++)
        memcpy(out + head * n * dim, heads + (head * n_all + first) * dim, (size_t)(n * dim) * sizeof *out);
}

static void take_set(reference_run *run, const layer_heads *heads, int64_t first, int64_t n)
{
    slice(run->q, heads->q, run->model->n_q_heads, heads->n_tokens, first, n, run->model->head_dim);
    slice(run->k, heads->k, run->model->n_kv_heads, heads->n_tokens, first, n, run->model->head_dim);
}

static void check_energies(reference_run *run, const double *found, const char *name, int layer, int kv_head)
{
    const cJSON *item, *list = reference_list(reference_head(run, layer, kv_head), name, run->statistics.n_blocks);
    cJSON_ArrayForEach (item, list)
        run->worst.energy = fmax(run->worst.energy,
                                 check_relative(*found++, item->valuedouble, energy_tolerance, name, layer, kv_head));
}

static void check_allocation(const reference_run *run, const plan_head *head, int method, int layer, int kv_head)
{
    const int n_blocks = run->statistics.n_blocks;
    const cJSON *reference = reference_head(run, layer, kv_head);
    const cJSON *bits = reference_list(rb_json_find(reference, "bits"), methods[method].bits_name, n_blocks), *item;
    uint8_t found[RB_MAX_BLOCKS];
    int block = 0;
    plan_head_bits(head, found, n_blocks);
    cJSON_ArrayForEach (item, bits) {
        assert_int_equal(found[block], (int)item->valuedouble);
        block++;
    }
    assert_true(plan_head_true_bits(head, run->model->head_dim)
                == reference_number(rb_json_find(reference, "true_bits"), methods[method].name));
}

/* Logit MAE of a head on the test tokens under a method made of the calibration energies. */
static double head_mae(reference_run *run, int method, int layer, int kv_head)
{
    const model_facts *model = run->model;
    const int n_blocks = run->statistics.n_blocks;
    const int64_t size = run->n_test * model->head_dim;
    const head_energy energy = {.n_blocks = n_blocks,
                                .q_energy = run->statistics.q_energy + kv_head * n_blocks,
                                .k_energy = run->statistics.k_energy + kv_head * n_blocks};
    const float *q = run->q + kv_head * model_q_per_kv(model) * size, *k = run->k + kv_head * size;
    float *k_hat = malloc((size_t)size * sizeof *k_hat);
    rb_error err = {0};
    plan_head head = {0};
    head_codec *codec = NULL;
    double mae;
    assert_non_null(k_hat);
    assert_ok(allocate_head(&head, methods[method].method, methods[method].bits, &energy, &err));
    if (methods[method].method == METHOD_BLOCK_GTQ) check_allocation(run, &head, method, layer, kv_head);
    assert_ok(head_codec_create(&codec, &head, model, run->tables, &err));
    assert_ok(head_codec_round_trip(codec, k, run->n_test, k_hat, &err));
    assert_ok(logit_mae(&mae, run->offsets, q, model_q_per_kv(model), k, (const float *const[]){k_hat}, 1, run->n_test,
                        &err));
    head_codec_free(codec);
    plan_head_clear(&head);
    free(k_hat);
    return mae;
}

static rb_status check_layer(void *user, layer_heads *heads, rb_error *hook_err)
{
    reference_run *run = user;
    const cJSON *by_layer =
        cJSON_GetArrayItem(reference_list(run->reference, "logit_mae_by_layer", run->model->n_layers), heads->layer);
    rb_error err = {0};
    (void)hook_err;
    take_set(run, heads, 0, run->n_calibration);
    assert_ok(
        block_statistics_compute(&run->statistics, run->model, heads->layer, run->q, run->k, run->n_calibration, &err));
    take_set(run, heads, run->n_calibration, run->n_test);
    memset(run->mae_sum, 0, sizeof run->mae_sum);
    for (int kv_head = 0; kv_head < run->model->n_kv_heads; kv_head++) {
        const cJSON *expected = rb_json_find(reference_head(run, heads->layer, kv_head), "logit_mae");
        check_energies(run, run->statistics.q_energy + kv_head * run->statistics.n_blocks, "q_energy", heads->layer,
                       kv_head);
        check_energies(run, run->statistics.k_energy + kv_head * run->statistics.n_blocks, "k_energy", heads->layer,
                       kv_head);
        for (int m = 0; m < N_METHODS; m++) {
            const double mae = head_mae(run, m, heads->layer, kv_head);
            const double relative = check_relative(mae, reference_number(expected, methods[m].name), mae_tolerance,
                                                   methods[m].name, heads->layer, kv_head);
            run->worst.head_mae = fmax(run->worst.head_mae, relative);
            run->mae_sum[m] += mae;
        }
    }
    for (int m = 0; m < N_METHODS; m++) {
        const double mean = run->mae_sum[m] / run->model->n_kv_heads;
        const double relative = check_relative(mean, reference_number(by_layer, methods[m].name), mae_tolerance,
                                               methods[m].name, heads->layer, -1);
        run->worst.layer_mae = fmax(run->worst.layer_mae, relative);
    }
    return RB_OK;
}

/* ---- a model --------------------------------------------------------------------------------- */

static int64_t append_ids(int32_t *tokens, int64_t n, const cJSON *reference, const char *name)
{
    const cJSON *item, *list = reference_list(reference, name, -1);
    assert_true(cJSON_GetArraySize(list) > 0 && n + cJSON_GetArraySize(list) <= MAX_TOKENS);
    cJSON_ArrayForEach (item, list) tokens[n++] = (int32_t)item->valuedouble;
    return n;
}

static void check_reference(const char *folder, const char *path)
{
    static int32_t tokens[MAX_TOKENS];
    int64_t starts[MAX_TOKENS + 1], n_sequences = 0;
    rb_error err = {0};
    cJSON *reference = NULL;
    checkpoint *model = NULL;
    assert_ok(rb_json_read(&reference, path, 0, &err));
    assert_ok(checkpoint_open(&model, folder, &err));
    reference_run run = {.reference = reference, .model = &checkpoint_config(model)->facts};
    const int64_t window = (int64_t)reference_number(reference, "window");
    run.n_calibration = append_ids(tokens, 0, reference, "calibration_ids");
    const int64_t n_tokens = append_ids(tokens, run.n_calibration, reference, "test_ids");
    run.n_test = n_tokens - run.n_calibration;
    assert_int_equal(run.n_calibration % window, 0); /* so that one walk cuts both sets */
    for (int64_t at = 0; at < n_tokens; at += window) starts[n_sequences++] = at;
    starts[n_sequences] = n_tokens;

    const size_t head_floats =
        (size_t)(run.n_calibration > run.n_test ? run.n_calibration : run.n_test) * (size_t)run.model->head_dim;
    assert_ok(codec_tables_create(&run.tables, &err));
    assert_ok(offset_table_create(&run.offsets, run.model, &run.model->rope, &err));
    assert_ok(block_statistics_create(&run.statistics, run.model, &err));
    assert_ok(rb_alloc(&run.q, head_floats * (size_t)run.model->n_q_heads, sizeof *run.q, "queries", &err));
    assert_ok(rb_alloc(&run.k, head_floats * (size_t)run.model->n_kv_heads, sizeof *run.k, "keys", &err));
    assert_ok(forward_run(model, &(token_batch){tokens, n_tokens, starts, n_sequences},
                          &(forward_hooks){.user = &run, .on_qkv = check_layer}, &err));
    if (getenv("RB_TEST_REPORT"))
        fprintf(stderr, "%s: largest relative deviation: energies %.2g, logit MAE of a head %.2g, of a layer %.2g\n",
                folder, run.worst.energy, run.worst.head_mae, run.worst.layer_mae);
    free(run.q);
    free(run.k);
    block_statistics_free(&run.statistics);
    offset_table_free(run.offsets);
    codec_tables_free(run.tables);
    checkpoint_close(model);
    cJSON_Delete(reference);
}

static void demo_llama_gives_the_reference_numbers(void **state)
{
    (void)state;
    check_reference("configs/demo-llama", "tests/fixtures/demo-llama-reference.json");
}

static void small_qwen2_gives_the_reference_numbers(void **state)
{
    (void)state;
    SHARED_OR_SKIP(folder, "models/small-qwen2");
    SHARED_OR_SKIP(path, "reference/small-qwen2.json");
    check_reference(folder, path);
}

static void small_llama3_gives_the_reference_numbers(void **state)
{
    (void)state;
    SHARED_OR_SKIP(folder, "models/small-llama3");
    SHARED_OR_SKIP(path, "reference/small-llama3.json");
    check_reference(folder, path);
}

int main(void)
{
    rb_threads_init(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_llama_gives_the_reference_numbers),
        cmocka_unit_test(small_qwen2_gives_the_reference_numbers),
        cmocka_unit_test(small_llama3_gives_the_reference_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
