/* methods/allocator.h: the allocations of the published code, and the greedy rule against an independent way to the
 * same bits. */
#include "tests/test_support.h"

#include "core/json.h"
#include "methods/allocator.h"

static rb_error err;

/* ---- the published code ---------------------------------------------------------------------- */

static void read_numbers(double *out, int n, const cJSON *head, const char *key)
{
    const cJSON *list, *item;
    int i = 0;
    assert_ok(rb_json_get_array(head, key, "reference", &list, &err));
    assert_int_equal(cJSON_GetArraySize(list), n);
    cJSON_ArrayForEach (item, list) out[i++] = item->valuedouble;
}

static void assert_head_as_published(const cJSON *head)
{
    static const char *const budgets[] = {"2", "3"};
    double q[RB_MAX_BLOCKS], k[RB_MAX_BLOCKS], energy[RB_MAX_BLOCKS], expected[RB_MAX_BLOCKS], mean[RB_MAX_BLOCKS];
    uint8_t bits[RB_MAX_BLOCKS];
    const int n = cJSON_GetArraySize(rb_json_find(head, "energy"));
    const cJSON *all_bits;
    assert_in_range(n, 1, RB_MAX_BLOCKS);
    read_numbers(q, n, head, "q_energy");
    read_numbers(k, n, head, "k_energy");
    read_numbers(energy, n, head, "energy");
    head_energy_mean(&(head_energy){.n_blocks = n, .q_energy = q, .k_energy = k}, mean);
    for (int i = 0; i < n; i++) assert_true(fabs(mean[i] - energy[i]) <= 1e-12 * energy[i]);
    assert_ok(rb_json_get_object(head, "bits", "reference", &all_bits, &err));
    for (size_t b = 0; b < RB_COUNT(budgets); b++) {
        read_numbers(expected, n, all_bits, budgets[b]);
        assert_ok(allocate_greedy(bits, mean, n, atof(budgets[b]), &err));
        for (int i = 0; i < n; i++) assert_int_equal(bits[i], (int)expected[i]);
    }
}

/* Returns the number of heads. */
static int assert_as_published(const char *path)
{
    cJSON *reference = NULL;
    const cJSON *heads, *head;
    int n = 0;
    assert_ok(rb_json_read(&reference, path, 0, &err));
    assert_ok(rb_json_get_array(reference, "heads", path, &heads, &err));
    cJSON_ArrayForEach (head, heads) {
        assert_head_as_published(head);
        n++;
    }
    cJSON_Delete(reference);
    return n;
}

static void allocate_gives_demo_llama_the_published_bits(void **state)
{
    (void)state;
    assert_int_equal(assert_as_published("tests/fixtures/demo-llama-reference.json"), 4 * 2);
}

static void allocate_gives_small_llama3_the_published_bits(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "reference/small-llama3.json");
    assert_int_equal(assert_as_published(path), 8 * 4);
}

static void allocate_gives_small_qwen2_the_published_bits(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "reference/small-qwen2.json");
    assert_int_equal(assert_as_published(path), 8 * 2);
}

/* ---- the greedy rule ------------------------------------------------------------------------- */

static int sum_bits(const uint8_t *bits, int n)
{
    int sum = 0;
    for (int i = 0; i < n; i++) sum += bits[i];
    return sum;
}

static void assert_bits(const double *energy, int n, double avg_bits, const uint8_t *expected)
{
    uint8_t bits[RB_MAX_BLOCKS];
    assert_ok(allocate_greedy(bits, energy, n, avg_bits, &err));
    for (int i = 0; i < n; i++)
        if (bits[i] != expected[i]) fail_msg("%g bits, block %d: %d, expected %d", avg_bits, i, bits[i], expected[i]);
}

/* Counted by hand: 4^-1 of each is 16, 4, 1, 1/4, so four further bits go to 0 (16 -> 4), 0 before 1 (4 and 4 -> 1), 1
 * (4 -> 1), 0 (1, the lowest of three). */
