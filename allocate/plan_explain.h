/* Why a head has its bits (`ropebits explain`): what a codec family gives, one row of functions in the table of
 * explain_main.c. `explained` is the family's own, size_bytes large. */
#ifndef RB_ALLOCATE_PLAN_EXPLAIN_H
#define RB_ALLOCATE_PLAN_EXPLAIN_H

#include <cjson/cJSON.h>

#include "methods/plan_error.h"

#define EXPLAIN_SCHEMA "ropebits-explain-result"
enum { EXPLAIN_VERSION = 1 };

typedef struct explain_functions {
    size_t size_bytes;
    /* Head h of the plan, into zeroes; cleared also after a failure. The statistics are those of the plan's model. */
    rb_status (*explain)(void *explained, const bit_plan *plan, int h, const head_statistics *statistics,
                         rb_error *err);
    void (*clear)(void *explained);             /* NULL: it owns nothing */
    void (*print_error)(const void *explained); /* what the head errs as a whole, in lines of their own */
    void (*print_parts)(const void *explained); /* tables of its parts, and what follows from them */
    rb_status (*to_json)(cJSON **out, const void *explained, rb_error *err);
} explain_functions;

#endif
