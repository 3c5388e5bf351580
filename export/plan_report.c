/* The report of a plan, put together: see export/plan_report.h. */
#include "export/plan_report.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/atomic_file.h"
#include "export/report/report.h"

static const char style[] =
#include "report_style.h"
    ;

static void (*const sections[])(page *p, const report *r) = {
    section_headline, section_errors, section_evaluation, section_sweep,
    section_maps,     section_texts,  section_use,        section_facts,
};

static void write_page(FILE *out, const report *r)
{
    page p = {.out = out};
    page_html(&p, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                  "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    page_textf(&p, "%s: %s at %.4g bits", r->stem, r->plan->method, r->plan->avg_bits);
    page_html(&p, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<main>\n", style);
    for (size_t i = 0; i < RB_COUNT(sections); i++) sections[i](&p, r);
    page_html(&p, "</main>\n</body>\n</html>\n");
}

static rb_status check_models(const plan_report_inputs *in, rb_error *err)
{
    const model_facts *model = &in->plan->model;
    rb_status st = RB_OK;
    if (in->profile) RB_TRY(st, model_facts_same(model, "the plan", &in->profile->model, "the profile", err), done);
    if (in->summary) RB_TRY(st, model_facts_same(model, "the plan", &in->summary->model, "the summary", err), done);
    if (in->evaluation)
        RB_TRY(st, model_facts_same(model, "the plan", &in->evaluation->model, "the evaluation", err), done);
done:
    return st;
}

/* What a profile says of its methods, in the form of a summary. */
static rb_status summary_of(profile_summary **out, const profile_table *profile, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, profile_summary_to_json(&json, profile, err), done);
    RB_TRY(st, profile_summary_from_json(out, json, "the profile", err), done);
done:
    cJSON_Delete(json);
    return st;
}

static rb_status publish(const report *r, const char *path, rb_error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    rb_status st = RB_OK;
    if (!out) return rb_fail(err, RB_ENOMEM, "out of memory for %s", path);
    write_page(out, r);
    if (fclose(out) != 0) st = rb_fail(err, RB_ENOMEM, "out of memory for %s", path);
    if (st == RB_OK) st = rb_atomic_write(path, text, size, err);
    free(text);
    return st;
}

rb_status plan_report_write(const plan_report_inputs *in, const char *path, rb_error *err)
{
    report r = {.plan = in->plan,
                .stem = in->stem,
                .profile = in->profile,
                .summary = in->summary,
                .evaluation = in->evaluation};
    profile_summary *own = NULL;
    rb_status st;
    RB_TRY(st, check_models(in, err), done);
    if (in->profile && in->profile->n_methods > 0 && !in->summary) {
        RB_TRY(st, summary_of(&own, in->profile, err), done);
        r.summary = own;
    }
    RB_TRY(st, report_prepare(&r, err), done);
    RB_TRY(st, publish(&r, path, err), done);
done:
    report_clear(&r);
    profile_summary_free(own);
    return st;
}
