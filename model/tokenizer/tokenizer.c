/* From text to token ids: see tokenizer.h.
 *
 *   text -> added tokens (raw) -> normaliser -> added tokens (normalised) -> pre-tokenizer -> BPE
 *
 * Each step cuts its input and hands the pieces to the next one, so only the ids are collected. */
#include "model/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/message.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pretokenizer.h"
#include "model/tokenizer/token_bytes.h"
#include "model/tokenizer/unicode_text.h"

struct tokenizer {
    normalizer *normalizer;
    pretokenizer *pretokenizer;
    bpe *bpe;
    added_tokens *added;
    token_bytes *bytes;
    bos_tokens bos;
};

/* ---- opening --------------------------------------------------------------------------------- */

/* `truncation` and `padding` are settings of whoever saved the file: the ids of the whole text are asked for. */
static rb_status check_version(const cJSON *document, rb_error *err)
{
    const char *version;
    if (!rb_json_find(document, "version")) return RB_OK;
    const rb_status st = rb_json_get_string(document, "version", "document", &version, err);
    if (st != RB_OK || strcmp(version, "1.0") == 0) return st;
    return rb_fail(err, RB_EUNSUPPORTED, "version: found \"%s\", supported is \"1.0\"", version);
}

static rb_status open_added(tokenizer *t, const cJSON *document, rb_error *err)
{
    const cJSON *added = NULL;
    split_scratch *scratch = NULL;
    rb_status st;
    if (cJSON_HasObjectItem(document, "added_tokens"))
        RB_TRY(st, rb_json_get_array(document, "added_tokens", "document", &added, err), done);
    RB_TRY(st, split_scratch_new(&scratch, err), done);
    st = added_tokens_open(&t->added, added, bpe_vocabulary(t->bpe), t->normalizer, scratch, err);
done:
    split_scratch_free(scratch);
    return st;
}

static rb_status open_bytes(tokenizer *t, rb_error *err)
{
    const char *metaspace = pretokenizer_space_sign(t->pretokenizer);
    const token_spelling spelling = {.is_byte_level = pretokenizer_is_byte_level(t->pretokenizer),
                                     .has_byte_tokens = bpe_has_byte_fallback(t->bpe),
                                     .space_sign = metaspace ? metaspace : normalizer_space_sign(t->normalizer)};
    return token_bytes_open(&t->bytes, bpe_vocabulary(t->bpe), t->added, &spelling, err);
}

static rb_status build(tokenizer *t, const cJSON *document, rb_error *err)
{
    const cJSON *model;
    rb_status st;

    RB_TRY(st, check_version(document, err), done);
    RB_TRY(st, rb_json_get_object(document, "model", "document", &model, err), done);
    RB_TRY(st, normalizer_open(&t->normalizer, rb_json_find(document, "normalizer"), err), done);
    RB_TRY(st, pretokenizer_open(&t->pretokenizer, rb_json_find(document, "pre_tokenizer"), err), done);
    RB_TRY(st, bpe_open(&t->bpe, model, pretokenizer_is_byte_level(t->pretokenizer), err), done);
    RB_TRY(st, open_added(t, document, err), done);
    RB_TRY(st, open_bytes(t, err), done);
    RB_TRY(st, post_processor_read(&t->bos, rb_json_find(document, "post_processor"), err), done);
done:
    return st;
}

static rb_status open_document(tokenizer **out, const cJSON *document, const char *name, rb_error *err)
{
    tokenizer *t = NULL;
    rb_status st;

    RB_TRY(st, rb_alloc(&t, 1, sizeof *t, "tokenizer", err), done);
    st = build(t, document, err);
    if (st != RB_OK) {
        rb_fail_in(err, st, "%s", name);
        goto done;
    }
    *out = t;
    t = NULL;
done:
    tokenizer_close(t);
    return st;
}

rb_status tokenizer_open(tokenizer **out, const char *path, rb_error *err)
{
    cJSON *document = NULL;
    *out = NULL;
    rb_status st = rb_json_read(&document, path, 0, err);
    if (st == RB_OK) st = open_document(out, document, path, err);
    cJSON_Delete(document);
    return st;
}

rb_status tokenizer_open_text(tokenizer **out, const char *text, size_t length, const char *name, rb_error *err)
{
    cJSON *document = NULL;
    *out = NULL;
    rb_status st = rb_json_parse(&document, text, length, name, err);
    if (st == RB_OK) st = open_document(out, document, name, err);
    cJSON_Delete(document);
    return st;
}

