/* What the kernels of family block-codebook share (kernels/reference/block_codebook_codec.h). */
#ifndef RB_KERNELS_CUDA_BLOCK_CODEBOOK_DEVICE_CUH
#define RB_KERNELS_CUDA_BLOCK_CODEBOOK_DEVICE_CUH

#include "kernels/cuda/codec_kernels.cuh"
#include "kernels/cuda/codec_launch.cuh"

/* Where the points of so many bits start in the universal book. */
__host__ __device__ inline int block_codebook_book_first(int bits) { return bits > 0 ? (1 << bits) - 2 : 0; }
/* And where its levels of so many bits do. */
__host__ __device__ inline int block_codebook_first_level(const block_codebook_image &own, int bits)
{
    return static_cast<int>(own.n_book) - own.n_levels + block_codebook_book_first(bits);
}

/* Words of a block's copy of the book: one more, so that blocks without bits have something to multiply by 0. */
__host__ __device__ inline int block_codebook_book_words(const block_codebook_image &own)
{
    return (static_cast<int>(own.n_book) + 1 + 3) / 4 * 4;
}

static inline size_t block_codebook_book_bytes(const block_codebook_image &own)
{
    return static_cast<size_t>(block_codebook_book_words(own)) * sizeof(uint32_t);
}

__device__ __forceinline__ void copy_book(uint32_t *to, const block_codebook_image &own)
{
    const int n = static_cast<int>(own.n_book);
    for (int i = threadIdx.x; i <= n; i += blockDim.x) to[i] = i < n ? own.book[i] : 0;
}

/* A point; of levels, x from one word and y from another. */
__device__ __forceinline__ float2 book_point(uint32_t word)
{
    __half2 point;
    memcpy(&point, &word, sizeof point);
    return __half22float2(point);
}
__device__ __forceinline__ float2 book_levels(uint32_t x, uint32_t y) { return book_point(__byte_perm(x, y, 0x7610)); }

#endif
