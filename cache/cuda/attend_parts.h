/* The parts of a layer's tables (cache/cuda/attend_image.h), as its heads add them one after another: RoPE blocks,
 * turns, units, books, matrices. attend_families.c says which of them a head of each family has. */
#ifndef RB_CACHE_CUDA_ATTEND_PARTS_H
#define RB_CACHE_CUDA_ATTEND_PARTS_H

#include "cache/cuda/attend_image.h"
#include "cache/cuda/attend_units.h"

/* What is being made, and of what. */
typedef struct attend_maker {
    attend_side *side;
    const plan_head *heads;
    const model_facts *model;
    int layer;
    bool is_values;
    codec_tables *tables;
} attend_maker;

/* What numbers add to dims. */
typedef struct attend_numbers {
    const double *at; /* [n_numbers][n_dims] */
    int n_numbers, n_dims;
} attend_numbers;

/* Each adds to the side of m, at the end of its arrays, and counts in `own`, the head that has it. They fail with
 * RB_ENOMEM only. */

/* Keys: n_steps steps of columns, whose blocks the caller then writes from side->blocks[own->first_block] on. */
rb_status attend_add_blocks(const attend_maker *m, attend_head *own, int n_steps, rb_error *err);
/* Keys: turns and turned centres, when the head's blocks are known. */
rb_status attend_add_turns(const attend_maker *m, attend_head *own, const plan_head *head, rb_error *err);

/* Pairs [n] four by four: unit u of lane l has those from 4 (u n_lanes + l) on. */
rb_status attend_add_pair_units(const attend_maker *m, attend_head *own, const attend_pair *pairs, int n, int n_lanes,
                                bool is_wide, rb_error *err);
/* Coordinates of a trellis four by four, in order: unit u of lane l is quad u n_lanes + l. Sets gain_at too. */
rb_status attend_add_quad_units(const attend_maker *m, attend_head *own, const plan_trellis *plan, int n_lanes,
                                rb_error *err);

rb_status attend_add_book(const attend_maker *m, attend_head *own, const attend_book *book, rb_error *err);
/* gains [2^gain_bits] */
void attend_set_gains(attend_head *own, int gain_bits, const double *gains);
/* Values: *matrix is [n_dims][n_dims] zeros for the caller to fill, and the centre in a row of its own after them. */
rb_status attend_add_matrix(const attend_maker *m, attend_head *own, const plan_head *head, float **matrix,
                            rb_error *err);

/* Keys of a product: operand B of a group whose blocks are known. is_trellis: as units of quads have the numbers. */
rb_status attend_add_fragments(const attend_maker *m, attend_head *own, attend_group *group,
                               const attend_numbers *matrix, bool is_trellis, rb_error *err);
rb_status attend_add_group(const attend_maker *m, attend_head *own, const attend_group *group, rb_error *err);

#endif
