/* Model facts: checks, comparison, JSON and HDF5 forms. See core/model_facts.h. */
#include "core/model_facts.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/hdf5/hdf5_file.h"
#include "core/json.h"

enum { MAX_LAYERS = 1024, MAX_HEADS = 4096 };
static const int64_t MAX_POSITION = (int64_t)1 << 40, MAX_TOKENS = (int64_t)1 << 40;

/* inv_freq is small, but a chunk has a checksum and a contiguous table has none. */
enum { INV_FREQ_ZSTD_LEVEL = 1 };

/* ---- names and blocks ------------------------------------------------------------------------ */

static const char *const kind_names[] = {
    [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3"};
static const char *const pairing_names[] = {[ROPE_SPLIT_HALF] = "split-half", [ROPE_INTERLEAVED] = "interleaved"};

const char *rope_kind_name(rope_kind kind) { return kind_names[kind]; }
const char *rope_pairing_name(rope_pairing pairing) { return pairing_names[pairing]; }

/* Index of name, or -1. */
static int find_name(const char *const *names, size_t n_names, const char *name)
{
    for (size_t i = 0; i < n_names; i++)
        if (strcmp(names[i], name) == 0) return (int)i;
    return -1;
}

static rb_status parse_names(rope_facts *rope, const char *kind, const char *pairing, const char *where, rb_error *err)
{
    const int kind_at = find_name(kind_names, RB_COUNT(kind_names), kind),
              pairing_at = find_name(pairing_names, RB_COUNT(pairing_names), pairing);
    if (kind_at < 0)
        return rb_fail(err, RB_EFORMAT, "%s: rope kind %s, expected default, linear or llama3", where, kind);
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

double model_block_freq(const model_facts *facts, int block)
{
    return block < facts->rotary_dim / 2 ? facts->rope.inv_freq[block] : 0;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static bool is_sha256(const char *hex)
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
    if (facts->model_type[0] == '\0') return rb_fail(err, RB_EINVAL, "%s: model_type is empty", where);
    if (!is_sha256(facts->config_sha256))
        return rb_fail(err, RB_EINVAL, "%s: config_sha256 is \"%s\", expected 64 hex digits", where,
                       facts->config_sha256);
    if (facts->weights_sha256[0] != '\0' && !is_sha256(facts->weights_sha256))
        return rb_fail(err, RB_EINVAL, "%s: weights_sha256 is \"%s\", expected 64 hex digits", where,
                       facts->weights_sha256);
    return RB_OK;
}

static rb_status check_geometry(const model_facts *facts, const char *where, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_range(where, "n_layers", facts->n_layers, 1, MAX_LAYERS, err), done);
    RB_TRY(st, check_range(where, "n_q_heads", facts->n_q_heads, 1, MAX_HEADS, err), done);
    RB_TRY(st, check_range(where, "n_kv_heads", facts->n_kv_heads, 1, facts->n_q_heads, err), done);
    RB_TRY(st, check_range(where, "head_dim", facts->head_dim, 2, RB_MAX_HEAD_DIM, err), done);
    RB_TRY(st, check_range(where, "rotary_dim", facts->rotary_dim, 2, facts->head_dim, err), done);
    if (facts->n_q_heads % facts->n_kv_heads != 0)
        st = rb_fail(err, RB_EINVAL, "%s: %d query heads do not divide among %d KV heads", where, facts->n_q_heads,
                     facts->n_kv_heads);
    else if (facts->head_dim % 2 != 0 || facts->rotary_dim % 2 != 0)
        st = rb_fail(err, RB_EINVAL, "%s: head_dim %d and rotary_dim %d, expected even ones", where, facts->head_dim,
                     facts->rotary_dim);
done:
    return st;
}

static rb_status check_rope(const model_facts *facts, const char *where, rb_error *err)
{
    const rope_facts *rope = &facts->rope;
    rb_status st;
    RB_TRY(st, check_range(where, "rope kind", (int64_t)rope->kind, ROPE_DEFAULT, ROPE_LLAMA3, err), done);
    RB_TRY(st, check_range(where, "rope pairing", (int64_t)rope->pairing, ROPE_SPLIT_HALF, ROPE_INTERLEAVED, err),
           done);
    RB_TRY(st, check_positive(where, "attention_scale", facts->attention_scale, err), done);
    RB_TRY(st, check_positive(where, "rope theta", rope->theta, err), done);
    RB_TRY(st, check_positive(where, "rope factor", rope->factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, check_positive(where, "rope low_freq_factor", rope->low_freq_factor, err), done);
        RB_TRY(st, check_positive(where, "rope high_freq_factor", rope->high_freq_factor, err), done);
        RB_TRY(st, check_range(where, "rope original_max_position", rope->original_max_position, 1, MAX_POSITION, err),
               done);
    }
    for (int i = 0; i < facts->rotary_dim / 2; i++)
        if (!is_positive(rope->inv_freq[i])) {
            st = rb_fail(err, RB_EINVAL, "%s: inv_freq[%d] is %g, expected a positive number", where, i,
                         rope->inv_freq[i]);
            goto done;
        }
done:
    return st;
}

rb_status model_facts_check(const model_facts *facts, const char *where, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_identity(facts, where, err), done);
    RB_TRY(st, check_geometry(facts, where, err), done);
    RB_TRY(st, check_rope(facts, where, err), done);
done:
    return st;
}

/* Facts that came from a file: what is wrong with them is wrong with the file. */
static rb_status check_as_read(const model_facts *facts, const char *where, rb_error *err)
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
    for (int i = 0; i < n_freqs; i++) {
        if (a->inv_freq[i] == b->inv_freq[i]) continue;
        return rb_fail(err, RB_EMISMATCH, "%s: inv_freq[%d] %.17g and %.17g", names, i, a->inv_freq[i], b->inv_freq[i]);
    }
done:
    return st;
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
    RB_TRY(st, differ_number(names, "attention_scale", a->attention_scale, b->attention_scale, err), done);
    RB_TRY(st, same_rope(&a->rope, &b->rope, a->rotary_dim / 2, names, err), done);
    RB_TRY(st, differ_text(names, "config_sha256", a->config_sha256, b->config_sha256, err), done);
    if (a->weights_sha256[0] && b->weights_sha256[0])
        RB_TRY(st, differ_text(names, "weights_sha256", a->weights_sha256, b->weights_sha256, err), done);
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

/* ---- JSON ------------------------------------------------------------------------------------ */

static rb_status rope_to_json(cJSON **out, const rope_facts *rope, int n_freqs, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "kind", rope_kind_name(rope->kind), err), done);
    RB_TRY(st, rb_json_add_string(*out, "pairing", rope_pairing_name(rope->pairing), err), done);
    RB_TRY(st, rb_json_add_number(*out, "theta", rope->theta, err), done);
    if (rope->kind != ROPE_DEFAULT) RB_TRY(st, rb_json_add_number(*out, "factor", rope->factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, rb_json_add_number(*out, "low_freq_factor", rope->low_freq_factor, err), done);
        RB_TRY(st, rb_json_add_number(*out, "high_freq_factor", rope->high_freq_factor, err), done);
        RB_TRY(st, rb_json_add_number(*out, "original_max_position", (double)rope->original_max_position, err), done);
    }
    RB_TRY(st, rb_json_add_numbers(*out, "inv_freq", rope->inv_freq, n_freqs, err), done);
