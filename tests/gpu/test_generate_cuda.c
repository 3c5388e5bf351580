/* Text generated on the GPU is what `evaluate`'s restored pass says on the CPU, for every family, with and without
 * exact tokens, in fp16, and for any chunk; and products of few rows, against sums in double. */
#include "tests/gpu/gpu_test.h"

#include "model/cuda/layer_cuda.h"
#include "tests/generate/generated_text.h"

/* How far the new tokens' logits may be below the largest of the pass on the CPU, at most and in the mean. Logits of
 * this model reach 20, and a token that is any other than the most likely one is 5 to 9 below it in the mean.
 *
 * In fp16 nothing is coded, and rounding moves logits by little: in f32 that of keys and values to fp16, in bf16 that
 * of every layer to 8 bits.
 *
 * Codes make more of it. A key near the boundary of two codes gets the other one when rounding moves it, its block then
 * moves by a step of 3 bits, and keys of later layers follow. On the CPU, with q, k and v moved by random parts of
 * 2^-11, as fp16 rounds, before coding and after it, single logits moved by up to 5. The tokens most likely after that
 * were 0.45 at most and 0.05 in the mean below those before, in 35 passes; with parts of 2^-8, as bf16 rounds, 1.6 and
 * 0.19. Tokens most likely with the codes of another plan were 2.9 to 16 and 0.43 to 1.3 below. */
typedef struct logit_tie {
    float worst;
    double mean;
} logit_tie;

static const logit_tie FP16_TIES[] = {[LAYER_CUDA_F32] = {0.05f, 0.01}, [LAYER_CUDA_BF16] = {1.5f, 0.2}},
                       CODED_TIES[] = {[LAYER_CUDA_F32] = {1.0f, 0.1}, [LAYER_CUDA_BF16] = {2.5f, 0.35}};

static void check_kind(plan_kind kind, int64_t n_sink, int64_t n_recent, layer_cuda_precision precision, int64_t chunk)
{
    int32_t text[N_ALL];
    checkpoint *model = open_model();
    bit_plan *plan = make_plan(&checkpoint_config(model)->facts, kind, n_sink, n_recent);
    const generator_request request = {
        .model = model, .plan = plan, .is_on_gpu = true, .precision = precision, .chunk = chunk};
    generate_on(&request, text);
    const judge j = judge_text(model, plan, text);
    if (getenv("RB_TEST_REPORT"))
        print_message("kind %d, %d sinks, %d recent, precision %d, chunk %d: %d of %d tokens differ, by %g at most, %g "
                      "in the mean\n",
                      (int)kind, (int)n_sink, (int)n_recent, (int)precision, (int)chunk, j.n_different, N_NEW,
                      (double)j.worst, j.mean);
    const logit_tie tie = (kind == PLAN_FP16 ? FP16_TIES : CODED_TIES)[precision];
    if (!(j.worst <= tie.worst && j.mean <= tie.mean))
        fail_msg(
            "kind %d, %d sinks, %d recent, precision %d, chunk %d: tokens are %g below the most likely ones at most "
            "and %g in the mean, expected %g and %g",
            (int)kind, (int)n_sink, (int)n_recent, (int)precision, (int)chunk, (double)j.worst, j.mean,
            (double)tie.worst, tie.mean);
    bit_plan_free(plan);
    checkpoint_close(model);
}

static void fp16_gives_the_text_of_the_unquantized_pass(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    check_kind(PLAN_FP16, 0, 0, LAYER_CUDA_F32, CHUNK);
    check_kind(PLAN_FP16, 0, 0, LAYER_CUDA_BF16, CHUNK);
}

static void every_family_gives_the_text_of_the_restored_pass(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    for (int kind = PLAN_BLOCK_GTQ; kind < N_PLAN_KINDS; kind++) {
        check_kind((plan_kind)kind, 0, 0, LAYER_CUDA_F32, CHUNK);
        check_kind((plan_kind)kind, 0, 0, LAYER_CUDA_BF16, CHUNK);
    }
}

static void exact_tokens_are_those_of_the_restored_pass(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    for (int kind = PLAN_BLOCK_GTQ; kind < N_PLAN_KINDS; kind++) {
        check_kind((plan_kind)kind, 4, 0, LAYER_CUDA_F32, CHUNK);
        check_kind((plan_kind)kind, 0, 33, LAYER_CUDA_F32, CHUNK);
        check_kind((plan_kind)kind, 3, 100, LAYER_CUDA_F32, CHUNK); /* longer than a chunk */
        check_kind((plan_kind)kind, 3, 33, LAYER_CUDA_BF16, CHUNK);
    }
}

static void every_chunk_gives_such_a_text(void **state)
{
    (void)state;
    static const int64_t chunks[] = {1, 7, 100, 109, 512};
    GPU_OR_SKIP();
    for (size_t i = 0; i < RB_COUNT(chunks); i++) check_kind(PLAN_BLOCK_GTQ, 2, 40, LAYER_CUDA_F32, chunks[i]);
}

/* ---- products of few rows -------------------------------------------------------------------- */