static void allocate_follows_a_hand_count(void **state)
{
    (void)state;
    assert_bits((const double[]){64, 16, 4, 1}, 4, 2, (const uint8_t[]){4, 2, 1, 1});
}

static void equal_energies_get_their_bits_from_the_lowest_index_on(void **state)
{
    (void)state;
    static const double equal[] = {0.7, 0.7, 0.7, 0.7, 0.7};
    assert_bits(equal, 5, 1.0, (const uint8_t[]){1, 1, 1, 1, 1});
    assert_bits(equal, 5, 1.4, (const uint8_t[]){2, 2, 1, 1, 1});
    assert_bits(equal, 5, 2.8, (const uint8_t[]){3, 3, 3, 3, 2});
    /* A factor of 4 is a bit exactly: block 1, four times block 0, ties with it one bit later. */
    assert_bits((const double[]){0.1, 0.4}, 2, 2, (const uint8_t[]){2, 2});
    assert_bits((const double[]){0.1, 0.4}, 2, 2.5, (const uint8_t[]){2, 3});
}

static void blocks_without_energy_share_what_the_others_cannot_take(void **state)
{
    (void)state;
    assert_bits((const double[]){0, 0, 0}, 3, 3, (const uint8_t[]){7, 1, 1});
    assert_bits((const double[]){0, 5, 0}, 3, 4, (const uint8_t[]){3, 8, 1});
}

static void a_block_stops_at_eight_bits_and_the_rest_is_spent_on_others(void **state)
{
    (void)state;
    assert_bits((const double[]){1e30, 1, 1}, 3, 4, (const uint8_t[]){8, 2, 2});
    assert_bits((const double[]){1, 1e30, 1}, 3, 8, (const uint8_t[]){8, 8, 8});
}

static uint32_t next_random(uint32_t *state) { return *state = *state * 1664525u + 1013904223u; }

static void some_energies(double *energy, int n, uint32_t *state)
{
    for (int i = 0; i < n; i++)
        energy[i] = exp2((next_random(state) >> 24) / 16.0) * ((next_random(state) >> 28) == 0 ? 0.0 : 1.0);
}

typedef struct bid {
    double need;
    int block;
} bid;

static int by_need_then_index(const void *a, const void *b)
{
    const bid *x = a, *y = b;
    return x->need != y->need ? (x->need < y->need) - (x->need > y->need) : x->block - y->block;
}

/* The greedy rule without its loop: each block bids energy * 4^-b for its bit b + 1; the best bids win, and among
 * equals the lowest index. */
static void bits_of_the_best_bids(uint8_t *bits, const double *energy, int n, int n_further)
{
    static bid bids[RB_MAX_BLOCKS * ALLOCATE_MAX_BITS];
    int n_bids = 0;
    for (int i = 0; i < n; i++)
        for (int b = ALLOCATE_MIN_BITS; b < ALLOCATE_MAX_BITS; b++)
            bids[n_bids++] = (bid){energy[i] / (double)(1 << 2 * b), i};
    qsort(bids, (size_t)n_bids, sizeof *bids, by_need_then_index);
    memset(bits, ALLOCATE_MIN_BITS, (size_t)n);
    for (int i = 0; i < n_further; i++) bits[bids[i].block]++;
}

static void allocate_gives_the_bits_of_the_best_bids(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 3, 17, 32, 64, 127, RB_MAX_BLOCKS};
    double energy[RB_MAX_BLOCKS];
    uint8_t expected[RB_MAX_BLOCKS];
    uint32_t random = 7;
    for (size_t s = 0; s < RB_COUNT(sizes); s++)
        for (int eighths = 8; eighths <= 64; eighths += 5) { /* budgets that a double holds exactly */
            const int n = sizes[s];
            some_energies(energy, n, &random);
            bits_of_the_best_bids(expected, energy, n, n * eighths / 8 - n);
            assert_bits(energy, n, eighths / 8.0, expected);
        }
}

