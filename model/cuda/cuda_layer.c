/* The steps of a layer for a chunk of tokens: see model/cuda/cuda_pass.h. */
#include "model/cuda/cuda_pass.h"

float *cuda_pass_hidden(const cuda_pass *p, int64_t token)
{
    return (float *)p->hidden.at + token * p->config->hidden_size;
}

rb_status cuda_pass_multiply(const cuda_pass *p, void *y, bool is_f32, bool adds, const void *x, const void *w,
                             int64_t m, int64_t n, int64_t k, rb_error *err)
{
    const bool is_product_of_few = p->is_decoding && p->precision == LAYER_CUDA_BF16 && m <= LAYER_CUDA_FEW_ROWS;
    if (is_product_of_few && k % 8 == 0) return p->api->few_rows(y, is_f32, adds, x, w, m, n, k, p->compute, err);
    return p->api->matmul(p->matmul, y, is_f32, adds, x, w, m, n, k, p->precision, p->compute, err);
}

layer_cuda_norm cuda_pass_norm(const cuda_pass *p, const void *weight, const void *bias)
{
    return (layer_cuda_norm){.is_layer_norm = p->config->family->norm == MODEL_NORM_LAYER,
                             .weight = weight,
                             .bias = bias,
                             .eps = (float)p->config->norm_eps};
}

/* normed = the norm of the residual stream, or the stream itself where the layer has no such norm. */
static rb_status norm(const cuda_pass *p, const void *weight, const void *bias, int64_t first, int64_t n, rb_error *err)
{
    const layer_cuda_norm with = cuda_pass_norm(p, weight, bias);
    return p->api->norm(p->normed.at, cuda_pass_hidden(p, first), NULL, &with, n, p->config->hidden_size, p->precision,
                        p->compute, err);
}

/* ---- heads ----------------------------------------------------------------------------------- */

static int64_t qkv_width(const model_config *c)
{
    return cuda_pass_q_width(c) + cuda_pass_k_width(c) + cuda_pass_v_width(c);
}

rb_status cuda_pass_project(const cuda_pass *p, const device_layer *w, int64_t first, int64_t n, rb_error *err)
{
    const rb_status st = norm(p, w->at[WEIGHT_INPUT_NORM], w->at[WEIGHT_INPUT_NORM_BIAS], first, n, err);
    if (st != RB_OK) return st;
    if (p->config->has_latent_cache) return cuda_latent_project(p, w, n, err);
    return cuda_pass_multiply(p, p->projected.at, true, false, p->normed.at, w->at[WEIGHT_QKV], n, qkv_width(p->config),
                              p->config->hidden_size, err);
}

/* A token's q, k and v lie one after the other in `projected`, and so do their biases. */
static void point_at_qkv(const cuda_pass *p, const device_layer *w, layer_cuda_heads *in)
{
    const model_config *c = p->config;
    const cuda_pass_rows rows = cuda_pass_rows_of(c);
    const float *bias = w->at[WEIGHT_QKV_BIAS];
    in->q_in = p->projected.at;
    in->k_in = in->q_in + cuda_pass_q_width(c);
    in->v_in = in->k_in + cuda_pass_k_width(c);
    in->q_in_stride = in->k_in_stride = in->v_in_stride = qkv_width(c);
    in->q_bias = bias;
    in->k_bias = bias ? bias + cuda_pass_q_width(c) : NULL;
    in->v_bias = bias ? in->k_bias + cuda_pass_k_width(c) : NULL;
    in->q_norm = w->at[WEIGHT_Q_NORM];
    in->k_norm = w->at[WEIGHT_K_NORM];
    in->is_norm_wide = (c->extras & EXTRA_WIDE_QK_NORM) != 0;
    in->k_pitch = rows.pitch;
    in->v_pitch = rows.v_pitch;
}

layer_cuda_heads cuda_pass_heads(const cuda_pass *p, const device_layer *w, int layer, int64_t first, int64_t n)
{
    const model_config *c = p->config;
    const model_facts *facts = &c->facts;
    const int table = facts->layer_is_local[layer];
    layer_cuda_heads in = {.n_q_heads = facts->n_q_heads,
                           .n_kv_heads = facts->n_kv_heads,
                           .head_dim = facts->head_dim,
                           .value_dim = facts->value_dim,
                           .query_dim = c->query_dim,
                           .n_freqs = facts->rotary_dim / 2,
                           .is_interleaved = facts->rope.pairing == ROPE_INTERLEAVED,
                           .precision = p->precision,
                           .n_tokens = n,
                           .eps = (float)c->norm_eps,
                           .position = (const int32_t *)p->positions.at + first,
                           .rope_cos = p->rope_cos[table].at,
                           .rope_sin = p->rope_sin[table].at,
                           .q_pitch = cuda_pass_rows_of(c).pitch};
    if (c->has_latent_cache) cuda_latent_heads(p, w, &in);
    else point_at_qkv(p, w, &in);
    return in;
}

