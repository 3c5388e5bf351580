/* The profile as a table: see profile/profile_report.h. */
#include "profile/profile_report.h"

#include <stdbool.h>
#include <string.h>

#include "core/table.h"
#include "profile/sink_report.h"

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool has_namesake(const profile_table *table, const method_score *method)
{
    for (int m = 0; m < table->n_methods; m++)
        if (&table->methods[m] != method && table->methods[m].plan
            && strcmp(file_name(table->methods[m].plan), file_name(method->plan)) == 0)
            return true;
    return false;
}

/* "block-gtq@3", or the plan file that was scored: its name, where that is enough. */
static void name_method(char *out, size_t size, const profile_table *table, const method_score *method)
{
    if (!method->plan) snprintf(out, size, "%s@%g", method->method, method->avg_bits);
    else rb_escape_text(out, size, has_namesake(table, method) ? method->plan : file_name(method->plan));
}

static void add_names(rb_table *cells, const profile_table *table)
{
    char name[256];
    rb_table_add(cells, "layer");
    for (int m = 0; m < table->n_methods; m++) {
        name_method(name, sizeof name, table, &table->methods[m]);
        rb_table_add(cells, "%s", name);
    }
    rb_table_end_row(cells);
}

static void add_row(rb_table *cells, const profile_table *table, const char *label, int digits,
                    double (*value)(const head_score *))
{
    rb_table_add(cells, "%s", label);
    for (int m = 0; m < table->n_methods; m++) {
        const head_score mean = method_mean(&table->methods[m], &table->model, -1);
        rb_table_add_number(cells, digits, value(&mean));
    }
    rb_table_end_row(cells);
}

static double logit_mae(const head_score *score) { return score->logit_mae; }
static double causal_mae(const head_score *score) { return score->causal_mae; }
static double attention_kl(const head_score *score) { return score->attention_kl; }
static double relative_error(const head_score *score) { return 100.0 * score->relative_error; }
static double attended_mae(const head_score *score) { return score->attended_mae; }
static double outside(const head_score *score) { return 100.0 * score->tail.outside; }
static double true_bits(const head_score *score) { return score->true_bits; }

/* The uniform score a method is held against: that of the same nominal budget, if it is not uniform itself. */
static const method_score *opponent(const profile_table *table, int method)
{
    const method_score *uniform = profile_table_uniform(table, table->methods[method].avg_bits);
    return uniform == &table->methods[method] ? NULL : uniform;
}

static bool has_opponents(const profile_table *table)
{
    for (int m = 0; m < table->n_methods; m++)
        if (opponent(table, m)) return true;
    return false;
}

static void add_against_uniform(rb_table *cells, const profile_table *table)
{
    rb_table_add(cells, "less than uniform, %%");
    for (int m = 0; m < table->n_methods; m++) {
        if (opponent(table, m))
            rb_table_add(cells, "%.1f",
                         100.0 * method_reduction(&table->methods[m], opponent(table, m), &table->model));
        else rb_table_add(cells, "%s", "");
    }
    rb_table_end_row(cells);
    rb_table_add(cells, "layers won");
    for (int m = 0; m < table->n_methods; m++) {
        if (opponent(table, m))
            rb_table_add(cells, "%d of %d", method_layers_won(&table->methods[m], opponent(table, m), &table->model),
                         table->model.n_layers);
        else rb_table_add(cells, "%s", "");
    }
    rb_table_end_row(cells);
}

static void add_tails(rb_table *cells, const profile_table *table)
{
    rb_table_add(cells, "largest tail ratio");
    for (int m = 0; m < table->n_methods; m++)
        rb_table_add_number(cells, 2, method_largest_ratio(&table->methods[m], &table->model));
    rb_table_end_row(cells);
    add_row(cells, table, "tokens outside, %", 3, outside);
}

/* "block-gtq@2: tail out of proportion in 9 of 32 heads: 0.1 (2.9), ..., and 3 more", heads as layer.kv_head with their
 * ratio. */
static void print_flagged(FILE *out, const profile_table *table, const method_score *method)
{
    const model_facts *model = &table->model;
    enum { N_NAMED = 6 };
    const int n_heads = model->n_layers * model->n_kv_heads, n_flagged = method_heads_flagged(method, model);
    char name[256];
    int n = 0;
    if (n_flagged == 0) return;
    name_method(name, sizeof name, table, method);
    fprintf(out, "%s: tail out of proportion in %d of %d heads (layer.kv_head, ratio):", name, n_flagged, n_heads);
    for (int h = 0; h < n_heads && n < N_NAMED; h++)
        if (method->heads[h].tail.ratio > TAIL_LIMIT)
            fprintf(out, "%s %d.%d (%.2f)", n++ ? "," : "", h / model->n_kv_heads, h % model->n_kv_heads,
                    method->heads[h].tail.ratio);
    if (n_flagged > n) fprintf(out, ", and %d more", n_flagged - n);
    fprintf(out, "\n");
}

static void print_worst(FILE *out, const profile_table *table, const method_score *method)
{
    char name[256];
    if (method->worst.n == 0) return;
    name_method(name, sizeof name, table, method);
    fprintf(out, "%s: worst tokens (position, layer.kv_head, excess):", name);
    for (int i = 0; i < method->worst.n; i++) {
        const worst_token *token = &method->worst.at[i];
        fprintf(out, "%s ", i ? "," : "");
        if (token->text[0] != '\0') fprintf(out, "\"%s\"", token->text);
        else fprintf(out, "id %d", (int)token->id);
        fprintf(out, " (%lld, %d.%d, %.2f)", (long long)token->position, token->layer, token->kv_head, token->excess);
    }
    fprintf(out, "\n");
}

static void add_layers(rb_table *cells, const profile_table *table)
{
    for (int layer = 0; layer < table->model.n_layers; layer++) {
        rb_table_add(cells, "%d", layer);
        for (int m = 0; m < table->n_methods; m++)
            rb_table_add_number(cells, 4, method_mean(&table->methods[m], &table->model, layer).logit_mae);
        rb_table_end_row(cells);
    }
}

rb_status profile_report_print(FILE *out, const profile_table *table, rb_error *err)
{
    rb_table cells = {.n_left = 1};
    rb_status st;
    RB_TRY(st, sink_report_print(out, table, err), done);
    fprintf(out, "logit MAE on %lld test tokens, |q.k - q.k^| without 1/sqrt(d); less is better\n\n",
            (long long)table->test.n_tokens);
    add_names(&cells, table);
    add_layers(&cells, table);
    add_row(&cells, table, "mean", 4, logit_mae);
    if (has_opponents(table)) add_against_uniform(&cells, table);
    add_row(&cells, table, "true bits a dim", 3, true_bits);
    add_row(&cells, table, "over causal pairs", 4, causal_mae);
    add_row(&cells, table, "where attention looks", 4, attended_mae);
    add_row(&cells, table, "attention KL, nats", 5, attention_kl);
    add_row(&cells, table, "key error, %", 2, relative_error);
    add_tails(&cells, table);
    RB_TRY(st, rb_table_print(out, &cells, err), done);
    fprintf(out, "\n");
    for (int m = 0; m < table->n_methods; m++) print_flagged(out, table, &table->methods[m]);
    for (int m = 0; m < table->n_methods; m++) print_worst(out, table, &table->methods[m]);
done:
    rb_table_free(&cells);
    return st;
}
