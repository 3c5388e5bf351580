/* Model facts: names, blocks, checks and comparison. See core/model_facts.h. */
#include "core/model_facts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/model_facts_forms.h"
#include "core/plain_name.h"

/* ---- names and blocks ------------------------------------------------------------------------ */

static const char *const kind_names[] = {
    [ROPE_DEFAULT] = "default",          [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3",
    [ROPE_DYNAMIC] = "dynamic",          [ROPE_YARN] = "yarn",     [ROPE_LONGROPE] = "longrope",
    [ROPE_PROPORTIONAL] = "proportional"};
static const char *const pairing_names[] = {[ROPE_SPLIT_HALF] = "split-half", [ROPE_INTERLEAVED] = "interleaved"};

const char *rope_kind_name(rope_kind kind) { return kind_names[kind]; }
bool rope_kind_has_original(rope_kind kind)
{
    return kind == ROPE_LLAMA3 || kind == ROPE_YARN || kind == ROPE_LONGROPE;
}
const char *rope_pairing_name(rope_pairing pairing) { return pairing_names[pairing]; }

/* Index of name, or -1. */
static int find_name(const char *const *names, size_t n_names, const char *name)
{
    for (size_t i = 0; i < n_names; i++)
        if (strcmp(names[i], name) == 0) return (int)i;
    return -1;
}

rb_status rope_facts_parse_names(rope_facts *rope, const char *kind, const char *pairing, const char *where,
                                 rb_error *err)
{
    const int kind_at = find_name(kind_names, RB_COUNT(kind_names), kind),
              pairing_at = find_name(pairing_names, RB_COUNT(pairing_names), pairing);
    if (kind_at < 0)
        return rb_fail(err, RB_EFORMAT,
                       "%s: rope kind %s, expected default, linear, llama3, dynamic, yarn, longrope or proportional",
                       where, kind);
    if (pairing_at < 0)
        return rb_fail(err, RB_EFORMAT, "%s: rope pairing %s, expected split-half or interleaved", where, pairing);
    rope->kind = (rope_kind)kind_at;
    rope->pairing = (rope_pairing)pairing_at;
    return RB_OK;
}

void model_block_dims(const model_facts *facts, int block, int dims[2])
{
    const int n_turned = facts->rotary_dim / 2;
    if (block < n_turned && facts->rope.pairing == ROPE_SPLIT_HALF) {
        dims[0] = block;
        dims[1] = block + n_turned;
    } else { /* interleaved, or past rotary_dim: two adjacent dims either way */
        dims[0] = 2 * block;
        dims[1] = 2 * block + 1;
    }
}

double model_block_freq(const model_facts *facts, int layer, int block)
{
    return block < facts->rotary_dim / 2 ? model_rope(facts, layer)->inv_freq[block] : 0;
}

double model_block_gain(const model_facts *facts, int layer, int block)
{
    return block < facts->rotary_dim / 2 ? model_rope(facts, layer)->attention_factor : 1;
}

double model_query_weight(const model_facts *facts, int layer, int block)
{
    const double gain = model_block_gain(facts, layer, block);
    return gain * gain * (gain * gain);
}

model_facts model_value_facts(const model_facts *facts)
{
    model_facts values = *facts;
    values.head_dim = facts->value_dim;
    if (values.rotary_dim > values.head_dim) values.rotary_dim = values.head_dim;
    return values;
}

/* ---- checks ---------------------------------------------------------------------------------- */

bool model_facts_is_sha256(const char *hex)
{
    return strlen(hex) == RB_SHA256_HEX - 1 && strspn(hex, "0123456789abcdef") == RB_SHA256_HEX - 1;
}

static bool is_positive(double x) { return isfinite(x) && x > 0; }

static rb_status check_range(const char *where, const char *name, int64_t value, int64_t min, int64_t max,
                             rb_error *err)
{
    if (value >= min && value <= max) return RB_OK;
    return rb_fail(err, RB_EINVAL, "%s: %s is %lld, expected %lld to %lld", where, name, (long long)value,
                   (long long)min, (long long)max);
}

static rb_status check_positive(const char *where, const char *name, double value, rb_error *err)
{
    return is_positive(value) ? RB_OK
                              : rb_fail(err, RB_EINVAL, "%s: %s is %g, expected a positive number", where, name, value);
}

static rb_status check_identity(const model_facts *facts, const char *where, rb_error *err)
{
    if (rb_check_plain_name(facts->model_type, "model_type", where, err) != RB_OK) return RB_EINVAL;
    if (!model_facts_is_sha256(facts->config_sha256))
        return rb_fail(err, RB_EINVAL, "%s: config_sha256 is \"%s\", expected 64 hex digits", where,
                       facts->config_sha256);
    if (facts->weights_sha256[0] != '\0' && !model_facts_is_sha256(facts->weights_sha256))
        return rb_fail(err, RB_EINVAL, "%s: weights_sha256 is \"%s\", expected 64 hex digits", where,
                       facts->weights_sha256);
    if (facts->weights_sample_sha256[0] != '\0' && !model_facts_is_sha256(facts->weights_sample_sha256))
        return rb_fail(err, RB_EINVAL, "%s: weights_sample_sha256 is \"%s\", expected 64 hex digits", where,
                       facts->weights_sample_sha256);
    return RB_OK;
}

static rb_status check_geometry(const model_facts *facts, const char *where, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_range(where, "n_layers", facts->n_layers, 1, MODEL_FACTS_MAX_LAYERS, err), done);
    RB_TRY(st, check_range(where, "n_q_heads", facts->n_q_heads, 1, MODEL_FACTS_MAX_HEADS, err), done);
    RB_TRY(st, check_range(where, "n_kv_heads", facts->n_kv_heads, 1, facts->n_q_heads, err), done);
    RB_TRY(st, check_range(where, "head_dim", facts->head_dim, 2, RB_MAX_HEAD_DIM, err), done);
    RB_TRY(st, check_range(where, "rotary_dim", facts->rotary_dim, 2, facts->head_dim, err), done);
    RB_TRY(st, check_range(where, "value_dim", facts->value_dim, 2, RB_MAX_HEAD_DIM, err), done);
    if (facts->n_q_heads % facts->n_kv_heads != 0)
        st = rb_fail(err, RB_EINVAL, "%s: %d query heads do not divide among %d KV heads", where, facts->n_q_heads,
                     facts->n_kv_heads);
    else if (facts->head_dim % 2 != 0 || facts->rotary_dim % 2 != 0)
        st = rb_fail(err, RB_EINVAL, "%s: head_dim %d and rotary_dim %d, expected even ones", where, facts->head_dim,
                     facts->rotary_dim);
    else if (facts->value_dim % 2 != 0)
        st = rb_fail(err, RB_EINVAL, "%s: value_dim %d, expected an even number", where, facts->value_dim);
done:
    return st;
}

