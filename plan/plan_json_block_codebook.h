/* The members of plan.json that a head of block-codebook has in place of groups. For the reader and writer of
 * plan.json. */
#ifndef RB_PLAN_PLAN_JSON_BLOCK_CODEBOOK_H
#define RB_PLAN_PLAN_JSON_BLOCK_CODEBOOK_H

#include <cjson/cJSON.h>

#include "plan/bit_plan.h"

rb_status plan_block_codebook_to_json(cJSON *json, const plan_block_codebook *planes, int n_blocks, rb_error *err);
/* The head keeps its centre. Whatever belongs to groups is refused. */
rb_status plan_block_codebook_from_json(plan_head *head, const cJSON *json, int n_blocks, const char *where,
                                        rb_error *err);
/* Of a head of groups: it has no members of the other family. */
rb_status plan_json_refuse_block_codebook(const cJSON *json, const char *where, rb_error *err);

#endif
