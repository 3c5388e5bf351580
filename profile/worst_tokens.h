/* The tokens that a codec serves worst, over all heads of a method: those with the largest excess
 * (profile/tail_error.h). */
#ifndef RB_PROFILE_WORST_TOKENS_H
#define RB_PROFILE_WORST_TOKENS_H

#include <stdint.h>

#include "core/status.h"
#include "model/tokenizer/token_text.h"

enum { WORST_MAX_TOKENS = 100 };

typedef struct worst_token {
    int layer, kv_head;
    int64_t position; /* in the test text */
    int32_t id;
    char text[TOKEN_TEXT_SIZE]; /* UTF-8; "" when no tokenizer was at hand */
    double error, size, excess;
} worst_token;

/* Worst first; equal ones in the order they came. */
typedef struct worst_tokens {
    int n, capacity;
    worst_token *at; /* [capacity], owned */
} worst_tokens;

rb_status worst_tokens_create(worst_tokens *out, int capacity, rb_error *err);
void worst_tokens_free(worst_tokens *tokens);
/* Adds one head's tokens, [n_tokens] each. The caller fills in ids and texts when all heads have been added. */
void worst_tokens_add(worst_tokens *tokens, int layer, int kv_head, const float *excess, const float *errors,
                      const float *sizes, int64_t n_tokens);

#endif
