/* See export/plan_folded.h. A scale is one number a block, so it commutes with RoPE, and q . k stays what it was. What
 * becomes of values: export/fold_values.h. */
#include "export/plan_folded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "export/fold_values.h"
#include "model/checkpoint.h"
#include "model/layer_tensors.h"
#include "plan/plan_family.h"
#include "plan/plan_json.h"

enum { MOST_TENSORS_PER_LAYER = 8 };

/* What a tensor of the family is: the query's, the key's or the value's part of a projection or of a norm, or the
 * output's projection. NOT_FOLDED: none of them. */
typedef enum folded_part { NOT_FOLDED, QUERY_PART, KEY_PART, VALUE_PART, OUTPUT_PART } folded_part;

/* A tensor that takes scales or a basis: n_heads times the dims of a vector are its rows, of n_columns, or in the
 * OUTPUT_PART its columns. */
typedef struct folded_tensor {
    char name[LAYER_TENSOR_NAME];
    int layer;
    folded_part part;
    int n_heads, rank;
    int64_t shape[2]; /* as the checkpoint has it; shape[1] only of matrices */
    bool adds_one;    /* the weight is one more than the tensor says */
} folded_tensor;

typedef struct folding {
    const bit_plan *plan;
    const checkpoint *model;
    bool folds_scales, folds_values;
    int n;
    folded_tensor *tensors; /* [n], in file order */
    safetensor *entries;    /* [n], the same, without data */
    float *values;          /* of the tensor at work, as f32 */
    unsigned char *bytes;   /* and as it is written */
} folding;

static int64_t columns_of(const folded_tensor *tensor) { return tensor->rank == 2 ? tensor->shape[1] : 1; }

static bool has_scales(const bit_plan *plan)
{
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        if (plan_family_scales(&plan->heads[h])) return true;
    return false;
}

