/* The codecs of several heads as the CUDA kernels read them: plain data, made on the host, no CUDA in it.
 * kernels/cuda/codec_cuda.h uploads it.
 *
 * A rotation becomes operand B of mma.sync.m16n8k16, in the order in which the 32 lanes of a warp hold it, so that one
 * 16-byte load a lane brings a whole fragment. A is 16 vectors with their dims in coding order, in columns: each group
 * starts at a multiple of 8 columns, and the columns between two groups are 0. A group takes n_steps steps of 16
 * columns; what of the last two of them lies behind its own columns is left out.
 *
 * Rotations are split into two fp16 values, R * CODEC_IMAGE_FRAGMENT_SCALE = high + low, which together hold 22 bits:
 * with fp16 input the products are exact and codes are those of f32 arithmetic.
 *
 * A Hadamard rotation of p = CODEC_IMAGE_TRANSFORM_DIMS dims or more, p a power of two, is not multiplied by but
 * computed: H_p = H_(p / 16) x H_16. H_16 is an operand B of 16 columns, +-1, exact: registers 0 and 1 of a lane are B
 * for the first 8 of them, 2 and 3 for the last 8. Encode has one fragment a step, with the signs of its 16 dims;
 * decode has H_16 and a fragment of signs, whose words 0 and 1 are for columns 0 to 127 and 128 to 255: bit t + 16 i of
 * a lane is 1 where the dim in column 8 t + 2 (lane % 4) + i of those is negative. Coordinates come out sqrt(p) times
 * as large.
 *
 * Beyond the published form (8-bit norms, search, scales, centres, dims of no group) everything is by matrix. y = R S
 * (x - c) = R S x - R S c: encode's fragments hold R S and its coordinates start from -R S c (`shifts`), so x stays the
 * exact operand that it is; decode's hold S^-1 R^T, and what comes out gets c (`centers`). A group's scales are brought
 * to at most 1 by powers of two. Dims of no group have columns behind those of the groups, 8 columns apart, and coding
 * positions behind theirs.
 *
 * A head of family block-codebook has no groups and costs nothing here, so that the kernels of groups pass it by; its
 * tables are in `planes`. */
#ifndef RB_KERNELS_CUDA_CODEC_IMAGE_H
#define RB_KERNELS_CUDA_CODEC_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/block_codebook_image.h"

enum {
    CODEC_IMAGE_MAX_DIMS = 256, /* head_dim: a multiple of 16 up to this */
    CODEC_IMAGE_MAX_STEPS = CODEC_IMAGE_MAX_DIMS / 16,
    CODEC_IMAGE_MAX_GROUPS = 32, /* of a head */
    CODEC_IMAGE_LANES = 32,
    CODEC_IMAGE_PAIR_WIDTH = 4, /* up to here two codes are looked up at once */
    CODEC_IMAGE_CELL_WIDTH = 4, /* from here on codes are found by cells */
    CODEC_IMAGE_MAX_LOG2_CELLS = 10,
    CODEC_IMAGE_TRANSFORM_DIMS = 64, /* from here on it is faster than the matrix */
    CODEC_IMAGE_CENTROID_SCALE =
        64 /* centroids are at most 1 and can be small: brought up so that fp16 keeps their bits */
};

/* Small numbers keep their bits in fp16 when brought up by this first: low parts stay above its subnormals. */
#define CODEC_IMAGE_FRAGMENT_SCALE 256.0f

/* Steps of a group of n_tiles 8-column parts: few different numbers, since the kernels have code for each. */
#ifdef __CUDACC__
__host__ __device__
#endif
    static inline int
    codec_image_steps(int n_tiles)
{
    const int n = (n_tiles + 1) / 2;
    return n <= 4 ? n : n <= 8 ? (n + 1) / 2 * 2 : (n + 3) / 4 * 4;
}

/* How dims go to coding positions: what the kernels can exploit. */
typedef enum codec_image_order {
    CODEC_ORDER_ANY,
    CODEC_ORDER_SPLIT_PAIRS, /* dims i and i + head_dim/2 lie side by side, at an even position */
    CODEC_ORDER_NATURAL      /* position = dim */
} codec_image_order;

typedef struct codec_image_group {
    int32_t first, dims, width; /* coding positions; bits a code */
    int32_t column;             /* of its first dim */
    int32_t n_tiles, n_steps;   /* 8-column parts, and 16-column steps: codec_image_steps(n_tiles) */
    int32_t bit_first;          /* of the group in the vector's packed bits */
    int32_t cells, log2_cells;  /* first cell; log2_cells 0: it has none, search the boundaries */
    int32_t encode, decode;     /* first fragment: of y = R x (tile-major, then step), of x = R^T y */
    int32_t book; /* first float of its tables: 2^width / 2 edges of the boundaries above 0 (the last -inf: none), then
                   * 2^width centroids */
    int32_t halves;   /* first word of its centroids in fp16, times CODEC_IMAGE_CENTROID_SCALE: up to 4 bits a table of
                         pairs, */
    int32_t rotation; /* 2^(2 width) words; above, 2^width words. rotation: first float of R, [dims][dims] */
    int32_t is_transform; /* 1: its fragments are a transform's */
    int32_t walk; /* first float of its 2^width / 2 levels (boundary above, centroid), coordinates above 0; the last
                     boundary is infinite */
    int32_t n_crossed; /* boundaries that lie between a coordinate stretched by one of the encoder's stretches and by
                          the next, at most */
    int32_t norm_exponent;   /* of 8-bit norms */
    float coherence;         /* of the search encoder; else 1 */
    int32_t encode_exponent; /* coordinates come out 2^-encode_exponent times as large */
    float decode_scale;      /* what restored dims are multiplied with on top; a power of two */
} codec_image_group;

