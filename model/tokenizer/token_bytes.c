/* Ids to bytes: see token_bytes.h. */
#include "model/tokenizer/token_bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/byte_level.h"

typedef struct byte_span {
    const char *at; /* NULL: no token */
    size_t length;
} byte_span;

struct token_bytes {
    byte_span *spans; /* [n_ids] */
    int32_t n_ids;
    char *text; /* what the spans point into */
};

static rb_status allocate(token_bytes *table, const vocabulary *vocab, const added_tokens *added, rb_error *err)
{
    size_t text_size = 0, length;
    int32_t id;
    rb_status st;

    for (int32_t i = 0; i < vocabulary_count(vocab); i++) {
        vocabulary_at(vocab, i, &length, &id);
        text_size += length;
        if (id >= table->n_ids) table->n_ids = id + 1;
    }
    for (int32_t i = 0; i < added_tokens_count(added); i++) {
        const added_token *token = added_tokens_at(added, i);
        text_size += token->length;
        if (token->id >= table->n_ids) table->n_ids = token->id + 1;
    }
    RB_TRY(st, rb_alloc(&table->spans, (size_t)table->n_ids, sizeof *table->spans, "token bytes", err), done);
    RB_TRY(st, rb_alloc(&table->text, text_size, 1, "token bytes", err), done);
done:
    return st;
}

/* "<0x0A>" */
static bool decode_byte_token(const char *text, size_t length, char *out)
{
    unsigned byte;
    char name[8];
    if (length != 6 || text[0] != '<') return false;
    memcpy(name, text, length);
    name[length] = '\0';
    if (sscanf(name, "<0x%2X>", &byte) != 1 || name[5] != '>') return false;
    *out = (char)byte;
    return true;
}

/* Writes the bytes of a token, at most `length` of them, and returns their number. A space sign is at least as long as
 * a space. */
static size_t spell(const token_spelling *spelling, const char *text, size_t length, char *out)
{
    size_t n = 0, at = 0;
    if (spelling->has_byte_tokens && decode_byte_token(text, length, out)) return 1;
    /* A text outside the byte-level alphabet is shown as it is, as by the library's decoder: BPE cannot make it. */
    if (spelling->is_byte_level && byte_level_decode(text, length, out, &n)) return n;
    const size_t sign = !spelling->is_byte_level && spelling->space_sign ? strlen(spelling->space_sign) : 0;
    for (n = 0; at < length; n++) {
        const bool is_space = sign > 0 && length - at >= sign && memcmp(text + at, spelling->space_sign, sign) == 0;
        out[n] = is_space ? ' ' : text[at];
        at += is_space ? sign : 1;
    }
    return n;
}

static rb_status fill(token_bytes *table, const vocabulary *vocab, const added_tokens *added,
                      const token_spelling *spelling, rb_error *err)
{
    char *at = table->text;
    for (int32_t i = 0; i < vocabulary_count(vocab); i++) {
        size_t length, size;
        int32_t id;
        const char *text = vocabulary_at(vocab, i, &length, &id);
        if (table->spans[id].at)
            return rb_fail(err, RB_EFORMAT, "model.vocab: two tokens have id %d, one is \"%.*s\"", id,
                           (int)(length < 64 ? length : 64), text);
        size = spell(spelling, text, length, at);
        table->spans[id] = (byte_span){at, size};
        at += size;
    }
    for (int32_t i = 0; i < added_tokens_count(added); i++) {
        const added_token *token = added_tokens_at(added, i);
        if (table->spans[token->id].at && vocabulary_find(vocab, token->content, token->length) != token->id)
            return rb_fail(err, RB_EFORMAT, "added_tokens[%d]: \"%.64s\" has id %d, which another token has", i,
                           token->content, token->id);
        memcpy(at, token->content, token->length);
        table->spans[token->id] = (byte_span){at, token->length};
        at += token->length;
    }
    return RB_OK;
}

rb_status token_bytes_open(token_bytes **out, const vocabulary *vocab, const added_tokens *added,
                           const token_spelling *spelling, rb_error *err)
{
    token_bytes *table = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&table, 1, sizeof *table, "token bytes", err), done);
    RB_TRY(st, allocate(table, vocab, added, err), done);
    RB_TRY(st, fill(table, vocab, added, spelling, err), done);
    *out = table;
    table = NULL;
done:
    token_bytes_close(table);
    return st;
}

void token_bytes_close(token_bytes *table)
{
    if (!table) return;
    free(table->spans);
    free(table->text);
    free(table);
}

int32_t token_bytes_n_ids(const token_bytes *table) { return table->n_ids; }

const char *token_bytes_at(const token_bytes *table, int32_t id, size_t *length)
{
    if (id < 0 || id >= table->n_ids || !table->spans[id].at) return NULL;
    *length = table->spans[id].length;
    return table->spans[id].at;
}
