/* The heads of family block-codebook of a layer as the CUDA kernels read them: a part of kernels/cuda/codec_image.h's
 * image. Points of the universal codebooks are pairs of fp16, which is what they are. Encode has them brought to each
 * block's scale, M p, in f32, with the cells that find the nearest one (kernels/cuda/block_codebook_search.h). */
#ifndef RB_KERNELS_CUDA_BLOCK_CODEBOOK_IMAGE_H
#define RB_KERNELS_CUDA_BLOCK_CODEBOOK_IMAGE_H

#include <assert.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>

/* A cell is one word with its codes in bytes, the lowest first, or from 9 bits on two words with its codes in halves.
 * A list of fewer than BLOCK_CODEBOOK_CELL_CODES repeats its last code. A longer list lies apart: the first code of its
 * cell is all ones and the last is 0, and the two between say where in the block's words the list is. There it has
 * halves: its length, then its codes. */
enum {
    BLOCK_CODEBOOK_CELL_CODES = 4,    /* codes that a cell lists */
    BLOCK_CODEBOOK_BYTE_BITS = 8,     /* up to here a code is a byte of a cell */
    BLOCK_CODEBOOK_OFFSET_BITS = 6,   /* up to here that byte is 4 times the code: where the point is in bytes */
    BLOCK_CODEBOOK_GRID_MIN_BITS = 3, /* below, all points are tried */
    BLOCK_CODEBOOK_MAX_GAINS = 16
};

/* Levels of 1 to 8 bits, one table after the other, as a level's table starts at 2^bits - 2. */
enum { BLOCK_CODEBOOK_N_LEVELS = (2 << 8) - 2 };

/* The points of a block. x and y lie apart, since lanes that look up 32 different f32 values then meet all banks. */
typedef struct block_codebook_points {
    const float *x, *y; /* [2^bits] f32 */
} block_codebook_points;

/* A block of two dims, also one that has no bits: five 16-byte words, by what is read together. */
typedef struct block_codebook_image_block {
    alignas(16) float center[2];
    float half_columns, half_rows; /* (n - 1) / 2 of the cells, whole numbers */
    float to_grid[4];              /* (x, y) less the centre goes to u = x to_grid[0] + y to_grid[1],
                                    * v = x to_grid[2] + y to_grid[3]; over the gain they enter tanh */
    float weight;                  /* 0 without bits */
    int32_t n_columns;             /* of cells, by u; 0: there are none */
    int32_t first_point;           /* of the head's points */
    int32_t first_cell;            /* of the head's words: cells, then long lists */
    int32_t bits, bit_first;       /* in the vector's stream */
    int32_t dims;                  /* the first | the second << 16 */
    int32_t n_rows;                /* of cells, by v */
    float map[3];
    int32_t first_bits; /* of the first dim's level; 0: the code is a point */
} block_codebook_image_block;
static_assert(sizeof(block_codebook_image_block) == 80, "block_codebook_image_block is read by the device");

typedef struct block_codebook_image_head {
    int32_t gain_bits;
    float inverse_size; /* 1 / sum w |M|^2 over blocks with bits; 0 where that sum is 0 */
    int32_t first_point, n_points;
    int32_t first_cell, n_cells; /* 32-bit words */
    int32_t is_split;            /* 1: dims i and i + head_dim / 2 are a block */
    int32_t is_scattered;        /* 1: four blocks, from a multiple of 4 on, are not two runs of four dims */
    float gains[BLOCK_CODEBOOK_MAX_GAINS];
} block_codebook_image_head;
static_assert(sizeof(block_codebook_image_head) == 96, "block_codebook_image_head is read by the device");

typedef struct block_codebook_image {
    int n_blocks;              /* of a head */
    int max_bits;              /* largest over blocks whose code is a point */
    int n_levels;              /* words of levels after the points of the book; 0: no block has levels */
    int max_points, max_cells; /* largest over heads */
    size_t n_points, n_cells, n_book;
    block_codebook_image_head *heads;   /* [n_heads] */
    block_codebook_image_block *blocks; /* [n_heads][n_blocks] */
    uint16_t *position;                 /* [n_heads][head_dim] u16: of each dim in a vector, two for each block */
    float *points_x, *points_y;         /* [n_points] f32: M p of each block with bits */
    uint32_t *cells;                    /* [n_cells] u32 */
    uint32_t *book;                     /* [n_book] u32: points p of 1 bit, of 2, ... up to max_bits, x | y << 16 in
                                         * fp16: those of b bits start at 2^b - 2; then levels likewise, up to 8 bits,
                                         * each as x and as y */
    float *levels;                      /* [n_levels] f32: the same for encode */
    float *edges;                       /* [n_levels] f32: where a level begins, half way from the one below; the first
                                         * is not used. Those of b bits start at 2^b - 2 */
} block_codebook_image;

#endif
