/* config.json of a Hugging Face checkpoint, both generations: rope_theta + rope_scaling, and rope_parameters
 * (transformers 5). A missing or unknown rope setting is an error, never a silent default; so is an unknown
 * architecture, activation or attention feature. */
#ifndef RB_MODEL_MODEL_CONFIG_H
#define RB_MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "core/model_facts.h"

enum { MODEL_MAX_LAYERS = 1024 };

typedef enum model_family { MODEL_LLAMA, MODEL_MISTRAL, MODEL_QWEN2, MODEL_QWEN3, MODEL_N_FAMILIES } model_family;

typedef struct model_config {
    model_family family;
    model_facts facts; /* identity, geometry, rope; weights_sha256 stays "" here */
    int hidden_size, intermediate_size, vocab_size;
    int64_t max_position;
    double rms_norm_eps;
    bool qkv_bias, o_bias, mlp_bias;
    bool qk_norm;                        /* RMSNorm over head_dim on q and k before RoPE (qwen3) */
    bool tied_embeddings;                /* the LM head is the embedding matrix */
    int sliding_window;                  /* keys a query sees, itself included; 0: all */
    bool layer_slides[MODEL_MAX_LAYERS]; /* which layers use it */
} model_config;

/* Reads DIR/config.json. */
rb_status model_config_read(model_config *out, const char *folder, rb_error *err);

/* From text, for tests; `name` is used in messages. sha256 of the text goes into facts. */
rb_status model_config_parse(model_config *out, const char *text, size_t length, const char *name, rb_error *err);

/* inv_freq of a rope setting, in double (Llama 3 scaling included; transformers modeling_rope_utils). rotary_dim / 2
 * values. */
rb_status rope_resolve(rope_facts *rope, int rotary_dim, const char *where, rb_error *err);

#endif
