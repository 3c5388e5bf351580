/* The summary JSON of `ropebits profile --json`, which `compare` reads and CI keeps: writer and reader. Fields:
 * docs/profile.md. */
#ifndef RB_PROFILE_PROFILE_SUMMARY_H
#define RB_PROFILE_PROFILE_SUMMARY_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "profile/profile_table.h"

#define PROFILE_SUMMARY_SCHEMA "ropebits-profile-summary"
enum { PROFILE_SUMMARY_VERSION = 1 };

typedef struct summary_method {
    char method[32];
    double avg_bits, true_bits, logit_mae, causal_mae, attention_kl, relative_error;
    double reduction_vs_uniform; /* NaN when there is no uniform at this budget (null in JSON) */
    int layers_won_vs_uniform;   /* -1 likewise */
    double *logit_mae_by_layer;  /* [n_layers], owned */
} summary_method;

typedef struct profile_summary {
    model_facts model;
    text_facts calibration, test;
    head_coverage coverage; /* means over heads; all NaN in a summary without them */
    bool is_covered; /* false: the test text lies outside what calibration saw; true where the summary does not tell */
    int n_methods;
    summary_method *methods; /* owned */
} profile_summary;

rb_status profile_summary_to_json(cJSON **out, const profile_table *table, rb_error *err);
rb_status profile_summary_from_json(profile_summary **out, const cJSON *document, const char *name, rb_error *err);
rb_status profile_summary_read(profile_summary **out, const char *path, rb_error *err);
void profile_summary_free(profile_summary *summary);
const summary_method *profile_summary_find(const profile_summary *summary, const char *method, double avg_bits);

#endif
