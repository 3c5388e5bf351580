/* See evaluate/needle_choice.h. */
#include "evaluate/needle_choice.h"

#include "core/json.h"
#include "core/message.h"
#include "evaluate/evaluate_run.h"

static int at_least_one(int n) { return n > 0 ? n : 1; }

static int64_t repeats_of(const evaluate_options *opt)
{
    const int n = opt->needle_tasks.n * at_least_one(opt->needle_contexts.n) * at_least_one(opt->depths.n);
    const int64_t wanted = (NEEDLE_CHOICE_DOCUMENTS + n - 1) / n;
    return wanted < opt->n_needles ? wanted : opt->n_needles;
}

/* The documents of all templates, one template after the other. One whose words take more room than a context has is
 * left out, unless all do. */
static rb_status make_trials(needle_choice *out, needle_documents *documents, const evaluate_inputs *in,
                             const evaluate_options *opt, rb_error *err)
{
    const char *name;
    rb_error first = {0};
    for (int i = 0; out->n < NEEDLE_CHOICE_MAX && (name = needle_template_builtin(i)) != NULL; i++) {
        needle_documents own = {0};
        rb_error mine = {0};
        rb_status st = evaluate_inputs_make_needles(&own, in, opt, name, repeats_of(opt), &mine);
        if (st == RB_OK) {
            out->trials[out->n++] = (needle_trial){.name = name, .n = own.n};
            st = needle_documents_append(documents, &own, &mine);
        } else if (st == RB_EINVAL) {
            rb_message_info("needles: template %s is left out: %s", name, mine.msg);
            if (first.msg[0] == '\0') first = mine;
            st = RB_OK;
        }
        needle_documents_free(&own);
        if (st != RB_OK) return rb_fail(err, st, "%s", mine.msg);
    }
    return out->n > 0 ? RB_OK : rb_fail(err, RB_EINVAL, "%s", first.msg);
}

static void count(needle_choice *out, const evaluate_score *score)
{
    int64_t d = 0;
    for (int i = 0; i < out->n; i++) {
        needle_trial *trial = &out->trials[i];
        int64_t n_tokens = 0;
        for (const int64_t end = d + trial->n; d < end; d++) {
            trial->n_right += score->is_right[d];
            trial->nll += score->answers[d].nll;
            n_tokens += score->answers[d].n;
        }
        trial->nll /= (double)n_tokens;
    }
}

static bool is_better(const needle_trial *a, const needle_trial *b)
{
    return a->n_right != b->n_right ? a->n_right > b->n_right : a->nll < b->nll;
}

rb_status needle_choice_make(needle_choice *out, const evaluate_inputs *in, const evaluate_options *opt,
                             const evaluate_request *how, rb_error *err)
{
    needle_documents documents = {0};
    evaluate_result result = {0};
    evaluate_request request = *how;
    rb_status st;
    *out = (needle_choice){0};
    RB_TRY(st, make_trials(out, &documents, in, opt, err), done);
    RB_TRY(st,
           needle_documents_check_vocabulary(&documents, checkpoint_config(in->model)->vocab_size, "needle documents",
                                             err),
           done);
    request.n_plans = 0;
    request.n_text = 0;
    request.documents = &documents;
    RB_TRY(st, evaluate_plans(&result, &request, err), done);
    count(out, &result.runs[0]);
    for (int i = 1; i < out->n; i++)
        if (is_better(&out->trials[i], &out->trials[out->best])) out->best = i;
done:
    evaluate_result_free(&result);
    needle_documents_free(&documents);
    return st;
}

static rb_status append_trial(cJSON *list, const needle_trial *trial, rb_error *err)
{
    cJSON *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&item, err), done);
    RB_TRY(st, rb_json_add_string(item, "name", trial->name, err), done);
    RB_TRY(st, rb_json_add_number(item, "n", (double)trial->n, err), done);
    RB_TRY(st, rb_json_add_number(item, "n_right", (double)trial->n_right, err), done);
    RB_TRY(st, rb_json_add_number(item, "nll", trial->nll, err), done);
    st = rb_json_append(list, &item, err);
done:
    cJSON_Delete(item);
    return st;
}

rb_status needle_choice_to_json(cJSON *json, const needle_choice *choice, rb_error *err)
{
    cJSON *list = cJSON_CreateArray();
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the result");
    for (int i = 0; i < choice->n && st == RB_OK; i++) st = append_trial(list, &choice->trials[i], err);
    if (st == RB_OK) st = rb_json_add_item(json, "needle_templates", &list, err);
    cJSON_Delete(list);
    return st;
}
