/* Attention on the GPU against attention_forward on random q, k, v. Tokens of q, k, v and out are further apart than
 * their heads need; every byte between and around them is 0xff, a NaN in both types: what is read astray shows up in
 * the result, what is written astray in the bytes, and what is not written is NaN. */
#include "tests/gpu/gpu_test.h"

#include "core/half.h"
#include "model/attention.h"
#include "model/cuda/attention_cuda.h"

enum { MAX_SEQUENCES = 6, GUARD_TOKENS = 3, PAD = 16, MAX_CALLS = 4 };

typedef struct attention_case {
    int n_q_heads, n_kv_heads, head_dim, sliding_window;
    int n_recent;    /* 0: no keys of their own */
    float magnitude; /* of q: the standard deviation of the scores */
    int n_sequences;
    int64_t lengths[MAX_SEQUENCES];
    int value_dim; /* 0: head_dim */
    float softcap;
} attention_case;

/* Beside the edges of tiles of 64 and 128 queries, 32 and 64 keys; tiles of queries that span many sequences. */
static const attention_case cases[] = {
    {1, 1, 64, 0, 0, 1.0f, 1, .lengths = {1}},
    {4, 2, 64, 0, 0, 1.0f, 4, .lengths = {31, 33, 1, 130}},
    {8, 2, 128, 0, 0, 1.0f, 3, .lengths = {129, 1, 400}},
    {2, 2, 128, 0, 0, 1.0f, 1, .lengths = {1030}},
    {4, 1, 80, 0, 0, 1.0f, 2, .lengths = {65, 127}},
    {3, 3, 80, 40, 0, 1.0f, 2, .lengths = {200, 77}},
    {2, 1, 16, 0, 0, 1.0f, 5, .lengths = {3, 64, 1, 128, 191}},
    {4, 4, 16, 100, 0, 3.0f, 1, .lengths = {513}},
    {4, 2, 256, 0, 0, 1.0f, 3, .lengths = {63, 97, 260}},
    {4, 1, 256, 33, 0, 1.0f, 2, .lengths = {31, 300}},
    {4, 2, 96, 0, 0, 1.0f, 1, .lengths = {64}},
    {6, 3, 176, 1, 0, 1.0f, 2, .lengths = {129, 5}},
    {4, 1, 64, 65, 0, 2.0f, 2, .lengths = {700, 129}},
    {2, 1, 128, 257, 0, 2.0f, 2, .lengths = {7, 900}},
    {2, 1, 128, 100000, 0, 3.0f, 6, .lengths = {1, 2, 3, 250, 1, 1}},
    {4, 2, 64, 0, 1, 1.0f, 4, .lengths = {31, 33, 1, 330}},
    {4, 2, 128, 0, 32, 1.0f, 2, .lengths = {300, 129}},
    {2, 1, 128, 0, 257, 2.0f, 2, .lengths = {7, 900}},
    {2, 2, 80, 40, 17, 1.0f, 2, .lengths = {200, 77}},
    {2, 2, 80, 40, 40, 1.0f, 2, .lengths = {200, 77}},
    {2, 1, 256, 0, 64, 1.0f, 2, .lengths = {31, 300}},
    {4, 1, 64, 65, 100000, 2.0f, 2, .lengths = {700, 129}},
    {2, 1, 24, 0, 0, 1.0f, 2, .lengths = {65, 127}},
    {3, 3, 192, 0, 0, 1.0f, 2, .lengths = {129, 300}, .value_dim = 128},
    {2, 2, 192, 0, 40, 1.0f, 2, .lengths = {31, 300}, .value_dim = 128},
    {2, 2, 24, 30, 0, 1.0f, 2, .lengths = {64, 100}, .value_dim = 16},
    {2, 1, 72, 0, 0, 1.0f, 1, .lengths = {200}, .value_dim = 200},
    {4, 2, 256, 0, 0, 8.0f, 2, .lengths = {63, 260}, .softcap = 5.0f},
    {4, 2, 128, 70, 0, 8.0f, 2, .lengths = {129, 300}, .softcap = 20.0f},
    {2, 1, 64, 0, 33, 8.0f, 2, .lengths = {31, 300}, .softcap = 5.0f},
    {2, 2, 192, 0, 0, 8.0f, 1, .lengths = {150}, .value_dim = 128, .softcap = 5.0f},
};

