/* Matrix products of a warp on the tensor cores, and the shared memory that their operands are in. */
#ifndef RB_KERNELS_CUDA_GROUPS_MATRIX_CUH
#define RB_KERNELS_CUDA_GROUPS_MATRIX_CUH

#include "kernels/cuda/codec_device.cuh"
#include "kernels/cuda/tensor_cores.cuh"

/* ---- shared memory --------------------------------------------------------------------------- */

/* Halves from row to row of a tile: 8 times an odd number, so that ldmatrix and 16-byte accesses of 8 rows meet all
 * banks, with at least 8 columns to spare for the half step that is read and left out. */
__host__ __device__ inline int tile_stride(int n_columns) { return n_columns + 8 + (n_columns / 8 % 2 ? 8 : 0); }

/* 16 bytes at once: left to itself the compiler takes some of these apart. */
__device__ __forceinline__ void store_shared(void *to, const uint32_t (&words)[4])
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
                 "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
}
__device__ __forceinline__ uint4 load_shared(const void *from)
{
    uint4 words;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from)))
                 : "memory");
    return words;
}

/* ---- products -------------------------------------------------------------------------------- */

/* Four 8 x 8 matrices; `row` is where this lane's row of 8 lies: rows 0 to 7 of the first matrix are lanes 0 to 7, and
 * so on. */
__device__ __forceinline__ void load_matrices(uint32_t (&a)[4], const __half *row)
{
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(address)
                 : "memory");
}

/* c = start + a b. */
__device__ __forceinline__ void multiply_from(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                              float start)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, "
        "%10, %10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(start));
#else
    for (int i = 0; i < 4; i++) c[i] = start;
    multiply(c, a, b0, b1);
#endif
}

/* 1 / sqrt(x) of a number that is not tiny. */
__device__ __forceinline__ float fast_rsqrt(float x)
{
    float root;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
}

/* c += a b of one half of a step, 16 x 8 x 8. */
__device__ __forceinline__ void multiply_half(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
}

#endif
