/* See calibrate/warnings.h. */
#include "calibrate/warnings.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/message.h"
#include "model/layer_weights.h"

/* ---- the list -------------------------------------------------------------------------------- */

void warnings_add(warning_list *list, const char *fmt, ...)
{
    va_list ap;
    if (list->n == MAX_WARNINGS) return;
    va_start(ap, fmt);
    vsnprintf(list->text[list->n++], WARNING_BYTES, fmt, ap);
    va_end(ap);
}

void warnings_tell(const warning_list *list)
{
    for (int i = 0; i < list->n; i++) rb_message_warn("%s", list->text[i]);
}

rb_status warnings_to_json(cJSON *object, const warning_list *list, rb_error *err)
{
    cJSON *array = cJSON_CreateArray();
    rb_status st = RB_OK;
    if (!array) return rb_fail(err, RB_ENOMEM, "out of memory for the list of warnings");
    for (int i = 0; i < list->n && st == RB_OK; i++) {
        cJSON *item = cJSON_CreateString(list->text[i]);
        st = rb_json_append(array, &item, err);
    }
    if (st == RB_OK) return rb_json_add_item(object, "warnings", &array, err);
    cJSON_Delete(array);
    return st;
}

void warnings_name_layers(char *text, size_t size, const bool *is_meant, int n_layers)
{
    int n = 0, n_ranges = 0;
    for (int layer = 0; layer < n_layers; layer++) n += is_meant[layer];
    size_t used = (size_t)snprintf(text, size, "%d of %d layers (", n, n_layers);
    for (int layer = 0; layer < n_layers && used < size; layer++) {
        int last = layer;
        if (!is_meant[layer]) continue;
        while (last + 1 < n_layers && is_meant[last + 1]) last++;
        used += (size_t)snprintf(text + used, size - used, "%s%d", n_ranges++ ? ", " : "", layer);
        if (last > layer && used < size) used += (size_t)snprintf(text + used, size - used, " to %d", last);
        layer = last;
    }
    if (used < size) snprintf(text + used, size - used, ")");
}

/* ---- the bias of the keys -------------------------------------------------------------------- */

typedef struct key_rows {
    const checkpoint *ckpt;
    const model_config *config;
    int n_rows, hidden; /* keys of a layer, and what they are made of */
    float *norm, *norm_bias, *tensor;
    double *bias, *energy; /* [n_rows]: what is added, and the mean square of what is projected */
} key_rows;

static int64_t largest_count(const model_config *config)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    int64_t largest = 0;
    for (int i = 0; i < tensors->n_layer; i++) {
        const layer_weight weight = tensors->layer[i].weight;
        const int64_t n = layer_tensor_count(config, &tensors->layer[i]);
        if ((weight == WEIGHT_QKV || weight == WEIGHT_QKV_BIAS) && n > largest) largest = n;
    }
    return largest;
}

static rb_status alloc_rows(key_rows *rows, const checkpoint *ckpt, rb_error *err)
{
    const model_config *config = checkpoint_config(ckpt);
    rb_status st;
    *rows = (key_rows){.ckpt = ckpt,
                       .config = config,
                       .n_rows = config->facts.n_kv_heads * config->facts.head_dim,
                       .hidden = config->hidden_size};
    RB_TRY(st, rb_alloc(&rows->norm, (size_t)rows->hidden, sizeof *rows->norm, "norm", err), done);
    RB_TRY(st, rb_alloc(&rows->norm_bias, (size_t)rows->hidden, sizeof *rows->norm_bias, "norm", err), done);
    RB_TRY(st, rb_alloc(&rows->tensor, (size_t)largest_count(config), sizeof *rows->tensor, "keys' weights", err),
           done);
    RB_TRY(st, rb_alloc(&rows->bias, (size_t)rows->n_rows, sizeof *rows->bias, "keys' bias", err), done);
    st = rb_alloc(&rows->energy, (size_t)rows->n_rows, sizeof *rows->energy, "keys' energy", err);
done:
    return st;
}

static void free_rows(key_rows *rows)
{
    free(rows->norm);
    free(rows->norm_bias);
    free(rows->tensor);
    free(rows->bias);
    free(rows->energy);
}

/* Adds the part of a tensor that is the keys'; `width` elements a row: hidden, or 1 for the bias. */
static void add_rows(key_rows *rows, int64_t first_row, int64_t n_rows, int width)
{
    const int64_t first_key = (int64_t)rows->config->facts.n_q_heads * rows->config->facts.head_dim;
#pragma omp parallel for schedule(static)
    for (int key = 0; key < rows->n_rows; key++) {
        const int64_t row = first_key + key - first_row;
        if (row < 0 || row >= n_rows) continue;
        const float *values = rows->tensor + row * width;
        if (width == 1) rows->bias[key] += values[0];
        for (int i = 0; i < width && width > 1; i++) {
            const double turned = (double)values[i] * rows->norm[i];
            rows->energy[key] += turned * turned;
            rows->bias[key] += (double)values[i] * rows->norm_bias[i];
        }
    }
}

