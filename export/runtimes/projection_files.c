/* See projection_files.h. */
#include "export/runtimes/projection_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/program.h"

/* ---- comments -------------------------------------------------------------------------------- */

double mean_loss(const double *losses, const model_facts *model, int layer)
{
    const int n_kv = model->n_kv_heads, from = layer < 0 ? 0 : layer * n_kv,
              to = layer < 0 ? model->n_layers * n_kv : from + n_kv;
    double sum = 0.0;
    for (int h = from; h < to; h++) sum += losses[h];
    return sum / (to - from);
}

static void comment_numbers(FILE *out, const projection_report *r, int layer)
{
    const model_facts *model = &r->plan->model;
    fprintf(out, "# %5d  %8lld %8lld", layer, (long long)projection_plan_layer_bytes(r->plan, layer),
            (long long)projection_layer_bytes(r->projection, layer));
    if (r->losses->logit_mae)
        fprintf(out, "  %9.4f %9.4f", mean_loss(r->plan_losses->logit_mae, model, layer),
                mean_loss(r->losses->logit_mae, model, layer));
    if (r->losses->value_error)
        fprintf(out, "  %8.4f %8.4f", mean_loss(r->plan_losses->value_error, model, layer),
                mean_loss(r->losses->value_error, model, layer));
    fprintf(out, "\n");
}

static void comment_loss(FILE *out, const projection_report *r)
{
    const model_facts *model = &r->plan->model;
    const bool is_measured = r->losses->logit_mae != NULL, has_values = r->losses->value_error != NULL;
    if (is_measured)
        fprintf(out, "# logit MAE on a capture's test text: plan %.4f, this %.4f\n",
                mean_loss(r->plan_losses->logit_mae, model, -1), mean_loss(r->losses->logit_mae, model, -1));
    else fprintf(out, "# the loss was not measured: no capture was given\n");
    if (has_values)
        fprintf(out, "# relative error of values there: plan %.4f, this %.4f\n",
                mean_loss(r->plan_losses->value_error, model, -1), mean_loss(r->losses->value_error, model, -1));
    fprintf(out, "#\n# layer  bytes: plan, this%s%s\n", is_measured ? "  logit MAE: plan, this" : "",
            has_values ? "  value error: plan, this" : "");
    for (int layer = 0; layer < model->n_layers; layer++) comment_numbers(out, r, layer);
}

static void write_comments(FILE *out, const projection_report *r)
{
    const projection *p = r->projection;
    const runtime *to = p->runtime;
    const model_facts *model = &r->plan->model;
    int64_t plan_bytes = 0;
    char lost[PROJECTION_MAX_LOST][PROJECTION_LOST_SIZE];
    const int n_lost = projection_describe_lost(lost, p, r->plan);
    for (int layer = 0; layer < model->n_layers; layer++) plan_bytes += projection_plan_layer_bytes(r->plan, layer);
    fprintf(out, "# %s for %s (%s), by ropebits export %s\n", rb_shown(r->plan_name).text, to->name, to->version,
            rb_tool_version());
    fprintf(out, "# model: %s, %d layers, %d KV heads of %d dims, config.json %s\n", model->model_type, model->n_layers,
            model->n_kv_heads, model->head_dim, model->config_sha256);
    fprintf(out, "# bytes a token: plan %lld, this %lld\n", (long long)plan_bytes, (long long)projection_bytes(p));
    for (int i = 0; i < n_lost; i++) fprintf(out, "# cannot carry: %s\n", lost[i]);
    if (to->exact_tokens) fprintf(out, "# keeps in 16 bits by itself: %s\n", to->exact_tokens);
    for (size_t i = 0; i < RB_COUNT(to->notes) && to->notes[i]; i++) fprintf(out, "# note: %s\n", to->notes[i]);
    comment_loss(out, r);
    fprintf(out, "\n");
}

static const char *type_name(const projection *p, int layer, bool of_values)
{
    return p->runtime->types[projection_layer_type(p, layer, of_values)].name;
}

/* ---- a writer a runtime ---------------------------------------------------------------------- */

/* vllm serve MODEL --config FILE */
static rb_status write_vllm(FILE *out, const projection_report *r, rb_error *err)
{
    const projection *p = r->projection;
    const char *separator = "";
    int type = RUNTIME_FP16_TYPE;
    (void)err;
    write_comments(out, r);
    for (int layer = 0; layer < p->model.n_layers; layer++)
        if (projection_layer_type(p, layer, false) != RUNTIME_FP16_TYPE) type = projection_layer_type(p, layer, false);
    fprintf(out, "kv-cache-dtype: %s\nkv-cache-dtype-skip-layers: [", p->runtime->types[type].name);
    for (int layer = 0; layer < p->model.n_layers; layer++)
        if (projection_layer_type(p, layer, false) == RUNTIME_FP16_TYPE) {
            fprintf(out, "%s\"%d\"", separator, layer);
            separator = ", ";
        }
    fprintf(out, "]\n");
    return RB_OK;
}

