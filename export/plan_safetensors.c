/* Writer of plan.safetensors: see export/plan_safetensors.h. */
#include "export/plan_safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/json.h"
#include "export/tensor_set.h"
#include "plan/plan_family.h"
#include "plan/plan_json.h"

enum { PLACES_PER_SECTION = 10, MOST_ROPE_TENSORS = 3 };

/* ---- columns --------------------------------------------------------------------------------- */

/* Numbers of a head in the tensor of a column. That of a group stands at each of its dims, in the order of the codes.
 */
static int n_numbers(const plan_column *column, const model_facts *model)
{
    switch (column->extent) {
    case COLUMN_OF_HEAD: return plan_column_size(column);
    case COLUMN_OF_BLOCK: return plan_column_size(column) * model_n_blocks(model);
    default: return plan_column_size(column) * plan_column_dims(column, model);
    }
}

static tensor_dtype dtype_of(const plan_column *column)
{
    static const tensor_dtype dtypes[] = {
        [COLUMN_U8] = TENSOR_U8, [COLUMN_I8] = TENSOR_I32, [COLUMN_U16] = TENSOR_I32, [COLUMN_F16] = TENSOR_F32};
    return dtypes[column->type];
}

/* Number i of the tensor's data. */
static void put_number(void *data, const plan_column *column, int64_t i, plan_number number)
{
    if (column->type == COLUMN_F16) ((float *)data)[i] = number.real;
    else if (column->type == COLUMN_U8) ((uint8_t *)data)[i] = (uint8_t)number.whole;
    else ((int32_t *)data)[i] = (int32_t)number.whole;
}

static plan_number constant(const plan_column *column, double value)
{
    return column->type == COLUMN_F16 ? (plan_number){.real = (float)value} : (plan_number){.whole = (int64_t)value};
}

static void put_head(void *data, const plan_column *column, const bit_plan *plan, int h)
{
    const int n = n_numbers(column, &plan->model);
    const int64_t first = (int64_t)(h % plan->model.n_kv_heads) * n;
    plan_number numbers[PLAN_COLUMN_ROOM];
    const int n_taken = plan_column_take(column, numbers, plan, h);
    for (int i = 0; i < n; i++)
        put_number(data, column, first + i, i < n_taken ? numbers[i] : constant(column, column->otherwise));
}

static void put_head_by_position(void *data, const plan_column *column, const bit_plan *plan, int h)
{
    const int n = plan->model.head_dim;
    const int64_t first = (int64_t)(h % plan->model.n_kv_heads) * n;
    int dims[RB_MAX_HEAD_DIM], groups[RB_MAX_HEAD_DIM];
    plan_number numbers[PLAN_COLUMN_ROOM];
    plan_coding_order(dims, groups, plan, h);
    plan_column_take(column, numbers, plan, h);
    for (int i = 0; i < n; i++)
        put_number(data, column, first + i, groups[i] >= 0 ? numbers[groups[i]] : constant(column, column->no_group));
}

/* The matrices of a layer's heads, as fp16: [n_kv_heads][dims][dims]. name is freed also on failure. */
static rb_status add_matrices(tensor_set *set, char *name, const plan_column *column, const bit_plan *plan, int layer,
                              rb_error *err)
{
    const int n_heads = plan->model.n_kv_heads, dims = plan_column_dims(column, &plan->model);
    uint16_t *data = NULL;
    const rb_status st = tensor_set_add(set, name, TENSOR_F16, 2, (int64_t)n_heads * dims, dims, &data, err);
    if (st != RB_OK) return st;
    set->at[set->n - 1].rank = 3;
    memcpy(set->at[set->n - 1].shape, (const int64_t[]){n_heads, dims, dims}, 3 * sizeof(int64_t));
    for (int h = 0; h < n_heads; h++, data += dims * dims) {
        const float *floats = plan_column_floats(column, plan, layer * n_heads + h);
        for (int i = 0; floats && i < dims * dims; i++) data[i] = rb_f32_to_f16(floats[i]);
    }
    return RB_OK;
}

static rb_status add_column(tensor_set *set, const plan_column *column, const bit_plan *plan, int layer, rb_error *err)
{
    const int n_heads = plan->model.n_kv_heads;
    char *name = NULL;
    void *data = NULL;
    rb_status st;
    RB_TRY(st, rb_format(&name, err, "layers.%d.%s", layer, column->tensor_name), done);
    if (column->floats) return add_matrices(set, name, column, plan, layer, err);
    RB_TRY(st, tensor_set_add(set, name, dtype_of(column), 2, n_heads, n_numbers(column, &plan->model), &data, err),
           done);
    for (int h = layer * n_heads; h < (layer + 1) * n_heads; h++)
        if (column->extent == COLUMN_OF_GROUP) put_head_by_position(data, column, plan, h);
        else put_head(data, column, plan, h);
done:
    return st;
}

/* Columns of one section stand together, layer by layer. */
static rb_status add_columns(tensor_set *set, const plan_column *const *columns, int n, const bit_plan *plan,
                             rb_error *err)
{
    rb_status st = RB_OK;
    for (int first = 0, end; first < n; first = end) {
        const int section = columns[first]->place[FORM_TENSORS] / PLACES_PER_SECTION;
        for (end = first; end < n && columns[end]->place[FORM_TENSORS] / PLACES_PER_SECTION == section;) end++;
        for (int layer = 0; layer < plan->model.n_layers; layer++)
            for (int i = first; i < end; i++) RB_TRY(st, add_column(set, columns[i], plan, layer, err), done);
    }
done:
    return st;
}

