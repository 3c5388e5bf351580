/* See forward.h. */
#include "model/forward.h"

#include "model/layer.h"
#include "model/lm_head.h"
#include "model/rope_apply.h"

/* What OpenBLAS touches of the packing buffer of one thread: panels of both operands, a few MiB for any tile we give it. */
enum { BLAS_BUFFER_BYTES = 8 * 1024 * 1024 };

typedef struct forward_state {
    const checkpoint *model;
    const model_config *config;
    const token_batch *batch;
    const forward_hooks *hooks;
    layer_weights weights;
    layer_activations activations;
    rope_table rope;
} forward_state;

static rb_status rotate_heads(forward_state *state, layer_heads *heads, rb_error *err)
{
    const model_facts *facts = &state->config->facts;
    const token_batch *batch = state->batch;

    /* k lies behind q */
    rope_apply(&state->rope, heads->q, facts->n_q_heads + facts->n_kv_heads, facts->head_dim, batch->sequence_start, batch->n_sequences);
    return state->hooks->on_rotated ? state->hooks->on_rotated(state->hooks->user, heads, err) : RB_OK;
}

static rb_status run_layer(forward_state *state, int layer, rb_error *err)
{
    const model_config *config = state->config;
    const forward_hooks *hooks = state->hooks;
    layer_activations *a = &state->activations;
    const int64_t head_floats = a->n_tokens * config->facts.head_dim;
    layer_heads heads = {.layer = layer, .n_tokens = a->n_tokens, .q = a->heads, .k = a->heads + config->facts.n_q_heads * head_floats};
    heads.v = heads.k + config->facts.n_kv_heads * head_floats;
    const bool is_needed_after = layer + 1 < config->facts.n_layers || hooks->on_logits;
    rb_status st;

    RB_TRY(st, layer_weights_load_qkv(&state->weights, state->model, layer, err), done);
    layer_project_heads(config, &state->weights, a);
    if (hooks->on_qkv) RB_TRY(st, hooks->on_qkv(hooks->user, &heads, err), done);
    if (is_needed_after || hooks->on_rotated) RB_TRY(st, rotate_heads(state, &heads, err), done);
    if (is_needed_after) {
        RB_TRY(st, layer_weights_load_rest(&state->weights, state->model, layer, err), done);
        RB_TRY(st, layer_attend(config, &state->weights, layer, a, err), done);
        layer_mlp(config, &state->weights, a);
    }
    if (hooks->on_layer_done) hooks->on_layer_done(hooks->user, layer);
done:
    return st;
}

rb_status forward_run(const checkpoint *model, const token_batch *batch, const forward_hooks *hooks, rb_error *err)
{
    forward_state state = {.model = model, .config = checkpoint_config(model), .batch = batch, .hooks = hooks};
    rb_status st;

    RB_TRY(st, token_batch_check(batch, state.config->vocab_size, err), done);
    RB_TRY(st, checkpoint_check(model, err), done);     /* from here on every size is backed by a file of that size */
    RB_TRY(st, layer_weights_alloc(&state.weights, state.config, err), done);
    RB_TRY(st, layer_activations_alloc(&state.activations, state.config, batch->sequence_start, batch->n_sequences, err), done);
    RB_TRY(st, rope_table_init(&state.rope, &state.config->facts, token_batch_longest(batch), err), done);

    RB_TRY(st, token_batch_embed(batch, model, state.activations.hidden, err), done);
    for (int layer = 0; layer < state.config->facts.n_layers; layer++) RB_TRY(st, run_layer(&state, layer, err), done);
    layer_weights_free(&state.weights);
    if (hooks->on_logits) RB_TRY(st, lm_head_run(model, state.activations.hidden, batch->n_tokens, hooks, err), done);
done:
    rope_table_free(&state.rope);
    layer_activations_free(&state.activations);
    layer_weights_free(&state.weights);
    return st;
}

int64_t forward_memory_bytes(const model_config *config, const token_batch *batch, int n_threads)
{
    return layer_weights_bytes(config) + layer_activations_bytes(config, batch->n_tokens) + rope_table_bytes(&config->facts, token_batch_longest(batch)) +
           layer_attend_bytes(config, batch->sequence_start, batch->n_sequences, n_threads) + lm_head_bytes(config, batch->n_tokens, n_threads) +
           (int64_t)n_threads * BLAS_BUFFER_BYTES;
}
