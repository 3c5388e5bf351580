/* See model/gguf/gguf_vocabulary.h. */
#include "model/gguf/gguf_vocabulary.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/unicode_text.h"

enum { MAX_TOKENS = 1 << 24, MAX_TOKEN_BYTES = 4096 };

/* FNV-1a. */
static uint64_t hash_of(const char *text, size_t length)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

/* The slot of a string: that of its id, or the empty one where it belongs. */
static size_t slot_of(const gguf_vocabulary *vocabulary, const char *text, size_t length)
{
    size_t slot = hash_of(text, length) & (vocabulary->n_slots - 1);
    for (;; slot = (slot + 1) & (vocabulary->n_slots - 1)) {
        if (vocabulary->slots[slot] < 0) return slot;
        const gguf_string found = vocabulary->tokens[vocabulary->slots[slot]].text;
        if (found.length == length && memcmp(found.at, text, length) == 0) return slot;
    }
}

int32_t gguf_vocabulary_find(const gguf_vocabulary *vocabulary, const char *text, size_t length)
{
    return vocabulary->slots[slot_of(vocabulary, text, length)];
}

static rb_status check_text(gguf_string text, int32_t id, rb_error *err)
{
    if (text.length > MAX_TOKEN_BYTES)
        return rb_fail(err, RB_EFORMAT, "tokenizer.ggml.tokens: token %d has %zu bytes, expected at most %d", (int)id,
                       text.length, MAX_TOKEN_BYTES);
    if (utf8_valid_prefix(text.at, text.length) != text.length || memchr(text.at, '\0', text.length))
        return rb_fail(err, RB_EFORMAT, "tokenizer.ggml.tokens: token %d is not UTF-8 text", (int)id);
    return RB_OK;
}

static rb_status read_texts(gguf_vocabulary *vocabulary, const gguf_entry *list, rb_error *err)
{
    gguf_cursor items = list->value;
    rb_status st;
    vocabulary->n_slots = 16;
    while (vocabulary->n_slots < 2 * (size_t)list->n_items) vocabulary->n_slots *= 2;
    RB_TRY(st, rb_alloc(&vocabulary->tokens, (size_t)list->n_items, sizeof *vocabulary->tokens, "tokens", err), done);
    RB_TRY(st, rb_alloc(&vocabulary->slots, vocabulary->n_slots, sizeof *vocabulary->slots, "tokens", err), done);
    memset(vocabulary->slots, -1, vocabulary->n_slots * sizeof *vocabulary->slots);
    for (int32_t id = 0; id < list->n_items; id++) {
        gguf_token *token = &vocabulary->tokens[id];
        *token = (gguf_token){.text = gguf_next_string(&items), .kind = GGUF_TOKEN_NORMAL};
        RB_TRY(st, check_text(token->text, id, err), done);
        const size_t slot = slot_of(vocabulary, token->text.at, token->text.length);
        if (vocabulary->slots[slot] >= 0)
            return rb_fail(err, RB_EFORMAT, "tokenizer.ggml.tokens: tokens %d and %d are the same: \"%.*s\"",
                           (int)vocabulary->slots[slot], (int)id,
                           (int)(token->text.length < 64 ? token->text.length : 64), token->text.at);
        vocabulary->slots[slot] = id;
        vocabulary->n_tokens++;
    }
done:
    return st;
}

static rb_status get_list(const gguf_metadata *metadata, const char *key, gguf_type type, int32_t n_tokens,
                          const gguf_entry **out, rb_error *err)
{
    const rb_status st = gguf_get_array(metadata, key, type, out, err);
    if (st == RB_OK && (*out)->n_items != n_tokens)
        return rb_fail(err, RB_EFORMAT, "%s has %" PRId64 " items, expected %d, one a token", key, (*out)->n_items,
                       (int)n_tokens);
    return st;
}

static rb_status read_kinds(gguf_vocabulary *vocabulary, const gguf_metadata *metadata, rb_error *err)
{
    static const char key[] = "tokenizer.ggml.token_type";
    const gguf_entry *kinds = gguf_find(metadata, key);
    rb_status st = RB_OK;
    if (!kinds) return st; /* all are normal */
    const gguf_type type = kinds->type == GGUF_ARRAY && kinds->item_type == GGUF_U32 ? GGUF_U32 : GGUF_I32;
    RB_TRY(st, get_list(metadata, key, type, vocabulary->n_tokens, &kinds, err), done);
    for (int32_t id = 0; id < vocabulary->n_tokens; id++) {
        const double kind = gguf_item_number(kinds, id);
        if (!(kind >= 0 && kind <= 6))
            return rb_fail(err, RB_EFORMAT, "%s: token %d is of type %g, expected 0 to 6", key, (int)id, kind);
        vocabulary->tokens[id].kind = (int)kind;
    }
done:
    return st;
}

static rb_status read_scores(gguf_vocabulary *vocabulary, const gguf_metadata *metadata, rb_error *err)
{
    static const char key[] = "tokenizer.ggml.scores";
    const gguf_entry *scores = NULL;
    rb_status st;
    RB_TRY(st, get_list(metadata, key, GGUF_F32, vocabulary->n_tokens, &scores, err), done);
    for (int32_t id = 0; id < vocabulary->n_tokens; id++) {
        const double score = gguf_item_number(scores, id);
        if (isnan(score)) return rb_fail(err, RB_ENONFINITE, "%s: the score of token %d is no number", key, (int)id);
        vocabulary->tokens[id].score = (float)score;
    }
done:
    return st;
}

rb_status gguf_vocabulary_read(gguf_vocabulary *vocabulary, const gguf_metadata *metadata, bool with_scores,
                               rb_error *err)
{
    const gguf_entry *list = NULL;
    rb_status st;
    RB_TRY(st, gguf_get_array(metadata, "tokenizer.ggml.tokens", GGUF_STRING, &list, err), done);
    if (list->n_items < 1 || list->n_items > MAX_TOKENS)
        return rb_fail(err, RB_EFORMAT, "tokenizer.ggml.tokens has %" PRId64 " tokens, expected 1 to %d", list->n_items,
                       MAX_TOKENS);
    RB_TRY(st, read_texts(vocabulary, list, err), done);
    RB_TRY(st, read_kinds(vocabulary, metadata, err), done);
    if (with_scores) st = read_scores(vocabulary, metadata, err);
done:
    return st;
}

void gguf_vocabulary_free(gguf_vocabulary *vocabulary)
{
    free(vocabulary->tokens);
    free(vocabulary->slots);
    *vocabulary = (gguf_vocabulary){0};
}