/* ---- tables ---------------------------------------------------------------------------------- */

static rb_status add_points(tensor_set *set, int bits, rb_error *err)
{
    const int size = 1 << bits;
    char *name = NULL;
    float *points = NULL, *data = NULL;
    rb_status st;
    RB_TRY(st, plan_points_build(&points, bits, err), done);
    RB_TRY(st, rb_format(&name, err, "points.b%d", bits), done);
    RB_TRY(st, tensor_set_add(set, name, TENSOR_F32, 2, 2, size, &data, err), done);
    memcpy(data, points, 2 * (size_t)size * sizeof *data);
done:
    free(points);
    return st;
}

static rb_status add_trellis(tensor_set *set, int width, rb_error *err)
{
    char *name = NULL;
    float *data = NULL;
    rb_status st;
    RB_TRY(st, rb_format(&name, err, "trellis.w%d", width), done);
    RB_TRY(st, tensor_set_add(set, name, TENSOR_F32, 1, TRELLIS_STATES, 0, &data, err), done);
    memcpy(data, trellis_tables[width], sizeof trellis_tables[width]);
done:
    return st;
}

static rb_status add_levels(tensor_set *set, int bits, rb_error *err)
{
    block_levels levels;
    char *name = NULL;
    float *data = NULL;
    rb_status st;
    RB_TRY(st, block_levels_build(&levels, bits, err), done);
    RB_TRY(st, rb_format(&name, err, "levels.b%d", bits), done);
    RB_TRY(st, tensor_set_add(set, name, TENSOR_F32, 1, levels.size, 0, &data, err), done);
    memcpy(data, levels.level, (size_t)levels.size * sizeof *data);
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
    RB_TRY(st, rb_format(&name, err, "centroids.%s.w%d.d%d", codebook_kind_name(spec->kind), spec->width, spec->dims),
           done);
    RB_TRY(st, tensor_set_add(set, name, TENSOR_F32, 1, book.size, 0, &centroids, err), done);
    memcpy(centroids, book.centroid_f32, (size_t)book.size * sizeof *centroids);
done:
    return st;
}

static rb_status add_frequencies(tensor_set *set, const char *tensor, const rope_facts *rope, const model_facts *model,
                                 rb_error *err)
{
    char *name = NULL;
    double *inv_freq = NULL;
    rb_status st = rb_format(&name, err, "%s", tensor);
    if (st == RB_OK) st = tensor_set_add(set, name, TENSOR_F64, 1, model->rotary_dim / 2, 0, &inv_freq, err);
    if (st == RB_OK) memcpy(inv_freq, rope->inv_freq, (size_t)(model->rotary_dim / 2) * sizeof *inv_freq);
    return st;
}

static rb_status add_ropes(tensor_set *set, const model_facts *model, rb_error *err)
{
    char *name = NULL;
    uint8_t *is_local = NULL;
    rb_status st;
    RB_TRY(st, add_frequencies(set, "inv_freq", &model->rope, model, err), done);
    if (!model->has_local_rope) goto done;
    RB_TRY(st, add_frequencies(set, "local_inv_freq", &model->local_rope, model, err), done);
    RB_TRY(st, rb_format(&name, err, "layer_is_local"), done);
    RB_TRY(st, tensor_set_add(set, name, TENSOR_U8, 1, model->n_layers, 0, &is_local, err), done);
    for (int layer = 0; layer < model->n_layers; layer++) is_local[layer] = model->layer_is_local[layer];
done:
    return st;
}

static rb_status fill_tensors(tensor_set *set, const bit_plan *plan, rb_error *err)
{
    const plan_column *columns[PLAN_COLUMNS_ROOM];
    const int n_columns = plan_columns_of(columns, FORM_TENSORS, plan);
    plan_codebooks books = {0};
    rb_status st;
    RB_TRY(st, plan_codebooks_collect(&books, plan, err), done);
    RB_TRY(st,
           tensor_set_create(set,
                             plan->model.n_layers * n_columns + books.n + books.n_points + books.n_levels
                                 + books.n_trellis + MOST_ROPE_TENSORS,
                             err),
           done);
    RB_TRY(st, add_ropes(set, &plan->model, err), done);
    for (int i = 0; i < books.n; i++) RB_TRY(st, add_codebook(set, &books.at[i], err), done);
    for (int bits = 1; bits <= PLAN_MAX_POINT_BITS; bits++)
        if (books.has_points[bits]) RB_TRY(st, add_points(set, bits, err), done);
    for (int bits = 1; bits <= PLAN_MAX_LEVEL_BITS; bits++)
        if (books.has_levels[bits]) RB_TRY(st, add_levels(set, bits, err), done);
    for (int width = 1; width <= PLAN_MAX_TRELLIS_WIDTH; width++)
        if (books.has_trellis[width]) RB_TRY(st, add_trellis(set, width, err), done);
    RB_TRY(st, add_columns(set, columns, n_columns, plan, err), done);
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
