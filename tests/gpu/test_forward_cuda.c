/* The streaming forward pass on the GPU against the CPU's: queries and keys, their sums, and the allocations that
 * follow from them, on the bundled model and on those of shared/ where they are ($RB_SHARED); in chunks, in several
 * sequences, as f16 and f32. */
#include "tests/gpu/gpu_test.h"

#include "calibrate/block_statistics.h"
#include "core/half.h"
#include "core/threads.h"
#include "methods/allocator.h"
#include "model/cuda/forward_cuda.h"
#include "model/forward.h"

enum { N_TOKENS = 600, N_SETS = 2, MAX_TEST_LAYERS = 64 };

/* What both sides hand over. */
typedef struct kept {
    const model_facts *facts;
    const int64_t *set_start;
    float *q[MAX_TEST_LAYERS], *k[MAX_TEST_LAYERS];                  /* [heads][N_TOKENS][d] */
    double *q_squares[MAX_TEST_LAYERS], *k_squares[MAX_TEST_LAYERS]; /* of set 0 */
    double energy[MAX_TEST_LAYERS][N_TOKENS];                        /* of the residual stream */
    bool is_f32;
    int n_calls;
} kept;

static size_t head_floats(const kept *k, int n_heads)
{
    return (size_t)n_heads * N_TOKENS * (size_t)k->facts->head_dim;
}

static float *copy_floats(const float *from, size_t n)
{
    float *out = malloc(n * sizeof *out);
    if (!out) abort();
    memcpy(out, from, n * sizeof *out);
    return out;
}

static rb_status keep_cpu(void *user, layer_heads *heads, rb_error *err)
{
    kept *k = user;
    (void)err;
    k->q[heads->layer] = copy_floats(heads->q, head_floats(k, k->facts->n_q_heads));
    k->k[heads->layer] = copy_floats(heads->k, head_floats(k, k->facts->n_kv_heads));
    k->n_calls++;
    return RB_OK;
}

static rb_status keep_cpu_energy(void *user, const layer_heads *heads, const double *energy, rb_error *err)
{
    kept *k = user;
    (void)err;
    memcpy(k->energy[heads->layer], energy, sizeof k->energy[0]);
    return RB_OK;
}

/* Back from [heads][n_set][d], f16 or f32, to all tokens. */
static void scatter(float *out, const kept *k, const captured_layer *captured, const void *from, int n_heads)
{
    const int64_t d = k->facts->head_dim, first = k->set_start[captured->set];
    for (int h = 0; h < n_heads; h++)
        for (int64_t i = 0; i < captured->n_tokens * d; i++) {
            const int64_t at = h * captured->n_tokens * d + i;
            out[((int64_t)h * N_TOKENS + first) * d + i] =
                k->is_f32 ? ((const float *)from)[at] : rb_f16_to_f32(((const uint16_t *)from)[at]);
        }
}

static double *copy_doubles(const double *from, size_t n)
{
    double *out = malloc(n * sizeof *out);
    if (!out) abort();
    memcpy(out, from, n * sizeof *out);
    return out;
}

static rb_status keep_gpu(void *user, const captured_layer *captured, rb_error *err)
{
    kept *k = user;
    const int layer = captured->layer;
    const size_t d = (size_t)k->facts->head_dim;
    if (captured->set == 0) {
        k->q[layer] = calloc(head_floats(k, k->facts->n_q_heads), sizeof(float));
        k->k[layer] = calloc(head_floats(k, k->facts->n_kv_heads), sizeof(float));
        k->q_squares[layer] = copy_doubles(captured->q_squares, (size_t)k->facts->n_q_heads * d);
        k->k_squares[layer] = copy_doubles(captured->k_squares, (size_t)k->facts->n_kv_heads * d);
        if (k->n_calls++ != layer) return rb_fail(err, RB_EINVAL, "layer %d out of order", layer);
    }
    memcpy(k->energy[layer] + k->set_start[captured->set], captured->residual_energy,
           (size_t)captured->n_tokens * sizeof k->energy[0][0]);
    scatter(k->q[layer], k, captured, captured->q, k->facts->n_q_heads);
    scatter(k->k[layer], k, captured, captured->k, k->facts->n_kv_heads);
    return RB_OK;
}

static void free_kept(kept *k)
{
    for (int layer = 0; layer < MAX_TEST_LAYERS; layer++) {
        free(k->q[layer]);
        free(k->k[layer]);
        free(k->q_squares[layer]);
        free(k->k_squares[layer]);
    }
}

