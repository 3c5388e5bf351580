/* Plans that were evaluated, and the limits that they are held to. */
#ifndef RB_TUNE_TUNE_POINT_H
#define RB_TUNE_TUNE_POINT_H

#include <stdbool.h>
#include <stddef.h>

#include "core/sha256.h"
#include "plan/bit_plan.h"

/* A limit that was not given is NaN, or TUNE_NO_LIMIT. */
enum { TUNE_NO_LIMIT = -1 };

typedef struct tune_limits {
    double kl;                  /* nats a token */
    double perplexity_increase; /* percent of the unquantized model's */
    int64_t max_needles_lost;   /* documents fewer than the unquantized model finds */
} tune_limits;

/* What the unquantized model does. */
typedef struct tune_baseline {
    double perplexity;
    int64_t n_needles, n_right; /* both 0 without needles */
} tune_baseline;

typedef struct tune_point {
    int pass;          /* from 0 */
    double asked_bits; /* allocate --total-bits makes the plan again */
    /* What it stores; total_bits is keys and values of a token over half of their dims. */
    double total_bits, key_true_bits, value_true_bits, bytes_per_token;
    char plan_sha256[RB_SHA256_HEX]; /* of its plan.json */
    double kl, perplexity;
    int64_t n_right;
} tune_point;

/* Stored bits of a token's keys and values over half of their dims: what --total-bits is in. */
double tune_total_bits(const model_facts *model, double bytes_per_token);
/* Percent. */
double tune_perplexity_increase(const tune_point *point, const tune_baseline *unquantized);
/* Logarithm of what was measured over its limit, the largest of all limits: 0 or less, they hold. Of needles lost, one
 * is added to both. Between -8 and 8, also where nothing is left of what was measured, or it is not finite. */
double tune_excess(const tune_point *point, const tune_limits *limits, const tune_baseline *unquantized);
/* "KL at most 0.08, perplexity at most 2 % up". */
void tune_limits_describe(char *out, size_t size, const tune_limits *limits);

#endif
