/* Evidence of attention sinks, for people and as JSON. */
#ifndef RB_PROFILE_SINK_REPORT_H
#define RB_PROFILE_SINK_REPORT_H

#include <cjson/cJSON.h>
#include <stdio.h>

#include "profile/profile_table.h"

/* A table by position, what it says, and other tokens that act as sinks. Nothing in a profile without evidence.
 * RB_ENOMEM. */
rb_status sink_report_print(FILE *out, const profile_table *table, rb_error *err);
/* Member "sinks" of a summary. */
rb_status sink_summary_add(cJSON *json, const profile_table *table, rb_error *err);

#endif
