/* Encoding vectors of family trellis: see kernels/reference/trellis_codec.h for the definition,
 * kernels/cuda/trellis_search.h for the search.
 *
 * A warp takes 4 vectors at a time. It projects them, finds their gains, and searches one after the other: a lane has
 * the costs of 8 states in registers, and tables' numbers of the same states; a coordinate costs
 *
 *   16 FFMA         (root T - root y)^2 + the least cost before, of 8 states
 *   4 to 7 minima   of the states that lead to one group; each tells which was less
 *   3 or 4 ballots  that gather which: 16 bytes a coordinate, in shared memory
 *   8 shuffles      that bring the least costs to the new states
 *   11 others       y, root, a store, the loop, which bits are kept
 *
 * together about 50 instructions. Then four lanes go back along the paths of the four vectors, and all lanes make the
 * bytes of the stream, each out of two states. All sums are f32. */
#include "kernels/cuda/trellis_device.cuh"
#include "kernels/cuda/trellis_search.h"

enum {
    ENCODE_WARPS = 20,
    VECTORS = 4,          /* that a warp takes at a time */
    LANE_COORDINATES = 4, /* that a lane projects at a time */
    LANE_DIMS = 4         /* from so many dims at once */
};
static_assert(RUN_UNIT % VECTORS == 0, "runs are whole tiles but for the last");

/* Larger coordinates are cut off, so that all costs can be compared: no path of such a vector is better than another to
 * f32. */
#define MOST_COORDINATE 1e18f

struct trellis_encode_args {
    codec_image image; /* on the device */
    const void *x;     /* [n_heads][n][head_dim] of the kernel's T; elements from head to head, vector to vector: */
    int64_t head_stride, token_stride, n;
    uint8_t *packed;               /* [n_heads] streams of [n][packed_bytes] u8 */
    unsigned long long *first_bad; /* [1] u64 */
    int warp_bytes;                /* of shared memory */
};

/* What a block has in shared memory of its head. */
struct block_memory {
    const uint16_t *numbers;         /* [9][256] fp16 */
    const float *centers, *roots;    /* [n_dims]; roots of the weights */
    const trellis_image_run *runs;   /* [n_dims] */
    const trellis_image_byte *bytes; /* [n_dims] */
};

/* What a warp has. */
struct warp_memory {
    float *y;       /* [VECTORS][n_dims]: x - c, then root y, then states as bytes from the row's start on */
    float *z;       /* [VECTORS][n_coded], and later in its place */
    uint4 *choices; /* [n_coded][VECTORS]: the words of trellis_search.h */
};

/* ---- vectors to coordinates ------------------------------------------------------------------ */

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

/* y = x - c; returns whether all numbers are finite. A vector that has others is refused, and zeroes take its place. */
template <typename T>
__device__ __forceinline__ bool load_vector(float *y, const T *x, const float *centers, int n_dims)
{
    const int lane = threadIdx.x & 31;
    bool is_finite = true;
    for (int j = lane; j < n_dims; j += 32) {
        const float value = to_float(x[j]);
        is_finite = is_finite && fabsf(value) < INFINITY;
        y[j] = value - centers[j];
    }
    is_finite = __all_sync(0xffffffffu, is_finite);
    if (!is_finite)
        for (int j = lane; j < n_dims; j += 32) y[j] = 0.0f;
    return is_finite;
}

/* The warp's rows, those past the last zeroes. */
template <typename T>
__device__ __forceinline__ void load_vectors(const warp_memory &memory, const trellis_encode_args &args,
                                             const float *centers, int head_index, int64_t first, int n_rows)
{
    const int n_dims = args.image.trellis.n_dims, lane = threadIdx.x & 31;
    const T *x = static_cast<const T *>(args.x) + head_index * args.head_stride + first * args.token_stride;
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        float *y = memory.y + v * n_dims;
        if (v >= n_rows) {
            for (int j = lane; j < n_dims; j += 32) y[j] = 0.0f;
        } else if (!load_vector(y, x + v * args.token_stride, centers, n_dims) && lane == 0) {
            atomicMin(args.first_bad,
                      static_cast<unsigned long long>(static_cast<uint64_t>(head_index) * args.n + first + v));
        }
    }
    __syncwarp();
}

