/* plan.json, for people and CI: reader and writer. Fields: docs/plan-json.md. */
#ifndef RB_PLAN_PLAN_JSON_H
#define RB_PLAN_PLAN_JSON_H

#include <cjson/cJSON.h>

#include "plan/bit_plan.h"

#define PLAN_SCHEMA "ropebits-plan"
/* A basis of 128 dims takes 43 KiB: a plan of 70 B parameters with one a key head and a value head is 60 MB. */
#define PLAN_JSON_MAX_SIZE ((size_t)1 << 30)

rb_status plan_to_json(cJSON **out, const bit_plan *plan, rb_error *err);
rb_status plan_from_json(bit_plan **out, const cJSON *document, const char *name, rb_error *err);

/* Adds the members of a cost to an object, named as the fields. */
rb_status plan_cost_to_json(cJSON *json, const plan_cost *cost, rb_error *err);

/* Adds value_width, the mean over heads, and where they differ value_width_range, the least and the most. */
rb_status plan_value_width_to_json(cJSON *json, const bit_plan *plan, rb_error *err);

rb_status plan_json_write(const bit_plan *plan, const char *path, rb_error *err); /* atomic */
rb_status plan_json_read(bit_plan **out, const char *path,
                         rb_error *err); /* checks everything bit_plan_check checks, and the stated cost */

#endif
