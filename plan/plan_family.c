/* See plan/plan_family.h. */
#include "plan/plan_family.h"

#define RB_FAMILY_ROW(NAME, prefix, name) &prefix##_form,
const plan_family *const plan_families[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW

const float *plan_family_scales(const plan_head *head)
{
    const plan_family *family = plan_family_of(head);
    return family->scales ? family->scales(head) : NULL;
}

int plan_version(const bit_plan *plan)
{
    int version = bit_plan_is_published_form(plan) ? PLAN_VERSION_PUBLISHED : PLAN_VERSION_GENERAL;
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        if (plan_family_of(&plan->heads[h])->since > version) version = plan_family_of(&plan->heads[h])->since;
    return version;
}
