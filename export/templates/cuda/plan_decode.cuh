/* Decoding: one warp restores one vector. See plan_kernels.cuh. */
#ifndef PLAN_DECODE_CUH
#define PLAN_DECODE_CUH

#include "plan_common.cuh"

namespace plan_kernels
{

/* x [head.dims] and scratch [head.dims] are the warp's own, in shared memory. */

#if PLAN_HAS_GROUPS
static __device__ inline float norm_of(const plan_head &head, const plan_group &group, const uint8_t *norm)
{
    if (head.norm_bytes == 2) return half_of(norm);
    return norm[0] == 0 ? 0.0f : (float)exp2(group.norm_exponent - (255 - norm[0]) / 16.0);
}

/* The centroids of the codes, at the length of the stored norm, rotated back. */
static __device__ inline void restore_group(const plan_tables &t, const plan_head &head, const plan_group &group,
                                            const uint8_t *stream, const uint8_t *norm, float *x, float *scratch,
                                            int lane)
{
    const float *rotation = t.floats + group.rotation_at;
    float square = 0.0f;
    for (int j = lane; j < group.n_dims; j += WARP) {
        scratch[j] = t.floats[group.centroids_at + bits_of(stream, group.first_bit + j * group.width, group.width)];
        square += scratch[j] * scratch[j];
    }
    square = warp_sum(square);
    __syncwarp();
    const float size = norm_of(head, group, norm) / sqrtf(square);
    for (int i = lane; i < group.n_dims; i += WARP) {
        const int dim = t.shorts[group.dims_at + i];
        const float scale = head.scales_at == PLAN_NONE ? 1.0f : t.floats[head.scales_at + dim];
        float sum = 0.0f;
        for (int j = 0; j < group.n_dims; j++) sum += rotation[j * group.n_dims + i] * scratch[j];
        x[dim] += size * sum / scale;
    }
    __syncwarp();
}

static __device__ inline void restore_groups(const plan_tables &t, const plan_head &head, const uint8_t *record,
                                             float *x, float *scratch, int lane)
{
    for (int i = lane; i < head.dims; i += WARP) x[i] = center_of(t, head, i);
    __syncwarp();
    for (int g = 0; g < head.n_groups; g++)
        restore_group(t, head, t.groups[head.first_group + g], record + head.codes_at,
                      record + head.norms_at + g * head.norm_bytes, x, scratch, lane);
}
#endif

#if PLAN_HAS_BLOCK_CODEBOOK
/* The point of a code, before the block's map. */
template <typename number>
static __device__ inline void point_of(const plan_tables &t, const plan_head &head, int block, int code, number *x,
                                       number *y)
{
    const int bits = t.bytes[head.bits_at + block], first = t.bytes[head.first_bits_at + block];
    if (bits <= PLAN_MAX_POINT_BITS) {
        const float *points = t.floats + t.points_at[bits];
        *x = points[code];
        *y = points[(1 << bits) + code];
    } else {
        *x = t.floats[t.levels_at[first] + (code & ((1 << first) - 1))];
        *y = t.floats[t.levels_at[bits - first] + (code >> first)];
    }
}

static __device__ inline void restore_block_codebook(const plan_tables &t, const plan_head &head, const uint8_t *record,
                                                     float *x, int lane)
{
    const uint8_t *stream = record + head.codes_at;
    const float gain = gain_of(head, stream);
    for (int block = lane; block < N_BLOCKS; block += WARP) {
        const float *map = t.floats + head.maps_at + 3 * block;
        const int bits = t.bytes[head.bits_at + block];
        float a = 0.0f, b = 0.0f;
        int first, second;
        block_dims(block, &first, &second);
        if (bits > 0) point_of(t, head, block, bits_of(stream, t.shorts[head.starts_at + block], bits), &a, &b);
        x[first] = center_of(t, head, first) + gain * (map[0] * a);
        x[second] = center_of(t, head, second) + gain * (map[1] * a + map[2] * b);
    }
}
#endif

#if PLAN_HAS_TRELLIS
static __device__ inline void restore_trellis(const plan_tables &t, const plan_head &head, const uint8_t *record,
                                              float *x, float *scratch, int lane)
{
    const uint8_t *stream = record + head.codes_at;
    const float gain = gain_of(head, stream);
    for (int i = lane; i < head.n_coded; i += WARP) {
        const int width = t.bytes[head.bits_at + i], end = t.shorts[head.starts_at + i] + width;
        scratch[i] = t.floats[t.trellis_at[width] + bits_of(stream, end - PLAN_STATE_BITS, PLAN_STATE_BITS)];
    }
    __syncwarp();
    for (int j = lane; j < head.dims; j += WARP) {
        float sum = 0.0f;
        for (int i = 0; i < head.n_coded; i++)
            sum += scratch[i] * __half2float(__ushort_as_half(t.halves[head.basis_at + i * head.dims + j]));
        x[j] = center_of(t, head, j) + gain * sum;
    }
}
#endif

static __device__ inline void restore(const plan_tables &t, const plan_head &head, const uint8_t *record, float *x,
                                      float *scratch, int lane)
{
    (void)scratch; /* block-codebook needs none */
    switch (head.family) {
#if PLAN_HAS_GROUPS
    case PLAN_GROUPS: restore_groups(t, head, record, x, scratch, lane); break;
#endif
#if PLAN_HAS_BLOCK_CODEBOOK
    case PLAN_BLOCK_CODEBOOK: restore_block_codebook(t, head, record, x, lane); break;
#endif
#if PLAN_HAS_TRELLIS
    case PLAN_TRELLIS: restore_trellis(t, head, record, x, scratch, lane); break;
#endif
    default:
        for (int i = lane; i < head.dims; i += WARP) x[i] = half_of(record + head.codes_at + 2 * i);
    }
    __syncwarp();
}

/* Warp w of the grid takes vector w: token w / heads of that token. */
template <typename T>
static __global__ void decode_kernel(plan_tables t, int layer, bool is_value,
                                     const uint8_t *__restrict__ cache, // [n][record_bytes]
                                     int64_t n,
                                     T *__restrict__ out) // [n][PLAN_N_KV_HEADS][dims]
{
    __shared__ float vectors[WARPS][PLAN_MAX_DIMS], scratch[WARPS][PLAN_MAX_DIMS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int64_t v = (int64_t)blockIdx.x * WARPS + warp, token = v / PLAN_N_KV_HEADS;
    if (token >= n) return; /* whole warps leave together */
    const plan_head &head = head_of(t, layer, is_value, (int)(v % PLAN_N_KV_HEADS));
    restore(t, head, cache + token * t.layers[layer].record_bytes, vectors[warp], scratch[warp], lane);
    for (int i = lane; i < head.dims; i += WARP) put_float(out + v * head.dims + i, vectors[warp][i]);
}

template <typename T>
static inline cudaError_t decode_one(const plan_tables &t, int layer, bool is_value, const uint8_t *cache, int64_t n,
                                     T *out, cudaStream_t stream)
{
    const unsigned n_blocks = (unsigned)((n * PLAN_N_KV_HEADS + WARPS - 1) / WARPS);
    decode_kernel<T><<<n_blocks, WARP * WARPS, 0, stream>>>(t, layer, is_value, cache, n, out);
    return cudaGetLastError();
}

} /* namespace plan_kernels */

#endif
