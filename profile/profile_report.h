/* The table a person reads after `ropebits profile`. */
#ifndef RB_PROFILE_PROFILE_REPORT_H
#define RB_PROFILE_PROFILE_REPORT_H

#include <stdio.h>

#include "profile/profile_table.h"

/* A column a method, and then which heads and tokens fared worst. RB_ENOMEM. */
rb_status profile_report_print(FILE *out, const profile_table *table, rb_error *err);

#endif
