/* Added tokens: see added_tokens.h. */
#include "model/tokenizer/added_tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "model/tokenizer/byte_trie.h"
#include "model/tokenizer/unicode_text.h"

/* Every byte of a text may begin any of them, so a long one would take a text's length times its own. */
enum { MAX_TOKEN_BYTES = 512 };

struct added_tokens {
    added_token *tokens;
    int32_t count;
    byte_trie tries[ADDED_N_STAGES]; /* values: indices into tokens */
};

/* ---- reading --------------------------------------------------------------------------------- */

static rb_status read_token(added_token *token, const cJSON *object, const char *where, rb_error *err)
{
    const char *content;
    int64_t id;
    rb_status st;

    RB_TRY(st, rb_json_get_string(object, "content", where, &content, err), done);
    RB_TRY(st, rb_json_get_int(object, "id", where, 0, VOCABULARY_MAX_ID, &id, err), done);
    RB_TRY(st, rb_json_get_bool(object, "single_word", where, &token->single_word, err), done);
    RB_TRY(st, rb_json_get_bool(object, "lstrip", where, &token->lstrip, err), done);
    RB_TRY(st, rb_json_get_bool(object, "rstrip", where, &token->rstrip, err), done);
    RB_TRY(st, rb_json_get_bool(object, "normalized", where, &token->normalized, err), done);
    token->id = (int32_t)id;
    token->length = strlen(content);
    if (token->length == 0) return rb_fail(err, RB_EFORMAT, "%s.content: found an empty string", where);
    if (token->length > MAX_TOKEN_BYTES)
        return rb_fail(err, RB_EUNSUPPORTED, "%s.content: found %zu bytes, supported are %d", where, token->length,
                       MAX_TOKEN_BYTES);
    if (utf8_valid_prefix(content, token->length) != token->length)
        return rb_fail(err, RB_EFORMAT, "%s.content: found invalid UTF-8", where);
    RB_TRY(st, rb_format(&token->content, err, "%s", content), done);
done:
    return st;
}

/* The library uses the id of a string that the vocabulary knows, and numbers the others from the size of the vocabulary
 * on. */
static rb_status check_id(const added_token *token, const vocabulary *vocab, int32_t *next_id, const char *where,
                          rb_error *err)
{
    const int32_t known = vocabulary_find(vocab, token->content, token->length);
    const int32_t expected = known >= 0 ? known : *next_id;
    if (token->id != expected)
        return rb_fail(err, RB_EFORMAT, "%s: \"%.64s\" has id %d, %s %d", where, token->content, token->id,
                       known >= 0 ? "but in model.vocab"
                                  : "expected the next one after the vocabulary and the tokens added before it,",
                       expected);
    if (token->id >= *next_id) *next_id = token->id + 1;
    return RB_OK;
}

