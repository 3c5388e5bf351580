/* See projection_run.h. */
#include "export/runtimes/projection_run.h"

#include <assert.h>
#include <stdlib.h>

#include "core/json.h"

/* Tokens of the calibration text that a choice is made by. */
enum { CHOICE_TOKENS = 1024, MAX_CANDIDATES = 1 + RUNTIME_N * RUNTIME_MAX_TYPES };

/* ---- costs by measured errors ---------------------------------------------------------------- */

typedef struct type_errors {
    int n;
    loss_candidate candidates[MAX_CANDIDATES]; /* the plan, then every type of every runtime */
    head_losses losses[MAX_CANDIDATES];
} type_errors;

static const head_losses *losses_of(const type_errors *errors, const runtime *r, int type)
{
    int i = 1;
    while (errors->candidates[i].runtime != r || errors->candidates[i].type != type) i++;
    return &errors->losses[i];
}

static void clear_errors(type_errors *errors)
{
    for (int i = 0; i < errors->n; i++) head_losses_clear(&errors->losses[i]);
    free(errors);
}

static rb_status measure_types(type_errors **out, const bit_plan *plan, const runtime_id *ids, int n,
                               const capture_file *capture, codec_tables *tables, rb_error *err)
{
    type_errors *errors = NULL;
    rb_status st = rb_alloc(&errors, 1, sizeof *errors, "errors of types", err);
    *out = errors;
    if (st != RB_OK) return st;
    errors->n = 1;
    for (int i = 0; i < n; i++)
        for (int type = 0; type < runtime_of(ids[i])->n_types; type++)
            if (runtime_codes(runtime_of(ids[i]), type, &plan->model))
                errors->candidates[errors->n++] = (loss_candidate){NULL, runtime_of(ids[i]), type};
    return measure_losses(errors->losses, plan, errors->candidates, errors->n, capture, CAPTURE_CALIBRATION,
                          CHOICE_TOKENS, tables, "export: types", err);
}

static void take_errors(projection_costs *costs, const type_errors *errors, const runtime *r, const model_facts *model)
{
    const head_losses *plan = &errors->losses[0], *fp16 = losses_of(errors, r, RUNTIME_FP16_TYPE);
    for (int type = 0; type < r->n_types; type++) {
        if (!runtime_codes(r, type, model)) continue;
        const head_losses *losses = losses_of(errors, r, type);
        for (int h = 0; h < costs->n_heads; h++) {
            projection_cost_measure(costs, SIDE_KEYS, h, type, plan->logit_mae[h], fp16->logit_mae[h],
                                    losses->logit_mae[h]);
            if (plan->value_error)
                projection_cost_measure(costs, SIDE_VALUES, h, type, plan->value_error[h], fp16->value_error[h],
                                        losses->value_error[h]);
        }
    }
}

/* ---- the run --------------------------------------------------------------------------------- */

/* errors: NULL: none were measured. */
static rb_status project(projection **out, const bit_plan *plan, const runtime *r, bool may_be_larger,
                         const type_errors *errors, codec_tables *tables, rb_error *err)
{
    projection_costs costs = {0};
    rb_status st;
    RB_TRY(st, projection_costs_create(&costs, plan, r, tables, err), done);
    if (errors) take_errors(&costs, errors, r, &plan->model);
    RB_TRY(st, projection_create(out, plan, r, &costs, may_be_larger, err), done);
done:
    projection_costs_clear(&costs);
    return st;
}

static rb_status measure_projections(projection_run *run, const capture_file *capture, codec_tables *tables,
                                     rb_error *err)
{
    loss_candidate candidates[1 + RUNTIME_N] = {{0}};
    for (int i = 0; i < run->n; i++) candidates[1 + i].projection = run->at[i];
    return measure_losses(run->losses, run->plan, candidates, 1 + run->n, capture, CAPTURE_TEST, 0, tables,
                          "export: loss", err);
}

rb_status projection_run_create(projection_run *run, const bit_plan *plan, const char *plan_name, const runtime_id *ids,
                                int n, bool may_be_larger, const char *capture_path, rb_error *err)
{
    codec_tables *tables = NULL;
    capture_file *capture = NULL;
    type_errors *errors = NULL;
    rb_status st;
    run->plan = plan;
    run->plan_name = plan_name;
    for (int i = 0; i < n; i++) RB_TRY(st, runtime_check_model(runtime_of(ids[i]), &plan->model, err), done);
    RB_TRY(st, codec_tables_create(&tables, err), done);
    if (capture_path && n > 0) {
        RB_TRY(st, capture_open(&capture, capture_path, err), done);
        RB_TRY(st, measure_types(&errors, plan, ids, n, capture, tables, err), done);
    }
    for (; run->n < n; run->n++)
        RB_TRY(st, project(&run->at[run->n], plan, runtime_of(ids[run->n]), may_be_larger, errors, tables, err), done);
    if (capture) st = measure_projections(run, capture, tables, err);
done:
    if (errors) clear_errors(errors);
    capture_close(capture);
    codec_tables_free(tables);
    return st;
}

void projection_run_clear(projection_run *run)
{
    for (int i = 0; i < run->n; i++) projection_free(run->at[i]);
    for (int i = 0; i < 1 + RUNTIME_N; i++) head_losses_clear(&run->losses[i]);
    *run = (projection_run){0};
}

rb_status projection_run_write(const projection_run *run, runtime_id id, const char *path, rb_error *err)
{
    int i = 0;
    while (i < run->n && run->at[i]->runtime->id != id) i++;
    assert(i < run->n);
    return projection_write(
        &(projection_report){run->plan, run->at[i], run->plan_name, &run->losses[0], &run->losses[1 + i]}, path, err);
}

