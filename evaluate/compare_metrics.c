/* The table of metrics: see evaluate/compare_metrics.h. */
#include "evaluate/compare_metrics.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"

#define SUMMARY    COMPARE_SUMMARIES
#define EVALUATION COMPARE_EVALUATIONS

/* A measurement that is worse when it is larger; a share of which 1 is best; and the same of every layer. */
#define LARGER(in, metric, member, percent, least, over_seeds)                                          \
    .name = metric, .schema = in, .path = member, .largest = DBL_MAX, .limit = percent, .floor = least, \
    .spread = over_seeds
#define SMALLER(in, metric, member, percent, over_seeds)                                                      \
    .name = metric, .schema = in, .path = member, .smaller_is_worse = true, .largest = 1.0, .limit = percent, \
    .spread = over_seeds
#define BITS(in, metric) .name = metric, .schema = in, .path = metric, .kind = METRIC_BITS, .largest = 64, .floor = 1e-9
#define LAYERS           .form = METRIC_BY_LAYER

/* clang-format off */
const comparison_metric comparison_metrics[] = {
    /*      schema      metric                member                         percent   least  over seeds, percent */
    {LARGER(SUMMARY,    "logit_mae",          "logit_mae",                   0.1,      1e-6,  3.5)},
    {BITS(SUMMARY,      "true_bits")},
    {LARGER(SUMMARY,    "causal_mae",         "causal_mae",                  0.1,      1e-6,  3.5)},
    {LARGER(SUMMARY,    "attended_mae",       "attended_mae",                0.1,      1e-6,  6)},
    {LARGER(SUMMARY,    "attention_kl",       "attention_kl",                0.5,      1e-6,  7)},
    {LARGER(SUMMARY,    "relative_error",     "relative_error",              0.01,     1e-7,  2.5)},
    {LARGER(SUMMARY,    "token_error_median", "token_error.median",          0.1,      1e-7,  2.5)},
    {LARGER(SUMMARY,    "token_error_p99",    "token_error.p99",             0.5,      1e-6,  5)},
    {LARGER(SUMMARY,    "token_error_p999",   "token_error.p999",            0.5,      1e-6,  5)},
    {LARGER(SUMMARY,    "token_error_max",    "token_error.max",             0.5,      1e-6,  6)},
    {LARGER(SUMMARY,    "tail_ratio",         "tail_ratio",                  0.5,      1e-3,  16)},
    {LARGER(SUMMARY,    "outside_share",      "outside_share",               1,        1e-4,  20), .drawn = 2e-3},
    {LARGER(SUMMARY,    "heads_out_of_proportion", "heads_out_of_proportion", 0,       0,     0),
     .kind = METRIC_COUNT, .form = METRIC_LENGTH},
    {LARGER(SUMMARY,    "logit_mae",          "logit_mae_by_layer",          0.1,      1e-6,  10), LAYERS},

    {LARGER(EVALUATION, "perplexity",         "perplexity",                  1,      0,     1)},
    {LARGER(EVALUATION, "kl_mean",            "kl_mean",                     5,      1e-6,  6)},
    {LARGER(EVALUATION, "kl_p99",             "kl_p99",                      5,        1e-5,  13)},
    {LARGER(EVALUATION, "kl_p999",            "kl_p999",                     20,        1e-5,  23)},
    {LARGER(EVALUATION, "kl_max",             "kl_max",                      20,        1e-5,  26)},
    {SMALLER(EVALUATION, "top1_agreement",    "top1_agreement",              0.5,             1.2)},
    {LARGER(EVALUATION, "attention_kl",       "attention_kl",                2,      1e-6,  5)},
    {SMALLER(EVALUATION, "attention_overlap", "attention_overlap",           0.2,             0.5)},
    {LARGER(EVALUATION, "output_error",       "output_error",                1,      1e-6,  2)},
    {LARGER(EVALUATION, "needles",            "needles.n_right",             0,        0,     0),
     .kind = METRIC_ANSWERS, .smaller_is_worse = true},
    {SMALLER(EVALUATION, "understanding_agreement", "understanding.agreement", 2,             5)},
    {SMALLER(EVALUATION, "understanding_accuracy",  "understanding.accuracy",  2,             5)},
    {BITS(EVALUATION,   "key_true_bits")},
    {BITS(EVALUATION,   "value_true_bits")},
    {LARGER(EVALUATION, "attention_kl",       "attention_kl_by_layer",       20,      1e-6,  11), LAYERS},
    {SMALLER(EVALUATION, "attention_overlap", "attention_overlap_by_layer",  2,             1), LAYERS},
    {LARGER(EVALUATION, "output_error",       "output_error_by_layer",       10,      1e-6,  5), LAYERS},
};

