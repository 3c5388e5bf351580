/* What is asked for the values of a plan, and what follows from it. */
#ifndef RB_ALLOCATE_VALUE_OPTIONS_H
#define RB_ALLOCATE_VALUE_OPTIONS_H

#include "allocate/budget.h"
#include "profile/profile_table.h"

#define VALUES_AS_KEYS 0.0

/* Who shares a width of the values: all heads, or each has its own. */
typedef enum value_scope { VALUES_PER_MODEL, VALUES_PER_HEAD } value_scope;
extern const char *const value_scope_names[]; /* "model", "head", NULL */

typedef enum value_codec { VALUE_CODEC_AUTO, VALUE_CODEC_PUBLISHED, VALUE_CODEC_TRELLIS } value_codec;
extern const char *const value_codec_names[]; /* "auto", "published", "trellis", NULL */

typedef struct value_options {
    double bits; /* VALUES_AS_KEYS: as many as the keys */
    int codec;   /* value_codec */
    int scope;   /* value_scope */
    int64_t least_bits;
} value_options;

value_options value_options_default(void);
/* RB_EUSAGE where they do not go together, or would do nothing. */
rb_status value_options_check(const value_options *options, allocation_method method, const plan_budget *budget,
                              bool equal_heads, rb_error *err);

/* Whether they become values of trellis. */
bool value_options_want_trellis(const value_options *options, allocation_method method);

typedef struct value_choice {
    bool is_trellis;
    double true_bits;     /* of trellis; NAN: they share the budget with the keys */
    int width;            /* of all heads, otherwise */
    uint8_t *widths;      /* [n_layers][n_kv_heads], to be freed by the caller; NULL: one for all */
    budget_answer answer; /* of widths */
} value_choice;

/* RB_EINVAL: the profile lacks what is needed. */
rb_status value_options_choose(value_choice *out, const value_options *options, allocation_method method,
                               const plan_budget *budget, const profile_table *profile, int64_t n_sink, rb_error *err);

#endif
