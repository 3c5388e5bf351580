/* The heads of family groups of a layer as the CUDA kernels read them: a part of kernels/cuda/codec_image.h's image.
 *
 * A rotation becomes operand B of mma.sync.m16n8k16, in the order in which the 32 lanes of a warp hold it, so that one
 * 16-byte load a lane brings a whole fragment. A is 16 vectors with their dims in coding order, in columns: each group
 * starts at a multiple of 8 columns, and the columns between two groups are 0. A group takes n_steps steps of 16
 * columns; what of the last two of them lies after the group's own columns is left out.
 *
 * Rotations are split into two fp16 values, R * GROUPS_FRAGMENT_SCALE = high + low, which together hold 22 bits: with
 * fp16 input the products are exact and codes are those of f32 arithmetic.
 *
 * A Hadamard rotation of p dims, a power of two from GROUPS_TRANSFORM_DIMS on, is computed instead of multiplied:
 * H_p = H_(p / 16) x H_16. H_16 is an operand B of 16 columns, +-1, exact: registers 0 and 1 of a lane are B for the
 * first 8 columns, 2 and 3 for the last 8. Encode has one fragment a step, with the signs of its 16 dims. Decode has
 * H_16 and a fragment of signs, whose words 0 and 1 are for columns 0 to 127 and 128 to 255: bit t + 16 i of a lane is
 * 1 where the dim in column 8 t + 2 (lane % 4) + i of those is negative. Coordinates come out sqrt(p) times as large.
 *
 * The general form is everything that is not the published form: 8-bit norms, search, scales, centres, dims of no
 * group. There everything is by matrix. y = R S (x - c) = R S x - R S c: encode's fragments hold R S and its
 * coordinates start from -R S c (`shifts`), so x stays the exact operand that it is. Decode's fragments hold S^-1 R^T,
 * and c (`centers`) is added to what comes out. A group's scales are brought to at most 1 by powers of two. Dims of no
 * group have columns after those of the groups, 8 columns apart, and coding positions after theirs. */
#ifndef RB_KERNELS_CUDA_GROUPS_IMAGE_H
#define RB_KERNELS_CUDA_GROUPS_IMAGE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

enum {
    GROUPS_MAX_GROUPS = 32, /* of a head */
    GROUPS_MAX_STEPS = 16,  /* of a group: those of 256 dims */
    GROUPS_LANES = 32,
    GROUPS_PAIR_WIDTH = 4, /* up to this width two codes are looked up at once */
    GROUPS_CELL_WIDTH = 4, /* from this width on codes are found by cells */
    GROUPS_MAX_LOG2_CELLS = 10,
    GROUPS_TRANSFORM_DIMS = 64, /* from here on a transform is faster than the matrix */
    GROUPS_CENTROID_SCALE = 64  /* centroids are at most 1 and can be small: scaled so that fp16 keeps their bits */
};

/* Small numbers keep their bits in fp16 when they are multiplied by this first: low parts stay above its subnormals. */
#define GROUPS_FRAGMENT_SCALE 256.0f

/* Steps of a group of n_tiles 8-column parts: few different numbers, since the kernels have code for each. */
#ifdef __CUDACC__
__host__ __device__
#endif
    static inline int
    groups_image_steps(int n_tiles)
{
    const int n = (n_tiles + 1) / 2;
    return n <= 4 ? n : n <= 8 ? (n + 1) / 2 * 2 : (n + 3) / 4 * 4;
}

/* How dims go to coding positions: what the kernels can exploit. */
typedef enum groups_image_order {
    GROUPS_ORDER_ANY,
    GROUPS_ORDER_SPLIT_PAIRS, /* dims i and i + head_dim/2 lie side by side, at an even position */
    GROUPS_ORDER_NATURAL      /* position = dim */
} groups_image_order;

/* Places in tables count from the head's first. A group's tables in `books` are: from `book` on 2^width / 2 edges of
 * the boundaries above 0 (the last is -inf: there is none) and 2^width centroids; from `walk` on 2^width / 2 levels of
 * coordinates above 0, each a pair (boundary above, centroid), whose last boundary is infinite. In `halves` it has its
 * centroids in fp16, times GROUPS_CENTROID_SCALE: up to GROUPS_PAIR_WIDTH a table of pairs, 2^(2 width) words; above,
 * 2^width words. */
