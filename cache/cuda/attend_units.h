/* The units of a head: how its numbers are looked up (cache/cuda/attend_image.h). */
#ifndef RB_CACHE_CUDA_ATTEND_UNITS_H
#define RB_CACHE_CUDA_ATTEND_UNITS_H

#include "cache/cuda/attend_image.h"

/* A pair of codes of a vector's stream. */
typedef struct attend_pair {
    int at, bits;            /* in the stream; 0 bits: it is nothing */
    int first_bits;          /* of the first of two codes; 0: one code for both numbers */
    int table, second_table; /* where the pair's table starts in the book, in bytes; of a wide pair, those of its two
                              * numbers */
} attend_pair;

/* Pairs [n], n up to 4, become a unit; the rest of it is nothing. */
void attend_unit_of_pairs(attend_unit *unit, const attend_pair *pairs, int n, bool is_wide);
/* Lanes read their units [n] side by side: where one of them is split, all become so. is_trellis: of quads. */
void attend_units_agree(attend_unit *units, int n);
/* Coordinates 4 quad to 4 quad + 3 of a trellis. starts [n_dims]: the bit at which a coordinate's own bits start. */
void attend_unit_of_quad(attend_unit *unit, const plan_trellis *plan, const int *starts, int quad,
                         int32_t plane_widths);
/* Widths that the plan uses, 4 bits each, in order; *n_planes: two of them a plane. */
int32_t attend_plane_widths(const plan_trellis *plan, int *n_planes);

/* The book of the pairs of a head. */
typedef struct attend_book {
    uint16_t *halves; /* owned */
    int n_halves;     /* an even number */
} attend_book;

/* Points and levels of all sizes up to max_bits (levels only in a wide book), and where those of so many bits start. */
rb_status attend_book_of_blocks(attend_book *book, const plan_head *head, int n_blocks, bool is_wide,
                                codec_tables *tables, rb_error *err);
/* Block i of a head of block-codebook. */
attend_pair attend_pair_of_block(const plan_head *head, int block, int at, bool is_wide);
/* Adds the centroids of a codebook; *table is where they start, in bytes. */
rb_status attend_book_add(attend_book *book, const codebook *from, bool is_wide, int *table, rb_error *err);

enum { ATTEND_PAIR_WIDTH = 6 }; /* up to this width two centroids are one word */

#endif
