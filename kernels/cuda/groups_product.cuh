/* What encode and decode do alike with a group: its numbers, where a lane finds operands and leaves results, operands
 * to registers with their sums of squares. */
#ifndef RB_KERNELS_CUDA_GROUPS_PRODUCT_CUH
#define RB_KERNELS_CUDA_GROUPS_PRODUCT_CUH

#include "kernels/cuda/groups_matrix.cuh"

/* ---- shape ----------------------------------------------------------------------------------- */

/* The numbers of a group that steer all lanes alike, in one word: a warp asks for them once. */
struct group_shape {
    int width, dims, column, n_tiles, n_steps;
    bool is_transform, is_searched;
};

/* width: 4 bits, n_steps: 5, n_tiles: 6, dims / 2: 8, column / 8: 7, is_transform: 1, is_searched: 1. */
__device__ __forceinline__ uint32_t pack_shape(const groups_image_group &group)
{
    const uint32_t is_searched = group.width >= GROUPS_CELL_WIDTH && group.log2_cells == 0;
    return static_cast<uint32_t>(group.width) | static_cast<uint32_t>(group.n_steps) << 4
           | static_cast<uint32_t>(group.n_tiles) << 9 | static_cast<uint32_t>(group.dims / 2) << 15
           | static_cast<uint32_t>(group.column / 8) << 23 | static_cast<uint32_t>(group.is_transform) << 30
           | is_searched << 31;
}

/* The shape of group g; `mine` is what pack_shape gave for the lane's group. */
__device__ __forceinline__ group_shape read_shape(uint32_t mine, int g)
{
    const uint32_t all = broadcast(mine, g);
    return {static_cast<int>(all & 15u),
            static_cast<int>(all >> 15 & 0xffu) * 2,
            static_cast<int>(all >> 23 & 0x7fu) * 8,
            static_cast<int>(all >> 9 & 63u),
            static_cast<int>(all >> 4 & 31u),
            (all & 0x40000000u) != 0,
            (all & 0x80000000u) != 0};
}

/* ---- places ---------------------------------------------------------------------------------- */

/* Where a lane finds operands and leaves results: places in its warp's tile, in the first column. */
template <int BLOCKS> struct lane_place {
    const __half *operand[BLOCKS]; /* of each row block: what ldmatrix asks of the lane */
    int row[2 * BLOCKS];           /* rows lane / 4 + 8 i, those of its results: from the tile's start, in elements */
    uint16_t *norms;               /* fp16, of row[0]; the others are 8 rows further each */
    int low;                       /* from the tile to the one of the low parts */
};

template <int BLOCKS>
__device__ __forceinline__ lane_place<BLOCKS> find_place(const __half *tile, uint8_t *norms, int low_distance,
                                                         int stride, int n_groups)
{
    const int lane = threadIdx.x & 31;
    lane_place<BLOCKS> place;
#pragma unroll
    for (int m = 0; m < BLOCKS; m++) place.operand[m] = tile + (m * 16 + (lane & 15)) * stride + (lane >> 4) * 8;
#pragma unroll
    for (int i = 0; i < 2 * BLOCKS; i++) place.row[i] = (i * 8 + (lane >> 2)) * stride;
    place.norms = reinterpret_cast<uint16_t *>(norms) + (lane >> 2) * n_groups;
    place.low = low_distance;
    return place;
}

/* The row block's part of a larger one. */
template <int BLOCKS>
__device__ __forceinline__ lane_place<1> place_of_block(const lane_place<BLOCKS> &place, int m, int n_groups)
{
    enum { LAST = BLOCKS - 1 };
    const bool is_last = m == LAST; /* of at most two */
    return {{is_last ? place.operand[LAST] : place.operand[0]},
            {is_last ? place.row[2 * LAST] : place.row[0], is_last ? place.row[2 * LAST + 1] : place.row[1]},
            place.norms + 16 * m * n_groups,
            place.low};
}

/* One group. MEMORY: what the warp has in shared memory. */
template <int BLOCKS, typename MEMORY> struct group_call {
    const groups_image_group &group;
    const group_shape &shape;
    int g, n_groups;
    const lane_place<BLOCKS> &place;
    const MEMORY &memory;
    const uint4 *fragments; /* of the head and direction */
};