typedef struct codec_image_head {
    int32_t n_groups, first_group;
    int32_t packed_bytes;                                           /* of a vector */
    int32_t order;                                                  /* codec_image_order */
    int32_t n_columns;                                              /* a multiple of 8 */
    int32_t n_coded, first_uncoded;                                 /* dims in groups; the first column of the others */
    int32_t norm_bytes;                                             /* of a norm: 2 (fp16), or 1 */
    int32_t is_searched, has_scales, has_center;                    /* 0 or 1 */
    float largest_center;                                           /* |c|, of a dim */
    int32_t first_fragment, n_fragments_encode, n_fragments_decode; /* encode fragments, then decode fragments */
    int32_t first_book, n_books, first_halves, n_halves, first_cell,
        n_cells;               /* its tables; groups and pairs count from there */
    int32_t cost, cost_before; /* of 32 vectors, in about instructions, to share the work; of all heads before */
} codec_image_head;

/* [-1, 1] cut into cells so small that none holds two boundaries. y is in the cell 2^(n-1) + round(y *
 * CODEC_IMAGE_CELL_RANGE * (2^(n-1) - 1)); its code is `code`, one more if y > boundary, that is if y *
 * CODEC_IMAGE_STEEP + edge > 0. */
typedef struct codec_image_cell {
    float edge, code;
} codec_image_cell;
#define CODEC_IMAGE_STEEP \
    0x1p60f /* a product with it, cut off at 0 and 1, is a step: no two floats above 2^-30 are closer than 2^-54 */
#define CODEC_IMAGE_CELL_RANGE 0.999f /* a coordinate that rounding brought past 1 has a cell too */

/* Four 32-bit registers of one lane: high b0, high b1, low b0, low b1. */
typedef struct codec_image_lane {
    uint32_t at[4];
} codec_image_lane;

typedef struct codec_image {
    int head_dim, n_heads, n_groups;
    int n_grouped;             /* heads that have groups; the others are of family block-codebook */
    int is_published;          /* 1: all heads that have groups are of the published form */
    int max_columns;           /* over heads */
    codec_image_head *heads;   /* [n_heads] */
    codec_image_group *groups; /* [n_groups], a head's together */
    uint16_t *column;          /* [n_heads][head_dim]: of each dim */
    uint16_t *position;        /* [n_heads][head_dim]: coding position of each dim */
    /* [n_heads][head_dim / 2]: of each pair of coding positions: width | group << 8 | is_last_of_group << 15 |
     * centroids << 16 (index of the first float in `books`) */
    uint32_t *pairs;
    codec_image_lane *fragments; /* [n_fragments][32 lanes] */
    size_t n_fragments;
    float *books;
    size_t n_books;
    uint32_t *halves;
    size_t n_halves;
    codec_image_cell *cells;
    size_t n_cells;
    float *rotations;
    size_t n_rotations;
    /* [n_heads][max_columns], by column: what coordinates start from, as products have them; 1 / scale of the dim; its
     * centre, -0 where it has none (added to anything, that changes no bit), but 0 in no group. */
    float *shifts, *inverse_scales, *centers;
    block_codebook_image block_codebook;
} codec_image;

/* A head's packed codes and norms are streams of their own, vector after vector, each stream starting at a multiple of
 * 128 bytes: where head's starts, in bytes, for n vectors; head = n_heads gives the size of all. Norms are
 * [n][n_groups] of 2 bytes (fp16), or 1. */
int64_t codec_image_packed_offset(const codec_image *image, int head, int64_t n);
int64_t codec_image_norms_offset(const codec_image *image, int head, int64_t n);
/* Between a head's norms in its stream and those of head_codec.h, [n][n_groups]; `streams` holds those of all heads. */
void codec_image_read_norms(uint16_t *norms, const codec_image *image, int head, const uint8_t *streams, int64_t n);
void codec_image_write_norms(uint8_t *streams, const codec_image *image, int head, const uint16_t *norms, int64_t n);

#ifndef __cplusplus
#include "kernels/reference/head_codec.h"

/* heads [n_heads] of one layer. Fails with RB_EUNSUPPORTED on a head_dim or a number of groups beyond the limits above.
 */
rb_status codec_image_build(codec_image **out, const plan_head *heads, int n_heads, const model_facts *model,
                            codec_tables *tables, rb_error *err);
void codec_image_free(codec_image *image);
#endif

#endif
