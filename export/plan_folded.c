/* See export/plan_folded.h. A scale is one number a block, so it commutes with RoPE, and q . k stays what it was. */
#include "export/plan_folded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "model/checkpoint.h"
#include "plan/plan_family.h"
#include "plan/plan_json.h"

enum { NAME_SIZE = 96, MOST_TENSORS_PER_LAYER = 4 };

/* A tensor that takes scales: n_heads * head_dim rows of n_columns. */
typedef struct folded_tensor {
    char name[NAME_SIZE];
    int layer;
    bool is_query;
    int n_heads, rank;
    int64_t shape[2]; /* as the checkpoint has it; shape[1] only of matrices */
} folded_tensor;

typedef struct folding {
    const bit_plan *plan;
    const checkpoint *model;
    int n;
    folded_tensor *tensors; /* [n], in file order */
    safetensor *entries;    /* [n], the same, without data */
    float *values;          /* of the tensor at work, as f32 */
    unsigned char *bytes;   /* and as it is written */
} folding;

static int64_t columns_of(const folded_tensor *tensor) { return tensor->rank == 2 ? tensor->shape[1] : 1; }

static rb_status check_scales(const bit_plan *plan, rb_error *err)
{
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        if (plan_family_scales(&plan->heads[h])) return RB_OK;
    return rb_fail(err, RB_EUNSUPPORTED,
                   "the plan of method %s has no scales to fold, expected one of method optimal without --no-equalize",
                   plan->method);
}

/* Scale of every dim of a head, [head_dim]. */
static void dim_scales(double *scales, const plan_head *head, const model_facts *model)
{
    const float *of_blocks = plan_family_scales(head);
    for (int block = 0; block < model_n_blocks(model); block++) {
        int dims[2];
        model_block_dims(model, block, dims);
        scales[dims[0]] = scales[dims[1]] = of_blocks ? (double)of_blocks[block] : 1.0;
    }
}

/* ---- the model ------------------------------------------------------------------------------- */

static rb_status check_model(const bit_plan *plan, const checkpoint *model, rb_error *err)
{
    model_facts facts = checkpoint_config(model)->facts;
    rb_status st;
    RB_TRY(st, checkpoint_check(model, err), done);
    if (plan->model.weights_sha256[0]) RB_TRY(st, checkpoint_weights_sha256(model, facts.weights_sha256, err), done);
    RB_TRY(st, model_facts_same(&plan->model, "the plan", &facts, checkpoint_folder(model), err), done);
done:
    return st;
}

static rb_status check_shared_norms(const bit_plan *plan, int layer, rb_error *err)
{
    double first[RB_MAX_HEAD_DIM], other[RB_MAX_HEAD_DIM];
    dim_scales(first, bit_plan_head(plan, layer, 0), &plan->model);
    for (int kv_head = 1; kv_head < plan->model.n_kv_heads; kv_head++) {
        dim_scales(other, bit_plan_head(plan, layer, kv_head), &plan->model);
        for (int dim = 0; dim < plan->model.head_dim; dim++)
            if (first[dim] != other[dim])
                return rb_fail(err, RB_EUNSUPPORTED,
                               "layer %d: dim %d has scale %g in kv_head 0 and %g in kv_head %d, expected equal ones: "
                               "%s norms q and k after their projections with "
                               "weights that all heads share",
                               layer, dim, first[dim], other[dim], kv_head, plan->model.model_type);
    }
    return RB_OK;
}

/* ---- what is written ------------------------------------------------------------------------- */

