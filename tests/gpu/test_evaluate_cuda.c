/* The evaluation's pass on the GPU against the CPU's: restored keys and values, token scores, and whole results on the
 * bundled model and on those of shared/ where they are ($RB_SHARED): several plans, sinks, recent tokens, keys or
 * values alone, a sliding window, chunks inside sequences. */
#include "tests/gpu/gpu_test.h"

#include "core/threads.h"
#include "evaluate/evaluate_run.h"
#include "evaluate/kv_restore.h"
#include "evaluate/kv_restore_cuda.h"
#include "evaluate/token_score_cuda.h"

enum { N_PLANS = 3, N_RUNS = 1 + N_PLANS, SEED = 42 };

/* ---- plans ----------------------------------------------------------------------------------- */

/* Plan 0: uniform of 2 to 4 bits, by layer and head; 1: one to four widths a head; 2: uniform of 5 bits. Values of 2
 * bits, of 2 to 4 by head, and whole. */
static void make_plans(bit_plan *plans[N_PLANS], const model_facts *facts)
{
    const int n = model_n_blocks(facts);
    uint8_t bits[RB_MAX_BLOCKS];
    rb_error err = {0};
    for (int p = 0; p < N_PLANS; p++) {
        assert_ok(bit_plan_create(&plans[p], facts, &err));
        for (int h = 0; h < facts->n_layers * facts->n_kv_heads; h++)
            plans[p]->value_widths[h] = (uint8_t)(p == 2 ? PLAN_FP16_WIDTH : p == 1 ? 2 + h % 3 : 2);
        for (int layer = 0; layer < facts->n_layers; layer++)
            for (int h = 0; h < facts->n_kv_heads; h++) {
                plan_head *head = bit_plan_head(plans[p], layer, h);
                for (int i = 0; i < n; i++) bits[i] = (uint8_t)(1 + (i * 4 / n + h + layer) % 4);
                if (p == 1) assert_ok(plan_head_set_block_widths(head, bits, n, CODEBOOK_BLOCK_GTQ, &err));
                else
                    assert_ok(plan_head_set_uniform(head, p == 2 ? 5 : 2 + (layer + h) % 3, n, SEED, CODEBOOK_BLOCK_GTQ,
                                                    &err));
            }
    }
}

typedef struct inputs {
    checkpoint *model;
    bit_plan *plans[N_PLANS];
    int32_t *text;
    needle_document documents[3];
    answer_span answers[3];
    needle_documents list;
    evaluate_request request;
} inputs;

/* n_text ids, and three documents of uneven lengths taken from them, an answer of 4 tokens at the end of each. */
static void open_inputs(inputs *in, const char *folder, int64_t n_text, int64_t context)
{
    rb_error err = {0};
    rb_threads_init(0);
    *in = (inputs){0};
    assert_ok(checkpoint_open(&in->model, folder, &err));
    const model_config *config = checkpoint_config(in->model);
    make_plans(in->plans, &config->facts);
    in->text = malloc((size_t)n_text * sizeof *in->text);
    if (!in->text) abort();
    for (int64_t i = 0; i < n_text; i++) in->text[i] = (int32_t)((i * i * 31 + i * 7919 + 13) % config->vocab_size);
    for (int d = 0; d < 3; d++) {
        const int64_t n = context / 2 + 31 * d;
        in->answers[d] = (answer_span){.first = n - 4, .n = 4};
        in->documents[d] =
            (needle_document){.n_tokens = n, .tokens = in->text + 17 * d, .n_answers = 1, .answers = &in->answers[d]};
    }
    in->list = (needle_documents){.n = 3, .at = in->documents};
    in->request = (evaluate_request){.model = in->model,
                                     .plans = (const bit_plan *const *)in->plans,
                                     .n_plans = N_PLANS,
                                     .text = in->text,
                                     .n_text = n_text,
                                     .context = context,
                                     .documents = &in->list,
                                     .with_keys = true,
                                     .with_values = true,
                                     .attention_stride = 8};
}

static void close_inputs(inputs *in)
{
    for (int p = 0; p < N_PLANS; p++) bit_plan_free(in->plans[p]);
    free(in->text);
    checkpoint_close(in->model);
}

/* ---- restored keys and values ---------------------------------------------------------------- */

static float *on_device(const float *from, size_t n)
{
    rb_error err = {0};
    void *at = NULL;
    assert_ok(rb_cuda_alloc(&at, n, sizeof *from, "heads of a test", &err));
    assert_ok(rb_cuda()->copy(at, from, n * sizeof *from, NULL, &err));
    assert_ok(rb_cuda()->stream_wait(NULL, &err));
    return at;
}

