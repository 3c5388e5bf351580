/* See projection_run.h. */
#include "export/runtimes/projection_run.h"

#include <assert.h>
#include <stdlib.h>

#include "core/json.h"

static rb_status measure(projection_run *run, const char *capture_path, codec_tables *tables, rb_error *err)
{
    capture_file *capture = NULL;
    rb_status st;
    RB_TRY(st, capture_open(&capture, capture_path, err), done);
    RB_TRY(st,
           projection_measure(run->losses, run->plan, (const projection *const *)run->at, run->n, capture, tables, err),
           done);
done:
    capture_close(capture);
    return st;
}

rb_status projection_run_create(projection_run *run, const bit_plan *plan, const char *plan_name, const runtime_id *ids,
                                int n, bool may_be_larger, const char *capture_path, rb_error *err)
{
    codec_tables *tables = NULL;
    rb_status st;
    run->plan = plan;
    run->plan_name = plan_name;
    RB_TRY(st, codec_tables_create(&tables, err), done);
    for (; run->n < n; run->n++)
        RB_TRY(st, projection_create(&run->at[run->n], plan, runtime_of(ids[run->n]), may_be_larger, tables, err),
               done);
    if (capture_path) st = measure(run, capture_path, tables, err);
done:
    codec_tables_free(tables);
    return st;
}

void projection_run_clear(projection_run *run)
{
    for (int i = 0; i < run->n; i++) projection_free(run->at[i]);
    for (int i = 0; i < 1 + RUNTIME_N; i++) plan_loss_clear(&run->losses[i]);
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

static void print_mean(FILE *out, const double *by_layer, int n_layers)
{
    if (by_layer) fprintf(out, " %12.4f", plan_loss_mean(by_layer, n_layers));
}

void projection_run_print(FILE *out, const projection_run *run)
{
    const int n_layers = run->plan->model.n_layers;
    const int64_t before = plan_bytes(run);
    const bool is_measured = run->losses[0].logit_mae != NULL, has_values = run->losses[0].value_error != NULL;
    fprintf(out, "\n%-14s %14s %14s%s%s\n", "runtime", "bytes a token", "of the plan's",
            is_measured ? "    logit MAE" : "", has_values ? "  value error" : "");
    for (int i = 0; i <= run->n; i++) {
        const int64_t bytes = i == 0 ? before : projection_bytes(run->at[i - 1]);
        fprintf(out, "%-14s %14lld %14.2f", i == 0 ? "the plan" : run->at[i - 1]->runtime->name, (long long)bytes,
                (double)bytes / (double)before);
        print_mean(out, run->losses[i].logit_mae, n_layers);
        print_mean(out, run->losses[i].value_error, n_layers);
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
static rb_status add_loss(cJSON *item, const char *name, const double *by_layer, int n_layers, rb_error *err)
{
    char *name_by_layer = NULL;
    rb_status st;
    if (!by_layer) return rb_json_add_null(item, name, err);
    RB_TRY(st, rb_json_add_number(item, name, plan_loss_mean(by_layer, n_layers), err), done);
    RB_TRY(st, rb_format(&name_by_layer, err, "%s_by_layer", name), done);
    st = rb_json_add_numbers(item, name_by_layer, by_layer, n_layers, err);
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
    const int n_layers = run->plan->model.n_layers;
    cJSON *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&item, err), done);
    RB_TRY(st, rb_json_add_string(item, "runtime", p->runtime->name, err), done);
    RB_TRY(st, rb_json_add_string(item, "version", p->runtime->version, err), done);
    RB_TRY(st, add_lost(item, run, p, err), done);
    RB_TRY(st, add_bytes(item, run, p, err), done);
    RB_TRY(st, add_loss(item, "plan_logit_mae", run->losses[0].logit_mae, n_layers, err), done);
    RB_TRY(st, add_loss(item, "logit_mae", run->losses[1 + i].logit_mae, n_layers, err), done);
    RB_TRY(st, add_loss(item, "plan_value_error", run->losses[0].value_error, n_layers, err), done);
    RB_TRY(st, add_loss(item, "value_error", run->losses[1 + i].value_error, n_layers, err), done);
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
