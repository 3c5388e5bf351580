/* What the encoders of few vectors share. A decode step has one token or a few, and waits for its codes: so each vector
 * of a head has a thread block of its own, all in one launch, and nothing is brought to shared memory that is read only
 * once. From FEW_VECTORS on the encoders that are made for throughput are better. */
#ifndef RB_KERNELS_CUDA_CODEC_FEW_CUH
#define RB_KERNELS_CUDA_CODEC_FEW_CUH

#include "kernels/cuda/codec_device.cuh"
#include "kernels/cuda/codec_kernels.cuh"

enum {
    FEW_VECTORS = 16, /* of a head, at most: with 8 heads about a block for each multiprocessor */
    FEW_WARPS = 32,
    FEW_THREADS = 32 * FEW_WARPS,
    FEW_WORDS = CODEC_IMAGE_MAX_DIMS * 8 / 32 + 1 /* of a packed vector; the last for a code that ends a word */
};

/* Encode of up to FEW_VECTORS vectors a head: FAMILY_encode_few.cu. */
rb_status block_codebook_encode_few(const codec_encode_call &call, rb_error *err);
rb_status groups_encode_few(const codec_encode_call &call, rb_error *err); /* where no encoder searches */

struct few_args {
    codec_image image; /* on the device */
    const void *x;     /* [n_heads][n][head_dim] of the kernel's T; elements from head to head, vector to vector: */
    int64_t head_stride, n, token_stride;
    uint8_t *packed;               /* [n_heads] streams of [n][packed_bytes] u8 */
    uint8_t *norms;                /* [n_heads] streams of [n][n_norms] fp16 or u8 */
    unsigned long long *first_bad; /* [1] u64 */
};

/* Block (t, head): a vector. */
template <typename T> __device__ __forceinline__ const T *own_vector(const few_args &args)
{
    return static_cast<const T *>(args.x) + static_cast<int64_t>(blockIdx.y) * args.head_stride
           + static_cast<int64_t>(blockIdx.x) * args.token_stride;
}

__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(float x) { return x; }

/* Tells that the block's vector cannot be stored. By one thread or several. */
__device__ __forceinline__ void refuse_vector(const few_args &args)
{
    atomicMin(args.first_bad, static_cast<unsigned long long>(static_cast<uint64_t>(blockIdx.y) * args.n + blockIdx.x));
}

/* ---- a warp's values ------------------------------------------------------------------------- */

__device__ __forceinline__ uint32_t warp_least(uint32_t value)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_min_sync(0xffffffffu, value);
#else
    for (int mask = 16; mask > 0; mask /= 2) value = min(value, __shfl_xor_sync(0xffffffffu, value, mask));
    return value;
#endif
}

__device__ __forceinline__ uint32_t warp_largest(uint32_t value) { return ~warp_least(~value); }

__device__ __forceinline__ float warp_sum(float value)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(0xffffffffu, value, mask);
    return value;
}

/* ---- packed bits in shared memory ------------------------------------------------------------ */

/* By the whole block. */
__device__ __forceinline__ void clear_words(uint32_t (&words)[FEW_WORDS])
{
    for (int i = threadIdx.x; i < FEW_WORDS; i += blockDim.x) words[i] = 0;
}

/* n_bits <= 16 of them, from bit `at` on, where 0 was. */
__device__ __forceinline__ void put_bits(uint32_t (&words)[FEW_WORDS], int at, uint32_t value, int n_bits)
{
    const int shift = at % 32;
    atomicOr(&words[at / 32], value << shift);
    if (shift + n_bits > 32) atomicOr(&words[at / 32 + 1], value >> (32 - shift));
}

/* The block's vector to its place in the head's stream. By the whole block. */
__device__ __forceinline__ void send_words(const few_args &args, const head_streams &streams,
                                           const uint32_t (&words)[FEW_WORDS])
{
    const int n_bytes = args.image.heads[blockIdx.y].packed_bytes;
    uint8_t *to = args.packed + streams.packed + static_cast<int64_t>(blockIdx.x) * n_bytes;
    for (int i = threadIdx.x; i < n_bytes; i += blockDim.x) to[i] = static_cast<uint8_t>(words[i / 4] >> 8 * (i % 4));
}

/* ---- the launch ------------------------------------------------------------------------------ */

static inline rb_status launch_few(void (*kernel)(few_args), const codec_encode_call &call, const char *name,
                                   rb_error *err)
{
    const few_args args = {
        call.image,          call.x.data, call.x.head_stride, call.n,
        call.x.token_stride, call.packed, call.norms,         reinterpret_cast<unsigned long long *>(call.first_bad)};
    kernel<<<dim3(static_cast<unsigned>(call.n), static_cast<unsigned>(call.image.n_heads)), FEW_THREADS, 0,
             call.stream>>>(args);
    return rb_cuda_launched(name, err);
}

#endif
