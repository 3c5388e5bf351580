/* See score_json.h. */
#include "evaluate/score_json.h"

#include "core/json.h"

static rb_status new_list(cJSON **out, rb_error *err)
{
    *out = cJSON_CreateArray();
    return *out ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the result");
}

static rb_status add_heads(cJSON *run, const evaluate_score *score, int n_layers, int n_q_heads, rb_error *err)
{
    cJSON *layers = NULL, *heads = NULL;
    rb_status st;
    RB_TRY(st, new_list(&layers, err), done);
    for (int layer = 0; layer < n_layers; layer++) {
        heads = cJSON_CreateDoubleArray(score->output_error_by_head + layer * n_q_heads,
                                        n_q_heads); /* a NaN is printed as null */
        RB_TRY(st, rb_json_append(layers, &heads, err), done);
    }
    st = rb_json_add_item(run, "output_error_by_head", &layers, err);
done:
    cJSON_Delete(layers);
    return st;
}

static rb_status add_positions(cJSON *run, const position_curve *curve, rb_error *err)
{
    cJSON *list = NULL, *item = NULL;
    rb_status st;
    RB_TRY(st, new_list(&list, err), done);
    for (int b = 0; b < curve->n; b++) {
        const position_bin *bin = &curve->at[b];
        RB_TRY(st, rb_json_new_object(&item, err), done);
        RB_TRY(st, rb_json_add_number(item, "first", (double)bin->first, err), done);
        RB_TRY(st, rb_json_add_number(item, "last", (double)bin->last, err), done);
        RB_TRY(st, rb_json_add_number(item, "n", (double)bin->n, err), done);
        RB_TRY(st, rb_json_add_number(item, "kl_mean", bin->kl_mean, err), done);
        RB_TRY(st, rb_json_add_number(item, "nll", bin->nll, err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    st = rb_json_add_item(run, "by_position", &list, err);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    return st;
}

static rb_status add_worst(cJSON *run, const worst_predictions *worst, rb_error *err)
{
    cJSON *list = NULL, *item = NULL;
    rb_status st;
    RB_TRY(st, new_list(&list, err), done);
    for (int i = 0; i < worst->n; i++) {
        const worst_prediction *token = &worst->at[i];
        RB_TRY(st, rb_json_new_object(&item, err), done);
        RB_TRY(st, rb_json_add_number(item, "position", (double)token->position, err), done);
        RB_TRY(st, rb_json_add_number(item, "id", token->id, err), done);
        RB_TRY(st, rb_json_add_string(item, "text", token->text, err), done);
        RB_TRY(st, rb_json_add_string(item, "before", token->before, err), done);
        RB_TRY(st, rb_json_add_number(item, "kl", token->kl, err), done);
        RB_TRY(st, rb_json_add_number(item, "nll", token->nll, err), done);
        RB_TRY(st, rb_json_add_number(item, "unquantized_nll", token->unquantized_nll, err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    st = rb_json_add_item(run, "worst_tokens", &list, err);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    return st;
}

rb_status score_lists_to_json(cJSON *run, const evaluate_score *score, int n_layers, int n_q_heads, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_add_numbers(run, "attention_kl_by_layer", score->attention_kl_by_layer, n_layers, err), done);
    RB_TRY(st, rb_json_add_numbers(run, "attention_overlap_by_layer", score->attention_overlap_by_layer, n_layers, err),
           done);
    RB_TRY(st, rb_json_add_numbers(run, "output_error_by_layer", score->output_error_by_layer, n_layers, err), done);
    RB_TRY(st, add_heads(run, score, n_layers, n_q_heads, err), done);
    RB_TRY(st, add_positions(run, &score->by_position, err), done);
    st = add_worst(run, &score->worst, err);
done:
    return st;
}
