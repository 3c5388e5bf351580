/* A BPE model from the "model" object of tokenizer.json: see bpe.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "model/tokenizer/bpe_tables.h"

/* ---- settings -------------------------------------------------------------------------------- */

static rb_status refuse_string(const cJSON *model, const char *key, rb_error *err)
{
    const char *value;
    if (!rb_json_find(model, key)) return RB_OK;
    const rb_status st = rb_json_get_string(model, key, "model", &value, err);
    if (st != RB_OK || value[0] == '\0') return st;
    return rb_fail(err, RB_EUNSUPPORTED, "model.%s: found \"%.64s\", supported is null", key, value);
}

static rb_status optional_bool(const cJSON *model, const char *key, bool *out, rb_error *err)
{
    *out = false;
    return rb_json_find(model, key) ? rb_json_get_bool(model, key, "model", out, err) : RB_OK;
}

static rb_status refuse_dropout(const cJSON *model, rb_error *err)
{
    double dropout;
    if (!rb_json_find(model, "dropout")) return RB_OK;
    const rb_status st = rb_json_get_number(model, "dropout", "model", 0, 1, &dropout, err);
    if (st != RB_OK || dropout == 0) return st;
    return rb_fail(err, RB_EUNSUPPORTED, "model.dropout: found %g, supported is none: ids must not be random", dropout);
}

/* The `tokenizers` library takes a model without type for the first one that its members fit, which is BPE. */
static rb_status check_type(const cJSON *model, rb_error *err)
{
    const char *type;
    if (!rb_json_find(model, "type")) {
        if (cJSON_IsObject(rb_json_find(model, "vocab")) && cJSON_IsArray(rb_json_find(model, "merges"))) return RB_OK;
        return rb_fail(err, RB_EUNSUPPORTED,
                       "model: found no type and no vocab with merges, supported is BPE, which has them");
    }
    const rb_status st = rb_json_get_string(model, "type", "model", &type, err);
    if (st != RB_OK || strcmp(type, "BPE") == 0) return st;
    return rb_fail(err, RB_EUNSUPPORTED, "model.type: found %s, supported is BPE", type);
}

static rb_status read_settings(bpe *b, const cJSON *model, rb_error *err)
{
    const char *unk = NULL;
    rb_status st;

    RB_TRY(st, check_type(model, err), done);
    RB_TRY(st, refuse_string(model, "continuing_subword_prefix", err), done);
    RB_TRY(st, refuse_string(model, "end_of_word_suffix", err), done);
    RB_TRY(st, refuse_dropout(model, err), done);
    RB_TRY(st, optional_bool(model, "byte_fallback", &b->has_byte_fallback, err), done);
    RB_TRY(st, optional_bool(model, "fuse_unk", &b->fuses_unk, err), done);
    RB_TRY(st, optional_bool(model, "ignore_merges", &b->ignore_merges, err), done);
    if (rb_json_find(model, "unk_token")) RB_TRY(st, rb_json_get_string(model, "unk_token", "model", &unk, err), done);
    if (unk && unk[0]) st = rb_format(&b->unk_token, err, "%s", unk);
done:
    return st;
}

/* ---- merges ---------------------------------------------------------------------------------- */

typedef struct text_span {
    const char *at;
    size_t length;
} text_span;

/* "left right", or ["left", "right"]. */
static rb_status merge_parts(const cJSON *item, int index, text_span *left, text_span *right, rb_error *err)
{
    if (cJSON_IsString(item)) {
        const char *space = strchr(item->valuestring, ' ');
        if (!space || strchr(space + 1, ' '))
            return rb_fail(err, RB_EFORMAT,
                           "model.merges[%d]: found \"%.64s\", expected two tokens with one space between", index,
                           item->valuestring);
        *left = (text_span){item->valuestring, (size_t)(space - item->valuestring)};
        *right = (text_span){space + 1, strlen(space + 1)};
        return RB_OK;
    }
    const cJSON *first = cJSON_IsArray(item) ? item->child : NULL, *second = first ? first->next : NULL;
    if (!second || second->next || !cJSON_IsString(first) || !cJSON_IsString(second))
        return rb_fail(err, RB_EFORMAT, "model.merges[%d]: expected a string or an array of two strings", index);
    *left = (text_span){first->valuestring, strlen(first->valuestring)};
    *right = (text_span){second->valuestring, strlen(second->valuestring)};
    return RB_OK;
}