done:
    return st;
}

rb_status model_facts_to_json(cJSON **out, const model_facts *facts, rb_error *err)
{
    cJSON *object = NULL, *rope = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_json_new_object(&object, err), done);
    RB_TRY(st, rb_json_add_string(object, "model_type", facts->model_type, err), done);
    RB_TRY(st, rb_json_add_string(object, "config_sha256", facts->config_sha256, err), done);
    if (facts->weights_sha256[0])
        RB_TRY(st, rb_json_add_string(object, "weights_sha256", facts->weights_sha256, err), done);
    RB_TRY(st, rb_json_add_number(object, "n_layers", facts->n_layers, err), done);
    RB_TRY(st, rb_json_add_number(object, "n_q_heads", facts->n_q_heads, err), done);
    RB_TRY(st, rb_json_add_number(object, "n_kv_heads", facts->n_kv_heads, err), done);
    RB_TRY(st, rb_json_add_number(object, "head_dim", facts->head_dim, err), done);
    RB_TRY(st, rb_json_add_number(object, "rotary_dim", facts->rotary_dim, err), done);
    RB_TRY(st, rb_json_add_number(object, "attention_scale", facts->attention_scale, err), done);
    RB_TRY(st, rope_to_json(&rope, &facts->rope, facts->rotary_dim / 2, err), done);
    RB_TRY(st, rb_json_add_item(object, "rope", &rope, err), done);
    *out = object;
    object = NULL;
