/* The whole curve of error over size: plans of every method at many budgets from one profile, each with the error it is
 * expected to have (`allocate --sweep`). */
#ifndef RB_ALLOCATE_SWEEP_H
#define RB_ALLOCATE_SWEEP_H

#include <cjson/cJSON.h>

#include "allocate/budget.h"
#include "allocate/measured_points.h"
#include "methods/plan_error.h"

#define SWEEP_SCHEMA "ropebits-sweep"
enum { SWEEP_VERSION = 1, SWEEP_MAX_BUDGETS = 1000 };

/* Budgets from, from + step, ... up to `to`, in true bits per dim of the keys. */
typedef struct sweep_range {
    double from, to, step;
} sweep_range;

/* "1.5:6:0.25". RB_EUSAGE: not three numbers, not 0 < from <= to <= 17, a step not above 0, more than SWEEP_MAX_BUDGETS
 * budgets. */
rb_status sweep_range_parse(sweep_range *out, const char *text, rb_error *err);

typedef struct sweep_point {
    /* Per dim of the keys. uniform has only whole widths, and is asked for what they store. */
    double asked_bits, true_bits, avg_bits; /* avg_bits: nominal */
    plan_prediction prediction;
    double *logit_mae_by_layer; /* [n_layers], expected; owned */
} sweep_point;

typedef struct plan_sweep {
    sweep_range range;
    int64_t n_sink[METHOD_N];
    int n_points[METHOD_N];        /* 0: not asked for, or nothing of it in the range */
    sweep_point *points[METHOD_N]; /* owned */
} plan_sweep;

/* `request` says all but method and curves, and `published` the same for the published methods, which keep other tokens
 * exact; methods [METHOD_N]: which. block-gtq has no points at budgets below what it
 * stores at 1 bit. Curves are built once a method. Fails as allocate_within and plan_predict. Freed by plan_sweep_free,
 * also after a failure. */
rb_status plan_sweep_compute(plan_sweep *out, const sweep_range *range, const plan_request *request,
                             const plan_request *published, const bool *methods, rb_error *err);
void plan_sweep_free(plan_sweep *sweep);

/* docs/allocate.md names the members. measured: what evaluations found of plans; may be empty. */
rb_status plan_sweep_to_json(cJSON **out, const plan_sweep *sweep, const measured_points *measured,
                             const plan_request *request, rb_error *err);

/* An SVG picture: expected logit MAE, on a logarithmic scale, over true bits. There is a line a method, and one for the
 * bound of the last method. Below it, where there are measured points, their KL over true bits of keys and values.
 * Atomic. */
rb_status plan_sweep_draw(const plan_sweep *sweep, const measured_points *measured, const model_facts *model,
                          const char *path, rb_error *err);

#endif
