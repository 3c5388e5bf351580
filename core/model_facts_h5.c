/* Model facts in HDF5. See core/model_facts.h. */
#include <string.h>

#include "core/hdf5/hdf5_file.h"
#include "core/model_facts_forms.h"

/* Tables of a rope are small, but a chunk has a checksum and a contiguous table has none. */
enum { ROPE_ZSTD_LEVEL = 1 };
#define LOCAL_LAYERS "rope/local_layers"

/* Names of the two ropes in the file. */
typedef struct rope_names {
    const char *kind, *pairing, *theta, *factor, *low_freq_factor, *high_freq_factor, *original_max_position,
        *attention_factor, *inv_freq;
} rope_names;

#define ROPE_NAMES(prefix, freq_path)                                                                           \
    {                                                                                                           \
        prefix "rope_kind", prefix "rope_pairing", prefix "rope_theta", prefix "rope_factor",                   \
            prefix "rope_low_freq_factor", prefix "rope_high_freq_factor", prefix "rope_original_max_position", \
            prefix "rope_attention_factor", freq_path                                                           \
    }
static const rope_names usual_names = ROPE_NAMES("", "rope/inv_freq");
static const rope_names local_names = ROPE_NAMES("local_", "rope/local_inv_freq");
#undef ROPE_NAMES

static rb_status write_rope_h5(hid_t file, const rope_names *names, const rope_facts *rope, int n_freqs, rb_error *err)
{
    const int64_t dims[] = {n_freqs};
    rb_status st;
    RB_TRY(st, rb_h5_set_string(file, "/", names->kind, rope_kind_name(rope->kind), err), done);
    RB_TRY(st, rb_h5_set_string(file, "/", names->pairing, rope_pairing_name(rope->pairing), err), done);
    RB_TRY(st, rb_h5_set_number(file, "/", names->theta, rope->theta, err), done);
    if (rope->kind != ROPE_DEFAULT) RB_TRY(st, rb_h5_set_number(file, "/", names->factor, rope->factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, rb_h5_set_number(file, "/", names->low_freq_factor, rope->low_freq_factor, err), done);
        RB_TRY(st, rb_h5_set_number(file, "/", names->high_freq_factor, rope->high_freq_factor, err), done);
    }
    if (rope_kind_has_original(rope->kind))
        RB_TRY(st, rb_h5_set_int(file, "/", names->original_max_position, rope->original_max_position, err), done);
    if (rope->attention_factor != 1)
        RB_TRY(st, rb_h5_set_number(file, "/", names->attention_factor, rope->attention_factor, err), done);
    RB_TRY(st, rb_h5_make_group(file, "rope", err), done);
    RB_TRY(st, rb_h5_write(file, names->inv_freq, RB_H5_F64, 1, dims, rope->inv_freq, ROPE_ZSTD_LEVEL, err), done);
done:
    return st;
}

static rb_status write_local_rope_h5(hid_t file, const model_facts *facts, rb_error *err)
{
    int32_t layers[MODEL_FACTS_MAX_LAYERS];
    int64_t n = 0;
    rb_status st;
    for (int layer = 0; layer < facts->n_layers; layer++)
        if (facts->layer_is_local[layer]) layers[n++] = layer;
    RB_TRY(st, write_rope_h5(file, &local_names, &facts->local_rope, facts->rotary_dim / 2, err), done);
    RB_TRY(st, rb_h5_write(file, LOCAL_LAYERS, RB_H5_I32, 1, &n, layers, ROPE_ZSTD_LEVEL, err), done);
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
    if (facts->weights_sample_sha256[0])
        RB_TRY(st, rb_h5_set_string(file, "/", "weights_sample_sha256", facts->weights_sample_sha256, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "n_layers", facts->n_layers, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "n_q_heads", facts->n_q_heads, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "n_kv_heads", facts->n_kv_heads, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "head_dim", facts->head_dim, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "rotary_dim", facts->rotary_dim, err), done);
    if (facts->value_dim != facts->head_dim)
        RB_TRY(st, rb_h5_set_int(file, "/", "value_dim", facts->value_dim, err), done);
    RB_TRY(st, rb_h5_set_number(file, "/", "attention_scale", facts->attention_scale, err), done);
    RB_TRY(st, write_rope_h5(file, &usual_names, &facts->rope, facts->rotary_dim / 2, err), done);
    if (facts->has_local_rope) RB_TRY(st, write_local_rope_h5(file, facts, err), done);
done:
    return st;
}

static rb_status read_count_h5(const rb_h5_contents *file, const char *name, int64_t max, int *value, rb_error *err)
{
    int64_t found = 0;
    const rb_status st = rb_h5_get_int(file, "/", name, 1, max, &found, err);
    *value = (int)found;
    return st;
}

static bool has_attribute(const rb_h5_contents *file, const char *name) { return rb_h5_has_attribute(file, "/", name); }

