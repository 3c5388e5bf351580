/* The row of family groups in the table of plan/plan_family.h: its columns, its codebooks, its words. Its part of
 * plan.json: plan/groups_json.c. */
#include "plan/groups_form.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "plan/library/plan_rbp_format.h"

enum { MAX_STORED_GROUPS = PLAN_RBP_NO_GROUP };

/* ---- columns of a head ----------------------------------------------------------------------- */

static int take_n_groups(plan_number *out, const bit_plan *plan, int h)
{
    out[0].whole = plan->heads[h].groups.n;
    return 1;
}

static int take_norm(plan_number *out, const bit_plan *plan, int h)
{
    out[0].whole = (int64_t)plan->heads[h].groups.norm;
    return 1;
}

static int take_encoder(plan_number *out, const bit_plan *plan, int h)
{
    out[0].whole = (int64_t)plan->heads[h].groups.encoder;
    return 1;
}

static int take_scales(plan_number *out, const bit_plan *plan, int h)
{
    return plan_numbers_put(out, plan->heads[h].groups.scales, model_n_blocks(&plan->model));
}

/* The group of every block. */
static int take_block_groups(plan_number *out, const bit_plan *plan, int h)
{
    const plan_groups *groups = &plan->heads[h].groups;
    for (int block = 0; block < model_n_blocks(&plan->model); block++) out[block].whole = PLAN_RBP_NO_GROUP;
    for (int g = 0; g < groups->n; g++)
        for (int i = 0; i < groups->at[g].n_blocks; i++) out[groups->at[g].blocks[i]].whole = g;
    return model_n_blocks(&plan->model);
}

/* ---- columns of a group ---------------------------------------------------------------------- */

/* A getter of one number of every group. */
#define GROUP_GETTER(name, member, number)                         \
    static int name(plan_number *out, const bit_plan *plan, int h) \
    {                                                              \
        const plan_groups *groups = &plan->heads[h].groups;        \
        for (int g = 0; g < groups->n; g++) {                      \
            const plan_group *group = &groups->at[g];              \
            out[g].member = number;                                \
        }                                                          \
        return groups->n;                                          \
    }
GROUP_GETTER(take_index, whole, (int64_t)(group - groups->at))
GROUP_GETTER(take_width, whole, group->width)
GROUP_GETTER(take_order, whole, (int64_t)group->order)
GROUP_GETTER(take_rotation, whole, (int64_t)group->rotation.kind)
GROUP_GETTER(take_codebook, whole, (int64_t)group->codebook)
GROUP_GETTER(take_seed, whole, (int64_t)group->rotation.seed)
GROUP_GETTER(take_norm_exponent, whole, group->norm_exponent)
GROUP_GETTER(take_coherence, real, group->coherence)
#undef GROUP_GETTER

static int coding_order(int *dims, int *group_of, const plan_head *head, const model_facts *model)
{
    int n = 0;
    for (int g = 0; g < head->groups.n; g++) {
        const plan_group *group = &head->groups.at[g];
        plan_group_dims(group, model, dims + n);
        for (int i = 0; i < group->rotation.dims; i++) group_of[n++] = g;
    }
    return n;
}

static int take_dims(plan_number *out, const bit_plan *plan, int h)
{
    int dims[RB_MAX_HEAD_DIM], groups[RB_MAX_HEAD_DIM];
    const int n = coding_order(dims, groups, &plan->heads[h], &plan->model);
    for (int i = 0; i < n; i++) out[i].whole = dims[i];
    return n;
}

/* A ropebits_plan_group of plan.h. */
static void write_group(FILE *out, const plan_head *head, int g)
{
    const plan_group *group = &head->groups.at[g];
    int first_dim = 0;
    for (int i = 0; i < g; i++) first_dim += head->groups.at[i].rotation.dims;
    fprintf(out, "{%d, %d, %d, %d, %" PRIu64 "u, ropebits_centroids_%d_w%d_d%d}", group->width,
            (int)group->rotation.kind, first_dim, group->rotation.dims, group->rotation.seed, (int)group->codebook,
            group->width, group->rotation.dims);
}

/* ---- the table ------------------------------------------------------------------------------- */