typedef struct groups_image_group {
    int32_t first, dims, width; /* coding positions; bits a code */
    int32_t column;             /* of its first dim */
    int32_t n_tiles, n_steps;   /* 8-column parts, and 16-column steps: groups_image_steps(n_tiles) */
    int32_t bit_first;          /* of the group in the vector's packed bits */
    int32_t cells, log2_cells;  /* first cell; log2_cells 0: it has none, search the boundaries */
    int32_t encode, decode;     /* first fragment of all: of y = R x (tile after tile, step after step), of x = R^T y */
    int32_t book, halves;       /* first float, first word */
    int32_t rotation;           /* first float of R in the image's rotations, [dims][dims] */
    int32_t is_transform;       /* 1: its fragments are a transform's */
    int32_t walk;               /* first float */
    int32_t n_crossed;       /* most boundaries between a coordinate at one of the encoder's stretches and the next */
    int32_t norm_exponent;   /* of 8-bit norms */
    float coherence;         /* of the search encoder; else 1 */
    int32_t encode_exponent; /* coordinates come out 2^-encode_exponent times as large */
    float decode_scale;      /* restored dims are multiplied by it too; a power of two */
} groups_image_group;
static_assert(sizeof(groups_image_group) == 84, "groups_image_group is read by the device");

typedef struct groups_image_head {
    int32_t n_groups, first_group;
    int32_t order;                                                  /* groups_image_order */
    int32_t n_columns;                                              /* a multiple of 8 */
    int32_t n_coded, first_uncoded;                                 /* dims in groups; the first column of the others */
    int32_t is_searched, has_center;                                /* 0 or 1 */
    float largest_center;                                           /* largest |c| of a dim in a group */
    int32_t first_fragment, n_fragments_encode, n_fragments_decode; /* encode fragments, then decode fragments */
    int32_t first_book, n_books, first_halves, n_halves, first_cell, n_cells; /* its part of the tables */
} groups_image_head;
static_assert(sizeof(groups_image_head) == 72, "groups_image_head is read by the device");

/* [-1, 1] cut into cells so small that none holds two boundaries. y is in the cell
 * 2^(n-1) + round(y * GROUPS_CELL_RANGE * (2^(n-1) - 1)), n = log2_cells. Its code is `code`, and one more if
 * y > boundary, that is if y * GROUPS_STEEP + edge > 0. */
typedef struct groups_image_cell {
    float edge, code;
} groups_image_cell;
static_assert(sizeof(groups_image_cell) == 8, "groups_image_cell is read by the device");
/* A product with it, cut off at 0 and 1, is a step: no two floats above 2^-30 are closer than 2^-54. */
#define GROUPS_STEEP      0x1p60f
#define GROUPS_CELL_RANGE 0.999f /* a coordinate that rounding brought past 1 has a cell too */

/* Four 32-bit registers of one lane: high b0, high b1, low b0, low b1. */
typedef struct groups_image_lane {
    uint32_t at[4];
} groups_image_lane;
static_assert(sizeof(groups_image_lane) == 16, "groups_image_lane is read by the device, 16 bytes at once");

typedef struct groups_image {
    int n;            /* groups of all heads */
    int is_published; /* 1: all heads are of the published form */
    int has_search;   /* 1: some group finds its codes neither by few boundaries nor by cells */
    int is_searched;  /* 1: some head's encoder searches */
    /* Largest over heads; tiles and steps over groups. */
    int max_columns, max_books, max_halves, max_cells, max_fragments_encode, max_fragments_decode, max_tiles, max_steps;
    size_t n_fragments, n_books, n_halves, n_cells, n_rotations;
    groups_image_head *heads;     /* [n_heads] */
    groups_image_group *at;       /* [n], a head's together */
    uint16_t *column;             /* [n_heads][head_dim] u16: column of each dim */
    uint16_t *position;           /* [n_heads][head_dim] u16: coding position of each dim */
    uint32_t *pairs;              /* [n_heads][head_dim / 2] u32: of each pair of coding positions, width | group << 8
                                   * | is_last_of_group << 15 | index of the group's first centroid in books << 16 */
    groups_image_lane *fragments; /* [n_fragments][GROUPS_LANES], 4 x u32 */
    float *books;                 /* [n_books] f32 */
    uint32_t *halves;             /* [n_halves] u32: one fp16, or two */
    groups_image_cell *cells;     /* [n_cells], 2 x f32 */
    float *rotations;             /* [n_rotations] f32: R of each group, [dims][dims]; groups share them */
    float *shifts;                /* [n_heads][max_columns] f32: what coordinates start from, as products have them */
    float *inverse_scales;        /* [n_heads][max_columns] f32: 1 / scale of the column's dim */
    float *centers; /* [n_heads][max_columns] f32: centre of the dim. Where it has none, -0, which added to
                     * anything changes no bit, but 0 in no group */
} groups_image;

#endif
