/* What inspect says of every kind of file: export/inspect.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "export/inspect.h"

rb_status inspect_check_layer(const inspect_request *request, const model_facts *model, rb_error *err)
{
    if (request->layer < model->n_layers) return RB_OK;
    return rb_fail(err, RB_EINVAL, "--layer is %lld, expected less than the %d layers of %s", (long long)request->layer,
                   model->n_layers, request->path);
}

bool inspect_wants_layer(const inspect_request *request, int layer)
{
    return request->layer < 0 || layer == request->layer;
}

rb_status inspect_file_size(int64_t *bytes, const char *path, rb_error *err)
{
    struct stat info;
    if (stat(path, &info) != 0) return rb_fail(err, RB_EIO, "%s: cannot be looked at", path);
    *bytes = info.st_size;
    return RB_OK;
}

void inspect_print_model(const model_facts *model)
{
    printf("model        %s, %d layers, %d query and %d KV heads of %d dims\n", model->model_type, model->n_layers,
           model->n_q_heads, model->n_kv_heads, model->head_dim);
    printf("config.json  %s\n", model->config_sha256);
    printf("rope         %s, %s pairing, %d of %d blocks turn\n", rope_kind_name(model->rope.kind),
           rope_pairing_name(model->rope.pairing), model->rotary_dim / 2, model_n_blocks(model));
}

void inspect_print_text(const char *label, const text_facts *text)
{
    if (text->n_tokens == 0) return;
    printf("%-12s %lld tokens in sequences of %lld, ids %.12s...\n", label, (long long)text->n_tokens,
           (long long)text->context, text->tokens_sha256);
}

/* ---- statistics ------------------------------------------------------------------------------ */

static void add_head(inspect_layer *out, const block_statistics *s, int h)
{
    const double *q = s->q_energy + (int64_t)h * s->n_blocks, *k = s->k_energy + (int64_t)h * s->n_blocks;
    double query = 0.0, key = 0.0, largest = 0.0, mean = 0.0;
    for (int i = 0; i < s->n_blocks; i++) {
        query += q[i];
        key += k[i];
        largest = fmax(largest, q[i] + k[i]);
    }
    for (int dim = 0; dim < s->head_dim; dim++) mean += pow(s->k_mean[(int64_t)h * s->head_dim + dim], 2.0);
    out->query_energy += query / s->n_kv_heads;
    out->key_energy += key / s->n_kv_heads;
    if (query + key > 0.0) out->largest_block_share += largest / (query + key) / s->n_kv_heads;
    if (key > 0.0) out->mean_key_share += mean / key / s->n_kv_heads;
}

inspect_layer inspect_layer_of(const block_statistics *statistics)
{
    inspect_layer out = {0};
    for (int h = 0; h < statistics->n_kv_heads; h++) add_head(&out, statistics, h);
    return out;
}

void inspect_print_layer_head(void)
{
    printf("\nof the calibration text, means over KV heads\n\n%5s %14s %14s %16s %14s\n", "layer", "query energy",
           "key energy", "largest block", "mean key");
}

void inspect_print_layer(int layer, const inspect_layer *s)
{
    printf("%5d %14.4g %14.4g %14.1f %% %12.1f %%\n", layer, s->query_energy, s->key_energy,
           100.0 * s->largest_block_share, 100.0 * s->mean_key_share);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

rb_status inspect_layer_to_json(cJSON *list, int layer, const inspect_layer *s, rb_error *err)
{
    cJSON *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&item, err), done);
    RB_TRY(st, rb_json_add_number(item, "layer", layer, err), done);
    RB_TRY(st, rb_json_add_number(item, "query_energy", s->query_energy, err), done);
    RB_TRY(st, rb_json_add_number(item, "key_energy", s->key_energy, err), done);
    RB_TRY(st, rb_json_add_number(item, "largest_block_share", s->largest_block_share, err), done);
    RB_TRY(st, rb_json_add_number(item, "mean_key_share", s->mean_key_share, err), done);
    RB_TRY(st, rb_json_append(list, &item, err), done);
done:
    cJSON_Delete(item);
    return st;
}

static rb_status add_text(cJSON *texts, const char *name, const text_facts *text, rb_error *err)
{
    cJSON *item = NULL;
    const rb_status st = text_facts_to_json(&item, text, err);
    return st == RB_OK ? rb_json_add_item(texts, name, &item, err) : st;
}

rb_status inspect_begin_json(cJSON **out, const char *kind, const char *path, const model_facts *model,
                             const text_facts *calibration, const text_facts *test, rb_error *err)
{
    cJSON *json = NULL, *item = NULL;
    int64_t size_bytes;
    rb_status st;
    RB_TRY(st, inspect_file_size(&size_bytes, path, err), done);
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", INSPECTION_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(json, "version", INSPECTION_VERSION, err), done);
    RB_TRY(st, rb_json_add_string(json, "kind", kind, err), done);
    RB_TRY(st, rb_json_add_number(json, "size_bytes", (double)size_bytes, err), done);
    RB_TRY(st, model_facts_to_json(&item, model, err), done);
    RB_TRY(st, rb_json_add_item(json, "model", &item, err), done);
    RB_TRY(st, rb_json_new_object(&item, err), done);
    RB_TRY(st, add_text(item, "calibration", calibration, err), done);
    RB_TRY(st, add_text(item, "test", test, err), done);
    RB_TRY(st, rb_json_add_item(json, "texts", &item, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(item);
    cJSON_Delete(json);
    return st;
}
