/* What a reader should know before trusting the page: report.h. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "export/report/report.h"

enum { FEW_NEEDLES = 20 };

__attribute__((format(printf, 2, 3))) static void warn(report *r, const char *format, ...)
{
    va_list args;
    assert(r->n_warnings < (int)RB_COUNT(r->warnings));
    va_start(args, format);
    vsnprintf(r->warnings[r->n_warnings++], sizeof r->warnings[0], format, args);
    va_end(args);
}

static void warn_of_coverage(report *r)
{
    if (!r->summary || r->summary->is_covered) return;
    warn(r,
         "The test text is not all like the calibration text: its rare keys lie %.1f times as far out, %.1f %% of its "
         "keys beyond calibration's 99 %%. More calibration text, or text like it, makes a plan safer.",
         r->summary->coverage.key_distance, 100.0 * r->summary->coverage.key_outside);
}

/* Of all attention, what the first n tokens get. */
static double sink_share(const sink_evidence *sinks, int n)
{
    double share = 0.0;
    for (int position = 0; position < n; position++) share += sink_mean(sinks, sinks->attention, position);
    return share;
}

static void warn_of_sinks(report *r)
{
    if (!r->profile || r->profile->sinks.n_heads == 0) return;
    const int pays = sink_choose(&r->profile->sinks);
    if (pays <= r->plan->n_sink) return;
    warn(
        r,
        "Attention sinks: the first %d token%s of a sequence get %.0f %% of all attention. Keeping %s exact pays here, "
        "and this plan keeps %lld (allocate --sink %d).",
        pays, pays == 1 ? "" : "s", 100.0 * sink_share(&r->profile->sinks, pays), pays == 1 ? "it" : "them",
        (long long)r->plan->n_sink, pays);
}

static const method_score *score_of_plan(const report *r)
{
    for (int m = 0; r->profile && m < r->profile->n_methods; m++) {
        const method_score *method = &r->profile->methods[m];
        if (strcmp(method->method, r->plan->method) == 0 && method->avg_bits == r->plan->avg_bits) return method;
    }
    return NULL;
}

static void warn_of_tails(report *r)
{
    const method_score *score = score_of_plan(r);
    const int n = score ? method_heads_flagged(score, &r->plan->model) : 0;
    if (n > 0)
        warn(r,
             "In %d of %d heads a few tokens have errors far out of proportion (tail ratio up to %.1f): means do not "
             "show it.",
             n, bit_plan_n_heads(r->plan), method_largest_ratio(score, &r->plan->model));
}

static void warn_of_other_text(report *r)
{
    const text_facts *of_plan = &r->plan->calibration;
    const text_facts *known = r->profile ? &r->profile->calibration : r->summary ? &r->summary->calibration : NULL;
    if (known && of_plan->tokens_sha256[0] && strcmp(of_plan->tokens_sha256, known->tokens_sha256) != 0)
        warn(r, "The plan was calibrated on another text than the profile shown here.");
}

static void warn_of_few_needles(report *r)
{
    if (r->run && r->run->n_needles > 0 && r->run->n_needles < FEW_NEEDLES)
        warn(r, "%lld needle questions are few: one answer is %.3g points.", (long long)r->run->n_needles,
             100.0 / (double)r->run->n_needles);
}

static void warn_of_more_error(report *r)
{
    const rival_method *uniform = report_rival(r, RIVAL_UNIFORM);
    if (uniform && r->errors.logit_mae > 1.005 * uniform->logit_mae)
        warn(r,
             "At the bytes it takes, uniform has the smaller logit error: compare plans at equal stored bits, not at "
             "equal nominal ones.");
}

void report_warn(report *r)
{
    warn_of_more_error(r);
    warn_of_coverage(r);
    warn_of_sinks(r);
    warn_of_tails(r);
    warn_of_other_text(r);
    warn_of_few_needles(r);
}