static bool has_keys(const key_rows *rows, int64_t first_row, int64_t n_rows)
{
    const int64_t first_key = (int64_t)rows->config->facts.n_q_heads * rows->config->facts.head_dim;
    return first_row < first_key + rows->n_rows && first_row + n_rows > first_key;
}

static rb_status load_norm(key_rows *rows, int layer, rb_error *err)
{
    const checkpoint_tensors *tensors = rows->config->family->tensors;
    rb_status st = RB_OK;
    for (int i = 0; i < rows->hidden; i++) rows->norm[i] = 1.0f, rows->norm_bias[i] = 0.0f;
    for (int i = 0; i < tensors->n_layer && st == RB_OK; i++) {
        const layer_tensor *tensor = &tensors->layer[i];
        if (!layer_tensor_is_used(rows->config, tensor, layer)) continue;
        if (tensor->weight == WEIGHT_INPUT_NORM) st = layer_tensor_load(rows->ckpt, tensor, layer, 0, rows->norm, err);
        if (tensor->weight == WEIGHT_INPUT_NORM_BIAS)
            st = layer_tensor_load(rows->ckpt, tensor, layer, 0, rows->norm_bias, err);
    }
    return st;
}

static rb_status bias_share(double *share, key_rows *rows, int layer, rb_error *err)
{
    const checkpoint_tensors *tensors = rows->config->family->tensors;
    double bias = 0, energy = 0;
    rb_status st = load_norm(rows, layer, err);
    for (int key = 0; key < rows->n_rows; key++) rows->bias[key] = rows->energy[key] = 0;
    for (int i = 0; i < tensors->n_layer && st == RB_OK; i++) {
        const layer_tensor *tensor = &tensors->layer[i];
        const int width = tensor->weight == WEIGHT_QKV ? rows->hidden : 1;
        if ((tensor->weight != WEIGHT_QKV && tensor->weight != WEIGHT_QKV_BIAS)
            || !layer_tensor_is_used(rows->config, tensor, layer))
            continue;
        const int64_t first = layer_tensor_first(rows->config, tensor, layer) / width,
                      n = layer_tensor_count(rows->config, tensor) / width;
        if (!has_keys(rows, first, n)) continue;
        st = layer_tensor_load(rows->ckpt, tensor, layer, 0, rows->tensor, err);
        if (st == RB_OK) add_rows(rows, first, n, width);
    }
    for (int key = 0; key < rows->n_rows; key++) {
        bias += rows->bias[key] * rows->bias[key];
        energy += rows->energy[key];
    }
    *share = bias + energy > 0 ? bias / (bias + energy) : 0;
    return st;
}

rb_status warnings_add_key_bias(warning_list *list, const checkpoint *ckpt, rb_error *err)
{
    const model_config *config = checkpoint_config(ckpt);
    bool is_meant[MODEL_MAX_LAYERS] = {false};
    char layers[160];
    key_rows rows;
    double largest = 0, share = 0;
    int largest_layer = 0;
    rb_status st;
    if (layer_weight_capacity(config, WEIGHT_QKV_BIAS) == 0) return RB_OK;
    RB_TRY(st, alloc_rows(&rows, ckpt, err), done);
    for (int layer = 0; layer < config->facts.n_layers; layer++) {
        RB_TRY(st, bias_share(&share, &rows, layer, err), done);
        is_meant[layer] = share >= WARNING_BIAS_SHARE;
        if (share > largest) largest = share, largest_layer = layer;
    }
    if (largest < WARNING_BIAS_SHARE) goto done;
    warnings_name_layers(layers, sizeof layers, is_meant, config->facts.n_layers);
    warnings_add(list,
                 "k_proj bias: at least %.0f %% of the energy of the keys in %s, %.1f %% in layer %d: keys there are "
                 "much the same at every position",
                 100 * WARNING_BIAS_SHARE, layers, 100 * largest, largest_layer);
done:
    free_rows(&rows);
    return st;
}

/* ---- quantized weights ----------------------------------------------------------------------- */

void warnings_add_quantized(warning_list *list, const checkpoint *ckpt)
{
    bool is_there[TENSOR_N_DTYPES] = {false};
    char names[128] = "";
    size_t used = 0;
    for (int64_t i = 0; i < checkpoint_n_tensors(ckpt); i++) is_there[checkpoint_tensor_at(ckpt, i)->dtype] = true;
    for (int dtype = 0; dtype < TENSOR_N_DTYPES && used < sizeof names; dtype++)
        if (is_there[dtype] && tensor_dtype_is_block((tensor_dtype)dtype))
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "",
                                     tensor_dtype_name((tensor_dtype)dtype));
    if (used) warnings_add(list, "quantized weights (%s): the statistics are those of the quantized model", names);
}
