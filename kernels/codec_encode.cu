/* Quantizing vectors: see kernels/codec_cuda.h for the contract and kernels/codec_image.h for the layout.
 *
 * A warp takes 32 vectors of one head at a time: loads them, puts their dims in coding order in its own part of shared memory, and then, group by group,
 * sums the norms from the operands it has just loaded for the products, rotates on the tensor cores, compares with the boundaries, and packs. The
 * columns of the rotation are dealt so that a lane's results are neighbours in the packed stream (codec_image.c). Warps never wait for each other.
 *
 * fp16 input is an exact operand. bf16 and f32 are first brought near 1 by a power of two for each vector; bf16 then is exact again, f32 is split like
 * the rotation into high and low, and the product low x low is dropped. */
#include "kernels/codec_device.cuh"

struct encode_args {
    codec_device_image image;
    const void *x;
    int64_t head_stride, token_stride, n;
    uint8_t *packed;
    uint16_t *norms;
    unsigned long long *first_bad;
    int fragment_bytes;     /* of shared memory for the fragments; 0: read them from global memory */
    int warp_bytes;
};

/* ---- loading ----------------------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ void load_floats(float (&out)[8], const float *from)
{
    const float4 a = reinterpret_cast<const float4 *>(from)[0], b = reinterpret_cast<const float4 *>(from)[1];
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w, out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}

__device__ __forceinline__ void load_floats(float (&out)[8], const __nv_bfloat16 *from)
{
    const uint4 bits = *reinterpret_cast<const uint4 *>(from);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = __uint_as_float(words[i] << 16);
        out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

/* The power of two that brings the largest magnitude of a vector to [1024, 2048); 1 where there is none. */
__device__ __forceinline__ float scale_of(float largest)
{
    const int exponent = __float_as_int(largest) >> 23 & 255;
    if (exponent == 255 || largest == 0.0f) return 1.0f;
    return __int_as_float(min(264 - exponent, 254) << 23);
}

/* Two runs of 8 dims, [8 c, 8 c + 8) and the same half a vector later, as halves, to their columns of a row. */
__device__ __forceinline__ void store_row(__half *row, const uint32_t (&low)[4], const uint32_t (&high)[4], const uint16_t *position, int c, int half_dim,
                                          int order)
{
    if (order == CODEC_ORDER_NATURAL) {
        *reinterpret_cast<uint4 *>(row + 8 * c) = make_uint4(low[0], low[1], low[2], low[3]);
        *reinterpret_cast<uint4 *>(row + half_dim + 8 * c) = make_uint4(high[0], high[1], high[2], high[3]);
        return;
    }
    uint16_t at[8];
    *reinterpret_cast<uint4 *>(at) = *reinterpret_cast<const uint4 *>(position + 8 * c);
    if (order == CODEC_ORDER_SPLIT_PAIRS) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            *reinterpret_cast<uint32_t *>(row + at[2 * i]) = __byte_perm(low[i], high[i], 0x5410);
            *reinterpret_cast<uint32_t *>(row + at[2 * i + 1]) = __byte_perm(low[i], high[i], 0x7632);
        }
        return;
    }
    uint16_t after[8];
    *reinterpret_cast<uint4 *>(after) = *reinterpret_cast<const uint4 *>(position + half_dim + 8 * c);
    uint16_t *bits = reinterpret_cast<uint16_t *>(row);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        bits[at[i]] = static_cast<uint16_t>(low[i / 2] >> 16 * (i & 1));
        bits[after[i]] = static_cast<uint16_t>(high[i / 2] >> 16 * (i & 1));
    }
}

/* A vector is loaded by 2^k lanes, each with two runs of 8 dims; some of them idle unless head_dim / 16 is a power of two. */
struct row_split {
    int lanes, rows, lane, row;     /* lanes a row, rows a warp, this lane's */
};

__device__ __forceinline__ row_split split_rows(int head_dim)
{
    int lanes = 1;
    while (lanes < head_dim / 16) lanes *= 2;
    const int lane = threadIdx.x & 31;
    return {lanes, 32 / lanes, lane & (lanes - 1), lane / lanes};
}

