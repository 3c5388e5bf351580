/* How far the test text lies outside what calibration saw, a head at a time.
 *
 *   key_distance   D_t = (k_t - m)^T S^-1 (k_t - m) / head_dim, with m and S the mean and covariance of the first half
 *                  of the calibration keys. It is the 99 % quantile of D over the test keys, divided by that over the
 *                  second half of the calibration keys: about 1 when test keys are like calibration keys. The two
 *                  halves keep a covariance from being judged on the keys that made it
 *   key_outside    share of test keys beyond that quantile of the second half; about 0.01
 *   query_shift    largest factor, over RoPE blocks, between q_energy of the test text and of the calibration text; at
 *                  least 1
 *   plan_transfer  predicted error sum energy_i 4^-bits_i on the energies of the test text, for the Block-GTQ
 *                  allocation at COVERAGE_BITS made from the energies of the calibration text, over that for the one
 *                  made from the test text's own; at least 1 */
#ifndef RB_PROFILE_COVERAGE_H
#define RB_PROFILE_COVERAGE_H

#include <stdbool.h>

#include "calibrate/capture_file.h"
#include "profile/profile_table.h"

enum { COVERAGE_BITS = 3 };

/* Mean key_distance of all heads above which a test text is not what calibration saw. Why 1.4: docs/profile.md. */
#define COVERAGE_LIMIT 1.4

static inline bool coverage_is_good(const head_coverage *mean) { return mean->key_distance <= COVERAGE_LIMIT; }

/* Fills table->coverage. Memory: one layer's keys of both sets, and a matrix of head_dim by head_dim a thread. The
 * result does not depend on the number of threads. */
rb_status coverage_measure(profile_table *table, const capture_file *capture, rb_error *err);

/* One head: keys [n][head_dim]; sets key_distance and key_outside. n_calibration and n_test > 0. */
rb_status coverage_of_keys(head_coverage *out, const float *calibration, int64_t n_calibration, const float *test,
                           int64_t n_test, int head_dim, rb_error *err);

#endif
