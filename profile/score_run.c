/* See profile/score_run.h. */
#include "profile/score_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/table.h"
#include "plan/plan_read.h"
#include "profile/coverage.h"
#include "profile/profile_compute.h"

/* What is kept of a capture. */
typedef struct scored_capture {
    const char *path;
    text_facts calibration, test;
    char sha256[RB_SHA256_HEX];
    head_coverage coverage; /* mean over heads */
} scored_capture;

typedef struct scoring {
    const rb_string_list *plan_paths, *capture_paths;
    bit_plan *plans[RB_MAX_LIST];
    scored_capture *captures;
    head_score *scores; /* [n_captures][n_plans], means over heads */
} scoring;

static void free_scoring(scoring *s)
{
    for (int p = 0; p < RB_MAX_LIST; p++) bit_plan_free(s->plans[p]);
    free(s->captures);
    free(s->scores);
}

static const head_score *score_of(const scoring *s, int plan, int capture)
{
    return &s->scores[capture * s->plan_paths->n + plan];
}

/* Whether the plan was made from the capture's calibration text. */
static bool is_own(const scoring *s, int plan, int capture)
{
    const char *of_plan = s->plans[plan]->calibration.tokens_sha256;
    return of_plan[0] != '\0' && strcmp(of_plan, s->captures[capture].calibration.tokens_sha256) == 0;
}

/* ---- scores ---------------------------------------------------------------------------------- */

/* Plans of two models are refused before any capture is read. */
static rb_status read_plans(scoring *s, rb_error *err)
{
    const rb_string_list *paths = s->plan_paths;
    rb_status st = RB_OK;
    for (int p = 0; p < paths->n && st == RB_OK; p++) {
        RB_TRY(st, plan_read(&s->plans[p], paths->at[p], err), done);
        st = model_facts_same(&s->plans[0]->model, paths->at[0], &s->plans[p]->model, paths->at[p], err);
    }
done:
    return st;
}

/* What scores of finished plans need of a capture: of its calibration text only the energies of the queries, which
 * weigh a token's error. */
static rb_status begin_table(profile_table **out, const capture_file *capture, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    const size_t n = (size_t)header->model.n_kv_heads * (size_t)model_n_blocks(&header->model);
    block_statistics statistics = {0};
    rb_status st;
    RB_TRY(st, profile_table_create(out, &header->model, err), done);
    (*out)->calibration = header->text[CAPTURE_CALIBRATION];
    (*out)->test = header->text[CAPTURE_TEST];
    RB_TRY(st, rb_sha256_file_start(&(*out)->hashing, capture_file_path(capture), err), done);
    RB_TRY(st, block_statistics_create(&statistics, &header->model, err), done);
    for (int layer = 0; layer < header->model.n_layers; layer++) {
        RB_TRY(st, capture_read_statistics(capture, CAPTURE_CALIBRATION, layer, &statistics, err), done);
        memcpy((*out)->all.q_energy + (size_t)layer * n, statistics.q_energy, n * sizeof(double));
    }
done:
    block_statistics_free(&statistics);
    return st;
}

static rb_status score_capture(scoring *s, int c, rb_device_kind device, rb_error *err)
{
    const int n_plans = s->plan_paths->n;
    scored_capture *out = &s->captures[c];
    capture_file *capture = NULL;
    profile_table *table = NULL;
    rb_status st;
    out->path = s->capture_paths->at[c];
    RB_TRY(st, capture_open(&capture, out->path, err), done);
    RB_TRY(st,
           model_facts_same(&s->plans[0]->model, s->plan_paths->at[0], &capture_file_header(capture)->model, out->path,
                            err),
           done);
    RB_TRY(st, begin_table(&table, capture, err), done);
    RB_TRY(st, profile_score(table, capture, (const bit_plan *const *)s->plans, n_plans, false, device, err), done);
    out->calibration = table->calibration;
    out->test = table->test;
    out->coverage = profile_table_coverage(table);
    memcpy(out->sha256, table->capture_sha256, sizeof out->sha256);
    for (int p = 0; p < n_plans; p++) s->scores[c * n_plans + p] = method_mean(&table->methods[p], &table->model, -1);
done:
    profile_table_free(table);
    capture_close(capture);
    return st;
}