#define OF_HEAD  .family = FAMILY_GROUPS, .extent = COLUMN_OF_HEAD
#define OF_GROUP .family = FAMILY_GROUPS, .extent = COLUMN_OF_GROUP
#define OF_BLOCK .family = FAMILY_GROUPS, .extent = COLUMN_OF_BLOCK
static const plan_column columns[] = {
    {OF_HEAD, .since = 1, .type = COLUMN_U8, .take = take_n_groups, .place = {[FORM_HEADER] = 2, [FORM_RBP] = 2},
     .header_name = "ropebits_n_groups", .storing = STORED_OF_EVERY_HEAD},
    {OF_HEAD, .since = 2, .type = COLUMN_U8, .take = take_norm,
     .place = {[FORM_HEADER] = 6, [FORM_TENSORS] = 25, [FORM_RBP] = 3}, .header_name = "ropebits_k_norm",
     .tensor_name = "k_norms", .storing = STORED_OF_EVERY_HEAD},
    {OF_HEAD, .since = 2, .type = COLUMN_U8, .take = take_encoder,
     .place = {[FORM_HEADER] = 8, [FORM_TENSORS] = 26, [FORM_RBP] = 4}, .header_name = "ropebits_k_encoder",
     .tensor_name = "k_encoders", .storing = STORED_OF_EVERY_HEAD},
    {OF_GROUP, .since = 1, .type = COLUMN_U8, .take = take_index, .place = {[FORM_HEADER] = 3, [FORM_TENSORS] = 34},
     .header_name = "ropebits_k_groups", .header_type = "ropebits_plan_group",
     .header_otherwise = "{0, 0, 0, 0, 0u, 0}", .write_item = write_group, .tensor_name = "k_groups",
     .no_group = PLAN_RBP_NO_GROUP, .otherwise = PLAN_RBP_NO_GROUP},
    {OF_GROUP, .since = 1, .type = COLUMN_U8, .take = take_width, .place = {[FORM_TENSORS] = 33, [FORM_RBP] = 5},
     .tensor_name = "k_widths"},
    {OF_GROUP, .since = 1, .type = COLUMN_U8, .take = take_order, .place = {[FORM_RBP] = 6}},
    {OF_GROUP, .since = 1, .type = COLUMN_U8, .take = take_rotation, .place = {[FORM_RBP] = 7}},
    {OF_GROUP, .since = 1, .type = COLUMN_U8, .take = take_codebook, .place = {[FORM_RBP] = 8}},
    {OF_GROUP, .since = 1, .type = COLUMN_U64, .take = take_seed, .place = {[FORM_RBP] = 9}},
    {OF_GROUP, .since = 2, .type = COLUMN_I8, .take = take_norm_exponent,
     .place = {[FORM_HEADER] = 7, [FORM_TENSORS] = 24, [FORM_RBP] = 10}, .header_name = "ropebits_k_norm_exponent",
     .tensor_name = "k_norm_exponents"},
    {OF_GROUP, .since = 2, .type = COLUMN_F16, .take = take_coherence,
     .place = {[FORM_HEADER] = 9, [FORM_TENSORS] = 23, [FORM_RBP] = 11}, .header_name = "ropebits_k_coherence",
     .tensor_name = "k_coherences", .otherwise = 1.0},
    {.family = FAMILY_GROUPS,
     .since = 1,
     .extent = COLUMN_OF_POSITION,
     .type = COLUMN_U16,
     .take = take_dims,
     .place = {[FORM_HEADER] = 4},
     .header_comment = "/* dims of the head in coding order */\n",
     .header_name = "ropebits_k_dims"},
    {OF_BLOCK, .since = 1, .type = COLUMN_U8, .take = take_block_groups, .place = {[FORM_RBP] = 12}},
    {OF_BLOCK, .since = 2, .type = COLUMN_F16, .take = take_scales,
     .place = {[FORM_HEADER] = 10, [FORM_TENSORS] = 21, [FORM_RBP] = 13}, .header_comment = "/* 1: none */\n",
     .header_name = "ropebits_k_scales", .tensor_name = "k_scales", .otherwise = 1.0, .storing = STORED_AFTER_FLAGS},
};
#undef OF_BLOCK
#undef OF_GROUP
#undef OF_HEAD

