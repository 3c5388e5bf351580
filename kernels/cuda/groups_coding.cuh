/* Codes of coordinates: how they are found, without dividing by a vector's norm. */
#ifndef RB_KERNELS_CUDA_GROUPS_CODING_CUH
#define RB_KERNELS_CUDA_GROUPS_CODING_CUH

#include "kernels/cuda/groups_matrix.cuh"

/* How codes are found: few boundaries by comparing with those above 0, which are in registers; many by a table of
 * cells; where two boundaries lie too close for that, by a search. */
enum coding { BY_WIDTH_1 = 1, BY_WIDTH_2, BY_WIDTH_3, BY_CELLS, BY_SEARCH };

/* A number this large added to a small one leaves it rounded to a whole number in the low bits. */
static constexpr float ROUNDER = 12582912.0f;
/* Whole numbers below 2^23 added to this have their bits in the lowest of the sum. */
static constexpr float WHOLE = 8388608.0f;
/* What products start from instead of 0, which belongs to the lower half: far below any boundary's precision, but
 * enough to give 0 a sign. */
static constexpr float BELOW_ZERO = -1e-37f;

/* The boundaries of a group, for one row: coordinates are not divided by the row's norm, boundaries are multiplied with
 * it (times the products' scale). Compares are products with a steep slope, cut off at 0 and 1: the FMA pipe has twice
 * the rate of the one that compares. */
struct row_edges {
    float edge[3];        /* widths 2 and 3; edge[2]: how much further the last is than the first */
    float cells_per_unit; /* BY_CELLS: product to cells */
    float steep;          /* BY_CELLS, BY_SEARCH: product to coordinate times GROUPS_STEEP */
};

/* What all rows share. */
struct coder {
    const float *edges; /* of the boundaries above 0 */
    const groups_image_cell *cells;
    float rounder; /* product * cells_per_unit + rounder has the cell in its low bits */
    unsigned cell_mask;
    int width;
    float second_code, pair_bias; /* of a pair: 2^width, and what makes its sum a whole number in the low bits */
};

/* Widths up to 3: twice the code less (2^width - 1), an odd number with the product's sign. Above: the code. */
template <coding BY> __device__ __forceinline__ float code_of(float product, const row_edges &row, const coder &by)
{
    if (BY == BY_CELLS) {
        const groups_image_cell cell =
            by.cells[__float_as_uint(fmaf(product, row.cells_per_unit, by.rounder)) & by.cell_mask];
        return __saturatef(fmaf(product, row.steep, cell.edge)) + cell.code;
    }
    if (BY == BY_SEARCH) {
        const float y = product * row.steep;
        unsigned at = 0;
        for (unsigned step = 1u << (by.width - 2); step > 0; step >>= 1)
            if (fabsf(y) + by.edges[at + step - 1] > 0.0f) at += step;
        return 0.5f * (by.second_code - 1.0f) + copysignf(static_cast<float>(at) + 0.5f, y);
    }
    float odd = 1.0f;
    if (BY == BY_WIDTH_2) odd = fmaf(__saturatef(fmaf(fabsf(product), GROUPS_STEEP, row.edge[0])), 2.0f, 1.0f);
    if (BY == BY_WIDTH_3) {
        const float is_outer = __saturatef(fmaf(fabsf(product), GROUPS_STEEP, row.edge[1])),
                    edge = fmaf(is_outer, row.edge[2], row.edge[0]);
        odd = fmaf(__saturatef(fmaf(fabsf(product), GROUPS_STEEP, edge)), 2.0f, fmaf(is_outer, 4.0f, 1.0f));
    }
    return copysignf(odd, product);
}

__device__ __forceinline__ coder make_coder(coding by_what, const groups_image_group &group, int width,
                                            const float *books, const groups_image_cell *cells)
{
    coder by;
    by.width = width;
    by.edges = books + group.book;
    by.cells = cells + group.cells;
    by.rounder = ROUNDER + static_cast<float>((1 << group.log2_cells) / 2);
    by.cell_mask = (1u << group.log2_cells) - 1;
    by.second_code = static_cast<float>(1 << width);
    by.pair_bias = WHOLE + (by_what <= BY_WIDTH_3 ? static_cast<float>((1 << 2 * width) - 1) : 0.0f);
    return by;
}

/* norm: of the row's operands; root: 1 / norm; product_scale: of products over coordinates times the norm. */
template <coding BY>
__device__ __forceinline__ row_edges make_edges(const coder &by, int log2_cells, float norm, float root,
                                                float product_scale)
{
    row_edges row = {};
    const float scale = norm * product_scale;
    if (BY == BY_WIDTH_2 || BY == BY_WIDTH_3) row.edge[0] = by.edges[0] * scale;
    if (BY == BY_WIDTH_3) {
        row.edge[1] = by.edges[1] * scale;
        row.edge[2] = fmaf(by.edges[2], scale, -row.edge[0]);
    }
    if (BY == BY_CELLS)
        row.cells_per_unit =
            (static_cast<float>((1 << log2_cells) / 2) - 1.0f) * (GROUPS_CELL_RANGE / product_scale) * root;
    if (BY == BY_CELLS || BY == BY_SEARCH) row.steep = root * (GROUPS_STEEP / product_scale);
    return row;
}

#endif