/* Rows of k and v for attention, unless the layer's weights end before it. */
static rb_status expand(const cuda_pass *p, const device_layer *w, int64_t n, void *k, void *v, rb_error *err)
{
    return w->at[WEIGHT_KV_B] ? cuda_latent_expand(p, w, n, k, v, err) : RB_OK;
}

rb_status cuda_pass_run_heads(const cuda_pass *p, const device_layer *w, const layer_cuda_heads *given, void *k,
                              void *v, rb_error *err)
{
    layer_cuda_heads in = *given;
    if (!p->config->has_latent_cache) {
        in.k = k;
        in.v = v;
    }
    const rb_status st = p->api->heads(&in, p->compute, err);
    return st == RB_OK && p->config->has_latent_cache ? expand(p, w, in.n_tokens, k, v, err) : st;
}

rb_status cuda_pass_turn(const cuda_pass *p, const device_layer *w, int layer, int64_t first, int64_t n,
                         const float *k_in, const float *v_in, int64_t in_stride, void *k, void *v, rb_error *err)
{
    const layer_cuda_heads heads = cuda_pass_heads(p, w, layer, first, n);
    const bool is_latent = p->config->has_latent_cache;
    const layer_cuda_turn in = {.n_kv_heads = heads.n_kv_heads,
                                .head_dim = heads.head_dim,
                                .value_dim = heads.value_dim,
                                .n_freqs = heads.n_freqs,
                                .is_interleaved = heads.is_interleaved,
                                .precision = p->precision,
                                .n_tokens = n,
                                .in_stride = in_stride,
                                .k_in = k_in,
                                .v_in = v_in,
                                .position = heads.position,
                                .rope_cos = heads.rope_cos,
                                .rope_sin = heads.rope_sin,
                                .k = is_latent ? heads.k : k,
                                .v = is_latent ? heads.v : v,
                                .k_pitch = heads.k_pitch,
                                .v_pitch = heads.v_pitch};
    const rb_status st = p->api->turn(&in, p->compute, err);
    return st == RB_OK && is_latent ? expand(p, w, n, k, v, err) : st;
}

/* ---- attention ------------------------------------------------------------------------------- */

attention_cuda_input cuda_pass_attention(const cuda_pass *p, int layer)
{
    const model_config *c = p->config;
    const cuda_pass_rows rows = cuda_pass_rows_of(c);
    return (attention_cuda_input){.type = p->precision == LAYER_CUDA_BF16 ? ATTENTION_CUDA_BF16 : ATTENTION_CUDA_F32,
                                  .n_q_heads = c->facts.n_q_heads,
                                  .n_kv_heads = rows.n_kv_heads,
                                  .head_dim = rows.pitch,
                                  .value_dim = rows.v_pitch,
                                  .q_token_stride = rows.q_width,
                                  .k_token_stride = rows.k_width,
                                  .v_token_stride = rows.v_width,
                                  .out = p->padded.at ? p->padded.at : p->attended.at,
                                  .out_token_stride = (int64_t)c->facts.n_q_heads * rows.v_pitch,
                                  .sliding_window = c->layer_slides[layer] ? c->sliding_window : 0,
                                  .scale = (float)c->facts.attention_scale,
                                  .softcap = (float)c->attention_softcap};
}

rb_status cuda_pass_attend(const cuda_pass *p, const attention_cuda_input *in, rb_error *err)
{
    const layer_cuda_rows padded = {.rows = p->padded.at,
                                    .n_heads = in->n_q_heads,
                                    .head_dim = p->config->attended_dim,
                                    .n_tokens = in->n_queries,
                                    .token_stride = in->out_token_stride,
                                    .pitch = in->value_dim,
                                    .precision = p->precision};
    const rb_status st = p->attention->forward(in, p->compute, err);
    return st == RB_OK && p->padded.at ? p->api->pack_heads(p->attended.at, &padded, p->compute, err) : st;
}

/* ---- after attention ------------------------------------------------------------------------- */

