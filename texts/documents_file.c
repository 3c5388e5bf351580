/* Documents files: see texts/documents_file.h. */
#include "texts/documents_file.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"

static const char *const kind_names[] = {[DOCUMENT_NEEDLES] = "needles", [DOCUMENT_UNDERSTANDING] = "understanding"};

/* ---- writing --------------------------------------------------------------------------------- */

static rb_status add_tokens(cJSON *json, const needle_document *document, rb_error *err)
{
    double *ids = NULL;
    if (document->n_tokens > INT_MAX)
        return rb_fail(err, RB_EINVAL, "a document of %lld tokens, expected at most %d", (long long)document->n_tokens,
                       INT_MAX);
    rb_status st = rb_alloc(&ids, (size_t)document->n_tokens, sizeof *ids, "a document's token ids", err);
    if (st != RB_OK) return st;
    for (int64_t t = 0; t < document->n_tokens; t++) ids[t] = document->tokens[t];
    st = rb_json_add_numbers(json, "tokens", ids, (int)document->n_tokens, err);
    free(ids);
    return st;
}

static rb_status append_span(cJSON *list, const answer_span *span, rb_error *err)
{
    cJSON *pair = cJSON_CreateDoubleArray((const double[]){(double)span->first, (double)span->n}, 2);
    return rb_json_append(list, &pair, err);
}