static rb_status find_token(const bpe *b, const char *text, size_t length, int index, int32_t *id, rb_error *err)
{
    *id = vocabulary_find(b->vocabulary, text, length);
    if (*id >= 0) return RB_OK;
    return rb_fail(err, RB_EFORMAT, "model.merges[%d]: \"%.*s\" is not in the vocabulary", index,
                   (int)(length < 64 ? length : 64), text);
}

/* `joined` has room for two of the longest tokens. */
static rb_status add_merge(bpe *b, const cJSON *item, int index, char *joined, rb_error *err)
{
    text_span left = {0}, right = {0};
    int32_t left_id, right_id, merged;
    rb_status st;

    RB_TRY(st, merge_parts(item, index, &left, &right, err), done);
    RB_TRY(st, find_token(b, left.at, left.length, index, &left_id, err), done);
    RB_TRY(st, find_token(b, right.at, right.length, index, &right_id, err), done);
    memcpy(joined, left.at, left.length);
    memcpy(joined + left.length, right.at, right.length);
    RB_TRY(st, find_token(b, joined, left.length + right.length, index, &merged, err), done);
    /* A pair listed twice has the later rank, as in the `tokenizers` library. */
    const uint64_t pair = bpe_pair(left_id, right_id);
    *bpe_merge_slot(b, pair) = (bpe_merge){pair, (uint32_t)index, merged};
done:
    return st;
}

static rb_status read_merges(bpe *b, const cJSON *merges, rb_error *err)
{
    const int n_merges = cJSON_GetArraySize(merges);
    const cJSON *item;
    char *joined = NULL;
    int index = 0;
    rb_status st;

    if (n_merges == 0)
        return rb_fail(err, RB_EFORMAT, "model.merges: found none; every text would fall into single bytes");
    for (b->merge_bits = 1; ((size_t)1 << b->merge_bits) < 2 * (size_t)n_merges;) b->merge_bits++;
    const size_t n_slots = (size_t)1 << b->merge_bits;
    RB_TRY(st, rb_alloc(&b->merges, n_slots, sizeof *b->merges, "merges", err), done);
    for (size_t i = 0; i < n_slots; i++) b->merges[i].pair = BPE_NO_PAIR;
    RB_TRY(st, rb_alloc(&joined, vocabulary_longest(b->vocabulary), 2, "merged token", err), done);
    cJSON_ArrayForEach (item, merges) RB_TRY(st, add_merge(b, item, index++, joined, err), done);
done:
    free(joined);
    return st;
}

/* ---- the model ------------------------------------------------------------------------------- */

static void find_direct_ids(bpe *b)
{
    for (int32_t c = 0; c < BPE_N_DIRECT; c++) {
        const char two[] = {(char)(0xc0 | c >> 6), (char)(0x80 | (c & 0x3f))}, one = (char)c;
        b->direct_ids[c] = c < 0x80 ? vocabulary_find(b->vocabulary, &one, 1) : vocabulary_find(b->vocabulary, two, 2);
    }
}

static void find_fallback_ids(bpe *b)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8];
        const int size = snprintf(name, sizeof name, "<0x%02X>", byte);
        b->fallback_ids[byte] = vocabulary_find(b->vocabulary, name, (size_t)size);
    }
}

static void find_tokens(bpe *b)
{
    find_direct_ids(b);
    find_fallback_ids(b);
    b->unk_id = b->unk_token ? vocabulary_find(b->vocabulary, b->unk_token, strlen(b->unk_token)) : -1;
}

rb_status bpe_open(bpe **out, const cJSON *model, bool is_byte_level, rb_error *err)
{
    bpe *b = NULL;
    const cJSON *vocab, *merges;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&b, 1, sizeof *b, "BPE model", err), done);
    b->is_byte_level = is_byte_level;
    RB_TRY(st, read_settings(b, model, err), done);
    RB_TRY(st, rb_json_get_object(model, "vocab", "model", &vocab, err), done);
    RB_TRY(st, rb_json_get_array(model, "merges", "model", &merges, err), done);
    RB_TRY(st, vocabulary_open(&b->vocabulary, vocab, "model.vocab", err), done);
    find_tokens(b);
    RB_TRY(st, read_merges(b, merges, err), done);
    *out = b;
    b = NULL;
done:
    bpe_close(b);
    return st;
}

void bpe_close(bpe *b)
{
    if (!b) return;
    vocabulary_close(b->vocabulary);
    free(b->merges);
    free(b->unk_token);
    free(b);
}
