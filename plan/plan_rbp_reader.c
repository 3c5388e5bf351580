/* plan.rbp -> bit_plan, through the library that runtimes link: what we read is what they read. */
#include <stdlib.h>
#include <string.h>

#include "plan/library/ropebits_plan.h"
#include "plan/plan_rbp.h"
#include "plan/plan_rbp_head.h"

#define RB_FAMILY_ROW(NAME, prefix, name) prefix##_from_library,
static plan_head_from_library *const family_readers[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW

static rb_status copy_text(char *out, size_t size, const char *text, const char *what, rb_error *err)
{
    if (strlen(text) >= size)
        return rb_fail(err, RB_EFORMAT, "%s \"%s\" is longer than %zu characters", what, text, size - 1);
    memcpy(out, text, strlen(text) + 1);
    return RB_OK;
}

static void local_rope_from_info(model_facts *model, const ropebits_plan_info *info)
{
    model->has_local_rope = true;
    model->local_rope = (rope_facts){.kind = (rope_kind)info->local_rope_kind,
                                     .pairing = (rope_pairing)info->pairing,
                                     .theta = info->local_rope_theta,
                                     .factor = info->local_rope_factor,
                                     .low_freq_factor = info->local_rope_low_freq_factor,
                                     .high_freq_factor = info->local_rope_high_freq_factor,
                                     .original_max_position = (int64_t)info->local_rope_original_max_position,
                                     .attention_factor = info->local_rope_attention_factor};
    memcpy(model->local_rope.inv_freq, info->local_inv_freq, info->rotary_dim / 2 * sizeof *info->local_inv_freq);
    for (int layer = 0; layer < model->n_layers; layer++)
        model->layer_is_local[layer] = info->layer_is_local[layer] != 0;
}

static rb_status model_from_info(model_facts *model, const ropebits_plan_info *info, rb_error *err)
{
    rb_status st;
    if (info->n_layers > MODEL_FACTS_MAX_LAYERS)
        return rb_fail(err, RB_EFORMAT, "n_layers is %u, expected at most %d", info->n_layers, MODEL_FACTS_MAX_LAYERS);
    *model = (model_facts){
        .n_layers = (int)info->n_layers,
        .n_q_heads = (int)info->n_q_heads,
        .n_kv_heads = (int)info->n_kv_heads,
        .head_dim = (int)info->head_dim,
        .rotary_dim = (int)info->rotary_dim,
        .value_dim = (int)info->value_dim,
        .attention_scale = info->attention_scale,
        .rope = {.kind = (rope_kind)info->rope_kind,
                 .pairing = (rope_pairing)info->pairing,
                 .theta = info->rope_theta,
                 .factor = info->rope_factor,
                 .low_freq_factor = info->rope_low_freq_factor,
                 .high_freq_factor = info->rope_high_freq_factor,
                 .original_max_position = (int64_t)info->rope_original_max_position,
                 .attention_factor = info->rope_attention_factor},
    };
    memcpy(model->rope.inv_freq, info->inv_freq, info->rotary_dim / 2 * sizeof *info->inv_freq);
    if (info->layer_is_local) local_rope_from_info(model, info);
    RB_TRY(st, copy_text(model->model_type, sizeof model->model_type, info->model_type, "model type", err), done);
    RB_TRY(st, copy_text(model->config_sha256, sizeof model->config_sha256, info->config_sha256, "config hash", err),
           done);
    RB_TRY(st,
           copy_text(model->weights_sha256, sizeof model->weights_sha256, info->weights_sha256, "weights hash", err),
           done);
done:
    return st;
}

static rb_status head_from_library(plan_head *out, const ropebits_head *head, const model_facts *model, rb_error *err)
{
    const rb_status st = plan_floats_copy(&out->center, head->center, model->head_dim, err);
    return st == RB_OK ? family_readers[head->family](out, head, model, err) : st;
}

/* Heads that values have of their own. */
static rb_status value_heads_from_library(bit_plan *plan, const ropebits_plan *source, rb_error *err)
{
    const model_facts values = model_value_facts(&plan->model);
    rb_status st = RB_OK;
    if (!ropebits_plan_value_head(source, 0, 0)) return RB_OK;
    RB_TRY(st, bit_plan_create_value_heads(plan, err), done);
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        RB_TRY(st,
               head_from_library(&plan->value_heads[h],
                                 ropebits_plan_value_head(source, (uint32_t)(h / values.n_kv_heads),
                                                          (uint32_t)(h % values.n_kv_heads)),
                                 &values, err),
               done);
done:
    return st;
}

rb_status plan_rbp_convert(bit_plan **out, const ropebits_plan *source, const char *path, rb_error *err)
{
    const ropebits_plan_info *info = ropebits_plan_get_info(source);
    model_facts model;
    bit_plan *plan = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, model_from_info(&model, info, err), done);
    RB_TRY(st, model_facts_check(&model, path, err), done);
    RB_TRY(st, bit_plan_create(&plan, &model, err), done);
    plan->avg_bits = info->avg_bits;
    plan->value_codebook = (codebook_kind)info->value_codebook;
    plan->n_sink = info->n_sink;
    plan->n_recent = info->n_recent;
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
    RB_TRY(st, value_heads_from_library(plan, source, err), done);
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
    rb_status st = plan_rbp_convert(out, source, path, err);
    ropebits_plan_close(source);
    return st;
}
