/* Fields of config.json that change what a model computes and that its family does not have: a fork of llama with
 * layers that lack RoPE still calls itself llama. The table in config_fields.c lists the fields that are known, the
 * values that change nothing, and the families that define them. */
#ifndef RB_MODEL_CONFIG_FIELDS_H
#define RB_MODEL_CONFIG_FIELDS_H

#include <cjson/cJSON.h>

#include "core/status.h"

/* json: the object of config.json that describes the text model; name: of the file, for messages. Fails with
 * RB_EUNSUPPORTED on the first field of the table that the family `model_type` does not define and that has another
 * value than null or a neutral one: the field and its value are named. */
rb_status config_fields_check(const cJSON *json, const char *model_type, const char *name, rb_error *err);

#endif
