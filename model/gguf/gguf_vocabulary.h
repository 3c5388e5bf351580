/* The tokens of a GGUF: strings, kinds and scores, and a hash table from string to id. */
#ifndef RB_MODEL_GGUF_VOCABULARY_H
#define RB_MODEL_GGUF_VOCABULARY_H

#include "model/gguf/gguf_metadata.h"

/* tokenizer.ggml.token_type */
enum { GGUF_TOKEN_NORMAL = 1, GGUF_TOKEN_UNKNOWN, GGUF_TOKEN_CONTROL, GGUF_TOKEN_USER_DEFINED };

typedef struct gguf_token {
    gguf_string text;
    int kind;
    float score; /* of sentencepiece; 0 elsewhere */
} gguf_token;

typedef struct gguf_vocabulary {
    gguf_token *tokens; /* [n_tokens], by id */
    int32_t n_tokens;
    int32_t *slots; /* ids, -1 where empty; n_slots is a power of two */
    size_t n_slots;
} gguf_vocabulary;

/* Fails with RB_EFORMAT on a token that is there twice, is not UTF-8 or has more than 4096 bytes, and on lists of
 * different lengths. Zero or half-filled ones are freed by gguf_vocabulary_free. The strings lie in the file. */
rb_status gguf_vocabulary_read(gguf_vocabulary *vocabulary, const gguf_metadata *metadata, bool with_scores,
                               rb_error *err);
void gguf_vocabulary_free(gguf_vocabulary *vocabulary);
/* The id of a string, -1 when absent. */
int32_t gguf_vocabulary_find(const gguf_vocabulary *vocabulary, const char *text, size_t length);

#endif