static void from_device(float *to, float *at, size_t n)
{
    rb_error err = {0};
    assert_ok(rb_cuda()->copy(to, at, n * sizeof *to, NULL, &err));
    assert_ok(rb_cuda()->stream_wait(NULL, &err));
    rb_cuda_free(at, n, sizeof *to);
}

/* Vectors further from the CPU's than arithmetic explains: a coordinate beside a boundary has another code. What is not
 * restored is the same to the bit. */
static void compare_vectors(const float *got, const float *expected, const float *before, int64_t n, int64_t d)
{
    int64_t n_flipped = 0, n_changed = 0;
    for (int64_t v = 0; v < n; v++) {
        double error = 0.0, size = 0.0;
        for (int64_t i = v * d; i < (v + 1) * d; i++) {
            error = fmax(error, fabs((double)got[i] - (double)expected[i]));
            size += (double)expected[i] * (double)expected[i];
        }
        const bool is_changed = memcmp(expected + v * d, before + v * d, (size_t)d * sizeof *before) != 0;
        n_changed += is_changed;
        if (!is_changed) assert_memory_equal(got + v * d, expected + v * d, (size_t)d * sizeof *got);
        if (!(error <= 2e-5 * sqrt(size))) n_flipped++;
    }
    if (n_flipped * 200 > n_changed)
        fail_msg("%lld of %lld restored vectors differ from the CPU's", (long long)n_flipped, (long long)n_changed);
}

static void keep_exact(inputs *in, int64_t n_sink, int64_t n_recent)
{
    for (int p = 0; p < N_PLANS; p++) {
        in->plans[p]->n_sink = n_sink;
        in->plans[p]->n_recent = n_recent;
    }
}

static void check_restored(int64_t n_sink, bool with_keys, bool with_values)
{
    inputs in;
    evaluate_batch batch;
    kv_restore *cpu = NULL;
    kv_restore_cuda *gpu = NULL;
    rb_error err = {0};
    open_inputs(&in, "configs/demo-llama", 400, 150);
    keep_exact(&in, n_sink, 0);
    in.request.with_keys = with_keys;
    in.request.with_values = with_values;
    assert_ok(evaluate_batch_make(&batch, &in.request, &err));
    assert_ok(kv_restore_create(&cpu, &in.request, &batch, &err));
    assert_ok(kv_restore_cuda_create(&gpu, &in.request, &batch, &err));
    const model_facts *facts = &checkpoint_config(in.model)->facts;
    const int64_t n = batch.batch.n_tokens, d = facts->head_dim, n_vectors = facts->n_kv_heads * n,
                  floats = n_vectors * d;
    assert_int_equal(batch.n_parts, 1);
    for (int layer = 0; layer < 2; layer++) {
        float *before[2], *got[2], *expected[2];
        for (int kind = 0; kind < 2; kind++) {
            before[kind] = normal_floats((uint64_t)(2 * layer + kind + 1), floats);
            expected[kind] = normal_floats((uint64_t)(2 * layer + kind + 1), floats);
            got[kind] = malloc((size_t)floats * sizeof(float));
            if (!got[kind]) abort();
        }
        layer_heads heads = {.layer = layer, .n_tokens = n, .k = expected[0], .v = expected[1]};
        const device_heads on_gpu = {.layer = layer,
                                     .n_tokens = n,
                                     .k = on_device(before[0], (size_t)floats),
                                     .v = on_device(before[1], (size_t)floats)};
        assert_ok(kv_restore_part(cpu, &heads, &err));
        assert_ok(kv_restore_cuda_part(gpu, &on_gpu, NULL, &err));
        assert_ok(kv_restore_cuda_check(gpu, layer, &err));
        from_device(got[0], on_gpu.k, (size_t)floats);
        from_device(got[1], on_gpu.v, (size_t)floats);
        for (int kind = 0; kind < 2; kind++) {
            compare_vectors(got[kind], expected[kind], before[kind], n_vectors, d);
            free(before[kind]), free(got[kind]), free(expected[kind]);
        }
    }
    kv_restore_free(cpu);
    kv_restore_cuda_free(gpu);
    evaluate_batch_free(&batch);
    close_inputs(&in);
}

static void keys_and_values_are_restored_as_on_the_cpu(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    check_restored(0, true, true);
    check_restored(5, true, true);
    check_restored(150, true, true); /* nothing is left of the text */
    check_restored(0, true, false);
    check_restored(0, false, true);
}

