/* Family groups, the logit error to expect of a head (methods/plan_error.h).
 *
 * Take a group of m blocks. G = (sum a)(sum b) / (2 m), kappa is its coherence in these statistics
 * (methods/partition.h), and c the measured relative error of its width and size. To the variance V of a logit's error
 * it adds
 *   search encoder   G ((1 - g cos)^2 kappa + g^2 c),  cos^2 = 1 - c,  g = cos kappa' / (cos^2 kappa' + c), where
 *                    kappa' is the coherence that the plan says. For kappa' = kappa that is
 *                    G kappa c / ((1 - c) kappa + c)
 *   nearest encoder  G (c + (kappa - 1) c^2 / 4). It keeps the norm, so it shortens keys along themselves by
 *                    1 - cos = c / 2, and that part errs as coherently as keys do
 * Blocks in no group add the moment of their own. */
#ifndef RB_METHODS_GROUPS_ERROR_H
#define RB_METHODS_GROUPS_ERROR_H

#include "methods/plan_error.h"

typedef struct group_error {
    double c, coherence, variance; /* variance: what it adds to V */
} group_error;

/* What one group of the head errs, were its width this one; width 0: its blocks are lost. `errors` has what the plan
 * uses. */
group_error group_error_at(const coded_head *coded, const plan_head *head, const plan_group *group, int width,
                           const codec_errors *errors);
/* What blocks in no group add. */
double lost_block_error(const coded_head *coded, const plan_head *head);

#endif
