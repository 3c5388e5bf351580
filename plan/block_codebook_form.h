/* What the files of family block-codebook share: its part of plan.json, for its row (plan/block_codebook_form.c). */
#ifndef RB_PLAN_BLOCK_CODEBOOK_FORM_H
#define RB_PLAN_BLOCK_CODEBOOK_FORM_H

#include "plan/plan_family.h"

extern const char *const block_codebook_json_members[];
rb_status block_codebook_to_json(cJSON *json, const plan_head *head, const model_facts *model, rb_error *err);
rb_status block_codebook_from_json(plan_head *out, const cJSON *json, const model_facts *model, const char *where,
                                   rb_error *err);

#endif
