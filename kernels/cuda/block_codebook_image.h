/* The heads of family block-codebook of a layer as the CUDA kernels read them (kernels/cuda/block_codebook_encode.cu,
 * block_codebook_decode.cu, block_codebook_logits.cu): a part of codec_image.h's image, plain data made on the host.
 * Points of the universal codebooks are pairs of fp16, which is what they are; encode has them brought to each block's
 * scale, M p, in f32, with the cells that find the nearest one (kernels/cuda/block_codebook_search.h). */
#ifndef RB_KERNELS_CUDA_BLOCK_CODEBOOK_IMAGE_H
#define RB_KERNELS_CUDA_BLOCK_CODEBOOK_IMAGE_H

#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BLOCK_CODEBOOK_CELL_CODES = 4, /* codes that a cell lists */
    /* Up to here a cell's codes are bytes of a word, lowest first; above they are halves of two words. A shorter list
     * repeats its last. Of a longer one, whose first is all ones and whose last is 0, the two between say where in the
     * block's words it is, as halves: its length, then its codes. */
    BLOCK_CODEBOOK_BYTE_BITS = 8,
    BLOCK_CODEBOOK_OFFSET_BITS = 6,   /* up to here a byte is 4 times the code: where the point is in bytes */
    BLOCK_CODEBOOK_GRID_MIN_BITS = 3, /* below, all points are tried */
    BLOCK_CODEBOOK_MAX_LEVELS = 16
};

/* Of a block; apart, since lanes that look up 32 different points of f32 values meet all banks. */
typedef struct block_codebook_points {
    const float *x, *y;
} block_codebook_points;

/* Of a block of two dims, also of one that has no bits: five 16-byte words, by what is read together. */
typedef struct block_codebook_image_block {
    alignas(16) float center[2];
    float half_columns, half_rows; /* (n - 1) / 2 of the cells, whole numbers */
    float to_grid[4];    /* of (x, y) less the centre: u = x to_grid[0] + y to_grid[1], v = x to_grid[2] + y to_grid[3];
                            over the gain they enter tanh */
    float weight;        /* 0 without bits */
    int32_t n_columns;   /* of cells, by u; 0: there are none */
    int32_t first_point; /* of the head's points */
    int32_t first_cell;  /* of the head's words: cells, then long lists */
    int32_t bits, bit_first; /* in the vector's stream */
    int32_t dims;            /* the first | the second << 16 */
    int32_t n_rows;          /* of cells, by v */
    float map[3];
    int32_t reserved;
} block_codebook_image_block;

/* Of any head: one of groups has is_block_codebook 0 and cost 0. */
typedef struct block_codebook_image_head {
    int32_t is_block_codebook;
    int32_t packed_bytes, n_groups, norm_bytes; /* codec_image_head's */
    int32_t gain_bits;
    float inverse_size;                                 /* 1 / sum w |M|^2 of blocks with bits; 0 where that is 0 */
    int32_t first_point, n_points, first_cell, n_cells; /* cells: 32-bit words */
    int32_t is_split;                                   /* 1: dims i and i + head_dim / 2 are a block */
    int32_t is_scattered;      /* 1: four blocks, from a multiple of 4 on, are not two runs of four dims */
    int32_t cost, cost_before; /* of encoding, as codec_image_head has it */
    float gains[BLOCK_CODEBOOK_MAX_LEVELS];
} block_codebook_image_head;

typedef struct block_codebook_image {
    int n_heads, n_blocks;              /* all heads of the layer; blocks of a head */
    int n_block_codebook;               /* heads of this family */
    int max_bits;                       /* of a block */
    block_codebook_image_head *heads;   /* [n_heads] */
    int32_t *list;                      /* [n_block_codebook]: which heads */
    block_codebook_image_block *blocks; /* [n_heads][n_blocks] */
    float *points_x, *points_y;         /* [n_points]: M p of each block with bits */
    size_t n_points;
    uint32_t *cells; /* [n_cells] */
    size_t n_cells;
    uint32_t *book; /* [n_book]: points p of 1 bit, of 2, ... up to max_bits, x | y << 16 in fp16: those of b bits start
                       at 2^b - 2 */
    size_t n_book;
} block_codebook_image;

#ifndef __cplusplus
#include "kernels/reference/head_codec.h"

/* packed_bytes and what groups have are filled in by codec_image_build. */
rb_status block_codebook_image_build(block_codebook_image *out, const plan_head *heads, int n_heads,
                                     const model_facts *model, codec_tables *tables, rb_error *err);
void block_codebook_image_clear(block_codebook_image *image);
/* Of device memory that a head's tables take at most: where no image is made yet. */
int64_t block_codebook_image_head_bytes(const plan_head *head, int n_blocks);
#endif

#endif
