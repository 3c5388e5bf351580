/* Facts of an imported model: see calibrate/import_facts.h. */
#include "calibrate/import_facts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/message.h"
#include "model/model_config.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

/* Frequencies that a model keeps in f32, and those of a base in double, are the same within this. */
static const double SAME_FREQUENCY = 1e-5;

/* ---- config.json ----------------------------------------------------------------------------- */

/* What a config.json says, as far as it is understood. */
typedef struct config_facts {
    bool is_given, is_understood;
    model_facts facts; /* understood: all of them, RoPE resolved for the import's longest sequence; otherwise model_type
                          and config_sha256 */
} config_facts;

static rb_status read_model_type(model_facts *facts, const char *text, size_t length, const char *path, rb_error *err)
{
    cJSON *json = NULL;
    const char *model_type;
    rb_status st;
    RB_TRY(st, rb_json_parse(&json, text, length, path, err), done);
    RB_TRY(st, rb_json_get_string(json, "model_type", path, &model_type, err), done);
    if (strlen(model_type) >= sizeof facts->model_type) {
        st = rb_fail(err, RB_EINVAL, "%s: model_type has %zu bytes, expected at most %zu", path, strlen(model_type),
                     sizeof facts->model_type - 1);
        goto done;
    }
    strcpy(facts->model_type, model_type);
    RB_TRY(st, rb_sha256_bytes(facts->config_sha256, text, length, err), done);
done:
    cJSON_Delete(json);
    return st;
}

/* A model that `calibrate` does not run is what an import is for: then the options must say more. */
static rb_status read_config(config_facts *out, const char *path, int64_t n_positions, rb_error *err)
{
    char *text = NULL;
    size_t length;
    model_config *config = NULL;
    rb_error why = {0};
    rb_status st;
    *out = (config_facts){0};
    if (!path) return RB_OK;
    out->is_given = true;
    RB_TRY(st, rb_read_file(&text, &length, path, MAX_CONFIG_BYTES, err), done);
    RB_TRY(st, rb_alloc(&config, 1, sizeof *config, "model configuration", err), done);
    out->is_understood = model_config_parse(config, text, length, path, &why) == RB_OK;
    if (out->is_understood) {
        RB_TRY(st, model_config_resolve_rope(config, n_positions, path, err), done);
        out->facts = config->facts;
    } else {
        rb_message_verbose("RoPE is not taken from the configuration: %s", why.msg);
        RB_TRY(st, read_model_type(&out->facts, text, length, path, err), done);
    }
done:
    free(config);
    free(text);
    return st;
}

static rb_status differ(const char *path, const char *name, int config, int tensors, rb_error *err)
{
    return config == tensors
               ? RB_OK
               : rb_fail(err, RB_EMISMATCH, "%s has %s %d, the tensors have %d", path, name, config, tensors);
}

static rb_status check_geometry(const config_facts *config, const import_layout *layout, const char *path,
                                rb_error *err)
{
    const model_facts *facts = &config->facts;
    rb_status st = RB_OK;
    if (!config->is_understood) return RB_OK;
    RB_TRY(st, differ(path, "layers", facts->n_layers, layout->n_layers, err), done);
    RB_TRY(st, differ(path, "query heads", facts->n_q_heads, layout->n_q_heads, err), done);
    RB_TRY(st, differ(path, "KV heads", facts->n_kv_heads, layout->n_kv_heads, err), done);
    RB_TRY(st, differ(path, "head_dim", facts->head_dim, layout->head_dim, err), done);
    if (layout->has_values) RB_TRY(st, differ(path, "value_dim", facts->value_dim, layout->value_dim, err), done);
done:
    return st;
}

/* ---- frequencies ----------------------------------------------------------------------------- */

static int64_t longest_sequence(const import_layout *layout, const import_options *opt)
{
    int64_t longest = 0;
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        const int64_t n_tokens = layout->set[set].n_tokens;
        const int64_t length = opt->context > 0 && opt->context < n_tokens ? opt->context : n_tokens;
        if (length > longest) longest = length;
    }
    return longest;
}

static bool same_frequencies(const double *a, const double *b, int n, int *first)
{
    for (*first = 0; *first < n; (*first)++)
        if (!(fabs(a[*first] - b[*first]) <= SAME_FREQUENCY * fabs(b[*first]))) return false;
    return true;
}

