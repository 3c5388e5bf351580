/* Latent caches (MLA, arXiv 2405.04434) on the GPU: see latent_config in model/model_config.h. What is captured and
 * restored is the latent and the key that all heads share; attention runs on whole keys and values of every head, which
 * are made out of them here. */
#include "model/cuda/cuda_pass.h"

static int64_t kv_a_width(const model_config *c) { return c->latent.kv_rank + c->facts.head_dim; }
static int64_t whole_q_width(const model_config *c) { return (int64_t)c->facts.n_q_heads * c->query_dim; }
static int plain_dim(const model_config *c) { return c->query_dim - c->facts.head_dim; }
static int64_t kv_b_width(const model_config *c)
{
    return (int64_t)c->facts.n_q_heads * (plain_dim(c) + c->attended_dim);
}

/* A chunk's `projected` holds whole queries, latents with keys, and the latents of q, one after the other. */
int64_t cuda_latent_projected_width(const model_config *c)
{
    return whole_q_width(c) + kv_a_width(c) + c->latent.q_rank;
}

static float *kv_a_of(const cuda_pass *p) { return (float *)p->projected.at + p->chunk * whole_q_width(p->config); }
static float *q_a_of(const cuda_pass *p) { return kv_a_of(p) + p->chunk * kv_a_width(p->config); }

void cuda_latent_list(cuda_pass *p, int64_t chunk, cuda_array_list *list)
{
    const model_config *c = p->config;
    const int64_t e = cuda_pass_element_bytes(p->precision);
    if (!c->has_latent_cache) return;
    cuda_array_list_add(list, &p->latent.q_latent, chunk * c->latent.q_rank * e);
    cuda_array_list_add(list, &p->latent.latent, chunk * c->latent.kv_rank * e);
    cuda_array_list_add(list, &p->latent.key, chunk * c->facts.head_dim * e);
    cuda_array_list_add(list, &p->latent.projected, chunk * kv_b_width(c) * e);
}

static rb_status project_queries(const cuda_pass *p, const device_layer *w, int64_t n, rb_error *err)
{
    const model_config *c = p->config;
    const int64_t rank = c->latent.q_rank;
    const layer_cuda_norm norm = {.weight = w->at[WEIGHT_Q_A_NORM], .eps = (float)c->latent.norm_eps};
    const void *input = p->normed.at;
    rb_status st;
    if (rank > 0) {
        RB_TRY(st,
               cuda_pass_multiply(p, q_a_of(p), true, false, p->normed.at, w->at[WEIGHT_Q_A], n, rank, c->hidden_size,
                                  err),
               done);
        if (w->at[WEIGHT_Q_A_BIAS])
            RB_TRY(st, p->api->add_bias(q_a_of(p), w->at[WEIGHT_Q_A_BIAS], n, rank, p->compute, err), done);
        RB_TRY(st, p->api->norm(p->latent.q_latent.at, q_a_of(p), NULL, &norm, n, rank, p->precision, p->compute, err),
               done);
        input = p->latent.q_latent.at;
    }
    st = cuda_pass_multiply(p, p->projected.at, true, false, input, w->at[WEIGHT_Q_B], n, whole_q_width(c),
                            rank > 0 ? rank : c->hidden_size, err);
done:
    return st;
}

rb_status cuda_latent_project(const cuda_pass *p, const device_layer *w, int64_t n, rb_error *err)
{
    const model_config *c = p->config;
    const rb_status st = project_queries(p, w, n, err);
    return st == RB_OK ? cuda_pass_multiply(p, kv_a_of(p), true, false, p->normed.at, w->at[WEIGHT_KV_A], n,
                                            kv_a_width(c), c->hidden_size, err)
                       : st;
}

/* The latent is the value; it has a norm, and the key after it has none. */
void cuda_latent_heads(const cuda_pass *p, const device_layer *w, layer_cuda_heads *in)
{
    const model_config *c = p->config;
    const float *bias = w->at[WEIGHT_KV_A_BIAS];
    in->q_in = p->projected.at;
    in->v_in = kv_a_of(p);
    in->k_in = in->v_in + c->latent.kv_rank;
    in->q_in_stride = whole_q_width(c);
    in->k_in_stride = in->v_in_stride = kv_a_width(c);
    in->v_bias = bias;
    in->k_bias = bias ? bias + c->latent.kv_rank : NULL;
    in->v_norm = w->at[WEIGHT_KV_A_NORM];
    in->eps = (float)c->latent.norm_eps;
    in->k = p->latent.key.at;
    in->v = p->latent.latent.at;
    in->k_pitch = c->facts.head_dim;
    in->v_pitch = c->latent.kv_rank;
}

rb_status cuda_latent_expand(const cuda_pass *p, const device_layer *w, int64_t n, void *k, void *v, rb_error *err)
{
    const model_config *c = p->config;
    const cuda_pass_rows rows = cuda_pass_rows_of(c);
    const layer_cuda_expand in = {.n_heads = c->facts.n_q_heads,
                                  .plain_dim = plain_dim(c),
                                  .rope_dim = c->facts.head_dim,
                                  .value_dim = c->attended_dim,
                                  .precision = p->precision,
                                  .n_tokens = n,
                                  .projected = p->latent.projected.at,
                                  .key = p->latent.key.at,
                                  .k = k,
                                  .v = v,
                                  .k_pitch = rows.pitch,
                                  .v_pitch = rows.v_pitch};
    const rb_status st = cuda_pass_multiply(p, p->latent.projected.at, false, false, p->latent.latent.at,
                                            w->at[WEIGHT_KV_B], n, kv_b_width(c), c->latent.kv_rank, err);
    return st == RB_OK ? p->api->expand(&in, p->compute, err) : st;
}
