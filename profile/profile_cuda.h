/* Scoring on the GPU: profile_score with every head, candidate and layer in batched kernels. */
#ifndef RB_PROFILE_PROFILE_CUDA_H
#define RB_PROFILE_PROFILE_CUDA_H

#include "profile/profile_compute.h"

/* What profile_score does on a GPU, with the device open (rb_resolve_device); the table has its methods and curves.
 * Scores agree with the CPU's to the rounding of f32; two runs give the same doubles. */
rb_status profile_score_cuda(profile_table *table, const capture_file *capture, const bit_plan *const *plans,
                             int n_plans, bool with_curves, rb_error *err);

#endif
