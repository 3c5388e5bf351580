/* The codecs of several heads as the CUDA kernels read them: plain data, made on the host, no CUDA in it. kernels/codec_cuda.h uploads it.
 *
 * A rotation becomes operand B of mma.sync.m16n8k16, in the order in which the 32 lanes of a warp hold it, so that one 16-byte load a lane brings a whole
 * fragment. A is 16 vectors with their dims in coding order. Group g occupies columns [first, first + dims); its window of A starts at the multiple
 * of 8 at or below `first` and takes n_steps steps of 16 columns. Columns of neighbours in the window meet zeros in B.
 *
 * Rotations are split into two fp16 values, R * scale = high + low, which together hold 22 bits: with fp16 input the products are exact and codes
 * are those of f32 arithmetic. A Hadamard matrix needs no low part when a scale makes all its entries powers of two. */
#ifndef RB_KERNELS_CODEC_IMAGE_H
#define RB_KERNELS_CODEC_IMAGE_H

#include <stddef.h>
#include <stdint.h>

enum {
    CODEC_IMAGE_MAX_DIMS = 256,     /* head_dim: a multiple of 16 up to this */
    CODEC_IMAGE_MAX_GROUPS = 32,    /* of a head */
    CODEC_IMAGE_LANES = 32
};

/* How dims go to coding positions: what the kernels can exploit. */
typedef enum codec_image_order {
    CODEC_ORDER_ANY,
    CODEC_ORDER_SPLIT_PAIRS,    /* dims i and i + head_dim/2 lie side by side, at an even position */
    CODEC_ORDER_NATURAL         /* position = dim */
} codec_image_order;

typedef struct codec_image_group {
    int32_t first, dims, width;         /* coding positions; bits a code */
    int32_t n_tiles, n_steps, k_begin;  /* 8-column tiles of the result, 16-column steps and first column of the window */
    int32_t has_low;
    int32_t bit_first;                  /* of the group in the vector's packed bits */
    int32_t encode, decode;             /* first fragment: of y = R x (tile-major, then step), of x = R^T y */
    int32_t book;                       /* first float of its tables: 2^width / 2 boundaries above 0 (the last +inf), then 2^width centroids */
    int32_t rotation;                   /* first float of R, [dims][dims] */
    float inverse_scale;                /* 1 / scale of the fragments */
    int32_t reserved[3];
} codec_image_group;                    /* 64 bytes */

typedef struct codec_image_head {
    int32_t n_groups, first_group;
    int32_t packed_bytes;               /* of a vector */
    int32_t order;                      /* codec_image_order */
    int32_t first_fragment, n_fragments_encode, n_fragments_decode;     /* encode fragments, then decode fragments */
    int32_t reserved;
} codec_image_head;

/* Four 32-bit registers of one lane: high b0, high b1, low b0, low b1. */
typedef struct codec_image_lane {
    uint32_t at[4];
} codec_image_lane;

typedef struct codec_image {
    int head_dim, n_heads, n_groups;
    codec_image_head *heads;            /* [n_heads] */
    codec_image_group *groups;          /* [n_groups], a head's together */
    uint16_t *position;                 /* [n_heads][head_dim]: coding position of a dim */
    /* [n_heads][head_dim / 2]: of each pair of coding positions, for the unpacking kernels: width | group << 8 | is_last_of_group << 15 | centroids << 16
     * (index of the first float in `books`) */
    uint32_t *pairs;
    codec_image_lane *fragments;        /* [n_fragments][32 lanes] */
    size_t n_fragments;
    float *books;
    size_t n_books;
    float *rotations;
    size_t n_rotations;
} codec_image;

/* A head's packed codes and norms are streams of their own, vector after vector, each stream starting at a multiple of 128 bytes: where head's starts,
 * for n vectors; head = n_heads gives the size of all. */
int64_t codec_image_packed_offset(const codec_image *image, int head, int64_t n);
int64_t codec_image_norm_offset(const codec_image *image, int head, int64_t n);     /* in fp16 values: [n][n_groups] */

#ifndef __cplusplus
#include "kernels/head_codec.h"

/* heads [n_heads] of one layer. Fails with RB_EUNSUPPORTED on a head_dim or a number of groups beyond the limits above. */
rb_status codec_image_build(codec_image **out, const plan_head *heads, int n_heads, const model_facts *model, codec_tables *tables, rb_error *err);
void codec_image_free(codec_image *image);
#endif

#endif