/* llama-server -m MODEL.gguf $(grep -v '^#' FILE) */
static rb_status write_llama_cpp(FILE *out, const projection_report *r, rb_error *err)
{
    (void)err;
    write_comments(out, r);
    fprintf(out, "-ctk %s -ctv %s -fa on\n", type_name(r->projection, 0, false), type_name(r->projection, 0, true));
    return RB_OK;
}

/* Layers from one end, step 1 or -1, that have the type of the first of them. */
static int run_length(const projection *p, int from, int step, bool of_values)
{
    int n = 0;
    for (int layer = from; layer >= 0 && layer < p->model.n_layers; layer += step, n++)
        if (projection_layer_type(p, layer, of_values) != projection_layer_type(p, from, of_values)) break;
    return n;
}

/* -ctk TYPE, and -ctk-first and -ctk-last where the ends differ. */
static void write_ends(FILE *out, const projection *p, const char *option, bool of_values)
{
    const int n = p->model.n_layers, n_first = run_length(p, 0, 1, of_values),
              n_last = run_length(p, n - 1, -1, of_values);
    const int middle = n_first < n ? n_first : 0; /* of three runs the second is between; of two it is the last */
    fprintf(out, "%s %s", option, type_name(p, middle, of_values));
    if (n_first < n) fprintf(out, " %s-first %s,%d", option, type_name(p, 0, of_values), n_first);
    if (n_first + n_last < n) fprintf(out, " %s-last %s,%d", option, type_name(p, n - 1, of_values), n_last);
}

/* The same with llama-server of ik_llama.cpp. */
static rb_status write_ik_llama_cpp(FILE *out, const projection_report *r, rb_error *err)
{
    const projection *p = r->projection;
    const bool is_rotated = runtime_quantizer_rotated(&p->runtime->types[1].keys, p->model.head_dim) > 1;
    (void)err;
    write_comments(out, r);
    write_ends(out, p, "-ctk", false);
    fprintf(out, " ");
    write_ends(out, p, "-ctv", true);
    fprintf(out, "%s -fa on\n", is_rotated ? " -khad -vhad" : "");
    return RB_OK;
}

static void write_python_list(FILE *out, const char *name, const projection *p, bool of_values)
{
    fprintf(out, "%s = [", name);
    for (int layer = 0; layer < p->model.n_layers; layer++)
        fprintf(out, "%s%s", layer > 0 ? ", " : "", type_name(p, layer, of_values));
    fprintf(out, "]\n");
}

/* Cache(model, max_num_tokens = ..., layer_type = cache_layer) */
static rb_status write_exllamav3(FILE *out, const projection_report *r, rb_error *err)
{
    (void)err;
    write_comments(out, r);
    write_python_list(out, "K_BITS", r->projection, false);
    write_python_list(out, "V_BITS", r->projection, true);
    fprintf(out, "\n\n"
                 "def cache_layer(config, attention, cache_id, max_num_tokens, **kwargs):\n"
                 "    \"\"\"For Cache(model, max_num_tokens, layer_type=cache_layer).\"\"\"\n"
                 "    from exllamav3.cache import CacheLayer_quant\n"
                 "    layer = attention.layer_idx\n"
                 "    return CacheLayer_quant(config, attention, cache_id, max_num_tokens,\n"
                 "                            k_bits=K_BITS[layer], v_bits=V_BITS[layer], **kwargs)\n");
    return RB_OK;
}

/* generate(model, tokenizer, prompt, prompt_cache=make_cache()) */
static rb_status write_mlx_lm(FILE *out, const projection_report *r, rb_error *err)
{
    (void)err;
    write_comments(out, r);
    write_python_list(out, "KV_BITS", r->projection, false);
    fprintf(out,
            "GROUP_SIZE = %d\n\n\n"
            "def make_cache():\n"
            "    \"\"\"For generate(model, tokenizer, prompt, prompt_cache=make_cache()).\"\"\"\n"
            "    from mlx_lm.models.cache import KVCache, QuantizedKVCache\n"
            "    return [KVCache() if bits is None else QuantizedKVCache(group_size=GROUP_SIZE, bits=bits)\n"
            "            for bits in KV_BITS]\n",
            r->projection->runtime->types[1].keys.group);
    return RB_OK;
}

/* FlexibleQuantizedCacheConfig(per_head_quant=True, per_head_config_path=FILE, ...) */
static rb_status write_kvtuner(FILE *out, const projection_report *r, rb_error *err)
{
    const projection *p = r->projection;
    (void)err;
    write_comments(out, r);
    for (int layer = 0; layer < p->model.n_layers; layer++) {
        fprintf(out, "%d:\n", layer);
        for (int h = 0; h < p->model.n_kv_heads; h++)
            fprintf(out, "  %d:\n    nbits_key: %d\n    nbits_value: %d\n", h, projection_keys(p, layer, h)->width,
                    projection_values(p, layer, h)->width);
    }
    return RB_OK;
}

/* ---- ModelOpt: JSON, without comments -------------------------------------------------------- */

