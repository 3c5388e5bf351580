/* Elements of ropebits_kv_vectors, whatever their type. */
#ifndef RB_CACHE_CUDA_VECTOR_NUMBERS_CUH
#define RB_CACHE_CUDA_VECTOR_NUMBERS_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "cache/library/ropebits_kv.h"

__device__ __forceinline__ float load_number(const void *data, int dtype, int64_t at)
{
    if (dtype == ROPEBITS_KV_F32) return static_cast<const float *>(data)[at];
    const uint16_t word = static_cast<const uint16_t *>(data)[at];
    return dtype == ROPEBITS_KV_BF16 ? __uint_as_float(static_cast<uint32_t>(word) << 16)
                                     : __half2float(__ushort_as_half(word));
}

__device__ __forceinline__ void store_number(void *data, int dtype, int64_t at, float x)
{
    if (dtype == ROPEBITS_KV_F32) static_cast<float *>(data)[at] = x;
    else if (dtype == ROPEBITS_KV_F16) static_cast<__half *>(data)[at] = __float2half_rn(x);
    else {
        const uint32_t bits = __float_as_uint(x);
        static_cast<uint16_t *>(data)[at] =
            static_cast<uint16_t>(x == x ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fc0u);
    }
}

#endif
