/* Writer of plan.safetensors: see export/plan_safetensors.h. */
#include "export/plan_safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "allocate/plan_json.h"
#include "core/json.h"
#include "export/plan_codebooks.h"
#include "model/safetensors.h"

enum { TENSORS_PER_LAYER = 4 };

/* Tensors under construction: names and data are owned here. */
typedef struct tensor_set {
    safetensor *at;
    int64_t n;
} tensor_set;

static void free_tensors(tensor_set *set)
{
    for (int64_t i = 0; i < set->n; i++) {
        free((char *)set->at[i].name);
        free((void *)set->at[i].data);
    }
    free(set->at);
}

/* Takes `name`; gives the zeroed data to fill. */
static rb_status add_tensor(tensor_set *set, char *name, tensor_dtype dtype, int rank, int64_t rows, int64_t columns, void *data_out, rb_error *err)
{
    safetensor *tensor = &set->at[set->n];
    const size_t n = (size_t)(rank == 2 ? rows * columns : rows);
    void *data = NULL;
    rb_status st = rb_alloc(&data, n, tensor_dtype_size(dtype), name, err);
    if (st != RB_OK) {
        free(name);
        return st;
    }
    *tensor = (safetensor){.name = name, .dtype = dtype, .rank = rank, .shape = {rows, columns}, .data = data,
                           .size_bytes = n * tensor_dtype_size(dtype)};
    set->n++;
    memcpy(data_out, &data, sizeof data);
    return RB_OK;
}

static rb_status add_layer_tensor(tensor_set *set, int layer, const char *what, tensor_dtype dtype, int64_t rows, int64_t columns, void *data_out,
                                  rb_error *err)
{
    char *name = NULL;
    rb_status st = rb_format(&name, err, "layers.%d.%s", layer, what);
    return st == RB_OK ? add_tensor(set, name, dtype, 2, rows, columns, data_out, err) : st;
}

static rb_status add_layer(tensor_set *set, const bit_plan *plan, int layer, rb_error *err)
{
    const model_facts *model = &plan->model;
    const int n_heads = model->n_kv_heads, n_blocks = model_n_blocks(model), head_dim = model->head_dim;
    uint8_t *bits = NULL, *widths = NULL, *groups = NULL;
    int32_t *permutation = NULL;
    rb_status st;
    RB_TRY(st, add_layer_tensor(set, layer, "k_bits", TENSOR_U8, n_heads, n_blocks, &bits, err), done);
    RB_TRY(st, add_layer_tensor(set, layer, "k_permutation", TENSOR_I32, n_heads, head_dim, &permutation, err), done);
    RB_TRY(st, add_layer_tensor(set, layer, "k_widths", TENSOR_U8, n_heads, head_dim, &widths, err), done);
    RB_TRY(st, add_layer_tensor(set, layer, "k_groups", TENSOR_U8, n_heads, head_dim, &groups, err), done);
    for (int kv_head = 0; kv_head < n_heads; kv_head++) {
        const plan_head *head = bit_plan_head(plan, layer, kv_head);
        int position = kv_head * head_dim, dims[RB_MAX_HEAD_DIM];
        plan_head_bits(head, bits + kv_head * n_blocks, n_blocks);
        for (int g = 0; g < head->n_groups; g++) {
            plan_group_dims(&head->groups[g], model, dims);
            for (int i = 0; i < head->groups[g].rotation.dims; i++, position++) {
                permutation[position] = dims[i];
                widths[position] = (uint8_t)head->groups[g].width;
                groups[position] = (uint8_t)g;
            }
        }
    }
done:
    return st;
}

static rb_status add_codebook(tensor_set *set, const codebook_spec *spec, rb_error *err)
{
    codebook book;
    char *name = NULL;
    float *centroids = NULL;
    rb_status st;
    RB_TRY(st, codebook_build(&book, spec->kind, spec->width, spec->dims, err), done);
    RB_TRY(st, rb_format(&name, err, "centroids.%s.w%d.d%d", codebook_kind_name(spec->kind), spec->width, spec->dims), done);
    RB_TRY(st, add_tensor(set, name, TENSOR_F32, 1, book.size, 0, &centroids, err), done);
    memcpy(centroids, book.centroid_f32, (size_t)book.size * sizeof *centroids);
done:
    return st;
}

static rb_status add_frequencies(tensor_set *set, const model_facts *model, rb_error *err)
{
    char *name = NULL;
    double *inv_freq = NULL;
    rb_status st = rb_format(&name, err, "inv_freq");
    if (st == RB_OK) st = add_tensor(set, name, TENSOR_F64, 1, model->rotary_dim / 2, 0, &inv_freq, err);
    if (st == RB_OK) memcpy(inv_freq, model->rope.inv_freq, (size_t)(model->rotary_dim / 2) * sizeof *inv_freq);
    return st;
}

static rb_status fill_tensors(tensor_set *set, const bit_plan *plan, rb_error *err)
{
    plan_codebooks books = {0};
    rb_status st;
    RB_TRY(st, plan_codebooks_collect(&books, plan, err), done);
    RB_TRY(st, rb_alloc(&set->at, (size_t)(plan->model.n_layers * TENSORS_PER_LAYER + books.n + 1), sizeof *set->at, "tensors", err), done);
    /* Largest alignment first keeps every tensor aligned without padding. */
    RB_TRY(st, add_frequencies(set, &plan->model, err), done);
    for (int i = 0; i < books.n; i++) RB_TRY(st, add_codebook(set, &books.at[i], err), done);
    for (int layer = 0; layer < plan->model.n_layers; layer++) RB_TRY(st, add_layer(set, plan, layer, err), done);
done:
    plan_codebooks_free(&books);
    return st;
}

rb_status plan_safetensors_write(const bit_plan *plan, const char *path, rb_error *err)
{
    static const char *const keys[] = {"format", "plan"};
    tensor_set set = {0};
    cJSON *json = NULL;
    char *text = NULL;
    rb_status st;
    RB_TRY(st, fill_tensors(&set, plan, err), done);
    RB_TRY(st, plan_to_json(&json, plan, err), done);
    RB_TRY(st, rb_json_print(&text, json, err), done);
    const char *const values[] = {PLAN_SCHEMA, text};
    RB_TRY(st, safetensors_write(path, set.at, set.n, keys, values, RB_COUNT(keys), err), done);
done:
    free(text);
    cJSON_Delete(json);
    free_tensors(&set);
    return st;
}
