/* Options as JSON, for results that record what made them. */
#ifndef RB_CORE_OPTIONS_JSON_H
#define RB_CORE_OPTIONS_JSON_H

#include <cjson/cJSON.h>

#include "core/options.h"

/* Adds the option's present value under its long name: a number, a word where it is a choice, a list, true or false;
 * null for the empty value of a kind. */
rb_status rb_option_to_json(cJSON *object, const rb_option *option, rb_error *err);

#endif