const unjudged_member comparison_unjudged[] = {
    {SUMMARY, "avg_bits",              "names the method's entry: BASE's is looked for in NEW"},
    {SUMMARY, "n_layers",              "a fact of the model, which must be the same"},
    {SUMMARY, "sink",                  "a setting of the plan, not a result"},
    {SUMMARY, "reduction_vs_uniform",  "follows from the logit_mae of the method and of uniform, which are judged"},
    {SUMMARY, "layers_won_vs_uniform", "counts what lost_to_uniform judges layer by layer"},
    {SUMMARY, "worst_tokens",          "examples for people; token_error_max and tail_ratio judge the worst token"},
    {SUMMARY, "rotation_seeds",        "says which limits hold"},
    {SUMMARY, "seeds",                 "the spread by which results of other seeds are judged"},
    {SUMMARY, "coverage",              "says what the two texts are like, which must be the same"},
    {SUMMARY, "sinks",                 "evidence for the sink setting, of the texts and the model"},
    {EVALUATION, "avg_bits",              "names the run: BASE's is looked for in NEW"},
    {EVALUATION, "value_bits",            "names the run, as avg_bits does"},
    {EVALUATION, "sink",                  "a setting of the plan, not a result"},
    {EVALUATION, "recent",                "a setting of the plan, not a result"},
    {EVALUATION, "nll",                   "the logarithm of perplexity, which is judged"},
    {EVALUATION, "output_error_by_head",  "its layers and their mean are judged: one head says little"},
    {EVALUATION, "by_position",           "few tokens each; kl_mean and perplexity judge them together"},
    {EVALUATION, "worst_tokens",          "examples for people; kl_max judges the worst token"},
    {EVALUATION, "needles.n",             "the number of questions, which must be the same"},
    {EVALUATION, "needles.n_unquantized", "right answers of the unquantized run, judged as its own"},
    {EVALUATION, "needles.by_task",       "few questions each; needles judges all of them together"},
    {EVALUATION, "needles.by_context",    "few questions each, as by_task"},
    {EVALUATION, "needles.by_depth",      "few questions each, as by_task"},
    {EVALUATION, "understanding.n",       "the number of documents, which must be the same"},
    {EVALUATION, "understanding.n_right", "whole answers; the shares of their tokens are judged"},
    {EVALUATION, "understanding.by_task", "few documents each; their means are judged"},
    {EVALUATION, "rotation_seeds",        "says which limits hold"},
    {EVALUATION, "options",               "what was asked for, not a result"},
};
/* clang-format on */

#undef LARGER
#undef SMALLER
#undef BITS
#undef LAYERS

const int comparison_n_metrics = RB_COUNT(comparison_metrics), comparison_n_unjudged = RB_COUNT(comparison_unjudged);
_Static_assert(RB_COUNT(comparison_metrics) <= COMPARISON_MAX_METRICS, "limits have room for every metric");

/* ---- reading --------------------------------------------------------------------------------- */

/* NULL: null or absent. */
static const cJSON *member_at(const cJSON *object, const char *path)
{
    char part[64];
    const char *dot = strchr(path, '.');
    if (!dot) return rb_json_find(object, path);
    snprintf(part, sizeof part, "%.*s", (int)(dot - path), path);
    const cJSON *inner = rb_json_find(object, part);
    return inner && cJSON_IsObject(inner) ? rb_json_find(inner, dot + 1) : NULL;
}

/* The KL of equal distributions may be below zero by a rounding. */
static const double LEAST = -1e-9;

static rb_status read_number(double *out, const cJSON *item, const comparison_metric *metric, const char *where,
                             rb_error *err)
{
    *out = (double)NAN;
    if (!item || cJSON_IsNull(item)) return RB_OK;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= LEAST && item->valuedouble <= metric->largest))
        return rb_fail(err, RB_EFORMAT, "%s: %s is not a number from 0%s", where, metric->path,
                       metric->largest <= 1.0 ? " to 1" : " up");
    *out = item->valuedouble;
    return RB_OK;
}

rb_status comparison_metric_read(double *values, int n, const comparison_metric *metric, const cJSON *object,
                                 const char *where, rb_error *err)
{
    const cJSON *item = member_at(object, metric->path), *entry;
    rb_status st = RB_OK;
    int i = 0;
    if (metric->form == METRIC_NUMBER) return read_number(values, item, metric, where, err);
    if (item && !cJSON_IsArray(item)) return rb_fail(err, RB_EFORMAT, "%s: %s: expected a list", where, metric->path);
    if (metric->form == METRIC_LENGTH) {
        values[0] = item ? cJSON_GetArraySize(item) : (double)NAN;
        return RB_OK;
    }
    if (item && cJSON_GetArraySize(item) != n)
        return rb_fail(err, RB_EFORMAT, "%s: %s has %d entries, expected the model's %d layers", where, metric->path,
                       cJSON_GetArraySize(item), n);
    for (; !item && i < n; i++) values[i] = (double)NAN;
    if (item)
        cJSON_ArrayForEach (entry, item) {
            st = read_number(&values[i++], entry, metric, where, err);
            if (st != RB_OK) return st;
        }
    return st;
}
