/* The GPU's errors of restored keys against the CPU's definitions. */
#include "tests/gpu/gpu_test.h"

#include "core/threads.h"
#include "model/rope_apply.h"
#include "profile/attention_error.h"
#include "profile/error_cuda.h"
#include "profile/logit_error.h"
#include "profile/tail_error.h"

enum { N_KV = 2, GROUP = 3, N_CANDIDATES = 3 };

typedef struct shape {
    int head_dim, rotary_dim;
    rope_pairing pairing;
    int64_t n_tokens, context;
} shape;

static model_facts facts_of(const shape *s)
{
    model_facts facts = {.n_layers = 1,
                         .n_q_heads = N_KV * GROUP,
                         .n_kv_heads = N_KV,
                         .head_dim = s->head_dim,
                         .rotary_dim = s->rotary_dim,
                         .value_dim = s->head_dim,
                         .attention_scale = 1.0 / sqrt(s->head_dim)};
    facts.rope.pairing = s->pairing;
    for (int i = 0; i < s->rotary_dim / 2; i++) facts.rope.inv_freq[i] = pow(10000.0, -2.0 * i / s->rotary_dim);
    return facts;
}

static void *to_device(const void *from, size_t size_bytes)
{
    void *out = NULL;
    rb_error err = {0};
    assert_ok(rb_cuda_alloc(&out, size_bytes, 1, "test", &err));
    assert_ok(rb_cuda()->copy(out, from, size_bytes, NULL, &err));
    assert_ok(rb_cuda()->stream_wait(NULL, &err));
    return out;
}

static void from_device(void *to, const void *from, size_t size_bytes)
{
    rb_error err = {0};
    assert_ok(rb_cuda()->copy(to, from, size_bytes, NULL, &err));
    assert_ok(rb_cuda()->stream_wait(NULL, &err));
}

static void assert_near(double found, double expected, double bound, const char *what)
{
    if (!(fabs(found - expected) <= bound * fabs(expected))) fail_msg("%s: %.9g, expected %.9g", what, found, expected);
}

