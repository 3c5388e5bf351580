/* Scores plans on a capture's test text, layer by layer, head by head. */
#ifndef RB_PROFILE_PROFILE_COMPUTE_H
#define RB_PROFILE_PROFILE_COMPUTE_H

#include <stdbool.h>

#include "calibrate/capture_file.h"
#include "core/program.h"
#include "plan/bit_plan.h"
#include "profile/profile_table.h"

/* A table with the capture's facts and the energies, means and logit moments of its calibration text, without scores. A
 * thread begins to hash the capture, for profile_score to note. */
rb_status profile_table_from_capture(profile_table **out, const capture_file *capture, rb_error *err);

/* Adds the scores of n_plans plans with their table->n_worst_tokens worst tokens, the coverage, the error curves if
 * asked for, and the capture's SHA-256, computed on `device` (coverage on the CPU). The plans must be for the capture's
 * model. Any number of threads gives the same doubles. Memory: one layer's queries and keys, then the keys of both
 * texts, the restored keys of one head under every plan and width, and tiles of 64 queries by the context per thread.
 * Fails with RB_ENONFINITE, naming layer and head, on keys that the codec cannot hold and on logits beyond f32. */
rb_status profile_score(profile_table *table, const capture_file *capture, const bit_plan *const *plans, int n_plans,
                        bool with_curves, rb_device_kind device, rb_error *err);

#endif
