/* A mixture of experts: see expert_config and layer_experts_run in model/layer.h.
 *
 * All tokens choose first. Then the experts are visited one after the other: its weights are loaded, its tokens are
 * gathered, and what it gives is added to their rows. So memory holds one expert, and each is read once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/layer.h"
#include "model/linear.h"
#include "model/vector_math.h"

typedef struct expert_pass {
    const model_config *config;
    layer_weights *weights;
    const float *hidden; /* [n][hidden_size] */
    int64_t n;
    /* A visit is a token and one of its experts; those of an expert lie together, in the order of tokens. */
    int32_t *chosen;      /* [n][n_per_token] */
    float *weight;        /* the same: what the expert's result is multiplied by */
    int64_t *first_visit; /* [n_experts + 1] */
    int64_t *visit;       /* [n * n_per_token]: index into chosen */
    float *out;           /* [n][hidden_size] */
    float *tile;          /* [MLP_TILE_TOKENS][hidden_size]: normalised rows, then what an expert gives */
    float *inner;         /* [MLP_TILE_TOKENS][n_experts, or gate and up of an expert or of the shared ones] */
} expert_pass;

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t inner_width(const model_config *c)
{
    const int64_t size = max_i64(c->experts.size, c->experts.shared_size);
    return max_i64(layer_gate_up_width(c, size), c->experts.n);
}

int64_t layer_experts_bytes(const model_config *c, int64_t n)
{
    if (c->experts.n == 0) return 0;
    const int64_t visits = n * c->experts.n_per_token;
    return visits * (int64_t)(sizeof(int32_t) + sizeof(float) + sizeof(int64_t))
           + (c->experts.n + 1) * (int64_t)sizeof(int64_t)
           + (n * c->hidden_size + MLP_TILE_TOKENS * (c->hidden_size + inner_width(c))) * (int64_t)sizeof(float);
}

static rb_status alloc_pass(expert_pass *p, rb_error *err)
{
    const model_config *c = p->config;
    const size_t visits = (size_t)(p->n * c->experts.n_per_token), row = (size_t)c->hidden_size * sizeof(float);
    rb_status st;
    RB_TRY(st, rb_alloc(&p->chosen, visits, sizeof *p->chosen, "experts of tokens", err), done);
    RB_TRY(st, rb_alloc(&p->weight, visits, sizeof *p->weight, "experts of tokens", err), done);
    RB_TRY(st, rb_alloc(&p->visit, visits, sizeof *p->visit, "experts of tokens", err), done);
    RB_TRY(st, rb_alloc(&p->first_visit, (size_t)c->experts.n + 1, sizeof *p->first_visit, "experts", err), done);
    RB_TRY(st, rb_alloc(&p->out, (size_t)p->n, row, "expert output", err), done);
    RB_TRY(st, rb_alloc(&p->tile, MLP_TILE_TOKENS, row, "expert tile", err), done);
    RB_TRY(st, rb_alloc(&p->inner, MLP_TILE_TOKENS, (size_t)inner_width(c) * sizeof(float), "expert tile", err), done);
done:
    return st;
}

static void free_pass(expert_pass *p)
{
    free(p->chosen);
    free(p->weight);
    free(p->visit);
    free(p->first_visit);
    free(p->out);
    free(p->tile);
    free(p->inner);
}

/* ---- the router ------------------------------------------------------------------------------ */

static void softmax(float *scores, int64_t n)
{
    const float sum = exp_sum_row(scores, max_row(scores, n), n);
    scale_row(scores, scores, 1.0f / sum, n);
}

/* The largest of n; ties go to the lowest index. */
static int largest(const float *scores, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (scores[i] > scores[best]) best = i;
    return best;
}

/* Scores of experts outside the best groups become 0. */
static void close_groups(const expert_config *e, float *scores)
{
    const int size = e->n / e->n_groups;
    for (int closed = e->n_groups_per_token; closed < e->n_groups; closed++) {
        int worst = -1;
        float least = INFINITY;
        for (int group = e->n_groups - 1; group >= 0; group--) { /* ties: the lowest index stays open */
            const float best = scores[group * size + largest(scores + group * size, size)];
            if (best > 0 && best < least) {
                least = best;
                worst = group;
            }
        }
        if (worst >= 0) memset(scores + worst * size, 0, (size_t)size * sizeof *scores);
    }
}

/* scores: of one token, overwritten. */
static void choose(const expert_config *e, float *scores, int32_t *chosen, float *weight)
{
    float sum = 0.0f;
    softmax(scores, e->n);
    if (e->n_groups > 1) close_groups(e, scores);
    for (int i = 0; i < e->n_per_token; i++) {
        const int best = largest(scores, e->n);
        chosen[i] = best;
        weight[i] = scores[best];
        sum += scores[best];
        scores[best] = -1.0f;
    }
    const float factor = (float)e->scale / (e->normalizes ? sum : 1.0f);
    for (int i = 0; i < e->n_per_token; i++) weight[i] *= factor;
}