void tokenizer_close(tokenizer *t)
{
    if (!t) return;
    normalizer_close(t->normalizer);
    pretokenizer_close(t->pretokenizer);
    bpe_close(t->bpe);
    added_tokens_close(t->added);
    token_bytes_close(t->bytes);
    free(t);
}

/* ---- encoding -------------------------------------------------------------------------------- */

typedef struct encoder {
    const tokenizer *tokenizer;
    pretokenizer_scratch *split;
    bpe_scratch *merge;
    id_list ids;
} encoder;

typedef rb_status (*stretch_fn)(encoder *encoder, text_stretch text, rb_error *err);

/* Ids of the added tokens of one stage; what stands between them goes to on_text. */
static rb_status encode_added(encoder *e, added_stage stage, text_stretch text, stretch_fn on_text, rb_error *err)
{
    added_scan scan = {.text = text.at, .length = text.length};
    added_match match;
    size_t done = 0;
    rb_status st = RB_OK;

    while (added_tokens_next(e->tokenizer->added, stage, &scan, &match)) {
        if (done < match.start) RB_TRY(st, on_text(e, text_stretch_part(text, done, match.start), err), done);
        RB_TRY(st, id_list_push(&e->ids, match.id, err), done);
        done = match.end;
    }
    if (done < text.length) st = on_text(e, text_stretch_part(text, done, text.length), err);
done:
    return st;
}

static rb_status encode_piece(void *user, const char *piece, size_t length, rb_error *err)
{
    encoder *e = user;
    return bpe_encode(e->tokenizer->bpe, e->merge, piece, length, &e->ids, err);
}

static rb_status encode_words(encoder *e, text_stretch text, rb_error *err)
{
    return pretokenizer_split(e->tokenizer->pretokenizer, e->split, text, encode_piece, e, err);
}

static rb_status encode_raw(encoder *e, text_stretch text, rb_error *err)
{
    normalized_text normalized;
    rb_status st =
        normalizer_apply(e->tokenizer->normalizer, pretokenizer_split_scratch(e->split), text, &normalized, err);
    if (st == RB_OK) st = encode_added(e, ADDED_NORMALIZED, normalized.text, encode_words, err);
    normalized_text_free(&normalized);
    return st;
}

static void warn_of_dropped(const bpe_dropped *dropped)
{
    if (dropped->n > 0)
        rb_message_warn(
            "the vocabulary has no token for %lld characters of the text, the first is %s: left out, as the "
            "`tokenizers` library does",
            (long long)dropped->n, dropped->first);
}

rb_status tokenizer_encode(const tokenizer *t, const char *text, size_t length, int32_t **ids, int64_t *n_ids,
                           rb_error *err)
{
    encoder e = {.tokenizer = t};
    rb_status st;

    *ids = NULL;
    *n_ids = 0;
    const size_t valid = utf8_valid_prefix(text, length);
    if (valid != length)
        return rb_fail(err, RB_EFORMAT, "text: invalid UTF-8 at byte offset %zu (byte 0x%02x)", valid,
                       (unsigned)(unsigned char)text[valid]);
    RB_TRY(st, pretokenizer_scratch_new(&e.split, err), done);
    RB_TRY(st, bpe_scratch_new(&e.merge, err), done);
    RB_TRY(st, id_list_reserve(&e.ids, length / 4 + 16, err), done);
    split_scratch_begin(pretokenizer_split_scratch(e.split), length);
    size_t n_first = 0;
    if (length > 0) utf8_first(text, length, &n_first);
    RB_TRY(st, encode_added(&e, ADDED_RAW, (text_stretch){text, length, n_first}, encode_raw, err), done);
    warn_of_dropped(bpe_scratch_dropped(e.merge));
    *ids = e.ids.at;
    *n_ids = (int64_t)e.ids.n;
    e.ids.at = NULL;
done:
    pretokenizer_scratch_free(e.split);
    bpe_scratch_free(e.merge);
    free(e.ids.at);
    return st;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

const char *tokenizer_token_bytes(const tokenizer *t, int32_t id, size_t *length)
{
    return token_bytes_at(t->bytes, id, length);
}
int64_t tokenizer_vocab_size(const tokenizer *t) { return token_bytes_n_ids(t->bytes); }

int32_t tokenizer_find(const tokenizer *t, const char *token)
{
    for (int32_t i = 0; i < added_tokens_count(t->added); i++)
        if (strcmp(added_tokens_at(t->added, i)->content, token) == 0) return added_tokens_at(t->added, i)->id;
    return vocabulary_find(bpe_vocabulary(t->bpe), token, strlen(token));
}

const bos_tokens *tokenizer_bos(const tokenizer *t) { return &t->bos; }
