/* A plan as a C header with static const arrays: for kernels and runtimes that compile their plan in. */
#ifndef RB_EXPORT_PLAN_HEADER_H
#define RB_EXPORT_PLAN_HEADER_H

#include "plan/bit_plan.h"

/* Atomic. The header needs nothing but stdint.h and compiles as C99 and C++. */
rb_status plan_header_write(const bit_plan *plan, const char *path, rb_error *err);

#endif
