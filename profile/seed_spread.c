/* See profile/seed_spread.h. */
#include "profile/seed_spread.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include "core/json.h"

/* Scores that a draw changes, under compare's names. */
static const struct {
    const char *name;
    size_t offset;
} scores[] = {
    {"logit_mae", offsetof(head_score, logit_mae)},           {"causal_mae", offsetof(head_score, causal_mae)},
    {"attended_mae", offsetof(head_score, attended_mae)},     {"attention_kl", offsetof(head_score, attention_kl)},
    {"relative_error", offsetof(head_score, relative_error)}, {"token_error_median", offsetof(head_score, tail.median)},
    {"token_error_p99", offsetof(head_score, tail.p99)},      {"token_error_p999", offsetof(head_score, tail.p999)},
    {"token_error_max", offsetof(head_score, tail.largest)},  {"tail_ratio", offsetof(head_score, tail.ratio)},
    {"outside_share", offsetof(head_score, tail.outside)},
};

static double *field(head_score *score, size_t i) { return (double *)((char *)score + scores[i].offset); }

/* ---- the spread ------------------------------------------------------------------------------ */

/* One draw more of a running mean; *deviation holds the sum of squares until it is divided (Welford). */
static void add_draw(double *mean, double *deviation, double value, int n)
{
    const double before = value - *mean;
    *mean += before / n;
    *deviation += before * (value - *mean);
}

static head_score means_of(const method_score *draw, const model_facts *model)
{
    head_score means = method_mean(draw, model, -1);
    means.tail.ratio = method_largest_ratio(draw, model);
    return means;
}

static void add_scores(seed_spread *spread, const method_score *draw, const model_facts *model)
{
    head_score means = means_of(draw, model);
    spread->n++;
    for (size_t i = 0; i < RB_COUNT(scores); i++)
        add_draw(field(&spread->mean, i), field(&spread->deviation, i), *field(&means, i), spread->n);
    for (int layer = 0; layer < model->n_layers; layer++)
        add_draw(&spread->layer_mean[layer], &spread->layer_deviation[layer], method_mean(draw, model, layer).logit_mae,
                 spread->n);
}

static void finish(seed_spread *spread, int n_layers)
{
    const double divisor = spread->n - 1;
    for (size_t i = 0; i < RB_COUNT(scores); i++)
        *field(&spread->deviation, i) = sqrt(*field(&spread->deviation, i) / divisor);
    for (int layer = 0; layer < n_layers; layer++)
        spread->layer_deviation[layer] = sqrt(spread->layer_deviation[layer] / divisor);
}

/* Methods after the first n_plans are draws of one of these, its own one among them; n_draws each, in order. */
static rb_status fold(profile_table *table, const bool *is_drawn, int n_plans, int n_draws, rb_error *err)
{
    const size_t n_layers = (size_t)table->model.n_layers;
    rb_status st = RB_OK;
    for (int m = 0, next = n_plans; m < n_plans && st == RB_OK; m++) {
        seed_spread *spread = &table->methods[m].spread;
        if (!is_drawn[m]) continue;
        st = rb_alloc(&spread->layer_mean, n_layers, sizeof *spread->layer_mean, "spread by layer", err);
        if (st == RB_OK)
            st = rb_alloc(&spread->layer_deviation, n_layers, sizeof *spread->layer_deviation, "spread by layer", err);
        if (st != RB_OK) break;
        add_scores(spread, &table->methods[m], &table->model);
        for (int d = 0; d < n_draws; d++) add_scores(spread, &table->methods[next++], &table->model);
        finish(spread, table->model.n_layers);
    }
    while (table->n_methods > n_plans) method_score_free(&table->methods[--table->n_methods]);
    return st;
}

rb_status seed_spread_score(profile_table *table, const capture_file *capture, const bit_plan *const *plans,
                            int n_plans, int n_seeds, bool with_curves, rb_device_kind device, rb_error *err)
{
    const bit_plan *all[PROFILE_MAX_METHODS] = {NULL};
    bit_plan *draws[PROFILE_MAX_METHODS] = {NULL};
    bool is_drawn[PROFILE_MAX_METHODS] = {false};
    int n = 0, n_draws = 0;
    rb_status st = RB_OK;
    for (; n < n_plans; n++) all[n] = plans[n];
    for (int m = 0; m < n_plans; m++) {
        is_drawn[m] = n_seeds > 1 && plan_seeds_of(plans[m]).n > 0;
        for (int d = 1; is_drawn[m] && d < n_seeds; d++) {
            if (n == PROFILE_MAX_METHODS) {
                st = rb_fail(err, RB_EUSAGE, "--seeds %d makes more than %d scores of %d plans", n_seeds,
                             PROFILE_MAX_METHODS, n_plans);
                goto done;
            }
            RB_TRY(st, plan_draw_anew(&draws[n_draws], plans[m], (uint64_t)d * SEED_STEP, err), done);
            all[n++] = draws[n_draws++];
        }
    }
    RB_TRY(st, profile_score(table, capture, all, n, with_curves, device, err), done);
    st = fold(table, is_drawn, n_plans, n_seeds - 1, err);
done:
    for (int d = 0; d < n_draws; d++) bit_plan_free(draws[d]);
    return st;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static rb_status add_pair(cJSON *json, const char *name, double mean, double deviation, rb_error *err)
{
    cJSON *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&item, err), done);
    RB_TRY(st, rb_json_add_number(item, "mean", mean, err), done);
    RB_TRY(st, rb_json_add_number(item, "standard_deviation", deviation, err), done);
    st = rb_json_add_item(json, name, &item, err);
done:
    cJSON_Delete(item);
    return st;
}

rb_status seed_spread_add(cJSON *method_json, const method_score *method, int n_layers, rb_error *err)
{
    seed_spread spread = method->spread;
    cJSON *json = NULL, *layers = NULL;
    rb_status st;
    if (spread.n == 0) return RB_OK;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_number(json, "n", spread.n, err), done);
    for (size_t i = 0; i < RB_COUNT(scores); i++)
        RB_TRY(st, add_pair(json, scores[i].name, *field(&spread.mean, i), *field(&spread.deviation, i), err), done);
    RB_TRY(st, rb_json_new_object(&layers, err), done);
    RB_TRY(st, rb_json_add_numbers(layers, "mean", spread.layer_mean, n_layers, err), done);
    RB_TRY(st, rb_json_add_numbers(layers, "standard_deviation", spread.layer_deviation, n_layers, err), done);
    RB_TRY(st, rb_json_add_item(json, "logit_mae_by_layer", &layers, err), done);
    st = rb_json_add_item(method_json, "seeds", &json, err);
done:
    cJSON_Delete(layers);
    cJSON_Delete(json);
    return st;
}
