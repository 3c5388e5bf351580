/* Made-up models and plans for the tests of plan.rbp. Include after tests/test_support.h. */
#ifndef RB_TESTS_PLAN_SOME_PLAN_H
#define RB_TESTS_PLAN_SOME_PLAN_H

#include "plan/bit_plan.h"

static inline model_facts some_model(int n_layers, int n_kv_heads, int head_dim, int rotary_dim, rope_pairing pairing)
{
    model_facts model = {.model_type = "llama",
                         .n_layers = n_layers,
                         .n_q_heads = 4 * n_kv_heads,
                         .n_kv_heads = n_kv_heads,
                         .head_dim = head_dim,
                         .rotary_dim = rotary_dim,
                         .value_dim = head_dim,
                         .attention_scale = 1.0 / sqrt(head_dim),
                         .rope = {.attention_factor = 1,
                                  .kind = ROPE_LLAMA3,
                                  .pairing = pairing,
                                  .theta = 500000.0,
                                  .factor = 8.0,
                                  .low_freq_factor = 1.0,
                                  .high_freq_factor = 4.0,
                                  .original_max_position = 8192}};
    for (int i = 0; i < 64; i++) model.config_sha256[i] = "0123456789abcdef"[i % 16];
    for (int i = 0; i < rotary_dim / 2; i++) model.rope.inv_freq[i] = pow(500000.0, -2.0 * i / rotary_dim);
    return model;
}

/* Everything that earlier versions of the forms lack: 3 layers of which the last turns by a RoPE of its own, yarn with
 * an attention factor, and values twice as long as keys. Interleaved pairs, half of the dims turn. */
static inline model_facts some_new_model(void)
{
    model_facts model = some_model(3, 2, 16, 8, ROPE_INTERLEAVED);
    model.value_dim = 32;
    model.rope.kind = ROPE_YARN;
    model.rope.low_freq_factor = model.rope.high_freq_factor = 0;
    model.rope.attention_factor = 1.2;
    model.has_local_rope = true;
    model.local_rope = (rope_facts){.kind = ROPE_DEFAULT,
                                    .pairing = ROPE_INTERLEAVED,
                                    .theta = 10000.0,
                                    .factor = 1.0,
                                    .attention_factor = 1.0,
                                    .inv_freq = {1.0, 0.1, 0.01, 0.001}};
    model.layer_is_local[2] = true;
    return model;
}

/* Widths as an allocation has them: most blocks near the budget, a few far above. Deterministic. */
static inline void some_bits(uint8_t *bits, int n_blocks, uint32_t *state)
{
    for (int i = 0; i < n_blocks; i++) {
        *state = *state * 1664525u + 1013904223u;
        const uint32_t r = *state >> 24;
        bits[i] = (uint8_t)(r < 40 ? 2 : r < 140 ? 3 : r < 210 ? 4 : r < 240 ? 5 : r < 250 ? 6 : r < 254 ? 7 : 8);
    }
}

static inline bit_plan *some_plan(const model_facts *model, codebook_kind books)
{
    rb_error err = {0};
    bit_plan *plan = NULL;
    uint8_t bits[RB_MAX_BLOCKS];
    uint32_t state = 1;
    assert_ok(bit_plan_create(&plan, model, &err));
    strcpy(plan->method, "block-gtq");
    plan->avg_bits = 3.0;
    bit_plan_set_value_width(plan, 3);
    plan->value_codebook = books;
    plan->calibration = (text_facts){.n_tokens = 2048, .context = 1024};
    for (int i = 0; i < 64; i++) plan->calibration.tokens_sha256[i] = "fedcba9876543210"[i % 16];
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++) {
        some_bits(bits, model_n_blocks(model), &state);
        if (h % 5 == 4) assert_ok(plan_head_set_uniform(&plan->heads[h], 4, model_n_blocks(model), 42, books, &err));
        else assert_ok(plan_head_set_block_widths(&plan->heads[h], bits, model_n_blocks(model), books, &err));
    }
    return plan;
}

/* A plan of version 2: blocks of no group, log8 norms, the search encoder, scales and centers, each in some heads. Head
 * 0 has all of it. */
static inline bit_plan *some_general_plan(const model_facts *model)
{
    rb_error err = {0};
    bit_plan *plan = some_plan(model, CODEBOOK_SPHERE);
    const int n_blocks = model_n_blocks(model);
    double scales[RB_MAX_BLOCKS], center[RB_MAX_HEAD_DIM];
    int blocks[RB_MAX_BLOCKS];
    strcpy(plan->method, "optimal-center");
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++) {
        plan_head *head = &plan->heads[h];
        plan_head_clear(head);
        head->groups.norm = h % 3 == 0 ? NORM_LOG8 : NORM_FP16;
        head->groups.encoder = h % 5 == 0 ? ENCODER_SEARCH : ENCODER_NEAREST;
        /* Block b is in no group, in the first or in the second, in turn; with n_blocks 1 in the first. */
        for (int g = 0; g < (n_blocks > 2 ? 2 : 1); g++) {
            int n = 0;
            for (int b = 0; b < n_blocks; b++)
                if (b % 3 == g) blocks[n++] = b;
            assert_ok(plan_head_add_group(head, 2 + g, blocks, n, CODEBOOK_SPHERE,
                                          head->groups.norm == NORM_LOG8 ? h % 2 ? NORM_MIN_EXPONENT : 5 + g : 0,
                                          &err));
            if (head->groups.encoder == ENCODER_SEARCH) head->groups.at[g].coherence = 0.5f + (float)g;
        }
        for (int b = 0; b < n_blocks; b++) scales[b] = 0.37 + 0.1 * b + h;
        for (int i = 0; i < model->head_dim; i++) center[i] = (i % 7 - 3) * 0.81 + h;
        assert_ok(plan_head_set_transform(head, h % 2 == 0 ? scales : NULL, n_blocks, h % 4 != 1 ? center : NULL,
                                          model->head_dim, &err));
    }
    return plan;
}

