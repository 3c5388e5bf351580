/* The parts of reading config.json. Only the model_config_*.c files use it. */
#ifndef RB_MODEL_MODEL_CONFIG_PARTS_H
#define RB_MODEL_MODEL_CONFIG_PARTS_H

#include "core/json.h"
#include "model/model_config.h"

enum { MODEL_MAX_HIDDEN = 1 << 20, MODEL_MAX_INTERMEDIATE = 1 << 22, MODEL_MAX_HEADS = 1 << 14 };

/* A whole number from 1 to max. */
rb_status config_get_count(const cJSON *json, const char *key, const char *where, int max, int *out, rb_error *err);
/* The same, or `absent` where the field is not there or null. */
rb_status config_get_count_or(const cJSON *json, const char *key, const char *where, int max, int absent, int *out,
                              rb_error *err);
/* An absent flag is false, as in transformers for nearly every flag that is read here. */
rb_status config_get_flag(const cJSON *json, const char *key, const char *where, bool *out, rb_error *err);
/* A number above 0, or `absent`. */
rb_status config_get_scale(const cJSON *json, const char *key, const char *where, double absent, double *out,
                           rb_error *err);

/* Gives fields their usual names and adds defaults, in place; checks what the family expects. */
rb_status config_normalize(model_config *config, cJSON *json, const char *name, rb_error *err);

rb_status config_parse_windows(model_config *config, const cJSON *json, const char *name, rb_error *err);
/* Latents and experts, where the family has them; after the geometry. */
rb_status config_parse_latents(model_config *config, const cJSON *json, const char *name, rb_error *err);
rb_status config_parse_experts(model_config *config, const cJSON *json, const char *name, rb_error *err);

#endif
