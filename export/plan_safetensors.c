/* Writer of plan.safetensors: see export/plan_safetensors.h. */
#include "export/plan_safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "export/tensor_set.h"
#include "plan/plan_codebooks.h"
#include "plan/plan_json.h"

enum { TENSORS_PER_LAYER = 15, NO_GROUP = 255 };

static rb_status add_layer_tensor(tensor_set *set, int layer, const char *what, tensor_dtype dtype, int64_t rows,
                                  int64_t columns, void *data_out, rb_error *err)
{
    char *name = NULL;
    rb_status st = rb_format(&name, err, "layers.%d.%s", layer, what);
    return st == RB_OK ? tensor_set_add(set, name, dtype, 2, rows, columns, data_out, err) : st;
}

/* The dims of a head in coding order; those of no group, ascending, behind. Returns how many are in groups. */
static int coding_order(int *dims, const plan_head *head, const model_facts *model)
{
    bool is_coded[RB_MAX_HEAD_DIM] = {false};
    int n_coded = 0;
    for (int g = 0; g < plan_head_groups(head)->n; g++) {
        plan_group_dims(&plan_head_groups(head)->at[g], model, dims + n_coded);
        n_coded += plan_head_groups(head)->at[g].rotation.dims;
    }
    for (int i = 0; i < n_coded; i++) is_coded[dims[i]] = true;
    for (int dim = 0, at = n_coded; dim < model->head_dim; dim++)
        if (!is_coded[dim]) dims[at++] = dim;
    return n_coded;
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
        const int n_coded = coding_order(dims, head, model);
        plan_head_bits(head, bits + kv_head * n_blocks, n_blocks);
        for (int i = 0; i < head_dim; i++) permutation[position + i] = dims[i];
        memset(groups + position + n_coded, NO_GROUP, (size_t)(head_dim - n_coded));
        for (int g = 0; g < plan_head_groups(head)->n; position += plan_head_groups(head)->at[g++].rotation.dims) {
            memset(widths + position, plan_head_groups(head)->at[g].width,
                   (size_t)plan_head_groups(head)->at[g].rotation.dims);
            memset(groups + position, g, (size_t)plan_head_groups(head)->at[g].rotation.dims);
        }
    }
done:
    return st;
}

/* What the published form does not have. */
static rb_status add_layer_coding(tensor_set *set, const bit_plan *plan, int layer, rb_error *err)
{
    const model_facts *model = &plan->model;
    const int n_heads = model->n_kv_heads, n_blocks = model_n_blocks(model), head_dim = model->head_dim;
    float *scales = NULL, *center = NULL, *coherences = NULL;
    int32_t *exponents = NULL;
    uint8_t *norms = NULL, *encoders = NULL, *value_widths = NULL;
    rb_status st;
    RB_TRY(st, add_layer_tensor(set, layer, "k_scales", TENSOR_F32, n_heads, n_blocks, &scales, err), done);
    RB_TRY(st, add_layer_tensor(set, layer, "k_center", TENSOR_F32, n_heads, head_dim, &center, err), done);
    RB_TRY(st, add_layer_tensor(set, layer, "k_coherences", TENSOR_F32, n_heads, head_dim, &coherences, err), done);
    RB_TRY(st, add_layer_tensor(set, layer, "k_norm_exponents", TENSOR_I32, n_heads, head_dim, &exponents, err), done);
    RB_TRY(st, add_layer_tensor(set, layer, "k_norms", TENSOR_U8, n_heads, 1, &norms, err), done);
    RB_TRY(st, add_layer_tensor(set, layer, "k_encoders", TENSOR_U8, n_heads, 1, &encoders, err), done);
    RB_TRY(st, add_layer_tensor(set, layer, "v_widths", TENSOR_U8, n_heads, 1, &value_widths, err), done);
    memcpy(value_widths, plan->value_widths + layer * n_heads, (size_t)n_heads);
    for (int kv_head = 0; kv_head < n_heads; kv_head++) {
        const plan_head *head = bit_plan_head(plan, layer, kv_head);
        int position = kv_head * head_dim;
        for (int i = 0; i < n_blocks; i++)
            scales[kv_head * n_blocks + i] = plan_head_groups(head)->scales ? plan_head_groups(head)->scales[i] : 1.0f;
        for (int i = 0; i < head_dim; i++) center[position + i] = head->center ? head->center[i] : 0.0f;
        for (int g = 0; g < plan_head_groups(head)->n; g++)
            for (int i = 0; i < plan_head_groups(head)->at[g].rotation.dims; i++, position++) {
                coherences[position] = plan_head_groups(head)->at[g].coherence;
                exponents[position] = plan_head_groups(head)->at[g].norm_exponent;
            }
        norms[kv_head] = (uint8_t)plan_head_groups(head)->norm;
        encoders[kv_head] = (uint8_t)plan_head_groups(head)->encoder;
    }
done:
    return st;
}

