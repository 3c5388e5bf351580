/* Attention over records: one thread block takes a part of the sequence and some query heads of a KV head, decodes a
 * tile of tokens at a time and keeps an online softmax; parts are then merged. See plan_kernels.cuh. */
#ifndef PLAN_ATTEND_CUH
#define PLAN_ATTEND_CUH

#include "plan_decode.cuh"

namespace plan_kernels
{

/* Shared memory holds the vectors of a tile of tokens, and those of so many query heads of a KV head. */
constexpr int TILE = PLAN_HEAD_DIM + PLAN_VALUE_DIM <= 512 ? 16 : 4;
constexpr int MOST_QUERIES = PLAN_HEAD_DIM + PLAN_VALUE_DIM <= 512 ? 8 : 2;
constexpr int QUERIES = Q_PER_KV < MOST_QUERIES ? Q_PER_KV : MOST_QUERIES;
/* A sequence is cut into so many parts at most, each of so many tokens at least. */
constexpr int MAX_PARTS = 64, LEAST_PART = 64;

/* Shared memory of a thread block. */
struct attention {
    float keys[TILE][PLAN_HEAD_DIM], values[TILE][PLAN_VALUE_DIM]; /* of a tile */
    float queries[QUERIES][PLAN_HEAD_DIM], sums[QUERIES][PLAN_VALUE_DIM];
    float scratch[WARPS][PLAN_MAX_DIMS];
    float weights[QUERIES][TILE]; /* logits, then exponentials */
    float largest[QUERIES], total[QUERIES], before[QUERIES];
};

struct attend_input {
    const uint8_t *cache;                    /* [n_tokens][record_bytes] */
    const __half *exact_keys, *exact_values; /* [rows][PLAN_N_KV_HEADS][dims], or NULL */
    int64_t n_tokens;
};

static __device__ inline int64_t exact_row(int64_t token, int64_t n_tokens)
{
    constexpr int64_t n_sink = PLAN_N_SINK, n_recent = PLAN_N_RECENT; /* 0 perhaps, which as text would warn */
    if (token < n_sink) return token;
    if (token < n_tokens - n_recent) return PLAN_NONE;
    return n_sink + (token - n_sink) % (n_recent ? n_recent : 1);
}

/* One warp turns a key. The angle is brought within a turn in double, where a float would have lost it. */
static __device__ inline void turn(const plan_tables &t, int layer, int64_t position, float *x, int lane)
{
    const plan_layer &own = t.layers[layer];
    const double whole_turn = 6.283185307179586;
    for (int block = lane; block < PLAN_ROTARY_DIM / 2; block += WARP) {
        const double angle = (double)position * t.doubles[own.inv_freq_at + block];
        float s, c;
        int first, second;
        sincosf((float)(angle - whole_turn * rint(angle / whole_turn)), &s, &c);
        block_dims(block, &first, &second);
        const float a = x[first], b = x[second], factor = (float)own.attention_factor;
        x[first] = factor * (c * a - s * b);
        x[second] = factor * (s * a + c * b);
    }
    __syncwarp();
}

/* One warp brings key and value of a token into the tile. */
static __device__ inline void load_token(attention &a, const plan_tables &t, int layer, int kv_head,
                                         const attend_input &in, int64_t token, int at)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const uint8_t *record = in.cache + token * t.layers[layer].record_bytes;
    const int64_t row = in.exact_keys ? exact_row(token, in.n_tokens) : int64_t{PLAN_NONE};
    if (row != PLAN_NONE) {
        const int64_t v = row * PLAN_N_KV_HEADS + kv_head;
        for (int i = lane; i < PLAN_HEAD_DIM; i += WARP)
            a.keys[at][i] = __half2float(in.exact_keys[v * PLAN_HEAD_DIM + i]);
        for (int i = lane; i < PLAN_VALUE_DIM; i += WARP)
            a.values[at][i] = __half2float(in.exact_values[v * PLAN_VALUE_DIM + i]);
        return;
    }
    restore(t, head_of(t, layer, false, kv_head), record, a.keys[at], a.scratch[warp], lane);
    turn(t, layer, token, a.keys[at], lane);
    restore(t, head_of(t, layer, true, kv_head), record, a.values[at], a.scratch[warp], lane);
}

/* weights: the logits of n tokens. */
static __device__ inline void multiply_keys(attention &a, int n_queries, int n)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int pair = warp; pair < n_queries * n; pair += WARPS) {
        const int q = pair / n, k = pair % n;
        float sum = 0.0f;
        for (int i = lane; i < PLAN_HEAD_DIM; i += WARP) sum += a.queries[q][i] * a.keys[k][i];
        sum = warp_sum(sum);
        if (lane == 0) a.weights[q][k] = sum;
    }
}

/* Online softmax: the sums so far belong to the largest logit so far; a larger one shrinks them by `before`. */
static __device__ inline void weigh_tile(attention &a, int n_queries, int n)
{
    const int q = threadIdx.x;
    if (q >= n_queries) return;
    float largest = a.largest[q], sum = 0.0f;
    for (int k = 0; k < n; k++) largest = fmaxf(largest, a.weights[q][k]);
    for (int k = 0; k < n; k++) {
        a.weights[q][k] = expf(a.weights[q][k] - largest);
        sum += a.weights[q][k];
    }
    a.before[q] = expf(a.largest[q] - largest); /* 0 for the first tile: its largest was -INFINITY */
    a.total[q] = a.total[q] * a.before[q] + sum;
    a.largest[q] = largest;
}

