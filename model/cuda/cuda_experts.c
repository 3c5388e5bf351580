/* A mixture of experts on the GPU: see expert_config in model/model_config.h.
 *
 * The tokens of all chunks choose first. Then the experts are visited one after the other: an expert's weights have
 * been uploaded while the one before it computed, its tokens are gathered, and what it gives is added to their rows. So
 * memory holds a ring of experts, and each that a token visits is read once. The first of a layer, as many as the ring
 * holds, are read before it is known who is visited, so that the link is not idle during attention. */
#include <stdlib.h>
#include <string.h>

#include "model/cuda/cuda_pass.h"

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t n_visits(const cuda_pass *p) { return p->n_tokens * p->config->experts.n_per_token; }
static bool has_experts(const cuda_pass *p) { return p->config->experts.n > 0; }
static bool runs_experts(const cuda_pass *p, int layer)
{
    const bool is_needed = !p->stops_at_heads || layer + 1 < p->config->facts.n_layers;
    return has_experts(p) && p->config->layer_has_experts[layer] && is_needed;
}

/* ---- memory ---------------------------------------------------------------------------------- */

void cuda_experts_list(cuda_pass *p, int64_t chunk, cuda_array_list *list)
{
    cuda_experts *x = &p->experts;
    const int64_t visits = n_visits(p);
    if (!has_experts(p)) return;
    cuda_array_list_add(list, &x->input, p->n_tokens * p->config->hidden_size * cuda_pass_element_bytes(p->precision));
    cuda_array_list_add(list, &x->chosen, visits * (int64_t)sizeof(int32_t));
    cuda_array_list_add(list, &x->weights, visits * (int64_t)sizeof(float));
    cuda_array_list_add(list, &x->visits, visits * (int64_t)sizeof(int32_t));
    cuda_array_list_add(list, &x->scores, chunk * p->config->experts.n * (int64_t)sizeof(float));
}

rb_status cuda_experts_open(cuda_pass *p, rb_error *err)
{
    cuda_experts *x = &p->experts;
    const size_t bytes = (size_t)n_visits(p) * sizeof(int32_t);
    rb_status st = RB_OK;
    if (!has_experts(p)) return RB_OK;
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&x->host_chosen, bytes, err), done);
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&x->host_visits, bytes, err), done);
    st = rb_alloc(&x->first_visit, (size_t)p->config->experts.n + 1, sizeof *x->first_visit, "experts", err);
done:
    return st;
}

void cuda_experts_close(cuda_pass *p)
{
    if (p->experts.host_chosen) rb_cuda()->release_pinned(p->experts.host_chosen);
    if (p->experts.host_visits) rb_cuda()->release_pinned(p->experts.host_visits);
    free(p->experts.first_visit);
}

/* ---- the router ------------------------------------------------------------------------------ */

static void *input_of(const cuda_pass *p, int64_t token)
{
    return (char *)p->experts.input.at + token * p->config->hidden_size * cuda_pass_element_bytes(p->precision);
}

rb_status cuda_experts_route(const cuda_pass *p, const device_layer *w, int64_t first, int64_t n, rb_error *err)
{
    const model_config *c = p->config;
    const expert_config *e = &c->experts;
    const layer_cuda_norm norm = cuda_pass_norm(p, w->at[WEIGHT_MLP_NORM], w->at[WEIGHT_MLP_NORM_BIAS]);
    const layer_cuda_router router = {.n_experts = e->n,
                                      .n_per_token = e->n_per_token,
                                      .n_groups = e->n_groups,
                                      .n_groups_per_token = e->n_groups_per_token,
                                      .normalizes = e->normalizes,
                                      .scale = (float)e->scale,
                                      .n_tokens = n,
                                      .scores = p->experts.scores.at,
                                      .chosen = (int32_t *)p->experts.chosen.at + first * e->n_per_token,
                                      .weights = (float *)p->experts.weights.at + first * e->n_per_token};
    rb_status st;
    RB_TRY(st,
           p->api->norm(input_of(p, first), cuda_pass_hidden(p, first), NULL, &norm, n, c->hidden_size, p->precision,
                        p->compute, err),
           done);
    RB_TRY(st,
           cuda_pass_multiply(p, p->experts.scores.at, true, false, input_of(p, first), w->at[WEIGHT_ROUTER], n, e->n,
                              c->hidden_size, err),
           done);
    RB_TRY(st, p->api->route(&router, p->compute, err), done);
    if (w->at[WEIGHT_SHARED_GATE_UP]) {
        RB_TRY(st, cuda_pass_gate_up(p, input_of(p, first), w->at[WEIGHT_SHARED_GATE_UP], NULL, n, e->shared_size, err),
               done);
        st = cuda_pass_add_product(p, p->activated.at, w->at[WEIGHT_SHARED_DOWN], NULL, NULL, first, n, e->shared_size,
                                   err);
    }
done:
    return st;
}