/* Of heads of block-codebook; 0 in others. */
static rb_status add_layer_maps(tensor_set *set, const bit_plan *plan, int layer, rb_error *err)
{
    const int n_heads = plan->model.n_kv_heads, n_blocks = model_n_blocks(&plan->model);
    float *maps = NULL, *weights = NULL;
    rb_status st;
    RB_TRY(st,
           add_layer_tensor(set, layer, "k_maps", TENSOR_F32, n_heads, (int64_t)BLOCK_CODEBOOK_MAP_SIZE * n_blocks,
                            &maps, err),
           done);
    RB_TRY(st, add_layer_tensor(set, layer, "k_weights", TENSOR_F32, n_heads, n_blocks, &weights, err), done);
    for (int kv_head = 0; kv_head < n_heads; kv_head++) {
        const plan_head *head = bit_plan_head(plan, layer, kv_head);
        const plan_block_codebook *own = &head->block_codebook;
        if (head->family != FAMILY_BLOCK_CODEBOOK) continue;
        memcpy(maps + BLOCK_CODEBOOK_MAP_SIZE * kv_head * n_blocks, own->maps,
               BLOCK_CODEBOOK_MAP_SIZE * (size_t)n_blocks * sizeof *maps);
        memcpy(weights + kv_head * n_blocks, own->weights, (size_t)n_blocks * sizeof *weights);
    }
done:
    return st;
}

static rb_status add_layer_families(tensor_set *set, const bit_plan *plan, int layer, rb_error *err)
{
    uint8_t *families = NULL, *gain_bits = NULL;
    rb_status st;
    RB_TRY(st, add_layer_tensor(set, layer, "k_families", TENSOR_U8, plan->model.n_kv_heads, 1, &families, err), done);
    RB_TRY(st, add_layer_tensor(set, layer, "k_gain_bits", TENSOR_U8, plan->model.n_kv_heads, 1, &gain_bits, err),
           done);
    for (int kv_head = 0; kv_head < plan->model.n_kv_heads; kv_head++) {
        const plan_head *head = bit_plan_head(plan, layer, kv_head);
        families[kv_head] = (uint8_t)head->family;
        gain_bits[kv_head] = (uint8_t)(head->family == FAMILY_BLOCK_CODEBOOK ? head->block_codebook.gain_bits : 0);
    }
done:
    return st;
}

static rb_status add_points(tensor_set *set, int bits, rb_error *err)
{
    block_codebook *book = NULL;
    char *name = NULL;
    float *points = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&book, 1, sizeof *book, "points of a plan", err), done);
    RB_TRY(st, block_codebook_build(book, bits, err), done);
    RB_TRY(st, rb_format(&name, err, "points.b%d", bits), done);
    RB_TRY(st, tensor_set_add(set, name, TENSOR_F32, 2, 2, book->size, &points, err), done);
    memcpy(points, book->x, (size_t)book->size * sizeof *points);
    memcpy(points + book->size, book->y, (size_t)book->size * sizeof *points);
done:
    free(book);
    return st;
}

static rb_status add_codebook(tensor_set *set, const codebook_spec *spec, rb_error *err)
{
    codebook book;
    char *name = NULL;
    float *centroids = NULL;
    rb_status st;
    RB_TRY(st, codebook_build(&book, spec->kind, spec->width, spec->dims, err), done);
    RB_TRY(st, rb_format(&name, err, "centroids.%s.w%d.d%d", codebook_kind_name(spec->kind), spec->width, spec->dims),
           done);
    RB_TRY(st, tensor_set_add(set, name, TENSOR_F32, 1, book.size, 0, &centroids, err), done);
    memcpy(centroids, book.centroid_f32, (size_t)book.size * sizeof *centroids);
done:
    return st;
}

static rb_status add_frequencies(tensor_set *set, const model_facts *model, rb_error *err)
{
    char *name = NULL;
    double *inv_freq = NULL;
    rb_status st = rb_format(&name, err, "inv_freq");
    if (st == RB_OK) st = tensor_set_add(set, name, TENSOR_F64, 1, model->rotary_dim / 2, 0, &inv_freq, err);
    if (st == RB_OK) memcpy(inv_freq, model->rope.inv_freq, (size_t)(model->rotary_dim / 2) * sizeof *inv_freq);
    return st;
}

static rb_status fill_tensors(tensor_set *set, const bit_plan *plan, rb_error *err)
{
    const bool has_block_codebook = bit_plan_has_family(plan, FAMILY_BLOCK_CODEBOOK);
    plan_codebooks books = {0};
    rb_status st;
    RB_TRY(st, plan_codebooks_collect(&books, plan, err), done);
    RB_TRY(st, tensor_set_create(set, plan->model.n_layers * TENSORS_PER_LAYER + books.n + books.n_points + 1, err),
           done);
    /* Largest alignment first keeps every tensor aligned without padding. */
    RB_TRY(st, add_frequencies(set, &plan->model, err), done);
    for (int i = 0; i < books.n; i++) RB_TRY(st, add_codebook(set, &books.at[i], err), done);
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_BITS; bits++)
        if (books.has_points[bits]) RB_TRY(st, add_points(set, bits, err), done);
    for (int layer = 0; layer < plan->model.n_layers && has_block_codebook; layer++)
        RB_TRY(st, add_layer_maps(set, plan, layer, err), done);
    for (int layer = 0; layer < plan->model.n_layers && !bit_plan_is_published_form(plan); layer++)
        RB_TRY(st, add_layer_coding(set, plan, layer, err), done);
    for (int layer = 0; layer < plan->model.n_layers; layer++) RB_TRY(st, add_layer(set, plan, layer, err), done);
    for (int layer = 0; layer < plan->model.n_layers && has_block_codebook; layer++)
        RB_TRY(st, add_layer_families(set, plan, layer, err), done);
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
    tensor_set_free(&set);
    return st;
}
