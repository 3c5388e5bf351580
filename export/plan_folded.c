/* See export/plan_folded.h. A scale is one number a block, so it commutes with RoPE, and q . k stays what it was. */
#include "export/plan_folded.h"

#include <stdlib.h>

#include "allocate/plan_json.h"
#include "export/tensor_set.h"
#include "model/checkpoint.h"

enum { TENSORS_PER_LAYER = 4 };     /* q_proj, k_proj: weight, bias */

/* ---- weights ------------------------------------------------------------------------------------------------------------------ */

static rb_status check_foldable(const bit_plan *plan, const model_config *config, const char *folder, rb_error *err)
{
    bool has_scales = false;
    const rb_status st = model_facts_same(&plan->model, "the plan", &config->facts, folder, err);
    if (st != RB_OK) return st;
    for (int h = 0; h < plan->model.n_layers * plan->model.n_kv_heads; h++) has_scales = has_scales || plan->heads[h].scales;
    if (!has_scales) return rb_fail(err, RB_EUNSUPPORTED, "the plan of method %s has no scales to fold, expected one of method optimal without --no-equalize", plan->method);
    if (config->qk_norm)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: %s norms q and k after their projections with weights that all heads share, expected a model without such norms to fold scales into",
                       folder, config->facts.model_type);
    return RB_OK;
}

/* Of one projection: q_proj, whose query heads belong to KV heads in turn, or k_proj. */
typedef struct projection {
    const char *name;
    int n_heads, heads_per_kv;
    bool is_query;
} projection;

/* Rows [n_heads * head_dim][width] of a layer, in place. */
static void scale_rows(float *rows, int64_t width, const projection *part, const bit_plan *plan, int layer)
{
    const model_facts *model = &plan->model;
    for (int h = 0; h < part->n_heads; h++) {
        const float *scales = bit_plan_head(plan, layer, h / part->heads_per_kv)->scales;
        for (int block = 0; scales && block < model_n_blocks(model); block++) {
            const double factor = part->is_query ? 1.0 / (double)scales[block] : (double)scales[block];
            int dims[2];
            model_block_dims(model, block, dims);
            for (int half = 0; half < 2; half++) {
                float *row = rows + ((int64_t)h * model->head_dim + dims[half]) * width;
                for (int64_t i = 0; i < width; i++) row[i] = (float)((double)row[i] * factor);
            }
        }
    }
}

/* Weight (width hidden_size) or bias (width 0) of a projection. */
static rb_status add_scaled(tensor_set *set, const checkpoint *model, const bit_plan *plan, int layer, const projection *part, int64_t width, rb_error *err)
{
    const int64_t shape[2] = {(int64_t)part->n_heads * plan->model.head_dim, width};
    const int rank = width ? 2 : 1;
    char *name = NULL;
    float *rows = NULL;
    rb_status st;
    RB_TRY(st, rb_format(&name, err, "model.layers.%d.self_attn.%s.%s", layer, part->name, width ? "weight" : "bias"), done);
    RB_TRY(st, tensor_set_add(set, name, TENSOR_F32, rank, shape[0], shape[1], &rows, err), done);
    RB_TRY(st, checkpoint_load(model, name, rank, shape, rows, err), done);
    scale_rows(rows, width ? width : 1, part, plan, layer);
done:
    return st;
}

static rb_status add_layer(tensor_set *set, const checkpoint *model, const bit_plan *plan, int layer, rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const projection parts[] = {{"q_proj", plan->model.n_q_heads, model_q_per_kv(&plan->model), true}, {"k_proj", plan->model.n_kv_heads, 1, false}};
    rb_status st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(parts) && st == RB_OK; i++) {
        st = add_scaled(set, model, plan, layer, &parts[i], config->hidden_size, err);
        if (st == RB_OK && config->qkv_bias) st = add_scaled(set, model, plan, layer, &parts[i], 0, err);
    }
    return st;
}

rb_status plan_folded_write_weights(const bit_plan *plan, const char *model_folder, const char *path, rb_error *err)
{
    static const char *const keys[] = {"format"}, *const values[] = {"pt"};
    checkpoint *model = NULL;
    tensor_set set = {0};
    rb_status st;
    RB_TRY(st, checkpoint_open(&model, model_folder, err), done);
    RB_TRY(st, check_foldable(plan, checkpoint_config(model), model_folder, err), done);
    RB_TRY(st, checkpoint_check(model, err), done);
    RB_TRY(st, tensor_set_create(&set, (int64_t)plan->model.n_layers * TENSORS_PER_LAYER, err), done);
    for (int layer = 0; layer < plan->model.n_layers; layer++) RB_TRY(st, add_layer(&set, model, plan, layer, err), done);
    RB_TRY(st, safetensors_write(path, set.at, set.n, keys, values, RB_COUNT(keys), err), done);
done:
    tensor_set_free(&set);
    checkpoint_close(model);
    return st;
}

/* ---- plan --------------------------------------------------------------------------------------------------------------------- */

/* The keys of such a model are x * scale, so their mean is center * scale. */
static rb_status set_folded_center(plan_head *out, const plan_head *head, const model_facts *model, rb_error *err)
{
    double center[RB_MAX_HEAD_DIM];
    for (int block = 0; head->center && block < model_n_blocks(model); block++) {
        int dims[2];
        model_block_dims(model, block, dims);
        for (int half = 0; half < 2; half++) center[dims[half]] = (double)head->center[dims[half]] * (head->scales ? (double)head->scales[block] : 1.0);
    }
    return plan_head_set_transform(out, NULL, model_n_blocks(model), head->center ? center : NULL, model->head_dim, err);
}

rb_status plan_folded_write_plan(const bit_plan *plan, const char *path, rb_error *err)
{
    const model_facts *model = &plan->model;
    bit_plan *folded = NULL;
    plan_head *heads;
    rb_status st;
    RB_TRY(st, bit_plan_create(&folded, model, err), done);
    heads = folded->heads;
    *folded = *plan;
    folded->heads = heads;
    folded->model.weights_sha256[0] = '\0';
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++) {
        RB_TRY(st, plan_head_copy(&heads[h], &plan->heads[h], model_n_blocks(model), model->head_dim, err), done);
        RB_TRY(st, set_folded_center(&heads[h], &plan->heads[h], model, err), done);
    }
    RB_TRY(st, bit_plan_check(folded, path, err), done);
    RB_TRY(st, plan_json_write(folded, path, err), done);
done:
    bit_plan_free(folded);
    return st;
}