static void a_key_that_no_codec_holds_is_named(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    inputs in;
    evaluate_batch batch;
    kv_restore_cuda *gpu = NULL;
    rb_error err = {0};
    open_inputs(&in, "configs/demo-llama", 400, 150);
    keep_exact(&in, 2, 0);
    assert_ok(evaluate_batch_make(&batch, &in.request, &err));
    assert_ok(kv_restore_cuda_create(&gpu, &in.request, &batch, &err));
    const int64_t n = batch.batch.n_tokens, d = checkpoint_config(in.model)->facts.head_dim, floats = 2 * n * d;
    float *x = normal_floats(1, floats);
    x[(n + batch.sequence_start[1] + 2 + 7) * d + 3] = NAN; /* head 1, the first sequence's copy of run 1 */
    const device_heads heads = {
        .layer = 3, .n_tokens = n, .k = on_device(x, (size_t)floats), .v = on_device(x, (size_t)floats)};
    assert_ok(kv_restore_cuda_part(gpu, &heads, NULL, &err));
    assert_fails(kv_restore_cuda_check(gpu, 3, &err), RB_ENONFINITE, "layer 3 kv_head 1, keys: vector 7 ");
    from_device(x, heads.k, (size_t)floats);
    from_device(x, heads.v, (size_t)floats);
    free(x);
    kv_restore_cuda_free(gpu);
    evaluate_batch_free(&batch);
    close_inputs(&in);
}

/* ---- token scores ---------------------------------------------------------------------------- */

static void token_scores_are_those_of_the_cpu(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    enum { N_POSITIONS = 37, MAX_VOCAB = 5000 };
    static const int64_t vocabularies[] = {1, 31, 256, 1000, MAX_VOCAB};
    const token_score_cuda_api *api = NULL;
    const void *table = NULL;
    token_score expected[N_RUNS], got[N_POSITIONS * N_RUNS];
    int32_t targets[N_POSITIONS];
    float *scratch = malloc(2 * MAX_VOCAB * sizeof *scratch);
    rb_error err = {0};
    assert_ok(rb_cuda_table(&table, "rb_token_score_cuda", &err));
    api = table;
    for (size_t v = 0; v < RB_COUNT(vocabularies); v++) {
        const int64_t n_vocab = vocabularies[v], floats = N_POSITIONS * N_RUNS * n_vocab;
        float *logits = normal_floats(v + 1, floats);
        rb_cuda_array device_logits = {0}, device_targets = {0}, device_scores = {0};
        /* Few different values: several tokens are the most likely one, and the lowest id counts. Run 2 is the
         * unquantized one again. */
        for (int64_t i = 0; i < floats; i++) logits[i] = roundf(logits[i] * 4.0f);
        for (int64_t p = 0; p < N_POSITIONS; p++) {
            targets[p] = (int32_t)(p * 7 % n_vocab);
            memcpy(logits + (p * N_RUNS + 2) * n_vocab, logits + p * N_RUNS * n_vocab,
                   (size_t)n_vocab * sizeof *logits);
        }
        assert_ok(rb_cuda_array_alloc(&device_logits, (size_t)floats * sizeof *logits, "logits", &err));
        assert_ok(rb_cuda_array_alloc(&device_targets, sizeof targets, "targets", &err));
        assert_ok(rb_cuda_array_alloc(&device_scores, sizeof got, "scores", &err));
        assert_ok(rb_cuda()->copy(device_logits.at, logits, device_logits.size_bytes, NULL, &err));
        assert_ok(rb_cuda()->copy(device_targets.at, targets, sizeof targets, NULL, &err));
        assert_ok(api->scores(device_scores.at, device_logits.at, N_RUNS, n_vocab, N_POSITIONS, device_targets.at, NULL,
                              &err));
        assert_ok(rb_cuda()->copy(got, device_scores.at, sizeof got, NULL, &err));
        assert_ok(rb_cuda()->stream_wait(NULL, &err));
        for (int64_t p = 0; p < N_POSITIONS; p++) {
            token_scores(expected, logits + p * N_RUNS * n_vocab, N_RUNS, n_vocab, targets[p], scratch);
            for (int run = 0; run < N_RUNS; run++) {
                const token_score *score = &got[p * N_RUNS + run];
                /* exponentials and their sums in f32 on the CPU: 2^-24 a term */
                if (!(fabs(score->nll - expected[run].nll) < 2e-6 * (1.0 + expected[run].nll)
                      && fabs(score->kl - expected[run].kl) < 5e-6 * (1.0 + expected[run].kl)))
                    fail_msg("vocabulary %lld, position %lld, run %d: nll %.9g and KL %.9g, expected %.9g and %.9g",
                             (long long)n_vocab, (long long)p, run, score->nll, score->kl, expected[run].nll,
                             expected[run].kl);
                assert_int_equal(score->is_target_first, expected[run].is_target_first);
                assert_int_equal(score->is_top1_same, expected[run].is_top1_same);
            }
            assert_true(got[p * N_RUNS].kl == 0.0 && got[p * N_RUNS + 2].kl < 1e-12);
        }
        rb_cuda_array_free(&device_logits);
        rb_cuda_array_free(&device_targets);
        rb_cuda_array_free(&device_scores);
        free(logits);
    }
    free(scratch);
}

