/* See model/decode_pass.h. */
#include "model/decode_pass.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "model/layer.h"
#include "model/lm_head.h"
#include "model/rope_apply.h"

struct decode_pass {
    const checkpoint *model;
    const model_config *config;
    layer_weights *layers; /* [n_layers] */
    layer_activations activations;
    rope_table rope, local_rope; /* local_rope: empty unless some layers turn by one */
    int64_t max_chunk;
};

/* ---- opening --------------------------------------------------------------------------------- */

static rb_status load_layer(decode_pass *p, int layer, rb_error *err)
{
    layer_weights *w = &p->layers[layer];
    rb_status st;
    RB_TRY(st, layer_weights_alloc(w, p->config, err), done);
    RB_TRY(st, layer_weights_load(w, p->model, layer, STEP_HEADS, 0, err), done);
    st = layer_weights_load(w, p->model, layer, STEP_REST, 0, err);
done:
    return st;
}

static rb_status make_tables(decode_pass *p, int64_t n_positions, rb_error *err)
{
    const model_facts *facts = &p->config->facts;
    const rb_status st = rope_table_init(&p->rope, facts, &facts->rope, n_positions, err);
    if (st != RB_OK || !facts->has_local_rope) return st;
    return rope_table_init(&p->local_rope, facts, &facts->local_rope, n_positions, err);
}

rb_status decode_pass_open(decode_pass **out, const checkpoint *model, int64_t max_chunk, int64_t n_positions,
                           rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    decode_pass *p = NULL;
    rb_status st;
    *out = NULL;
    if (config->has_latent_cache)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: a %s keeps latents in its cache, and decoding takes keys and values",
                       checkpoint_folder(model), config->facts.model_type);
    RB_TRY(st, checkpoint_check(model, err), done);
    RB_TRY(st, rb_alloc(&p, 1, sizeof *p, "decode pass", err), done);
    *p = (decode_pass){.model = model, .config = config, .max_chunk = max_chunk};
    RB_TRY(st, rb_alloc(&p->layers, (size_t)config->facts.n_layers, sizeof *p->layers, "layers", err), done);
    for (int layer = 0; layer < config->facts.n_layers; layer++) RB_TRY(st, load_layer(p, layer, err), done);
    RB_TRY(st, layer_activations_alloc(&p->activations, config, max_chunk, max_chunk, true, err), done);
    RB_TRY(st, make_tables(p, n_positions, err), done);
    *out = p;
    p = NULL;
done:
    decode_pass_close(p);
    return st;
}

void decode_pass_close(decode_pass *p)
{
    if (!p) return;
    for (int layer = 0; p->layers && layer < p->config->facts.n_layers; layer++) layer_weights_free(&p->layers[layer]);
    free(p->layers);
    layer_activations_free(&p->activations);
    rope_table_free(&p->rope);
    rope_table_free(&p->local_rope);
    free(p);
}

/* ---- a run ----------------------------------------------------------------------------------- */

/* Call after the heads of a layer are projected: turns queries and keys, and keeps keys as they were in `recent`. */
static decode_heads turn_heads(decode_pass *p, int layer, int64_t first_position)
{
    const model_facts *facts = &p->config->facts;
    layer_activations *a = &p->activations;
    const int64_t n = a->n_tokens;
    float *k = a->heads + facts->n_q_heads * n * facts->head_dim;
    /* k lies right after q, so one call turns both */
    rope_apply_from(facts->layer_is_local[layer] ? &p->local_rope : &p->rope, a->heads,
                    facts->n_q_heads + facts->n_kv_heads, facts->head_dim, first_position, n);
    return (decode_heads){.layer = layer,
                          .first_position = first_position,
                          .n_tokens = n,
                          .q = a->heads,
                          .k = a->recent,
                          .turned_k = k,
                          .v = k + facts->n_kv_heads * n * facts->head_dim,
                          .attended = a->rows};
}

static rb_status run_layer(decode_pass *p, int layer, int64_t first_position, const decode_hooks *hooks, rb_error *err)
{
    layer_weights *w = &p->layers[layer];
    layer_activations *a = &p->activations;
    rb_status st;
    layer_project_heads(p->config, w, a);
    const decode_heads heads = turn_heads(p, layer, first_position);
    RB_TRY(st, hooks->attend(hooks->user, &heads, err), done);
    layer_project_out(p->config, w, a);
    if (p->config->layer_has_experts[layer])
        st = layer_experts_run(p->config, w, p->model, layer, a->all_hidden, a->n_tokens, err);
    else layer_mlp(p->config, w, a);
done:
    return st;
}

static rb_status take_logits(void *user, int64_t first, int64_t n, const float *logits, rb_error *err)
{
    const decode_pass *p = ((void **)user)[0];
    float *out = ((void **)user)[1];
    (void)first, (void)n, (void)err;
    memcpy(out, logits, (size_t)p->config->vocab_size * sizeof *out);
    return RB_OK;
}

static rb_status run_lm_head(const decode_pass *p, float *logits, rb_error *err)
{
    const int64_t n = p->activations.n_tokens, last = n - 1;
    void *user[2] = {(void *)p, logits};
    const forward_hooks hooks = {.user = user, .on_logits = take_logits, .logit_tokens = &last, .n_logit_tokens = 1};
    return lm_head_run(p->model, p->activations.all_hidden, n, &hooks, err);
}

rb_status decode_pass_run(decode_pass *p, const int32_t *tokens, int64_t n, int64_t first_position,
                          const decode_hooks *hooks, float *logits, rb_error *err)
{
    const int64_t sequence_start[2] = {0, n};
    const token_batch batch = {.tokens = tokens, .n_tokens = n, .sequence_start = sequence_start, .n_sequences = 1};
    layer_activations *a = &p->activations;
    rb_status st;
    assert(n <= p->max_chunk);
    RB_TRY(st, token_batch_check(&batch, p->config->vocab_size, err), done);
    RB_TRY(st, token_batch_embed(&batch, p->model, a->all_hidden, err), done);
    a->n_tokens = n;
    a->n_sequences = 1;
    a->sequence_start = sequence_start;
    a->hidden = a->all_hidden;
    for (int layer = 0; layer < p->config->facts.n_layers; layer++)
        RB_TRY(st, run_layer(p, layer, first_position, hooks, err), done);
    if (logits) st = run_lm_head(p, logits, err);
done:
    return st;
}
