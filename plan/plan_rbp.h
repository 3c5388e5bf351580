/* plan.rbp and bit_plan: the writer, and a reader into bit_plan for ropebits' own programs (through the same library
 * that runtimes link). The format, byte by byte: docs/plan-rbp.md. */
#ifndef RB_PLAN_PLAN_RBP_H
#define RB_PLAN_PLAN_RBP_H

#include "plan/bit_plan.h"
#include "plan/library/ropebits_plan.h"

/* The file's bytes; freed by free(). */
rb_status plan_rbp_encode(uint8_t **out, size_t *size_bytes, const bit_plan *plan, rb_error *err);
rb_status plan_rbp_write(const bit_plan *plan, const char *path, rb_error *err); /* atomic */
rb_status plan_rbp_read(bit_plan **out, const char *path, rb_error *err);
/* The same of a plan that is open; path is for messages. */
rb_status plan_rbp_convert(bit_plan **out, const ropebits_plan *source, const char *path, rb_error *err);

#endif