__device__ __forceinline__ void load_rows(__half *tile, __half *, float *, const __half *x, int64_t token_stride, int n_rows, const uint16_t *position,
                                          int head_dim, int order)
{
    enum { IN_FLIGHT = 4 };
    const row_split split = split_rows(head_dim);
    const int stride = head_dim + ROW_PAD, half_dim = head_dim / 2, c = split.lane;
    if (8 * c >= half_dim) return;
    for (int first = 0; first < WARP_ROWS; first += IN_FLIGHT * split.rows) {
        uint4 low[IN_FLIGHT], high[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++) {
            const int row = first + i * split.rows + split.row;
            low[i] = high[i] = make_uint4(0, 0, 0, 0);
            if (row < n_rows) {
                const __half *from = x + row * token_stride + 8 * c;
                low[i] = __ldcs(reinterpret_cast<const uint4 *>(from));
                high[i] = __ldcs(reinterpret_cast<const uint4 *>(from + half_dim));
            }
        }
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++) {
            const int row = first + i * split.rows + split.row;
            const uint32_t a[4] = {low[i].x, low[i].y, low[i].z, low[i].w}, b[4] = {high[i].x, high[i].y, high[i].z, high[i].w};
            if (row < WARP_ROWS) store_row(tile + row * stride, a, b, position, c, half_dim, order);
        }
    }
}

/* bf16 and f32: scaled by a power of two a row; tile_low takes what f32 has beyond fp16 (NULL for bf16). */
template <typename T>
__device__ __forceinline__ void load_rows(__half *tile, __half *tile_low, float *inverse_scale, const T *x, int64_t token_stride, int n_rows,
                                          const uint16_t *position, int head_dim, int order)
{
    const row_split split = split_rows(head_dim);
    const int stride = head_dim + ROW_PAD, half_dim = head_dim / 2, c = split.lane;
    const bool is_idle = 8 * c >= half_dim;
    for (int first = 0; first < WARP_ROWS; first += split.rows) {
        const int row = first + split.row;
        float v[2][8] = {};
        float largest = 0.0f;
        if (row < n_rows && !is_idle) {
            load_floats(v[0], x + row * token_stride + 8 * c);
            load_floats(v[1], x + row * token_stride + half_dim + 8 * c);
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float magnitude = fabsf(v[i / 8][i & 7]);
            largest = magnitude <= largest ? largest : magnitude;       /* a NaN stays */
        }
        for (int mask = 1; mask < split.lanes; mask *= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, largest, mask);
            largest = other <= largest ? largest : other;
        }
        const float scale = scale_of(largest);
        if (c == 0) inverse_scale[row] = 1.0f / scale;
        if (is_idle) continue;
        uint32_t high[2][4], low[2][4];
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float a = v[r][2 * i] * scale, b = v[r][2 * i + 1] * scale;
                const __half2 rounded = __floats2half2_rn(a, b);
                const float2 back = __half22float2(rounded);
                high[r][i] = as_bits(rounded);
                low[r][i] = as_bits(__floats2half2_rn(a - back.x, b - back.y));
            }
        store_row(tile + row * stride, high[0], high[1], position, c, half_dim, order);
        if (tile_low) store_row(tile_low + row * stride, low[0], low[1], position, c, half_dim, order);
    }
}

/* ---- coding ------------------------------------------------------------------------------------------------------------------ */

/* Boundaries above 0 below `magnitude`. The first 7 are in registers: all there are up to 4 bits. */
__device__ __forceinline__ uint32_t count_boundaries(float magnitude, const float (&b)[7], const float *boundaries, int width)
{
    if (width == 1) return 0;
    if (width == 2) return magnitude > b[0];
    if (width == 3) return (magnitude > b[0]) + (magnitude > b[1]) + (magnitude > b[2]);
    if (width == 4) {
        const bool upper = magnitude > b[3];
        const bool middle = magnitude > (upper ? b[5] : b[1]);
        const float last = upper ? (middle ? b[6] : b[4]) : (middle ? b[2] : b[0]);
        return 4 * upper + 2 * middle + (magnitude > last);
    }
    uint32_t at = 0;
    for (uint32_t step = 1u << (width - 2); step > 0; step >>= 1)
        if (magnitude > boundaries[at + step - 1]) at += step;
    return at;
}

