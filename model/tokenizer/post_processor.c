/* Beginning-of-text tokens of a tokenizer.json: see post_processor.h. */
#include "model/tokenizer/post_processor.h"

#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "model/tokenizer/vocabulary.h"

static rb_status add_id(bos_tokens *out, const cJSON *item, const char *where, rb_error *err)
{
    const double id = cJSON_IsNumber(item) ? item->valuedouble : -1.0;
    if (!(id >= 0 && id <= VOCABULARY_MAX_ID && id == (double)(int32_t)id))
        return rb_fail(err, RB_EFORMAT, "%s: expected a token id from 0 to %d", where, VOCABULARY_MAX_ID);
    if (out->n == BOS_MAX_TOKENS)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: more than %d tokens ahead of the text", where, BOS_MAX_TOKENS);
    out->ids[out->n++] = (int32_t)id;
    return RB_OK;
}

/* The ids of one special token of a template. */
static rb_status add_special(bos_tokens *out, const cJSON *object, const cJSON *piece, const char *where, rb_error *err)
{
    const cJSON *tokens, *token, *ids, *id;
    const char *name;
    rb_status st;
    RB_TRY(st, rb_json_get_string(piece, "id", where, &name, err), done);
    RB_TRY(st, rb_json_get_object(object, "special_tokens", where, &tokens, err), done);
    if (!rb_json_find(tokens, name))
        return rb_fail(err, RB_EFORMAT, "%s: special_tokens has no \"%.64s\", which single names", where, name);
    RB_TRY(st, rb_json_get_object(tokens, name, where, &token, err), done);
    RB_TRY(st, rb_json_get_array(token, "ids", where, &ids, err), done);
    cJSON_ArrayForEach (id, ids) RB_TRY(st, add_id(out, id, where, err), done);
done:
    return st;
}

static rb_status read_template(bos_tokens *out, const cJSON *object, const char *where, rb_error *err)
{
    const cJSON *pieces, *piece;
    rb_status st;
    RB_TRY(st, rb_json_get_array(object, "single", where, &pieces, err), done);
    cJSON_ArrayForEach (piece, pieces) {
        const cJSON *special = rb_json_find(piece, "SpecialToken");
        if (!special) break; /* the text itself: what follows stands after it */
        RB_TRY(st, add_special(out, object, special, where, err), done);
    }
done:
    return st;
}

/* "cls": ["<s>", 0] */
static rb_status read_cls(bos_tokens *out, const cJSON *object, const char *where, rb_error *err)
{
    const cJSON *cls;
    const rb_status st = rb_json_get_array(object, "cls", where, &cls, err);
    return st == RB_OK ? add_id(out, cJSON_GetArrayItem(cls, 1), where, err) : st;
}

static rb_status read_component(bos_tokens *out, const cJSON *object, const char *where, rb_error *err);

static rb_status read_sequence(bos_tokens *out, const cJSON *object, const char *where, rb_error *err)
{
    const cJSON *steps, *step;
    int index = 0;
    rb_status st;
    RB_TRY(st, rb_json_get_array(object, "processors", where, &steps, err), done);
    cJSON_ArrayForEach (step, steps) {
        const bos_tokens before = *out;
        char place[64];
        snprintf(place, sizeof place, "post_processor.processors[%d]", index++);
        *out = (bos_tokens){0};
        RB_TRY(st, read_component(out, step, place, err), done);
        if (out->n + before.n > BOS_MAX_TOKENS)
            return rb_fail(err, RB_EUNSUPPORTED, "%s: more than %d tokens ahead of the text", place, BOS_MAX_TOKENS);
        memcpy(out->ids + out->n, before.ids, (size_t)before.n * sizeof *out->ids);
        out->n += before.n;
    }
done:
    return st;
}

static rb_status read_component(bos_tokens *out, const cJSON *object, const char *where, rb_error *err)
{
    const bool is_inner = strcmp(where, "post_processor") != 0;
    const char *type;
    const rb_status st = rb_json_get_string(object, "type", where, &type, err);
    if (st != RB_OK) return st;
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(out, object, where, err);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        return read_cls(out, object, where, err);
    if (strcmp(type, "ByteLevel") == 0) return RB_OK;
    if (strcmp(type, "Sequence") == 0 && !is_inner) return read_sequence(out, object, where, err);
    return rb_fail(err, RB_EUNSUPPORTED,
                   "%s: found %s, supported are TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel and a "
                   "Sequence of these",
                   where, type);
}

rb_status post_processor_read(bos_tokens *out, const cJSON *component, rb_error *err)
{
    *out = (bos_tokens){0};
    return component ? read_component(out, component, "post_processor", err) : RB_OK;
}
