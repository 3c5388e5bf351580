/* What the reader of plan.rbp needs of a codec family: its part of a head out of libropebits_plan's. In a file of its
 * own, FAMILY_rbp.c, so that the library for runtimes (cache/library/) takes it without the JSON of the other forms.
 * bit_plan_check follows. */
#ifndef RB_PLAN_PLAN_RBP_HEAD_H
#define RB_PLAN_PLAN_RBP_HEAD_H

#include "plan/bit_plan.h"
#include "plan/library/ropebits_plan.h"

/* The centre is there already. */
typedef rb_status plan_head_from_library(plan_head *out, const ropebits_head *head, const model_facts *model,
                                         rb_error *err);

#define RB_FAMILY_DECLARATION(NAME, prefix, name) plan_head_from_library prefix##_from_library;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION

#endif
