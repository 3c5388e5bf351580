/* Scores plans on a capture's test text, layer by layer, head by head. */
#ifndef RB_PROFILE_PROFILE_COMPUTE_H
#define RB_PROFILE_PROFILE_COMPUTE_H

#include <stdbool.h>

#include "calibrate/capture_file.h"
#include "core/program.h"
#include "plan/bit_plan.h"
#include "profile/profile_table.h"

/* A table with the capture's facts, what its calibration text says of keys, queries and values, and which tokens act as
 * sinks, without scores. n_sink: first tokens of a sequence that our own methods keep exact; SINK_AUTO: as many as
 * pays. A thread begins to hash the capture, for profile_score to note. Fails with RB_EINVAL where no token is left. */
rb_status profile_table_from_capture(profile_table **out, const capture_file *capture, int64_t n_sink, rb_error *err);

/* How profile/output_sensitivity.h looks at the calibration text. */
typedef struct sensitivity_options {
    int64_t n_tokens; /* at most; 0: not at all */
    int64_t n_draws;
} sensitivity_options;

/* Adds what errors of keys and values do to the output of attention, without the first table->n_sink tokens of a
 * sequence; nothing for a capture without values. Says so where the capture has no output metric. Computed on the
 * CPU. */
rb_status profile_measure_sensitivity(profile_table *table, const capture_file *capture,
                                      const sensitivity_options *options, rb_error *err);

/* Adds the scores of n_plans plans with their table->n_worst_tokens worst tokens, the coverage, the error curves if
 * asked for, and the capture's SHA-256, computed on `device` (coverage on the CPU). The plans must be for the capture's
 * model. Any number of threads gives the same doubles. Memory: one layer's queries and keys, then the keys of both
 * texts, the restored keys of one head under every plan and width, and tiles of 64 queries by the context per thread.
 * Fails with RB_ENONFINITE, naming layer and head, on keys that the codec cannot hold and on logits beyond f32. */
rb_status profile_score(profile_table *table, const capture_file *capture, const bit_plan *const *plans, int n_plans,
                        bool with_curves, rb_device_kind device, rb_error *err);

/* Sinks of a candidate of the scores: of a plan its own, of an error curve those of the table. */
int64_t profile_candidate_sinks(const profile_table *table, const bit_plan *const *plans, int n_plans, int candidate);

#endif