static rb_status check_plan(const bit_plan *plan, rb_error *err)
{
    if (has_scales(plan) || fold_values_is_needed(plan)) return RB_OK;
    return rb_fail(err, RB_EUNSUPPORTED,
                   "the plan of method %s has no scales to fold and no bases of values, expected one of method optimal "
                   "without --no-equalize, or of trellis",
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

/* Scales need tensors of their own for queries and keys, whose rows are the dims of the heads in order. */
static bool has_projections(const checkpoint_tensors *tensors)
{
    for (int i = 0; i < tensors->n_layer; i++)
        if (tensors->layer[i].weight == WEIGHT_QKV && tensors->layer[i].rows == DIM_KEY) return true;
    return false;
}

static rb_status check_foldable(const checkpoint *model, rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    if (has_projections(config->family->tensors)) return RB_OK;
    return rb_fail(
        err, RB_EUNSUPPORTED,
        "%s: scales cannot be folded into the weights of %s, which has no matrices of its own for queries and "
        "keys: apply the scales to both",
        checkpoint_folder(model), config->facts.model_type);
}

static rb_status check_model(const bit_plan *plan, checkpoint *model, rb_error *err)
{
    const int64_t context = plan->calibration.context, n_tokens = plan->calibration.n_tokens;
    rb_status st;
    RB_TRY(st, checkpoint_check(model, err), done);
    RB_TRY(st, check_foldable(model, err), done);
    /* RoPE may depend on how long the sequences were. */
    if (context > 0) RB_TRY(st, checkpoint_set_longest(model, context < n_tokens ? context : n_tokens, err), done);
    model_facts facts = checkpoint_config(model)->facts;
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

/* Tensors of a projection come in the order query, key, value; seen: how many of its weight came before. */
static folded_part part_of(const layer_tensor *tensor, int seen)
{
    switch (tensor->weight) {
    case WEIGHT_QKV:
    case WEIGHT_QKV_BIAS: return seen == 0 ? QUERY_PART : seen == 1 ? KEY_PART : VALUE_PART;
    case WEIGHT_O: return OUTPUT_PART;
    case WEIGHT_Q_NORM: return QUERY_PART;
    case WEIGHT_K_NORM: return KEY_PART;
    default: return NOT_FOLDED;
    }
}

static bool is_norm(const layer_tensor *tensor)
{
    return tensor->weight == WEIGHT_Q_NORM || tensor->weight == WEIGHT_K_NORM;
}

/* Appends a tensor of the model. */
static rb_status add_tensor(folding *f, const layer_tensor *tensor, folded_part part, int layer, rb_error *err)
{
    const model_config *config = checkpoint_config(f->model);
    const bool is_of_values = part == VALUE_PART || part == OUTPUT_PART;
    folded_tensor *out = &f->tensors[f->n];
    const safetensor *found;
    *out = (folded_tensor){.layer = layer, .part = part};
    layer_tensor_name(out->name, config, tensor, layer, 0);
    out->rank = layer_tensor_shape(config, tensor, out->shape);
    out->n_heads =
        (int)(out->shape[part == OUTPUT_PART] / (is_of_values ? config->facts.value_dim : config->facts.head_dim));
    out->adds_one = is_norm(tensor) && config->family->norm == MODEL_NORM_RMS_ONE;
    const rb_status st = checkpoint_tensor(f->model, out->name, out->rank, out->shape, &found, err);
    if (st != RB_OK) return st;
    f->entries[f->n] = *found;
    f->entries[f->n].name = out->name;
    f->entries[f->n].data = NULL;
    if (tensor_dtype_is_block(found->dtype)) { /* a scaled block is no block of its type */
        f->entries[f->n].dtype = TENSOR_F32;
        f->entries[f->n].size_bytes = (size_t)(out->shape[0] * columns_of(out)) * sizeof(float);
    }
    f->n++;
    return RB_OK;
}

/* Where queries and keys have norms, scales go into those only: a norm would take a projection's away. */
static bool is_wanted(const folding *f, const layer_tensor *tensor, folded_part part, bool has_norms)
{
    if (part == VALUE_PART || part == OUTPUT_PART) return f->folds_values;
    return part != NOT_FOLDED && f->folds_scales && is_norm(tensor) == has_norms;
}

static rb_status add_layer(folding *f, int layer, rb_error *err)
{
    const model_config *config = checkpoint_config(f->model);
    const checkpoint_tensors *tensors = config->family->tensors;
    const bool has_norms = (config->extras & (EXTRA_QK_NORM | EXTRA_WIDE_QK_NORM)) != 0;
    int seen[N_LAYER_WEIGHTS] = {0};
    rb_status st = RB_OK;
    if (f->folds_scales && config->extras & EXTRA_QK_NORM) RB_TRY(st, check_shared_norms(f->plan, layer, err), done);
    for (int i = 0; i < tensors->n_layer; i++) {
        const layer_tensor *tensor = &tensors->layer[i];
        if (!layer_tensor_is_used(config, tensor, layer)) continue;
        const folded_part part = part_of(tensor, seen[tensor->weight]++);
        if (is_wanted(f, tensor, part, has_norms)) RB_TRY(st, add_tensor(f, tensor, part, layer, err), done);
    }
done:
    return st;
}

/* Row by row: values into bytes, with the scale of the row's dim. */
static rb_status scale_rows(const folding *f, const folded_tensor *tensor, tensor_dtype dtype, rb_error *err)
{
    const model_facts *model = &f->plan->model;
    const bool is_query = tensor->part == QUERY_PART;
    const int heads_per_kv = is_query ? model_q_per_kv(model) : 1, d = model->head_dim;
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
            for (int64_t i = first; i < first + n_columns; i++) {
                const float value = tensor->adds_one ? f->values[i] + 1.0f : f->values[i],
                            scaled = is_query ? value / scale : value * scale;
                f->values[i] = tensor->adds_one ? scaled - 1.0f : scaled;
            }
            rb_note_failure(&failure, first,
                            tensor_from_f32(dtype, f->values + first, n_columns,
                                            f->bytes + (size_t)first * tensor_dtype_size(dtype), &mine),
                            &mine);
        }
    }
    return rb_tell_failure(&failure, err);
}

/* n_runs of run_size values each, as they are now, into bytes. */
static rb_status store_runs(const folding *f, int64_t n_runs, int64_t run_size, tensor_dtype dtype, rb_error *err)
{
    rb_status st = RB_OK;
    for (int64_t run = 0; run < n_runs && st == RB_OK; run++)
        st = tensor_from_f32(dtype, f->values + run * run_size, run_size,
                             f->bytes + (size_t)(run * run_size) * tensor_dtype_size(dtype), err);
    return st;
}

/* Rows of v_proj, head by head. */
static rb_status turn_rows(const folding *f, const folded_tensor *tensor, tensor_dtype dtype, rb_error *err)
{
    const int d = f->plan->model.value_dim;
    const int64_t n_columns = columns_of(tensor);
    double *inverses = NULL;
    const rb_status st = fold_values_invert(&inverses, f->plan, tensor->layer, err);
    if (st != RB_OK) return st;
#pragma omp parallel for schedule(static)
    for (int head = 0; head < tensor->n_heads; head++)
        fold_value_rows(f->values + (int64_t)head * d * n_columns, inverses + (int64_t)head * d * d, d, n_columns);
    free(inverses);
    return store_runs(f, tensor->shape[0], n_columns, dtype, err);
}

/* Columns of o_proj, row by row. */
static rb_status turn_columns(const folding *f, const folded_tensor *tensor, tensor_dtype dtype, rb_error *err)
{
    const model_facts *model = &f->plan->model;
    const int d = model->value_dim, heads_per_kv = model_q_per_kv(model);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < tensor->shape[0]; row++)
        for (int head = 0; head < tensor->n_heads; head++)
            fold_output_columns(f->values + row * tensor->shape[1] + (int64_t)head * d,
                                bit_plan_value_head_at(f->plan, tensor->layer, head / heads_per_kv)->trellis.basis, d);
    return store_runs(f, tensor->shape[0], tensor->shape[1], dtype, err);
}