static rb_status add_layer_map(cJSON *quantization, const projection *p, rb_error *err)
{
    cJSON *map = NULL, *entry = NULL;
    const char *algorithm = NULL;
    bool is_mixed = false;
    char name[64];
    rb_status st;
    RB_TRY(st, rb_json_new_object(&map, err), done);
    for (int layer = 0; layer < p->model.n_layers; layer++) {
        const char *type = type_name(p, layer, false);
        if (projection_layer_type(p, layer, false) == RUNTIME_FP16_TYPE) continue;
        is_mixed = is_mixed || (algorithm && strcmp(algorithm, type) != 0);
        algorithm = type;
        snprintf(name, sizeof name, "model.layers.%d.self_attn", layer);
        RB_TRY(st, rb_json_new_object(&entry, err), done);
        RB_TRY(st, rb_json_add_string(entry, "quant_algo", type, err), done);
        RB_TRY(st, rb_json_add_item(map, name, &entry, err), done);
    }
    RB_TRY(st,
           algorithm
               ? rb_json_add_string(quantization, "kv_cache_quant_algo", is_mixed ? "MIXED_PRECISION" : algorithm, err)
               : rb_json_add_null(quantization, "kv_cache_quant_algo", err),
           done);
    RB_TRY(st, rb_json_add_item(quantization, "kv_cache_quantized_layers", &map, err), done);
    st = rb_json_add_number(quantization, "kv_cache_schema_version", 1, err);
done:
    cJSON_Delete(entry);
    cJSON_Delete(map);
    return st;
}

/* The comments of the other files, line by line. */
static rb_status add_comments(cJSON *json, const projection_report *r, rb_error *err)
{
    char *text = NULL, *rest, *line;
    size_t size = 0;
    cJSON *lines = cJSON_CreateArray(), *item;
    rb_status st = RB_OK;
    FILE *out = open_memstream(&text, &size);
    if (!out || !lines) st = rb_fail(err, RB_ENOMEM, "out of memory for %s", r->projection->runtime->name);
    if (out) {
        if (st == RB_OK) write_comments(out, r);
        if (fclose(out) != 0) st = rb_fail(err, RB_ENOMEM, "out of memory for %s", r->projection->runtime->name);
    }
    for (line = st == RB_OK ? strtok_r(text, "\n", &rest) : NULL; line && st == RB_OK;
         line = strtok_r(NULL, "\n", &rest)) {
        item = cJSON_CreateString(line[1] == ' ' ? line + 2 : line + 1);
        st = item ? rb_json_append(lines, &item, err) : rb_fail(err, RB_ENOMEM, "out of memory for comments");
    }
    if (st == RB_OK) st = rb_json_add_item(json, "comments", &lines, err);
    cJSON_Delete(lines);
    free(text);
    return st;
}

static rb_status write_modelopt(FILE *out, const projection_report *r, rb_error *err)
{
    cJSON *json = NULL, *producer = NULL, *quantization = NULL;
    char *text = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_new_object(&producer, err), done);
    RB_TRY(st, rb_json_add_string(producer, "name", "ropebits", err), done);
    RB_TRY(st, rb_json_add_string(producer, "version", rb_tool_version(), err), done);
    RB_TRY(st, rb_json_add_item(json, "producer", &producer, err), done);
    RB_TRY(st, rb_json_new_object(&quantization, err), done);
    RB_TRY(st, add_layer_map(quantization, r->projection, err), done);
    RB_TRY(st, rb_json_add_item(json, "quantization", &quantization, err), done);
    RB_TRY(st, add_comments(json, r, err), done);
    RB_TRY(st, rb_json_print(&text, json, err), done);
    fputs(text, out);
done:
    free(text);
    cJSON_Delete(producer);
    cJSON_Delete(quantization);
    cJSON_Delete(json);
    return st;
}

/* ---- all ------------------------------------------------------------------------------------- */

static const struct projection_file {
    const char *format;
    rb_status (*write)(FILE *out, const projection_report *report, rb_error *err);
} files[RUNTIME_N] = {
    [RUNTIME_VLLM] = {"%s/%s-vllm.yaml", write_vllm},
    [RUNTIME_LLAMA_CPP] = {"%s/%s-llama.cpp.args", write_llama_cpp},
    [RUNTIME_IK_LLAMA_CPP] = {"%s/%s-ik_llama.cpp.args", write_ik_llama_cpp},
    [RUNTIME_EXLLAMAV3] = {"%s/%s-exllamav3.py", write_exllamav3},
    [RUNTIME_MLX_LM] = {"%s/%s-mlx-lm.py", write_mlx_lm},
    [RUNTIME_KVTUNER] = {"%s/%s-kvtuner.yaml", write_kvtuner},
    [RUNTIME_MODELOPT] = {"%s/%s-modelopt.json", write_modelopt},
};

const char *projection_file_format(runtime_id id) { return files[id].format; }

rb_status projection_write(const projection_report *report, const char *path, rb_error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) return rb_fail(err, RB_ENOMEM, "out of memory for %s", path);
    rb_status st = files[report->projection->runtime->id].write(out, report, err);
    if (fclose(out) != 0 && st == RB_OK) st = rb_fail(err, RB_ENOMEM, "out of memory for %s", path);
    if (st == RB_OK) st = rb_atomic_write(path, text, size, err);
    free(text);
    return st;
}