static void try_shape(const shape *s)
{
    const model_facts facts = facts_of(s);
    const int n_blocks = model_n_blocks(&facts);
    const int64_t head = s->n_tokens * s->head_dim;
    float *q = normal_floats(1, N_KV * GROUP * head), *k = normal_floats(2, N_KV * head),
          *noise = normal_floats(3, N_CANDIDATES * N_KV * head);
    float *k_hat = malloc((size_t)(N_CANDIDATES * N_KV * head) * sizeof *k_hat);
    int dims[RB_MAX_BLOCKS][2];
    const void *table = NULL;
    offset_table *offsets = NULL;
    rope_table rope = {0};
    int64_t starts[64], n_sequences = 0;
    rb_error err = {0};
    rb_threads_init(0);
    for (int64_t i = 0; i < N_CANDIDATES * N_KV * head; i++)
        k_hat[i] = k[i % (N_KV * head)] + 0.05f * (float)(1 + i / (N_KV * head)) * noise[i];
    for (int i = 0; i < n_blocks; i++) model_block_dims(&facts, i, dims[i]);
    for (int64_t at = 0; at < s->n_tokens; at += s->context) starts[n_sequences++] = at;
    starts[n_sequences] = s->n_tokens;
    assert_ok(offset_table_create(&offsets, &facts, &facts.rope, &err));
    assert_ok(rope_table_init(&rope, &facts, &facts.rope, s->context, &err));
    assert_ok(rb_cuda_table(&table, "rb_error_cuda", &err));
    const error_cuda_api *api = table;

    const size_t rope_bytes = (size_t)s->context * (size_t)(s->rotary_dim / 2) * sizeof(float);
    const error_cuda_input in = {
        .n_kv_heads = N_KV,
        .q_per_kv = GROUP,
        .head_dim = s->head_dim,
        .n_blocks = n_blocks,
        .n_candidates = N_CANDIDATES,
        .n_tokens = s->n_tokens,
        .context = s->context,
        .scale = (float)facts.attention_scale,
        .q = to_device(q, (size_t)(N_KV * GROUP * head) * sizeof *q),
        .k = to_device(k, (size_t)(N_KV * head) * sizeof *k),
        .k_hat = to_device(k_hat, (size_t)(N_CANDIDATES * N_KV * head) * sizeof *k_hat),
        .block_dims = to_device(dims, (size_t)n_blocks * sizeof *dims),
        .turn = to_device(offset_table_turn(offsets), 2 * (size_t)n_blocks * LOGIT_ERROR_N_OFFSETS * sizeof(float)),
        .n_offsets = LOGIT_ERROR_N_OFFSETS,
        .rope_cos = to_device(rope.cos, rope_bytes),
        .rope_sin = to_device(rope.sin, rope_bytes),
        .n_freqs = s->rotary_dim / 2};
    double offset[2][N_CANDIDATES][N_KV], attention[2][N_CANDIDATES][N_KV][3], norms[N_CANDIDATES][N_KV][2],
        blocks[N_CANDIDATES * N_KV * RB_MAX_BLOCKS];
    void *out = NULL, *out_norms = NULL, *out_tokens = NULL, *scratch = NULL;
    const size_t tokens_bytes = (1 + N_CANDIDATES) * N_KV * (size_t)s->n_tokens * sizeof(float);
    float *tokens = malloc(tokens_bytes), *expected_tokens = malloc((size_t)s->n_tokens * sizeof *expected_tokens),
          weights[N_KV][RB_MAX_HEAD_DIM];
    float packed_weights[N_KV * RB_MAX_HEAD_DIM];
    double energy[RB_MAX_BLOCKS];
    assert_ok(rb_cuda_alloc(&out, sizeof blocks, 1, "test", &err));
    assert_ok(rb_cuda_alloc(&out_norms, sizeof norms, 1, "test", &err));
    assert_ok(rb_cuda_alloc(&scratch, api->attention_scratch_bytes(&in), 1, "test", &err));
    for (int run = 0; run < 2; run++) {
        assert_ok(api->offset_sums(&in, out, NULL, &err));
        from_device(offset[run], out, sizeof offset[run]);
        assert_ok(api->attention_sums(&in, out, scratch, NULL, &err));
        from_device(attention[run], out, sizeof attention[run]);
    }
    assert_memory_equal(offset[0], offset[1], sizeof offset[0]);
    assert_memory_equal(attention[0], attention[1], sizeof attention[0]);
    assert_ok(api->block_errors(&in, out, out_norms, NULL, &err));
    from_device(blocks, out, (size_t)(N_CANDIDATES * N_KV * n_blocks) * sizeof *blocks);
    from_device(norms, out_norms, sizeof norms);

    for (int h = 0; h < N_KV; h++) {
        for (int i = 0; i < n_blocks; i++) energy[i] = 0.25 + (h + i) % 5;
        token_weights(weights[h], &facts, 0, energy);
        memcpy(packed_weights + h * s->head_dim, weights[h], (size_t)s->head_dim * sizeof(float));
    }
    assert_ok(rb_cuda_alloc(&out_tokens, tokens_bytes, 1, "test", &err));
    assert_ok(api->token_errors(&in, to_device(packed_weights, (size_t)(N_KV * s->head_dim) * sizeof(float)),
                                out_tokens, NULL, &err));
    from_device(tokens, out_tokens, tokens_bytes);

    for (int h = 0; h < N_KV; h++) {
        const float *q_h = q + h * GROUP * head, *k_h = k + h * head, *hats[N_CANDIDATES];
        double mae[N_CANDIDATES];
        attention_error errors[N_CANDIDATES];
        for (int c = 0; c < N_CANDIDATES; c++) hats[c] = k_hat + (c * N_KV + h) * head;
        for (int c = -1; c < N_CANDIDATES; c++) {
            token_errors(expected_tokens, weights[h], s->head_dim, k_h, c < 0 ? NULL : hats[c], s->n_tokens);
            for (int64_t t = 0; t < s->n_tokens; t++)
                assert_near(tokens[((c + 1) * N_KV + h) * s->n_tokens + t], expected_tokens[t], 1e-5,
                            c < 0 ? "size of a token" : "error of a token");
        }
        assert_ok(logit_mae(mae, offsets, q_h, GROUP, k_h, hats, N_CANDIDATES, s->n_tokens, &err));
        for (int c = 0; c < N_CANDIDATES; c++) {
            double error = 0.0, whole = 0.0, block = 0.0;
            assert_near(offset[0][c][h] / ((double)GROUP * (double)s->n_tokens * LOGIT_ERROR_N_OFFSETS), mae[c], 1e-4,
                        "logit MAE");
            for (int64_t i = 0; i < head; i++) {
                error += ((double)k_h[i] - (double)hats[c][i]) * ((double)k_h[i] - (double)hats[c][i]);
                whole += (double)k_h[i] * (double)k_h[i];
            }
            for (int i = 0; i < n_blocks; i++) block += blocks[(c * N_KV + h) * n_blocks + i];
            assert_near(norms[c][h][0], error, 1e-9, "sum of squared errors");
            assert_near(norms[c][h][1], whole, 1e-9, "sum of squares");
            assert_near(block * (double)s->n_tokens, error, 1e-9, "sum over blocks");
        }
        /* The CPU compares what has left RoPE. */
        rope_apply(&rope, q + h * GROUP * head, GROUP, s->head_dim, starts, n_sequences);
        rope_apply(&rope, k + h * head, 1, s->head_dim, starts, n_sequences);
        for (int c = 0; c < N_CANDIDATES; c++)
            rope_apply(&rope, k_hat + (c * N_KV + h) * head, 1, s->head_dim, starts, n_sequences);
        assert_ok(attention_errors(errors, &facts, q_h, GROUP, k_h, hats, N_CANDIDATES, s->n_tokens, s->context, &err));
        for (int c = 0; c < N_CANDIDATES; c++) {
            assert_near(attention[0][c][h][0] / (GROUP * attention_count_pairs(s->n_tokens, s->context)),
                        errors[c].causal_mae, 1e-4, "causal MAE");
            assert_near(attention[0][c][h][1] / ((double)GROUP * (double)s->n_tokens), errors[c].attention_kl, 1e-3,
                        "KL");
            assert_near(attention[0][c][h][2] / ((double)GROUP * (double)s->n_tokens), errors[c].attended_mae, 1e-4,
                        "attended MAE");
        }
    }
    offset_table_free(offsets);
    rope_table_free(&rope);
    free(q);
    free(k);
    free(k_hat);
    free(noise);
    free(tokens);
    free(expected_tokens);
}

static void errors_match_the_cpu(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const shape shapes[] = {{64, 64, ROPE_SPLIT_HALF, 300, 100},
                                   {128, 128, ROPE_INTERLEAVED, 257, 257},
                                   {80, 32, ROPE_SPLIT_HALF, 200, 128},
                                   {16, 16, ROPE_SPLIT_HALF, 70, 7},
                                   {256, 256, ROPE_SPLIT_HALF, 130, 64}};
    for (size_t i = 0; i < RB_COUNT(shapes); i++) try_shape(&shapes[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(errors_match_the_cpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
