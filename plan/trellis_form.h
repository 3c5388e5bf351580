/* What the files of family trellis share: its part of plan.json, for its row (plan/trellis_form.c). */
#ifndef RB_PLAN_TRELLIS_FORM_H
#define RB_PLAN_TRELLIS_FORM_H

#include "plan/plan_family.h"

extern const char *const trellis_json_members[];
rb_status trellis_to_json(cJSON *json, const plan_head *head, const model_facts *model, rb_error *err);
rb_status trellis_from_json(plan_head *out, const cJSON *json, const model_facts *model, const char *where,
                            rb_error *err);

#endif
