/* The beginning-of-text tokens of a model, wherever it keeps them. */
#ifndef RB_MODEL_MODEL_BOS_H
#define RB_MODEL_MODEL_BOS_H

#include "model/tokenizer/tokenizer.h"

typedef struct model_bos {
    /* What the model's own tokenizer puts in front of a text: by its post-processor, or, where that says nothing, by
     * add_bos_token of tokenizer_config.json, as in transformers. */
    bos_tokens by_default;
    /* The same, or, where that is nothing, the token for who asks for it: bos_token of tokenizer_config.json, else
     * bos_token_id of config.json or of a GGUF's metadata. */
    bos_tokens known;
} model_bos;

/* tok: the model's tokenizer, or NULL where there is none. A file that is not there says nothing. Fails with RB_EFORMAT
 * on members of the wrong type. */
rb_status model_bos_find(model_bos *out, const char *model_path, const tokenizer *tok, rb_error *err);

#endif