/* Appends a tensor of the model; n_columns 0: a vector. */
static rb_status add_tensor(folding *f, int layer, const char *module, const char *kind, bool is_query, int n_heads,
                            int64_t n_columns, rb_error *err)
{
    folded_tensor *tensor = &f->tensors[f->n];
    const safetensor *found;
    *tensor = (folded_tensor){.layer = layer,
                              .is_query = is_query,
                              .n_heads = n_heads,
                              .rank = n_columns ? 2 : 1,
                              .shape = {(int64_t)n_heads * f->plan->model.head_dim, n_columns}};
    snprintf(tensor->name, sizeof tensor->name, "model.layers.%d.self_attn.%s.%s", layer, module, kind);
    const rb_status st = checkpoint_tensor(f->model, tensor->name, tensor->rank, tensor->shape, &found, err);
    if (st != RB_OK) return st;
    f->entries[f->n] = *found;
    f->entries[f->n].name = tensor->name;
    f->entries[f->n].data = NULL;
    if (tensor_dtype_is_block(found->dtype)) { /* scaled codes are no codes of a block type */
        f->entries[f->n].dtype = TENSOR_F32;
        tensor_shape_bytes(TENSOR_F32, tensor->rank, tensor->shape, &f->entries[f->n].size_bytes);
    }
    f->n++;
    return RB_OK;
}

static rb_status add_projection(folding *f, int layer, bool is_query, rb_error *err)
{
    const model_config *config = checkpoint_config(f->model);
    const int n_heads = is_query ? config->facts.n_q_heads : config->facts.n_kv_heads;
    const char *module = is_query ? "q_proj" : "k_proj";
    const rb_status st = add_tensor(f, layer, module, "weight", is_query, n_heads, config->hidden_size, err);
    return st == RB_OK && (config->extras & EXTRA_QKV_BIAS)
               ? add_tensor(f, layer, module, "bias", is_query, n_heads, 0, err)
               : st;
}

static rb_status add_layer(folding *f, int layer, rb_error *err)
{
    rb_status st;
    if (checkpoint_config(f->model)->extras & EXTRA_QK_NORM) {
        RB_TRY(st, check_shared_norms(f->plan, layer, err), done);
        RB_TRY(st, add_tensor(f, layer, "q_norm", "weight", true, 1, 0, err), done);
        RB_TRY(st, add_tensor(f, layer, "k_norm", "weight", false, 1, 0, err), done);
    } else {
        RB_TRY(st, add_projection(f, layer, true, err), done);
        RB_TRY(st, add_projection(f, layer, false, err), done);
    }
done:
    return st;
}

/* Row by row: values into bytes, with the scale of the row's dim. */
static rb_status scale_rows(const folding *f, const folded_tensor *tensor, tensor_dtype dtype, rb_error *err)
{
    const model_facts *model = &f->plan->model;
    const int heads_per_kv = tensor->is_query ? model_q_per_kv(model) : 1, d = model->head_dim;
    const int64_t n_columns = columns_of(tensor);
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(static)
    for (int head = 0; head < tensor->n_heads; head++) {
        double scales[RB_MAX_HEAD_DIM];
        dim_scales(scales, bit_plan_head(f->plan, tensor->layer, head / heads_per_kv), model);
        for (int dim = 0; dim < d; dim++) {
            const int64_t first = ((int64_t)head * d + dim) * n_columns;
            const float scale = (float)scales[dim];
            rb_error mine = {0};
            for (int64_t i = first; i < first + n_columns; i++)
                f->values[i] = tensor->is_query ? f->values[i] / scale : f->values[i] * scale;
            rb_note_failure(&failure, first,
                            tensor_from_f32(dtype, f->values + first, n_columns,
                                            f->bytes + (size_t)first * tensor_dtype_size(dtype), &mine),
                            &mine);
        }
    }
    const rb_status st = rb_tell_failure(&failure, err);
    return st == RB_OK ? st
                       : rb_fail_in(err, st, "%s: tensor \"%s\", folded", checkpoint_folder(f->model), tensor->name);
}

static rb_status fold_tensor(void *user, int64_t index, const void **data, rb_error *err)
{
    const folding *f = user;
    const folded_tensor *tensor = &f->tensors[index];
    const rb_status st = checkpoint_load(f->model, tensor->name, tensor->rank, tensor->shape, f->values, err);
    *data = f->bytes;
    return st == RB_OK ? scale_rows(f, tensor, f->entries[index].dtype, err) : st;
}

