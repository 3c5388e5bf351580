/* See tune_run.h. */
#include "tune/tune_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "allocate/plan_maker.h"
#include "core/json.h"
#include "core/message.h"
#include "evaluate/evaluate_run.h"
#include "evaluate/evaluate_setup.h"
#include "plan/plan_json.h"
#include "profile/profile_file.h"
#include "tune/tune_request.h"
#include "tune/tune_search.h"

/* What --total-bits of allocate takes at most. */
static const double most_total_bits = 32.0;
/* Where no least budget is given, these are tried from below. */
static const double least_budget_step = 0.5;

typedef struct tuner {
    const tune_options *options;
    tune_log *log;
    profile_table *profile;
    plan_maker maker;
    evaluate_options evaluate;
    evaluate_setup setup;
    search_range range;
    /* Of the next pass. */
    int n_plans;
    bit_plan *plans[TUNE_MAX_AT_ONCE];
    tune_point points[TUNE_MAX_AT_ONCE];
} tuner;

static void tuner_free(tuner *t)
{
    for (int i = 0; i < t->n_plans; i++) bit_plan_free(t->plans[i]);
    evaluate_setup_free(&t->setup);
    plan_maker_end(&t->maker);
    profile_table_free(t->profile);
}

/* ---- plans ----------------------------------------------------------------------------------- */

static rb_status make_plan(bit_plan **out, tuner *t, double bits, rb_error *err)
{
    const plan_budget budget = {BUDGET_TOTAL_BITS, bits};
    made_plan made;
    const rb_status st = plan_maker_make(&made, &t->maker, &budget, err);
    *out = made.plan;
    return st;
}

static rb_status hash_plan(char sha256[RB_SHA256_HEX], const bit_plan *plan, rb_error *err)
{
    cJSON *json = NULL;
    char *text = NULL;
    rb_status st;
    RB_TRY(st, plan_to_json(&json, plan, err), done);
    RB_TRY(st, rb_json_print(&text, json, err), done);
    st = rb_sha256_bytes(sha256, text, strlen(text), err);
done:
    free(text);
    cJSON_Delete(json);
    return st;
}

static double bits_of(const bit_plan *plan)
{
    return tune_total_bits(&plan->model, bit_plan_cost(plan).bytes_per_token);
}

static bool is_known(const tuner *t, const char *sha256)
{
    for (int i = 0; i < t->log->n_points; i++)
        if (strcmp(t->log->points[i].plan_sha256, sha256) == 0) return true;
    for (int i = 0; i < t->n_plans; i++)
        if (strcmp(t->points[i].plan_sha256, sha256) == 0) return true;
    return false;
}

/* Puts the plan of a budget into the next pass, where it is a new one. Budgets are a thousandth of a bit apart, so that
 * what a person types gives the same plan. */
static rb_status add_plan(tuner *t, double bits, rb_error *err)
{
    const double rounded = fmin(t->range.to, fmax(t->range.from, round(bits * 1000.0) / 1000.0));
    tune_point point = {.asked_bits = rounded};
    bit_plan *plan = NULL;
    rb_status st;
    RB_TRY(st, make_plan(&plan, t, rounded, err), done);
    RB_TRY(st, hash_plan(point.plan_sha256, plan, err), done);
    if (is_known(t, point.plan_sha256)) goto done;
    const plan_cost cost = bit_plan_cost(plan);
    point.total_bits = bits_of(plan);
    point.key_true_bits = cost.key_true_bits;
    point.value_true_bits = cost.value_true_bits;
    point.bytes_per_token = cost.bytes_per_token;
    t->points[t->n_plans] = point;
    t->plans[t->n_plans++] = plan;
    plan = NULL;
done:
    bit_plan_free(plan);
    return st;
}

/* Budgets whose plans are all known leave the largest plan that is smaller than the answer, or else the largest one. A
 * method with few sizes has no other between two points. */
static rb_status add_neighbour(tuner *t, rb_error *err)
{
    const int answer = tune_log_answer(t->log);
    const double bits =
        answer < 0 ? t->range.to : t->log->points[answer].total_bits - tune_total_bits(&t->profile->model, 1.0);
    return bits < t->range.from ? RB_OK : add_plan(t, bits, err);
}

