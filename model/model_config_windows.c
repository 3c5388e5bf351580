/* Sliding windows in config.json. */
#include <string.h>

#include "model/model_config_parts.h"

/* One entry a layer; NULL where the file has none. */
static rb_status get_layer_types(const cJSON **types, const model_config *config, const cJSON *json, const char *name,
                                 rb_error *err)
{
    *types = NULL;
    if (!rb_json_find(json, "layer_types")) return RB_OK;
    const rb_status st = rb_json_get_array(json, "layer_types", name, types, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(*types) != config->facts.n_layers)
        return rb_fail(err, RB_EINVAL, "%s: layer_types has %d entries, num_hidden_layers is %d", name,
                       cJSON_GetArraySize(*types), config->facts.n_layers);
    return RB_OK;
}

static void take_layer_types(model_config *config, const cJSON *types)
{
    const cJSON *item;
    int layer = 0;
    cJSON_ArrayForEach (item, types)
        config->layer_slides[layer++] = cJSON_IsString(item) && strcmp(item->valuestring, "sliding_attention") == 0;
}

static rb_status slide_everywhere(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    for (int layer = 0; layer < config->facts.n_layers; layer++) config->layer_slides[layer] = true;
    return config_get_count(json, "sliding_window", name, INT32_MAX, &config->sliding_window, err);
}

/* The layers that slide are those that layer_types says, or every layer from max_window_layers on where there are no
 * layer_types. */
static rb_status parse_layer_windows(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const cJSON *types;
    int64_t first_layer = 0;
    bool is_used;
    rb_status st;

    RB_TRY(st, config_get_flag(json, "use_sliding_window", name, &is_used, err), done);
    if (!is_used) return RB_OK;
    RB_TRY(st, config_get_count(json, "sliding_window", name, INT32_MAX, &config->sliding_window, err), done);
    RB_TRY(st, get_layer_types(&types, config, json, name, err), done);
    if (types) {
        take_layer_types(config, types);
        return RB_OK;
    }
    RB_TRY(st, rb_json_get_int(json, "max_window_layers", name, 0, INT32_MAX, &first_layer, err), done);
    for (int64_t layer = first_layer; layer < config->facts.n_layers; layer++) config->layer_slides[layer] = true;
done:
    return st;
}

/* Every layer, where use_sliding_window says so. */
static rb_status parse_window_if_used(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    bool is_used;
    const rb_status st = config_get_flag(json, "use_sliding_window", name, &is_used, err);
    if (st != RB_OK || !is_used) return st;
    return slide_everywhere(config, json, name, err);
}

/* Every n-th layer sees all keys, unless layer_types says which do. */
static rb_status parse_pattern(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const cJSON *types;
    int pattern = config->family->window_pattern;
    rb_status st;

    RB_TRY(st, config_get_count(json, "sliding_window", name, INT32_MAX, &config->sliding_window, err), done);
    RB_TRY(st, get_layer_types(&types, config, json, name, err), done);
    if (types) {
        take_layer_types(config, types);
        return RB_OK;
    }
    RB_TRY(st, config_get_count_or(json, "_sliding_window_pattern", name, INT32_MAX, pattern, &pattern, err), done);
    RB_TRY(st, config_get_count_or(json, "sliding_window_pattern", name, INT32_MAX, pattern, &pattern, err), done);
    for (int layer = 0; layer < config->facts.n_layers; layer++)
        config->layer_slides[layer] = (layer + 1) % pattern != 0;
done:
    return st;
}

static rb_status parse_common_window(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    if (!cJSON_GetObjectItemCaseSensitive(json, "sliding_window"))
        return rb_fail(err, RB_EFORMAT, "%s: sliding_window is missing, expected a number or null", name);
    if (!rb_json_find(json, "sliding_window")) return RB_OK;
    return slide_everywhere(config, json, name, err);
}

/* layer_types, where given, must agree with the other settings for every layer. */
static rb_status check_layer_types(const model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const cJSON *types, *item;
    int layer = 0;
    const rb_status st = get_layer_types(&types, config, json, name, err);
    if (st != RB_OK || !types) return st;
    cJSON_ArrayForEach (item, types) {
        const char *expected = config->layer_slides[layer] ? "sliding_attention" : "full_attention";
        const char *found = cJSON_IsString(item) ? item->valuestring : "not a string";
        if (strcmp(found, expected) != 0)
            return rb_fail(err, RB_EUNSUPPORTED, "%s: layer_types[%d] is \"%s\", expected \"%s\" by the other settings",
                           name, layer, found, expected);
        layer++;
    }
    return RB_OK;
}

rb_status config_parse_windows(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    rb_status st = RB_OK;
    switch (config->family->window) {
    case WINDOW_EVERY_LAYER: st = parse_common_window(config, json, name, err); break;
    case WINDOW_IF_USED: st = parse_window_if_used(config, json, name, err); break;
    case WINDOW_SOME_LAYERS: st = parse_layer_windows(config, json, name, err); break;
    case WINDOW_PATTERN: st = parse_pattern(config, json, name, err); break;
    case WINDOW_REFUSED:
        if (rb_json_find(json, "sliding_window"))
            st = rb_fail(err, RB_EUNSUPPORTED, "%s: sliding_window is set, which %s does not have", name,
                         config->facts.model_type);
        break;
    }
    return st == RB_OK ? check_layer_types(config, json, name, err) : st;
}
