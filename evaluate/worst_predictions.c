/* See worst_predictions.h. */
#include "evaluate/worst_predictions.h"

#include <stdlib.h>
#include <string.h>

static void add(worst_predictions *worst, int capacity, const worst_prediction *candidate)
{
    if (!(candidate->kl > 0.0) || capacity == 0
        || (worst->n == capacity && candidate->kl <= worst->at[capacity - 1].kl))
        return;
    int place = worst->n < capacity ? worst->n++ : worst->n - 1;
    for (; place > 0 && worst->at[place - 1].kl < candidate->kl; place--) worst->at[place] = worst->at[place - 1];
    worst->at[place] = *candidate;
}

rb_status worst_predictions_make(worst_predictions *out, int capacity, const evaluate_batch *batch,
                                 const token_score *scores, int run, rb_error *err)
{
    *out = (worst_predictions){0};
    const rb_status st = rb_alloc(&out->at, (size_t)capacity, sizeof *out->at, "worst tokens", err);
    for (int64_t i = 0; st == RB_OK && i < batch->n_text_positions; i++) {
        const token_score *base = &scores[i * batch->n_runs], *own = base + run;
        add(out, capacity,
            &(worst_prediction){.position = batch->positions[i].target_place,
                                .id = batch->positions[i].target,
                                .kl = own->kl,
                                .nll = own->nll,
                                .unquantized_nll = base->nll});
    }
    return st;
}

void worst_predictions_name(worst_predictions *worst, const tokenizer *words, const int32_t *text, int64_t context)
{
    for (int i = 0; i < worst->n; i++) {
        worst_prediction *token = &worst->at[i];
        const int64_t n_before = token->position % context,
                      n = n_before < WORST_BEFORE_TOKENS ? n_before : WORST_BEFORE_TOKENS;
        size_t length = 0;
        token_text_of(token->text, words, token->id);
        for (int64_t t = token->position - n; t < token->position; t++) {
            token_text_of(token->before + length, words, text[t]);
            length += strlen(token->before + length);
        }
    }
}

void worst_predictions_free(worst_predictions *worst)
{
    free(worst->at);
    *worst = (worst_predictions){0};
}
