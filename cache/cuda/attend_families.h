/* The keys or values of a head, made into tables of attention (cache/cuda/attend_image.h): one function a family. */
#ifndef RB_CACHE_CUDA_ATTEND_FAMILIES_H
#define RB_CACHE_CUDA_ATTEND_FAMILIES_H

#include "cache/cuda/attend_parts.h"

/* Adds all that `own` has but its turns. m->side->reader is found. Fails with RB_ENOMEM. */
rb_status attend_make_groups(const attend_maker *m, attend_head *own, const plan_head *head, rb_error *err);
rb_status attend_make_block_codebook(const attend_maker *m, attend_head *own, const plan_head *head, rb_error *err);
rb_status attend_make_trellis(const attend_maker *m, attend_head *own, const plan_head *head, rb_error *err);

#endif
