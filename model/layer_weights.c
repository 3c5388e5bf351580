/* See layer_weights.h. */
#include "model/layer_weights.h"

#include <stdio.h>
#include <stdlib.h>

/* Hands out pieces of the arena on cache-line boundaries; with base NULL it only counts. */
typedef struct arena_cursor {
    float *base;
    size_t used;
} arena_cursor;

static float *take(arena_cursor *cursor, size_t n)
{
    float *piece = cursor->base ? cursor->base + cursor->used : NULL;
    cursor->used += (n + 15) / 16 * 16;
    return piece;
}

static float *take_if(arena_cursor *cursor, bool present, size_t n) { return present ? take(cursor, n) : NULL; }

/* Points every field into base; returns the floats needed. */
static size_t lay_out(layer_weights *w, const model_config *c, float *base)
{
    const model_facts *f = &c->facts;
    const size_t hidden = (size_t)c->hidden_size, inner = (size_t)c->intermediate_size, d = (size_t)f->head_dim;
    const size_t q_width = (size_t)f->n_q_heads * d, qkv_width = q_width + 2 * (size_t)f->n_kv_heads * d;
    arena_cursor cursor = {.base = base};

    *w = (layer_weights){.arena = base};
    w->input_norm = take(&cursor, hidden);
    w->qkv = take(&cursor, qkv_width * hidden);
    w->qkv_bias = take_if(&cursor, c->qkv_bias, qkv_width);
    w->q_norm = take_if(&cursor, c->qk_norm, d);
    w->k_norm = take_if(&cursor, c->qk_norm, d);
    w->o = take(&cursor, hidden * q_width);
    w->o_bias = take_if(&cursor, c->o_bias, hidden);
    w->mlp_norm = take(&cursor, hidden);
    w->gate_up = take(&cursor, 2 * inner * hidden);
    w->gate_up_bias = take_if(&cursor, c->mlp_bias, 2 * inner);
    w->down = take(&cursor, hidden * inner);
    w->down_bias = take_if(&cursor, c->mlp_bias, hidden);
    return cursor.used;
}

int64_t layer_weights_bytes(const model_config *config)
{
    layer_weights unused;
    return (int64_t)(lay_out(&unused, config, NULL) * sizeof(float));
}

rb_status layer_weights_alloc(layer_weights *weights, const model_config *config, rb_error *err)
{
    float *arena = NULL;
    const rb_status st = rb_alloc(&arena, (size_t)layer_weights_bytes(config), 1, "weights of a layer", err);
    if (st == RB_OK) lay_out(weights, config, arena);
    return st;
}

void layer_weights_free(layer_weights *weights)
{
    free(weights->arena);
    *weights = (layer_weights){0};
}

/* One layer of a checkpoint while it is being read. */
typedef struct layer_source {
    const checkpoint *model;
    int layer;
} layer_source;

static rb_status load_tensor(const layer_source *from, const char *module, const char *kind, int rank,
                             const int64_t *shape, float *out, rb_error *err)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%d.%s.%s", from->layer, module, kind);
    return checkpoint_load(from->model, name, rank, shape, out, err);
}

static rb_status load_norm(const layer_source *from, const char *module, int64_t n, float *out, rb_error *err)
{
    return load_tensor(from, module, "weight", 1, &n, out, err);
}

/* bias NULL: the module has none. */
static rb_status load_linear(const layer_source *from, const char *module, int64_t n_out, int64_t n_in, float *weight,
                             float *bias, rb_error *err)
{
    const int64_t shape[2] = {n_out, n_in};
    const rb_status st = load_tensor(from, module, "weight", 2, shape, weight, err);
    if (st != RB_OK || !bias) return st;
    return load_tensor(from, module, "bias", 1, &n_out, bias, err);
}

static float *bias_at(float *bias, int64_t row) { return bias ? bias + row : NULL; }

rb_status layer_weights_load_qkv(layer_weights *w, const checkpoint *model, int layer, rb_error *err)
{
    const model_config *c = checkpoint_config(model);
    const layer_source from = {model, layer};
    const int64_t d = c->facts.head_dim, hidden = c->hidden_size;
    const int64_t q_width = c->facts.n_q_heads * d, kv_width = c->facts.n_kv_heads * d, k_row = q_width,
                  v_row = q_width + kv_width;
    rb_status st;

    RB_TRY(st, load_norm(&from, "input_layernorm", hidden, w->input_norm, err), done);
    RB_TRY(st, load_linear(&from, "self_attn.q_proj", q_width, hidden, w->qkv, w->qkv_bias, err), done);
    RB_TRY(st,
           load_linear(&from, "self_attn.k_proj", kv_width, hidden, w->qkv + k_row * hidden,
                       bias_at(w->qkv_bias, k_row), err),
           done);
    RB_TRY(st,
           load_linear(&from, "self_attn.v_proj", kv_width, hidden, w->qkv + v_row * hidden,
                       bias_at(w->qkv_bias, v_row), err),
           done);
    if (c->qk_norm) {
        RB_TRY(st, load_norm(&from, "self_attn.q_norm", d, w->q_norm, err), done);
        RB_TRY(st, load_norm(&from, "self_attn.k_norm", d, w->k_norm, err), done);
    }
done:
    return st;
}

rb_status layer_weights_load_rest(layer_weights *w, const checkpoint *model, int layer, rb_error *err)
{
    const model_config *c = checkpoint_config(model);
    const layer_source from = {model, layer};
    const int64_t hidden = c->hidden_size, inner = c->intermediate_size,
                  q_width = (int64_t)c->facts.n_q_heads * c->facts.head_dim;
    rb_status st;

    RB_TRY(st, load_linear(&from, "self_attn.o_proj", hidden, q_width, w->o, w->o_bias, err), done);
    RB_TRY(st, load_norm(&from, "post_attention_layernorm", hidden, w->mlp_norm, err), done);
    RB_TRY(st, load_linear(&from, "mlp.gate_proj", inner, hidden, w->gate_up, w->gate_up_bias, err), done);
    RB_TRY(st,
           load_linear(&from, "mlp.up_proj", inner, hidden, w->gate_up + inner * hidden,
                       bias_at(w->gate_up_bias, inner), err),
           done);
    RB_TRY(st, load_linear(&from, "mlp.down_proj", hidden, inner, w->down, w->down_bias, err), done);
done:
    return st;
}
