/* config.json of a Hugging Face checkpoint, both generations: rope_theta + rope_scaling, and rope_parameters
 * (transformers 5). A missing or unknown rope setting is an error, never a silent default. So is an unknown
 * architecture, activation or feature of attention. */
#ifndef RB_MODEL_MODEL_CONFIG_H
#define RB_MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model_family.h"

enum { MODEL_MAX_LAYERS = 1024 };

typedef struct model_config {
    const model_family *family;
    model_facts facts; /* identity, geometry, rope; weights_sha256 stays "" here */
    int hidden_size, intermediate_size, vocab_size;
    int64_t max_position;
    double rms_norm_eps;
    unsigned extras;                     /* tensors that not every model has: bits of layer_extra */
    bool tied_embeddings;                /* the LM head is the embedding matrix */
    int sliding_window;                  /* keys a query sees, itself included; 0: all */
    bool layer_slides[MODEL_MAX_LAYERS]; /* which layers use it */
} model_config;

/* Reads DIR/config.json. */
rb_status model_config_read(model_config *out, const char *folder, rb_error *err);

/* From text, for tests; `name` is used in messages. sha256 of the text goes into facts. */
rb_status model_config_parse(model_config *out, const char *text, size_t length, const char *name, rb_error *err);

/* Name of the vocabulary matrix at the end of the forward pass. */
const char *model_config_lm_head(const model_config *config);

/* inv_freq of a rope setting, in double (Llama 3 scaling included; transformers modeling_rope_utils). rotary_dim / 2
 * values. */
rb_status rope_resolve(rope_facts *rope, int rotary_dim, const char *where, rb_error *err);

#endif
