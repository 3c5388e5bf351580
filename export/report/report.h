/* What a report says, all of it computed before the first character is written, and its sections. */
#ifndef RB_EXPORT_REPORT_REPORT_H
#define RB_EXPORT_REPORT_REPORT_H

#include "allocate/sweep.h"
#include "evaluate/evaluation_file.h"
#include "export/report/page.h"
#include "profile/profile_summary.h"

/* Where the logit errors come from. */
typedef enum error_source {
    ERRORS_UNKNOWN,
    ERRORS_MEASURED, /* of a summary: on its test text */
    ERRORS_EXPECTED  /* of a profile: from its statistics of the calibration text */
} error_source;

/* A published method at the stored bits of the plan's keys: between its two plans next to them, the logarithm of the
 * error on a straight line over bits. */
typedef struct rival_method {
    allocation_method method;
    bool is_known;
    double below_bits, above_bits; /* those two plans; equal: there is one with these bits */
    double logit_mae;
    double *logit_mae_by_layer; /* [n_layers], owned */
} rival_method;

enum { RIVAL_UNIFORM, RIVAL_BLOCK_GTQ, N_RIVALS };

typedef struct plan_errors {
    error_source source;
    double logit_mae;
    double *logit_mae_by_layer; /* [n_layers], owned */
    rival_method rivals[N_RIVALS];
} plan_errors;

typedef struct report {
    const bit_plan *plan;
    const char *stem;               /* of the plan's file: "plan" of plan.json */
    const profile_table *profile;   /* NULL: none given; so with the next two */
    const profile_summary *summary; /* the profile's, where none was given */
    const evaluation *evaluation;
    plan_cost cost;
    plan_errors errors;
    plan_sweep sweep;          /* expected errors; no points without a profile */
    double plan_expected;      /* the plan's own expected logit MAE; NaN without a profile */
    char sweep_trouble[256];   /* why the plan's own method is not in it; "": it is */
    const evaluation_run *run; /* this plan's; NULL: it was not evaluated */
    const evaluation_run *unquantized;
    char warnings[8][256]; /* sentences */
    int n_warnings;
    uint8_t *cells; /* [n_layers][RB_MAX_HEAD_DIM], owned: where the maps are made, one after another */
} report;

/* Fills what is not given: out->plan to out->evaluation are. Fails as plan_sweep_compute does for published methods. */
rb_status report_prepare(report *out, rb_error *err);
void report_clear(report *r);

/* plan_errors.c: needs the sweep, where there is one. */
rb_status plan_errors_compute(plan_errors *out, const report *r, rb_error *err);
void plan_errors_clear(plan_errors *errors);
/* NULL: not known, or the plan itself is of this method. */
const rival_method *report_rival(const report *r, int which);

/* report_warnings.c */
void report_warn(report *r);

/* Sections, in the order of the page. Each writes nothing where it has nothing to say. */
void section_headline(page *p, const report *r);
void section_errors(page *p, const report *r);
void section_evaluation(page *p, const report *r);
void section_sweep(page *p, const report *r);
void section_maps(page *p, const report *r);
void section_texts(page *p, const report *r);
void section_use(page *p, const report *r);
void section_facts(page *p, const report *r);

#endif
