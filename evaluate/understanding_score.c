/* See evaluate/understanding_score.h. */
#include "evaluate/understanding_score.h"

#include <math.h>
#include <string.h>

#include "core/json.h"

static bool is_of(const needle_document *document, const char *task)
{
    return document->kind == DOCUMENT_UNDERSTANDING && strcmp(document->task, task) == 0;
}

static bool is_first_of_task(const needle_documents *documents, int64_t d)
{
    for (int64_t i = 0; i < d; i++)
        if (is_of(&documents->at[i], documents->at[d].task)) return false;
    return documents->at[d].kind == DOCUMENT_UNDERSTANDING;
}

static understanding_score score_task(const needle_documents *documents, const answer_score *answers, const char *task)
{
    understanding_score score = {0};
    int64_t n_tokens = 0, n_same = 0, n_right = 0;
    for (int64_t d = 0; d < documents->n; d++) {
        if (!is_of(&documents->at[d], task)) continue;
        score.n++;
        score.n_right += answers[d].n_right == answers[d].n;
        n_tokens += answers[d].n;
        n_same += answers[d].n_same;
        n_right += answers[d].n_right;
    }
    score.agreement = (double)n_same / (double)n_tokens; /* 0 / 0 is NaN: no documents */
    score.accuracy = (double)n_right / (double)n_tokens;
    return score;
}

understanding_score understanding_score_make(const needle_documents *documents, const answer_score *answers)
{
    understanding_score all = {0};
    int n_tasks = 0;
    for (int64_t d = 0; documents && d < documents->n; d++) {
        if (!is_first_of_task(documents, d)) continue;
        const understanding_score one = score_task(documents, answers, documents->at[d].task);
        all.n += one.n;
        all.n_right += one.n_right;
        all.agreement += one.agreement;
        all.accuracy += one.accuracy;
        n_tasks++;
    }
    all.agreement /= n_tasks; /* 0 / 0 is NaN: no documents */
    all.accuracy /= n_tasks;
    return all;
}

static rb_status add_score(cJSON *json, const understanding_score *score, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_add_number(json, "n", (double)score->n, err), done);
    RB_TRY(st, rb_json_add_number(json, "n_right", (double)score->n_right, err), done);
    RB_TRY(st, rb_json_add_number(json, "agreement", score->agreement, err), done);
    st = rb_json_add_number(json, "accuracy", score->accuracy, err);
done:
    return st;
}

rb_status understanding_to_json(cJSON **out, const needle_documents *documents, const answer_score *answers,
                                rb_error *err)
{
    const understanding_score all = understanding_score_make(documents, answers);
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the result");
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, add_score(*out, &all, err), done);
    for (int64_t d = 0; d < documents->n; d++) {
        const char *task = documents->at[d].task;
        if (!is_first_of_task(documents, d)) continue;
        const understanding_score one = score_task(documents, answers, task);
        RB_TRY(st, rb_json_new_object(&item, err), done);
        RB_TRY(st, rb_json_add_string(item, "task", task, err), done);
        RB_TRY(st, add_score(item, &one, err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    st = rb_json_add_item(*out, "by_task", &list, err);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    return st;
}