static layer_cuda_activation activation_of(activation_kind kind)
{
    return kind == ACTIVATION_SILU ? LAYER_CUDA_SILU : kind == ACTIVATION_GELU ? LAYER_CUDA_GELU : LAYER_CUDA_GELU_TANH;
}

rb_status cuda_pass_gate_up(const cuda_pass *p, const void *rows, const void *w, const void *bias, int64_t n,
                            int64_t size, rb_error *err)
{
    const model_config *c = p->config;
    const bool is_gated = !c->family->has_plain_mlp;
    const rb_status st =
        cuda_pass_multiply(p, p->gate_up.at, false, false, rows, w, n, is_gated ? 2 * size : size, c->hidden_size, err);
    return st == RB_OK ? p->api->activate(p->activated.at, p->gate_up.at, bias, activation_of(c->activation), is_gated,
                                          n, size, p->precision, p->compute, err)
                       : st;
}

rb_status cuda_pass_add_product(const cuda_pass *p, const void *x, const void *w, const void *bias, const void *norm,
                                int64_t first, int64_t n, int64_t k, rb_error *err)
{
    const int64_t width = p->config->hidden_size;
    const layer_cuda_norm with = cuda_pass_norm(p, norm, NULL);
    const bool adds_at_once = !norm && p->config->residual_scale == 1;
    float *hidden = cuda_pass_hidden(p, first), *to = adds_at_once ? hidden : p->product.at;
    rb_status st;
    RB_TRY(st, cuda_pass_multiply(p, to, true, adds_at_once, x, w, n, width, k, err), done);
    if (!adds_at_once)
        st = p->api->add_normed(hidden, to, bias, &with, (float)p->config->residual_scale, n, width, p->compute, err);
    else if (bias) st = p->api->add_bias(hidden, bias, n, width, p->compute, err);
done:
    return st;
}

static rb_status project_out(const cuda_pass *p, const device_layer *w, int64_t first, int64_t n, rb_error *err)
{
    return cuda_pass_add_product(p, p->attended.at, w->at[WEIGHT_O], w->at[WEIGHT_O_BIAS],
                                 w->at[WEIGHT_ATTENTION_OUT_NORM], first, n,
                                 (int64_t)p->config->facts.n_q_heads * p->config->attended_dim, err);
}

/* After project_out: `product` still holds what o_proj gave where a norm came after it. */
static rb_status measure_residual(const cuda_pass *p, const device_layer *w, int64_t first, int64_t n, double *energy,
                                  rb_error *err)
{
    const int64_t width = p->config->hidden_size;
    const rb_status st = p->api->row_squares(energy, cuda_pass_hidden(p, first), false, 1.0, n, width, p->compute, err);
    if (st != RB_OK || !w->at[WEIGHT_ATTENTION_OUT_NORM]) return st;
    return p->api->row_squares(energy, p->product.at, true, 1.0 / (double)width, n, width, p->compute, err);
}

static rb_status run_mlp(const cuda_pass *p, const device_layer *w, int64_t first, int64_t n, rb_error *err)
{
    const int64_t size = p->config->intermediate_size;
    rb_status st;
    RB_TRY(st, norm(p, w->at[WEIGHT_MLP_NORM], w->at[WEIGHT_MLP_NORM_BIAS], first, n, err), done);
    RB_TRY(st, cuda_pass_gate_up(p, p->normed.at, w->at[WEIGHT_GATE_UP], w->at[WEIGHT_GATE_UP_BIAS], n, size, err),
           done);
    st = cuda_pass_add_product(p, p->activated.at, w->at[WEIGHT_DOWN], w->at[WEIGHT_DOWN_BIAS],
                               w->at[WEIGHT_MLP_OUT_NORM], first, n, size, err);
done:
    return st;
}

rb_status cuda_pass_finish(const cuda_pass *p, const device_layer *w, int layer, int64_t first, int64_t n,
                           double *energy, rb_error *err)
{
    rb_status st;
    /* An MLP that reads what attention read goes first: attention's share does not depend on the stream any more. */
    if (p->config->has_parallel_residual) RB_TRY(st, run_mlp(p, w, first, n, err), done);
    RB_TRY(st, project_out(p, w, first, n, err), done);
    if (energy) RB_TRY(st, measure_residual(p, w, first, n, energy, err), done);
    if (p->config->layer_has_experts[layer]) st = cuda_experts_route(p, w, first, n, err);
    else if (!p->config->has_parallel_residual) st = run_mlp(p, w, first, n, err);
done:
    return st;
}