static rb_status read_tokens(added_tokens *added, const cJSON *array, const vocabulary *vocab, rb_error *err)
{
    const cJSON *object;
    int32_t next_id = vocabulary_count(vocab);
    cJSON_ArrayForEach (object, array) {
        char where[48];
        added_token *token = &added->tokens[added->count];
        snprintf(where, sizeof where, "added_tokens[%d]", added->count);
        added->count++;
        rb_status st = read_token(token, object, where, err);
        if (st == RB_OK) st = check_id(token, vocab, &next_id, where, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

static rb_status add_once(byte_trie *trie, const char *text, size_t length, int32_t index, const char *what,
                          rb_error *err)
{
    size_t size = 0;
    const int32_t other = byte_trie_longest(trie, text, length, &size);
    if (other >= 0 && size == length)
        return rb_fail(err, RB_EFORMAT, "added_tokens[%d]: \"%.*s\" is %s of added_tokens[%d]", index,
                       (int)(length < 64 ? length : 64), text, what, other);
    return byte_trie_add(trie, text, length, index, err);
}

static rb_status index_normalized(added_tokens *added, int32_t index, const normalizer *norm, split_scratch *scratch,
                                  rb_error *err)
{
    const added_token *token = &added->tokens[index];
    normalized_text pattern;
    rb_status st;
    RB_TRY(st, normalizer_apply(norm, scratch, (text_stretch){token->content, token->length, 0}, &pattern, err), done);
    if (pattern.text.length == 0)
        st = rb_fail(err, RB_EUNSUPPORTED, "added_tokens[%d]: \"%.64s\" is nothing once it is normalised", index,
                     token->content);
    else
        st = add_once(&added->tries[ADDED_NORMALIZED], pattern.text.at, pattern.text.length, index,
                      "the normalised content", err);
done:
    normalized_text_free(&pattern);
    return st;
}

static rb_status index_token(added_tokens *added, int32_t index, const normalizer *norm, split_scratch *scratch,
                             rb_error *err)
{
    const added_token *token = &added->tokens[index];
    if (token->normalized) return index_normalized(added, index, norm, scratch, err);
    return byte_trie_add(&added->tries[ADDED_RAW], token->content, token->length, index, err);
}

/* Contents are unique as they stand, and within the normalised stage. */
static rb_status index_tokens(added_tokens *added, const normalizer *norm, split_scratch *scratch, rb_error *err)
{
    byte_trie contents = {0};
    rb_status st = RB_OK;
    for (int32_t i = 0; i < added->count; i++) {
        RB_TRY(st, add_once(&contents, added->tokens[i].content, added->tokens[i].length, i, "the content", err), done);
        RB_TRY(st, index_token(added, i, norm, scratch, err), done);
    }
done:
    byte_trie_release(&contents);
    return st;
}

rb_status added_tokens_open(added_tokens **out, const cJSON *array, const vocabulary *vocab, const normalizer *norm,
                            split_scratch *scratch, rb_error *err)
{
    added_tokens *added = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&added, 1, sizeof *added, "added tokens", err), done);
    RB_TRY(st, rb_alloc(&added->tokens, (size_t)cJSON_GetArraySize(array), sizeof *added->tokens, "added tokens", err),
           done);
    RB_TRY(st, read_tokens(added, array, vocab, err), done);
    RB_TRY(st, index_tokens(added, norm, scratch, err), done);
    *out = added;
    added = NULL;
done:
    added_tokens_close(added);
    return st;
}

void added_tokens_close(added_tokens *added)
{
    if (!added) return;
    for (int32_t i = 0; i < added->count; i++) free(added->tokens[i].content);
    for (int stage = 0; stage < ADDED_N_STAGES; stage++) byte_trie_release(&added->tries[stage]);
    free(added->tokens);
    free(added);
}

int32_t added_tokens_count(const added_tokens *added) { return added->count; }
const added_token *added_tokens_at(const added_tokens *added, int32_t index) { return &added->tokens[index]; }

/* ---- matching -------------------------------------------------------------------------------- */

static bool is_single_word(const added_scan *scan, size_t start, size_t end)
{
    size_t size;
    if (start > 0 && unicode_is_word(utf8_last(scan->text, start, &size))) return false;
    return end == scan->length || !unicode_is_word(utf8_first(scan->text + end, scan->length - end, &size));
}

/* Where the white space begins that ends at `end`; not before `limit`. */
static size_t space_begin(const added_scan *scan, size_t limit, size_t end)
{
    size_t size;
    while (end > limit && unicode_is_space(utf8_last(scan->text, end, &size))) end -= size;
    return end;
}

static size_t space_end(const added_scan *scan, size_t start)
{
    size_t size;
    while (start < scan->length && unicode_is_space(utf8_first(scan->text + start, scan->length - start, &size)))
        start += size;
    return start;
}

bool added_tokens_next(const added_tokens *added, added_stage stage, added_scan *scan, added_match *out)
{
    const byte_trie *trie = &added->tries[stage];
    while (scan->next < scan->length) {
        size_t start = scan->next, size = 0;
        const int32_t index = byte_trie_longest(trie, scan->text + start, scan->length - start, &size);
        if (index < 0) {
            scan->next++;
            continue;
        }
        const added_token *token = &added->tokens[index];
        size_t end = start + size;
        scan->next = end; /* after the string itself: as in the library, a match inside the white space that rstrip
                             takes counts */
        if (token->single_word && !is_single_word(scan, start, end)) continue;
        if (token->lstrip) start = start > scan->done ? space_begin(scan, scan->done, start) : scan->done;
        if (token->rstrip) end = space_end(scan, end);
        scan->done = end;
        if (start >= end) continue; /* the token before has taken all of it */
        *out = (added_match){start, end, token->id};
        return true;
    }
    return false;
}
