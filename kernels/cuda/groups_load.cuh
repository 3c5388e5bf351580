/* Vectors to the rows of a warp's tile, dims in coding order. fp16 is an exact operand as it is. bf16 and f32 are
 * brought near 1 by a power of two for each vector; bf16 then is exact in fp16, f32 is split into high and low. */
#ifndef RB_KERNELS_CUDA_GROUPS_LOAD_CUH
#define RB_KERNELS_CUDA_GROUPS_LOAD_CUH

#include "kernels/cuda/groups_matrix.cuh"

template <typename T> struct input_traits;
template <> struct input_traits<__half> {
    enum { IS_SCALED = 0, HAS_LOW = 0 };
};
template <> struct input_traits<__nv_bfloat16> {
    enum { IS_SCALED = 1, HAS_LOW = 0 };
};
template <> struct input_traits<float> {
    enum { IS_SCALED = 1, HAS_LOW = 1 };
};

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

/* Where a lane puts its two runs of 8 dims, from 8 c and from head_dim / 2 + 8 c on, in its first row. Its other rows
 * are at the same distance for all dims. */
struct lane_columns {
    __half *low[8], *high[8]; /* split pairs: only low; natural order: the first of each */
};

/* Found anew for each tile: registers are short. */
template <int ORDER>
__device__ __forceinline__ lane_columns find_columns(const uint16_t *column, int dim, int half_dim, __half *row)
{
    lane_columns at;
#pragma unroll
    for (int i = 0; i < (ORDER == GROUPS_ORDER_NATURAL ? 1 : 8); i++) {
        at.low[i] = row + column[dim + i];
        if (ORDER != GROUPS_ORDER_SPLIT_PAIRS) at.high[i] = row + column[half_dim + dim + i];
    }
    return at;
}

template <int ORDER>
__device__ __forceinline__ void store_row(const lane_columns &at, int distance, const uint32_t (&low)[4],
                                          const uint32_t (&high)[4])
{
    if (ORDER == GROUPS_ORDER_NATURAL) {
        store_shared(at.low[0] + distance, low);
        store_shared(at.high[0] + distance, high);
    } else if (ORDER == GROUPS_ORDER_SPLIT_PAIRS) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            *reinterpret_cast<uint32_t *>(at.low[2 * i] + distance) = __byte_perm(low[i], high[i], 0x5410);
            *reinterpret_cast<uint32_t *>(at.low[2 * i + 1] + distance) = __byte_perm(low[i], high[i], 0x7632);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            *reinterpret_cast<uint16_t *>(at.low[i] + distance) = static_cast<uint16_t>(low[i / 2] >> 16 * (i & 1));
            *reinterpret_cast<uint16_t *>(at.high[i] + distance) = static_cast<uint16_t>(high[i / 2] >> 16 * (i & 1));
        }
    }
}

/* Where rows go: the warp's tile, its row stride in halves, the distance to the tile of low parts, and the column of
 * each dim. */
struct row_place {
    __half *tile;
    int stride, low_distance;
    const uint16_t *column;
    float *inverse_scale;
    float least; /* what a vector's scale must have room for beside its own values */
};

/* Rows past the last are the last again: what becomes of them is not sent. */
template <int ORDER, int ROWS>
__device__ __forceinline__ void load_rows(const row_place &to, const __half *x, int token_stride, int n_rows,
                                          const row_split &split, int head_dim)
{
    enum { IN_FLIGHT = 4 };
    const int half_dim = head_dim / 2;
    if (8 * split.lane >= half_dim) return;
    const lane_columns at = find_columns<ORDER>(to.column, 8 * split.lane, half_dim, to.tile + split.row * to.stride);
    const __half *from = x + 8 * split.lane;
#pragma unroll 1
    for (int first = 0; first < ROWS; first += IN_FLIGHT * split.rows) {
        uint4 low[IN_FLIGHT], high[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++) {
            const __half *row =
                from + static_cast<int64_t>(min(first + i * split.rows + split.row, n_rows - 1)) * token_stride;
            low[i] = __ldcs(reinterpret_cast<const uint4 *>(row));
            high[i] = __ldcs(reinterpret_cast<const uint4 *>(row + half_dim));
        }
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++) {
            const uint32_t a[4] = {low[i].x, low[i].y, low[i].z, low[i].w},
                           b[4] = {high[i].x, high[i].y, high[i].z, high[i].w};
            if (first + i * split.rows + split.row < ROWS)
                store_row<ORDER>(at, (first + i * split.rows) * to.stride, a, b);
        }
    }
}

/* bf16 and f32: scaled by a power of two a row; the tile of low parts takes what fp16 leaves of f32. */
template <int ORDER, int ROWS, typename T>
__device__ __forceinline__ void load_rows(const row_place &to, const T *x, int token_stride, int n_rows,
                                          const row_split &split, int head_dim)
{
    const int half_dim = head_dim / 2, c = split.lane;
    const bool is_idle = 8 * c >= half_dim;
    const lane_columns at =
        find_columns<ORDER>(to.column, is_idle ? 0 : 8 * c, half_dim, to.tile + split.row * to.stride);
    for (int first = 0; first < ROWS; first += split.rows) {
        const int row = first + split.row;
        float v[2][8] = {};
        float largest = to.least;
        if (!is_idle) {
            const T *from = x + static_cast<int64_t>(min(row, n_rows - 1)) * token_stride + 8 * c;
            load_floats(v[0], from);
            load_floats(v[1], from + half_dim);
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float magnitude = fabsf(v[i / 8][i & 7]);
            largest = magnitude <= largest ? largest : magnitude; /* a NaN stays */
        }
        for (int mask = 1; mask < split.lanes; mask *= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, largest, mask);
            largest = other <= largest ? largest : other;
        }
        const float scale = scale_of(largest);
        if (c == 0 && row < ROWS) to.inverse_scale[row] = 1.0f / scale;
        if (is_idle || row >= ROWS) continue;
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
        store_row<ORDER>(at, first * to.stride, high[0], high[1]);
        if (input_traits<T>::HAS_LOW) store_row<ORDER>(at, first * to.stride + to.low_distance, low[0], low[1]);
    }
}

#endif
