/* The nearest point of a block's codebook, as the CUDA kernels find it (kernels/cuda/block_codebook_encode.cu): one
 * code for the device and for the tests, which hold it to a search of all points.
 *
 * z / gain is taken back through the block's map, to where points have one law for all blocks, and turned so that the
 * map stretches along the axes. There both coordinates are cut into cells. Each first goes through tanh, whose slope
 * falls off like the density of the points: so cells hold about equally many points everywhere, and what lies far out
 * falls into the cells of the rim, which reach to infinity. The more the map stretches the more columns there are than
 * rows, so that cells are about square where distances are measured.
 *
 * A cell lists every point that is nearest to some place in it, in ascending order, mostly one or two. So the cost does
 * not grow with the number of points, and what is found is exact. The device's tanh is an approximation: cells are
 * listed with a margin for it (block_codebook_cells.c).
 *
 * Tests on the host do not see what is within __CUDA_ARCH__. */
#ifndef RB_KERNELS_CUDA_BLOCK_CODEBOOK_SEARCH_H
#define RB_KERNELS_CUDA_BLOCK_CODEBOOK_SEARCH_H

#include <math.h>

#include "kernels/cuda/block_codebook_image.h"

#ifdef __CUDACC__
#define RB_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RB_HOST_DEVICE inline
#endif

typedef struct block_codebook_match {
    int code;
    float distance; /* squared */
} block_codebook_match;

static RB_HOST_DEVICE float block_codebook_compand(float u)
{
#ifdef __CUDA_ARCH__
    float t;
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(u)); /* relative error 2^-11 */
    return t;
#else
    return tanhf(u);
#endif
}

/* A companded coordinate's cell, from 0 to 2 half. */
static RB_HOST_DEVICE int block_codebook_cell_index(float t, float half)
{
#ifdef __CUDA_ARCH__
    return __float2int_rn(fmaf(t, half, half));
#else
    return (int)rintf(fmaf(t, half, half));
#endif
}

static RB_HOST_DEVICE void block_codebook_try(block_codebook_match *best, block_codebook_points points, int code,
                                              float x, float y, float gain)
{
    const float dx = fmaf(-gain, points.x[code], x), dy = fmaf(-gain, points.y[code], y),
                distance = fmaf(dx, dx, dy * dy);
    best->code = distance < best->distance ? code : best->code;
    best->distance = fminf(distance, best->distance);
}

static RB_HOST_DEVICE block_codebook_match block_codebook_search_all(block_codebook_points points, int n_points,
                                                                     float x, float y, float gain)
{
    block_codebook_match best = {0, INFINITY};
    for (int code = 0; code < n_points; code++) block_codebook_try(&best, points, code, x, y, gain);
    return best;
}

/* The point nearest to (x, y), a key's block less its centre, at this gain. u, v: (x, y) through block->to_grid.
 * points, cells: the block's. */
static RB_HOST_DEVICE block_codebook_match block_codebook_search(const block_codebook_image_block *block,
                                                                 block_codebook_points points, const uint32_t *cells,
                                                                 float x, float y, float u, float v, float gain,
                                                                 float inverse_gain)
{
    const int cell =
        block_codebook_cell_index(block_codebook_compand(v * inverse_gain), block->half_rows) * block->n_columns
        + block_codebook_cell_index(block_codebook_compand(u * inverse_gain), block->half_columns);
    int list[BLOCK_CODEBOOK_CELL_CODES];
    if (block->bits > BLOCK_CODEBOOK_BYTE_BITS) {
        const uint32_t low = cells[2 * cell], high = cells[2 * cell + 1];
        list[0] = (int)(low & 0xffffu);
        list[1] = (int)(low >> 16);
        list[2] = (int)(high & 0xffffu);
        list[3] = (int)(high >> 16);
    } else {
        const uint32_t word = cells[cell];
        list[0] = (int)(word & 0xffu);
        list[1] = (int)(word >> 8 & 0xffu);
        list[2] = (int)(word >> 16 & 0xffu);
        list[3] = (int)(word >> 24);
    }
    block_codebook_match best = {0, INFINITY};
    if (list[0] > list[3]) {
        const uint16_t *longer =
            (const uint16_t *)(cells
                               + (block->bits > BLOCK_CODEBOOK_BYTE_BITS ? list[1] | list[2] << 16
                                                                         : list[1] | list[2] << 8));
        for (int i = 1; i <= longer[0]; i++) block_codebook_try(&best, points, longer[i], x, y, gain);
        return best;
    }
    if (block->bits <= BLOCK_CODEBOOK_OFFSET_BITS)
        for (int i = 0; i < BLOCK_CODEBOOK_CELL_CODES; i++) list[i] >>= 2;
    block_codebook_try(&best, points, list[0], x, y, gain);
    block_codebook_try(&best, points, list[1], x, y, gain);
    if (list[2] != list[1]) block_codebook_try(&best, points, list[2], x, y, gain);
    if (list[3] != list[2]) block_codebook_try(&best, points, list[3], x, y, gain);
    return best;
}

/* The two levels of a block at a gain, as a code: see kernels/reference/block_codebook_codec.h. Both are found by
 * halving, in edges and in book, which has the levels' values. */
static RB_HOST_DEVICE int block_codebook_nearest_level(const float *edges, int bits, float x)
{
    const float *own = edges + (1 << bits) - 2;
    int level = 0;
    for (int step = 1 << bits >> 1; step > 0; step >>= 1) level += x > own[level + step] ? step : 0;
    return level;
}

typedef struct block_codebook_levels {
    const float *edges, *values; /* [BLOCK_CODEBOOK_N_LEVELS] */
} block_codebook_levels;

static RB_HOST_DEVICE block_codebook_match block_codebook_search_levels(const block_codebook_image_block *block,
                                                                        block_codebook_levels levels, float x, float y,
                                                                        float gain)
{
    const int first_bits = block->first_bits, second_bits = block->bits - first_bits;
    const float m0 = gain * block->map[0], m1 = gain * block->map[1], m2 = gain * block->map[2];
    const int first = m0 != 0.0f ? block_codebook_nearest_level(levels.edges, first_bits, x / m0) : 0;
    const float level = levels.values[(1 << first_bits) - 2 + first], dx = fmaf(-m0, level, x),
                rest = fmaf(-m1, level, y);
    const int second = m2 != 0.0f ? block_codebook_nearest_level(levels.edges, second_bits, rest / m2) : 0;
    const float dy = fmaf(-m2, levels.values[(1 << second_bits) - 2 + second], rest);
    const block_codebook_match match = {first | second << first_bits, fmaf(dx, dx, dy * dy)};
    return match;
}

/* The level that a vector's size points to, rounded and kept within the levels: square is its sum w |z|^2. */
static RB_HOST_DEVICE int block_codebook_level(float square, float inverse_size, int gain_bits)
{
    const int largest = (1 << gain_bits) - 1, zero = gain_bits > 0 ? (1 << gain_bits) / 4 : 0;
    const float level = floorf(log2f(square * inverse_size) + (float)zero + 0.5f);
    return (int)fminf(fmaxf(level, 0.0f), (float)largest);
}

#endif