static void route_tile(expert_pass *p, int64_t first, int64_t n)
{
    const model_config *c = p->config;
    const expert_config *e = &c->experts;
    const int64_t hidden = c->hidden_size;
    layer_norm_rows(p->tile, p->hidden + first * hidden, p->weights->at[WEIGHT_MLP_NORM], NULL, c->norm_eps, n, hidden);
    linear_forward(p->tile, hidden, p->weights->at[WEIGHT_ROUTER], NULL, p->inner, e->n, n, hidden, e->n, 0);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++) {
        const int64_t at = (first + row) * e->n_per_token;
        choose(e, p->inner + row * e->n, p->chosen + at, p->weight + at);
    }
}

static void sort_visits(expert_pass *p)
{
    const int64_t n_visits = p->n * p->config->experts.n_per_token, n_experts = p->config->experts.n;
    memset(p->first_visit, 0, (size_t)(n_experts + 1) * sizeof *p->first_visit);
    for (int64_t i = 0; i < n_visits; i++) p->first_visit[p->chosen[i] + 1]++;
    for (int64_t e = 0; e < n_experts; e++) p->first_visit[e + 1] += p->first_visit[e];
    for (int64_t i = 0; i < n_visits; i++) p->visit[p->first_visit[p->chosen[i]]++] = i;
    for (int64_t e = n_experts; e > 0; e--) p->first_visit[e] = p->first_visit[e - 1];
    p->first_visit[0] = 0;
}

/* ---- experts --------------------------------------------------------------------------------- */

/* tile = MLP(tile). */
static void run_mlp(const expert_pass *p, const float *gate_up, const float *down, int64_t size, int64_t n)
{
    const model_config *c = p->config;
    const int64_t hidden = c->hidden_size, stride = layer_gate_up_width(c, size);
    linear_forward(p->tile, hidden, gate_up, NULL, p->inner, stride, n, hidden, stride, 0);
    layer_activate_rows(c, p->inner, n, size);
    linear_forward(p->inner, stride, down, NULL, p->tile, hidden, n, size, hidden, 0);
}

static void run_shared(expert_pass *p)
{
    const model_config *c = p->config;
    const int64_t hidden = c->hidden_size;
    for (int64_t first = 0; first < p->n; first += MLP_TILE_TOKENS) {
        const int64_t n = min_i64(MLP_TILE_TOKENS, p->n - first);
        layer_norm_rows(p->tile, p->hidden + first * hidden, p->weights->at[WEIGHT_MLP_NORM], NULL, c->norm_eps, n,
                        hidden);
        run_mlp(p, p->weights->at[WEIGHT_SHARED_GATE_UP], p->weights->at[WEIGHT_SHARED_DOWN], c->experts.shared_size,
                n);
        memcpy(p->out + first * hidden, p->tile, (size_t)(n * hidden) * sizeof *p->out);
    }
}

/* Visits [first, first + n) of one expert. A token visits an expert once, so no two rows are the same. */
static void run_visits(expert_pass *p, int64_t first, int64_t n)
{
    const model_config *c = p->config;
    const int64_t hidden = c->hidden_size, per_token = c->experts.n_per_token;
    const float *norm = p->weights->at[WEIGHT_MLP_NORM];
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        rms_norm_row(p->tile + i * hidden, p->hidden + p->visit[first + i] / per_token * hidden, norm,
                     (float)c->norm_eps, hidden);
    run_mlp(p, p->weights->at[WEIGHT_EXPERT_GATE_UP], p->weights->at[WEIGHT_EXPERT_DOWN], c->experts.size, n);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const int64_t visit = p->visit[first + i];
        add_scaled_row(p->out + visit / per_token * hidden, p->tile + i * hidden, p->weight[visit], hidden);
    }
}

rb_status layer_experts_run(const model_config *config, layer_weights *weights, const checkpoint *model, int layer,
                            float *all_hidden, int64_t n_all, rb_error *err)
{
    expert_pass p = {.config = config, .weights = weights, .hidden = all_hidden, .n = n_all};
    const int64_t hidden = config->hidden_size;
    rb_status st;

    RB_TRY(st, alloc_pass(&p, err), done);
    for (int64_t first = 0; first < n_all; first += MLP_TILE_TOKENS)
        route_tile(&p, first, min_i64(MLP_TILE_TOKENS, n_all - first));
    sort_visits(&p);
    if (config->experts.shared_size > 0) run_shared(&p);
    else memset(p.out, 0, (size_t)(n_all * hidden) * sizeof *p.out);
    for (int expert = 0; expert < config->experts.n; expert++) {
        const int64_t end = p.first_visit[expert + 1];
        if (p.first_visit[expert] == end) continue;
        RB_TRY(st, layer_weights_load(weights, model, layer, STEP_EXPERT, expert, err), done);
        for (int64_t first = p.first_visit[expert]; first < end; first += MLP_TILE_TOKENS)
            run_visits(&p, first, min_i64(MLP_TILE_TOKENS, end - first));
    }
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n_all; row++)
        add_scaled_row(all_hidden + row * hidden, p.out + row * hidden, (float)config->residual_scale, hidden);
done:
    free_pass(&p);
    return st;
}