static rb_status collect_tensors(folding *f, rb_error *err)
{
    const size_t most = (size_t)f->plan->model.n_layers * MOST_TENSORS_PER_LAYER;
    int64_t most_values = 0;
    rb_status st;
    RB_TRY(st, rb_alloc(&f->tensors, most, sizeof *f->tensors, "folded tensors", err), done);
    RB_TRY(st, rb_alloc(&f->entries, most, sizeof *f->entries, "folded tensors", err), done);
    for (int layer = 0; layer < f->plan->model.n_layers; layer++) RB_TRY(st, add_layer(f, layer, err), done);
    for (int i = 0; i < f->n; i++) {
        const int64_t n_values = f->tensors[i].shape[0] * columns_of(&f->tensors[i]);
        if (n_values > most_values) most_values = n_values;
    }
    RB_TRY(st, rb_alloc(&f->values, (size_t)most_values, sizeof *f->values, "a projection", err), done);
    RB_TRY(st, rb_alloc(&f->bytes, (size_t)most_values, sizeof(float), "a projection", err), done);
done:
    return st;
}

rb_status plan_folded_write_weights(const bit_plan *plan, const char *model_folder, const char *path, rb_error *err)
{
    static const char *const keys[] = {"format"}, *const values[] = {"pt"};
    folding f = {.plan = plan};
    checkpoint *model = NULL;
    rb_status st;
    RB_TRY(st, check_scales(plan, err), done);
    RB_TRY(st, checkpoint_open(&model, model_folder, err), done);
    RB_TRY(st, check_model(plan, model, err), done);
    f.model = model;
    RB_TRY(st, collect_tensors(&f, err), done);
    RB_TRY(st, safetensors_write_from(path, f.entries, f.n, fold_tensor, &f, keys, values, RB_COUNT(keys), err), done);
done:
    free(f.tensors);
    free(f.entries);
    free(f.values);
    free(f.bytes);
    checkpoint_close(model);
    return st;
}

/* ---- the plan that is left ------------------------------------------------------------------- */

/* The keys of such a model are x * scale, so their mean is center * scale. */
static rb_status fold_head(plan_head *out, const plan_head *head, const model_facts *model, rb_error *err)
{
    double scales[RB_MAX_HEAD_DIM], center[RB_MAX_HEAD_DIM];
    const rb_status st = plan_head_copy(out, head, model_n_blocks(model), model->head_dim, err);
    if (st != RB_OK) return st;
    dim_scales(scales, head, model);
    for (int dim = 0; head->center && dim < model->head_dim; dim++)
        center[dim] = (double)head->center[dim] * scales[dim];
    return plan_head_set_transform(out, NULL, model_n_blocks(model), head->center ? center : NULL, model->head_dim,
                                   err);
}

rb_status plan_folded_write_plan(const bit_plan *plan, const char *path, rb_error *err)
{
    const model_facts *model = &plan->model;
    bit_plan *folded = NULL;
    plan_head *heads;
    uint8_t *value_widths;
    rb_status st;
    RB_TRY(st, check_scales(plan, err), done);
    RB_TRY(st, bit_plan_create(&folded, model, err), done);
    heads = folded->heads;
    value_widths = folded->value_widths;
    *folded = *plan;
    folded->heads = heads;
    folded->value_widths = value_widths;
    memcpy(value_widths, plan->value_widths, (size_t)model->n_layers * (size_t)model->n_kv_heads);
    folded->model.weights_sha256[0] = '\0';
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++)
        RB_TRY(st, fold_head(&heads[h], &plan->heads[h], model, err), done);
    RB_TRY(st, bit_plan_check(folded, path, err), done);
    RB_TRY(st, plan_json_write(folded, path, err), done);
done:
    bit_plan_free(folded);
    return st;
}
