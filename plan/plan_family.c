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

int plan_family_cells(uint8_t *out, const plan_head *head, int n_blocks)
{
    const plan_family *family = plan_family_of(head);
    if (family->coordinate_widths) return family->coordinate_widths(out, head);
    plan_head_bits(head, out, n_blocks);
    return n_blocks;
}

int plan_family_version(const char **what, const plan_head *head, int n_blocks)
{
    const plan_family *family = plan_family_of(head);
    *what = NULL;
    return family->version ? family->version(what, head, n_blocks) : family->since;
}

bool plan_model_is_new(const model_facts *model)
{
    return model->value_dim != model->head_dim || (int)model->rope.kind > PLAN_RBP_OLD_MAX_ROPE_KIND
           || model->rope.attention_factor != 1 || model->has_local_rope;
}

int plan_version(const bit_plan *plan)
{
    if (bit_plan_keeps_exact(plan) || plan->value_heads) return PLAN_VERSION_EXACT;
    int version = plan_model_is_new(&plan->model)    ? PLAN_VERSION_MODEL
                  : bit_plan_is_published_form(plan) ? PLAN_VERSION_PUBLISHED
                                                     : PLAN_VERSION_GENERAL;
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        const char *what;
        const int own = plan_family_version(&what, &plan->heads[h], model_n_blocks(&plan->model));
        if (own > version) version = own;
    }
    return version;
}