static __device__ inline void add_values(attention &a, int n_queries, int n)
{
    for (int at = threadIdx.x; at < n_queries * PLAN_VALUE_DIM; at += WARP * WARPS) {
        const int q = at / PLAN_VALUE_DIM, i = at % PLAN_VALUE_DIM;
        float sum = a.sums[q][i] * a.before[q];
        for (int k = 0; k < n; k++) sum += a.weights[q][k] * a.values[k][i];
        a.sums[q][i] = sum;
    }
}

/* What a part of the sequence gives for a query head: largest logit, sum of exponentials, weighted sum of values. */
constexpr int PART_FLOATS = PLAN_VALUE_DIM + 2;

/* Block (KV head, QUERIES of its query heads, part of the sequence). */
template <typename T>
static __global__ void __launch_bounds__(WARP *WARPS)
    attend_kernel(plan_tables t, int layer, attend_input in, int64_t part_tokens,
                  const T *__restrict__ queries, // [PLAN_N_Q_HEADS][PLAN_HEAD_DIM], as they leave RoPE
                  float *__restrict__ parts)     // [parts][PLAN_N_Q_HEADS][PART_FLOATS]
{
    extern __shared__ __align__(16) uint8_t memory[];
    attention &a = *reinterpret_cast<attention *>(memory);
    const int kv_head = blockIdx.x, first = kv_head * Q_PER_KV + blockIdx.y * QUERIES,
              n_queries = min(QUERIES, (kv_head + 1) * Q_PER_KV - first);
    const int64_t start = blockIdx.z * part_tokens, end = min(in.n_tokens, start + part_tokens);
    for (int at = threadIdx.x; at < n_queries * PLAN_HEAD_DIM; at += WARP * WARPS)
        a.queries[at / PLAN_HEAD_DIM][at % PLAN_HEAD_DIM] =
            (float)PLAN_ATTENTION_SCALE * to_float(queries[(int64_t)first * PLAN_HEAD_DIM + at]);
    for (int at = threadIdx.x; at < n_queries * PLAN_VALUE_DIM; at += WARP * WARPS)
        a.sums[at / PLAN_VALUE_DIM][at % PLAN_VALUE_DIM] = 0.0f;
    if ((int)threadIdx.x < n_queries) {
        a.largest[threadIdx.x] = -INFINITY;
        a.total[threadIdx.x] = 0.0f;
    }
    for (int64_t token = start; token < end; token += TILE) {
        const int n = (int)min((int64_t)TILE, end - token);
        __syncthreads();
        for (int at = threadIdx.x / WARP; at < n; at += WARPS) load_token(a, t, layer, kv_head, in, token + at, at);
        __syncthreads();
        multiply_keys(a, n_queries, n);
        __syncthreads();
        weigh_tile(a, n_queries, n);
        __syncthreads();
        add_values(a, n_queries, n);
    }
    __syncthreads();
    for (int at = threadIdx.x; at < n_queries * PART_FLOATS; at += WARP * WARPS) {
        const int q = at / PART_FLOATS, i = at % PART_FLOATS;
        parts[((int64_t)blockIdx.z * PLAN_N_Q_HEADS + first) * PART_FLOATS + at] = i == 0   ? a.largest[q]
                                                                                   : i == 1 ? a.total[q]
                                                                                            : a.sums[q][i - 2];
    }
}

/* Block a query head: parts are added up as if each had the largest logit of all. */
template <typename T>
static __global__ void merge_kernel(const float *__restrict__ parts, int n_parts, T *__restrict__ out,
                                    float *__restrict__ log_sum_exp)
{
    const int q = blockIdx.x;
    float largest = -INFINITY, total = 0.0f;
    for (int p = 0; p < n_parts; p++) largest = fmaxf(largest, parts[((int64_t)p * PLAN_N_Q_HEADS + q) * PART_FLOATS]);
    for (int p = 0; p < n_parts; p++) {
        const float *part = parts + ((int64_t)p * PLAN_N_Q_HEADS + q) * PART_FLOATS;
        total += part[1] * expf(part[0] - largest);
    }
    for (int i = threadIdx.x; i < PLAN_VALUE_DIM; i += blockDim.x) {
        float sum = 0.0f;
        for (int p = 0; p < n_parts; p++) {
            const float *part = parts + ((int64_t)p * PLAN_N_Q_HEADS + q) * PART_FLOATS;
            sum += part[2 + i] * expf(part[0] - largest);
        }
        put_float(out + (int64_t)q * PLAN_VALUE_DIM + i, total > 0.0f ? sum / total : 0.0f);
    }
    if (threadIdx.x == 0 && log_sum_exp) log_sum_exp[q] = total > 0.0f ? largest + logf(total) : -INFINITY;
}

/* Tokens of a part: a sequence has MAX_PARTS parts at most. */
static inline int64_t tokens_of_part(int64_t n_tokens)
{
    const int64_t even = (n_tokens + MAX_PARTS - 1) / MAX_PARTS;
    return even < LEAST_PART ? LEAST_PART : even;
}

} /* namespace plan_kernels */

#endif