/* sum[k][v]: the product of vector v with column `at[k]` of the matrix, dim after dim. */
__device__ __forceinline__ void multiply_columns(float (&sum)[LANE_COORDINATES][VECTORS], const float *y,
                                                 const float *matrix, const int (&at)[LANE_COORDINATES], int n_dims)
{
#pragma unroll 1
    for (int j = 0; j < n_dims; j += LANE_DIMS, matrix += LANE_DIMS * n_dims) {
        float x[VECTORS][LANE_DIMS];
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            const float4 four = *reinterpret_cast<const float4 *>(y + v * n_dims + j);
            x[v][0] = four.x, x[v][1] = four.y, x[v][2] = four.z, x[v][3] = four.w;
        }
#pragma unroll
        for (int i = 0; i < LANE_DIMS; i++)
#pragma unroll
            for (int k = 0; k < LANE_COORDINATES; k++) {
                const float factor = __ldg(matrix + i * n_dims + at[k]);
#pragma unroll
                for (int v = 0; v < VECTORS; v++) sum[k][v] = fmaf(x[v][i], factor, sum[k][v]);
            }
    }
}

/* z of all coded coordinates; square[v]: the lane's part of sum w z^2. */
__device__ __forceinline__ void project(float (&square)[VECTORS], const warp_memory &memory, const block_memory &block,
                                        const float *matrix, int n_coded, int n_dims)
{
#pragma unroll 1
    for (int first = threadIdx.x & 31; first - static_cast<int>(threadIdx.x & 31) < n_coded;
         first += 32 * LANE_COORDINATES) {
        float sum[LANE_COORDINATES][VECTORS] = {};
        int at[LANE_COORDINATES];
#pragma unroll
        for (int k = 0; k < LANE_COORDINATES; k++) at[k] = min(first + 32 * k, n_coded - 1);
        multiply_columns(sum, memory.y, matrix, at, n_dims);
#pragma unroll
        for (int k = 0; k < LANE_COORDINATES; k++)
            if (first + 32 * k < n_coded)
#pragma unroll
                for (int v = 0; v < VECTORS; v++) {
                    const float z = fminf(fmaxf(sum[k][v], -MOST_COORDINATE), MOST_COORDINATE),
                                weighed = block.roots[at[k]] * z;
                    memory.z[v * n_coded + at[k]] = z;
                    square[v] = fmaf(weighed, weighed, square[v]);
                }
    }
    __syncwarp();
}

/* The level of gain nearest to a vector's size; square: the lane's part of sum w z^2. */
__device__ __forceinline__ int find_level(float square, const trellis_image_head &head)
{
    for (int mask = 16; mask > 0; mask /= 2) square += __shfl_xor_sync(0xffffffffu, square, mask);
    const float level = floorf(log2f(square * head.inverse_weight) + static_cast<float>(head.gain_zero) + 0.5f);
    return static_cast<int>(fminf(fmaxf(level, 0.0f), static_cast<float>((1 << head.gain_bits) - 1)));
}

/* ---- the search ------------------------------------------------------------------------------ */

/* Costs of the lane's states: those they come from, and root^2 (y - number)^2; y has the root in it already. */
__device__ __forceinline__ void add_errors(float (&cost)[TRELLIS_LANE_STATES],
                                           const float (&before)[TRELLIS_LANE_STATES],
                                           const float (&number)[TRELLIS_LANE_STATES], float y, float root)
{
#pragma unroll
    for (int k = 0; k < TRELLIS_LANE_STATES; k++) {
        const float off = fmaf(number[k], -root, y);
        cost[k] = fmaf(off, off, before[k]);
    }
}

__device__ __forceinline__ void read_numbers(float (&number)[TRELLIS_LANE_STATES], const uint16_t *table)
{
    const uint4 eight = reinterpret_cast<const uint4 *>(table)[threadIdx.x & 31];
    const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 two = pair_numbers(words[i]);
        number[2 * i] = two.x, number[2 * i + 1] = two.y;
    }
}