/* The tensor's frequencies, and their number; 0 without the tensor. */
static rb_status read_inv_freq(double *inv_freq, int *n, import_layout *layout, rb_error *err)
{
    import_tensor found;
    *n = 0;
    if (!import_layout_find(layout, IMPORT_INV_FREQ, &found)) return RB_OK;
    const safetensor *tensor = found.tensor;
    if (tensor->rank != 1 || tensor->shape[0] < 1 || tensor->shape[0] > layout->head_dim / 2)
        return rb_fail(err, RB_EFORMAT, "%s: tensor \"%s\" has %d dims, the first %lld, expected [1 to %d]", found.path,
                       tensor->name, tensor->rank, (long long)(tensor->rank > 0 ? tensor->shape[0] : 0),
                       layout->head_dim / 2);
    *n = (int)tensor->shape[0];
    return import_tensor_numbers(layout->own[CAPTURE_CALIBRATION], &found, inv_freq, err);
}

/* The base whose first and last frequencies have the ratio of these. */
static double base_of(const double *inv_freq, int n)
{
    return n < 2 ? 1 : pow(inv_freq[0] / inv_freq[n - 1], (double)n / (n - 1));
}

/* Any other frequencies are those of a base, each divided by a factor of its own, which is longrope. */
static void take_frequencies(rope_facts *rope, const double *inv_freq, int n, int64_t n_positions)
{
    *rope = (rope_facts){.kind = ROPE_LONGROPE,
                         .pairing = rope->pairing,
                         .theta = base_of(inv_freq, n),
                         .factor = 1,
                         .original_max_position = n_positions,
                         .attention_factor = 1};
    memcpy(rope->inv_freq, inv_freq, (size_t)n * sizeof *inv_freq);
}

/* Names the base when these are the frequencies of default RoPE, or of linear RoPE, which divides them by a factor:
 * inv_freq[i] = theta^(-2i / rotary_dim) / factor. */
static bool recognize(rope_facts *rope, const double *inv_freq, int n, int rotary_dim)
{
    rb_error ignored = {0};
    rope_settings guess = {.kind = ROPE_DEFAULT, .rotary_factor = 1};
    rope_facts found = {.pairing = rope->pairing};
    int first;
    if (n < 2) return false;
    guess.theta = base_of(inv_freq, n);
    if (fabs(guess.theta - round(guess.theta)) <= SAME_FREQUENCY * guess.theta) guess.theta = round(guess.theta);
    if (!(fabs(inv_freq[0] - 1) <= SAME_FREQUENCY)) {
        guess.kind = ROPE_LINEAR;
        guess.factor = 1 / inv_freq[0];
        if (fabs(guess.factor - round(guess.factor)) <= SAME_FREQUENCY) guess.factor = round(guess.factor);
    }
    if (rope_resolve(&found, &guess, rotary_dim, 1, 1, IMPORT_INV_FREQ, &ignored) != RB_OK) return false;
    if (!same_frequencies(inv_freq, found.inv_freq, n, &first)) return false;
    *rope = found;
    return true;
}

static bool takes_rope_of_config(const config_facts *config, const import_options *opt)
{
    return config->is_understood && isnan(opt->rope_theta);
}

/* Default RoPE by the option's base, or config.json's settings, those of layers with a window too. */
static rb_status rope_of_base(model_facts *facts, const config_facts *config, const import_options *opt, rb_error *err)
{
    const rope_settings settings = {.kind = ROPE_DEFAULT, .theta = opt->rope_theta, .rotary_factor = 1};
    const rope_pairing pairing = facts->rope.pairing;
    const model_facts *from = &config->facts;
    if (!takes_rope_of_config(config, opt))
        return rope_resolve(&facts->rope, &settings, facts->rotary_dim, 1, 1, "--rope-theta", err);
    if (facts->rotary_dim != from->rotary_dim)
        return rb_fail(err, RB_EMISMATCH, "rotary_dim is %d, but %d in %s", facts->rotary_dim, from->rotary_dim,
                       opt->config);
    facts->rope = from->rope;
    facts->local_rope = from->local_rope;
    facts->rope.pairing = facts->local_rope.pairing = pairing;
    facts->has_local_rope = from->has_local_rope;
    memcpy(facts->layer_is_local, from->layer_is_local, sizeof facts->layer_is_local);
    return RB_OK;
}

