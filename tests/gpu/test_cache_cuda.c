/* The packed cache on the GPU against that on the CPU, which is the definition: attention over the same pages, then
 * appending, and decoding what was appended. */
#include "tests/test_support.h"

#include "tests/cache/some_cache.h"
#include "tests/gpu/gpu_test.h"

/* Where and what: lengths of the sequences; exact tokens; query heads of a KV head. */
typedef struct gpu_case {
    int kind, head_dim, group, n_sequences;
    const int32_t *length;
    int n_sink, n_recent;
    int window;
    double softcap;
} gpu_case;

/* One cache on both devices; everything of the longest sequence's size. */
typedef struct both {
    gpu_case is;
    model_facts model;
    kv_cache *cpu, *gpu;
    int max_pages, max_length;
    float *keys, *values, *queries, *out[2], *sums[2]; /* CPU, GPU */
    uint8_t *pool, *exact;
    int32_t *block_table;
    rb_cuda_array on_gpu[12];
    int n_on_gpu;
} both;

static void *put(both *b, const void *from, size_t size_bytes)
{
    rb_error err = {0};
    rb_cuda_array *array = &b->on_gpu[b->n_on_gpu++];
    assert_true(b->n_on_gpu <= (int)RB_COUNT(b->on_gpu));
    assert_ok(rb_cuda_array_alloc(array, size_bytes > 0 ? size_bytes : 16, "test", &err));
    if (from && size_bytes > 0) assert_ok(rb_cuda()->copy(array->at, from, size_bytes, NULL, &err));
    assert_ok(rb_cuda()->stream_wait(NULL, &err));
    return array->at;
}

static void get(void *to, const void *from, size_t size_bytes)
{
    rb_error err = {0};
    assert_ok(rb_cuda()->copy(to, from, size_bytes, NULL, &err));
    assert_ok(rb_cuda()->stream_wait(NULL, &err));
}

static size_t n_numbers(const both *b)
{
    return (size_t)b->is.n_sequences * (size_t)b->max_length * (size_t)(b->model.n_kv_heads * b->model.head_dim);
}