/* ---- whole results --------------------------------------------------------------------------- */

/* f32: products in another order, and a code here and there beside a boundary. bf16: 8 bits of every activation, the
 * same for all runs until codes differ; what that adds to an error does not shrink with it, so means count as `floor`
 * at least, single tokens' divergences as ten times that, outputs' errors as fifty times. */
typedef struct bounds {
    double nll, kl, tail, attention_kl, output; /* relative */
    double top1, overlap;                       /* shares of tokens and keys */
    double floor;
} bounds;
static const bounds f32_bounds = {2e-4, 2e-2, 1.5e-1, 2e-2, 2e-2, 2e-2, 1e-2, 1e-5},
                    bf16_bounds = {5e-3, 3e-1, 7e-1, 2e-1, 4e-1, 5e-2, 5e-2, 1e-3};

static double relative(double a, double b, double floor)
{
    if (a == b || (isnan(a) && isnan(b))) return 0.0;
    return isfinite(a) && isfinite(b) ? fabs(a - b) / fmax(floor, fmax(fabs(a), fabs(b))) : INFINITY;
}

/* The largest difference between two arrays, as `relative` has it. */
static void widen(double *found, const double *a, const double *b, int n, double floor)
{
    for (int i = 0; i < n; i++) *found = fmax(*found, relative(a[i], b[i], floor));
}

static void compare_results(const evaluate_result *gpu, const evaluate_result *cpu, const bounds *most,
                            const char *what)
{
    const double floor = most->floor;
    bounds found = {0};
    assert_int_equal(gpu->n_runs, cpu->n_runs);
    for (int run = 0; run < cpu->n_runs; run++) {
        const evaluate_score *a = &gpu->runs[run], *b = &cpu->runs[run];
        widen(&found.nll, &a->text.nll, &b->text.nll, 1, 0.0);
        widen(&found.kl, &a->text.kl_mean, &b->text.kl_mean, 1, floor);
        widen(&found.tail, &a->text.kl_p99, &b->text.kl_p99, 1, 10.0 * floor);
        widen(&found.tail, &a->text.kl_max, &b->text.kl_max, 1, 10.0 * floor);
        widen(&found.attention_kl, a->attention_kl_by_layer, b->attention_kl_by_layer, cpu->n_layers, floor);
        widen(&found.output, a->output_error_by_head, b->output_error_by_head, cpu->n_layers * cpu->n_q_heads,
              50.0 * floor);
        found.top1 = fmax(found.top1, fabs(a->text.top1_agreement - b->text.top1_agreement));
        found.overlap = fmax(found.overlap, fabs(a->attention_overlap - b->attention_overlap));
        if (run == 0)
            assert_true(a->text.kl_mean == 0.0 && a->text.top1_agreement == 1.0 && a->attention_kl == 0.0
                        && a->output_error == 0.0);
    }
    if (getenv("RB_TEST_REPORT"))
        print_message(
            "%s: nll %.2g, KL %.2g, its tail %.2g, attention KL %.2g, outputs %.2g, top-1 %.2g, overlap %.2g\n", what,
            found.nll, found.kl, found.tail, found.attention_kl, found.output, found.top1, found.overlap);
    const double *f = (const double *)&found, *m = (const double *)most;
    for (size_t i = 0; i < offsetof(bounds, floor) / sizeof(double); i++)
        if (!(f[i] < m[i]))
            fail_msg("%s: GPU and CPU differ in number %zu of bounds by %.3g, expected below %.3g", what, i, f[i],
                     m[i]);
}

