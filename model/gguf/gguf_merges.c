/* See model/gguf/gguf_merges.h. */
#include "model/gguf/gguf_merges.h"

#include <stdlib.h>

typedef struct merge_list {
    gguf_merge *at;
    int64_t n, room;
} merge_list;

static rb_status add_merge(merge_list *list, gguf_merge merge, rb_error *err)
{
    if (list->n == list->room) {
        const int64_t room = list->room * 2 + 4096;
        gguf_merge *at = realloc(list->at, (size_t)room * sizeof *at);
        if (!at) return rb_fail(err, RB_ENOMEM, "merges: no memory for %lld", (long long)room);
        list->at = at;
        list->room = room;
    }
    list->at[list->n++] = merge;
    return RB_OK;
}

static bool starts_character(char byte) { return ((unsigned char)byte & 0xc0) != 0x80; }

static int32_t count_characters(gguf_string text)
{
    int32_t n = 0;
    for (size_t i = 0; i < text.length; i++) n += starts_character(text.at[i]);
    return n;
}

/* Every cut of one piece between two characters whose halves are pieces too. */
static rb_status add_cuts(merge_list *list, const gguf_vocabulary *vocabulary, int32_t piece, rb_error *err)
{
    const gguf_string text = vocabulary->tokens[piece].text;
    const int32_t n_characters = count_characters(text);
    int32_t left_length = 0;
    rb_status st = RB_OK;
    for (size_t i = 1; i < text.length && st == RB_OK; i++) {
        if (!starts_character(text.at[i])) continue;
        left_length++;
        if (gguf_vocabulary_find(vocabulary, text.at, i) < 0
            || gguf_vocabulary_find(vocabulary, text.at + i, text.length - i) < 0)
            continue;
        st = add_merge(list,
                       (gguf_merge){.piece = piece,
                                    .left_bytes = (int32_t)i,
                                    .left_length = left_length,
                                    .right_length = n_characters - left_length,
                                    .score = vocabulary->tokens[piece].score},
                       err);
    }
    return st;
}

static int compare_merges(const void *a, const void *b)
{
    const gguf_merge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_length != y->left_length) return x->left_length > y->left_length ? -1 : 1;
    if (x->right_length != y->right_length) return x->right_length > y->right_length ? -1 : 1;
    return x->piece < y->piece ? -1 : x->piece > y->piece;
}

/* Looking a half up takes a step a byte. A real vocabulary has 2^18 pieces of 7 bytes. */
static rb_status check_work(const gguf_vocabulary *vocabulary, rb_error *err)
{
    const int64_t max_steps = (int64_t)1 << 30;
    int64_t n_steps = 0;
    for (int32_t piece = 0; piece < vocabulary->n_tokens; piece++) {
        const int64_t length = (int64_t)vocabulary->tokens[piece].text.length;
        n_steps += length * length;
    }
    return n_steps <= max_steps ? RB_OK
                                : rb_fail(err, RB_EUNSUPPORTED,
                                          "tokenizer.ggml.tokens: cutting the pieces at every place takes %lld steps, "
                                          "expected at most %lld: they are too long",
                                          (long long)n_steps, (long long)max_steps);
}

rb_status gguf_merges_of_scores(gguf_merge **merges, int64_t *n_merges, const gguf_vocabulary *vocabulary,
                                rb_error *err)
{
    merge_list list = {0};
    rb_status st = check_work(vocabulary, err);
    for (int32_t piece = 0; piece < vocabulary->n_tokens && st == RB_OK; piece++) {
        const int kind = vocabulary->tokens[piece].kind;
        if (kind == GGUF_TOKEN_NORMAL || kind == GGUF_TOKEN_USER_DEFINED) st = add_cuts(&list, vocabulary, piece, err);
    }
    if (st == RB_OK && list.n > 1) qsort(list.at, (size_t)list.n, sizeof *list.at, compare_merges);
    *merges = list.at;
    *n_merges = list.n;
    return st;
}