static rb_status read_rope_h5(rope_facts *rope, const rb_h5_contents *file, const rope_names *names, int n_freqs,
                              const char *name, rb_error *err)
{
    int64_t dims[] = {n_freqs};
    char kind[32], pairing[32];
    rb_status st;
    RB_TRY(st, rb_h5_get_string(file, "/", names->kind, kind, sizeof kind, err), done);
    RB_TRY(st, rb_h5_get_string(file, "/", names->pairing, pairing, sizeof pairing, err), done);
    RB_TRY(st, rope_facts_parse_names(rope, kind, pairing, name, err), done);
    RB_TRY(st, rb_h5_get_number(file, "/", names->theta, &rope->theta, err), done);
    rope->factor = rope->attention_factor = 1;
    if (rope->kind != ROPE_DEFAULT) RB_TRY(st, rb_h5_get_number(file, "/", names->factor, &rope->factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, rb_h5_get_number(file, "/", names->low_freq_factor, &rope->low_freq_factor, err), done);
        RB_TRY(st, rb_h5_get_number(file, "/", names->high_freq_factor, &rope->high_freq_factor, err), done);
    }
    if (rope_kind_has_original(rope->kind))
        RB_TRY(st,
               rb_h5_get_int(file, "/", names->original_max_position, 1, MODEL_FACTS_MAX_POSITION,
                             &rope->original_max_position, err),
               done);
    if (has_attribute(file, names->attention_factor))
        RB_TRY(st, rb_h5_get_number(file, "/", names->attention_factor, &rope->attention_factor, err), done);
    RB_TRY(st, rb_h5_read(file, names->inv_freq, RB_H5_F64, 1, dims, rope->inv_freq, err), done);
done:
    return st;
}

static rb_status read_local_layers_h5(model_facts *facts, const rb_h5_contents *file, const char *name, rb_error *err)
{
    int32_t layers[MODEL_FACTS_MAX_LAYERS];
    int64_t n = -1;
    rb_status st;
    RB_TRY(st, rb_h5_dims(file, LOCAL_LAYERS, 1, &n, err), done);
    if (n > facts->n_layers) {
        st = rb_fail(err, RB_EFORMAT, "%s: %lld local layers, the model has %d", name, (long long)n, facts->n_layers);
        goto done;
    }
    RB_TRY(st, rb_h5_read(file, LOCAL_LAYERS, RB_H5_I32, 1, &n, layers, err), done);
    for (int64_t i = 0; i < n; i++) {
        if (layers[i] < 0 || layers[i] >= facts->n_layers) {
            st = rb_fail(err, RB_EFORMAT, "%s: local layer %d, expected 0 to %d", name, layers[i], facts->n_layers - 1);
            goto done;
        }
        facts->layer_is_local[layers[i]] = true;
    }
done:
    return st;
}

static rb_status read_local_rope_h5(model_facts *facts, const rb_h5_contents *file, const char *name, rb_error *err)
{
    rb_status st;
    if (!has_attribute(file, local_names.kind)) return RB_OK;
    facts->has_local_rope = true;
    RB_TRY(st, read_rope_h5(&facts->local_rope, file, &local_names, facts->rotary_dim / 2, name, err), done);
    RB_TRY(st, read_local_layers_h5(facts, file, name, err), done);
done:
    return st;
}

/* Each is written only when it is known. */
static rb_status read_weights_h5(model_facts *facts, const rb_h5_contents *file, rb_error *err)
{
    rb_status st = RB_OK;
    if (has_attribute(file, "weights_sha256"))
        RB_TRY(st,
               rb_h5_get_string(file, "/", "weights_sha256", facts->weights_sha256, sizeof facts->weights_sha256, err),
               done);
    if (has_attribute(file, "weights_sample_sha256"))
        st = rb_h5_get_string(file, "/", "weights_sample_sha256", facts->weights_sample_sha256,
                              sizeof facts->weights_sample_sha256, err);
done:
    return st;
}

rb_status model_facts_read_h5(model_facts *facts, const rb_h5_contents *file, const char *name, rb_error *err)
{
    rb_status st;

    memset(facts, 0, sizeof *facts);
    RB_TRY(st, rb_h5_get_string(file, "/", "model_type", facts->model_type, sizeof facts->model_type, err), done);
    RB_TRY(st, rb_h5_get_string(file, "/", "config_sha256", facts->config_sha256, sizeof facts->config_sha256, err),
           done);
    RB_TRY(st, read_weights_h5(facts, file, err), done);
    RB_TRY(st, read_count_h5(file, "n_layers", MODEL_FACTS_MAX_LAYERS, &facts->n_layers, err), done);
    RB_TRY(st, read_count_h5(file, "n_q_heads", MODEL_FACTS_MAX_HEADS, &facts->n_q_heads, err), done);
    RB_TRY(st, read_count_h5(file, "n_kv_heads", MODEL_FACTS_MAX_HEADS, &facts->n_kv_heads, err), done);
    RB_TRY(st, read_count_h5(file, "head_dim", RB_MAX_HEAD_DIM, &facts->head_dim, err), done);
    RB_TRY(st, read_count_h5(file, "rotary_dim", RB_MAX_HEAD_DIM, &facts->rotary_dim, err), done);
    facts->value_dim = facts->head_dim;
    if (has_attribute(file, "value_dim"))
        RB_TRY(st, read_count_h5(file, "value_dim", RB_MAX_HEAD_DIM, &facts->value_dim, err), done);
    RB_TRY(st, rb_h5_get_number(file, "/", "attention_scale", &facts->attention_scale, err), done);
    RB_TRY(st, read_rope_h5(&facts->rope, file, &usual_names, facts->rotary_dim / 2, name, err), done);
    RB_TRY(st, read_local_rope_h5(facts, file, name, err), done);
    RB_TRY(st, model_facts_check_as_read(facts, name, err), done);
done:
    return st;
}