/* Where the search of a vector is: at a coordinate's y, root and choices. */
struct search_place {
    const float *y, *root;
    uint4 *choices;
};

/* The next n coordinates, which have one width. */
template <int WIDTH>
__device__ __forceinline__ void search_run(float (&cost)[TRELLIS_LANE_STATES], const uint16_t *numbers,
                                           search_place &at, int n)
{
    const int lane = threadIdx.x & 31;
    float number[TRELLIS_LANE_STATES];
    read_numbers(number, numbers + TRELLIS_STATES * WIDTH);
#pragma unroll 2
    for (int i = 0; i < n; i++) {
        float least[TRELLIS_LANE_GROUPS], before[TRELLIS_LANE_STATES];
        bool is_second[TRELLIS_COMPARISONS];
        uint32_t ballots[TRELLIS_COMPARISONS], words[TRELLIS_WORDS];
        const int n_comparisons = trellis_merge(least, is_second, cost, WIDTH);
#pragma unroll
        for (int k = 0; k < TRELLIS_COMPARISONS; k++)
            if (k < n_comparisons) ballots[k] = __ballot_sync(0xffffffffu, is_second[k]);
        trellis_join(words, ballots, WIDTH);
        if (WIDTH > TRELLIS_LANE_BITS) {
            const float own = least[0];
#pragma unroll
            for (int mask = 1; mask < 1 << WIDTH >> TRELLIS_LANE_BITS; mask *= 2)
                least[0] = fminf(least[0], __shfl_xor_sync(0xffffffffu, least[0], mask));
            words[3] = __ballot_sync(0xffffffffu, own == least[0]);
        }
        if (lane == 0) at.choices[i * VECTORS] = make_uint4(words[0], words[1], words[2], words[3]);
#pragma unroll
        for (int k = 0; k < TRELLIS_LANE_STATES; k++)
            before[k] = __shfl_sync(0xffffffffu, least[trellis_group_of(k, WIDTH)], trellis_lane_of(lane, k, WIDTH));
        add_errors(cost, before, number, at.y[i], at.root[i]);
    }
    at = {at.y + n, at.root + n, at.choices + n * VECTORS};
}

/* The state of the least cost, the lowest of equals; in all lanes. */
__device__ __forceinline__ int best_state(const float (&cost)[TRELLIS_LANE_STATES])
{
    float own = cost[0];
    int state = TRELLIS_LANE_STATES * (threadIdx.x & 31);
#pragma unroll
    for (int k = 1; k < TRELLIS_LANE_STATES; k++) {
        if (cost[k] < own) state = TRELLIS_LANE_STATES * (threadIdx.x & 31) + k;
        own = fminf(own, cost[k]);
    }
    float least = own;
    for (int mask = 16; mask > 0; mask /= 2) least = fminf(least, __shfl_xor_sync(0xffffffffu, least, mask));
    return __shfl_sync(0xffffffffu, state, __ffs(static_cast<int>(__ballot_sync(0xffffffffu, own == least))) - 1);
}

/* The last state of a vector's best path. */
__device__ __forceinline__ int search(const block_memory &block, const float *y, uint4 *choices, int n_coded)
{
    const float nothing[TRELLIS_LANE_STATES] = {};
    float cost[TRELLIS_LANE_STATES], number[TRELLIS_LANE_STATES];
    read_numbers(number, block.numbers + TRELLIS_STATES * TRELLIS_MAX_WIDTH);
    add_errors(cost, nothing, number, y[0], block.roots[0]);
    search_place at = {y + 1, block.roots + 1, choices + VECTORS};
#pragma unroll 1
    for (int t = 1; t < n_coded;) {
        const trellis_image_run run = block.runs[t];
        const int n = run.end - t;
        switch (run.width) {
        case 1: search_run<1>(cost, block.numbers, at, n); break;
        case 2: search_run<2>(cost, block.numbers, at, n); break;
        case 3: search_run<3>(cost, block.numbers, at, n); break;
        case 4: search_run<4>(cost, block.numbers, at, n); break;
        case 5: search_run<5>(cost, block.numbers, at, n); break;
        case 6: search_run<6>(cost, block.numbers, at, n); break;
        case 7: search_run<7>(cost, block.numbers, at, n); break;
        default: search_run<8>(cost, block.numbers, at, n); break;
        }
        t += n;
    }
    return best_state(cost);
}