__device__ __forceinline__ uint32_t code_of(float y, const float (&b)[7], const float *boundaries, int width)
{
    const uint32_t half = 1u << (width - 1), count = count_boundaries(fabsf(y), b, boundaries, width);
    return y > 0.0f ? half + count : half - 1 - count;
}

/* The bits of one lane for one vector, appended in order and sent out 32 at a time. */
struct bit_run {
    uint32_t bits;
    int at;         /* bit of the warp's packed tile where `bits` goes */
};

__device__ __forceinline__ void flush(bit_run &run, uint32_t *tile)
{
    const int word = run.at >> 5, shift = run.at & 31;
    atomicOr(tile + word, run.bits << shift);
    if (shift) atomicOr(tile + word + 1, run.bits >> (32 - shift));
}

/* n: bits that are waiting, the same in all runs of the lane. */
__device__ __forceinline__ void append(bit_run &run, uint32_t value, int n_bits, int n, uint32_t *tile)
{
    run.bits |= value << n;
    if (n + n_bits < 32) return;
    flush(run, tile);
    run.at += 32;
    run.bits = value >> (32 - n);       /* n_bits <= 16, so n >= 16 here */
}

/* ---- a group ----------------------------------------------------------------------------------------------------------------- */

/* What a warp has in shared memory. */
struct warp_memory {
    __half *tile, *tile_low;    /* [WARP_ROWS][head_dim + ROW_PAD] */
    float *inverse_scale;       /* [WARP_ROWS] */
    uint16_t *norms;            /* [WARP_ROWS][n_groups] */
    uint32_t *packed;           /* WARP_ROWS * packed_bytes, and a word */
};

template <typename T> struct input_traits;
template <> struct input_traits<__half> { enum { IS_SCALED = 0, HAS_LOW = 0 }; };
template <> struct input_traits<__nv_bfloat16> { enum { IS_SCALED = 1, HAS_LOW = 0 }; };
template <> struct input_traits<float> { enum { IS_SCALED = 1, HAS_LOW = 1 }; };

/* Sum of squares of the group's columns of one row, by the four lanes that share it. */
__device__ __forceinline__ float add_squares(float sum, uint32_t pair, uint32_t pair_low, bool has_low)
{
    float2 v = as_float2(pair);
    if (has_low) {
        const float2 low = as_float2(pair_low);
        v.x += low.x;
        v.y += low.y;
    }
    return fmaf(v.x, v.x, fmaf(v.y, v.y, sum));
}