static rb_status check_rope(const model_facts *facts, const rope_facts *rope, const char *where, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_range(where, "rope kind", (int64_t)rope->kind, ROPE_DEFAULT, ROPE_N_KINDS - 1, err), done);
    RB_TRY(st, check_range(where, "rope pairing", (int64_t)rope->pairing, ROPE_SPLIT_HALF, ROPE_INTERLEAVED, err),
           done);
    RB_TRY(st, check_positive(where, "rope theta", rope->theta, err), done);
    RB_TRY(st, check_positive(where, "rope factor", rope->factor, err), done);
    RB_TRY(st, check_positive(where, "rope attention_factor", rope->attention_factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, check_positive(where, "rope low_freq_factor", rope->low_freq_factor, err), done);
        RB_TRY(st, check_positive(where, "rope high_freq_factor", rope->high_freq_factor, err), done);
    }
    if (rope_kind_has_original(rope->kind))
        RB_TRY(st,
               check_range(where, "rope original_max_position", rope->original_max_position, 1,
                           MODEL_FACTS_MAX_POSITION, err),
               done);
    for (int i = 0; i < facts->rotary_dim / 2; i++) {
        if (is_positive(rope->inv_freq[i]) || (rope->kind == ROPE_PROPORTIONAL && rope->inv_freq[i] == 0)) continue;
        st = rb_fail(err, RB_EINVAL, "%s: inv_freq[%d] is %g, expected a positive number", where, i, rope->inv_freq[i]);
        goto done;
    }
