/* Holds the kernels to the test vectors and to the plain reader: encode must give the codes of the definition, decode
 * and attend what plan_decoder.c gives. Exit code 0 when everything agrees, 1 when not, 2 without a device.
 *
 *   nvcc -std=c++17 -O2 -arch=native -o check check.cu plan_decoder.c plan_tables.c test_vectors.c && ./check
 */
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "plan_decoder.h"
#include "plan_kernels.cuh"
#include "test_vectors.h"

namespace
{

/* Sums of up to 1024 products in float; of a vector's largest number. Half adds its own rounding. */
constexpr double DECODE_BOUND = 1e-5, HALF_STEP = 1.0 / 1024;
/* Logits, exponentials and sums in float, of the largest output; of the logarithm absolute. */
constexpr double ATTEND_BOUND = 2e-4;
/* Where codes differ, the error they leave may be larger by so much of it: both lay equally near. */
constexpr double TIE_BOUND = 1e-3;
constexpr int LENGTHS[] = {1, 63, 64, 65, 300};
constexpr int MOST_TOKENS = 300;

int n_bad = 0;

void fail(const char *what, int layer, double found, double bound)
{
    if (n_bad++ < 20) std::printf("%s, layer %d: %g, expected at most %g\n", what, layer, found, bound);
}

void need(cudaError_t status, const char *what)
{
    if (status == cudaSuccess) return;
    std::printf("%s: %s\n", what, cudaGetErrorString(status));
    std::exit(2);
}

/* An array on the device, and on the host. */
template <typename T> struct both {
    std::vector<T> host;
    T *device = nullptr;
    explicit both(size_t n) : host(n) { need(cudaMalloc(&device, n * sizeof(T)), "memory"); }
    both(const both &) = delete;
    both &operator=(const both &) = delete;
    ~both() { cudaFree(device); }
    void up() { need(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "copy"); }
    void down() { need(cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost), "copy"); }
};

size_t record_bytes(int layer) { return (size_t)plan_host_tables.layers[layer].record_bytes; }

void set(float *out, uint16_t word) { *out = plan_half(word); }
void set(__half *out, uint16_t word)
{
    __half_raw raw;
    raw.x = word;
    *out = raw;
}

/* ---- encode ---------------------------------------------------------------------------------- */

double squared_error(const plan_head *head, const uint8_t *record, const uint16_t *vector)
{
    double error = 0.0;
    std::vector<float> x(PLAN_MAX_DIMS);
    plan_restore(head, record, x.data());
    for (int i = 0; i < head->dims; i++) {
        const double off = (double)x[i] - plan_half(vector[i]);
        error += off * off;
    }
    return error;
}

bool same_part(const plan_head *head, const uint8_t *a, const uint8_t *b)
{
    return std::memcmp(a + head->codes_at, b + head->codes_at, (size_t)head->code_bytes) == 0
           && (head->n_norms == 0
               || std::memcmp(a + head->norms_at, b + head->norms_at, (size_t)(head->n_norms * head->norm_bytes)) == 0);
}

/* Returns how many vectors have other bytes than the definition's. */
int compare_records(int layer, const uint8_t *records)
{
    int n_different = 0;
    for (int t = 0; t < TEST_N_TOKENS; t++)
        for (int h = 0; h < 2 * PLAN_N_KV_HEADS; h++) {
            const bool is_value = h >= PLAN_N_KV_HEADS;
            const int kv_head = h % PLAN_N_KV_HEADS;
            const plan_head *head = is_value ? plan_value_head(layer, kv_head) : plan_key_head(layer, kv_head);
            const uint16_t *x = is_value ? test_values[layer][t][kv_head] : test_keys[layer][t][kv_head];
            const uint8_t *found = records + t * record_bytes(layer),
                          *wanted = test_records[layer] + t * record_bytes(layer);
            if (same_part(head, found, wanted)) continue;
            n_different++;
            const double error = squared_error(head, found, x),
                         bound = squared_error(head, wanted, x) * (1 + TIE_BOUND);
            if (!(error <= bound))
                fail(is_value ? "error of a coded value" : "error of a coded key", layer, error, bound);
        }
    return n_different;
}