/* STEPS: steps of the longest window there can be; BLOCKS: row blocks at once. */
template <typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ bool encode_group(const codec_image_group &group, int g, int n_groups, int packed_bytes, int block, int stride,
                                             const warp_memory &memory, const codec_image_lane *fragments, const float *books)
{
    enum { HAS_LOW = input_traits<T>::HAS_LOW };
    const int lane = threadIdx.x & 31, row_lane = lane >> 2, t = lane & 3;
    const int n_steps = group.n_steps, width = group.width;
    uint32_t a[BLOCKS][STEPS][4], a_low[BLOCKS][HAS_LOW ? STEPS : 1][4];
    float inverse[BLOCKS][2];
    bool is_good = true;

#pragma unroll
    for (int m = 0; m < BLOCKS; m++) {
        float squares[2] = {0.0f, 0.0f};
        const __half *rows = memory.tile + (block + m) * 16 * stride + group.k_begin;
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            if (s < n_steps) {
                load_a(a[m][s], rows + 16 * s, stride);
                if (HAS_LOW) load_a(a_low[m][HAS_LOW ? s : 0], memory.tile_low + (block + m) * 16 * stride + group.k_begin + 16 * s, stride);
                const unsigned column = group.k_begin + 16 * s + 2 * t - group.first;
#pragma unroll
                for (int r = 0; r < 4; r++)
                    if (column + (r / 2) * 8 < static_cast<unsigned>(group.dims))
                        squares[r & 1] = add_squares(squares[r & 1], a[m][s][r], a_low[m][HAS_LOW ? s : 0][r], HAS_LOW);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            squares[r] += __shfl_xor_sync(0xffffffffu, squares[r], 1);
            squares[r] += __shfl_xor_sync(0xffffffffu, squares[r], 2);
            const int row = (block + m) * 16 + r * 8 + row_lane;
            const float norm = sqrtf(squares[r]);
            inverse[m][r] = norm > 0.0f ? group.inverse_scale / norm : 0.0f;
            const float stored = input_traits<T>::IS_SCALED ? norm * memory.inverse_scale[row] : norm;
            const __half rounded = __float2half_rn(stored);
            is_good = is_good && __half2float(rounded) <= 65504.0f;     /* false for infinity and for NaN */
            if (t == 0) memory.norms[row * n_groups + g] = __half_as_ushort(rounded);
        }
    }

    const float *boundaries = books + group.book;
    float b[7];
#pragma unroll
    for (int i = 0; i < 7; i++) b[i] = i < (1 << (width - 1)) ? boundaries[i] : 0.0f;

    const int lane_dims = 2 * group.n_tiles;
    bit_run runs[BLOCKS][2];
#pragma unroll
    for (int m = 0; m < BLOCKS; m++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            runs[m][r] = {0, ((block + m) * 16 + r * 8 + row_lane) * packed_bytes * 8 + group.bit_first + t * lane_dims * width};
    int waiting = 0;
    const codec_image_lane *fragment = fragments + group.encode * CODEC_IMAGE_LANES + lane;
    for (int tile = 0; tile < group.n_tiles; tile++) {
        float c[BLOCKS][4] = {};
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            if (s < n_steps) {
                const uint4 rotation = *reinterpret_cast<const uint4 *>(fragment);
                fragment += CODEC_IMAGE_LANES;
#pragma unroll
                for (int m = 0; m < BLOCKS; m++) multiply(c[m], a[m][s], rotation.x, rotation.y);
                if (group.has_low)
#pragma unroll
                    for (int m = 0; m < BLOCKS; m++) multiply(c[m], a[m][s], rotation.z, rotation.w);
                if (HAS_LOW)
#pragma unroll
                    for (int m = 0; m < BLOCKS; m++) multiply(c[m], a_low[m][HAS_LOW ? s : 0], rotation.x, rotation.y);
            }
        if (t * lane_dims + 2 * tile < group.dims) {
#pragma unroll
            for (int m = 0; m < BLOCKS; m++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const uint32_t first = code_of(c[m][2 * r] * inverse[m][r], b, boundaries, width);
                    const uint32_t second = code_of(c[m][2 * r + 1] * inverse[m][r], b, boundaries, width);
                    append(runs[m][r], first | second << width, 2 * width, waiting, memory.packed);
                }
            waiting = (waiting + 2 * width) & 31;
        }
    }
    if (waiting > 0)
#pragma unroll
        for (int m = 0; m < BLOCKS; m++)
#pragma unroll
            for (int r = 0; r < 2; r++) flush(runs[m][r], memory.packed);
    return is_good;
}

/* ---- the kernel -------------------------------------------------------------------------------------------------------------- */

/* blockIdx.y: head; the warps of all blocks of a head share its vectors. */
template <typename T, int STEPS>
__global__ void __launch_bounds__(WARPS * 32, input_traits<T>::HAS_LOW ? 1 : 2) encode_kernel(const encode_args args)
{
    enum { BLOCKS = STEPS > 8 ? 1 : 2 };
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ head_streams streams;
    __shared__ codec_image_group groups[CODEC_IMAGE_MAX_GROUPS];
    const codec_device_image &image = args.image;
    const int head_index = blockIdx.y, head_dim = image.head_dim, stride = head_dim + ROW_PAD;
    const codec_image_head head = image.heads[head_index];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;

    /* What the block shares: tables of the codebooks, positions, groups, fragments. */
    uint8_t *next = shared;
    codec_image_lane *fragments = reinterpret_cast<codec_image_lane *>(next);
    next += args.fragment_bytes;
    float *books = reinterpret_cast<float *>(next);
    next += (image.n_books * 4 + 15) / 16 * 16;
    uint16_t *position = reinterpret_cast<uint16_t *>(next);
    next += head_dim * 2;
    const codec_image_lane *head_fragments = image.fragments + static_cast<int64_t>(head.first_fragment) * CODEC_IMAGE_LANES;
    if (args.fragment_bytes > 0)
        for (int i = threadIdx.x; i < head.n_fragments_encode * CODEC_IMAGE_LANES; i += blockDim.x)
            reinterpret_cast<uint4 *>(fragments)[i] = reinterpret_cast<const uint4 *>(head_fragments)[i];
    for (int i = threadIdx.x; i < image.n_books; i += blockDim.x) books[i] = image.books[i];
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) position[i] = image.position[head_index * head_dim + i];
    for (int i = threadIdx.x; i < head.n_groups; i += blockDim.x) {
        groups[i] = image.groups[head.first_group + i];
        groups[i].encode -= head.first_fragment;
    }
    if (threadIdx.x == 0) streams = find_streams(image.heads, head_index, args.n);

    next += static_cast<int64_t>(warp) * args.warp_bytes;
    warp_memory memory;
    memory.tile = reinterpret_cast<__half *>(next);
    next += WARP_ROWS * stride * 2;
    memory.tile_low = nullptr;
    if (input_traits<T>::HAS_LOW) {
        memory.tile_low = reinterpret_cast<__half *>(next);
        next += WARP_ROWS * stride * 2;
    }
    memory.inverse_scale = reinterpret_cast<float *>(next);
    next += WARP_ROWS * 4;
    memory.norms = reinterpret_cast<uint16_t *>(next);
    next += WARP_ROWS * 2 * image.max_groups;
    memory.packed = reinterpret_cast<uint32_t *>(next);
    /* The pad of a row meets zeros in B, and must be finite. */
    const uint4 zero = make_uint4(0, 0, 0, 0);
    *reinterpret_cast<uint4 *>(memory.tile + lane * stride + head_dim) = zero;
    if (memory.tile_low) *reinterpret_cast<uint4 *>(memory.tile_low + lane * stride + head_dim) = zero;
    __syncthreads();

    const codec_image_lane *operand = args.fragment_bytes > 0 ? fragments : head_fragments;
    const T *x = static_cast<const T *>(args.x) + head_index * args.head_stride;
    const int tile_bytes = WARP_ROWS * head.packed_bytes;
    for (int64_t first = (static_cast<int64_t>(blockIdx.x) * n_warps + warp) * WARP_ROWS; first < args.n;
         first += static_cast<int64_t>(gridDim.x) * n_warps * WARP_ROWS) {
        const int n_rows = static_cast<int>(min(static_cast<int64_t>(WARP_ROWS), args.n - first));
        for (int i = lane; i < tile_bytes / 16 + 1; i += 32) reinterpret_cast<uint4 *>(memory.packed)[i] = zero;
        load_rows(memory.tile, memory.tile_low, memory.inverse_scale, x + first * args.token_stride, args.token_stride, n_rows, position, head_dim, head.order);
        __syncwarp();
        bool is_good = true;
        for (int g = 0; g < head.n_groups; g++)
            for (int block = 0; block < 2; block += BLOCKS)
                is_good &= encode_group<T, STEPS, BLOCKS>(groups[g], g, head.n_groups, head.packed_bytes, block, stride, memory, operand, books);
        __syncwarp();
        warp_copy(args.packed + streams.packed + first * head.packed_bytes, reinterpret_cast<const uint8_t *>(memory.packed), n_rows * head.packed_bytes);
        warp_copy(reinterpret_cast<uint8_t *>(args.norms + streams.norms + first * head.n_groups), reinterpret_cast<const uint8_t *>(memory.norms),
                  n_rows * head.n_groups * 2);
        /* Rare: look for the first row whose norm is infinite or not a number. */
        if (!__all_sync(0xffffffffu, is_good) && lane < n_rows)
            for (int g = 0; g < head.n_groups; g++)
                if ((memory.norms[lane * head.n_groups + g] & 0x7c00) == 0x7c00)
                    atomicMin(args.first_bad, static_cast<unsigned long long>(head_index * args.n + first + lane));
        __syncwarp();
    }
}