done:
    return st;
}

/* Layers of the second RoPE. The pairing decides which dims are a block, in all layers alike. */
static rb_status check_local_rope(const model_facts *facts, const char *where, rb_error *err)
{
    char place[300];
    int n_local = 0;
    for (int layer = 0; layer < MODEL_FACTS_MAX_LAYERS; layer++) {
        n_local += facts->layer_is_local[layer];
        if (facts->layer_is_local[layer] && (!facts->has_local_rope || layer >= facts->n_layers))
            return rb_fail(err, RB_EINVAL, "%s: layer %d of %d turns by a local rope, expected %s", where, layer,
                           facts->n_layers, facts->has_local_rope ? "a layer of the model" : "none without one");
    }
    if (!facts->has_local_rope) return RB_OK;
    if (n_local == 0) return rb_fail(err, RB_EINVAL, "%s: no layer turns by the local rope", where);
    if (facts->local_rope.pairing != facts->rope.pairing)
        return rb_fail(err, RB_EINVAL, "%s: local rope has pairing %s, expected that of the other layers, %s", where,
                       rope_pairing_name(facts->local_rope.pairing), rope_pairing_name(facts->rope.pairing));
    snprintf(place, sizeof place, "%.250s: local rope", where);
    return check_rope(facts, &facts->local_rope, place, err);
}

rb_status model_facts_check(const model_facts *facts, const char *where, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_identity(facts, where, err), done);
    RB_TRY(st, check_geometry(facts, where, err), done);
    RB_TRY(st, check_positive(where, "attention_scale", facts->attention_scale, err), done);
    RB_TRY(st, check_rope(facts, &facts->rope, where, err), done);
    RB_TRY(st, check_local_rope(facts, where, err), done);
done:
    return st;
}

rb_status model_facts_check_as_read(const model_facts *facts, const char *where, rb_error *err)
{
    return model_facts_check(facts, where, err) == RB_OK ? RB_OK : RB_EFORMAT;
}

/* ---- comparison ------------------------------------------------------------------------------ */

static rb_status differ_text(const char *names, const char *field, const char *a, const char *b, rb_error *err)
{
    return strcmp(a, b) == 0 ? RB_OK : rb_fail(err, RB_EMISMATCH, "%s: %s %s and %s", names, field, a, b);
}

static rb_status differ_int(const char *names, const char *field, int64_t a, int64_t b, rb_error *err)
{
    return a == b ? RB_OK
                  : rb_fail(err, RB_EMISMATCH, "%s: %s %lld and %lld", names, field, (long long)a, (long long)b);
}

/* Exact: both came from the same config.json by the same code, through formats that keep a double. */
static rb_status differ_number(const char *names, const char *field, double a, double b, rb_error *err)
{
    return a == b ? RB_OK : rb_fail(err, RB_EMISMATCH, "%s: %s %.17g and %.17g", names, field, a, b);
}