static void allocate_spends_the_whole_budget(void **state)
{
    (void)state;
    double energy[64];
    uint8_t bits[64];
    uint32_t random = 3;
    for (int n = 1; n <= 64; n++)
        for (int tenths = 10; tenths <= 80; tenths++) {
            some_energies(energy, n, &random);
            assert_ok(allocate_greedy(bits, energy, n, tenths / 10.0, &err));
            assert_int_equal(sum_bits(bits, n),
                             n * tenths
                                 / 10); /* whole numbers: 30 * 23 / 10 is 69, where 30 * 2.3 is 68.99999999999999 */
            for (int i = 0; i < n; i++) assert_in_range(bits[i], ALLOCATE_MIN_BITS, ALLOCATE_MAX_BITS);
        }
}

static void a_budget_outside_1_to_8_is_refused(void **state)
{
    (void)state;
    static const double energy[] = {1, 2};
    uint8_t bits[2];
    assert_fails(allocate_greedy(bits, energy, 2, 0.99, &err), RB_EINVAL, "0.99 bits, expected 1 to 8");
    assert_fails(allocate_greedy(bits, energy, 2, 8.01, &err), RB_EINVAL, "8.01 bits");
    assert_fails(allocate_greedy(bits, energy, 2, (double)NAN, &err), RB_EINVAL, "nan bits");
}

static void an_energy_that_is_none_is_refused_by_block(void **state)
{
    (void)state;
    uint8_t bits[3];
    assert_fails(allocate_greedy(bits, (const double[]){1, 1, -1e-9}, 3, 2, &err), RB_ENONFINITE,
                 "block 2: energy is -1e-09");
    assert_fails(allocate_greedy(bits, (const double[]){1, (double)NAN, 1}, 3, 2, &err), RB_ENONFINITE,
                 "block 1: energy is nan");
    assert_fails(allocate_greedy(bits, (const double[]){(double)INFINITY, 1, 1}, 3, 2, &err), RB_ENONFINITE,
                 "block 0: energy is inf");
}

/* ---- heads and plans ------------------------------------------------------------------------- */

enum { N_LAYERS = 2, N_KV_HEADS = 2, N_BLOCKS = 4 };

static model_facts some_model(void)
{
    model_facts model = {.model_type = "llama",
                         .n_layers = N_LAYERS,
                         .n_q_heads = 4,
                         .n_kv_heads = N_KV_HEADS,
                         .head_dim = 2 * N_BLOCKS,
                         .rotary_dim = 2 * N_BLOCKS,
                         .value_dim = 2 * N_BLOCKS,
                         .attention_scale = 1.0 / sqrt(2.0 * N_BLOCKS),
                         .rope = {.attention_factor = 1, .theta = 10000.0, .factor = 1.0}};
    memset(model.config_sha256, 'a', RB_SHA256_HEX - 1);
    for (int i = 0; i < N_BLOCKS; i++) model.rope.inv_freq[i] = pow(10000.0, -i / (double)N_BLOCKS);
    return model;
}

static void block_gtq_groups_blocks_of_equal_width(void **state)
{
    (void)state;
    plan_head head = {0};
    static const double q[] = {0, 124, 2, 8}, k[] = {8, 4, 0, 0}; /* means 4, 64, 1, 4: 2 bits give 2, 4, 1, 1 */
    assert_ok(allocate_head(&head, METHOD_BLOCK_GTQ, 2,
                            &(head_energy){.n_blocks = N_BLOCKS, .q_energy = q, .k_energy = k}, &err));
    static const struct {
        int width, n_blocks, blocks[2];
    } expected[] = {{1, 2, {2, 3}}, {2, 1, {0}}, {4, 1, {1}}};
    assert_int_equal(head.groups.n, RB_COUNT(expected));
    for (int g = 0; g < head.groups.n; g++) {
        const plan_group *group = &head.groups.at[g];
        assert_int_equal(group->width, expected[g].width);
        assert_int_equal(group->n_blocks, expected[g].n_blocks);
        assert_memory_equal(group->blocks, expected[g].blocks, (size_t)group->n_blocks * sizeof(int));
        assert_int_equal(group->order, GROUP_ORDER_BLOCK);
        assert_int_equal(group->rotation.seed, 42 + group->width);
        assert_int_equal(group->rotation.dims, 2 * group->n_blocks);
        assert_int_equal(group->codebook, CODEBOOK_BLOCK_GTQ);
    }
    plan_head_clear(&head);
}

