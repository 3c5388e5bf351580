/* RoPE as config.json states it, and what becomes of it: frequencies. Both generations of config.json are read.
 *
 *   transformers 4   "rope_theta": 10000.0,
 *                    "rope_scaling": null | {"rope_type" or "type": "llama3", "factor": 8.0, ...}
 *   transformers 5   "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, ...}
 */
#ifndef RB_MODEL_ROPE_SETTINGS_H
#define RB_MODEL_ROPE_SETTINGS_H

#include <cjson/cJSON.h>

#include "core/model_facts.h"
#include "model/model_family.h"

typedef struct rope_settings {
    rope_kind kind;
    double theta;
    bool theta_is_default; /* not written down: what transformers documents for the class */
    double rotary_factor;  /* share of the head that turns; for proportional: of its frequencies */
    double factor;         /* 0: not given */
    double low_freq_factor, high_freq_factor;
    int64_t original_max_position;                       /* 0: not given */
    double attention_factor;                             /* 0: not given */
    double beta_fast, beta_slow, mscale, mscale_all_dim; /* yarn; mscale 0: not given */
    bool truncates;                                      /* yarn */
    double short_factor[RB_MAX_BLOCKS], long_factor[RB_MAX_BLOCKS];
    int n_short, n_long; /* longrope; 0 elsewhere */
} rope_settings;

/* Reads the settings of the layers that see everything from the document `json`, and, for a family with has_local_rope,
 * those of the layers with a window into `local`. Fails with RB_EFORMAT on a missing base, RB_EINVAL on settings that
 * contradict each other, RB_EUNSUPPORTED on a type or setting that is not read here, naming it. */
rb_status rope_settings_parse(rope_settings *settings, rope_settings *local, const model_family *family,
                              const cJSON *json, const char *name, rb_error *err);

/* Dims that turn, of head_dim. Fails with RB_EINVAL unless the number is even and from 2 to head_dim. */
rb_status rope_rotary_dim(int *rotary_dim, const rope_settings *settings, int head_dim, const char *where,
                          rb_error *err);

/* Frequencies in double, as transformers' modeling_rope_utils.py has them, for sequences of at most n_positions tokens
 * of a model with max_position: rotary_dim / 2 of them. The pairing is left as it is. */
rb_status rope_resolve(rope_facts *rope, const rope_settings *settings, int rotary_dim, int64_t n_positions,
                       int64_t max_position, const char *where, rb_error *err);

/* What DeepSeek multiplies attention_scale by: yarn's mscale_all_dim at `factor`, squared. */
double rope_attention_scale(const rope_settings *settings);

#endif