static double relative_rms(const float *a, const float *b, size_t n)
{
    double error = 0.0, whole = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double difference = (double)a[i] - (double)b[i];
        error += difference * difference;
        whole += (double)b[i] * (double)b[i];
    }
    return sqrt(error / whole);
}

/* Bits at 3 a dim, of all heads of a layer, from its sums over the first set. */
static void allocate_layer(uint8_t *bits, const kept *k, int layer, const double *q_squares, const double *k_squares)
{
    const model_facts *facts = k->facts;
    const int n = model_n_blocks(facts), d = facts->head_dim;
    double *k_sums = calloc((size_t)facts->n_kv_heads * (size_t)d, sizeof *k_sums), mean[RB_MAX_BLOCKS];
    block_statistics statistics;
    rb_error err = {0};
    assert_ok(block_statistics_create(&statistics, facts, &err));
    assert_ok(
        block_statistics_from_sums(&statistics, facts, layer, q_squares, k_squares, k_sums, k->set_start[1], &err));
    for (int h = 0; h < facts->n_kv_heads; h++) {
        const head_energy energy = {
            .n_blocks = n, .q_energy = statistics.q_energy + h * n, .k_energy = statistics.k_energy + h * n};
        head_energy_mean(&energy, mean);
        assert_ok(allocate_greedy(bits + h * n, mean, n, 3.0, &err));
    }
    block_statistics_free(&statistics);
    free(k_sums);
}

/* The CPU's sums of squares over the first set. */
static double *squares_of(const kept *k, const float *x, int n_heads)
{
    const int64_t d = k->facts->head_dim;
    double *out = calloc((size_t)(n_heads * d), sizeof *out);
    for (int h = 0; h < n_heads; h++)
        for (int64_t t = 0; t < k->set_start[1]; t++)
            for (int64_t j = 0; j < d; j++) {
                const double value = (double)x[((int64_t)h * N_TOKENS + t) * d + j];
                out[h * d + j] += value * value;
            }
    return out;
}

static void compare(const kept *cpu, const kept *gpu, double rms_bound, double bits_bound, const char *what)
{
    const model_facts *facts = cpu->facts;
    const int n_bits = facts->n_kv_heads * model_n_blocks(facts);
    double worst = 0.0;
    int64_t n_equal = 0, n_all = 0;
    uint8_t *bits[2] = {malloc((size_t)n_bits), malloc((size_t)n_bits)};
    for (int layer = 0; layer < facts->n_layers; layer++) {
        worst = fmax(worst, relative_rms(gpu->q[layer], cpu->q[layer], head_floats(cpu, facts->n_q_heads)));
        worst = fmax(worst, relative_rms(gpu->k[layer], cpu->k[layer], head_floats(cpu, facts->n_kv_heads)));
        double *q_squares = squares_of(cpu, cpu->q[layer], facts->n_q_heads),
               *k_squares = squares_of(cpu, cpu->k[layer], facts->n_kv_heads);
        allocate_layer(bits[0], cpu, layer, q_squares, k_squares);
        allocate_layer(bits[1], gpu, layer, gpu->q_squares[layer], gpu->k_squares[layer]);
        for (int i = 0; i < n_bits; i++) n_equal += bits[0][i] == bits[1][i];
        n_all += n_bits;
        free(q_squares);
        free(k_squares);
    }
    if (getenv("RB_TEST_REPORT"))
        print_message("%s: worst relative RMS of a layer's q or k %.3g, %lld of %lld blocks get the same bits\n", what,
                      worst, (long long)n_equal, (long long)n_all);
    if (!(worst < rms_bound)) fail_msg("%s: relative RMS %g, expected below %g", what, worst, rms_bound);
    if ((double)n_equal < bits_bound * (double)n_all)
        fail_msg("%s: %lld of %lld blocks get the same bits", what, (long long)n_equal, (long long)n_all);
    free(bits[0]);
    free(bits[1]);
}

/* Of the last layer too, which nothing else needs whole. Relative to the other side, token by token. */
static void compare_energies(const kept *cpu, const kept *gpu, double bound, const char *what)
{
    for (int layer = 0; layer < cpu->facts->n_layers; layer++)
        for (int t = 0; t < N_TOKENS; t++) {
            const double expected = cpu->energy[layer][t], found = gpu->energy[layer][t];
            if (!(fabs(found - expected) <= bound * expected))
                fail_msg("%s: layer %d token %d has residual energy %g, expected %g", what, layer, t, found, expected);
        }
}