static void uniform_is_one_group_whatever_the_energies(void **state)
{
    (void)state;
    plan_head head = {0};
    static const double q[] = {1e6, 0, 0, 0}, k[] = {1e6, 0, 0, 0};
    assert_ok(allocate_head(&head, METHOD_UNIFORM, 3,
                            &(head_energy){.n_blocks = N_BLOCKS, .q_energy = q, .k_energy = k}, &err));
    assert_int_equal(head.groups.n, 1);
    assert_int_equal(head.groups.at[0].width, 3);
    assert_int_equal(head.groups.at[0].order, GROUP_ORDER_NATURAL);
    assert_int_equal(head.groups.at[0].rotation.seed, 42);
    assert_int_equal(head.groups.at[0].rotation.dims, 2 * N_BLOCKS);
    plan_head_clear(&head);
}

/* Energies count as they leave RoPE: a plan of a model with an attention factor is that of a model without, whose
 * energies are larger by its square in the blocks that turn. */
static void a_gain_counts_in_the_blocks_that_turn(void **state)
{
    (void)state;
    model_facts model = some_model(), plain = model;
    const text_facts calibration = {.n_tokens = 77, .context = 11};
    double q[N_LAYERS * N_KV_HEADS * N_BLOCKS], k[N_LAYERS * N_KV_HEADS * N_BLOCKS], q_out[RB_COUNT(q)],
        k_out[RB_COUNT(k)];
    bit_plan *plans[3];
    plain.rotary_dim = model.rotary_dim = 4;
    model.rope.attention_factor = 4;
    model.has_local_rope = model.layer_is_local[1] = true;
    model.local_rope = model.rope;
    model.local_rope.attention_factor = 2;
    for (size_t i = 0; i < RB_COUNT(q); i++) {
        const double gain = i % N_BLOCKS >= 2 ? 1 : i < RB_COUNT(q) / 2 ? 4 : 2;
        q[i] = (double)(i * 7 % 5 + 1);
        k[i] = (double)(i * 3 % 7 + 1);
        q_out[i] = gain * gain * q[i];
        k_out[i] = gain * gain * k[i];
    }
    const head_statistics in = {.q_energy = q, .k_energy = k}, out = {.q_energy = q_out, .k_energy = k_out};
    assert_ok(allocate_plan(&plans[0], &model, &calibration, METHOD_BLOCK_GTQ, 3, 4, &in, &err));
    assert_ok(allocate_plan(&plans[1], &plain, &calibration, METHOD_BLOCK_GTQ, 3, 4, &out, &err));
    assert_ok(allocate_plan(&plans[2], &plain, &calibration, METHOD_BLOCK_GTQ, 3, 4, &in, &err));
    int n_other = 0;
    for (int h = 0; h < N_LAYERS * N_KV_HEADS; h++) {
        assert_true(plan_head_equal(&plans[0]->heads[h], &plans[1]->heads[h], &model));
        n_other += !plan_head_equal(&plans[0]->heads[h], &plans[2]->heads[h], &model);
    }
    assert_true(n_other > 0);
    for (int i = 0; i < 3; i++) bit_plan_free(plans[i]);
}