/* Layers of block-codebook and of groups in turn, the first of block-codebook. Its k-th head has (3b + 2k) % 11 bits in
 * block b and 2k % 5 % 3 + 2 bits of gain, but head 1 has none; a center where k is even. */
static inline bit_plan *some_plan_of_block_codebook(const model_facts *model)
{
    rb_error err = {0};
    bit_plan *plan = some_general_plan(model);
    const int n_blocks = model_n_blocks(model);
    double maps[BLOCK_CODEBOOK_MAP_SIZE * RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS], center[RB_MAX_HEAD_DIM];
    uint8_t bits[RB_MAX_BLOCKS];
    int k = 0;
    strcpy(plan->method, "block-codebook");
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++) {
        if (h / model->n_kv_heads % 2 == 1) continue;
        for (int b = 0; b < n_blocks; b++) {
            bits[b] = (uint8_t)((3 * b + 2 * k) % (BLOCK_CODEBOOK_MAX_POINT_BITS + 1));
            maps[BLOCK_CODEBOOK_MAP_SIZE * b] = 1.7 + 0.3 * b + 2 * k;
            maps[BLOCK_CODEBOOK_MAP_SIZE * b + 1] = 0.31 * (b % 5 - 2);
            maps[BLOCK_CODEBOOK_MAP_SIZE * b + 2] = 0.9 + 0.11 * b;
            weights[b] = 0.013 * (b + 1) * (2 * k + 1);
        }
        for (int i = 0; i < model->head_dim; i++) center[i] = (i % 7 - 3) * 0.81 + 2 * k;
        assert_ok(plan_head_set_block_codebook(&plan->heads[h], bits, maps, weights, k == 1 ? 0 : 2 * k % 5 % 3 + 2,
                                               n_blocks, &err));
        assert_ok(plan_head_set_center(&plan->heads[h], k % 2 == 0 ? center : NULL, model->head_dim, &err));
        k++;
    }
    return plan;
}

/* The same with levels: 6 bits more in every block of every head of block-codebook that has 5 bits or more, but for
 * block 0, which has no room for them beside the gain. */
static inline bit_plan *some_plan_of_levels(const model_facts *model)
{
    bit_plan *plan = some_plan_of_block_codebook(model);
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++)
        for (int b = 1; plan->heads[h].family == FAMILY_BLOCK_CODEBOOK && b < model_n_blocks(model); b++)
            if (plan->heads[h].block_codebook.bits[b] >= 5) plan->heads[h].block_codebook.bits[b] += 6;
    return plan;
}

/* A head of trellis: 8 bits, then 1 to 8 in turn but for the last quarter, which has none; of 2 dims 8 and 4. Different
 * for every k. */
static inline void make_trellis(plan_head *head, int n_dims, int k)
{
    rb_error err = {0};
    static double basis[256 * 256], weights[256];
    uint8_t widths[256];
    assert_true(n_dims <= 256);
    for (int i = 0; i < n_dims; i++) {
        widths[i] = (uint8_t)(i == 0 ? 8 : n_dims == 2 ? 4 : i >= n_dims - n_dims / 4 ? 0 : 1 + (7 * i + k) % 8);
        weights[i] = 0.013 * (i + 1) * (2 * k + 1);
        for (int j = 0; j < n_dims; j++)
            basis[i * n_dims + j] = (i == j ? 2.0 + 0.01 * k : 0.0) + 0.3 * sin(1.0 + i + 3.0 * j + k) / n_dims;
    }
    assert_ok(plan_head_set_trellis(head, widths, basis, weights, k % 5, k % 5 ? k % (1 << k % 5) : 0, n_dims, &err));
}

/* Layers of trellis and of groups in turn, the first of trellis, head h with k = h and a center where h is even. Values
 * have heads of their own, with k = h + 3, and a center in the last. */
static inline bit_plan *some_plan_of_trellis(const model_facts *model)
{
    rb_error err = {0};
    bit_plan *plan = some_general_plan(model);
    const int n_heads = bit_plan_n_heads(plan);
    double center[RB_MAX_HEAD_DIM];
    strcpy(plan->method, "trellis");
    for (int i = 0; i < RB_MAX_HEAD_DIM; i++) center[i] = (i % 7 - 3) * 0.81;
    assert_ok(bit_plan_create_value_heads(plan, &err));
    for (int h = 0; h < n_heads; h++) {
        make_trellis(&plan->value_heads[h], model->value_dim, h + 3);
        if (h / model->n_kv_heads % 2 == 1) continue;
        make_trellis(&plan->heads[h], model->head_dim, h);
        assert_ok(plan_head_set_center(&plan->heads[h], h % 2 == 0 ? center : NULL, model->head_dim, &err));
    }
    assert_ok(plan_head_set_center(&plan->value_heads[n_heads - 1], center, model->value_dim, &err));
    return plan;
}

/* Head `at` becomes a copy of head `from`. */
static inline void replace_head(bit_plan *plan, int at, int from)
{
    rb_error err = {0};
    plan_head_clear(&plan->heads[at]);
    assert_ok(
        plan_head_copy(&plan->heads[at], &plan->heads[from], model_n_blocks(&plan->model), plan->model.head_dim, &err));
}

#endif
