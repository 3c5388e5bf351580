/* See tune_request.h. */
#include "tune/tune_request.h"

#include <string.h>

#include "core/json.h"
#include "core/options_json.h"
#include "methods/allocator.h"

/* Needles but for the file of the haystack and the wish for a template: the documents' hash stands for what these
 * became. */
static rb_status add_needles(cJSON *json, const tune_options *options, const evaluate_setup *setup, rb_error *err)
{
    evaluate_options evaluate = options->evaluate;
    rb_option rows[EVALUATE_NEEDLES_N_ROWS];
    const int n = evaluate_needles_rows(rows, &evaluate);
    rb_status st = RB_OK;
    for (int i = 0; i < n && st == RB_OK; i++)
        if (rows[i].kind != RB_OPT_STRING) st = rb_option_to_json(json, &rows[i], err);
    if (st == RB_OK)
        st = rb_json_add_string(json, "needle-template", evaluate_setup_template(setup, &options->evaluate), err);
    return st;
}

static rb_status options_to_json(cJSON **out, const tune_options *options, const evaluate_setup *setup, rb_error *err)
{
    plan_options plan = options->plan;
    rb_option rows[PLAN_OPTIONS_N_ROWS];
    const int n = plan_options_rows(rows, &plan);
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "method", allocation_method_names[plan.method], err), done);
    for (int i = 0; i < n; i++) RB_TRY(st, rb_option_to_json(*out, &rows[i], err), done);
    if (setup->device == RB_DEVICE_CUDA)
        RB_TRY(
            st,
            rb_json_add_string(*out, "precision", options->evaluate.precision == LAYER_CUDA_F32 ? "f32" : "bf16", err),
            done);
    if (options->evaluate.n_needles > 0) st = add_needles(*out, options, setup, err);
done:
    return st;
}

rb_status tune_request_to_json(cJSON **out, const tune_options *options, const evaluate_setup *setup, rb_error *err)
{
    char sha256[RB_SHA256_HEX];
    cJSON *json = NULL, *item = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_sha256_file(sha256, options->profile, err), done);
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, model_facts_to_json(&item, &checkpoint_config(setup->in.model)->facts, err), done);
    RB_TRY(st, rb_json_add_item(json, "model", &item, err), done);
    RB_TRY(st, rb_json_add_string(json, "profile_sha256", sha256, err), done);
    RB_TRY(st, text_facts_to_json(&item, &setup->in.facts, err), done);
    RB_TRY(st, rb_json_add_item(json, "text", &item, err), done);
    RB_TRY(st, rb_json_add_string(json, "device", setup->device == RB_DEVICE_CUDA ? "cuda" : "cpu", err), done);
    RB_TRY(st, options_to_json(&item, options, setup, err), done);
    RB_TRY(st, rb_json_add_item(json, "options", &item, err), done);
    RB_TRY(st, rb_json_add_string(json, "documents_sha256", setup->in.documents_sha256, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(item);
    cJSON_Delete(json);
    return st;
}

const char *tune_request_template(const cJSON *request)
{
    const cJSON *item = rb_json_find(rb_json_find(request, "options"), "needle-template");
    return cJSON_IsString(item) ? item->valuestring : NULL;
}