/* A counting sort of the visits by expert. */
static void sort_visits(const cuda_experts *x, int64_t n, int n_experts)
{
    memset(x->first_visit, 0, ((size_t)n_experts + 1) * sizeof *x->first_visit);
    for (int64_t i = 0; i < n; i++) x->first_visit[x->host_chosen[i] + 1]++;
    for (int e = 0; e < n_experts; e++) x->first_visit[e + 1] += x->first_visit[e];
    for (int64_t i = 0; i < n; i++) x->host_visits[x->first_visit[x->host_chosen[i]]++] = (int32_t)i;
    for (int e = n_experts; e > 0; e--) x->first_visit[e] = x->first_visit[e - 1];
    x->first_visit[0] = 0;
}

static rb_status list_visits(const cuda_pass *p, rb_error *err)
{
    const cuda_experts *x = &p->experts;
    rb_status st;
    RB_TRY(st, rb_cuda()->copy(x->host_chosen, x->chosen.at, x->chosen.size_bytes, p->compute, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(p->compute, err), done);
    sort_visits(x, n_visits(p), p->config->experts.n);
    st = rb_cuda()->copy(x->visits.at, x->host_visits, x->visits.size_bytes, p->compute, err);
done:
    return st;
}

/* ---- experts --------------------------------------------------------------------------------- */

/* Rows of a product of n visits: a product of a new size costs a search for its algorithm, so there are few sizes. Not
 * above a chunk, which is a multiple of 128. */
static int64_t product_rows(int64_t n)
{
    enum { STEP = 128 };
    int64_t rows = 16;
    if (n > STEP) return (n + STEP - 1) / STEP * STEP;
    while (rows < n) rows *= 2;
    return rows;
}

/* Up to a chunk of an expert's visits. */
static rb_status run_visits(const cuda_pass *p, const device_expert *w, int64_t first, int64_t n, rb_error *err)
{
    const model_config *c = p->config;
    const int64_t rows = product_rows(n);
    const layer_cuda_visits visits = {.visits = (const int32_t *)p->experts.visits.at + first,
                                      .weights = p->experts.weights.at,
                                      .n_per_token = c->experts.n_per_token,
                                      .n = n,
                                      .width = c->hidden_size};
    rb_status st;
    RB_TRY(st, p->api->gather(p->normed.at, p->experts.input.at, &visits, rows, p->precision, p->compute, err), done);
    RB_TRY(st, cuda_pass_gate_up(p, p->normed.at, w->gate_up, NULL, rows, c->experts.size, err), done);
    RB_TRY(st,
           cuda_pass_multiply(p, p->product.at, true, false, p->activated.at, w->down, rows, c->hidden_size,
                              c->experts.size, err),
           done);
    st = p->api->scatter(p->hidden.at, p->product.at, &visits, (float)c->residual_scale, p->compute, err);
done:
    return st;
}

static rb_status run_expert(const cuda_pass *p, rb_error *err)
{
    device_expert w;
    rb_status st;
    RB_TRY(st, weight_stream_wait_expert(p->weights, p->compute, &w, err), done);
    const int64_t end = p->experts.first_visit[w.expert + 1];
    for (int64_t first = p->experts.first_visit[w.expert]; first < end; first += p->chunk)
        RB_TRY(st, run_visits(p, &w, first, min_i64(p->chunk, end - first), err), done);
    st = weight_stream_release_expert(p->weights, p->compute, err);
done:
    return st;
}

rb_status cuda_experts_begin(const cuda_pass *p, int layer, rb_error *err)
{
    const int n_slots = weight_stream_n_slots(p->weights);
    rb_status st = RB_OK;
    if (!runs_experts(p, layer)) return RB_OK;
    for (int expert = 0; expert < n_slots && st == RB_OK; expert++)
        st = weight_stream_begin_expert(p->weights, layer, expert, err);
    return st;
}

rb_status cuda_experts_run(const cuda_pass *p, int layer, rb_error *err)
{
    const int n_slots = weight_stream_n_slots(p->weights), n_experts = p->config->experts.n;
    const int64_t *first_visit = p->experts.first_visit;
    int n_begun = n_slots, next = n_slots; /* cuda_experts_begin has begun as many */
    rb_status st;
    if (!runs_experts(p, layer)) return RB_OK;
    RB_TRY(st, list_visits(p, err), done);
    for (;;) {
        for (; n_begun < n_slots && next < n_experts; next++) {
            if (first_visit[next] == first_visit[next + 1]) continue; /* nobody visits it */
            RB_TRY(st, weight_stream_begin_expert(p->weights, layer, next, err), done);
            n_begun++;
        }
        if (n_begun == 0) break;
        RB_TRY(st, run_expert(p, err), done);
        n_begun--;
    }
done:
    return st;
}
