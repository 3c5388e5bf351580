/* The kernels of heads of family block-codebook (kernels/reference/block_codebook_codec.h), called by those of
 * codec_cuda.h; they handle no other heads. And what decode and logits share. */
#ifndef RB_KERNELS_CUDA_BLOCK_CODEBOOK_DEVICE_CUH
#define RB_KERNELS_CUDA_BLOCK_CODEBOOK_DEVICE_CUH

#include "kernels/cuda/codec_device.cuh"

rb_status block_codebook_encode(const codec_device_image *image, const codec_vectors *x, int64_t n, uint8_t *packed,
                                uint64_t *first_bad, cudaStream_t stream, rb_error *err);
rb_status block_codebook_decode(const codec_device_image *image, const uint8_t *packed, int64_t n,
                                const codec_vectors *x_hat, cudaStream_t stream, rb_error *err);
rb_status block_codebook_logits(const codec_device_image *image, const uint8_t *packed, int64_t n, const float *queries,
                                int n_queries, float *mapped, float *logits, cudaStream_t stream, rb_error *err);

/* Where the points of so many bits start in the universal book. */
__host__ __device__ inline int block_codebook_book_first(int bits) { return bits > 0 ? (1 << bits) - 2 : 0; }
__host__ __device__ inline int block_codebook_book_size(int max_bits) { return (2 << max_bits) - 2; }

static inline size_t block_codebook_book_bytes(const block_codebook_device_image &planes)
{
    return round_up((static_cast<size_t>(block_codebook_book_size(planes.max_bits)) + 1) * sizeof(uint32_t), 16);
}

/* A block's copy of the book; one word more, so that blocks without bits have something to multiply by 0. */
__device__ __forceinline__ void copy_book(uint32_t *to, const block_codebook_device_image &planes)
{
    const int n = block_codebook_book_size(planes.max_bits);
    for (int i = threadIdx.x; i <= n; i += blockDim.x) to[i] = i < n ? planes.book[i] : 0;
}

__device__ __forceinline__ float2 book_point(uint32_t word)
{
    __half2 point;
    memcpy(&point, &word, sizeof point);
    return __half22float2(point);
}

/* Vectors of a head are shared out over all warps of its blocks, to each one run of them, in units of so many: a packed
 * run starts at a multiple of 16 bytes. */
enum { RUN_UNIT = 16 };

struct vector_run {
    int64_t from, to;
};

__device__ __forceinline__ vector_run find_run(int64_t n)
{
    const int64_t n_units = (n + RUN_UNIT - 1) / RUN_UNIT,
                  n_warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32),
                  warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    return {n_units * warp / n_warps * RUN_UNIT, min(n, n_units * (warp + 1) / n_warps * RUN_UNIT)};
}

/* Launches as many blocks a head (grid's y and z say how many of those) as are resident at once, or as there are
 * vectors for. */
template <typename ARGS>
static rb_status launch_runs(void (*kernel)(ARGS), const ARGS &args, dim3 grid, int most_warps, size_t block_bytes,
                             size_t warp_bytes, const char *name, cudaStream_t stream, rb_error *err)
{
    codec_device_limits limits;
    int resident = 0, warps = 0, bytes = 0;
    rb_status st;
    RB_TRY(st, find_limits(&limits, err), done);
    warps = warps_that_fit(block_bytes, warp_bytes, limits.shared_bytes - 1024, most_warps);
    if (warps == 0)
        return rb_fail(err, RB_EUNSUPPORTED, "the %s needs %zu bytes of shared memory, the GPU has %d", name,
                       block_bytes + warp_bytes, limits.shared_bytes);
    bytes = static_cast<int>(block_bytes + warps * warp_bytes);
    RB_TRY(st,
           rb_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name, err),
           done);
    RB_TRY(
        st,
        rb_cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, warps * 32, bytes), name, err),
        done);
    {
        const int64_t needed = (args.n + warps * 32 - 1) / (warps * 32),
                      most = static_cast<int64_t>(resident) * limits.n_multiprocessors
                             / (static_cast<int64_t>(grid.y) * grid.z);
        grid.x = static_cast<unsigned>(max(min(needed, most), static_cast<int64_t>(1)));
    }
    kernel<<<grid, warps * 32, bytes, stream>>>(args);
    st = rb_cuda_launched(name, err);
done:
    return st;
}

#endif
