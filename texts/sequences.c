/* See texts/sequences.h. */
#include "texts/sequences.h"

#include <string.h>

#include "model/model_bos.h"
#include "texts/token_source.h"

const char *const bos_choice_names[] = {[BOS_CHOICE_AUTO] = "auto",
                                        [BOS_CHOICE_SEQUENCE] = "sequence",
                                        [BOS_CHOICE_TEXT] = "text",
                                        [BOS_CHOICE_NONE] = "none",
                                        NULL};

/* ---- which tokens ---------------------------------------------------------------------------- */

static rb_status check_tokens(const text_bos *bos, int64_t context, int64_t vocab_size, rb_error *err)
{
    if (bos->tokens.n >= context)
        return rb_fail(err, RB_EINVAL,
                       "--context is %lld, expected more than the %d beginning-of-text tokens of the model",
                       (long long)context, bos->tokens.n);
    return tokens_check(bos->tokens.ids, bos->tokens.n, vocab_size, "beginning of text", err);
}

rb_status sequences_choose_bos(text_bos *out, bos_choice choice, bool is_ids, const char *model_path,
                               const tokenizer *tok, int64_t context, int64_t vocab_size, rb_error *err)
{
    model_bos model;
    *out = (text_bos){.mode = BOS_NONE};
    if (choice == BOS_CHOICE_NONE || (choice == BOS_CHOICE_AUTO && is_ids)) return RB_OK;
    const rb_status st = model_bos_find(&model, model_path, tok, err);
    if (st != RB_OK) return st;
    out->tokens = choice == BOS_CHOICE_AUTO ? model.by_default : model.known;
    if (out->tokens.n > 0) out->mode = choice == BOS_CHOICE_TEXT ? BOS_TEXT : BOS_SEQUENCE;
    else if (choice != BOS_CHOICE_AUTO)
        return rb_fail(err, RB_EINVAL,
                       "--bos %s: %s names no beginning-of-text token: neither the tokenizer's post-processor nor "
                       "bos_token nor bos_token_id does",
                       bos_choice_names[choice], model_path);
    return check_tokens(out, context, vocab_size, err);
}

/* ---- sequences ------------------------------------------------------------------------------- */

int64_t sequences_n_bos(const text_bos *bos, bool is_first, int64_t n_tokens)
{
    if (bos->mode != BOS_SEQUENCE && !(bos->mode == BOS_TEXT && is_first)) return 0;
    return bos->tokens.n < n_tokens ? bos->tokens.n : n_tokens;
}

static int64_t sequence_tokens(int64_t n_tokens, int64_t context, int64_t at)
{
    return n_tokens - at < context ? n_tokens - at : context;
}

int64_t sequences_text_tokens(const text_bos *bos, int64_t n_tokens, int64_t context)
{
    int64_t n = 0;
    for (int64_t at = 0; at < n_tokens; at += context) {
        const int64_t length = sequence_tokens(n_tokens, context, at);
        n += length - sequences_n_bos(bos, at == 0, length);
    }
    return n;
}

int64_t sequences_tokens_of(const text_bos *bos, int64_t n_text, int64_t context)
{
    int64_t n = 0;
    for (int64_t done = 0; done < n_text;) {
        const int64_t n_bos = sequences_n_bos(bos, n == 0, context),
                      n_own = n_text - done < context - n_bos ? n_text - done : context - n_bos;
        n += n_bos + n_own;
        done += n_own;
    }
    return n;
}

void sequences_fill(int32_t *ids, int64_t n_tokens, int64_t context, const text_bos *bos, const int32_t *text)
{
    for (int64_t at = 0; at < n_tokens; at += context) {
        const int64_t length = sequence_tokens(n_tokens, context, at), n_bos = sequences_n_bos(bos, at == 0, length);
        memcpy(ids + at, bos->tokens.ids, (size_t)n_bos * sizeof *ids);
        memcpy(ids + at + n_bos, text, (size_t)(length - n_bos) * sizeof *ids);
        text += length - n_bos;
    }
}
