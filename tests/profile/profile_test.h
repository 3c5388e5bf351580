/* Small models and vectors for the tests of the profile room. */
#ifndef RB_TESTS_PROFILE_PROFILE_TEST_H
#define RB_TESTS_PROFILE_PROFILE_TEST_H

#include "core/model_facts.h"
#include "tests/model/float_test.h"

/* One layer of one KV head with n_q query heads, theta 100: the slowest block turns within a short test. */
static inline model_facts small_model(int n_q, int head_dim, int rotary_dim, rope_pairing pairing)
{
    model_facts facts = {
        .model_type = "llama",
        .n_layers = 1,
        .n_q_heads = n_q,
        .n_kv_heads = 1,
        .head_dim = head_dim,
        .rotary_dim = rotary_dim,
        .value_dim = head_dim,
        .attention_scale = 1.0 / sqrt(head_dim),
        .rope = {.attention_factor = 1, .kind = ROPE_DEFAULT, .pairing = pairing, .theta = 100.0, .factor = 1.0}};
    memset(facts.config_sha256, 'c', RB_SHA256_HEX - 1);
    for (int i = 0; i < rotary_dim / 2; i++) facts.rope.inv_freq[i] = pow(facts.rope.theta, -2.0 * i / rotary_dim);
    return facts;
}

/* The two dims of a block, written out once more, so that the tests do not lean on model_block_dims. */
static inline void block_dims_by_hand(const model_facts *facts, int block, int dims[2])
{
    const int n_turned = facts->rotary_dim / 2;
    const int is_split = facts->rope.pairing == ROPE_SPLIT_HALF && block < n_turned;
    dims[0] = is_split ? block : 2 * block;
    dims[1] = is_split ? block + n_turned : 2 * block + 1;
}

/* q . R x with R the RoPE of `position` by `rope`, in double: both sides are multiplied by the attention factor. */
static inline double turned_dot_by(const model_facts *facts, const rope_facts *rope, const float *q, const double *x,
                                   double position)
{
    double dot = 0.0;
    for (int block = 0; block < facts->head_dim / 2; block++) {
        const bool is_turned = block < facts->rotary_dim / 2;
        const double angle = is_turned ? position * rope->inv_freq[block] : 0.0,
                     gain = is_turned ? rope->attention_factor * rope->attention_factor : 1.0;
        int dims[2];
        block_dims_by_hand(facts, block, dims);
        const double a = x[dims[0]], b = x[dims[1]];
        dot += gain * (double)q[dims[0]] * (a * cos(angle) - b * sin(angle))
               + gain * (double)q[dims[1]] * (a * sin(angle) + b * cos(angle));
    }
    return dot;
}

static inline double turned_dot(const model_facts *facts, const float *q, const double *x, double position)
{
    return turned_dot_by(facts, &facts->rope, q, x, position);
}

/* Logit MAE by its definition: every offset, every block turned. */
static inline double naive_logit_mae_by(const model_facts *facts, const rope_facts *rope, const float *q, int n_q,
                                        const float *k, const float *k_hat, int64_t n_tokens)
{
    const int d = facts->head_dim;
    double error[RB_MAX_HEAD_DIM], sum = 0.0;
    for (int head = 0; head < n_q; head++)
        for (int64_t t = 0; t < n_tokens; t++) {
            for (int i = 0; i < d; i++) error[i] = (double)k[t * d + i] - (double)k_hat[t * d + i];
            for (int o = 0; o < 50; o++)
                sum +=
                    fabs(turned_dot_by(facts, rope, q + (head * n_tokens + t) * d, error, -1024.0 + o * 2048.0 / 49.0));
        }
    return sum / (50.0 * n_q * (double)n_tokens);
}

static inline double naive_logit_mae(const model_facts *facts, const float *q, int n_q, const float *k,
                                     const float *k_hat, int64_t n_tokens)
{
    return naive_logit_mae_by(facts, &facts->rope, q, n_q, k, k_hat, n_tokens);
}

/* k plus `size` times random noise. */
static inline float *disturbed(const float *k, size_t n, float size, uint64_t seed)
{
    float *out = random_floats(n, seed);
    for (size_t i = 0; i < n; i++) out[i] = k[i] + size * out[i];
    return out;
}

#endif
