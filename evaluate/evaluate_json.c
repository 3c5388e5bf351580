/* See evaluate_json.h. */
#include "evaluate/evaluate_json.h"

#include <math.h>

#include "core/json.h"
#include "core/program.h"
#include "evaluate/evaluation_file.h"
#include "evaluate/needles_json.h"
#include "evaluate/score_json.h"
#include "evaluate/understanding_score.h"
#include "plan/plan_seeds.h"

/* plan NULL: the unquantized run. Its bits are null, and so is what compares a run with it. */
static rb_status run_to_json(cJSON **out, const evaluate_score *score, const evaluate_score *unquantized,
                             const bit_plan *plan, const char *name, const evaluate_request *request, rb_error *err)
{
    const plan_seeds seeds = plan ? plan_seeds_of(plan) : (plan_seeds){0};
    const plan_cost cost = plan ? bit_plan_cost(plan) : (plan_cost){0};
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"avg_bits", plan ? plan->avg_bits : (double)NAN},
                   {"value_bits", plan ? bit_plan_value_range(plan).mean : (double)NAN},
                   {"key_true_bits", plan ? cost.key_true_bits : (double)NAN},
                   {"value_true_bits", plan ? cost.value_true_bits : (double)NAN},
                   {"sink", plan ? (double)plan->n_sink : (double)NAN},
                   {"recent", plan ? (double)plan->n_recent : (double)NAN},
                   {"n_predicted", (double)score->text.n},
                   {"perplexity", score->text.perplexity},
                   {"nll", score->text.nll},
                   {"kl_mean", score->text.kl_mean},
                   {"kl_p99", score->text.kl_p99},
                   {"kl_p999", score->text.kl_p999},
                   {"kl_max", score->text.kl_max},
                   {"top1_agreement", score->text.top1_agreement},
                   {"attention_kl", score->attention_kl},
                   {"attention_overlap", score->attention_overlap},
                   {"output_error", score->output_error}};
    const model_facts *model = &checkpoint_config(request->model)->facts;
    const needle_documents *documents = request->documents;
    cJSON *needles = NULL, *understanding = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "name", name, err), done);
    RB_TRY(st, rb_json_add_string(*out, "method", plan ? plan->method : "none", err), done);
    for (size_t i = 0; i < RB_COUNT(numbers); i++)
        RB_TRY(st, rb_json_add_number(*out, numbers[i].name, numbers[i].value, err), done);
    if (plan) RB_TRY(st, plan_seeds_add(*out, &seeds, err), done);
    RB_TRY(st, score_lists_to_json(*out, score, model->n_layers, model->n_q_heads, err), done);
    if (needle_documents_count(documents, DOCUMENT_NEEDLES) > 0) {
        RB_TRY(st, needles_to_json(&needles, score->is_right, unquantized->is_right, documents, err), done);
        RB_TRY(st, rb_json_add_item(*out, "needles", &needles, err), done);
    } else {
        RB_TRY(st, rb_json_add_null(*out, "needles", err), done);
    }
    if (needle_documents_count(documents, DOCUMENT_UNDERSTANDING) > 0) {
        RB_TRY(st, understanding_to_json(&understanding, documents, score->answers, err), done);
        st = rb_json_add_item(*out, "understanding", &understanding, err);
    } else {
        st = rb_json_add_null(*out, "understanding", err);
    }
done:
    cJSON_Delete(needles);
    cJSON_Delete(understanding);
    return st;
}

rb_status evaluate_to_json(cJSON **out, const evaluate_result *result, const evaluate_request *request,
                           char (*names)[EVALUATION_NAME_SIZE], const text_facts *text, const char *documents_sha256,
                           cJSON **options, rb_error *err)
{
    const model_facts *model = &checkpoint_config(request->model)->facts;
    cJSON *item = NULL, *list = cJSON_CreateArray();
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the result");
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "schema", EVALUATION_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(*out, "version", EVALUATION_VERSION, err), done);
    RB_TRY(st, rb_json_add_string(*out, "tool_version", rb_tool_version(), err), done);
    RB_TRY(st, model_facts_to_json(&item, model, err), done);
    RB_TRY(st, rb_json_add_item(*out, "model", &item, err), done);
    RB_TRY(st, text_facts_to_json(&item, text, err), done);
    RB_TRY(st, rb_json_add_item(*out, "text", &item, err), done);
    if (documents_sha256[0] != '\0')
        RB_TRY(st, rb_json_add_string(*out, "documents_sha256", documents_sha256, err), done);
    else RB_TRY(st, rb_json_add_null(*out, "documents_sha256", err), done);
    RB_TRY(st, rb_json_add_item(*out, "options", options, err), done);
    for (int run = 0; run < result->n_runs; run++) {
        const bit_plan *plan = run > 0 ? request->plans[run - 1] : NULL;
        RB_TRY(st,
               run_to_json(&item, &result->runs[run], &result->runs[0], plan,
                           plan ? names[run - 1] : EVALUATION_UNQUANTIZED, request, err),
               done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    st = rb_json_add_item(*out, "runs", &list, err);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    cJSON_Delete(*options);
    *options = NULL;
    return st;
}