/* ---- the table ------------------------------------------------------------------------------- */

static int64_t plan_bytes(const projection_run *run)
{
    int64_t bytes = 0;
    for (int layer = 0; layer < run->plan->model.n_layers; layer++)
        bytes += projection_plan_layer_bytes(run->plan, layer);
    return bytes;
}

void projection_run_print(FILE *out, const projection_run *run)
{
    const model_facts *model = &run->plan->model;
    const int64_t before = plan_bytes(run);
    const bool is_measured = run->losses[0].logit_mae != NULL, has_values = run->losses[0].value_error != NULL;
    fprintf(out, "\n%-14s %14s %14s%s%s\n", "runtime", "bytes a token", "of the plan's",
            is_measured ? "    logit MAE" : "", has_values ? "  value error" : "");
    for (int i = 0; i <= run->n; i++) {
        const int64_t bytes = i == 0 ? before : projection_bytes(run->at[i - 1]);
        fprintf(out, "%-14s %14lld %14.2f", i == 0 ? "the plan" : run->at[i - 1]->runtime->name, (long long)bytes,
                (double)bytes / (double)before);
        if (is_measured) fprintf(out, " %12.4f", mean_loss(run->losses[i].logit_mae, model, -1));
        if (has_values) fprintf(out, " %12.4f", mean_loss(run->losses[i].value_error, model, -1));
        fprintf(out, "\n");
    }
    if (!is_measured) fprintf(out, "the loss was not measured: --capture CAPTURE.h5 measures it\n");
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static rb_status add_bytes(cJSON *item, const projection_run *run, const projection *p, rb_error *err)
{
    double before[MODEL_FACTS_MAX_LAYERS], after[MODEL_FACTS_MAX_LAYERS];
    const int n = run->plan->model.n_layers;
    rb_status st;
    for (int layer = 0; layer < n; layer++) {
        before[layer] = (double)projection_plan_layer_bytes(run->plan, layer);
        after[layer] = (double)projection_layer_bytes(p, layer);
    }
    RB_TRY(st, rb_json_add_number(item, "plan_bytes_per_token", (double)plan_bytes(run), err), done);
    RB_TRY(st, rb_json_add_number(item, "bytes_per_token", (double)projection_bytes(p), err), done);
    RB_TRY(st, rb_json_add_numbers(item, "plan_bytes_by_layer", before, n, err), done);
    st = rb_json_add_numbers(item, "bytes_by_layer", after, n, err);
done:
    return st;
}

/* "NAME" and "NAME_by_layer"; null where it was not measured. */
static rb_status add_loss(cJSON *item, const char *name, const double *losses, const model_facts *model, rb_error *err)
{
    double by_layer[MODEL_FACTS_MAX_LAYERS];
    char *name_by_layer = NULL;
    rb_status st;
    if (!losses) return rb_json_add_null(item, name, err);
    for (int layer = 0; layer < model->n_layers; layer++) by_layer[layer] = mean_loss(losses, model, layer);
    RB_TRY(st, rb_json_add_number(item, name, mean_loss(losses, model, -1), err), done);
    RB_TRY(st, rb_format(&name_by_layer, err, "%s_by_layer", name), done);
    st = rb_json_add_numbers(item, name_by_layer, by_layer, model->n_layers, err);
done:
    free(name_by_layer);
    return st;
}

static rb_status add_lost(cJSON *item, const projection_run *run, const projection *p, rb_error *err)
{
    char lost[PROJECTION_MAX_LOST][PROJECTION_LOST_SIZE];
    const char *lines[PROJECTION_MAX_LOST];
    const int n = projection_describe_lost(lost, p, run->plan);
    for (int i = 0; i < n; i++) lines[i] = lost[i];
    cJSON *list = cJSON_CreateStringArray(lines, n);
    if (!list) return rb_fail(err, RB_ENOMEM, "out of memory for the result");
    return rb_json_add_item(item, "cannot_carry", &list, err);
}

static rb_status projection_to_json(cJSON **out, const projection_run *run, int i, rb_error *err)
{
    const projection *p = run->at[i];
    const model_facts *model = &run->plan->model;
    cJSON *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&item, err), done);
    RB_TRY(st, rb_json_add_string(item, "runtime", p->runtime->name, err), done);
    RB_TRY(st, rb_json_add_string(item, "version", p->runtime->version, err), done);
    RB_TRY(st, add_lost(item, run, p, err), done);
    RB_TRY(st, add_bytes(item, run, p, err), done);
    RB_TRY(st, add_loss(item, "plan_logit_mae", run->losses[0].logit_mae, model, err), done);
    RB_TRY(st, add_loss(item, "logit_mae", run->losses[1 + i].logit_mae, model, err), done);
    RB_TRY(st, add_loss(item, "plan_value_error", run->losses[0].value_error, model, err), done);
    RB_TRY(st, add_loss(item, "value_error", run->losses[1 + i].value_error, model, err), done);
    *out = item;
    item = NULL;
done:
    cJSON_Delete(item);
    return st;
}

rb_status projection_run_to_json(cJSON **out, const projection_run *run, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the result");
    for (int i = 0; i < run->n && st == RB_OK; i++) {
        st = projection_to_json(&item, run, i, err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
    }
    if (st == RB_OK) {
        *out = list;
        list = NULL;
    }
    cJSON_Delete(list);
    return st;
}
