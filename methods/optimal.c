/* See optimal.h. */
#include "methods/optimal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "methods/trellis_allocation.h"

#define RB_FAMILY_DECLARATION(NAME, prefix, name) extern const optimal_family prefix##_optimal_family;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION

#define RB_FAMILY_ROW(NAME, prefix, name) &prefix##_optimal_family,
static const optimal_family *const families[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW

struct optimal_curves {
    model_facts model;
    optimal_options options;
    head_statistics statistics; /* borrowed, but for */
    double *q_energy;           /* [n_heads][n_blocks]: times model_query_weight */
    optimal_input input;        /* points to the three above */
    const optimal_family *family;
    void *own; /* the family's */
};

/* ---- options --------------------------------------------------------------------------------- */

optimal_options optimal_options_default(void)
{
    return (optimal_options){.method = METHOD_OPTIMAL,
                             .scope = OPTIMAL_OWN_SCOPE,
                             .least_share = 0.9,
                             .objective = OBJECTIVE_MAE,
                             .equalize = true,
                             .codebook = CODEBOOK_SPHERE,
                             .rotation = ROTATION_HAAR,
                             .norm = NORM_LOG8,
                             .encoder = ENCODER_SEARCH,
                             .widths = (1u << (PLAN_MAX_WIDTH + 1)) - 1u,
                             .gain_bits = 3};
}

const char *optimal_foreign_options(const optimal_options *own, const optimal_options *usual, int family)
{
    for (int f = 0; f < FAMILY_N_KINDS; f++)
        if (f != family && families[f]->has_options(own, usual)) return families[f]->refusal;
    return NULL;
}

/* ---- curves ---------------------------------------------------------------------------------- */

void optimal_curves_free(optimal_curves *c)
{
    if (!c) return;
    c->family->free(c->own);
    free(c->q_energy);
    free(c);
}

/* Query energies as the variance of a logit counts them. */
static rb_status weigh_queries(optimal_curves *c, const head_statistics *statistics, rb_error *err)
{
    const int n_blocks = model_n_blocks(&c->model), n_heads = c->model.n_layers * c->model.n_kv_heads;
    const rb_status st =
        rb_alloc(&c->q_energy, (size_t)n_heads, (size_t)n_blocks * sizeof *c->q_energy, "energies", err);
    if (st != RB_OK) return st;
    for (int64_t h = 0, at = 0; h < n_heads; h++)
        for (int block = 0; block < n_blocks; block++, at++)
            c->q_energy[at] =
                statistics->q_energy[at] * model_query_weight(&c->model, (int)h / c->model.n_kv_heads, block);
    c->statistics = *statistics;
    c->statistics.q_energy = c->q_energy;
    return RB_OK;
}

rb_status optimal_curves_build(optimal_curves **out, const model_facts *model, const head_statistics *statistics,
                               const optimal_options *options, rb_error *err)
{
    const bool is_centered = allocation_method_is_centered(options->method);
    optimal_curves *c = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&c, 1, sizeof *c, "curves", err), done);
    *c = (optimal_curves){
        .model = *model, .options = *options, .family = families[allocation_method_family(options->method)]};
    RB_TRY(st, weigh_queries(c, statistics, err), done);
    c->input = (optimal_input){.model = &c->model,
                               .options = &c->options,
                               .statistics = &c->statistics,
                               .n_heads = model->n_layers * model->n_kv_heads,
                               .n_blocks = model_n_blocks(model),
                               .k_mean = is_centered ? statistics->k_mean : NULL,
                               .moment = is_centered ? statistics->moment_centered : statistics->moment};
    RB_TRY(st, c->family->build(&c->own, &c->input, err), done);
    *out = c;
    c = NULL;
done:
    optimal_curves_free(c);
    return st;
}

/* ---- a plan ---------------------------------------------------------------------------------- */

/* What every head gets: its least share, but what a head needs to store anything and no more than its curve has. */
static int64_t min_head_bits(const optimal_curves *c, const budget_curve *curves, int64_t key_bits)
{
    const double share = (c->family->sums_harm ? TRELLIS_LEAST_SHARE : c->options.least_share) * (double)key_bits
                         / c->input.n_heads,
                 least = (double)c->family->least_bits(&c->options);
    int64_t bytes = (int64_t)(fmax(share, least) / 8.0);
    for (int h = 0; h < c->input.n_heads; h++)
        if (bytes > curves[h].n_points - 1) bytes = curves[h].n_points - 1;
    return 8 * bytes;
}

static rb_status make_head(plan_head *head, const optimal_curves *c, int h, int point, rb_error *err)
{
    const int head_dim = c->model.head_dim;
    const double *center = c->input.k_mean ? c->input.k_mean + (int64_t)h * head_dim : NULL;
    plan_head_clear(head);
    const rb_status st = c->family->make_head(head, c->own, h, point, err);
    return st == RB_OK ? plan_head_set_center(head, center, head_dim, err) : st;
}

rb_status optimal_plan_keys(bit_plan *plan, budget_answer *answer, const optimal_curves *c, int64_t key_bits,
                            rb_error *err)
{
    const int n_heads = c->input.n_heads;
    budget_curve *curves = NULL;
    int32_t *points = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&curves, (size_t)n_heads, sizeof *curves, "curves", err), done);
    RB_TRY(st, rb_alloc(&points, (size_t)n_heads, sizeof *points, "curves", err), done);
    for (int h = 0; h < n_heads; h++) curves[h] = c->family->curve(c->own, h);
    const budget_request request = {.n_layers = c->model.n_layers,
                                    .heads_per_layer = c->model.n_kv_heads,
                                    .curves = curves,
                                    .objective = c->family->sums_harm ? OBJECTIVE_VARIANCE : c->options.objective,
                                    .scope = c->options.scope == OPTIMAL_OWN_SCOPE ? c->family->scope
                                                                                   : (budget_scope)c->options.scope,
                                    .total_bits = key_bits,
                                    .min_head_bits = min_head_bits(c, curves, key_bits)};
    RB_TRY(st, budget_solve(points, answer, &request, err), done);
    for (int h = 0; h < n_heads; h++) RB_TRY(st, make_head(&plan->heads[h], c, h, points[h], err), done);
    snprintf(plan->method, sizeof plan->method, "%s", allocation_method_name(c->options.method));
done:
    free(curves);
    free(points);
    return st;
}