/* ---- paths to bytes -------------------------------------------------------------------------- */

/* Back along a path from coordinate `to` to coordinate `from`, which have one width, and to the state before them;
 * choices [n_coded][VECTORS] of one vector. */
template <int WIDTH>
__device__ __forceinline__ int trace_run(uint8_t *states, int state, const uint4 *choices, int from, int to)
{
#pragma unroll 2
    for (int t = to; t >= from; t--) {
        const uint4 four = choices[t * VECTORS];
        const uint32_t words[TRELLIS_WORDS] = {four.x, four.y, four.z, four.w};
        states[t] = static_cast<uint8_t>(state);
        state = trellis_previous(words, state, WIDTH);
    }
    return state;
}

/* Lane v goes back along vector v's path; states take the place of y. */
__device__ __forceinline__ void trace_back(const warp_memory &memory, const block_memory &block, int state, int n_coded,
                                           int n_dims)
{
    const int v = threadIdx.x & 31;
    if (v < VECTORS) {
        uint8_t *states = reinterpret_cast<uint8_t *>(memory.y + v * n_dims);
        const uint4 *choices = memory.choices + v;
        for (int t = n_coded - 1; t > 0;) {
            const trellis_image_run run = block.runs[t];
            const int from = max(static_cast<int>(run.first), 1);
            switch (run.width) {
            case 1: state = trace_run<1>(states, state, choices, from, t); break;
            case 2: state = trace_run<2>(states, state, choices, from, t); break;
            case 3: state = trace_run<3>(states, state, choices, from, t); break;
            case 4: state = trace_run<4>(states, state, choices, from, t); break;
            case 5: state = trace_run<5>(states, state, choices, from, t); break;
            case 6: state = trace_run<6>(states, state, choices, from, t); break;
            case 7: state = trace_run<7>(states, state, choices, from, t); break;
            default: state = trace_run<8>(states, state, choices, from, t); break;
            }
            t = from - 1;
        }
        states[0] = static_cast<uint8_t>(state);
    }
    __syncwarp();
}