static rb_status same_rope(const rope_facts *a, const rope_facts *b, int n_freqs, const char *names, rb_error *err)
{
    rb_status st;
    RB_TRY(st, differ_text(names, "rope kind", rope_kind_name(a->kind), rope_kind_name(b->kind), err), done);
    RB_TRY(st, differ_text(names, "rope pairing", rope_pairing_name(a->pairing), rope_pairing_name(b->pairing), err),
           done);
    RB_TRY(st, differ_number(names, "rope theta", a->theta, b->theta, err), done);
    RB_TRY(st, differ_number(names, "rope factor", a->factor, b->factor, err), done);
    RB_TRY(st, differ_number(names, "rope low_freq_factor", a->low_freq_factor, b->low_freq_factor, err), done);
    RB_TRY(st, differ_number(names, "rope high_freq_factor", a->high_freq_factor, b->high_freq_factor, err), done);
    RB_TRY(st, differ_int(names, "rope original_max_position", a->original_max_position, b->original_max_position, err),
           done);
    RB_TRY(st, differ_number(names, "rope attention_factor", a->attention_factor, b->attention_factor, err), done);
    for (int i = 0; i < n_freqs; i++) {
        if (a->inv_freq[i] == b->inv_freq[i]) continue;
        return rb_fail(err, RB_EMISMATCH, "%s: inv_freq[%d] %.17g and %.17g", names, i, a->inv_freq[i], b->inv_freq[i]);
    }
done:
    return st;
}

static rb_status same_local_rope(const model_facts *a, const model_facts *b, const char *names, rb_error *err)
{
    char local[700];
    if (a->has_local_rope != b->has_local_rope)
        return rb_fail(err, RB_EMISMATCH, "%s: local rope %s and %s", names, a->has_local_rope ? "there" : "absent",
                       b->has_local_rope ? "there" : "absent");
    if (!a->has_local_rope) return RB_OK;
    for (int layer = 0; layer < a->n_layers; layer++)
        if (a->layer_is_local[layer] != b->layer_is_local[layer])
            return rb_fail(err, RB_EMISMATCH, "%s: layer %d %s and %s", names, layer,
                           a->layer_is_local[layer] ? "local" : "not local",
                           b->layer_is_local[layer] ? "local" : "not local");
    snprintf(local, sizeof local, "%s: local rope", names);
    return same_rope(&a->local_rope, &b->local_rope, a->rotary_dim / 2, local, err);
}

/* What a reader understands best comes first, the hashes last. */
static rb_status same_facts(const model_facts *a, const model_facts *b, const char *names, rb_error *err)
{
    rb_status st;
    RB_TRY(st, differ_text(names, "model_type", a->model_type, b->model_type, err), done);
    RB_TRY(st, differ_int(names, "n_layers", a->n_layers, b->n_layers, err), done);
    RB_TRY(st, differ_int(names, "n_q_heads", a->n_q_heads, b->n_q_heads, err), done);
    RB_TRY(st, differ_int(names, "n_kv_heads", a->n_kv_heads, b->n_kv_heads, err), done);
    RB_TRY(st, differ_int(names, "head_dim", a->head_dim, b->head_dim, err), done);
    RB_TRY(st, differ_int(names, "rotary_dim", a->rotary_dim, b->rotary_dim, err), done);
    RB_TRY(st, differ_int(names, "value_dim", a->value_dim, b->value_dim, err), done);
    RB_TRY(st, differ_number(names, "attention_scale", a->attention_scale, b->attention_scale, err), done);
    RB_TRY(st, same_rope(&a->rope, &b->rope, a->rotary_dim / 2, names, err), done);
    RB_TRY(st, same_local_rope(a, b, names, err), done);
    RB_TRY(st, differ_text(names, "config_sha256", a->config_sha256, b->config_sha256, err), done);
    if (a->weights_sha256[0] && b->weights_sha256[0])
        RB_TRY(st, differ_text(names, "weights_sha256", a->weights_sha256, b->weights_sha256, err), done);
    if (a->weights_sample_sha256[0] && b->weights_sample_sha256[0])
        st = differ_text(names, "other weights under the same config.json: weights_sample_sha256",
                         a->weights_sample_sha256, b->weights_sample_sha256, err);
done:
    return st;
}

rb_status model_facts_same(const model_facts *a, const char *name_a, const model_facts *b, const char *name_b,
                           rb_error *err)
{
    char names[640];
    snprintf(names, sizeof names, "%.300s and %.300s", name_a, name_b);
    return same_facts(a, b, names, err);
}