static both both_create(const gpu_case *is)
{
    rb_error err = {0};
    both b = {.is = *is};
    b.model = some_model(1, 2, is->head_dim, is->head_dim == 80 ? 40 : is->head_dim,
                         is->head_dim == 128 ? ROPE_INTERLEAVED : ROPE_SPLIT_HALF);
    b.model.n_q_heads = is->group * b.model.n_kv_heads;
    bit_plan *plan = some_plan_of_kind(is->kind, &b.model);
    if (plan) {
        plan->n_sink = is->n_sink;
        plan->n_recent = is->n_recent;
    }
    assert_ok(kv_cache_create(&b.cpu, &b.model, plan, false, &err));
    assert_ok(kv_cache_create(&b.gpu, &b.model, plan, true, &err));
    bit_plan_free(plan);
    for (int s = 0; s < is->n_sequences; s++)
        if (is->length[s] > b.max_length) b.max_length = is->length[s];
    b.max_pages = (b.max_length + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS;
    const int n_pages = b.max_pages * is->n_sequences;
    assert_ok(rb_alloc(&b.block_table, (size_t)n_pages, sizeof *b.block_table, "block table", &err));
    for (int p = 0; p < n_pages; p++) b.block_table[p] = n_pages - 1 - p;
    const size_t pool_bytes = (size_t)n_pages * (size_t)kv_cache_layout(b.cpu, 0)->page_bytes;
    assert_ok(rb_alloc(&b.pool, pool_bytes, 1, "pool", &err));
    memset(b.pool, 0xff, pool_bytes); /* slots of no token hold fp16 that are not numbers */
    assert_ok(rb_alloc(&b.exact, kv_cache_exact_bytes(b.cpu) * (size_t)is->n_sequences, 1, "exact", &err));
    b.keys = some_numbers(n_numbers(&b), 17);
    b.values = some_numbers(n_numbers(&b), 91);
    const size_t n_out = (size_t)(is->n_sequences * b.model.n_q_heads * is->head_dim);
    b.queries = some_numbers(n_out, 5);
    for (size_t i = 0; i < n_out; i++) b.queries[i] *= 4.0f;
    for (int i = 0; i < 2; i++) {
        b.out[i] = some_numbers(n_out, 6);
        b.sums[i] = some_numbers((size_t)(is->n_sequences * b.model.n_q_heads), 6);
    }
    return b;
}

static void both_free(both *b)
{
    kv_cache_free(b->cpu);
    kv_cache_free(b->gpu);
    void *all[] = {b->block_table, b->pool,   b->exact,  b->keys,    b->values,
                   b->queries,     b->out[0], b->out[1], b->sums[0], b->sums[1]};
    for (size_t i = 0; i < RB_COUNT(all); i++) free(all[i]);
    for (int i = 0; i < b->n_on_gpu; i++) rb_cuda_array_free(&b->on_gpu[i]);
}

static ropebits_kv_vectors vectors_of(const both *b, void *data)
{
    const int64_t row = b->model.n_kv_heads * b->model.head_dim;
    return (ropebits_kv_vectors){data, ROPEBITS_KV_F32, row, b->model.head_dim};
}

/* All tokens of a sequence in two parts, so that the second meets a ring that is in use. */
static void append_all(const both *b, kv_cache *cache, float *keys, float *values, const ropebits_kv_pages *pages)
{
    rb_error err = {0};
    const int64_t row = b->model.n_kv_heads * b->model.head_dim;
    int32_t *token = NULL, *of = NULL;
    assert_ok(rb_alloc(&token, (size_t)b->max_length, sizeof *token, "tokens", &err));
    assert_ok(rb_alloc(&of, (size_t)b->max_length, sizeof *of, "tokens", &err));
    const bool is_gpu = cache == b->gpu;
    rb_cuda_array lists[3] = {{0}};
    for (int s = 0; s < b->is.n_sequences; s++)
        for (int half = 0; half < 2; half++) {
            const int n = b->is.length[s], first = half * (n / 3), end = half ? n : n / 3;
            for (int t = first; t < end; t++) {
                token[t - first] = t;
                of[t - first] = s;
            }
            const int64_t at = ((int64_t)s * b->max_length + first) * row;
            ropebits_kv_tokens tokens = {
                end - first, of, token, vectors_of(b, keys + at), vectors_of(b, values + at), 0};
            const size_t bytes = (size_t)(end - first) * sizeof *token;
            if (is_gpu && end > first) {
                assert_ok(rb_cuda_array_alloc(&lists[0], bytes, "test", &err));
                assert_ok(rb_cuda_array_alloc(&lists[1], bytes, "test", &err));
                assert_ok(rb_cuda_array_alloc(&lists[2], kv_cache_coding_bytes(cache, 0, end - first), "test", &err));
                assert_ok(rb_cuda()->copy(lists[0].at, of, bytes, NULL, &err));
                assert_ok(rb_cuda()->copy(lists[1].at, token, bytes, NULL, &err));
                tokens.sequence = lists[0].at;
                tokens.token = lists[1].at;
            }
            assert_ok(kv_cache_append(cache, 0, &tokens, pages, lists[2].at, NULL, &err));
            if (is_gpu) assert_ok(rb_cuda()->stream_wait(NULL, &err));
            for (int i = 0; i < 3; i++) rb_cuda_array_free(&lists[i]);
        }
    free(token);
    free(of);
}

static ropebits_kv_queries query_call(const both *b, const int32_t *length, float *queries, float *out, float *sums,
                                      void *workspace)
{
    const int64_t dim = b->model.head_dim, row = b->model.n_q_heads * dim;
    return (ropebits_kv_queries){.n_sequences = b->is.n_sequences,
                                 .length = length,
                                 .max_length = b->max_length,
                                 .queries = {queries, ROPEBITS_KV_F32, row, dim},
                                 .out = {out, ROPEBITS_KV_F32, row, dim},
                                 .log_sum_exp = sums,
                                 .softcap = b->is.softcap,
                                 .window = b->is.window,
                                 .workspace = workspace};
}

/* The largest difference of outputs, and of log-sum-exps. Values are at most about 1. */
static void compare(const both *b, const char *what)
{
    double worst = 0.0, worst_sum = 0.0, size = 0.0;
    const int n = b->is.n_sequences * b->model.n_q_heads;
    for (int i = 0; i < n * b->model.head_dim; i++) {
        const double d = fabs((double)b->out[0][i] - (double)b->out[1][i]);
        if (!(d <= worst)) worst = d;
        size = fmax(size, fabs((double)b->out[0][i]));
    }
    for (int i = 0; i < n; i++) {
        const double d = fabs((double)b->sums[0][i] - (double)b->sums[1][i]);
        if (!(d <= worst_sum)) worst_sum = d;
    }
    if (!(worst < 4e-3 && worst_sum < 4e-3) || getenv("RB_TEST_REPORT"))
        print_message("%s: kind %d, head_dim %d, %d query heads, %d sequences, longest %d, exact %d + %d: output off "
                      "by %.2g of %.2g, log-sum-exp by %.2g\n",
                      what, b->is.kind, b->is.head_dim, b->is.group, b->is.n_sequences, b->max_length, b->is.n_sink,
                      b->is.n_recent, worst, size, worst_sum);
    assert_true(worst < 4e-3);
    assert_true(worst_sum < 4e-3);
}

/* Vectors that the GPU coded otherwise than the CPU, out of all. */
static double share_of_other_vectors(const both *b, const float *a, const float *c)
{
    const int dim = b->model.head_dim;
    int64_t other = 0, all = 0;
    for (int s = 0; s < b->is.n_sequences; s++)
        for (int64_t i = 0; i < (int64_t)b->is.length[s] * b->model.n_kv_heads; i++) {
            const float *x = a + ((int64_t)s * b->max_length * b->model.n_kv_heads + i) * dim, *y = c + (x - a);
            double worst = 0.0;
            for (int d = 0; d < dim; d++) worst = fmax(worst, fabs((double)x[d] - (double)y[d]));
            other += !(worst < 2e-3);
            all++;
        }
    return all > 0 ? (double)other / (double)all : 0.0;
}

/* Decodes every packed token, on the GPU or the CPU. */
static void decode_all(const both *b, kv_cache *cache, float *keys, float *values, const void *pool, bool is_gpu)
{
    rb_error err = {0};
    const int64_t row = b->model.n_kv_heads * b->model.head_dim;
    int64_t *slots = NULL;
    int32_t *positions = NULL;
    assert_ok(rb_alloc(&slots, (size_t)b->max_length, sizeof *slots, "slots", &err));
    assert_ok(rb_alloc(&positions, (size_t)b->max_length, sizeof *positions, "positions", &err));
    for (int s = 0; s < b->is.n_sequences; s++) {
        const int n = b->is.length[s];
        rb_cuda_array lists[3] = {{0}};
        if (n == 0) continue;
        for (int t = 0; t < n; t++) {
            positions[t] = t;
            slots[t] = t < b->is.n_sink || t >= n - b->is.n_recent
                           ? -1
                           : (int64_t)b->block_table[s * b->max_pages + t / 64] * 64 + t % 64;
            if (b->is.kind == SOME_FP16) slots[t] = (int64_t)b->block_table[s * b->max_pages + t / 64] * 64 + t % 64;
        }
        const ropebits_kv_vectors k = vectors_of(b, keys + (int64_t)s * b->max_length * row),
                                  v = vectors_of(b, values + (int64_t)s * b->max_length * row);
        const int64_t *use_slots = slots;
        const int32_t *use_positions = positions;
        if (is_gpu) {
            assert_ok(rb_cuda_array_alloc(&lists[0], (size_t)n * sizeof *slots, "test", &err));
            assert_ok(rb_cuda_array_alloc(&lists[1], (size_t)n * sizeof *positions, "test", &err));
            assert_ok(rb_cuda_array_alloc(&lists[2], kv_cache_coding_bytes(cache, 0, n), "test", &err));
            assert_ok(rb_cuda()->copy(lists[0].at, slots, (size_t)n * sizeof *slots, NULL, &err));
            assert_ok(rb_cuda()->copy(lists[1].at, positions, (size_t)n * sizeof *positions, NULL, &err));
            use_slots = lists[0].at;
            use_positions = lists[1].at;
        }
        assert_ok(kv_cache_decode(cache, 0, n, use_slots, pool, use_positions, &k, &v, lists[2].at, NULL, &err));
        if (is_gpu) assert_ok(rb_cuda()->stream_wait(NULL, &err));
        for (int i = 0; i < 3; i++) rb_cuda_array_free(&lists[i]);
    }
    free(slots);
    free(positions);
}

/* Packed tokens of both, decoded; those of exact tokens, which neither decodes, are made equal. */
static void compare_coding(both *b, const void *gpu_pool)
{
    const size_t n = n_numbers(b);
    float *all[4] = {some_numbers(n, 1), some_numbers(n, 1), some_numbers(n, 1), some_numbers(n, 1)};
    float *device[2] = {put(b, all[2], n * sizeof(float)), put(b, all[3], n * sizeof(float))};
    decode_all(b, b->cpu, all[0], all[1], b->pool, false);
    decode_all(b, b->gpu, device[0], device[1], gpu_pool, true);
    for (int i = 0; i < 2; i++) get(all[2 + i], device[i], n * sizeof(float));
    const int row = b->model.n_kv_heads * b->model.head_dim;
    for (int s = 0; s < b->is.n_sequences; s++)
        for (int t = 0; t < b->is.length[s] && b->is.kind != SOME_FP16; t++)
            if (t < b->is.n_sink || t >= b->is.length[s] - b->is.n_recent)
                for (int i = 0; i < 2; i++)
                    memcpy(all[2 + i] + ((size_t)s * (size_t)b->max_length + (size_t)t) * (size_t)row,
                           all[i] + ((size_t)s * (size_t)b->max_length + (size_t)t) * (size_t)row,
                           (size_t)row * sizeof(float));
    const double keys = share_of_other_vectors(b, all[0], all[2]), values = share_of_other_vectors(b, all[1], all[3]);
    if (keys > 0.01 || values > 0.01 || getenv("RB_TEST_REPORT"))
        print_message("kind %d, head_dim %d: %.3f %% of keys and %.3f %% of values are coded otherwise\n", b->is.kind,
                      b->is.head_dim, 100.0 * keys, 100.0 * values);
    assert_true(keys < 0.01 && values < 0.01);
    for (int i = 0; i < 4; i++) free(all[i]);
}

static void try_case(const gpu_case *is)
{
    rb_error err = {0};
    both b = both_create(is);
    const size_t n_out = (size_t)(is->n_sequences * b.model.n_q_heads * is->head_dim) * sizeof(float),
                 n_sums = (size_t)(is->n_sequences * b.model.n_q_heads) * sizeof(float),
                 pool_bytes = (size_t)(b.max_pages * is->n_sequences) * (size_t)kv_cache_layout(b.cpu, 0)->page_bytes,
                 exact_bytes = kv_cache_exact_bytes(b.cpu) * (size_t)is->n_sequences;
    ropebits_kv_pages pages = {b.pool, b.block_table, b.max_pages, exact_bytes ? b.exact : NULL,
                               (int64_t)kv_cache_exact_bytes(b.cpu)};
    void *untouched = put(&b, b.pool, pool_bytes);
    append_all(&b, b.cpu, b.keys, b.values, &pages);
    const ropebits_kv_queries on_cpu = query_call(&b, is->length, b.queries, b.out[0], b.sums[0], NULL);
    assert_ok(kv_cache_attend(b.cpu, 0, &on_cpu, &pages, NULL, &err));

    /* The same pages. */
    const size_t workspace = kv_cache_workspace_bytes(b.gpu, 0, is->n_sequences, b.max_length);
    ropebits_kv_pages there = {put(&b, b.pool, pool_bytes),
                               put(&b, b.block_table, (size_t)(b.max_pages * is->n_sequences) * sizeof(int32_t)),
                               b.max_pages, put(&b, b.exact, exact_bytes), (int64_t)kv_cache_exact_bytes(b.cpu)};
    float *out = put(&b, NULL, n_out), *sums = put(&b, NULL, n_sums);
    const ropebits_kv_queries on_gpu = query_call(&b, put(&b, is->length, (size_t)is->n_sequences * sizeof(int32_t)),
                                                  put(&b, b.queries, n_out), out, sums, put(&b, NULL, workspace));
    assert_ok(kv_cache_attend(b.gpu, 0, &on_gpu, &there, NULL, &err));
    get(b.out[1], out, n_out);
    get(b.sums[1], sums, n_sums);
    compare(&b, "the same pages");

    /* Pages that the GPU makes. */
    there.pages = untouched;
    assert_ok(rb_cuda()->fill(there.exact, 0xff, exact_bytes, NULL, &err));
    rb_cuda_array inputs[2] = {{0}};
    float *const from[2] = {b.keys, b.values};
    for (int i = 0; i < 2; i++) {
        assert_ok(rb_cuda_array_alloc(&inputs[i], n_numbers(&b) * sizeof(float), "test", &err));
        assert_ok(rb_cuda()->copy(inputs[i].at, from[i], n_numbers(&b) * sizeof(float), NULL, &err));
    }
    append_all(&b, b.gpu, inputs[0].at, inputs[1].at, &there);
    compare_coding(&b, untouched);
    assert_ok(kv_cache_attend(b.gpu, 0, &on_gpu, &there, NULL, &err));
    get(b.out[1], out, n_out);
    get(b.sums[1], sums, n_sums);
    compare(&b, "pages of the GPU");
    for (int i = 0; i < 2; i++) rb_cuda_array_free(&inputs[i]);
    both_free(&b);
}

static const int32_t short_lengths[7] = {1, 63, 64, 65, 0, 200, 129};

static void every_kind_and_size(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int dims[] = {64, 80, 128, 256};
    for (int kind = SOME_FP16; kind < SOME_N_KINDS; kind++)
        for (size_t i = 0; i < RB_COUNT(dims); i++)
            try_case(&(gpu_case){
                .kind = kind, .head_dim = dims[i], .group = 4, .n_sequences = 1, .length = &short_lengths[3]});
}

static void every_number_of_query_heads(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    for (int kind = SOME_FP16; kind < SOME_N_KINDS; kind++)
        for (int group = 1; group <= 9; group += group == 1 ? 1 : group == 2 ? 5 : 1)
            try_case(&(gpu_case){
                .kind = kind, .head_dim = 64, .group = group, .n_sequences = 1, .length = &short_lengths[5]});
}

static void batches_sinks_and_recent_tokens(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    for (int kind = SOME_GROUPS; kind < SOME_N_KINDS; kind++) {
        try_case(&(gpu_case){kind, 128, 4, 7, short_lengths, 0, 0, 0, 0.0});
        try_case(&(gpu_case){kind, 128, 4, 7, short_lengths, 4, 0, 0, 0.0});
        try_case(&(gpu_case){kind, 64, 8, 7, short_lengths, 1, 70, 0, 30.0});
        try_case(&(gpu_case){kind, 64, 2, 7, short_lengths, 3, 16, 100, 0.0});
    }
    try_case(&(gpu_case){SOME_FP16, 128, 4, 7, short_lengths, 0, 0, 100, 30.0});
}

static void long_sequences(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const int32_t length = 8191;
    for (int kind = SOME_FP16; kind < SOME_N_KINDS; kind++)
        try_case(&(gpu_case){.kind = kind,
                             .head_dim = 128,
                             .group = 4,
                             .n_sequences = 1,
                             .length = &length,
                             .n_sink = kind == SOME_FP16 ? 0 : 1});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_and_size), cmocka_unit_test(every_number_of_query_heads),
        cmocka_unit_test(batches_sinks_and_recent_tokens), cmocka_unit_test(long_sequences)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
