/* What evaluations found of plans, as a sweep shows it beside the errors to expect: KL over stored bits. Results of
 * `evaluate` (runs) and of `tune` (points) are made by stages above this one; of both, only the members that say how
 * large a plan is and what it does are read. */
#ifndef RB_ALLOCATE_MEASURED_POINTS_H
#define RB_ALLOCATE_MEASURED_POINTS_H

#include <cjson/cJSON.h>

#include "core/model_facts.h"
#include "core/options.h"

enum { MEASURED_METHOD_SIZE = 32 };

typedef struct measured_point {
    char method[MEASURED_METHOD_SIZE];
    double key_true_bits, value_true_bits; /* a dim */
    double kl;                             /* mean over the text, nats; above 0 */
} measured_point;

typedef struct measured_points {
    int n;
    measured_point *at; /* owned; by method, and by rising bits of keys and values together */
} measured_points;

/* All plans of all files, which are for this model. RB_EFORMAT: a file of another schema or version, or a member that
 * is missing; RB_EMISMATCH: another model. Freed with measured_points_free, also after a failure. */
rb_status measured_points_read(measured_points *out, const rb_string_list *paths, const model_facts *model,
                               rb_error *err);
void measured_points_free(measured_points *points);

/* [ {"method", "key_true_bits", "value_true_bits", "kl_mean"}, .. ] */
rb_status measured_points_to_json(cJSON **out, const measured_points *points, rb_error *err);

#endif