/* ---- operands -------------------------------------------------------------------------------- */

/* Step s of a group with n_tiles 8-column parts: what belongs to others becomes 0. Needed where a step may lie wholly
 * after the group, for that may be after the rows, where nothing says that bits are numbers. */
__device__ __forceinline__ void keep_own(uint32_t (&a)[4], int s, int n_tiles)
{
    const uint32_t left = 2 * s < n_tiles ? ~0u : 0, right = 2 * s + 1 < n_tiles ? ~0u : 0;
    a[0] &= left, a[1] &= left, a[2] &= right, a[3] &= right;
}

/* Sums of squares of the 16 rows of A, by products with its own transpose (of which the diagonal is kept): squares[0]
 * of row lane / 4, squares[1] of the row 8 below, the same in all four lanes that share a row. `b`: A again, or what is
 * multiplied with it instead. Only the group's n_tiles halves of steps count; N_STEPS: of the group, or 0: at most
 * STEPS. */
template <int N_STEPS, int STEPS>
__device__ __forceinline__ void add_row_products(float (&squares)[2], const uint32_t (&a)[STEPS][4],
                                                 const uint32_t (&b)[STEPS][4], int n_tiles)
{
    enum {
        SURE = N_STEPS == 0   ? 0
               : N_STEPS <= 4 ? 2 * N_STEPS - 1
               : N_STEPS <= 8 ? 2 * N_STEPS - 3
                              : 2 * N_STEPS - 7
    }; /* groups_image_steps */
    float upper[4] = {}, lower[4] = {};
#pragma unroll
    for (int h = 0; h < 2 * STEPS; h++)
        if (h < SURE || h < n_tiles) {
            const int s = h / 2, r = h % 2 * 2;
            multiply_half(upper, a[s][r], a[s][r + 1], b[s][r]);
            multiply_half(lower, a[s][r], a[s][r + 1], b[s][r + 1]);
        }
    const int lane = threadIdx.x & 31, row = lane >> 2, from = (lane & ~3) | row >> 1;
    squares[0] += __shfl_sync(0xffffffffu, row & 1 ? upper[1] : upper[0], from);
    squares[1] += __shfl_sync(0xffffffffu, row & 1 ? lower[3] : lower[2], from);
}

/* What sums of squares start from: nothing beside any number that fp16 has, and its root can be divided by. */
static constexpr float NO_SQUARES = 1e-36f;

/* Operands of one row block. HAS_LOW: they have low parts too. */
template <int STEPS, bool HAS_LOW> struct row_operands {
    uint32_t a[STEPS][4], a_low[HAS_LOW ? STEPS : 1][4];
};

/* squares: as add_row_products has them. N_STEPS: of the group, or 0: at most STEPS. */
template <int N_STEPS, int STEPS, bool HAS_LOW>
__device__ __forceinline__ void load_operands(row_operands<STEPS, HAS_LOW> &operands, float (&squares)[2],
                                              const __half *from, int low, const group_shape &shape)
{
    const int n_steps = N_STEPS ? N_STEPS : shape.n_steps;
    squares[0] = squares[1] = NO_SQUARES;
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        if (N_STEPS || s < n_steps) {
            load_matrices(operands.a[s], from + 16 * s);
            if (HAS_LOW) load_matrices(operands.a_low[HAS_LOW ? s : 0], from + low + 16 * s);
            if (!N_STEPS || (N_STEPS > 4 && s >= N_STEPS - 4)) {
                keep_own(operands.a[s], s, shape.n_tiles);
                if (HAS_LOW) keep_own(operands.a_low[HAS_LOW ? s : 0], s, shape.n_tiles);
            }
        }
    add_row_products<N_STEPS>(squares, operands.a, operands.a, shape.n_tiles);
    if constexpr (HAS_LOW) { /* (high + low)^2 but for low^2 */
        float mixed[2] = {0.0f, 0.0f};
        add_row_products<N_STEPS>(mixed, operands.a, operands.a_low, shape.n_tiles);
        squares[0] += 2.0f * mixed[0];
        squares[1] += 2.0f * mixed[1];
    }
}

#endif