static rb_status choose_plans(tuner *t, rb_error *err)
{
    search_point points[TUNE_MAX_POINTS];
    double budgets[TUNE_MAX_AT_ONCE];
    rb_status st = RB_OK;
    const int n_points = tune_log_search_points(points, t->log);
    search_range range = t->range; /* evaluations of larger plans are done too */
    range.max_evaluations -= t->log->n_points - n_points;
    const int n = tune_search_next(budgets, points, n_points, &range);
    for (int i = 0; i < n && st == RB_OK; i++) st = add_plan(t, budgets[i], err);
    if (st == RB_OK && n > 0 && t->n_plans == 0) st = add_neighbour(t, err);
    return st;
}

/* ---- the range ------------------------------------------------------------------------------- */

/* The least budget that the method takes; the message of the last one that was refused is kept where none is. */
static rb_status find_least(double *out, tuner *t, double most, rb_error *err)
{
    for (*out = 2.0 * least_budget_step;; *out += least_budget_step) {
        rb_error refusal = {0};
        bit_plan *plan = NULL;
        const rb_status st = make_plan(&plan, t, *out, &refusal);
        bit_plan_free(plan);
        if (st == RB_OK) return RB_OK;
        if (st != RB_EINVAL || *out + least_budget_step > most) return rb_fail(err, st, "%s", refusal.msg);
    }
}

static rb_status choose_range(tuner *t, rb_error *err)
{
    const tune_options *options = t->options;
    bit_plan *plan = NULL;
    rb_status st = RB_OK;
    t->range = (search_range){.from = options->from,
                              .to = options->to,
                              .tolerance = options->tolerance / 100.0,
                              .at_once = (int)options->at_once,
                              .max_evaluations = (int)options->max_evaluations};
    if (isnan(t->range.to)) {
        RB_TRY(st, make_plan(&plan, t, most_total_bits, err), done);
        t->range.to = bits_of(plan);
    }
    if (isnan(t->range.from)) RB_TRY(st, find_least(&t->range.from, t, t->range.to, err), done);
    t->log->most_bits = t->range.to;
    if (t->range.from > t->range.to)
        st = rb_fail(err, RB_EINVAL, "--from is %g total bits, expected at most the %g of --to", t->range.from,
                     t->range.to);
done:
    bit_plan_free(plan);
    return st;
}

/* ---- passes ---------------------------------------------------------------------------------- */

static void take_baseline(tuner *t, const evaluate_score *plain)
{
    t->log->unquantized = (tune_baseline){.perplexity = plain->text.perplexity,
                                          .n_needles = needle_documents_count(&t->setup.in.documents, DOCUMENT_NEEDLES),
                                          .n_right = plain->n_right};
    evaluate_setup_tell_text(plain->text.n);
    evaluate_setup_tell_needles(&t->setup, &t->evaluate, plain->n_right);
}

static void take_points(tuner *t, const evaluate_result *result)
{
    tune_log *log = t->log;
    const int pass = log->n_points > 0 ? log->points[log->n_points - 1].pass + 1 : 0;
    if (pass == 0) take_baseline(t, &result->runs[0]);
    for (int i = 0; i < t->n_plans; i++) {
        const evaluate_score *score = &result->runs[1 + i];
        tune_point *point = &t->points[i];
        point->pass = pass;
        point->kl = score->text.kl_mean;
        point->perplexity = score->text.perplexity;
        point->n_right = score->n_right;
        log->points[log->n_points++] = *point;
        rb_message_info("%.3f bits (%.0f bytes a token): KL %.5f, perplexity %.4f%s", point->total_bits,
                        point->bytes_per_token, point->kl, point->perplexity,
                        tune_log_holds(log, point) ? ": holds" : "");
    }
}

/* Evaluates what choose_plans chose. */
static rb_status run_pass(tuner *t, rb_error *err)
{
    evaluate_request request = t->setup.request;
    evaluate_result result = {0};
    rb_status st;
    request.plans = (const bit_plan *const *)t->plans;
    request.n_plans = t->n_plans;
    RB_TRY(st, evaluate_plans(&result, &request, err), done);
    take_points(t, &result);
    if (t->options->log) st = tune_log_write(t->log, t->options->log, err);
done:
    for (int i = 0; i < t->n_plans; i++) bit_plan_free(t->plans[i]);
    t->n_plans = 0;
    evaluate_result_free(&result);
    return st;
}

