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

static int64_t longest_sequence(const token_batch *batch)
{
    int64_t longest = 0;
    for (int64_t s = 0; s < batch->n_sequences; s++) {
        const int64_t length = batch->sequence_start[s + 1] - batch->sequence_start[s];
        if (length > longest) longest = length;
    }
    return longest;
}

static rb_status check_sequences(const token_batch *batch, rb_error *err)
{
    if (batch->n_tokens <= 0 || batch->n_sequences <= 0)
        return rb_fail(err, RB_EINVAL, "forward: a batch of %lld tokens in %lld sequences, expected at least one of each", (long long)batch->n_tokens,
                       (long long)batch->n_sequences);
    if (batch->sequence_start[0] != 0 || batch->sequence_start[batch->n_sequences] != batch->n_tokens)
        return rb_fail(err, RB_EINVAL, "forward: sequences span tokens %lld to %lld, expected 0 to %lld", (long long)batch->sequence_start[0],
                       (long long)batch->sequence_start[batch->n_sequences], (long long)batch->n_tokens);
    for (int64_t s = 0; s < batch->n_sequences; s++) {
        const int64_t length = batch->sequence_start[s + 1] - batch->sequence_start[s];
        if (length <= 0)
            return rb_fail(err, RB_EINVAL, "forward: sequence %lld has %lld tokens, expected at least one", (long long)s, (long long)length);
    }
    return RB_OK;
}

static rb_status check_tokens(const token_batch *batch, int vocab_size, rb_error *err)
{
    for (int64_t t = 0; t < batch->n_tokens; t++) {
        if (batch->tokens[t] < 0 || batch->tokens[t] >= vocab_size)
            return rb_fail(err, RB_EINVAL, "forward: token %lld has id %d, expected 0 to %d", (long long)t, (int)batch->tokens[t], vocab_size - 1);
    }
    return RB_OK;
}

/* Rows of the embedding table, straight from the mapped file. */
static rb_status embed_tokens(forward_state *state, rb_error *err)
{
    const int64_t width = state->config->hidden_size, shape[2] = {state->config->vocab_size, width};
    const safetensor *table = NULL;
    rb_status st = checkpoint_tensor(state->model, "model.embed_tokens.weight", 2, shape, &table, err);

    for (int64_t t = 0; st == RB_OK && t < state->batch->n_tokens; t++)
        st = safetensor_to_f32(table, state->batch->tokens[t] * width, width, state->activations.hidden + t * width, err);
    return st;
}

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

    RB_TRY(st, check_sequences(batch, err), done);
    RB_TRY(st, check_tokens(batch, state.config->vocab_size, err), done);
    RB_TRY(st, checkpoint_check(model, err), done);     /* from here on every size is backed by a file of that size */
    RB_TRY(st, layer_weights_alloc(&state.weights, state.config, err), done);
    RB_TRY(st, layer_activations_alloc(&state.activations, state.config, batch->sequence_start, batch->n_sequences, err), done);
    RB_TRY(st, rope_table_init(&state.rope, &state.config->facts, longest_sequence(batch), err), done);

    RB_TRY(st, embed_tokens(&state, err), done);
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
    return layer_weights_bytes(config) + layer_activations_bytes(config, batch->n_tokens) + rope_table_bytes(&config->facts, longest_sequence(batch)) +
           layer_attend_bytes(config, batch->sequence_start, batch->n_sequences, n_threads) + lm_head_bytes(config, batch->n_tokens, n_threads) +
           (int64_t)n_threads * BLAS_BUFFER_BYTES;
}
