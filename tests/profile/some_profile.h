/* A small profile with numbers a test can choose: the model, the table and its methods, for the tests of the table, the
 * summary and compare. */
#ifndef RB_TESTS_SOME_PROFILE_H
#define RB_TESTS_SOME_PROFILE_H

#include "profile/profile_table.h"

/* 3 layers, 2 KV heads, interleaved llama3 RoPE over 6 of 8 dims: every optional member of the facts is there. */
static inline model_facts some_profile_model(void)
{
    model_facts model = {.model_type = "llama",
                         .n_layers = 3,
                         .n_q_heads = 6,
                         .n_kv_heads = 2,
                         .head_dim = 8,
                         .rotary_dim = 6,
                         .value_dim = 8,
                         .attention_scale = 1.0 / 3.0,
                         .rope = {.attention_factor = 1,
                                  .kind = ROPE_LLAMA3,
                                  .pairing = ROPE_INTERLEAVED,
                                  .theta = 10000.0,
                                  .factor = 8.0,
                                  .low_freq_factor = 1.0,
                                  .high_freq_factor = 4.0,
                                  .original_max_position = 8192,
                                  .inv_freq = {1.0, 0.1, 1.0 / 30.0}}};
    memset(model.config_sha256, 'a', RB_SHA256_HEX - 1);
    memset(model.weights_sha256, 'b', RB_SHA256_HEX - 1);
    return model;
}

/* n methods without names and scores of zero. Freed with profile_table_free. */
static inline profile_table *some_profile(int n_methods)
{
    rb_error err = {0};
    const model_facts model = some_profile_model();
    profile_table *table = NULL;
    assert_ok(profile_table_create(&table, &model, &err));
    assert_ok(profile_table_add_methods(table, n_methods, &err));
    table->calibration =
        (text_facts){.n_tokens = 2048, .context = 1024, .bos = {.mode = BOS_SEQUENCE, .tokens = {.n = 1, .ids = {2}}}};
    table->test = (text_facts){.n_tokens = 1500, .context = 500};
    memset(table->calibration.tokens_sha256, 'c', RB_SHA256_HEX - 1);
    memset(table->test.tokens_sha256, 'd', RB_SHA256_HEX - 1);
    return table;
}

/* Method m: its name and budget, and a logit MAE for every head, layer by layer. The other scores follow from it, so
 * that a mix-up shows. */
static inline void set_scores(profile_table *table, int m, const char *method, double avg_bits, double true_bits,
                              const double mae[6])
{
    snprintf(table->methods[m].method, sizeof table->methods[m].method, "%s", method);
    table->methods[m].avg_bits = avg_bits;
    for (int h = 0; h < 6; h++)
        table->methods[m].heads[h] =
            (head_score){.logit_mae = mae[h],
                         .causal_mae = 2 * mae[h],
                         .attention_kl = mae[h] / 64,
                         .relative_error = mae[h] / 16,
                         .true_bits = true_bits,
                         .attended_mae = 3 * mae[h],
                         .tail = {mae[h] / 32, mae[h] / 8, mae[h] / 4, mae[h] / 2, mae[h] / 3, mae[h] / 128}};
}

#endif
