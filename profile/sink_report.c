/* See sink_report.h. */
#include "profile/sink_report.h"

#include "core/json.h"
#include "core/table.h"

enum { LEAST_PRINTED = 4 }; /* positions; and one more than the sinks */

/* ---- for people ------------------------------------------------------------------------------ */

static void add_bin(rb_table *cells, const sink_evidence *e, int bin)
{
    rb_table_add_number(cells, 2, 100.0 * sink_mean(e, e->attention, bin));
    rb_table_add_number(cells, 2, sink_mean(e, e->key_norm, bin));
    rb_table_add_number(cells, 2, sink_mean(e, e->distance, bin));
    if (e->value_norm) rb_table_add_number(cells, 2, sink_mean(e, e->value_norm, bin));
}

static void add_heads(rb_table *cells, const sink_evidence *e)
{
    rb_table_add(cells, "position");
    rb_table_add(cells, "attention, %%");
    rb_table_add(cells, "key norm");
    rb_table_add(cells, "key distance");
    if (e->value_norm) rb_table_add(cells, "value norm");
    rb_table_add(cells, "gain, bits");
    rb_table_add(cells, "cost, bits");
    rb_table_end_row(cells);
}

static rb_status print_positions(FILE *out, const sink_evidence *e, int n_printed, rb_error *err)
{
    rb_table cells = {.n_left = 1};
    add_heads(&cells, e);
    for (int n = 0; n < n_printed; n++) {
        rb_table_add(&cells, "%d", n);
        add_bin(&cells, e, n);
        rb_table_add_number(&cells, 4, sink_gain(e, n + 1));
        rb_table_add_number(&cells, 4, sink_cost(e, n + 1));
        rb_table_end_row(&cells);
    }
    rb_table_add(&cells, "%d and on", SINK_POSITIONS);
    add_bin(&cells, e, SINK_POSITIONS);
    rb_table_end_row(&cells);
    const rb_status st = rb_table_print(out, &cells, err);
    rb_table_free(&cells);
    return st;
}

static void print_others(FILE *out, const profile_table *table)
{
    const other_sinks *others = &table->sinks.others;
    fprintf(out, "other sinks: %lld of %lld tokens", (long long)others->n_tokens,
            (long long)table->calibration.n_tokens);
    if (others->n_tokens > 0)
        fprintf(out, " act so in %.0f %% of the heads, with %.2f %% of all attention there", 100.0 * others->heads,
                100.0 * others->attention);
    for (int i = 0; i < others->n_named; i++) {
        const sink_token *token = &others->named[i];
        fprintf(out, "%s ", i > 0 ? "," : ":");
        if (token->text[0] != '\0') fprintf(out, "\"%s\"", token->text);
        else fprintf(out, "id %d", (int)token->id);
        fprintf(out, " (%lld, %.2f %%)", (long long)token->n, 100.0 * token->attention);
    }
    fprintf(out, "\n");
}

rb_status sink_report_print(FILE *out, const profile_table *table, rb_error *err)
{
    const sink_evidence *e = &table->sinks;
    int n_printed = (int)(table->n_sink < SINK_POSITIONS ? table->n_sink + 1 : SINK_POSITIONS);
    if (e->n_heads == 0) return RB_OK;
    if (n_printed < LEAST_PRINTED) n_printed = LEAST_PRINTED;
    fprintf(out,
            "first tokens of a sequence; norms and distances over the median of all tokens; what it gains and "
            "costs, in bits a dim, to keep the tokens up to this one exact in a context of %lld\n",
            (long long)e->context);
    const rb_status st = print_positions(out, e, n_printed, err);
    if (st != RB_OK) return st;
    fprintf(out, "sinks: %lld of the first tokens stay exact in plans of our own methods (%d pays)\n",
            (long long)table->n_sink, sink_choose(e));
    print_others(out, table);
    fprintf(out, "\n");
    return RB_OK;
}

/* ---- as JSON --------------------------------------------------------------------------------- */

static rb_status add_table(cJSON *json, const char *name, const sink_evidence *e, const double *table, rb_error *err)
{
    double means[SINK_BINS];
    if (!table) return RB_OK;
    for (int bin = 0; bin < SINK_BINS; bin++) means[bin] = sink_mean(e, table, bin);
    return rb_json_add_numbers(json, name, means, SINK_BINS, err);
}

static rb_status add_choice(cJSON *json, const sink_evidence *e, rb_error *err)
{
    double gain[SINK_BINS], cost[SINK_BINS];
    for (int n = 0; n < SINK_BINS; n++) {
        gain[n] = sink_gain(e, n);
        cost[n] = sink_cost(e, n);
    }
    const rb_status st = rb_json_add_numbers(json, "gain_bits", gain, SINK_BINS, err);
    return st == RB_OK ? rb_json_add_numbers(json, "cost_bits", cost, SINK_BINS, err) : st;
}

static rb_status token_to_json(cJSON **out, const sink_token *token, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "id", token->id, err), done);
    if (token->text[0] != '\0') RB_TRY(st, rb_json_add_string(*out, "text", token->text, err), done);
    RB_TRY(st, rb_json_add_number(*out, "n", (double)token->n, err), done);
    st = rb_json_add_number(*out, "attention", token->attention, err);
done:
    return st;
}

static rb_status add_others(cJSON *json, const other_sinks *others, rb_error *err)
{
    cJSON *object = NULL, *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the summary");
    if (st != RB_OK) return st;
    RB_TRY(st, rb_json_new_object(&object, err), done);
    RB_TRY(st, rb_json_add_number(object, "n_tokens", (double)others->n_tokens, err), done);
    RB_TRY(st, rb_json_add_number(object, "heads", others->heads, err), done);
    RB_TRY(st, rb_json_add_number(object, "attention", others->attention, err), done);
    for (int i = 0; i < others->n_named && st == RB_OK; i++) {
        st = token_to_json(&item, &others->named[i], err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
        cJSON_Delete(item);
        item = NULL;
    }
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_add_item(object, "tokens", &list, err), done);
    st = rb_json_add_item(json, "others", &object, err);
done:
    cJSON_Delete(object);
    cJSON_Delete(list);
    return st;
}

rb_status sink_summary_add(cJSON *json, const profile_table *table, rb_error *err)
{
    const sink_evidence *e = &table->sinks;
    cJSON *object = NULL;
    rb_status st;
    if (e->n_heads == 0) return RB_OK;
    RB_TRY(st, rb_json_new_object(&object, err), done);
    RB_TRY(st, rb_json_add_number(object, "sink", (double)table->n_sink, err), done);
    RB_TRY(st, rb_json_add_number(object, "pays", sink_choose(e), err), done);
    RB_TRY(st, rb_json_add_number(object, "context", (double)e->context, err), done);
    RB_TRY(st, add_table(object, "attention", e, e->attention, err), done);
    RB_TRY(st, add_table(object, "key_norm", e, e->key_norm, err), done);
    RB_TRY(st, add_table(object, "distance", e, e->distance, err), done);
    RB_TRY(st, add_table(object, "value_norm", e, e->value_norm, err), done);
    RB_TRY(st, add_choice(object, e, err), done);
    RB_TRY(st, add_others(object, &e->others, err), done);
    st = rb_json_add_item(json, "sinks", &object, err);
done:
    cJSON_Delete(object);
    return st;
}
