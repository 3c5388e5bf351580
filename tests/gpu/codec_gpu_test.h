/* What the tests of the CUDA codec share: keys, a trial on the GPU, and the verdict on it. */
#ifndef RB_TESTS_GPU_CODEC_GPU_TEST_H
#define RB_TESTS_GPU_CODEC_GPU_TEST_H

#include "tests/gpu/gpu_test.h"

#include "kernels/check/codec_check.h"
#include "kernels/check/codec_trial.h"

enum { N_QUERIES = 5 };

/* Shared by all cases, since codebooks take time; opened and closed by cmocka_run_group_tests. */
static codec_tables *tables;

static inline int open_tables(void **state)
{
    rb_error err = {0};
    (void)state;
    return codec_tables_create(&tables, &err) == RB_OK ? 0 : -1;
}

static inline int close_tables(void **state)
{
    (void)state;
    codec_tables_free(tables);
    return 0;
}

static inline model_facts facts_of(int head_dim, int rotary_dim, rope_pairing pairing, int n_kv_heads)
{
    model_facts facts = {.model_type = "llama",
                         .n_layers = 1,
                         .n_q_heads = n_kv_heads,
                         .n_kv_heads = n_kv_heads,
                         .head_dim = head_dim,
                         .rotary_dim = rotary_dim,
                         .value_dim = head_dim,
                         .attention_scale = 1.0 / sqrt(head_dim)};
    facts.rope =
        (rope_facts){.attention_factor = 1, .kind = ROPE_DEFAULT, .pairing = pairing, .theta = 10000.0, .factor = 1.0};
    for (int i = 0; i < rotary_dim / 2; i++) facts.rope.inv_freq[i] = pow(10000.0, -2.0 * i / rotary_dim);
    return facts;
}

/* Keys as models have them: blocks of very different energy, tokens of different norm; one token of zeros, one of tiny
 * numbers, one of large ones. */
static inline float *some_vectors(uint64_t seed, int n_heads, int64_t n, int d, codec_dtype type)
{
    float *x = normal_floats(seed, n_heads * n * d);
    for (int64_t i = 0; i < n_heads * n * d; i++) {
        const int dim = (int)(i % d);
        const int64_t token = i / d % n;
        x[i] *= expf(2.0f * sinf((float)(dim * 7 % 31)));
        if (token == 3) x[i] = 0.0f;
        if (token == 4) x[i] *= 0.001f;
        if (token == 5) x[i] *= 500.0f;
    }
    codec_dtype_round(x, n_heads * n * d, type);
    return x;
}

static inline codec_bounds bounds_of(codec_dtype type)
{
    return (codec_bounds){.code_tie = CODEC_CUDA_CODE_TIE,
                          .norm_tie = CODEC_CUDA_NORM_TIE,
                          .cosine_tie = CODEC_CUDA_COSINE_TIE,
                          .restore = type == CODEC_F32 ? CODEC_CUDA_RESTORE_F32 : CODEC_CUDA_RESTORE_F16,
                          .rounding = codec_dtype_rounding(type),
                          .rounding_least = codec_dtype_rounding_least(type),
                          .logits = CODEC_CUDA_LOGITS,
                          .block_codebook_tie = CODEC_CUDA_BLOCK_CODEBOOK_TIE,
                          .block_codebook_restore = CODEC_CUDA_BLOCK_CODEBOOK_RESTORE,
                          .trellis_tie = CODEC_CUDA_TRELLIS_TIE,
                          .trellis_restore = CODEC_CUDA_TRELLIS_RESTORE};
}

static inline void check_heads(const codec_trial *trial, const codec_trial_input *in, codec_report *report)
{
    const int d = in->model->head_dim;
    const codec_bounds bounds = bounds_of(in->type);
    rb_error err = {0};
    for (int h = 0; h < in->n_heads; h++) {
        head_codec *codec = NULL;
        uint8_t *codes = malloc((size_t)(in->n * d));
        float *reference = malloc((size_t)(in->n * d) * sizeof *reference);
        assert_ok(head_codec_create(&codec, &in->heads[h], in->model, in->tables, &err));
        uint16_t *norms = malloc((size_t)in->n * (size_t)head_codec_n_norms(codec) * sizeof *norms);
        codec_image_read_norms(norms, trial->image, h, trial->norms, in->n);
        const codec_checked on = {&in->heads[h], in->model, in->tables, codec};
        assert_int_equal(head_codec_packed_bytes(codec), trial->image->heads[h].packed_bytes);
        assert_ok(codec_check_encoded(report, &on, in->x + h * in->n * d, in->n,
                                      trial->packed + codec_image_packed_offset(trial->image, h, in->n), norms, &bounds,
                                      codes, &err));
        assert_ok(codec_check_restored(report, &on, codes, norms, in->n, trial->x_hat + h * in->n * d, &bounds,
                                       reference, &err));
        codec_check_logits(report, &on, in->queries + (int64_t)h * in->n_queries * d, in->n_queries, reference, in->n,
                           trial->logits + (int64_t)h * in->n_queries * in->n, &bounds);
        head_codec_free(codec);
        free(norms);
        free(codes);
        free(reference);
    }
}

