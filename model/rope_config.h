/* The RoPE fields of config.json, both generations. Only model_config.c uses it. */
#ifndef RB_MODEL_ROPE_CONFIG_H
#define RB_MODEL_ROPE_CONFIG_H

#include <cjson/cJSON.h>

#include "core/model_facts.h"

/* Fills kind and parameters from the document `json`; the pairing is the family's, inv_freq rope_resolve's. Fails with
 * RB_EFORMAT on a missing base or type, RB_EINVAL on settings that contradict each other, RB_EUNSUPPORTED on a type or
 * setting that is not read here, naming it. */
rb_status rope_config_parse(rope_facts *rope, const cJSON *json, const char *name, rb_error *err);

#endif
