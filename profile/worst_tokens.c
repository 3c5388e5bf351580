/* See profile/worst_tokens.h. */
#include "profile/worst_tokens.h"

#include <stdlib.h>

rb_status worst_tokens_create(worst_tokens *out, int capacity, rb_error *err)
{
    *out = (worst_tokens){.capacity = capacity};
    return rb_alloc(&out->at, (size_t)capacity, sizeof *out->at, "worst tokens", err);
}

void worst_tokens_free(worst_tokens *tokens)
{
    free(tokens->at);
    *tokens = (worst_tokens){0};
}

void worst_tokens_add(worst_tokens *tokens, int layer, int kv_head, const float *excess, const float *errors,
                      const float *sizes, int64_t n_tokens)
{
    for (int64_t t = 0; t < n_tokens && tokens->capacity > 0; t++) {
        const double own = (double)excess[t];
        if (tokens->n == tokens->capacity && own <= tokens->at[tokens->n - 1].excess) continue;
        int place = tokens->n < tokens->capacity ? tokens->n++ : tokens->n - 1;
        for (; place > 0 && tokens->at[place - 1].excess < own; place--) tokens->at[place] = tokens->at[place - 1];
        tokens->at[place] = (worst_token){.layer = layer,
                                          .kv_head = kv_head,
                                          .position = t,
                                          .error = (double)errors[t],
                                          .size = (double)sizes[t],
                                          .excess = own};
    }
}