done:
    cJSON_Delete(rope);
    cJSON_Delete(object);
    return st;
}

/* A string member that must fit its field. */
static rb_status get_text(const cJSON *object, const char *key, const char *where, char *value, size_t size,
                          rb_error *err)
{
    const char *text;
    const rb_status st = rb_json_get_string(object, key, where, &text, err);
    if (st != RB_OK) return st;
    if (strlen(text) >= size)
        return rb_fail(err, RB_EFORMAT, "%s.%s: %zu characters, at most %zu expected", where, key, strlen(text),
                       size - 1);
    memcpy(value, text, strlen(text) + 1);
    return RB_OK;
}

static rb_status get_count(const cJSON *object, const char *key, const char *where, int64_t max, int *value,
                           rb_error *err)
{
    int64_t found = 0;
    const rb_status st = rb_json_get_int(object, key, where, 1, max, &found, err);
    *value = (int)found;
    return st;
}

static rb_status inv_freq_from_json(rope_facts *rope, const cJSON *object, int n_freqs, const char *where,
                                    rb_error *err)
{
    const cJSON *list = NULL, *item = NULL;
    int i = 0;
    const rb_status st = rb_json_get_array(object, "inv_freq", where, &list, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(list) != n_freqs)
        return rb_fail(err, RB_EFORMAT, "%s.inv_freq: %d frequencies, expected %d", where, cJSON_GetArraySize(list),
                       n_freqs);
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item)) return rb_fail(err, RB_EFORMAT, "%s.inv_freq[%d]: expected a number", where, i);
        rope->inv_freq[i++] = item->valuedouble;
    }
    return RB_OK;
}

static rb_status rope_from_json(rope_facts *rope, const cJSON *object, int n_freqs, const char *where, rb_error *err)
{
    const char *kind, *pairing;
    rb_status st;
    RB_TRY(st, rb_json_get_string(object, "kind", where, &kind, err), done);
    RB_TRY(st, rb_json_get_string(object, "pairing", where, &pairing, err), done);
    RB_TRY(st, parse_names(rope, kind, pairing, where, err), done);
    RB_TRY(st, rb_json_get_number(object, "theta", where, 0, HUGE_VAL, &rope->theta, err), done);
    rope->factor = 1;
    if (rope->kind != ROPE_DEFAULT)
        RB_TRY(st, rb_json_get_number(object, "factor", where, 0, HUGE_VAL, &rope->factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, rb_json_get_number(object, "low_freq_factor", where, 0, HUGE_VAL, &rope->low_freq_factor, err),
               done);
        RB_TRY(st, rb_json_get_number(object, "high_freq_factor", where, 0, HUGE_VAL, &rope->high_freq_factor, err),
               done);
        RB_TRY(
            st,
            rb_json_get_int(object, "original_max_position", where, 1, MAX_POSITION, &rope->original_max_position, err),
            done);
    }
    RB_TRY(st, inv_freq_from_json(rope, object, n_freqs, where, err), done);
done:
    return st;
}

rb_status model_facts_from_json(model_facts *facts, const cJSON *object, const char *where, rb_error *err)
{
    const cJSON *rope;
    char rope_where[256];
    rb_status st;

    memset(facts, 0, sizeof *facts);
    RB_TRY(st, get_text(object, "model_type", where, facts->model_type, sizeof facts->model_type, err), done);
    RB_TRY(st, get_text(object, "config_sha256", where, facts->config_sha256, sizeof facts->config_sha256, err), done);
    if (rb_json_find(object, "weights_sha256"))
        RB_TRY(st, get_text(object, "weights_sha256", where, facts->weights_sha256, sizeof facts->weights_sha256, err),
               done);
    RB_TRY(st, get_count(object, "n_layers", where, MAX_LAYERS, &facts->n_layers, err), done);
    RB_TRY(st, get_count(object, "n_q_heads", where, MAX_HEADS, &facts->n_q_heads, err), done);
    RB_TRY(st, get_count(object, "n_kv_heads", where, MAX_HEADS, &facts->n_kv_heads, err), done);
    RB_TRY(st, get_count(object, "head_dim", where, RB_MAX_HEAD_DIM, &facts->head_dim, err), done);
    RB_TRY(st, get_count(object, "rotary_dim", where, RB_MAX_HEAD_DIM, &facts->rotary_dim, err), done);
    RB_TRY(st, rb_json_get_number(object, "attention_scale", where, 0, HUGE_VAL, &facts->attention_scale, err), done);
    RB_TRY(st, rb_json_get_object(object, "rope", where, &rope, err), done);
    snprintf(rope_where, sizeof rope_where, "%.200s.rope", where);
    RB_TRY(st, rope_from_json(&facts->rope, rope, facts->rotary_dim / 2, rope_where, err), done);
    RB_TRY(st, check_as_read(facts, where, err), done);
done:
    return st;
}

