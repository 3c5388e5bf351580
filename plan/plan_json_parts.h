/* Pieces of plan.json that its reader, its writer and the families (plan/plan_family.h) share. */
#ifndef RB_PLAN_PLAN_JSON_PARTS_H
#define RB_PLAN_PLAN_JSON_PARTS_H

#include <cjson/cJSON.h>

#include "plan/bit_plan.h"

enum { PLAN_JSON_PLACE_SIZE = 512 };

/* ---- writing --------------------------------------------------------------------------------- */

rb_status plan_json_no_memory(rb_error *err);
rb_status plan_json_add_ints(cJSON *json, const char *key, const int *values, int n, rb_error *err);
/* As doubles, exactly. values NULL: adds nothing. */
rb_status plan_json_add_floats(cJSON *json, const char *key, const float *values, int n, rb_error *err);

/* ---- reading --------------------------------------------------------------------------------- */

/* A list of n numbers, [n]; absent: *out stays NULL. Numbers that rounding to a float would change are refused. */
rb_status plan_json_get_floats(float **out, const cJSON *json, const char *key, int n, const char *where,
                               rb_error *err);
/* A number that rounding to a float would change is not what the writer had; whether fp16 holds it too, bit_plan_check
 * tells. */
rb_status plan_json_exact_float(float *out, double value, const char *what, const char *where, rb_error *err);
/* A name as its index in `names`, NULL-terminated. */
rb_status plan_json_get_name(int *out, const cJSON *json, const char *key, const char *const *names, const char *where,
                             rb_error *err);
rb_status plan_json_get_codebook(codebook_kind *kind, const cJSON *json, const char *where, rb_error *err);

#endif