typedef struct call_list {
    int n;
    int64_t starts[MAX_CALLS + 1]; /* tokens */
} call_list;

typedef struct attention_data {
    attention_cuda_type type;
    attention_shape shape;
    int64_t starts[MAX_SEQUENCES + 1];
    int64_t n_recent;
    float *q, *k, *v;           /* [heads][tokens][head_dim or value_dim], in values the type has */
    float *recent_k, *recent_v; /* with n_recent */
    float *expected;            /* [tokens][n_q_heads * value_dim] */
    float *size; /* the same of |v|: the weighted mean of what is added up, the measure of its roundings */
} attention_data;

static size_t elem_size(attention_cuda_type type) { return type == ATTENTION_CUDA_BF16 ? 2 : 4; }

static float *some_values(uint64_t seed, int64_t n, float magnitude, attention_cuda_type type)
{
    float *x = normal_floats(seed, n);
    for (int64_t i = 0; i < n; i++) {
        x[i] *= magnitude;
        if (type == ATTENTION_CUDA_BF16) x[i] = rb_bf16_to_f32(rb_f32_to_bf16(x[i]));
    }
    return x;
}

/* What is expected of these values, and of their sizes. */
static void attend_on_cpu(const attention_data *data, const float *v, const float *recent_v, float *out)
{
    rb_error err = {0};
    if (data->n_recent == 0) assert_ok(attention_forward(&data->shape, data->q, data->k, v, out, &err));
    else
        assert_ok(attention_forward_buffered(&data->shape, data->q, data->k, v, data->recent_k, recent_v,
                                             data->n_recent, out, &err));
}

static float *sizes_of(const float *x, int64_t n)
{
    float *sizes = malloc((size_t)n * sizeof *sizes);
    if (!sizes) abort();
    for (int64_t i = 0; i < n; i++) sizes[i] = fabsf(x[i]);
    return sizes;
}

static void make_data(attention_data *data, const attention_case *c, attention_cuda_type type)
{
    *data = (attention_data){.type = type, .n_recent = c->n_recent};
    for (int s = 0; s < c->n_sequences; s++) data->starts[s + 1] = data->starts[s] + c->lengths[s];
    const int64_t n = data->starts[c->n_sequences], d = c->head_dim, v_dim = c->value_dim > 0 ? c->value_dim : d,
                  v_floats = c->n_kv_heads * n * v_dim, out_floats = c->n_q_heads * n * v_dim;
    data->shape = (attention_shape){.n_q_heads = c->n_q_heads,
                                    .n_kv_heads = c->n_kv_heads,
                                    .head_dim = c->head_dim,
                                    .value_dim = (int)v_dim,
                                    .n_tokens = n,
                                    .sequence_start = data->starts,
                                    .n_sequences = c->n_sequences,
                                    .sliding_window = c->sliding_window,
                                    .scale = 1.0f / sqrtf((float)d),
                                    .softcap = c->softcap};
    data->q = some_values(1, c->n_q_heads * n * d, c->magnitude, type);
    data->k = some_values(2, c->n_kv_heads * n * d, 1.0f, type);
    data->v = some_values(3, v_floats, 1.0f, type);
    data->recent_k = some_values(4, c->n_kv_heads * n * d, 1.0f, type);
    data->recent_v = some_values(5, v_floats, 1.0f, type);
    data->expected = malloc((size_t)out_floats * sizeof(float));
    data->size = malloc((size_t)out_floats * sizeof(float));
    if (!data->expected || !data->size) abort();
    float *v = sizes_of(data->v, v_floats), *recent_v = sizes_of(data->recent_v, v_floats);
    attend_on_cpu(data, data->v, data->recent_v, data->expected);
    attend_on_cpu(data, v, recent_v, data->size);
    free(v);
    free(recent_v);
}

