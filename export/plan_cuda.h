/* `export --format cuda`: a folder of sources for one plan, which need nothing of ropebits. Its README.md, and the
 * templates that are copied as they are, lie in export/templates/cuda; the plan's own files are plan_constants.h,
 * plan_tables.c and test_vectors.c. */
#ifndef RB_EXPORT_PLAN_CUDA_H
#define RB_EXPORT_PLAN_CUDA_H

#include "plan/bit_plan.h"

/* Every file is complete or absent. capture: path of a capture of the plan's model, whose vectors become the test
 * vectors; NULL: they are made. */
rb_status plan_cuda_write(const bit_plan *plan, const char *capture, const char *folder, rb_error *err);

#endif