template <typename T> int check_encode(const plan_device &device, int layer)
{
    both<T> keys(TEST_N_TOKENS * PLAN_N_KV_HEADS * PLAN_HEAD_DIM),
        values(TEST_N_TOKENS * PLAN_N_KV_HEADS * PLAN_VALUE_DIM);
    both<uint8_t> cache(TEST_N_TOKENS * record_bytes(layer));
    for (size_t i = 0; i < keys.host.size(); i++) set(&keys.host[i], (&test_keys[layer][0][0][0])[i]);
    for (size_t i = 0; i < values.host.size(); i++) set(&values.host[i], (&test_values[layer][0][0][0])[i]);
    keys.up();
    values.up();
    need(plan_encode(device, layer, keys.device, values.device, TEST_N_TOKENS, cache.device, nullptr), "encode");
    cache.down();
    return compare_records(layer, cache.host.data());
}

/* ---- decode ---------------------------------------------------------------------------------- */

double largest_of(const float *x, int n)
{
    double largest = 0.0;
    for (int i = 0; i < n; i++) largest = std::fmax(largest, std::fabs((double)x[i]));
    return largest;
}

template <typename T>
double compare_vectors(int layer, const T *found, const float *wanted, int n, int dims, double bound, const char *what)
{
    double worst = 0.0;
    for (int v = 0; v < n; v++) {
        const double largest = largest_of(wanted + v * dims, dims);
        for (int i = 0; i < dims; i++) {
            const double off = std::fabs((double)(float)found[v * dims + i] - wanted[v * dims + i]);
            if (!(off <= bound * largest)) fail(what, layer, off, bound * largest);
            if (largest > 0.0) worst = std::fmax(worst, off / largest);
        }
    }
    return worst;
}

template <typename T> double check_decode(const plan_device &device, int layer, double bound)
{
    const int n = TEST_N_TOKENS * PLAN_N_KV_HEADS;
    both<T> keys(n * PLAN_HEAD_DIM), values(n * PLAN_VALUE_DIM);
    both<uint8_t> cache(TEST_N_TOKENS * record_bytes(layer));
    std::memcpy(cache.host.data(), test_records[layer], cache.host.size());
    cache.up();
    need(plan_decode(device, layer, cache.device, TEST_N_TOKENS, keys.device, values.device, nullptr), "decode");
    keys.down();
    values.down();
    const double a = compare_vectors(layer, keys.host.data(), &test_restored_keys[layer][0][0][0], n, PLAN_HEAD_DIM,
                                     bound, "restored key"),
                 b = compare_vectors(layer, values.host.data(), &test_restored_values[layer][0][0][0], n,
                                     PLAN_VALUE_DIM, bound, "restored value");
    return std::fmax(a, b);
}

/* ---- attend ---------------------------------------------------------------------------------- */

/* A sequence of the test tokens over and over, its query the last token's, and exact rows of any words that are small.
 */
struct sequence {
    both<uint8_t> cache;
    both<__half> exact_keys, exact_values;
    both<float> queries, out, log_sum_exp;
    both<char> workspace;

    explicit sequence(int layer)
        : cache(MOST_TOKENS * record_bytes(layer)),
          exact_keys((PLAN_N_SINK + PLAN_N_RECENT + 1) * PLAN_N_KV_HEADS * PLAN_HEAD_DIM),
          exact_values((PLAN_N_SINK + PLAN_N_RECENT + 1) * PLAN_N_KV_HEADS * PLAN_VALUE_DIM),
          queries(PLAN_N_Q_HEADS * PLAN_HEAD_DIM), out(PLAN_N_Q_HEADS * PLAN_VALUE_DIM), log_sum_exp(PLAN_N_Q_HEADS),
          workspace(plan_workspace_bytes())
    {
        for (int t = 0; t < MOST_TOKENS; t++)
            std::memcpy(&cache.host[t * record_bytes(layer)],
                        test_records[layer] + t % TEST_N_TOKENS * record_bytes(layer), record_bytes(layer));
        for (size_t i = 0; i < exact_keys.host.size(); i++)
            exact_keys.host[i] = __float2half(0.001f * (float)(i % 997));
        for (size_t i = 0; i < exact_values.host.size(); i++)
            exact_values.host[i] = __float2half(0.002f * (float)(i % 991) - 1.0f);
        cache.up();
        exact_keys.up();
        exact_values.up();
    }