static void free_data(attention_data *data)
{
    free(data->q);
    free(data->k);
    free(data->v);
    free(data->recent_k);
    free(data->recent_v);
    free(data->expected);
    free(data->size);
}

/* ---- buffers: rows of heads with PAD elements between tokens and GUARD_TOKENS tokens on either side  */

typedef struct token_rows {
    attention_cuda_type type;
    int64_t width, n_tokens;
    size_t size_bytes;
    unsigned char *host;
    void *device;
} token_rows;

static int64_t stride_of(const token_rows *rows) { return rows->width + PAD; }
static int64_t element_of(const token_rows *rows, int64_t token, int64_t i)
{
    return (GUARD_TOKENS + token) * stride_of(rows) + i;
}
static void *device_token(const token_rows *rows, int64_t token)
{
    return (char *)rows->device + (size_t)element_of(rows, token, 0) * elem_size(rows->type);
}

static void make_rows(token_rows *rows, attention_cuda_type type, int64_t width, int64_t n_tokens)
{
    rb_error err = {0};
    *rows = (token_rows){.type = type, .width = width, .n_tokens = n_tokens};
    rows->size_bytes = (size_t)((n_tokens + 2 * GUARD_TOKENS) * stride_of(rows)) * elem_size(type);
    rows->host = malloc(rows->size_bytes);
    if (!rows->host) abort();
    memset(rows->host, 0xff, rows->size_bytes);
    assert_ok(rb_cuda_alloc(&rows->device, rows->size_bytes, 1, "rows of a test", &err));
}

static void free_rows(token_rows *rows)
{
    rb_cuda_free(rows->device, rows->size_bytes, 1);
    free(rows->host);
}

static float get_value(const token_rows *rows, int64_t token, int64_t i)
{
    const unsigned char *at = rows->host + (size_t)element_of(rows, token, i) * elem_size(rows->type);
    uint16_t half;
    float x;
    if (rows->type == ATTENTION_CUDA_F32) {
        memcpy(&x, at, sizeof x);
        return x;
    }
    memcpy(&half, at, sizeof half);
    return rb_bf16_to_f32(half);
}

static void set_value(token_rows *rows, int64_t token, int64_t i, float x)
{
    unsigned char *at = rows->host + (size_t)element_of(rows, token, i) * elem_size(rows->type);
    const uint16_t half = rb_f32_to_bf16(x);
    if (rows->type == ATTENTION_CUDA_F32) memcpy(at, &x, sizeof x);
    else memcpy(at, &half, sizeof half);
}

static void to_device(const token_rows *rows)
{
    rb_error err = {0};
    assert_ok(rb_cuda()->copy(rows->device, rows->host, rows->size_bytes, NULL, &err));
    assert_ok(rb_cuda()->stream_wait(NULL, &err));
}

static void from_device(token_rows *rows)
{
    rb_error err = {0};
    assert_ok(rb_cuda()->copy(rows->host, rows->device, rows->size_bytes, NULL, &err));
    assert_ok(rb_cuda()->stream_wait(NULL, &err));
}

/* x [n_heads][n_tokens][d] as rows on the device. */
static void upload(token_rows *rows, const attention_data *data, const float *x, int n_heads, int64_t d)
{
    const int64_t n = data->shape.n_tokens;
    make_rows(rows, data->type, n_heads * d, n);
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < n_heads * d; i++) set_value(rows, t, i, x[(i / d * n + t) * d + i % d]);
    to_device(rows);
}

static void assert_nothing_written_around(const token_rows *rows)
{
    const size_t stride_bytes = (size_t)stride_of(rows) * elem_size(rows->type),
                 width_bytes = (size_t)rows->width * elem_size(rows->type);
    for (size_t i = 0; i < rows->size_bytes; i++) {
        const int64_t token = (int64_t)(i / stride_bytes) - GUARD_TOKENS;
        const bool is_inside = token >= 0 && token < rows->n_tokens && i % stride_bytes < width_bytes;
        if (!is_inside && rows->host[i] != 0xff)
            fail_msg("token %lld: byte %lld beside its %lld was written", (long long)token,
                     (long long)(i % stride_bytes), (long long)width_bytes);
    }
}

