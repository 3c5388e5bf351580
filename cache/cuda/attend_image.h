/* The codecs of a layer as the kernels of packed attention read them: plain data, made on the host. What a family is to
 * them is how a lane looks its numbers up (attend_unit), and by which matrix the numbers become dims.
 *
 * A number pair is a word of two fp16. Of family block-codebook it is a point p, both dims of a RoPE block; of groups
 * the centroids of two neighbouring codes. A trellis gives single numbers. A unit is what a lane reads from one window
 * of 32 bits: four pairs, or four trellis coordinates.
 *
 * Keys. Columns of the products come in steps of 16: eight RoPE blocks, of which lane 4 r + c of a warp has two, i = 0
 * and 1, for token rows r and r + 8. A tile is 16 tokens. Its key turns by R_t = R_t0 R_b, t0 the tile's first
 * position: the query is turned back by t0, and R_b is in `turns`, for the 16 rows b. Of block-codebook `turns` is R_b
 * M, since each block has a map M of its own. Other families first multiply their numbers by `fragments`.
 *
 * Values are summed as numbers, weighed by attention; attend_merge.cu multiplies the sum by the matrix. */
#ifndef RB_CACHE_CUDA_ATTEND_IMAGE_H
#define RB_CACHE_CUDA_ATTEND_IMAGE_H

#include <assert.h>
#include <stdalign.h>
#include <stdint.h>

#include "cache/cache_layout.h"

enum {
    ATTEND_QUERIES = 8,    /* query heads of a KV head that are served at once */
    ATTEND_TILE = 16,      /* tokens */
    ATTEND_STEP = 16,      /* columns */
    ATTEND_MAX_STEPS = 16, /* of 256 dims */
    ATTEND_GAINS = 16,
    ATTEND_PLANE_BYTES = 1 << 15, /* of two trellis tables, each entry once for every lane */
    ATTEND_MAX_PLANES = 4,
    ATTEND_WINDOW_PAD = 16, /* bytes before a page's first code: windows may start before it */
    ATTEND_PAIR_SHIFT = 2,  /* a window starts so many bits early: then a masked code is the place of a word */
    ATTEND_TRELLIS_SHIFT = 7
};

typedef enum attend_reader { ATTEND_F16, ATTEND_PAIRS, ATTEND_WIDE_PAIRS, ATTEND_TRELLIS } attend_reader;

/* Where a lane's four numbers or pairs are. The place of number i in its table is
 * (window >> shift[i] & mask[i]) | table[i], in bytes. shift counts from at[0]; in a split unit those of 2 and 3 count
 * from at[2]. Of wide pairs number i has a window of its own from at[i] on: first_bits[i] bits are the first fp16's
 * place in half words, mask[i] (its low half that of the first, its high half that of the second) and table[i]
 * likewise.
 */
typedef struct attend_unit {
    alignas(16) uint32_t mask[4];
    uint32_t table[4];
    int16_t at[4];         /* bits from the token's first */
    uint8_t shift[4];      /* [0] would be 0: it is 1 where the unit is split */
    uint8_t first_bits[4]; /* of wide pairs */
} attend_unit;
static_assert(sizeof(attend_unit) == 48, "attend_unit is read by the device");

/* A part of the columns with a scale of its own: a group, or all of a trellis. Its numbers are `steps` steps of 16, its
 * dims `dim_steps` steps of 8 blocks. */
typedef struct attend_group {
    int32_t first_unit;       /* of the head's, [steps][4] of trellis, [(steps + 1) / 2][4] of pairs */
    int32_t steps, dim_steps; /* in numbers, in dims */
    int32_t first_dim_step;   /* of the head's */
    int32_t first_fragment;   /* word of the head's fragments: [dim_steps][2][steps][32][2] */
    int32_t norm_exponent;    /* of 8-bit norms */
    int32_t is_wide;
    int32_t reserved;
} attend_group;
static_assert(sizeof(attend_group) == 32, "attend_group is read by the device");

typedef struct attend_head {
    cache_part part; /* of a page */
    int32_t n_steps; /* of dims; of numbers where there is no product */
    int32_t n_units, first_unit;
    int32_t n_groups, first_group;
    int32_t norm_size; /* bytes of a norm; 0: no norms */
    int32_t has_center;
    int32_t gain_at, gain_mask; /* bit in a token, and mask */
    float largest_gain;         /* of values: gains are over it */
    float gains[ATTEND_GAINS];
    int32_t n_planes, plane_widths; /* of a trellis: widths, 4 bits each, two a plane */
    int32_t book_words;             /* of the book that it reads */
    int64_t first_book, first_turn, first_center, first_fragment, first_block, first_matrix; /* of the layer's arrays */
    int32_t n_fragment_words, reserved;
} attend_head;

/* Keys or values of a layer. */
typedef struct attend_side {
    attend_reader reader;
    int is_product; /* keys: numbers go through fragments */
    int n_heads, n_dims, max_units, max_groups, max_book_words, max_fragment_words, max_planes, max_code_bytes,
        max_dim_steps, max_steps, max_norm_bytes;
    attend_head *heads;   /* [n_heads] */
    attend_unit *units;   /* keys [..][4], by c; values [..][8], by r */
    attend_group *groups; /* of a product */
    uint32_t *books;      /* number pairs, or single fp16 two a word */
    uint16_t *tables;     /* [9][256] fp16: a trellis' */
    uint32_t *turns;   /* keys: a head's [n_steps][2][32][4] words, i, lane: (column 0, column 1) of row r, of r + 8 */
    uint32_t *centers; /* keys: [n_steps][32][4] words: R_b c as operand A */
    uint16_t *blocks;  /* keys: [n_steps][2][4]: RoPE block of i and c; n_blocks: none */
    uint16_t *dims;    /* keys: [n_dims / 2][2]: dims of every RoPE block */
    uint32_t *fragments; /* keys of a product: operand B */
    float *matrix;       /* values: [n_dims numbers][n_dims], and a row of centres */
    uint64_t n_units, n_groups, n_books, n_turns, n_centers, n_blocks, n_fragments, n_matrix, n_tables, n_block_dims;
} attend_side;

#ifndef __cplusplus
#include "kernels/reference/codec_tables.h"
#include "plan/bit_plan.h"

/* The keys, or the values, of a layer; heads NULL: fp16. layout: of that layer. Fails with RB_EUNSUPPORTED for what
 * the kernels do not take. */
rb_status attend_side_build(attend_side **out, const plan_head *heads, const model_facts *model, int layer,
                            bool is_values, const cache_layout *layout, codec_tables *tables, rb_error *err);
void attend_side_free(attend_side *side);

typedef struct attend_side_part {
    void **pointer; /* the member */
    uint64_t size_bytes;
} attend_side_part;
enum { ATTEND_SIDE_PARTS = 11 };
void attend_side_list_parts(attend_side *side, attend_side_part parts[ATTEND_SIDE_PARTS]);
#endif

#endif
