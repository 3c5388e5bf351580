/* The fast Hadamard transform of a group of 64, 128 or 256 dims: H_p = H_(p / 16) x H_16.
 *
 * H_16 within each step of 16 columns is one product on the tensor cores, whose operand B is +-1: exact, so it needs no
 * low part, and the signs of the dims that go in are in it too. H_(p / 16) across the steps is butterflies in f32
 * between accumulators of the same lane: no shuffles. Coordinates come out where a product with the whole matrix would
 * have them, times sqrt(p). */
#ifndef RB_KERNELS_CUDA_GROUPS_TRANSFORM_CUH
#define RB_KERNELS_CUDA_GROUPS_TRANSFORM_CUH

#include "kernels/cuda/groups_product.cuh"

/* How a group of N_STEPS steps is transformed, in a kernel for up to MOST. A lane has registers for the accumulators of
 * 8 steps, but of 4 where it may also hold the operands of 16: then coordinates are made in parts, and the last
 * butterflies are in the products. */
template <int N_STEPS, int MOST> struct transform_plan {
    enum { STEPS = MOST > 8 ? 4 : N_STEPS, TILES = 2 * STEPS, PARTS = N_STEPS / STEPS };
};

/* What coordinates come out times as large: sqrt(16 n_steps). */
__device__ __forceinline__ constexpr float transform_scale(int n_steps)
{
    return n_steps == 4 ? 8.0f : n_steps == 8 ? 11.313708498984761f : 16.0f;
}

/* Both tiles of a step; flip: signs to turn. */
__device__ __forceinline__ void multiply_both(float (&first)[4], float (&second)[4], const uint32_t (&a)[4],
                                              const uint4 &b, uint32_t flip)
{
    multiply(first, a, b.x ^ flip, b.y ^ flip);
    multiply(second, a, b.z ^ flip, b.w ^ flip);
}

/* c: 8 columns a tile of the transformed rows, those of part `part`. step_fragments: from one step's fragment to the
 * next's, in fragments. start: what every coordinate has on top. */
template <typename PLAN, int N_STEPS, bool HAS_LOW>
__device__ __forceinline__ void transform_rows(float (&c)[PLAN::TILES][4],
                                               const row_operands<N_STEPS, HAS_LOW> &operands, const uint4 *fragment,
                                               int step_fragments, int part, float start)
{
    enum { STEPS = PLAN::STEPS };
    int first = 0;
    if (PLAN::PARTS > 1)
        asm volatile("" : "+r"(first)); /* or the compiler keeps all fragments in registers from part to part */
#pragma unroll
    for (int s = 0; s < N_STEPS; s++) {
        const uint4 b = fragment[first + s * step_fragments * GROUPS_LANES];
        const int at = s % STEPS;
        const uint32_t flip = __popc(s / STEPS & part) & 1 ? 0x80008000u : 0;
        if (s < STEPS) { /* step 0 is in every sum, and with the same sign */
            multiply_from(c[2 * at], operands.a[s], b.x, b.y, s == 0 ? start : 0.0f);
            multiply_from(c[2 * at + 1], operands.a[s], b.z, b.w, s == 0 ? start : 0.0f);
        } else {
            multiply_both(c[2 * at], c[2 * at + 1], operands.a[s], b, flip);
        }
        if constexpr (HAS_LOW) multiply_both(c[2 * at], c[2 * at + 1], operands.a_low[s], b, flip);
    }
#pragma unroll
    for (int distance = 2; distance < 2 * STEPS; distance *= 2)
#pragma unroll
        for (int t = 0; t < 2 * STEPS; t++)
            if ((t & distance) == 0)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float a = c[t][i], b = c[t + distance][i];
                    c[t][i] = a + b;
                    c[t + distance][i] = a - b;
                }
}

#endif
