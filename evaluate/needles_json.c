/* See needles_json.h. */
#include "evaluate/needles_json.h"

#include <math.h>
#include <string.h>

#include "core/json.h"

/* ---- what documents are told apart by -------------------------------------------------------- */

static bool same_task(const needle_document *a, const needle_document *b) { return strcmp(a->task, b->task) == 0; }
static bool same_context(const needle_document *a, const needle_document *b) { return a->context == b->context; }
static bool same_depth(const needle_document *a, const needle_document *b)
{
    return a->depth == b->depth || (isnan(a->depth) && isnan(b->depth));
}

static rb_status add_task(cJSON *json, const needle_document *document, rb_error *err)
{
    return rb_json_add_string(json, "task", document->task, err);
}
static rb_status add_context(cJSON *json, const needle_document *document, rb_error *err)
{
    return rb_json_add_number(json, "context", document->context > 0 ? (double)document->context : (double)NAN, err);
}
static rb_status add_depth(cJSON *json, const needle_document *document, rb_error *err)
{
    return rb_json_add_number(json, "depth", document->depth, err);
}

typedef struct grouping {
    const char *list;
    bool (*same)(const needle_document *a, const needle_document *b);
    rb_status (*add)(cJSON *json, const needle_document *document, rb_error *err);
} grouping;

static const grouping groupings[] = {
    {"by_task", same_task, add_task}, {"by_context", same_context, add_context}, {"by_depth", same_depth, add_depth}};

/* ---- counting -------------------------------------------------------------------------------- */

/* The needle documents and which of them are right. */
typedef struct needle_answers {
    const needle_documents *documents;
    const bool *is_right, *is_unquantized_right;
} needle_answers;

static bool is_needle(const needle_answers *a, int64_t d) { return a->documents->at[d].kind == DOCUMENT_NEEDLES; }

static bool is_first_of_group(const needle_answers *a, int64_t d, const grouping *by)
{
    for (int64_t i = 0; i < d; i++)
        if (is_needle(a, i) && by->same(&a->documents->at[i], &a->documents->at[d])) return false;
    return is_needle(a, d);
}

/* by NULL: all; else the documents of d's group. */
static rb_status add_counts(cJSON *json, const needle_answers *a, int64_t d, const grouping *by, rb_error *err)
{
    int64_t n = 0, n_right = 0, n_unquantized = 0;
    rb_status st;
    for (int64_t i = d; i < a->documents->n; i++) {
        if (!is_needle(a, i) || (by && !by->same(&a->documents->at[i], &a->documents->at[d]))) continue;
        n++;
        n_right += a->is_right[i];
        n_unquantized += a->is_unquantized_right[i];
    }
    RB_TRY(st, rb_json_add_number(json, "n", (double)n, err), done);
    RB_TRY(st, rb_json_add_number(json, "n_right", (double)n_right, err), done);
    st = rb_json_add_number(json, "n_unquantized", (double)n_unquantized, err);
done:
    return st;
}

static rb_status add_groups(cJSON *json, const needle_answers *a, const grouping *by, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the result");
    for (int64_t d = 0; d < a->documents->n && st == RB_OK; d++) {
        if (!is_first_of_group(a, d, by)) continue;
        RB_TRY(st, rb_json_new_object(&item, err), done);
        RB_TRY(st, by->add(item, &a->documents->at[d], err), done);
        RB_TRY(st, add_counts(item, a, d, by, err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    if (st == RB_OK) st = rb_json_add_item(json, by->list, &list, err);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    return st;
}

rb_status needles_to_json(cJSON **out, const bool *is_right, const bool *is_unquantized_right,
                          const needle_documents *documents, rb_error *err)
{
    const needle_answers a = {documents, is_right, is_unquantized_right};
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, add_counts(*out, &a, 0, NULL, err), done);
    for (size_t i = 0; i < RB_COUNT(groupings); i++) RB_TRY(st, add_groups(*out, &a, &groupings[i], err), done);
done:
    return st;
}