/* ---- one run --------------------------------------------------------------------------------- */

static void find_api(const attention_cuda_api **api)
{
    rb_error err = {0};
    const void *table = NULL;
    assert_ok(rb_cuda_table(&table, "rb_attention_cuda", &err));
    *api = table;
}

/* Outputs of all tokens, by one call for each of `calls`; each finds only its own q and out. */
static void run_cuda(token_rows *out, const attention_data *data, const call_list *calls)
{
    const attention_shape *shape = &data->shape;
    const attention_cuda_api *api;
    token_rows q, k, v, recent_k, recent_v;
    int32_t *starts = malloc((size_t)shape->n_tokens * sizeof *starts);
    void *device_starts = NULL;
    rb_error err = {0};
    if (!starts) abort();
    for (int64_t s = 0; s < shape->n_sequences; s++)
        for (int64_t t = data->starts[s]; t < data->starts[s + 1]; t++) starts[t] = (int32_t)data->starts[s];
    find_api(&api);
    upload(&q, data, data->q, shape->n_q_heads, shape->head_dim);
    upload(&k, data, data->k, shape->n_kv_heads, shape->head_dim);
    upload(&v, data, data->v, shape->n_kv_heads, shape->value_dim);
    upload(&recent_k, data, data->recent_k, shape->n_kv_heads, shape->head_dim);
    upload(&recent_v, data, data->recent_v, shape->n_kv_heads, shape->value_dim);
    make_rows(out, data->type, (int64_t)shape->n_q_heads * shape->value_dim, shape->n_tokens);
    to_device(out);
    assert_ok(rb_cuda_alloc(&device_starts, (size_t)shape->n_tokens, sizeof *starts, "starts of a test", &err));
    assert_ok(rb_cuda()->copy(device_starts, starts, (size_t)shape->n_tokens * sizeof *starts, NULL, &err));
    for (int i = 0; i < calls->n; i++) {
        const int64_t first = calls->starts[i];
        const attention_cuda_input in = {.type = data->type,
                                         .n_q_heads = shape->n_q_heads,
                                         .n_kv_heads = shape->n_kv_heads,
                                         .head_dim = shape->head_dim,
                                         .value_dim = shape->value_dim,
                                         .q = device_token(&q, first),
                                         .q_token_stride = stride_of(&q),
                                         .k = device_token(&k, 0),
                                         .v = device_token(&v, 0),
                                         .k_token_stride = stride_of(&k),
                                         .v_token_stride = stride_of(&v),
                                         .recent_k = device_token(&recent_k, 0),
                                         .recent_v = device_token(&recent_v, 0),
                                         .n_recent = (int)data->n_recent,
                                         .out = device_token(out, first),
                                         .out_token_stride = stride_of(out),
                                         .first_query = first,
                                         .n_queries = calls->starts[i + 1] - first,
                                         .token_sequence_start = device_starts,
                                         .sliding_window = shape->sliding_window,
                                         .scale = shape->scale,
                                         .softcap = shape->softcap};
        assert_ok(api->forward(&in, NULL, &err));
    }
    from_device(out);
    assert_nothing_written_around(out);
    rb_cuda_free(device_starts, (size_t)shape->n_tokens, sizeof *starts);
    free(starts);
    free_rows(&q);
    free_rows(&k);
    free_rows(&v);
    free_rows(&recent_k);
    free_rows(&recent_v);
}

typedef struct attention_errors {
    double overall; /* largest error over the largest expected value */
    double local;   /* largest error over the mean of |v| with the same weights */
    int64_t n_nan;
} attention_errors;

