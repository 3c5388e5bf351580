/* The "post_processor" of tokenizer.json, for what it puts in front of a text: the beginning-of-text tokens.
 *
 *   TemplateProcessing     the special tokens ahead of "A" in `single`
 *   BertProcessing, RobertaProcessing    `cls`
 *   ByteLevel              nothing
 *   Sequence               one after the other: a later one goes in front
 *
 * Source: https://github.com/huggingface/tokenizers (processors). */
#ifndef RB_MODEL_TOKENIZER_POST_PROCESSOR_H
#define RB_MODEL_TOKENIZER_POST_PROCESSOR_H

#include <cjson/cJSON.h>

#include "core/text_bos.h"

/* component may be NULL (absent): none. Fails with RB_EUNSUPPORTED, naming another component, with RB_EFORMAT on a
 * template that names a token without ids. */
rb_status post_processor_read(bos_tokens *out, const cJSON *component, rb_error *err);

#endif