static void try_model(const char *folder, const char *name, bool in_chunks, double bits_bound)
{
    /* Sets of three and two sequences of uneven lengths. */
    static const int64_t starts[] = {0, 150, 151, 350, 500, N_TOKENS}, set_start[] = {0, 350, N_TOKENS};
    int32_t tokens[N_TOKENS];
    checkpoint *ckpt = NULL;
    rb_error err = {0};
    rb_threads_init(0);
    assert_ok(checkpoint_open(&ckpt, folder, &err));
    const model_config *config = checkpoint_config(ckpt);
    for (int i = 0; i < N_TOKENS; i++) tokens[i] = (i * 7919 + 13) % config->vocab_size;
    const token_batch batch = {
        .tokens = tokens, .n_tokens = N_TOKENS, .sequence_start = starts, .n_sequences = RB_COUNT(starts) - 1};
    static kept cpu, gpu;
    cpu = (kept){.facts = &config->facts, .set_start = set_start};
    const forward_hooks hooks = {.user = &cpu, .on_qkv = keep_cpu, .on_residual = keep_cpu_energy};
    assert_ok(forward_run(ckpt, &batch, &hooks, &err));
    for (int precision = 0; precision < 2; precision++) {
        char what[128];
        gpu = (kept){.facts = &config->facts, .set_start = set_start, .is_f32 = precision == LAYER_CUDA_F32};
        forward_cuda_report report = {0};
        forward_cuda_options options = {.precision = (layer_cuda_precision)precision,
                                        .capture_is_f32 = gpu.is_f32,
                                        .with_residual = true,
                                        .set_start = set_start,
                                        .n_sets = N_SETS};
        const forward_cuda_hooks gpu_hooks = {.user = &gpu, .on_captured = keep_gpu};
        if (in_chunks) options.max_bytes = forward_cuda_bytes(config, &batch, &options, 128);
        assert_ok(forward_cuda_run(ckpt, &batch, &options, &gpu_hooks, &report, &err));
        if (in_chunks) assert_int_equal(report.chunk_tokens, 128);
        assert_int_equal(gpu.n_calls, config->facts.n_layers);
        assert_true(report.gpu_bytes <= forward_cuda_bytes(config, &batch, &options, report.chunk_tokens));
        snprintf(what, sizeof what, "%s %s%s", name, precision == LAYER_CUDA_F32 ? "f32" : "bf16",
                 in_chunks ? " in chunks" : "");
        compare(&cpu, &gpu, precision == LAYER_CUDA_F32 ? 1e-4 : 2e-2, precision == LAYER_CUDA_F32 ? 1.0 : bits_bound,
                what);
        compare_energies(&cpu, &gpu, precision == LAYER_CUDA_F32 ? 1e-3 : 0.1, what);
        free_kept(&gpu);
    }
    free_kept(&cpu);
    checkpoint_close(ckpt);
}

static void the_bundled_model(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    try_model("configs/demo-llama", "demo-llama", false, 0.99);
    try_model("configs/demo-llama", "demo-llama", true, 0.99);
}

static void the_shared_models(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const char *const names[] = {
        "models/small-qwen2", "models/small-llama3",     "oracle/qwen2", "oracle/qwen3", "oracle/mistral-nemo",
        "oracle/llama",       "oracle/llama-rope-llama3"};
    for (size_t i = 0; i < RB_COUNT(names); i++) {
        const char *folder = shared_path(names[i]);
        if (folder)
            try_model(folder, names[i], i == 0,
                      strncmp(names[i], "oracle", 6) == 0 ? 0.9
                                                          : 0.99); /* random models have energies that all but tie */
    }
}

static void too_little_memory_is_one_sentence(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int64_t starts[] = {0, 64};
    int32_t tokens[64] = {0};
    checkpoint *ckpt = NULL;
    forward_cuda_report report;
    rb_error err = {0};
    assert_ok(checkpoint_open(&ckpt, "configs/demo-llama", &err));
    const token_batch batch = {.tokens = tokens, .n_tokens = 64, .sequence_start = starts, .n_sequences = 1};
    const forward_cuda_options options = {.set_start = starts, .n_sets = 1, .max_bytes = 1 << 20};
    const forward_cuda_hooks hooks = {.on_captured = keep_gpu};
    assert_fails(forward_cuda_run(ckpt, &batch, &options, &hooks, &report, &err), RB_ENOMEM,
                 "are needed even in chunks of 128 tokens, expected at most 1 MiB");
    checkpoint_close(ckpt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bundled_model),
        cmocka_unit_test(the_shared_models),
        cmocka_unit_test(too_little_memory_is_one_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