static rb_status search(tuner *t, rb_error *err)
{
    rb_status st;
    for (;;) {
        RB_TRY(st, choose_plans(t, err), done);
        if (t->n_plans == 0) break;
        RB_TRY(st, run_pass(t, err), done);
    }
done:
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* A template that was chosen once is not chosen again. */
static rb_status read_log(tuner *t, rb_error *err)
{
    const char *path = t->options->log;
    if (!path || access(path, F_OK) != 0) return RB_OK;
    const rb_status st = tune_log_read(t->log, path, err);
    const char *words = st == RB_OK ? tune_request_template(t->log->request) : NULL;
    if (words && strcmp(t->evaluate.needle_template, NEEDLE_TEMPLATE_AUTO) == 0) t->evaluate.needle_template = words;
    return st;
}

/* Numbers of attention and worst tokens are not used, so as few as can be are measured. */
static evaluate_options evaluation_of(const tune_options *options)
{
    evaluate_options evaluate = options->evaluate;
    evaluate.attention_stride = INT32_MAX;
    evaluate.n_worst_tokens = 0;
    return evaluate;
}

static rb_status check_request(tuner *t, rb_error *err)
{
    tune_options options = *t->options;
    cJSON *request = NULL;
    rb_status st;
    options.evaluate = t->evaluate;
    RB_TRY(st, tune_request_to_json(&request, &options, &t->setup, err), done);
    if (t->log->request) RB_TRY(st, tune_log_check_request(t->log, request, t->options->log, err), done);
    if (t->log->n_points > 0) rb_message_info("%s: goes on from %d points", t->options->log, t->log->n_points);
    if (!t->log->request) {
        t->log->request = request;
        request = NULL;
    }
done:
    cJSON_Delete(request);
    return st;
}

static rb_status write_answer(tuner *t, rb_error *err)
{
    const int answer = tune_log_answer(t->log);
    const tune_point *point = &t->log->points[answer < 0 ? 0 : answer];
    char sha256[RB_SHA256_HEX];
    bit_plan *plan = NULL;
    rb_status st = RB_OK;
    if (answer < 0) return RB_OK;
    RB_TRY(st, make_plan(&plan, t, point->asked_bits, err), done);
    RB_TRY(st, hash_plan(sha256, plan, err), done);
    if (strcmp(sha256, point->plan_sha256) != 0) {
        st =
            rb_fail(err, RB_EMISMATCH,
                    "%s: the plan at %g bits is %.16s.. there, and is now %.16s..: another version of ropebits made it",
                    t->options->log, point->asked_bits, point->plan_sha256, sha256);
        goto done;
    }
    st = plan_json_write(plan, t->options->output, err);
done:
    bit_plan_free(plan);
    return st;
}

rb_status tune_run(tune_log *log, const tune_options *options, const rb_common_options *common, rb_error *err)
{
    const plan_budget kind = {BUDGET_TOTAL_BITS, most_total_bits};
    tuner t = {.options = options, .log = log, .evaluate = evaluation_of(options)};
    rb_status st;
    RB_TRY(st, plan_maker_begin(&t.maker, &options->plan, &kind, err), done);
    RB_TRY(st, read_log(&t, err), done);
    log->limits = options->limits;
    log->most_bits = (double)INFINITY;
    RB_TRY(st, profile_file_read(&t.profile, options->profile, err), done);
    plan_maker_set_profile(&t.maker, t.profile);
    RB_TRY(st, evaluate_setup_make(&t.setup, &t.evaluate, common, err), done);
    RB_TRY(st,
           model_facts_same(&t.profile->model, options->profile, &checkpoint_config(t.setup.in.model)->facts,
                            options->evaluate.model, err),
           done);
    evaluate_inputs_warn_of_bos(options->profile, &t.profile->calibration.bos, &t.setup.in.facts.bos);
    RB_TRY(st, check_request(&t, err), done);
    RB_TRY(st, choose_range(&t, err), done);
    RB_TRY(st, search(&t, err), done);
    /* Without a pass the limits of this run still have to be told. */
    if (options->log && log->n_points > 0) RB_TRY(st, tune_log_write(log, options->log, err), done);
    st = write_answer(&t, err);
done:
    tuner_free(&t);
    return st;
}
