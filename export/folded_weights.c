/* See folded_weights.h. */
#include "export/folded_weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"

enum { NAME_SIZE = 96, MOST_TENSORS_PER_LAYER = 4 };

/* A tensor that takes scales: n_heads * head_dim rows of n_columns. */
typedef struct folded_tensor {
    char name[NAME_SIZE];
    int layer;
    bool is_query;
    int n_heads, rank;
    int64_t shape[2];           /* as the checkpoint has it; shape[1] only of matrices */
} folded_tensor;

typedef struct folding {
    const bit_plan *plan;
    const checkpoint *model;
    int n;
    folded_tensor *tensors;     /* [n], in file order */
    safetensor *entries;        /* [n], the same, without data */
    float *values;              /* of the tensor at work, as f32 */
    unsigned char *bytes;       /* and as it is written */
} folding;

static int64_t columns_of(const folded_tensor *tensor) { return tensor->rank == 2 ? tensor->shape[1] : 1; }

static bool plan_has_scales(const bit_plan *plan)
{
    for (int h = 0; h < plan->model.n_layers * plan->model.n_kv_heads; h++)
        if (plan->heads[h].scales) return true;
    return false;
}

static rb_status check_scales(const bit_plan *plan, const char *name, rb_error *err)
{
    return plan_has_scales(plan) ? RB_OK : rb_fail(err, RB_EINVAL, "%s: no head has scales, expected a plan that equalizes: nothing to fold", name);
}

/* Scale of every dim of a head, [head_dim]. */
static void dim_scales(double *scales, const plan_head *head, const model_facts *model)
{
    for (int block = 0; block < model_n_blocks(model); block++) {
        int dims[2];
        model_block_dims(model, block, dims);
        scales[dims[0]] = scales[dims[1]] = head->scales ? (double)head->scales[block] : 1.0;
    }
}

/* ---- the model ------------------------------------------------------------------------------------------------------------------- */

static rb_status check_model(const bit_plan *plan, const char *name, const checkpoint *model, rb_error *err)
{
    model_facts facts = checkpoint_config(model)->facts;
    rb_status st;
    RB_TRY(st, checkpoint_check(model, err), done);
    if (plan->model.weights_sha256[0]) RB_TRY(st, checkpoint_weights_sha256(model, facts.weights_sha256, err), done);
    RB_TRY(st, model_facts_same(&plan->model, name, &facts, checkpoint_folder(model), err), done);
done:
    return st;
}

static rb_status check_shared_norms(const bit_plan *plan, const char *name, int layer, rb_error *err)
{
    double first[RB_MAX_HEAD_DIM], other[RB_MAX_HEAD_DIM];
    dim_scales(first, bit_plan_head(plan, layer, 0), &plan->model);
    for (int kv_head = 1; kv_head < plan->model.n_kv_heads; kv_head++) {
        dim_scales(other, bit_plan_head(plan, layer, kv_head), &plan->model);
        for (int dim = 0; dim < plan->model.head_dim; dim++)
            if (first[dim] != other[dim])
                return rb_fail(err, RB_EUNSUPPORTED,
                               "%s: layer %d: scales of dim %d are %g for kv_head 0 and %g for kv_head %d, expected equal ones: q_norm and k_norm of %s are shared by "
                               "all heads, so such scales must be applied at run time",
                               name, layer, dim, first[dim], other[dim], kv_head, plan->model.model_type);
    }
    return RB_OK;
}

/* ---- what is written ------------------------------------------------------------------------------------------------------------- */

/* Appends a tensor of the model; n_columns 0: a vector. */
static rb_status add_tensor(folding *f, int layer, const char *module, const char *kind, bool is_query, int n_heads, int64_t n_columns, rb_error *err)
{
    folded_tensor *tensor = &f->tensors[f->n];
    const safetensor *found;
    *tensor = (folded_tensor){.layer = layer, .is_query = is_query, .n_heads = n_heads, .rank = n_columns ? 2 : 1,
                              .shape = {(int64_t)n_heads * f->plan->model.head_dim, n_columns}};
    snprintf(tensor->name, sizeof tensor->name, "model.layers.%d.self_attn.%s.%s", layer, module, kind);
    const rb_status st = checkpoint_tensor(f->model, tensor->name, tensor->rank, tensor->shape, &found, err);
    if (st != RB_OK) return st;
    f->entries[f->n] = *found;
    f->entries[f->n].name = tensor->name;
    f->entries[f->n].data = NULL;
    f->n++;
    return RB_OK;
}

static rb_status add_projection(folding *f, int layer, bool is_query, rb_error *err)
{
    const model_config *config = checkpoint_config(f->model);
    const int n_heads = is_query ? config->facts.n_q_heads : config->facts.n_kv_heads;
    const char *module = is_query ? "q_proj" : "k_proj";
    const rb_status st = add_tensor(f, layer, module, "weight", is_query, n_heads, config->hidden_size, err);
    return st == RB_OK && config->qkv_bias ? add_tensor(f, layer, module, "bias", is_query, n_heads, 0, err) : st;
}

