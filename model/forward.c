/* See forward.h. */
#include "model/forward.h"

#include <assert.h>
#include <stdlib.h>

#include "model/layer.h"
#include "model/lm_head.h"
#include "model/rope_apply.h"

/* The part of a thread's packing buffer that OpenBLAS touches: panels of both operands, a few MiB for any tile that we
 * give it. */
enum { BLAS_BUFFER_BYTES = 8 * 1024 * 1024 };

typedef struct forward_state {
    const checkpoint *model;
    const model_config *config;
    const token_batch *batch;
    const forward_hooks *hooks;
    layer_weights weights;
    layer_activations activations;
    rope_table rope, local_rope;  /* local_rope: empty unless some layers turn by one */
    int64_t *part_sequence_start; /* [most sequences of a part + 1]; the sequences of the current part, from 0 */
} forward_state;

/* ---- parts ----------------------------------------------------------------------------------- */

static int n_parts(const forward_hooks *hooks) { return hooks->part_start ? hooks->n_parts : 1; }
static int64_t part_first(const token_batch *batch, const forward_hooks *hooks, int part)
{
    return hooks->part_start ? hooks->part_start[part] : part * batch->n_sequences;
}

typedef struct part_sizes {
    int64_t n_tokens, n_sequences; /* largest of any part */
} part_sizes;

static part_sizes largest_part(const token_batch *batch, const forward_hooks *hooks)
{
    part_sizes largest = {0};
    for (int part = 0; part < n_parts(hooks); part++) {
        const int64_t first = part_first(batch, hooks, part), end = part_first(batch, hooks, part + 1);
        const int64_t n_tokens = batch->sequence_start[end] - batch->sequence_start[first];
        if (n_tokens > largest.n_tokens) largest.n_tokens = n_tokens;
        if (end - first > largest.n_sequences) largest.n_sequences = end - first;
    }
    return largest;
}

static void check_parts(const token_batch *batch, const forward_hooks *hooks)
{
    assert(part_first(batch, hooks, 0) == 0 && part_first(batch, hooks, n_parts(hooks)) == batch->n_sequences);
    for (int part = 0; part < n_parts(hooks); part++)
        assert(part_first(batch, hooks, part) < part_first(batch, hooks, part + 1));
    (void)batch, (void)hooks;
}

/* Makes a part the current one. */
static layer_heads select_part(forward_state *state, int layer, int part)
{
    const model_facts *facts = &state->config->facts;
    const token_batch *batch = state->batch;
    layer_activations *a = &state->activations;
    const int64_t first = part_first(batch, state->hooks, part), first_token = batch->sequence_start[first];

    a->n_sequences = part_first(batch, state->hooks, part + 1) - first;
    for (int64_t s = 0; s <= a->n_sequences; s++)
        state->part_sequence_start[s] = batch->sequence_start[first + s] - first_token;
    a->sequence_start = state->part_sequence_start;
    a->n_tokens = a->sequence_start[a->n_sequences];
    a->hidden = a->all_hidden + first_token * state->config->hidden_size;

    const int64_t head_floats = a->n_tokens * facts->head_dim;
    float *k = a->heads + facts->n_q_heads * head_floats;
    return (layer_heads){.layer = layer,
                         .part = part,
                         .first_token = first_token,
                         .n_tokens = a->n_tokens,
                         .q = a->heads,
                         .k = k,
                         .v = k + facts->n_kv_heads * head_floats, /* rows of value_dim */
                         .exact_k = a->recent ? a->recent : k};
}

/* ---- a layer --------------------------------------------------------------------------------- */

static rb_status rotate_heads(forward_state *state, layer_heads *heads, rb_error *err)
{
    const model_facts *facts = &state->config->facts;
    const rope_table *rope = facts->layer_is_local[heads->layer] ? &state->local_rope : &state->rope;
    const layer_activations *a = &state->activations;

    /* k lies right after q, so one call turns both */
    rope_apply(rope, heads->q, facts->n_q_heads + facts->n_kv_heads, facts->head_dim, a->sequence_start,
               a->n_sequences);
    if (a->recent) rope_apply(rope, a->recent, facts->n_kv_heads, facts->head_dim, a->sequence_start, a->n_sequences);
    return state->hooks->on_rotated ? state->hooks->on_rotated(state->hooks->user, heads, err) : RB_OK;
}

static rb_status run_part(forward_state *state, int layer, int part, bool is_needed_after, rb_error *err)
{
    const model_config *config = state->config;
    const forward_hooks *hooks = state->hooks;
    layer_activations *a = &state->activations;
    layer_heads heads = select_part(state, layer, part);
    rb_status st = RB_OK;

    layer_project_heads(config, &state->weights, a);
    if (hooks->on_qkv) RB_TRY(st, hooks->on_qkv(hooks->user, &heads, err), done);
    if (is_needed_after || hooks->on_rotated) RB_TRY(st, rotate_heads(state, &heads, err), done);
    if (is_needed_after) {
        RB_TRY(st, layer_attend(config, &state->weights, layer, hooks->n_recent, a, err), done);
        if (hooks->on_attended) RB_TRY(st, hooks->on_attended(hooks->user, &heads, a->rows, err), done);
        layer_project_out(config, &state->weights, a);
        if (a->energy && !config->has_parallel_residual) layer_measure_residual(config, a);
        if (!config->layer_has_experts[layer]) layer_mlp(config, &state->weights, a);
        if (a->energy && config->has_parallel_residual) layer_measure_residual(config, a);
        if (a->energy) st = hooks->on_residual(hooks->user, &heads, a->energy, err);
    }
done:
    return st;
}

