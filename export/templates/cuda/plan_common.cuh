/* What the kernels share: constants, element types, bits of a stream, and the tables on a device. See plan_kernels.cuh.
 */
#ifndef PLAN_COMMON_CUH
#define PLAN_COMMON_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "plan_tables.h"

namespace plan_kernels
{

constexpr int WARP = 32, WARPS = 4;
constexpr int Q_PER_KV = PLAN_N_Q_HEADS / PLAN_N_KV_HEADS;
constexpr int N_BLOCKS = PLAN_HEAD_DIM / 2;

static __device__ inline float to_float(float x) { return x; }
static __device__ inline float to_float(__half x) { return __half2float(x); }
static __device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
static __device__ inline void put_float(float *out, float x) { *out = x; }
static __device__ inline void put_float(__half *out, float x) { *out = __float2half_rn(x); }
static __device__ inline void put_float(__nv_bfloat16 *out, float x) { *out = __float2bfloat16_rn(x); }

static __device__ inline float half_of(const uint8_t *bytes)
{
    return __half2float(__ushort_as_half((unsigned short)(bytes[0] | bytes[1] << 8)));
}

/* n <= 16 bits of a stream from bit `at` on. */
static __device__ inline int bits_of(const uint8_t *stream, int at, int n)
{
    unsigned value = 0;
    for (int byte = at / 8, shift = 0; byte * 8 < at + n; byte++, shift += 8) value |= (unsigned)stream[byte] << shift;
    return (int)(value >> at % 8 & ((1u << n) - 1u));
}

static __device__ inline float warp_sum(float x)
{
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* The two dims of a block: those that RoPE turns together. */
static __device__ inline void block_dims(int block, int *first, int *second)
{
    const bool is_split = !PLAN_INTERLEAVED && block < PLAN_ROTARY_DIM / 2;
    *first = is_split ? block : 2 * block;
    *second = is_split ? block + PLAN_ROTARY_DIM / 2 : 2 * block + 1;
}

static __device__ inline const plan_head &head_of(const plan_tables &t, int layer, bool is_value, int kv_head)
{
    return t.heads[(2 * layer + (is_value ? 1 : 0)) * PLAN_N_KV_HEADS + kv_head];
}

static __device__ inline float center_of(const plan_tables &t, const plan_head &head, int dim)
{
    return head.center_at == PLAN_NONE ? 0.0f : t.floats[head.center_at + dim];
}

static __device__ inline float gain_at(const plan_head &head, int level)
{
    return (float)exp2(0.5 * (level - head.gain_zero));
}

static __device__ inline float gain_of(const plan_head &head, const uint8_t *stream)
{
    return gain_at(head, bits_of(stream, head.gain_start, head.gain_bits));
}

/* ---- on the host ----------------------------------------------------------------------------- */

template <typename T> static inline cudaError_t copy_table(const T **table, size_t n)
{
    void *copy = nullptr;
    cudaError_t status = cudaMalloc(&copy, n * sizeof(T));
    if (status == cudaSuccess) status = cudaMemcpy(copy, *table, n * sizeof(T), cudaMemcpyHostToDevice);
    *table = static_cast<const T *>(copy);
    return status;
}

/* Lets a kernel take so much dynamic shared memory. */
template <typename kernel_type> static inline cudaError_t allow_shared(kernel_type kernel, size_t bytes)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)bytes);
}

} /* namespace plan_kernels */

#endif