/* ---- HDF5 ------------------------------------------------------------------------------------ */

static rb_status write_rope_h5(hid_t file, const rope_facts *rope, int n_freqs, rb_error *err)
{
    const int64_t dims[] = {n_freqs};
    rb_status st;
    RB_TRY(st, rb_h5_set_string(file, "/", "rope_kind", rope_kind_name(rope->kind), err), done);
    RB_TRY(st, rb_h5_set_string(file, "/", "rope_pairing", rope_pairing_name(rope->pairing), err), done);
    RB_TRY(st, rb_h5_set_number(file, "/", "rope_theta", rope->theta, err), done);
    if (rope->kind != ROPE_DEFAULT) RB_TRY(st, rb_h5_set_number(file, "/", "rope_factor", rope->factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, rb_h5_set_number(file, "/", "rope_low_freq_factor", rope->low_freq_factor, err), done);
        RB_TRY(st, rb_h5_set_number(file, "/", "rope_high_freq_factor", rope->high_freq_factor, err), done);
        RB_TRY(st, rb_h5_set_int(file, "/", "rope_original_max_position", rope->original_max_position, err), done);
    }
    RB_TRY(st, rb_h5_make_group(file, "rope", err), done);
    RB_TRY(st, rb_h5_write(file, "rope/inv_freq", RB_H5_F64, 1, dims, rope->inv_freq, INV_FREQ_ZSTD_LEVEL, err), done);
done:
    return st;
}

rb_status model_facts_write_h5(hid_t file, const model_facts *facts, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_h5_set_string(file, "/", "model_type", facts->model_type, err), done);
    RB_TRY(st, rb_h5_set_string(file, "/", "config_sha256", facts->config_sha256, err), done);
    if (facts->weights_sha256[0])
        RB_TRY(st, rb_h5_set_string(file, "/", "weights_sha256", facts->weights_sha256, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "n_layers", facts->n_layers, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "n_q_heads", facts->n_q_heads, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "n_kv_heads", facts->n_kv_heads, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "head_dim", facts->head_dim, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "rotary_dim", facts->rotary_dim, err), done);
    RB_TRY(st, rb_h5_set_number(file, "/", "attention_scale", facts->attention_scale, err), done);
    RB_TRY(st, write_rope_h5(file, &facts->rope, facts->rotary_dim / 2, err), done);
done:
    return st;
}

static rb_status read_count_h5(hid_t file, const char *name, int64_t max, int *value, rb_error *err)
{
    int64_t found = 0;
    const rb_status st = rb_h5_get_int(file, "/", name, 1, max, &found, err);
    *value = (int)found;
    return st;
}

static rb_status read_rope_h5(rope_facts *rope, hid_t file, int n_freqs, const char *name, rb_error *err)
{
    int64_t dims[] = {n_freqs};
    char kind[32], pairing[32];
    rb_status st;
    RB_TRY(st, rb_h5_get_string(file, "/", "rope_kind", kind, sizeof kind, err), done);
    RB_TRY(st, rb_h5_get_string(file, "/", "rope_pairing", pairing, sizeof pairing, err), done);
    RB_TRY(st, parse_names(rope, kind, pairing, name, err), done);
    RB_TRY(st, rb_h5_get_number(file, "/", "rope_theta", &rope->theta, err), done);
    rope->factor = 1;
    if (rope->kind != ROPE_DEFAULT) RB_TRY(st, rb_h5_get_number(file, "/", "rope_factor", &rope->factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, rb_h5_get_number(file, "/", "rope_low_freq_factor", &rope->low_freq_factor, err), done);
        RB_TRY(st, rb_h5_get_number(file, "/", "rope_high_freq_factor", &rope->high_freq_factor, err), done);
        RB_TRY(
            st,
            rb_h5_get_int(file, "/", "rope_original_max_position", 1, MAX_POSITION, &rope->original_max_position, err),
            done);
    }
    RB_TRY(st, rb_h5_read(file, "rope/inv_freq", RB_H5_F64, 1, dims, rope->inv_freq, err), done);
done:
    return st;
}

