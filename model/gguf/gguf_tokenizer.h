/* The tokenizer.json that a GGUF's metadata stand for, as text for tokenizer_open_text.
 *
 *   tokenizer.ggml.model gpt2     byte-level BPE; tokenizer.ggml.pre names the pre-tokenizer
 *   tokenizer.ggml.model llama    sentencepiece BPE: scores become merges (gguf_merges.h), unknown characters bytes
 *
 * Tokens of type 3 (control) and 4 (of the user) are added tokens. Where tokenizer.ggml.add_bos_token says so, or by
 * llama.cpp's default where the key is absent, the post-processor puts the beginning-of-text token in front. */
#ifndef RB_MODEL_GGUF_TOKENIZER_H
#define RB_MODEL_GGUF_TOKENIZER_H

#include "model/gguf/gguf_file.h"

/* *text is freed by free(), *length its bytes. Fails with RB_EUNSUPPORTED on a tokenizer or pre-tokenizer that is not
 * known here, naming it. */
rb_status gguf_tokenizer_text(char **text, size_t *length, const gguf_file *file, rb_error *err);

#endif