    void set_queries(int layer, int n_tokens)
    {
        for (int h = 0; h < PLAN_N_Q_HEADS; h++) {
            double x[PLAN_HEAD_DIM];
            for (int i = 0; i < PLAN_HEAD_DIM; i++) x[i] = plan_half(test_queries[layer][h][i]);
            plan_turn(layer, n_tokens - 1, x);
            for (int i = 0; i < PLAN_HEAD_DIM; i++) queries.host[h * PLAN_HEAD_DIM + i] = (float)x[i];
        }
        queries.up();
    }
};

double compare_attention(int layer, const sequence &s, int n_tokens, bool has_exact)
{
    const plan_exact_rows exact = {reinterpret_cast<const uint16_t *>(s.exact_keys.host.data()),
                                   reinterpret_cast<const uint16_t *>(s.exact_values.host.data())};
    double worst = 0.0;
    for (int h = 0; h < PLAN_N_Q_HEADS; h++) {
        double out[PLAN_VALUE_DIM], largest = 0.0, off = 0.0;
        const double sum = plan_attend(layer, h, &s.queries.host[h * PLAN_HEAD_DIM], n_tokens, s.cache.host.data(),
                                       has_exact ? exact : plan_exact_rows{}, out);
        for (int i = 0; i < PLAN_VALUE_DIM; i++) {
            largest = std::fmax(largest, std::fabs(out[i]));
            const double difference = std::fabs(out[i] - s.out.host[h * PLAN_VALUE_DIM + i]);
            if (!(difference <= off)) off = difference;
        }
        if (!(off <= ATTEND_BOUND * largest)) fail("output of attention", layer, off, ATTEND_BOUND * largest);
        const double sum_off = std::fabs(sum - s.log_sum_exp.host[h]),
                     sum_bound = ATTEND_BOUND * std::fmax(1.0, std::fabs(sum));
        if (!(sum_off <= sum_bound)) fail("log of the sum of exponentials", layer, sum_off, sum_bound);
        if (largest > 0.0) worst = std::fmax(worst, off / largest);
    }
    return worst;
}

double check_attend(const plan_device &device, int layer)
{
    sequence s(layer);
    double worst = 0.0;
    for (int n_tokens : LENGTHS)
        for (int has_exact = 0; has_exact <= (PLAN_N_SINK + PLAN_N_RECENT > 0); has_exact++) {
            s.set_queries(layer, n_tokens);
            need(plan_attend(device, layer, s.queries.device, n_tokens, s.cache.device,
                             has_exact ? s.exact_keys.device : nullptr, has_exact ? s.exact_values.device : nullptr,
                             s.out.device, s.log_sum_exp.device, s.workspace.device, nullptr),
                 "attend");
            s.out.down();
            s.log_sum_exp.down();
            worst = std::fmax(worst, compare_attention(layer, s, n_tokens, has_exact != 0));
        }
    return worst;
}

} /* namespace */

int main()
{
    plan_device device;
    int n_different = 0;
    double decode_worst = 0.0, attend_worst = 0.0;
    need(plan_upload(&device), "device");
    for (int layer = 0; layer < PLAN_N_LAYERS; layer++) {
        n_different += check_encode<float>(device, layer) + check_encode<__half>(device, layer);
        decode_worst = std::fmax(decode_worst, check_decode<float>(device, layer, DECODE_BOUND));
        check_decode<__half>(device, layer, DECODE_BOUND + HALF_STEP);
        attend_worst = std::fmax(attend_worst, check_attend(device, layer));
    }
    plan_release(&device);
    const int n_vectors = 2 * PLAN_N_LAYERS * TEST_N_TOKENS * PLAN_N_KV_HEADS;
    std::printf("vectors: %s\n", test_source);
    std::printf("encode: %d of %d vectors have other codes than the definition's\n", n_different, 2 * n_vectors);
    std::printf("decode: largest difference %.1e of a vector's largest number\n", decode_worst);
    std::printf("attend: largest difference %.1e of an output's largest number, over %d tokens and fewer\n",
                attend_worst, MOST_TOKENS);
    std::printf("%s\n", n_bad > 0 ? "WRONG" : "all agree");
    return n_bad > 0;
}
