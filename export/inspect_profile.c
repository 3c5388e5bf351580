/* A profile in the terminal or as JSON: export/inspect.h. */
#include <math.h>
#include <stdio.h>

#include "export/inspect.h"
#include "profile/coverage.h"
#include "profile/profile_file.h"
#include "profile/profile_summary.h"

/* The statistics of a layer, borrowed from the profile. */
static inspect_layer layer_of(const profile_table *profile, int layer)
{
    const model_facts *model = &profile->model;
    const int64_t first = (int64_t)layer * model->n_kv_heads;
    const block_statistics statistics = {.n_kv_heads = model->n_kv_heads,
                                         .n_blocks = profile->n_blocks,
                                         .head_dim = model->head_dim,
                                         .q_energy = profile->all.q_energy + first * profile->n_blocks,
                                         .k_energy = profile->all.k_energy + first * profile->n_blocks,
                                         .k_mean = profile->all.k_mean + first * model->head_dim};
    return inspect_layer_of(&statistics);
}

/* ---- for a person ---------------------------------------------------------------------------- */

static rb_status print_facts(const inspect_request *request, const profile_table *profile, rb_error *err)
{
    int64_t size_bytes;
    const rb_status st = inspect_file_size(&size_bytes, request->path, err);
    if (st != RB_OK) return st;
    printf("profile      of capture %.12s...\n", profile->capture_sha256);
    inspect_print_model(&profile->model);
    inspect_print_text("calibration", &profile->calibration);
    inspect_print_text("test", &profile->test);
    printf("size         %.1f MiB\n", (double)size_bytes / 1048576.0);
    printf("values       %s\n",
           profile->all.value_error ? "what quantizing them does is measured" : "not in the capture");
    printf("sensitivity  %s\n",
           profile->sensitivity.key_metric ? "of the outputs, for method trellis" : "not measured");
    return RB_OK;
}

static void print_coverage(const profile_table *profile)
{
    const head_coverage mean = profile_table_coverage(profile);
    if (isnan(mean.key_distance)) return;
    printf("coverage     rare test keys lie %.2f times as far out as calibration's%s\n", mean.key_distance,
           coverage_is_good(&mean) ? "" : ": the test text is not all like the calibration text");
    if (profile->sinks.n_heads > 0)
        printf("sinks        the first token gets %.1f %% of all attention; first tokens that are worth their bytes: "
               "%d\n",
               100.0 * sink_mean(&profile->sinks, profile->sinks.attention, 0), sink_choose(&profile->sinks));
}

static void print_methods(const profile_table *profile)
{
    if (profile->n_methods == 0) return;
    printf("\nmeasured on the test text\n\n%-16s %8s %10s %11s %13s %14s\n", "method", "nominal", "true bits",
           "logit MAE", "attention KL", "heads flagged");
    for (int m = 0; m < profile->n_methods; m++) {
        const method_score *method = &profile->methods[m];
        const head_score mean = method_mean(method, &profile->model, -1);
        printf("%-16s %8g %10.3f %11.4f %13.5f %14d\n", method->method, method->avg_bits, mean.true_bits,
               mean.logit_mae, mean.attention_kl, method_heads_flagged(method, &profile->model));
    }
}

static void print_layers(const inspect_request *request, const profile_table *profile)
{
    inspect_print_layer_head();
    for (int layer = 0; layer < profile->model.n_layers; layer++) {
        const inspect_layer means = layer_of(profile, layer);
        if (inspect_wants_layer(request, layer)) inspect_print_layer(layer, &means);
    }
}

/* ---- for a program --------------------------------------------------------------------------- */

static rb_status layers_to_json(cJSON *json, const inspect_request *request, const profile_table *profile,
                                rb_error *err)
{
    cJSON *layers = cJSON_CreateArray();
    rb_status st = layers ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the document");
    for (int layer = 0; layer < profile->model.n_layers && st == RB_OK; layer++) {
        const inspect_layer means = layer_of(profile, layer);
        if (inspect_wants_layer(request, layer)) st = inspect_layer_to_json(layers, layer, &means, err);
    }
    if (st == RB_OK) return rb_json_add_item(json, "layers", &layers, err);
    cJSON_Delete(layers);
    return st;
}

static rb_status put_json(const inspect_request *request, const profile_table *profile, rb_error *err)
{
    cJSON *json = NULL, *summary = NULL;
    rb_status st;
    RB_TRY(st,
           inspect_begin_json(&json, "profile", request->path, &profile->model, &profile->calibration, &profile->test,
                              err),
           done);
    RB_TRY(st, rb_json_add_string(json, "capture_sha256", profile->capture_sha256, err), done);
    RB_TRY(st, rb_json_add_bool(json, "has_values", profile->all.value_error != NULL, err), done);
    RB_TRY(st, rb_json_add_bool(json, "has_sensitivity", profile->sensitivity.key_metric != NULL, err), done);
    RB_TRY(st, profile_summary_to_json(&summary, profile, err), done);
    RB_TRY(st, rb_json_add_item(json, "summary", &summary, err), done);
    RB_TRY(st, layers_to_json(json, request, profile, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(summary);
    cJSON_Delete(json);
    return st;
}

rb_status inspect_profile(const inspect_request *request, rb_error *err)
{
    profile_table *profile = NULL;
    rb_status st;
    RB_TRY(st, profile_file_read(&profile, request->path, err), done);
    RB_TRY(st, inspect_check_layer(request, &profile->model, err), done);
    if (request->as_json) {
        st = put_json(request, profile, err);
        goto done;
    }
    RB_TRY(st, print_facts(request, profile, err), done);
    print_coverage(profile);
    print_methods(profile);
    print_layers(request, profile);
done:
    profile_table_free(profile);
    return st;
}
