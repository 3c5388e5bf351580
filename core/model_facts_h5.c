/* Model facts in HDF5. See core/model_facts.h. */
#include <string.h>

#include "core/hdf5/hdf5_file.h"
#include "core/model_facts_forms.h"

/* inv_freq is small, but a chunk has a checksum and a contiguous table has none. */
enum { INV_FREQ_ZSTD_LEVEL = 1 };

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

static rb_status read_count_h5(const rb_h5_contents *file, const char *name, int64_t max, int *value, rb_error *err)
{
    int64_t found = 0;
    const rb_status st = rb_h5_get_int(file, "/", name, 1, max, &found, err);
    *value = (int)found;
    return st;
}

static rb_status read_rope_h5(rope_facts *rope, const rb_h5_contents *file, int n_freqs, const char *name,
                              rb_error *err)
{
    int64_t dims[] = {n_freqs};
    char kind[32], pairing[32];
    rb_status st;
    RB_TRY(st, rb_h5_get_string(file, "/", "rope_kind", kind, sizeof kind, err), done);
    RB_TRY(st, rb_h5_get_string(file, "/", "rope_pairing", pairing, sizeof pairing, err), done);
    RB_TRY(st, rope_facts_parse_names(rope, kind, pairing, name, err), done);
    RB_TRY(st, rb_h5_get_number(file, "/", "rope_theta", &rope->theta, err), done);
    rope->factor = 1;
    if (rope->kind != ROPE_DEFAULT) RB_TRY(st, rb_h5_get_number(file, "/", "rope_factor", &rope->factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, rb_h5_get_number(file, "/", "rope_low_freq_factor", &rope->low_freq_factor, err), done);
        RB_TRY(st, rb_h5_get_number(file, "/", "rope_high_freq_factor", &rope->high_freq_factor, err), done);
        RB_TRY(st,
               rb_h5_get_int(file, "/", "rope_original_max_position", 1, MODEL_FACTS_MAX_POSITION,
                             &rope->original_max_position, err),
               done);
    }
    RB_TRY(st, rb_h5_read(file, "rope/inv_freq", RB_H5_F64, 1, dims, rope->inv_freq, err), done);
done:
    return st;
}

/* Written only when the weights were hashed. */
static rb_status read_weights_h5(model_facts *facts, const rb_h5_contents *file, rb_error *err)
{
    if (!rb_h5_has_attribute(file, "/", "weights_sha256")) return RB_OK;
    return rb_h5_get_string(file, "/", "weights_sha256", facts->weights_sha256, sizeof facts->weights_sha256, err);
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
    RB_TRY(st, rb_h5_get_number(file, "/", "attention_scale", &facts->attention_scale, err), done);
    RB_TRY(st, read_rope_h5(&facts->rope, file, facts->rotary_dim / 2, name, err), done);
    RB_TRY(st, model_facts_check_as_read(facts, name, err), done);
done:
    return st;
}