static rb_status resolve_rope(model_facts *facts, import_layout *layout, const config_facts *config,
                              const import_options *opt, rb_error *err)
{
    const bool has_base = !isnan(opt->rope_theta) || config->is_understood;
    double inv_freq[RB_MAX_BLOCKS] = {0};
    int n = 0, first;
    rb_status st;

    RB_TRY(st, read_inv_freq(inv_freq, &n, layout, err), done);
    for (int i = 0; i < n; i++)
        if (!(inv_freq[i] > 0 && isfinite(inv_freq[i])))
            return rb_fail(err, RB_EINVAL, "\"%s\"[%d] is %g, expected a positive number", IMPORT_INV_FREQ, i,
                           inv_freq[i]);
    facts->rotary_dim = opt->rotary_dim > 0     ? (int)opt->rotary_dim
                        : n > 0                 ? 2 * n
                        : config->is_understood ? config->facts.rotary_dim
                                                : layout->head_dim;
    if (n > 0 && 2 * n != facts->rotary_dim)
        return rb_fail(err, RB_EMISMATCH, "rotary_dim is %d, but \"%s\" has %d frequencies, expected %d",
                       facts->rotary_dim, IMPORT_INV_FREQ, n, facts->rotary_dim / 2);
    if (!has_base && n == 0)
        return rb_fail(err, RB_EUSAGE, "no RoPE frequencies: give a tensor \"%s\", or --rope-theta, or --config",
                       IMPORT_INV_FREQ);
    if (!has_base) {
        if (!recognize(&facts->rope, inv_freq, n, facts->rotary_dim))
            take_frequencies(&facts->rope, inv_freq, n, longest_sequence(layout, opt));
        return RB_OK;
    }
    RB_TRY(st, rope_of_base(facts, config, opt, err), done);
    if (n > 0 && !same_frequencies(inv_freq, facts->rope.inv_freq, n, &first))
        return rb_fail(err, RB_EMISMATCH, "\"%s\"[%d] is %.9g, but %s gives %.9g", IMPORT_INV_FREQ, first,
                       inv_freq[first], takes_rope_of_config(config, opt) ? opt->config : "--rope-theta",
                       facts->rope.inv_freq[first]);
done:
    return st;
}

/* ---- identity -------------------------------------------------------------------------------- */

static rb_status resolve_model_type(model_facts *facts, const import_layout *layout, const config_facts *config,
                                    const import_options *opt, rb_error *err)
{
    const char *type = opt->model_type;
    if (!type && config->is_given) type = config->facts.model_type;
    if (!type) type = import_tensors_metadata(layout->own[CAPTURE_CALIBRATION], "model_type");
    if (!type) return rb_fail(err, RB_EUSAGE, "no model type: give --model-type, or --config");
    if (strlen(type) == 0 || strlen(type) >= sizeof facts->model_type)
        return rb_fail(err, RB_EINVAL, "model type \"%s\" has %zu bytes, expected 1 to %zu", type, strlen(type),
                       sizeof facts->model_type - 1);
    snprintf(facts->model_type, sizeof facts->model_type, "%s", type);
    return RB_OK;
}

/* Without a config.json, the facts themselves tell models apart: their JSON is hashed in its place. */
static rb_status resolve_identity(model_facts *facts, const config_facts *config, rb_error *err)
{
    cJSON *json = NULL;
    char *text = NULL;
    rb_status st;
    if (config->is_given) {
        memcpy(facts->config_sha256, config->facts.config_sha256, sizeof facts->config_sha256);
        return RB_OK;
    }
    RB_TRY(st, model_facts_to_json(&json, facts, err), done);
    RB_TRY(st, rb_json_print(&text, json, err), done);
    RB_TRY(st, rb_sha256_bytes(facts->config_sha256, text, strlen(text), err), done);
done:
    free(text);
    cJSON_Delete(json);
    return st;
}

rb_status import_facts_resolve(model_facts *out, import_layout *layout, const import_options *opt, rb_error *err)
{
    const int64_t n_positions = longest_sequence(layout, opt);
    config_facts *config = NULL;
    rb_status st;
    *out = (model_facts){.n_layers = layout->n_layers,
                         .n_q_heads = layout->n_q_heads,
                         .n_kv_heads = layout->n_kv_heads,
                         .head_dim = layout->head_dim,
                         .value_dim = layout->has_values ? layout->value_dim : layout->head_dim};
    RB_TRY(st, rb_alloc(&config, 1, sizeof *config, "configuration", err), done);
    RB_TRY(st, read_config(config, opt->config, n_positions, err), done);
    RB_TRY(st, check_geometry(config, layout, opt->config, err), done);
    if (config->is_understood) out->value_dim = config->facts.value_dim;
    RB_TRY(st, resolve_model_type(out, layout, config, opt, err), done);
    if (opt->pairing < 0 && !config->is_understood)
        RB_TRY(st, rb_fail(err, RB_EUSAGE, "no pairing: give --pairing split-half or --pairing interleaved"), done);
    out->rope.pairing = opt->pairing >= 0 ? (rope_pairing)opt->pairing : config->facts.rope.pairing;
    out->attention_scale = !isnan(opt->attention_scale) ? opt->attention_scale
                           : config->is_understood      ? config->facts.attention_scale
                                                        : 1.0 / sqrt(layout->head_dim);
    RB_TRY(st, resolve_rope(out, layout, config, opt, err), done);
    RB_TRY(st, resolve_identity(out, config, err), done);
    RB_TRY(st, model_facts_check(out, "import", err), done);
done:
    free(config);
    return st;
}