static attention_errors compare(const attention_data *data, const token_rows *out)
{
    attention_errors errors = {0};
    double worst = 0.0, largest = 0.0;
    for (int64_t t = 0; t < out->n_tokens; t++)
        for (int64_t i = 0; i < out->width; i++) {
            const double expected = data->expected[t * out->width + i], got = get_value(out, t, i),
                         error = fabs(got - expected);
            if (isnan(got)) errors.n_nan++;
            worst = fmax(worst, error);
            largest = fmax(largest, fabs(expected));
            errors.local = fmax(errors.local, error / data->size[t * out->width + i]);
        }
    errors.overall = worst / largest;
    return errors;
}

/* bf16: each weight and the result are rounded to 8 bits, 2^-8 each, together 2^-7 of the weighted mean of |v| at most;
 * a tenth more for the f32 sums. f32: sums of up to 1030 products and of 256 in the scores, on both sides, roundings of
 * 6e-8 that mostly cancel. */
static double local_bound(attention_cuda_type type) { return type == ATTENTION_CUDA_BF16 ? 1.1 / 128.0 : 1e-5; }
static double overall_bound(attention_cuda_type type) { return type == ATTENTION_CUDA_BF16 ? 1e-2 : 1e-5; }

static bool can_run(attention_cuda_type type) { return type == ATTENTION_CUDA_F32 || rb_cuda_device()->major >= 8; }

static void assert_close(const attention_data *data, const token_rows *out, int number)
{
    const attention_errors errors = compare(data, out);
    const char *type = data->type == ATTENTION_CUDA_BF16 ? "bf16" : "f32";
    if (getenv("RB_TEST_REPORT"))
        print_message("case %d %s: error %.3g overall, %.3g local\n", number, type, errors.overall, errors.local);
    if (errors.n_nan > 0 || errors.overall >= overall_bound(data->type) || errors.local >= local_bound(data->type))
        fail_msg("case %d %s: %lld values not written or NaN; error %.3g of the largest value, expected below %.3g; "
                 "%.3g of the sizes, expected below %.3g",
                 number, type, (long long)errors.n_nan, errors.overall, overall_bound(data->type), errors.local,
                 local_bound(data->type));
}

static void check_type(attention_cuda_type type)
{
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        attention_data data;
        token_rows out;
        make_data(&data, &cases[i], type);
        run_cuda(&out, &data, &(call_list){1, {0, data.shape.n_tokens}});
        assert_close(&data, &out, (int)i);
        free_rows(&out);
        free_data(&data);
    }
}

static void f32_attention_equals_the_cpu(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    check_type(ATTENTION_CUDA_F32);
}

static void bf16_attention_equals_the_cpu_up_to_its_rounding(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    if (!can_run(ATTENTION_CUDA_BF16)) skip();
    check_type(ATTENTION_CUDA_BF16);
}

/* Cut inside a sequence, beside a tile's edge, and at a single query; each part is right and the whole has the bytes of
 * one call. */
static void queries_in_several_calls_give_the_same_bytes(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const attention_case cut[] = {
        {4, 2, 64, 0, 0, 1.0f, 3, .lengths = {150, 33, 400}}, {4, 1, 128, 0, 0, 1.0f, 1, .lengths = {583}},
        {2, 2, 80, 50, 0, 1.0f, 2, .lengths = {333, 250}},    {2, 1, 256, 90, 0, 1.0f, 2, .lengths = {100, 483}},
        {4, 1, 128, 0, 70, 1.0f, 1, .lengths = {583}},
    };
    for (size_t i = 0; i < RB_COUNT(cut); i++)
        for (int type = 0; type <= ATTENTION_CUDA_F32; type++) {
            attention_data data;
            token_rows whole, parts;
            if (!can_run((attention_cuda_type)type)) continue;
            make_data(&data, &cut[i], (attention_cuda_type)type);
            run_cuda(&whole, &data, &(call_list){1, {0, 583}});
            run_cuda(&parts, &data, &(call_list){4, {0, 129, 130, 397, 583}});
            assert_close(&data, &parts, (int)i);
            assert_memory_equal(whole.host, parts.host, whole.size_bytes);
            free_rows(&whole);
            free_rows(&parts);
            free_data(&data);
        }
}