static void try_request(inputs *in, const char *name)
{
    evaluate_result cpu, gpu;
    rb_error err = {0};
    in->request.is_on_cuda = false;
    assert_ok(evaluate_plans(&cpu, &in->request, &err));
    in->request.is_on_cuda = true;
    for (int precision = 0; precision < 2; precision++) {
        char what[160];
        in->request.cuda_precision = (layer_cuda_precision)precision;
        snprintf(what, sizeof what, "%s, sink %d, recent %d%s%s, %s", name, (int)in->plans[0]->n_sink,
                 (int)in->plans[0]->n_recent, in->request.with_keys ? "" : ", values only",
                 in->request.with_values ? "" : ", keys only", precision == LAYER_CUDA_F32 ? "f32" : "bf16");
        assert_ok(evaluate_plans(&gpu, &in->request, &err));
        compare_results(&gpu, &cpu, precision == LAYER_CUDA_F32 ? &f32_bounds : &bf16_bounds, what);
        evaluate_result_free(&gpu);
    }
    evaluate_result_free(&cpu);
}

static void the_bundled_model(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    inputs in;
    open_inputs(&in, "configs/demo-llama", 2000,
                900); /* the first part has 7200 tokens: two chunks, the second from the middle of a sequence */
    try_request(&in, "demo-llama");
    keep_exact(&in, 4, 64);
    try_request(&in, "demo-llama");
    keep_exact(&in, 0, 0);
    in.request.with_values = false;
    try_request(&in, "demo-llama");
    in.request.with_values = true;
    in.request.with_keys = false;
    keep_exact(&in, 0, 1);
    try_request(&in, "demo-llama");
    close_inputs(&in);
}

static void the_shared_models(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    /* qwen2 has biases, mistral-nemo a sliding window of 16, qwen3 norms of q and k */
    static const char *const names[] = {"models/small-qwen2", "models/small-llama3", "oracle/qwen2",
                                        "oracle/qwen3",       "oracle/mistral-nemo", "oracle/llama-rope-llama3"};
    for (size_t i = 0; i < RB_COUNT(names); i++) {
        const char *folder = shared_path(names[i]);
        inputs in;
        if (!folder) continue;
        open_inputs(&in, folder, 500, 200);
        try_request(&in, names[i]);
        keep_exact(&in, 0, 12);
        try_request(&in, names[i]);
        close_inputs(&in);
    }
}

/* In as much memory as chunks of 128 tokens take, and in too little. */
static void memory_is_kept_to(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    inputs in;
    evaluate_batch batch;
    evaluate_result whole, chunks, again, none;
    rb_error err = {0};
    open_inputs(&in, "configs/demo-llama", 600, 300);
    in.request.is_on_cuda = true;
    in.request.cuda_precision = LAYER_CUDA_F32;
    assert_ok(evaluate_batch_make(&batch, &in.request, &err));
    const forward_hooks host = {.part_start = batch.part_start,
                                .n_parts = batch.n_parts,
                                .n_logit_tokens = batch.n_positions * N_RUNS,
                                .logit_group = N_RUNS};
    const forward_parts_cuda_options options = {.precision = LAYER_CUDA_F32,
                                                .reserved_bytes =
                                                    kv_restore_cuda_bytes(&in.request, &batch)
                                                    + batch.n_positions * (int64_t)(4 + N_RUNS * sizeof(token_score))};
    assert_ok(evaluate_plans(&whole, &in.request, &err));
    assert_ok(evaluate_plans(&again, &in.request, &err));
    for (int run = 0; run < N_RUNS; run++)
        assert_true(whole.runs[run].text.kl_mean == again.runs[run].text.kl_mean
                    && whole.runs[run].text.nll == again.runs[run].text.nll);
    in.request.max_gpu_bytes =
        forward_parts_cuda_bytes(checkpoint_config(in.model), &batch.batch, &host, &options, CUDA_PASS_MIN_CHUNK);
    assert_ok(evaluate_plans(&chunks, &in.request, &err));
    assert_true((int64_t)rb_cuda_peak_bytes() + CUDA_PASS_WORKSPACE_BYTES <= in.request.max_gpu_bytes);
    compare_results(&chunks, &whole, &f32_bounds, "chunks of 128 against one chunk");
    in.request.max_gpu_bytes--;
    assert_fails(evaluate_plans(&none, &in.request, &err), RB_ENOMEM, "are needed even in chunks of 128 tokens");
    evaluate_result_free(&whole);
    evaluate_result_free(&again);
    evaluate_result_free(&chunks);
    evaluate_result_free(&none);
    evaluate_batch_free(&batch);
    close_inputs(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_and_values_are_restored_as_on_the_cpu),
        cmocka_unit_test(a_key_that_no_codec_holds_is_named),
        cmocka_unit_test(token_scores_are_those_of_the_cpu),
        cmocka_unit_test(the_bundled_model),
        cmocka_unit_test(the_shared_models),
        cmocka_unit_test(memory_is_kept_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