static rb_status fold_tensor(void *user, int64_t index, const void **data, rb_error *err)
{
    const folding *f = user;
    const folded_tensor *tensor = &f->tensors[index];
    const tensor_dtype dtype = f->entries[index].dtype;
    rb_status st = checkpoint_load(f->model, tensor->name, tensor->rank, tensor->shape, f->values, err);
    *data = f->bytes;
    if (st != RB_OK) return st;
    switch (tensor->part) {
    case VALUE_PART: st = turn_rows(f, tensor, dtype, err); break;
    case OUTPUT_PART: st = turn_columns(f, tensor, dtype, err); break;
    default: st = scale_rows(f, tensor, dtype, err);
    }
    return st == RB_OK ? st
                       : rb_fail_in(err, st, "%s: tensor \"%s\", folded", checkpoint_folder(f->model), tensor->name);
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
    folding f = {.plan = plan, .folds_scales = has_scales(plan), .folds_values = fold_values_is_needed(plan)};
    checkpoint *model = NULL;
    rb_status st;
    RB_TRY(st, check_plan(plan, err), done);
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
    rb_status st;
    RB_TRY(st, check_plan(plan, err), done);
    RB_TRY(st, bit_plan_create_like(&folded, plan, err), done);
    folded->model.weights_sha256[0] = '\0';
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++)
        RB_TRY(st, fold_head(&folded->heads[h], &plan->heads[h], model, err), done);
    for (int h = 0; folded->value_heads && h < bit_plan_n_heads(folded); h++)
        RB_TRY(st, fold_value_head(&folded->value_heads[h], err), done);
    RB_TRY(st, bit_plan_check(folded, path, err), done);
    RB_TRY(st, plan_json_write(folded, path, err), done);
done:
    bit_plan_free(folded);
    return st;
}