/* gain: the level, shifted to where the gain starts in its byte. */
__device__ __forceinline__ void send_bytes(uint8_t *to, const uint8_t *states, const trellis_image_byte *bytes,
                                           int packed_bytes, int gain_byte, unsigned gain)
{
    for (int b = threadIdx.x & 31; b < packed_bytes; b += 32) {
        const trellis_image_byte from = bytes[b];
        unsigned byte = trellis_byte(states, from.coordinate, from.left, from.right);
        if (b >= gain_byte) byte |= gain >> 8 * (b - gain_byte);
        to[b] = static_cast<uint8_t>(byte);
    }
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* Fills the block's part of shared memory; returns what follows it. */
__device__ __forceinline__ uint8_t *fill_block(block_memory &block, uint8_t *next, const trellis_image &own,
                                               int head_index)
{
    const int n_dims = own.n_dims, at = head_index * n_dims;
    uint4 *numbers = reinterpret_cast<uint4 *>(next);
    float *centers = reinterpret_cast<float *>(numbers + TRELLIS_TABLE_BYTES / 16), *roots = centers + n_dims;
    trellis_image_run *runs = reinterpret_cast<trellis_image_run *>(roots + n_dims);
    trellis_image_byte *bytes = reinterpret_cast<trellis_image_byte *>(runs + n_dims);
    block_copy(numbers, reinterpret_cast<const uint4 *>(own.tables), TRELLIS_TABLE_BYTES / 16);
    block_copy(centers, own.centers + at, n_dims);
    block_copy(roots, own.roots + at, n_dims);
    block_copy(runs, own.runs + at, n_dims);
    block_copy(bytes, own.bytes + at, n_dims);
    block = {reinterpret_cast<const uint16_t *>(numbers), centers, roots, runs, bytes};
    return reinterpret_cast<uint8_t *>(bytes + n_dims);
}

template <typename T>
__global__ void __launch_bounds__(ENCODE_WARPS * 32, 1) trellis_encode_kernel(const trellis_encode_args args)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ head_streams streams;
    __shared__ trellis_image_head head;
    const trellis_image &own = args.image.trellis;
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, n_dims = own.n_dims, head_index = blockIdx.y;
    block_memory block;
    uint8_t *next = fill_block(block, shared, own, head_index) + warp * args.warp_bytes;
    block_copy(&head, own.heads + head_index, 1);
    if (warp == 0) {
        const head_streams found = find_streams(args.image.heads, head_index, args.n);
        if (lane == 0) streams = found;
    }
    __syncthreads();

    float *y = reinterpret_cast<float *>(next), *z = y + VECTORS * n_dims;
    const warp_memory memory = {y, z, reinterpret_cast<uint4 *>(z)};
    const int packed_bytes = args.image.heads[head_index].packed_bytes, n_coded = head.n_coded;
    const float *matrix = own.project + static_cast<int64_t>(head_index) * n_dims * n_dims;
    const vector_run run = find_run(args.n);
    for (int64_t first = run.from; first < run.to; first += VECTORS) {
        const int n_rows = static_cast<int>(min(static_cast<int64_t>(VECTORS), run.to - first));
        float square[VECTORS] = {};
        int level[VECTORS], last = 0;
        load_vectors<T>(memory, args, block.centers, head_index, first, n_rows);
        project(square, memory, block, matrix, n_coded, n_dims);
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            level[v] = find_level(square[v], head);
            const float inverse = head.inverse_gains[level[v]];
            for (int i = lane; i < n_coded; i += 32) y[v * n_dims + i] = z[v * n_coded + i] * inverse * block.roots[i];
        }
        __syncwarp(); /* z has been read: choices may take its place */
#pragma unroll 1
        for (int v = 0; v < n_rows; v++) {
            const int state = search(block, y + v * n_dims, memory.choices + v, n_coded);
            if (lane == v) last = state;
        }
        __syncwarp();
        trace_back(memory, block, last, n_coded, n_dims);
        uint8_t *to = args.packed + streams.packed + first * packed_bytes;
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            if (v < n_rows)
                send_bytes(to + v * packed_bytes, reinterpret_cast<const uint8_t *>(y + v * n_dims), block.bytes,
                           packed_bytes, head.code_bits / 8, static_cast<unsigned>(level[v]) << head.code_bits % 8);
        __syncwarp();
    }
}

template <typename T> static rb_status launch_type(trellis_encode_args &args, cudaStream_t stream, rb_error *err)
{
    const trellis_image &own = args.image.trellis;
    const size_t n_dims = static_cast<size_t>(own.n_dims),
                 block_bytes = TRELLIS_TABLE_BYTES
                               + n_dims * (2 * sizeof(float) + sizeof(trellis_image_run) + sizeof(trellis_image_byte)),
                 warp_bytes =
                     VECTORS
                     * (n_dims * sizeof(float) + static_cast<size_t>(own.max_coded) * TRELLIS_WORDS * sizeof(uint32_t));
    const launch_request want = {"trellis encode kernel",
                                 ENCODE_WARPS,
                                 block_bytes,
                                 warp_bytes,
                                 count_tiles(args.n, RUN_UNIT),
                                 static_cast<unsigned>(args.image.n_heads),
                                 1};
    args.warp_bytes = static_cast<int>(warp_bytes);
    return launch(trellis_encode_kernel<T>, args, want, 1, nullptr, stream, err);
}

rb_status trellis_encode(const codec_encode_call &call, rb_error *err)
{
    trellis_encode_args args = {call.image,
                                call.x.data,
                                call.x.head_stride,
                                call.x.token_stride,
                                call.n,
                                call.packed,
                                reinterpret_cast<unsigned long long *>(call.first_bad),
                                0};
    if (call.x.type == CODEC_F16) return launch_type<__half>(args, call.stream, err);
    if (call.x.type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, call.stream, err);
    return launch_type<float>(args, call.stream, err);
}
