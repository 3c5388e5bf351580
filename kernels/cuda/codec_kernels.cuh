/* The kernels of every codec family: what codec_dispatch.cu calls. A family FAMILY has its functions in
 * kernels/cuda/FAMILY_*.cu. They get what codec_cuda_api's functions get, checked: n and n_queries are at least 1. */
#ifndef RB_KERNELS_CUDA_CODEC_KERNELS_CUH
#define RB_KERNELS_CUDA_CODEC_KERNELS_CUH

#include "core/cuda_check.cuh"
#include "kernels/cuda/codec_cuda.h"

/* Vectors to codes. image: its arrays are on the device. */
struct codec_encode_call {
    const codec_image &image;
    const codec_vectors &x; /* [n_heads][n][head_dim] f16, bf16 or f32, strided */
    int64_t n;
    uint8_t *packed;     /* [n_heads] streams of [n][packed_bytes] u8 */
    uint8_t *norms;      /* [n_heads] streams of [n][n_norms] fp16 or u8 */
    uint64_t *first_bad; /* [1] u64 */
    cudaStream_t stream;
};

/* Codes to vectors. */
struct codec_decode_call {
    const codec_image &image;
    const uint8_t *packed; /* as encode wrote them */
    const uint8_t *norms;
    int64_t n;
    const codec_vectors &x_hat; /* [n_heads][n][head_dim] f16, bf16 or f32, strided */
    cudaStream_t stream;
};

/* q . k^ of packed keys. */
struct codec_logits_call {
    const codec_image &image;
    const uint8_t *packed; /* as encode wrote them */
    const uint8_t *norms;
    int64_t n;
    const float *queries; /* [n_heads][n_queries][head_dim] f32 */
    int n_queries;
    float *rotated; /* [n_heads][n_queries up to a multiple of 8][head_dim] f32, scratch */
    float *logits;  /* [n_heads][n_queries][n] f32 */
    cudaStream_t stream;
};

#define RB_FAMILY_KERNELS(NAME, prefix, name)                                \
    rb_status prefix##_encode(const codec_encode_call &call, rb_error *err); \
    rb_status prefix##_decode(const codec_decode_call &call, rb_error *err); \
    rb_status prefix##_logits(const codec_logits_call &call, rb_error *err);
RB_CODEC_FAMILIES(RB_FAMILY_KERNELS)
#undef RB_FAMILY_KERNELS

#endif
