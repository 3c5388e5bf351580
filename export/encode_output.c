/* See export/encode_output.h. */
#include "export/encode_output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "export/npz_writer.h"
#include "export/tensor_set.h"

enum { MAX_ARRAYS = 4 };

/* ---- files ----------------------------------------------------------------------------------- */

static rb_status add_array(tensor_set *set, const char *name, tensor_dtype dtype, int64_t rows, int64_t columns,
                           const void *data, rb_error *err)
{
    char *own_name = NULL;
    void *copy;
    rb_status st = rb_format(&own_name, err, "%s", name);
    if (st == RB_OK) st = tensor_set_add(set, own_name, dtype, 2, rows, columns, &copy, err);
    if (st == RB_OK && rows * columns > 0) memcpy(copy, data, (size_t)(rows * columns) * tensor_dtype_size(dtype));
    return st;
}

/* fp16 norms as fp16 numbers, log8 norms as bytes. */
static rb_status add_norms(tensor_set *set, const coded_vectors *coded, rb_error *err)
{
    const int64_t n = coded->n * coded->n_norms;
    uint8_t *bytes = NULL;
    rb_status st;
    if (coded->norm_bits != 8) return add_array(set, "norms", TENSOR_F16, coded->n, coded->n_norms, coded->norms, err);
    RB_TRY(st, rb_alloc(&bytes, (size_t)n, 1, "norms", err), done);
    for (int64_t i = 0; i < n; i++) bytes[i] = (uint8_t)coded->norms[i];
    st = add_array(set, "norms", TENSOR_U8, coded->n, coded->n_norms, bytes, err);
done:
    free(bytes);
    return st;
}

static bool is_safetensors(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && strcmp(dot, ".safetensors") == 0;
}

static rb_status write_safetensors(const tensor_set *set, const encode_place *place, const char *path, rb_error *err)
{
    static const char *const keys[] = {"format", "layer", "kv_head", "what", "family"};
    char layer[16], kv_head[16];
    snprintf(layer, sizeof layer, "%d", place->layer);
    snprintf(kv_head, sizeof kv_head, "%d", place->kv_head);
    const char *const values[] = {"ropebits-codes", layer, kv_head, place->is_values ? "values" : "keys",
                                  place->family};
    return safetensors_write(path, set->at, set->n, keys, values, RB_COUNT(keys), err);
}

rb_status encode_write(const coded_vectors *coded, const encode_place *place, const char *path, rb_error *err)
{
    tensor_set set = {0};
    rb_status st;
    RB_TRY(st, tensor_set_create(&set, MAX_ARRAYS, err), done);
    if (coded->x) RB_TRY(st, add_array(&set, "vectors", TENSOR_F32, coded->n, coded->dims, coded->x, err), done);
    RB_TRY(st, add_array(&set, "packed", TENSOR_U8, coded->n, coded->packed_bytes, coded->packed, err), done);
    if (coded->n_norms > 0) RB_TRY(st, add_norms(&set, coded, err), done);
    RB_TRY(st, add_array(&set, "restored", TENSOR_F32, coded->n, coded->dims, coded->restored, err), done);
    st = is_safetensors(path) ? write_safetensors(&set, place, path, err) : npz_write(path, set.at, set.n, err);
done:
    tensor_set_free(&set);
    return st;
}

/* ---- text ------------------------------------------------------------------------------------ */

/* Two hex digits a byte; a norm of 16 bits is its two bytes, the lower first. */
static char *put_hex(char *at, const uint8_t *bytes, int n)
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < n; i++) {
        *at++ = digits[bytes[i] >> 4];
        *at++ = digits[bytes[i] & 15];
    }
    *at = '\0';
    return at;
}

static void norms_hex(char *at, const coded_vectors *coded, int64_t v)
{
    *at = '\0';
    for (int g = 0; g < coded->n_norms; g++) {
        const uint16_t norm = coded->norms[v * coded->n_norms + g];
        const uint8_t bytes[2] = {(uint8_t)(norm & 255), (uint8_t)(norm >> 8)};
        at = put_hex(at, bytes, coded->norm_bits / 8);
    }
}

void encode_print(const coded_vectors *coded)
{
    char packed[2 * 2 * RB_MAX_HEAD_DIM + 1], norms[4 * RB_MAX_BLOCKS + 1];
    printf("%8s  %-*s%s\n", "vector", 2 * coded->packed_bytes, "packed", coded->n_norms ? "  norms" : "");
    for (int64_t v = 0; v < coded->n; v++) {
        put_hex(packed, coded->packed + v * coded->packed_bytes, coded->packed_bytes);
        norms_hex(norms, coded, v);
        printf("%8lld  %s%s%s\n", (long long)v, packed, coded->n_norms ? "  " : "", norms);
    }
}

static rb_status add_floats(cJSON *object, const char *key, const float *values, int n, rb_error *err)
{
    double numbers[RB_MAX_HEAD_DIM];
    for (int i = 0; i < n; i++) numbers[i] = (double)values[i];
    return rb_json_add_numbers(object, key, numbers, n, err);
}

static rb_status vector_to_json(cJSON **out, const coded_vectors *coded, int64_t v, rb_error *err)
{
    char packed[2 * 2 * RB_MAX_HEAD_DIM + 1], norms[4 * RB_MAX_BLOCKS + 1];
    rb_status st;
    put_hex(packed, coded->packed + v * coded->packed_bytes, coded->packed_bytes);
    norms_hex(norms, coded, v);
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "packed", packed, err), done);
    if (coded->n_norms > 0) RB_TRY(st, rb_json_add_string(*out, "norms", norms, err), done);
    RB_TRY(st, add_floats(*out, "restored", coded->restored + v * coded->dims, coded->dims, err), done);
done:
    return st;
}

static rb_status add_facts(cJSON *json, const coded_vectors *coded, const encode_place *place, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-codes", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, rb_json_add_string(json, "plan", place->plan, err), done);
    RB_TRY(st, rb_json_add_number(json, "layer", place->layer, err), done);
    RB_TRY(st, rb_json_add_number(json, "kv_head", place->kv_head, err), done);
    RB_TRY(st, rb_json_add_string(json, "what", place->is_values ? "values" : "keys", err), done);
    RB_TRY(st, rb_json_add_string(json, "family", place->family, err), done);
    RB_TRY(st, rb_json_add_number(json, "n_vectors", (double)coded->n, err), done);
    RB_TRY(st, rb_json_add_number(json, "dims", coded->dims, err), done);
    RB_TRY(st, rb_json_add_number(json, "packed_bytes", coded->packed_bytes, err), done);
    RB_TRY(st, rb_json_add_number(json, "n_norms", coded->n_norms, err), done);
    RB_TRY(st, rb_json_add_number(json, "norm_bits", coded->norm_bits, err), done);
    if (coded->x) st = rb_json_add_number(json, "relative_error", coded_vectors_relative_error(coded), err);
done:
    return st;
}

rb_status encode_print_json(const coded_vectors *coded, const encode_place *place, rb_error *err)
{
    cJSON *json = NULL, *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the result");
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, add_facts(json, coded, place, err), done);
    for (int64_t v = 0; v < coded->n; v++) {
        RB_TRY(st, vector_to_json(&item, coded, v, err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    RB_TRY(st, rb_json_add_item(json, "vectors", &list, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    cJSON_Delete(json);
    return st;
}
