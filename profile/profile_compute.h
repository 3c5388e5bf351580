/* Scores plans on a capture's test text, layer by layer, head by head. */
#ifndef RB_PROFILE_PROFILE_COMPUTE_H
#define RB_PROFILE_PROFILE_COMPUTE_H

#include <stdbool.h>

#include "calibrate/capture_file.h"
#include "kernels/bit_plan.h"
#include "profile/profile_table.h"

/* A table with the capture's facts and the energies of its calibration text, ready for n_methods scores. */
rb_status profile_table_from_capture(profile_table **out, const capture_file *capture, int n_methods, rb_error *err);

/* Scores plans[m] into table->methods[m], and the error curves if asked for. Memory: one layer's queries and keys, and the restored keys of one head under every plan. */
rb_status profile_score(profile_table *table, const capture_file *capture, const bit_plan *const *plans, bool with_curves, rb_error *err);

#endif