/* The nearest bf16, of a number that is not too large. */
static uint16_t bf16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float number_of(uint16_t bf16)
{
    const uint32_t bits = (uint32_t)bf16 << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint16_t *bf16_numbers(uint64_t seed, int64_t n)
{
    float *x = normal_floats(seed, n);
    uint16_t *out = malloc((size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++) out[i] = bf16_of(x[i]);
    free(x);
    return out;
}

static void *device_copy(const void *from, size_t size_bytes)
{
    void *to = NULL;
    assert_ok(rb_cuda()->alloc(&to, size_bytes, &err));
    assert_ok(rb_cuda()->copy(to, from, size_bytes, NULL, &err));
    assert_ok(rb_cuda()->stream_wait(NULL, &err));
    return to;
}

/* y [m][n], with a guard of 16 numbers after it, twice: before by what was there, after by the product. */
static void check_product(const layer_cuda_api *api, int64_t m, int64_t n, int64_t k, bool is_f32, bool adds)
{
    enum { GUARD = 16 };
    const size_t size = is_f32 ? sizeof(float) : sizeof(uint16_t), n_all = (size_t)(m * n + GUARD);
    uint16_t *x = bf16_numbers(1, m * k), *w = bf16_numbers(2, n * k), *before16 = bf16_numbers(3, m * n + GUARD);
    float *before = malloc(n_all * sizeof *before), *after = malloc(n_all * sizeof *after);
    uint16_t *after16 = malloc(n_all * sizeof *after16);
    for (size_t i = 0; i < n_all; i++) before[i] = number_of(before16[i]);
    void *on_x = device_copy(x, (size_t)(m * k) * sizeof *x), *on_w = device_copy(w, (size_t)(n * k) * sizeof *w),
         *on_y = device_copy(is_f32 ? (void *)before : (void *)before16, n_all * size);
    assert_ok(api->few_rows(on_y, is_f32, adds, on_x, on_w, m, n, k, NULL, &err));
    assert_ok(rb_cuda()->copy(is_f32 ? (void *)after : (void *)after16, on_y, n_all * size, NULL, &err));
    assert_ok(rb_cuda()->stream_wait(NULL, &err));
    for (size_t i = 0; i < n_all && !is_f32; i++) after[i] = number_of(after16[i]);
    for (int64_t row = 0; row < m; row++)
        for (int64_t column = 0; column < n; column++) {
            double sum = adds ? (double)before[row * n + column] : 0.0, size_of_sum = fabs(sum);
            for (int64_t i = 0; i < k; i++) {
                const double product = (double)number_of(x[row * k + i]) * (double)number_of(w[column * k + i]);
                sum += product;
                size_of_sum += fabs(product);
            }
            const double got = (double)after[row * n + column];
            /* Sums of at most k / 8 + 8 products in f32; bf16 rounds by 2^-9. */
            if (fabs(got - sum) > 1e-5 * size_of_sum + (is_f32 ? 0.0 : fabs(sum) / 256))
                fail_msg("%d x %d x %d, row %d column %d: %g, expected %g", (int)m, (int)n, (int)k, (int)row,
                         (int)column, got, sum);
        }
    for (size_t i = (size_t)(m * n); i < n_all; i++) assert_true(after[i] == before[i]);
    rb_cuda()->release(on_x), rb_cuda()->release(on_w), rb_cuda()->release(on_y);
    free(x), free(w), free(before16), free(before), free(after), free(after16);
}

static void products_of_few_rows_are_the_sums(void **state)
{
    (void)state;
    static const int64_t ns[] = {1, 15, 16, 17, 192, 1000}, ks[] = {8, 24, 64, 192, 1024, 1032, 4096};
    const void *table = NULL;
    GPU_OR_SKIP();
    if (rb_cuda_device()->major < 8) skip();
    assert_ok(rb_cuda_table(&table, "rb_layer_cuda", &err));
    for (int64_t m = 1; m <= LAYER_CUDA_FEW_ROWS; m++)
        for (size_t i = 0; i < RB_COUNT(ns); i++)
            for (size_t j = 0; j < RB_COUNT(ks); j++)
                if ((m + (int64_t)i + (int64_t)j) % 3 == 0 || m == 1)
                    check_product(table, m, ns[i], ks[j], (i + j) % 2 == 0, m % 2 == 0);
}

static void products_that_the_kernel_does_not_take_are_refused(void **state)
{
    (void)state;
    const void *table = NULL;
    GPU_OR_SKIP();
    assert_ok(rb_cuda_table(&table, "rb_layer_cuda", &err));
    const layer_cuda_api *api = table;
    assert_fails(api->few_rows((void *)16, true, false, (void *)16, (void *)16, 9, 16, 64, NULL, &err), RB_EINVAL,
                 "9 rows of 64, expected at most 8 rows");
    assert_fails(api->few_rows((void *)16, true, false, (void *)16, (void *)16, 1, 16, 60, NULL, &err), RB_EINVAL,
                 "a multiple of 8");
    assert_fails(api->few_rows((void *)16, true, false, (void *)24, (void *)16, 1, 16, 64, NULL, &err), RB_EINVAL,
                 "aligned to 16 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_few_rows_are_the_sums),
        cmocka_unit_test(products_that_the_kernel_does_not_take_are_refused),
        cmocka_unit_test(fp16_gives_the_text_of_the_unquantized_pass),
        cmocka_unit_test(every_family_gives_the_text_of_the_restored_pass),
        cmocka_unit_test(exact_tokens_are_those_of_the_restored_pass),
        cmocka_unit_test(every_chunk_gives_such_a_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
