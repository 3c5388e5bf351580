/* The heads of family trellis of a layer as the CUDA kernels read them: a part of kernels/cuda/codec_image.h's image.
 *
 * Coordinates go in quads, four neighbours: from the first bit of its first window a quad's four windows lie within 32
 * bits. Numbers come in pairs, since fp16 pairs are what a product on the tensor cores takes: two coordinates of one
 * width of at most TRELLIS_MAX_PAIR bits have a table of both numbers, by the bits of both windows. A step is the 16
 * coordinates of one such product. */
#ifndef RB_KERNELS_CUDA_TRELLIS_IMAGE_H
#define RB_KERNELS_CUDA_TRELLIS_IMAGE_H

#include <assert.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/reference/trellis.h"

enum {
    TRELLIS_QUAD = 4,
    TRELLIS_STEP = 16,
    TRELLIS_GROUP = 32,    /* dims whose products a warp has in registers at once */
    TRELLIS_MAX_PAIR = 4,  /* bits of a coordinate that is looked up together with its neighbour */
    TRELLIS_PAIRS_AT = 32, /* tables of pairs start here, those of w bits at 2^(8 + w) - 512 words from it; before are
                            * words of 0, the pair of two coordinates without bits */
    TRELLIS_PAIR_WORDS = TRELLIS_PAIRS_AT + (512 << TRELLIS_MAX_PAIR) - 512,
    TRELLIS_LEVELS = 16, /* of a gain, at most */
    TRELLIS_QUAD_PAIRED = 1 << 14,
    TRELLIS_STEP_PAIRED = 1 << 15
};

/* What reads four coordinates. */
typedef struct trellis_image_quad {
    alignas(16) uint16_t bit; /* where the first window starts in the vector's stream */
    uint16_t third;           /* bits from there to the third window | QUAD_PAIRED: the quad's numbers are in tables of
                               * pairs | STEP_PAIRED: those of its step are */
    uint16_t first[2];        /* words: of the tables of the two pairs */
    uint16_t mask[2];         /* of the bits of a pair */
    uint8_t width[4];
} trellis_image_quad;
static_assert(sizeof(trellis_image_quad) == 16, "trellis_image_quad is read by the device");

/* What makes a byte of the stream: the states of a coordinate, shifted left, and of the one before it, shifted right;
 * shifts of 8 leave nothing. */
typedef struct trellis_image_byte {
    uint16_t coordinate;
    uint8_t left, right;
} trellis_image_byte;
static_assert(sizeof(trellis_image_byte) == 4, "trellis_image_byte is read by the device");

/* A coordinate's width, and the run of coordinates of this width that it is in. */
typedef struct trellis_image_run {
    uint16_t width, first, end, reserved;
} trellis_image_run;
static_assert(sizeof(trellis_image_run) == 8, "trellis_image_run is read by the device");

typedef struct trellis_image_head {
    int32_t n_coded; /* coordinates that have bits */
    int32_t code_bits, gain_bits, gain_zero;
    float inverse_weight; /* 1 / sum w */
    int32_t reserved[3];
    float gains[TRELLIS_LEVELS], inverse_gains[TRELLIS_LEVELS];
} trellis_image_head;
static_assert(sizeof(trellis_image_head) == 160, "trellis_image_head is read by the device");

typedef struct trellis_image {
    int n_dims;
    int n_groups;              /* of TRELLIS_GROUP dims, the last perhaps half empty */
    int max_coded;             /* coordinates with bits: largest over heads */
    int is_diagonal;           /* 1: the bases of all heads only scale, and need no product */
    int max_pair;              /* largest width that has a table of pairs */
    trellis_image_head *heads; /* [n_heads] */
    trellis_image_quad *quads; /* [n_heads][n_dims / 4] */
    trellis_image_byte *bytes; /* [n_heads][n_dims]: as many as a vector has, and some that are not used */
    trellis_image_run *runs;   /* [n_heads][n_dims] */
    float *centers;            /* [n_heads][n_dims] f32 */
    float *scales;             /* [n_heads][n_dims] f32: the diagonal of the basis, 0 without bits */
    float *roots;              /* [n_heads][n_dims] f32: of the weights, 0 without bits */
    float *project;            /* [n_heads][n_dims][n_dims] f32: dim j of x - c, coordinate i: z_i = sum_j x_j of it */
    uint16_t *basis;           /* [n_heads][n_dims][n_dims] fp16: dim j, coordinate i; 0 without bits */
    uint32_t *fragments;       /* [n_heads][n_groups][n_dims / 16][2][32][4] pairs of fp16: the basis as operand B of
                                * mma.m16n8k16, see trellis_image.c */
    uint16_t *tables;          /* [9][256] fp16 */
} trellis_image;

/* Groups of n_dims. */
static inline int trellis_image_groups(int n_dims) { return (n_dims + TRELLIS_GROUP - 1) / TRELLIS_GROUP; }
/* Words of a head's fragments: a group and step have two words a lane for each of four tiles of 8 dims. */
static inline int trellis_image_fragment_words(int n_dims)
{
    return trellis_image_groups(n_dims) * (n_dims / TRELLIS_STEP) * 2 * 32 * 4;
}

#endif