static void a_plan_takes_the_energies_of_each_head(void **state)
{
    (void)state;
    const model_facts model = some_model();
    text_facts calibration = {.n_tokens = 77, .context = 11};
    double q[N_LAYERS * N_KV_HEADS][N_BLOCKS], k[N_LAYERS * N_KV_HEADS][N_BLOCKS];
    uint8_t bits[N_BLOCKS];
    bit_plan *plan = NULL;
    memset(calibration.tokens_sha256, 'b', RB_SHA256_HEX - 1);
    for (int h = 0; h < N_LAYERS * N_KV_HEADS; h++)
        for (int i = 0; i < N_BLOCKS; i++)
            q[h][i] = k[h][i] = i == h ? 1e9 : 1.0; /* head h: all further bits to block h, up to 8 */
    assert_ok(allocate_plan(&plan, &model, &calibration, METHOD_BLOCK_GTQ, 2.5, 5,
                            &(head_statistics){.q_energy = &q[0][0], .k_energy = &k[0][0]}, &err));
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (int kv_head = 0; kv_head < N_KV_HEADS; kv_head++) {
            plan_head_bits(bit_plan_head(plan, layer, kv_head), bits, N_BLOCKS);
            for (int i = 0; i < N_BLOCKS; i++) assert_int_equal(bits[i], i == layer * N_KV_HEADS + kv_head ? 7 : 1);
        }
    assert_string_equal(plan->method, "block-gtq");
    assert_true(plan->avg_bits == 2.5);
    for (int h = 0; h < plan->model.n_layers * plan->model.n_kv_heads; h++) assert_int_equal(plan->value_widths[h], 5);
    assert_memory_equal(&plan->calibration, &calibration, sizeof calibration);
    assert_ok(model_facts_same(&plan->model, "plan", &model, "model", &err));
    bit_plan_free(plan);
}

static void setting_the_rotation_changes_its_kind_in_every_group_and_nothing_else(void **state)
{
    (void)state;
    const model_facts model = some_model();
    const text_facts calibration = {.n_tokens = 0};
    static const double q[N_LAYERS * N_KV_HEADS * N_BLOCKS] = {0, 124, 2, 8},
                                                  k[N_LAYERS * N_KV_HEADS * N_BLOCKS] = {8, 4, 0, 0};
    bit_plan *plan = NULL, *same = NULL;
    assert_ok(allocate_plan(&plan, &model, &calibration, METHOD_BLOCK_GTQ, 2, 2,
                            &(head_statistics){.q_energy = q, .k_energy = k}, &err));
    assert_ok(allocate_plan(&same, &model, &calibration, METHOD_BLOCK_GTQ, 2, 2,
                            &(head_statistics){.q_energy = q, .k_energy = k}, &err));
    allocate_set_rotation(plan, ROTATION_HADAMARD);
    assert_int_equal(plan->heads[0].groups.n, 3);
    for (int h = 0; h < N_LAYERS * N_KV_HEADS; h++)
        for (int g = 0; g < plan->heads[h].groups.n; g++) {
            const plan_group *group = &plan->heads[h].groups.at[g], *before = &same->heads[h].groups.at[g];
            assert_int_equal(before->rotation.kind, ROTATION_HAAR);
            assert_int_equal(group->rotation.kind, ROTATION_HADAMARD);
            assert_int_equal(group->rotation.seed, before->rotation.seed);
            assert_int_equal(group->rotation.dims, before->rotation.dims);
            assert_int_equal(group->width, before->width);
        }
    bit_plan_free(plan);
    bit_plan_free(same);
}

