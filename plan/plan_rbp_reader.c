/* plan.rbp -> bit_plan, through the library that runtimes link: what we read is what they read. */
#include <stdlib.h>
#include <string.h>

#include "plan/library/ropebits_plan.h"
#include "plan/plan_rbp.h"

static rb_status copy_text(char *out, size_t size, const char *text, const char *what, rb_error *err)
{
    if (strlen(text) >= size)
        return rb_fail(err, RB_EFORMAT, "%s \"%s\" is longer than %zu characters", what, text, size - 1);
    memcpy(out, text, strlen(text) + 1);
    return RB_OK;
}

static rb_status model_from_info(model_facts *model, const ropebits_plan_info *info, rb_error *err)
{
    rb_status st;
    *model = (model_facts){
        .n_layers = (int)info->n_layers,
        .n_q_heads = (int)info->n_q_heads,
        .n_kv_heads = (int)info->n_kv_heads,
        .head_dim = (int)info->head_dim,
        .rotary_dim = (int)info->rotary_dim,
        .attention_scale = info->attention_scale,
        .rope = {.kind = (rope_kind)info->rope_kind,
                 .pairing = (rope_pairing)info->pairing,
                 .theta = info->rope_theta,
                 .factor = info->rope_factor,
                 .low_freq_factor = info->rope_low_freq_factor,
                 .high_freq_factor = info->rope_high_freq_factor,
                 .original_max_position = (int64_t)info->rope_original_max_position},
    };
    memcpy(model->rope.inv_freq, info->inv_freq, info->rotary_dim / 2 * sizeof *info->inv_freq);
    RB_TRY(st, copy_text(model->model_type, sizeof model->model_type, info->model_type, "model type", err), done);
    RB_TRY(st, copy_text(model->config_sha256, sizeof model->config_sha256, info->config_sha256, "config hash", err),
           done);
    RB_TRY(st,
           copy_text(model->weights_sha256, sizeof model->weights_sha256, info->weights_sha256, "weights hash", err),
           done);
done:
    return st;
}

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

/* numbers [n] as doubles in `out`; NULL stays NULL. */
static const double *as_doubles(double *out, const float *numbers, int n)
{
    for (int i = 0; numbers && i < n; i++) out[i] = numbers[i];
    return numbers ? out : NULL;
}

static rb_status block_codebook_from_library(plan_head *out, const ropebits_head *head, int n_blocks, rb_error *err)
{
    double maps[BLOCK_CODEBOOK_MAP_SIZE * RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS];
    return plan_head_set_block_codebook(out, head->bits,
                                        as_doubles(maps, head->maps, BLOCK_CODEBOOK_MAP_SIZE * n_blocks),
                                        as_doubles(weights, head->weights, n_blocks), head->gain_bits, n_blocks, err);
}

static rb_status head_from_library(plan_head *out, const ropebits_head *head, const model_facts *model, rb_error *err)
{
    double scales[RB_MAX_BLOCKS], center[RB_MAX_HEAD_DIM];
    const int n_blocks = model_n_blocks(model), head_dim = model->head_dim;
    rb_status st = plan_head_set_transform(out, as_doubles(scales, head->scales, n_blocks), n_blocks,
                                           as_doubles(center, head->center, head_dim), head_dim, err);
    if (st == RB_OK && head->family == ROPEBITS_FAMILY_BLOCK_CODEBOOK)
        return block_codebook_from_library(out, head, n_blocks, err);
    out->groups.norm = (norm_kind)head->norm;
    out->groups.encoder = (plan_encoder)head->encoder;
    if (st == RB_OK) st = rb_alloc(&out->groups.at, head->n_groups, sizeof *out->groups.at, "groups of a head", err);
    for (; st == RB_OK && out->groups.n < head->n_groups; out->groups.n++)
        st = group_from_library(&out->groups.at[out->groups.n], &head->groups[out->groups.n], model, err);
    return st;
}

static rb_status plan_from_library(bit_plan **out, const ropebits_plan *source, const char *path, rb_error *err)
{
    const ropebits_plan_info *info = ropebits_plan_get_info(source);
    model_facts model;
    bit_plan *plan = NULL;
    rb_status st;
    RB_TRY(st, model_from_info(&model, info, err), done);
    RB_TRY(st, model_facts_check(&model, path, err), done);
    RB_TRY(st, bit_plan_create(&plan, &model, err), done);
    plan->avg_bits = info->avg_bits;
    plan->value_codebook = (codebook_kind)info->value_codebook;
    plan->calibration.n_tokens = (int64_t)info->calibration_n_tokens;
    plan->calibration.context = (int64_t)info->calibration_context;
    RB_TRY(st, copy_text(plan->method, sizeof plan->method, info->method, "method", err), done);
    RB_TRY(st,
           copy_text(plan->calibration.tokens_sha256, sizeof plan->calibration.tokens_sha256, info->calibration_sha256,
                     "calibration hash", err),
           done);
    for (int layer = 0; layer < model.n_layers; layer++)
        for (int kv_head = 0; kv_head < model.n_kv_heads; kv_head++) {
            const ropebits_head *head = ropebits_plan_head(source, (uint32_t)layer, (uint32_t)kv_head);
            plan->value_widths[layer * model.n_kv_heads + kv_head] = head->value_width;
            RB_TRY(st, head_from_library(bit_plan_head(plan, layer, kv_head), head, &model, err), done);
        }
    RB_TRY(st, bit_plan_check(plan, path, err), done);
    *out = plan;
    plan = NULL;
done:
    bit_plan_free(plan);
    return st;
}

rb_status plan_rbp_read(bit_plan **out, const char *path, rb_error *err)
{
    ropebits_plan *source = NULL;
    char message[512];
    *out = NULL;
    if (ropebits_plan_open(&source, path, message, sizeof message) != 0) return rb_fail(err, RB_EFORMAT, "%s", message);
    rb_status st = plan_from_library(out, source, path, err);
    ropebits_plan_close(source);
    return st;
}