/* ---- what it says ---------------------------------------------------------------------------- */

static double logit_mae(const head_score *score) { return score->logit_mae; }
static double causal_mae(const head_score *score) { return score->causal_mae; }
static double attention_kl(const head_score *score) { return score->attention_kl; }
static double relative_error(const head_score *score) { return 100.0 * score->relative_error; }

/* Rows are plans, columns captures, both by number. A star: the plan was made from that capture's text. */
static rb_status print_metric(const scoring *s, const char *title, int digits, double (*value)(const head_score *),
                              rb_error *err)
{
    rb_table table = {0};
    rb_table_add(&table, " plan");
    for (int c = 0; c < s->capture_paths->n; c++) rb_table_add(&table, "%d ", c + 1); /* room for a star below */
    rb_table_end_row(&table);
    for (int p = 0; p < s->plan_paths->n; p++) {
        rb_table_add(&table, "%d", p + 1);
        for (int c = 0; c < s->capture_paths->n; c++)
            rb_table_add(&table, "%.*f%s", digits, value(score_of(s, p, c)), is_own(s, p, c) ? "*" : " ");
        rb_table_end_row(&table);
    }
    printf("\n%s\n", title);
    const rb_status st = rb_table_print(stdout, &table, err);
    rb_table_free(&table);
    return st;
}

static rb_status print_table(const scoring *s, rb_error *err)
{
    rb_status st;
    printf("plans\n");
    for (int p = 0; p < s->plan_paths->n; p++)
        printf("%5d  %s: %s, %g bits, %.3f true bits a dim of the keys\n", p + 1, rb_shown(s->plan_paths->at[p]).text,
               s->plans[p]->method, s->plans[p]->avg_bits, score_of(s, p, 0)->true_bits);
    printf("captures\n");
    for (int c = 0; c < s->capture_paths->n; c++)
        printf("%5d  %s: %lld test tokens%s\n", c + 1, rb_shown(s->captures[c].path).text,
               (long long)s->captures[c].test.n_tokens,
               coverage_is_good(&s->captures[c].coverage) ? "" : ", unlike its own calibration text");
    RB_TRY(st,
           print_metric(
               s, "logit MAE, |q.k - q.k^| without 1/sqrt(d); less is better; *: on its own calibration's capture", 4,
               logit_mae, err),
           done);
    RB_TRY(st, print_metric(s, "over causal pairs", 4, causal_mae, err), done);
    RB_TRY(st, print_metric(s, "attention KL, nats", 5, attention_kl, err), done);
    st = print_metric(s, "key error, %", 2, relative_error, err);
done:
    return st;
}

static rb_status plan_to_json(cJSON **out, const scoring *s, int p, rb_error *err)
{
    cJSON *calibration = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "path", s->plan_paths->at[p], err), done);
    RB_TRY(st, rb_json_add_string(*out, "method", s->plans[p]->method, err), done);
    RB_TRY(st, rb_json_add_number(*out, "avg_bits", s->plans[p]->avg_bits, err), done);
    RB_TRY(st, rb_json_add_number(*out, "true_bits", score_of(s, p, 0)->true_bits, err), done);
    RB_TRY(st, rb_json_add_number(*out, "sink", (double)s->plans[p]->n_sink, err), done);
    RB_TRY(st, text_facts_to_json(&calibration, &s->plans[p]->calibration, err), done);
    st = rb_json_add_item(*out, "calibration", &calibration, err);
done:
    cJSON_Delete(calibration);
    return st;
}

static rb_status capture_to_json(cJSON **out, const scoring *s, int c, rb_error *err)
{
    const scored_capture *capture = &s->captures[c];
    cJSON *text = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "path", capture->path, err), done);
    RB_TRY(st, rb_json_add_string(*out, "sha256", capture->sha256, err), done);
    RB_TRY(st, text_facts_to_json(&text, &capture->calibration, err), done);
    RB_TRY(st, rb_json_add_item(*out, "calibration", &text, err), done);
    RB_TRY(st, text_facts_to_json(&text, &capture->test, err), done);
    RB_TRY(st, rb_json_add_item(*out, "test", &text, err), done);
    RB_TRY(st, rb_json_add_number(*out, "key_distance", capture->coverage.key_distance, err), done);
    st = rb_json_add_bool(*out, "is_covered", coverage_is_good(&capture->coverage), err);