static inline int widest_after_the_first(const plan_trellis *plan)
{
    int width = 0;
    for (int i = 1; i < plan->n_dims; i++)
        if (plan->widths[i] > width) width = plan->widths[i];
    return width;
}

/* From 6 bits on stretches differ in their cosine by little more than f32 can tell. The best two paths of a trellis
 * differ by a share of their error that falls with bits and length: from 6 bits on any path may be tied. */
static inline int largest_share_of_tied_searches(const plan_head *heads, int n_heads)
{
    int width = 1;
    for (int h = 0; h < n_heads && heads[0].family == FAMILY_TRELLIS; h++)
        if (widest_after_the_first(&heads[h].trellis) > 5) return 1;
    if (heads[0].family == FAMILY_TRELLIS) return 8;
    for (int h = 0; h < n_heads; h++) {
        const plan_groups *groups = plan_head_groups(&heads[h]);
        for (int g = 0; g < groups->n; g++)
            if (groups->at[g].width > width) width = groups->at[g].width;
    }
    return width <= 5 ? 100 : 4;
}

/* Groups of a vector, gains, and paths. */
static inline int64_t count_searches(const codec_report *report, const codec_trial_input *in)
{
    int64_t n = report->n_norms;
    for (int h = 0; h < in->n_heads; h++) n += in->heads[h].family != FAMILY_GROUPS ? in->n : 0;
    return n;
}

static inline void assert_good(const codec_report *report, const codec_trial *trial, const codec_trial_input *in,
                               const char *what)
{
    if (getenv("RB_TEST_REPORT"))
        print_message("%s: %lld codes, %lld tied (worst %.2g), %lld wrong; searches %lld tied (worst %.2g); norms %lld "
                      "tied, %lld wrong; worst value %.2g (%lld wrong), logit %.2g (%lld wrong)\n",
                      what, (long long)report->n_codes, (long long)report->codes_tied, report->worst_tie,
                      (long long)report->codes_wrong, (long long)report->searches_tied, report->worst_cosine,
                      (long long)report->norms_tied, (long long)report->norms_wrong, report->worst_value,
                      (long long)report->values_wrong, report->worst_logit, (long long)report->logits_wrong);
    if (!codec_report_is_good(report))
        fail_msg("%s: wrong: %lld codes, %lld norms, %lld bytes, %lld values (worst %g), %lld logits (worst %g)", what,
                 (long long)report->codes_wrong, (long long)report->norms_wrong, (long long)report->bytes_wrong,
                 (long long)report->values_wrong, report->worst_value, (long long)report->logits_wrong,
                 report->worst_logit);
    assert_int_equal(trial->bytes_outside, 0);
    assert_int_equal(trial->bytes_unstable, 0);
    assert_int_equal(trial->first_bad, -1);
    /* Ties are rare, or the bound hides something. A few may be in any few: codebooks of 16 bits have close entries. */
    assert_true(report->codes_tied <= 3 || report->codes_tied * 1000 <= report->n_codes);
    assert_true(report->norms_tied <= 1 || report->norms_tied * 100 <= report->n_norms);
    const int64_t share = largest_share_of_tied_searches(in->heads, in->n_heads);
    assert_true(report->searches_tied * share <= count_searches(report, in) + share);
}

static inline void try_queries(const plan_head *heads, const model_facts *model, codec_dtype type, int64_t n,
                               int n_queries, const char *what)
{
    codec_trial trial;
    codec_report report = {0};
    rb_error err = {0};
    const int n_heads = model->n_kv_heads, d = model->head_dim;
    float *x = some_vectors(7 + (uint64_t)n, n_heads, n, d, type),
          *queries = normal_floats(8, (int64_t)n_heads * n_queries * d);
    const codec_trial_input in = {.heads = heads,
                                  .n_heads = n_heads,
                                  .model = model,
                                  .tables = tables,
                                  .type = type,
                                  .x = x,
                                  .n = n,
                                  .queries = queries,
                                  .n_queries = n_queries};
    assert_ok(codec_trial_cuda(&trial, &in, &err));
    check_heads(&trial, &in, &report);
    assert_good(&report, &trial, &in, what);
    codec_trial_free(&trial);
    free(x);
    free(queries);
}

static inline void try_heads(const plan_head *heads, const model_facts *model, codec_dtype type, int64_t n,
                             const char *what)
{
    try_queries(heads, model, type, n, N_QUERIES, what);
}

/* Widths that change from head to head, groups of every size. */
static inline void mixed_widths(plan_head *heads, const model_facts *model, codebook_kind book)
{
    uint8_t bits[RB_MAX_BLOCKS];
    rb_error err = {0};
    for (int h = 0; h < model->n_kv_heads; h++) {
        for (int i = 0; i < model_n_blocks(model); i++)
            bits[i] = (uint8_t)(1 + (i * (h + 3) + i * i / 5 + h) % (h % 2 ? 8 : 5));
        assert_ok(plan_head_set_block_widths(&heads[h], bits, model_n_blocks(model), book, &err));
    }
}

static inline void clear_heads(plan_head *heads, int n)
{
    for (int h = 0; h < n; h++) plan_head_clear(&heads[h]);
}

#endif
