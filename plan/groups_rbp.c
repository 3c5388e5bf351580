/* A head of family groups out of a plan.rbp: a row of the table in plan/plan_rbp_reader.c. */
#include "plan/plan_rbp_head.h"

/* The block a group's dim belongs to: the inverse of model_block_dims for its first dim. */
static int block_of_dim(const model_facts *model, int dim)
{
    if (dim >= model->rotary_dim || model->rope.pairing == ROPE_INTERLEAVED) return dim / 2;
    return dim % (model->rotary_dim / 2);
}

static rb_status group_from_library(plan_group *out, const ropebits_group *group, const model_facts *model,
                                    rb_error *err)
{
    bool in_group[RB_MAX_BLOCKS] = {false};
    *out =
        (plan_group){.width = group->width,
                     .order = (group_order)group->order,
                     .codebook = (codebook_kind)group->codebook,
                     .norm_exponent = group->norm_exponent,
                     .coherence = group->coherence,
                     .rotation = {.kind = (rotation_kind)group->rotation, .seed = group->seed, .dims = group->n_dims}};
    rb_status st = rb_alloc(&out->blocks, group->n_dims / 2, sizeof *out->blocks, "blocks of a group", err);
    if (st != RB_OK) return st;
    for (int i = 0; i < group->n_dims; i++) in_group[block_of_dim(model, group->dims[i])] = true;
    for (int block = 0; block < model_n_blocks(model); block++)
        if (in_group[block]) out->blocks[out->n_blocks++] = block;
    return RB_OK;
}

rb_status groups_from_library(plan_head *out, const ropebits_head *head, const model_facts *model, rb_error *err)
{
    plan_groups *groups = &out->groups;
    rb_status st;
    out->family = FAMILY_GROUPS;
    groups->norm = (norm_kind)head->norm;
    groups->encoder = (plan_encoder)head->encoder;
    RB_TRY(st, plan_floats_copy(&groups->scales, head->scales, model_n_blocks(model), err), done);
    RB_TRY(st, rb_alloc(&groups->at, head->n_groups, sizeof *groups->at, "groups of a head", err), done);
    for (; groups->n < head->n_groups; groups->n++)
        RB_TRY(st, group_from_library(&groups->at[groups->n], &head->groups[groups->n], model, err), done);
done:
    return st;
}