/* ---- plan.rbp -------------------------------------------------------------------------------- */

static rb_status check_storable(const plan_head *head, const char *where, rb_error *err)
{
    if (head->groups.n <= MAX_STORED_GROUPS) return RB_OK;
    return rb_fail(err, RB_EUNSUPPORTED, "%s: %d groups, expected at most %d in a plan.rbp", where, head->groups.n,
                   MAX_STORED_GROUPS);
}

/* ---- codebooks, scales ----------------------------------------------------------------------- */

static rb_status add_codebooks(plan_codebooks *out, const plan_head *head, const model_facts *model, rb_error *err)
{
    rb_status st = RB_OK;
    (void)model;
    for (int g = 0; g < head->groups.n && st == RB_OK; g++) {
        const plan_group *group = &head->groups.at[g];
        st = plan_codebooks_add(out, &(codebook_spec){group->codebook, group->width, group->rotation.dims}, err);
    }
    return st;
}

static const float *scales(const plan_head *head) { return head->groups.scales; }

/* ---- words ----------------------------------------------------------------------------------- */

static bool has_log8_norms(const plan_head *head) { return head->groups.norm == NORM_LOG8; }
static bool is_searched(const plan_head *head) { return head->groups.encoder == ENCODER_SEARCH; }
static bool has_scales(const plan_head *head) { return head->groups.scales != NULL; }

static const plan_word words[] = {
    {"norms", "log8, one byte each, in ", "heads", has_log8_norms},
    {"encoder", "search in ", "heads", is_searched},
    {"equalizing", "scales in ", "heads: fold them into q_proj and k_proj, or apply them", has_scales},
    {0},
};

static void describe(char *out, size_t size, const plan_head *head)
{
    snprintf(out, size, "%d groups", head->groups.n);
}

static const char group_type[] = "\ntypedef struct ropebits_plan_group {\n"
                                 "    uint8_t width;          /* bits a code */\n"
                                 "    uint8_t rotation;       /* kind: 0 haar, 1 hadamard */\n"
                                 "    uint16_t first_dim;     /* of ropebits_k_dims */\n"
                                 "    uint16_t n_dims;\n"
                                 "    uint64_t seed;          /* of the rotation */\n"
                                 "    const float *centroids; /* [1 << width] */\n"
                                 "} ropebits_plan_group;\n";

static_assert(PLAN_FP16_WIDTH == 16, "the width that the comment of plan.h names");
static const plan_comment header_comments[] = {
    {.since = PLAN_VERSION_GENERAL,
     .text = "/* This plan goes beyond that, head by head:\n"
             " *   ropebits_v_width    bits of a value's code, 16: values stay fp16\n"
             " *   ropebits_k_scales, ropebits_k_center   a key x, as it enters RoPE, is coded as (x - center) * scale "
             "and put "
             "back after. Scales of a block can be folded into\n"
             " *                       the weights: rows of k_proj times them, rows of q_proj over them. A cache of "
             "rotated "
             "keys adds q . R_t center to its logits.\n"
             " *   ropebits_k_norm     0: norms are fp16; 1: one byte, 0 is norm 0, c is 2^(norm_exponent - (255 - c) "
             "/ 16)\n"
             " *   ropebits_k_encoder  1: the plan was measured with an encoder that searches codes (docs/method.md of "
             "ropebits), by the group's coherence; decoding is the same\n"
             " *   width 0             the block is in no group: nothing is stored, it comes back as its center. Its "
             "dims are "
             "not in ropebits_k_dims. */\n"},
    {0},
};

const plan_family groups_form = {
    .since = PLAN_VERSION_PUBLISHED,
    .members = groups_json_members,
    .to_json = groups_to_json,
    .from_json = groups_from_json,
    .check_storable = check_storable,
    .columns = columns,
    .n_columns = RB_COUNT(columns),
    .add_codebooks = add_codebooks,
    .coding_order = coding_order,
    .scales = scales,
    .words = words,
    .describe = describe,
    .header_types = group_type,
    .header_comments = header_comments,
};