template <typename T, int STEPS>
static rb_status launch(encode_args &args, cudaStream_t stream, rb_error *err)
{
    const codec_device_image &image = args.image;
    const size_t row_bytes = 2 * (image.head_dim + ROW_PAD);
    const size_t tables = round_up(static_cast<size_t>(image.n_books) * 4, 16) + static_cast<size_t>(image.head_dim) * 2;
    size_t fragments = static_cast<size_t>(image.max_fragments_encode) * CODEC_IMAGE_LANES * sizeof(codec_image_lane);
    const size_t warp_bytes = round_up(WARP_ROWS * row_bytes * (input_traits<T>::HAS_LOW ? 2 : 1) + WARP_ROWS * 4 +
                                           static_cast<size_t>(WARP_ROWS) * 2 * image.max_groups + static_cast<size_t>(WARP_ROWS) * image.max_packed_bytes + 16,
                                       128);
    codec_device_limits limits;
    int resident = 0;
    rb_status st = find_limits(&limits, err);
    if (st != RB_OK) return st;
    const size_t fixed = sizeof(head_streams) + CODEC_IMAGE_MAX_GROUPS * sizeof(codec_image_group) + 256, room = limits.shared_bytes - fixed;
    int warps = warps_that_fit(fragments + tables, warp_bytes, room, WARPS);
    if (warps < WARPS / 2) {
        fragments = 0;
        warps = warps_that_fit(tables, warp_bytes, room, WARPS);
    }
    if (warps == 0) return rb_fail(err, RB_EUNSUPPORTED, "the encode kernel needs %zu bytes of shared memory, the GPU has %d", tables + warp_bytes, limits.shared_bytes);
    args.fragment_bytes = static_cast<int>(fragments);
    args.warp_bytes = static_cast<int>(warp_bytes);
    const size_t bytes = fragments + tables + warps * warp_bytes;
    st = rb_cuda_status(cudaFuncSetAttribute(encode_kernel<T, STEPS>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "encode", err);
    if (st != RB_OK) return st;
    st = rb_cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, encode_kernel<T, STEPS>, warps * 32, bytes), "encode", err);
    if (st != RB_OK) return st;
    const int64_t needed = (args.n + warps * WARP_ROWS - 1) / (warps * WARP_ROWS);
    int64_t blocks = (static_cast<int64_t>(resident) * limits.n_multiprocessors) / image.n_heads;
    if (blocks > needed) blocks = needed;
    if (blocks < 1) blocks = 1;
    encode_kernel<T, STEPS><<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(image.n_heads)), warps * 32, bytes, stream>>>(args);
    return rb_cuda_launched("encode kernel", err);
}

template <typename T>
static rb_status launch_type(encode_args &args, cudaStream_t stream, rb_error *err)
{
    if (args.image.head_dim <= 64) return launch<T, 4>(args, stream, err);
    if (args.image.head_dim <= 128) return launch<T, 8>(args, stream, err);
    return launch<T, 16>(args, stream, err);
}

rb_status codec_encode(const codec_device_image *image, const codec_vectors *x, int64_t n, uint8_t *packed, uint16_t *norms, uint64_t *first_bad, void *stream,
                       rb_error *err)
{
    encode_args args = {*image, x->data, x->head_stride, x->token_stride, n, packed, norms, reinterpret_cast<unsigned long long *>(first_bad), 0, 0};
    if (n == 0) return RB_OK;
    if (x->type == CODEC_F16) return launch_type<__half>(args, static_cast<cudaStream_t>(stream), err);
    if (x->type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, static_cast<cudaStream_t>(stream), err);
    return launch_type<float>(args, static_cast<cudaStream_t>(stream), err);
}