/* Written only when the weights were hashed. */
static rb_status read_weights_h5(model_facts *facts, hid_t file, rb_error *err)
{
    const htri_t exists = H5Aexists(file, "weights_sha256");
    if (exists == 0) return RB_OK;
    return rb_h5_get_string(file, "/", "weights_sha256", facts->weights_sha256, sizeof facts->weights_sha256, err);
}

rb_status model_facts_read_h5(model_facts *facts, hid_t file, const char *name, rb_error *err)
{
    rb_status st;

    memset(facts, 0, sizeof *facts);
    RB_TRY(st, rb_h5_get_string(file, "/", "model_type", facts->model_type, sizeof facts->model_type, err), done);
    RB_TRY(st, rb_h5_get_string(file, "/", "config_sha256", facts->config_sha256, sizeof facts->config_sha256, err),
           done);
    RB_TRY(st, read_weights_h5(facts, file, err), done);
    RB_TRY(st, read_count_h5(file, "n_layers", MAX_LAYERS, &facts->n_layers, err), done);
    RB_TRY(st, read_count_h5(file, "n_q_heads", MAX_HEADS, &facts->n_q_heads, err), done);
    RB_TRY(st, read_count_h5(file, "n_kv_heads", MAX_HEADS, &facts->n_kv_heads, err), done);
    RB_TRY(st, read_count_h5(file, "head_dim", RB_MAX_HEAD_DIM, &facts->head_dim, err), done);
    RB_TRY(st, read_count_h5(file, "rotary_dim", RB_MAX_HEAD_DIM, &facts->rotary_dim, err), done);
    RB_TRY(st, rb_h5_get_number(file, "/", "attention_scale", &facts->attention_scale, err), done);
    RB_TRY(st, read_rope_h5(&facts->rope, file, facts->rotary_dim / 2, name, err), done);
    RB_TRY(st, check_as_read(facts, name, err), done);
done:
    return st;
}

/* ---- text ------------------------------------------------------------------------------------ */

rb_status text_facts_to_json(cJSON **out, const text_facts *text, rb_error *err)
{
    cJSON *object = NULL;
    rb_status st;
    *out = NULL;
    if (text->tokens_sha256[0] == '\0') {
        *out = cJSON_CreateNull();
        return *out ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for JSON");
    }
    RB_TRY(st, rb_json_new_object(&object, err), done);
    RB_TRY(st, rb_json_add_string(object, "tokens_sha256", text->tokens_sha256, err), done);
    RB_TRY(st, rb_json_add_number(object, "n_tokens", (double)text->n_tokens, err), done);
    RB_TRY(st, rb_json_add_number(object, "context", (double)text->context, err), done);
    *out = object;
    object = NULL;
done:
    cJSON_Delete(object);
    return st;
}

rb_status text_facts_from_json(text_facts *text, const cJSON *object, const char *where, rb_error *err)
{
    rb_status st;
    memset(text, 0, sizeof *text);
    if (!object || cJSON_IsNull(object)) return RB_OK;
    RB_TRY(st, get_text(object, "tokens_sha256", where, text->tokens_sha256, sizeof text->tokens_sha256, err), done);
    if (!is_sha256(text->tokens_sha256)) {
        st = rb_fail(err, RB_EFORMAT, "%s.tokens_sha256: \"%s\", expected 64 hex digits", where, text->tokens_sha256);
        goto done;
    }
    RB_TRY(st, rb_json_get_int(object, "n_tokens", where, 1, MAX_TOKENS, &text->n_tokens, err), done);
    RB_TRY(st, rb_json_get_int(object, "context", where, 1, MAX_TOKENS, &text->context, err), done);
done:
    return st;
}