/* Key tiles before the window of a tile's first query, or before its sequence, are not touched: NaN there goes nowhere.
 */
static void keys_long_before_the_window_or_the_sequence_are_not_read(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    static const attention_case c = {2, 1, 64, 100, 0, 1.0f, 2, .lengths = {512, 256}};
    for (int type = 0; type <= ATTENTION_CUDA_F32; type++) {
        attention_data data;
        token_rows out;
        if (!can_run((attention_cuda_type)type)) continue;
        make_data(&data, &c, (attention_cuda_type)type);
        for (int64_t i = 0; i < 256 * 64; i++) data.k[i] = data.v[i] = NAN;
        run_cuda(&out, &data, &(call_list){1, {0, 768}});
        for (int64_t t = 0; t < 768; t++)
            for (int64_t i = 0; i < out.width; i++) {
                const float got = get_value(&out, t, i), expected = data.expected[t * out.width + i];
                if (t < 256) assert_true(isnan(got));
                /* the tile of 128 queries from 384 on sees keys from 285, its key tiles begin at 256 */
                if (t >= 384) assert_true(fabsf(got - expected) < 0.02f);
            }
        free_rows(&out);
        free_data(&data);
    }
}

static attention_cuda_input good_input(void *device)
{
    return (attention_cuda_input){.type = ATTENTION_CUDA_F32,
                                  .n_q_heads = 2,
                                  .n_kv_heads = 1,
                                  .head_dim = 16,
                                  .value_dim = 16,
                                  .q = device,
                                  .q_token_stride = 32,
                                  .k = device,
                                  .v = device,
                                  .k_token_stride = 16,
                                  .v_token_stride = 16,
                                  .out = device,
                                  .out_token_stride = 32,
                                  .token_sequence_start = device,
                                  .scale = 0.25f};
}

static void what_the_kernels_cannot_do_is_told(void **state)
{
    (void)state;
    GPU_OR_SKIP();
    rb_error err = {0};
    const attention_cuda_api *api;
    void *memory = NULL;
    attention_cuda_input in;
    find_api(&api);
    assert_ok(rb_cuda_alloc(&memory, 256, 1, "memory of a test", &err));
    in = good_input(memory);
    assert_ok(api->forward(&in, NULL, &err)); /* no queries: nothing to do */
    in.head_dim = 20;
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "head_dim 20");
    in.head_dim = 264;
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "head_dim 264");
    in = good_input(memory), in.value_dim = 12;
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "value_dim 12");
    in = good_input(memory), in.n_q_heads = 3, in.n_kv_heads = 2;
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "3 query heads and 2 KV heads");
    in = good_input(memory), in.q_token_stride = 34;
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "token strides 34, 16, 16, 32");
    in = good_input((char *)memory + 4);
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "16-byte aligned");
    in = good_input(memory), in.first_query = INT32_MAX;
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "from token 2147483647");
    in = good_input(memory), in.sliding_window = -1;
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "window of -1");
    in = good_input(memory), in.n_recent = -1;
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "-1 recent keys");
    in = good_input(memory), in.scale = 0.0f;
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "scale 0");
    in = good_input(memory), in.softcap = -1.0f;
    assert_fails(api->forward(&in, NULL, &err), RB_EINVAL, "cap of -1");
    in = good_input(memory), in.type = ATTENTION_CUDA_BF16;
    if (!can_run(ATTENTION_CUDA_BF16))
        assert_fails(api->forward(&in, NULL, &err), RB_EUNSUPPORTED, "expected at least 8.0");
    rb_cuda_free(memory, 256, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_attention_equals_the_cpu),
        cmocka_unit_test(bf16_attention_equals_the_cpu_up_to_its_rounding),
        cmocka_unit_test(queries_in_several_calls_give_the_same_bytes),
        cmocka_unit_test(keys_long_before_the_window_or_the_sequence_are_not_read),
        cmocka_unit_test(what_the_kernels_cannot_do_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