done:
    cJSON_Delete(text);
    return st;
}

/* Plan and capture by their place in the lists, from 0: paths may be given twice. */
static rb_status score_to_json(cJSON **out, const scoring *s, int p, int c, rb_error *err)
{
    const head_score *score = score_of(s, p, c);
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "plan", p, err), done);
    RB_TRY(st, rb_json_add_number(*out, "capture", c, err), done);
    RB_TRY(st, rb_json_add_bool(*out, "is_own_calibration", is_own(s, p, c), err), done);
    RB_TRY(st, rb_json_add_number(*out, "logit_mae", score->logit_mae, err), done);
    RB_TRY(st, rb_json_add_number(*out, "causal_mae", score->causal_mae, err), done);
    RB_TRY(st, rb_json_add_number(*out, "attended_mae", score->attended_mae, err), done);
    RB_TRY(st, rb_json_add_number(*out, "attention_kl", score->attention_kl, err), done);
    RB_TRY(st, rb_json_add_number(*out, "relative_error", score->relative_error, err), done);
    st = rb_json_add_number(*out, "true_bits", score->true_bits, err);
done:
    return st;
}

/* Adds a list; *item is owned by the caller on failure. */
typedef rb_status (*item_to_json)(cJSON **item, const scoring *s, int i, rb_error *err);

static rb_status add_list(cJSON *json, const char *name, const scoring *s, int n, item_to_json to_json, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for JSON");
    for (int i = 0; i < n && st == RB_OK; i++) {
        st = to_json(&item, s, i, err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
    }
    if (st == RB_OK) st = rb_json_add_item(json, name, &list, err);
    cJSON_Delete(item);
    cJSON_Delete(list);
    return st;
}

static rb_status cell_to_json(cJSON **item, const scoring *s, int i, rb_error *err)
{
    return score_to_json(item, s, i / s->capture_paths->n, i % s->capture_paths->n, err);
}

static rb_status print_json(const scoring *s, rb_error *err)
{
    const int n_plans = s->plan_paths->n, n_captures = s->capture_paths->n;
    cJSON *json = NULL, *model = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-score-result", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, model_facts_to_json(&model, &s->plans[0]->model, err), done);
    RB_TRY(st, rb_json_add_item(json, "model", &model, err), done);
    RB_TRY(st, add_list(json, "plans", s, n_plans, plan_to_json, err), done);
    RB_TRY(st, add_list(json, "captures", s, n_captures, capture_to_json, err), done);
    RB_TRY(st, add_list(json, "scores", s, n_plans * n_captures, cell_to_json, err), done);
    st = rb_json_put(json, err);
done:
    cJSON_Delete(model);
    cJSON_Delete(json);
    return st;
}

rb_status score_run(const rb_run_args *args, rb_error *err)
{
    const score_options *opt = args->context;
    scoring s = {.plan_paths = &opt->plans, .capture_paths = args->positionals};
    const size_t n_captures = (size_t)args->positionals->n;
    rb_device_kind device = RB_DEVICE_CPU;
    rb_status st;
    RB_TRY(st, rb_alloc(&s.captures, n_captures, sizeof *s.captures, "captures", err), done);
    RB_TRY(st, rb_alloc(&s.scores, n_captures * (size_t)opt->plans.n, sizeof *s.scores, "scores", err), done);
    RB_TRY(st, read_plans(&s, err), done);
    RB_TRY(st, rb_resolve_device(&device, args->common, err), done);
    for (int c = 0; c < args->positionals->n; c++) RB_TRY(st, score_capture(&s, c, device, err), done);
    if (args->common->json) st = print_json(&s, err);
    else st = print_table(&s, err);
done:
    free_scoring(&s);
    return st;
}