static void a_plan_that_cannot_be_made_says_why(void **state)
{
    (void)state;
    const model_facts model = some_model();
    const text_facts calibration = {.n_tokens = 0};
    double energy[N_LAYERS * N_KV_HEADS * N_BLOCKS];
    bit_plan *plan = NULL;
    for (size_t i = 0; i < RB_COUNT(energy); i++) energy[i] = 1.0;
    assert_fails(allocate_plan(&plan, &model, &calibration, METHOD_UNIFORM, 2.5, 2,
                               &(head_statistics){.q_energy = energy, .k_energy = energy}, &err),
                 RB_EINVAL, "uniform at 2.5 bits, expected a whole number");
    assert_fails(allocate_plan(&plan, &model, &calibration, METHOD_BLOCK_GTQ, 9, 2,
                               &(head_statistics){.q_energy = energy, .k_energy = energy}, &err),
                 RB_EINVAL, "budget is 9 bits");
    assert_fails(allocate_plan(&plan, &model, &calibration, METHOD_N, 2, 2,
                               &(head_statistics){.q_energy = energy, .k_energy = energy}, &err),
                 RB_EINVAL, "allocation method is 6, expected 0 to 5");
    assert_fails(allocate_plan(&plan, &model, &calibration, METHOD_BLOCK_GTQ, 2, 12,
                               &(head_statistics){.q_energy = energy, .k_energy = energy}, &err),
                 RB_EFORMAT, "value width is 12");
    energy[3 * N_BLOCKS + 1] = (double)NAN; /* head 3 is layer 1, kv_head 1 */
    assert_fails(allocate_plan(&plan, &model, &calibration, METHOD_BLOCK_GTQ, 2, 2,
                               &(head_statistics){.q_energy = energy, .k_energy = energy}, &err),
                 RB_ENONFINITE, "layer 1 kv_head 1: block 1: energy is nan");
    assert_null(plan);
}

static void methods_have_names(void **state)
{
    (void)state;
    allocation_method method;
    for (int i = 0; i < METHOD_N; i++) {
        assert_true(allocation_method_from_name(allocation_method_names[i], &method));
        assert_int_equal(method, i);
        assert_string_equal(allocation_method_name((allocation_method)i), allocation_method_names[i]);
    }
    assert_null(allocation_method_names[METHOD_N]);
    assert_false(allocation_method_from_name("Uniform", &method));
    assert_false(allocation_method_from_name("best", &method));
}

static void methods_say_what_their_heads_are(void **state)
{
    (void)state;
    for (int i = 0; i < METHOD_N; i++) {
        const allocation_method method = (allocation_method)i;
        assert_int_equal(allocation_method_family(method), method == METHOD_TRELLIS          ? FAMILY_TRELLIS
                                                           : method == METHOD_BLOCK_CODEBOOK ? FAMILY_BLOCK_CODEBOOK
                                                                                             : FAMILY_GROUPS);
        assert_true(allocation_method_is_published(method) == (i < METHOD_OPTIMAL));
        assert_true(allocation_method_is_centered(method) == (i > METHOD_OPTIMAL));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocate_gives_demo_llama_the_published_bits),
        cmocka_unit_test(allocate_gives_small_llama3_the_published_bits),
        cmocka_unit_test(allocate_gives_small_qwen2_the_published_bits),
        cmocka_unit_test(allocate_follows_a_hand_count),
        cmocka_unit_test(equal_energies_get_their_bits_from_the_lowest_index_on),
        cmocka_unit_test(blocks_without_energy_share_what_the_others_cannot_take),
        cmocka_unit_test(a_block_stops_at_eight_bits_and_the_rest_is_spent_on_others),
        cmocka_unit_test(allocate_gives_the_bits_of_the_best_bids),
        cmocka_unit_test(allocate_spends_the_whole_budget),
        cmocka_unit_test(a_budget_outside_1_to_8_is_refused),
        cmocka_unit_test(an_energy_that_is_none_is_refused_by_block),
        cmocka_unit_test(block_gtq_groups_blocks_of_equal_width),
        cmocka_unit_test(uniform_is_one_group_whatever_the_energies),
        cmocka_unit_test(a_gain_counts_in_the_blocks_that_turn),
        cmocka_unit_test(a_plan_takes_the_energies_of_each_head),
        cmocka_unit_test(setting_the_rotation_changes_its_kind_in_every_group_and_nothing_else),
        cmocka_unit_test(a_plan_that_cannot_be_made_says_why),
        cmocka_unit_test(methods_have_names),
        cmocka_unit_test(methods_say_what_their_heads_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