static rb_status run_layer(forward_state *state, int layer, rb_error *err)
{
    const forward_hooks *hooks = state->hooks;
    const bool is_needed_after = layer + 1 < state->config->facts.n_layers || hooks->on_logits || hooks->on_residual;
    rb_status st;

    RB_TRY(st, layer_weights_load(&state->weights, state->model, layer, STEP_HEADS, 0, err), done);
    if (is_needed_after) RB_TRY(st, layer_weights_load(&state->weights, state->model, layer, STEP_REST, 0, err), done);
    for (int part = 0; part < n_parts(hooks); part++)
        RB_TRY(st, run_part(state, layer, part, is_needed_after, err), done);
    if (is_needed_after && state->config->layer_has_experts[layer])
        RB_TRY(st,
               layer_experts_run(state->config, &state->weights, state->model, layer, state->activations.all_hidden,
                                 state->batch->n_tokens, err),
               done);
    if (hooks->on_stream) {
        const bool is_last = layer + 1 == state->config->facts.n_layers;
        RB_TRY(st, hooks->on_stream(hooks->user, layer, is_last ? NULL : state->activations.all_hidden, err), done);
    }
    if (hooks->on_layer_done) hooks->on_layer_done(hooks->user, layer);
done:
    return st;
}

/* ---- the pass -------------------------------------------------------------------------------- */

static rb_status enter_first_layer(const forward_state *state, rb_error *err)
{
    const forward_hooks *hooks = state->hooks;
    const token_batch *batch = state->batch;
    float *stream = state->activations.all_hidden;
    assert(hooks->first_layer >= 0 && hooks->first_layer < state->config->facts.n_layers);
    return hooks->first_layer > 0 ? hooks->fill_stream(hooks->user, 0, batch->n_tokens, stream, err)
                                  : token_batch_embed(batch, state->model, stream, err);
}

rb_status forward_run(const checkpoint *model, const token_batch *batch, const forward_hooks *hooks, rb_error *err)
{
    forward_state state = {.model = model, .config = checkpoint_config(model), .batch = batch, .hooks = hooks};
    rb_status st;

    RB_TRY(st, token_batch_check(batch, state.config->vocab_size, err), done);
    RB_TRY(st, checkpoint_check(model, err), done); /* from here on every size is backed by a file of that size */
    check_parts(batch, hooks);
    const part_sizes part = largest_part(batch, hooks);
    RB_TRY(st, layer_weights_alloc(&state.weights, state.config, err), done);
    RB_TRY(st,
           layer_activations_alloc(&state.activations, state.config, batch->n_tokens, part.n_tokens,
                                   hooks->n_recent > 0, err),
           done);
    if (hooks->on_residual)
        RB_TRY(st,
               rb_alloc(&state.activations.energy, (size_t)part.n_tokens, sizeof *state.activations.energy,
                        "residual energies", err),
               done);
    RB_TRY(
        st,
        rope_table_init(&state.rope, &state.config->facts, &state.config->facts.rope, token_batch_longest(batch), err),
        done);
    if (state.config->facts.has_local_rope)
        RB_TRY(st,
               rope_table_init(&state.local_rope, &state.config->facts, &state.config->facts.local_rope,
                               token_batch_longest(batch), err),
               done);
    RB_TRY(st,
           rb_alloc(&state.part_sequence_start, (size_t)part.n_sequences + 1, sizeof *state.part_sequence_start,
                    "sequences", err),
           done);

    RB_TRY(st, enter_first_layer(&state, err), done);
    for (int layer = hooks->first_layer; layer < state.config->facts.n_layers; layer++)
        RB_TRY(st, run_layer(&state, layer, err), done);
    layer_weights_free(&state.weights);
    if (hooks->on_logits)
        RB_TRY(st, lm_head_run(model, state.activations.all_hidden, batch->n_tokens, hooks, err), done);
done:
    free(state.part_sequence_start);
    rope_table_free(&state.rope);
    rope_table_free(&state.local_rope);
    layer_activations_free(&state.activations);
    layer_weights_free(&state.weights);
    return st;
}

int64_t forward_memory_bytes(const model_config *config, const token_batch *batch, const forward_hooks *hooks,
                             int n_threads)
{
    static const forward_hooks plain = {0};
    const forward_hooks *h = hooks ? hooks : &plain;
    const part_sizes part = largest_part(batch, h);
    return layer_weights_bytes(config)
           + layer_activations_bytes(config, batch->n_tokens, part.n_tokens, h->n_recent > 0)
           + (config->facts.has_local_rope ? 2 : 1) * rope_table_bytes(&config->facts, token_batch_longest(batch))
           + layer_experts_bytes(config, batch->n_tokens)
           + layer_attend_bytes(config, batch->sequence_start, batch->n_sequences, n_threads)
           + lm_head_bytes(config, batch->n_tokens, h, n_threads) + (int64_t)n_threads * BLAS_BUFFER_BYTES;
}