static rb_status add_layer(folding *f, const char *name, int layer, rb_error *err)
{
    rb_status st;
    if (checkpoint_config(f->model)->qk_norm) {
        RB_TRY(st, check_shared_norms(f->plan, name, layer, err), done);
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
            for (int64_t i = first; i < first + n_columns; i++) f->values[i] = tensor->is_query ? f->values[i] / scale : f->values[i] * scale;
            rb_note_failure(&failure, first, tensor_from_f32(dtype, f->values + first, n_columns, f->bytes + (size_t)first * tensor_dtype_size(dtype), &mine), &mine);
        }
    }
    const rb_status st = rb_tell_failure(&failure, err);
    return st == RB_OK ? st : rb_fail_in(err, st, "%s: tensor \"%s\", folded", checkpoint_folder(f->model), tensor->name);
}

static rb_status fold_tensor(void *user, int64_t index, const void **data, rb_error *err)
{
    const folding *f = user;
    const folded_tensor *tensor = &f->tensors[index];
    const rb_status st = checkpoint_load(f->model, tensor->name, tensor->rank, tensor->shape, f->values, err);
    *data = f->bytes;
    return st == RB_OK ? scale_rows(f, tensor, f->entries[index].dtype, err) : st;
}

static rb_status collect_tensors(folding *f, const char *name, rb_error *err)
{
    const size_t most = (size_t)f->plan->model.n_layers * MOST_TENSORS_PER_LAYER;
    int64_t most_values = 0;
    rb_status st;
    RB_TRY(st, rb_alloc(&f->tensors, most, sizeof *f->tensors, "folded tensors", err), done);
    RB_TRY(st, rb_alloc(&f->entries, most, sizeof *f->entries, "folded tensors", err), done);
    for (int layer = 0; layer < f->plan->model.n_layers; layer++) RB_TRY(st, add_layer(f, name, layer, err), done);
    for (int i = 0; i < f->n; i++) {
        const int64_t n_values = f->tensors[i].shape[0] * columns_of(&f->tensors[i]);
        if (n_values > most_values) most_values = n_values;
    }
    RB_TRY(st, rb_alloc(&f->values, (size_t)most_values, sizeof *f->values, "a projection", err), done);
    RB_TRY(st, rb_alloc(&f->bytes, (size_t)most_values, sizeof(float), "a projection", err), done);
done:
    return st;
}

rb_status folded_weights_write(const bit_plan *plan, const char *name, const checkpoint *model, const char *path, rb_error *err)
{
    static const char *const keys[] = {"format", "schema", "config_sha256"};
    const char *const values[] = {"pt", "ropebits-folded-weights", plan->model.config_sha256};
    folding f = {.plan = plan, .model = model};
    rb_status st;
    RB_TRY(st, check_scales(plan, name, err), done);
    RB_TRY(st, check_model(plan, name, model, err), done);
    RB_TRY(st, collect_tensors(&f, name, err), done);
    RB_TRY(st, safetensors_write_from(path, f.entries, f.n, fold_tensor, &f, keys, values, RB_COUNT(keys), err), done);
done:
    free(f.tensors);
    free(f.entries);
    free(f.values);
    free(f.bytes);
    return st;
}

/* ---- the plan that is left ------------------------------------------------------------------------------------------------------- */

static rb_status fold_head(plan_head *out, const plan_head *head, const model_facts *model, rb_error *err)
{
    double scales[RB_MAX_HEAD_DIM], center[RB_MAX_HEAD_DIM];
    const rb_status st = plan_head_copy(out, head, model_n_blocks(model), model->head_dim, err);
    if (st != RB_OK || !head->scales) return st;
    dim_scales(scales, head, model);
    for (int dim = 0; head->center && dim < model->head_dim; dim++) center[dim] = (double)head->center[dim] * scales[dim];
    return plan_head_set_transform(out, NULL, model_n_blocks(model), head->center ? center : NULL, model->head_dim, err);
}

rb_status folded_plan_create(bit_plan **out, const bit_plan *plan, const char *name, rb_error *err)
{
    bit_plan *folded = NULL;
    char where[160];
    rb_status st;
    *out = NULL;
    snprintf(where, sizeof where, "%.140s, folded", name);
    RB_TRY(st, check_scales(plan, name, err), done);
    RB_TRY(st, bit_plan_create(&folded, &plan->model, err), done);
    plan_head *heads = folded->heads;
    *folded = *plan;
    folded->heads = heads;
    folded->model.weights_sha256[0] = '\0';
    for (int h = 0; h < plan->model.n_layers * plan->model.n_kv_heads; h++) RB_TRY(st, fold_head(&heads[h], &plan->heads[h], &plan->model, err), done);
    RB_TRY(st, bit_plan_check(folded, where, err), done);
    *out = folded;
    folded = NULL;
done:
    bit_plan_free(folded);
    return st;
}
