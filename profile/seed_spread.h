/* How much a method's scores differ from one draw of its random rotations to another. One draw is what a plan has, so
 * two results of different seeds differ by luck; `compare` judges them by this. */
#ifndef RB_PROFILE_SEED_SPREAD_H
#define RB_PROFILE_SEED_SPREAD_H

#include "profile/profile_compute.h"

enum { SEED_MAX = 64 };

/* Seeds of the draws after the plan's own are larger by 1, 2, ... times this: far from other widths' seeds. */
enum { SEED_STEP = 100000 };

/* profile_score, with every plan that has random rotations scored under n_seeds draws of them, its own first. The table
 * has the scores of the plans as they are, and their methods' spread. Memory and time are those of that many plans. */
rb_status seed_spread_score(profile_table *table, const capture_file *capture, const bit_plan *const *plans,
                            int n_plans, int n_seeds, bool with_curves, rb_device_kind device, rb_error *err);

/* Adds "seeds" to a method's object, where it was measured: {"n", METRIC: {"mean", "standard_deviation"}, ..}, by the
 * names that compare has for metrics; of layers both are lists. */
rb_status seed_spread_add(cJSON *method_json, const method_score *method, int n_layers, rb_error *err);

#endif