static rb_status document_to_json(cJSON **out, const needle_document *document, rb_error *err)
{
    cJSON *json = NULL, *answers = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    if (document->kind == DOCUMENT_UNDERSTANDING)
        RB_TRY(st, rb_json_add_string(json, "kind", kind_names[document->kind], err), done);
    RB_TRY(st, rb_json_add_string(json, "task", document->task, err), done);
    RB_TRY(st, rb_json_add_number(json, "depth", document->depth, err), done); /* NaN becomes null */
    RB_TRY(st,
           rb_json_add_number(json, "context", document->context > 0 ? (double)document->context : (double)NAN, err),
           done);
    RB_TRY(st, add_tokens(json, document, err), done);
    answers = cJSON_CreateArray();
    if (!answers) {
        st = rb_fail(err, RB_ENOMEM, "out of memory for a document's answers");
        goto done;
    }
    for (int i = 0; i < document->n_answers; i++) RB_TRY(st, append_span(answers, &document->answers[i], err), done);
    RB_TRY(st, rb_json_add_item(json, "answers", &answers, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(answers);
    cJSON_Delete(json);
    return st;
}

rb_status documents_write(const needle_documents *documents, const char *path, rb_error *err)
{
    cJSON *json = NULL, *list = NULL, *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", DOCUMENTS_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(json, "version", DOCUMENTS_VERSION, err), done);
    list = cJSON_CreateArray();
    if (!list) {
        st = rb_fail(err, RB_ENOMEM, "out of memory for documents");
        goto done;
    }
    for (int64_t i = 0; i < documents->n; i++) {
        RB_TRY(st, document_to_json(&item, &documents->at[i], err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    RB_TRY(st, rb_json_add_item(json, "documents", &list, err), done);
    st = rb_json_write(json, path, err);
done:
    cJSON_Delete(list);
    cJSON_Delete(json);
    return st;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* where: "FILE: documents[3]" */
static rb_status read_tokens(needle_document *out, const cJSON *json, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    rb_status st = rb_json_get_array(json, "tokens", where, &list, err);
    if (st != RB_OK) return st;
    st = rb_alloc(&out->tokens, (size_t)cJSON_GetArraySize(list), sizeof *out->tokens, "a document's token ids", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        const double id = cJSON_IsNumber(item) ? item->valuedouble : -1.0;
        if (!(id >= 0.0 && id <= INT32_MAX && id == floor(id)))
            return rb_fail(err, RB_EFORMAT, "%s: tokens[%lld] is no token id (a whole number from 0)", where,
                           (long long)out->n_tokens);
        out->tokens[out->n_tokens++] = (int32_t)id;
    }
    return RB_OK;
}

static bool is_whole_number(const cJSON *item)
{
    return cJSON_IsNumber(item) && item->valuedouble == floor(item->valuedouble) && fabs(item->valuedouble) <= INT_MAX;
}

static rb_status read_span(answer_span *out, const cJSON *pair, int64_t n_tokens, int answer, const char *where,
                           rb_error *err)
{
    const cJSON *first = cJSON_GetArrayItem(pair, 0), *n = cJSON_GetArrayItem(pair, 1);
    if (!cJSON_IsArray(pair) || cJSON_GetArraySize(pair) != 2 || !is_whole_number(first) || !is_whole_number(n))
        return rb_fail(err, RB_EFORMAT,
                       "%s: answers[%d] is no pair of whole numbers, expected [first token, number of tokens]", where,
                       answer);
    *out = (answer_span){.first = (int64_t)first->valuedouble, .n = (int64_t)n->valuedouble};
    if (out->first < 1 || out->n < 1 || out->first + out->n > n_tokens)
        return rb_fail(err, RB_EINVAL,
                       "%s: answers[%d] is [%lld, %lld], expected at least one token behind the first and within the "
                       "%lld of the document",
                       where, answer, (long long)out->first, (long long)out->n, (long long)n_tokens);
    return RB_OK;
}

static rb_status read_answers(needle_document *out, const cJSON *json, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    rb_status st = rb_json_get_array(json, "answers", where, &list, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(list) == 0)
        return rb_fail(err, RB_EFORMAT, "%s: answers is an empty list, expected at least one answer", where);
    st = rb_alloc(&out->answers, (size_t)cJSON_GetArraySize(list), sizeof *out->answers, "a document's answers", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        st = read_span(&out->answers[out->n_answers], item, out->n_tokens, out->n_answers, where, err);
        if (st != RB_OK) return st;
        out->n_answers++;
    }
    return RB_OK;
}

/* Absent: needles. */
static rb_status read_kind(document_kind *out, const cJSON *json, const char *where, rb_error *err)
{
    const char *kind;
    if (!rb_json_find(json, "kind")) return RB_OK;
    const rb_status st = rb_json_get_string(json, "kind", where, &kind, err);
    if (st != RB_OK) return st;
    for (size_t i = 0; i < RB_COUNT(kind_names); i++) {
        *out = (document_kind)i;
        if (strcmp(kind, kind_names[i]) == 0) return RB_OK;
    }
    return rb_fail(err, RB_EFORMAT, "%s: kind is \"%.32s\", expected \"%s\" or \"%s\"", where, kind, kind_names[0],
                   kind_names[1]);
}

static rb_status read_document(needle_document *out, const cJSON *json, const char *where, rb_error *err)
{
    static const char *const known[] = {"kind", "task", "depth", "context", "tokens", "answers", NULL};
    const char *task;
    rb_status st;
    RB_TRY(st, rb_json_get_string(json, "task", where, &task, err), done);
    RB_TRY(st, rb_json_check_members(json, where, known, err), done);
    RB_TRY(st, read_kind(&out->kind, json, where, err), done);
    if (task[0] == '\0' || strlen(task) > NEEDLE_MAX_TASK_NAME) {
        st = rb_fail(err, RB_EFORMAT, "%s: task is a name of %zu bytes, expected 1 to %d", where, strlen(task),
                     NEEDLE_MAX_TASK_NAME);
        goto done;
    }
    if (!rb_is_plain_text(task)) {
        st = rb_fail(err, RB_EFORMAT, "%s: task is \"%s\", expected text without control characters", where, task);
        goto done;
    }
    memcpy(out->task, task, strlen(task) + 1);
    out->depth = (double)NAN;
    if (rb_json_find(json, "depth"))
        RB_TRY(st, rb_json_get_number(json, "depth", where, 0.0, 1.0, &out->depth, err), done);
    if (rb_json_find(json, "context"))
        RB_TRY(st, rb_json_get_int(json, "context", where, 1, INT32_MAX, &out->context, err), done);
    RB_TRY(st, read_tokens(out, json, where, err), done);
    st = read_answers(out, json, where, err);
done:
    return st;
}

rb_status documents_read(needle_documents *out, const char *path, rb_error *err)
{
    static const char *const known[] = {"schema", "version", "documents", NULL};
    cJSON *document = NULL;
    const cJSON *list, *item;
    char *where = NULL;
    rb_status st;
    *out = (needle_documents){0};
    RB_TRY(st, rb_json_read(&document, path, 0, err), done);
    RB_TRY(st, rb_json_check_schema(document, path, DOCUMENTS_SCHEMA, DOCUMENTS_VERSION, err), done);
    RB_TRY(st, rb_json_check_members(document, path, known, err), done);
    RB_TRY(st, rb_json_get_array(document, "documents", path, &list, err), done);
    if (cJSON_GetArraySize(list) == 0) {
        st = rb_fail(err, RB_EFORMAT, "%s: documents is an empty list, expected at least one document", path);
        goto done;
    }
    RB_TRY(st, rb_alloc(&out->at, (size_t)cJSON_GetArraySize(list), sizeof *out->at, "documents", err), done);
    cJSON_ArrayForEach (item, list) {
        free(where);
        where = NULL;
        RB_TRY(st, rb_format(&where, err, "%s: documents[%lld]", path, (long long)out->n), done);
        RB_TRY(st, read_document(&out->at[out->n++], item, where, err), done);
    }
done:
    free(where);
    cJSON_Delete(document);
    if (st != RB_OK) needle_documents_free(out);
    return st;
}
