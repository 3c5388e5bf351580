/* The profile as a table: see profile/profile_report.h. */
#include "profile/profile_report.h"

#include <stdbool.h>

#include "profile/sink_report.h"

enum { LABEL = 22, COLUMN = 16 };

static void print_row(FILE *out, const profile_table *table, const char *label, const char *format,
                      double (*value)(const head_score *))
{
    fprintf(out, "%-*s", LABEL, label);
    for (int m = 0; m < table->n_methods; m++) {
        const head_score mean = method_mean(&table->methods[m], &table->model, -1);
        fprintf(out, format, COLUMN, value(&mean));
    }
    fprintf(out, "\n");
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

static void print_against_uniform(FILE *out, const profile_table *table)
{
    char cell[32];
    fprintf(out, "%-*s", LABEL, "less than uniform, %");
    for (int m = 0; m < table->n_methods; m++) {
        cell[0] = '\0';
        if (opponent(table, m))
            snprintf(cell, sizeof cell, "%.1f",
                     100.0 * method_reduction(&table->methods[m], opponent(table, m), &table->model));
        fprintf(out, "%*s", COLUMN, cell);
    }
    fprintf(out, "\n%-*s", LABEL, "layers won");
    for (int m = 0; m < table->n_methods; m++) {
        cell[0] = '\0';
        if (opponent(table, m))
            snprintf(cell, sizeof cell, "%d of %d",
                     method_layers_won(&table->methods[m], opponent(table, m), &table->model), table->model.n_layers);
        fprintf(out, "%*s", COLUMN, cell);
    }
    fprintf(out, "\n");
}

static void print_tails(FILE *out, const profile_table *table)
{
    fprintf(out, "%-*s", LABEL, "largest tail ratio");
    for (int m = 0; m < table->n_methods; m++)
        fprintf(out, "%*.2f", COLUMN, method_largest_ratio(&table->methods[m], &table->model));
    fprintf(out, "\n");
    print_row(out, table, "tokens outside, %", "%*.3f", outside);
}

/* "block-gtq@2: tail out of proportion in 9 of 32 heads: 0.1 (2.9), ..., and 3 more", heads as layer.kv_head with their
 * ratio. */
static void print_flagged(FILE *out, const method_score *method, const model_facts *model)
{
    enum { N_NAMED = 6 };
    const int n_heads = model->n_layers * model->n_kv_heads, n_flagged = method_heads_flagged(method, model);
    int n = 0;
    if (n_flagged == 0) return;
    fprintf(out, "%s@%g: tail out of proportion in %d of %d heads (layer.kv_head, ratio):", method->method,
            method->avg_bits, n_flagged, n_heads);
    for (int h = 0; h < n_heads && n < N_NAMED; h++)
        if (method->heads[h].tail.ratio > TAIL_LIMIT)
            fprintf(out, "%s %d.%d (%.2f)", n++ ? "," : "", h / model->n_kv_heads, h % model->n_kv_heads,
                    method->heads[h].tail.ratio);
    if (n_flagged > n) fprintf(out, ", and %d more", n_flagged - n);
    fprintf(out, "\n");
}

static void print_worst(FILE *out, const method_score *method)
{
    if (method->worst.n == 0) return;
    fprintf(out, "%s@%g: worst tokens (position, layer.kv_head, excess):", method->method, method->avg_bits);
    for (int i = 0; i < method->worst.n; i++) {
        const worst_token *token = &method->worst.at[i];
        fprintf(out, "%s ", i ? "," : "");
        if (token->text[0] != '\0') fprintf(out, "\"%s\"", token->text);
        else fprintf(out, "id %d", (int)token->id);
        fprintf(out, " (%lld, %d.%d, %.2f)", (long long)token->position, token->layer, token->kv_head, token->excess);
    }
    fprintf(out, "\n");
}

void profile_report_print(FILE *out, const profile_table *table)
{
    char label[64];
    sink_report_print(out, table);
    fprintf(out, "logit MAE on %lld test tokens, |q.k - q.k^| without 1/sqrt(d); less is better\n\n%-*s",
            (long long)table->test.n_tokens, LABEL, "layer");
    for (int m = 0; m < table->n_methods; m++) {
        snprintf(label, sizeof label, "%s@%g", table->methods[m].method, table->methods[m].avg_bits);
        fprintf(out, "%*s", COLUMN, label);
    }
    fprintf(out, "\n");
    for (int layer = 0; layer < table->model.n_layers; layer++) {
        fprintf(out, "%-*d", LABEL, layer);
        for (int m = 0; m < table->n_methods; m++)
            fprintf(out, "%*.4f", COLUMN, method_mean(&table->methods[m], &table->model, layer).logit_mae);
        fprintf(out, "\n");
    }
    print_row(out, table, "mean", "%*.4f", logit_mae);
    if (has_opponents(table)) print_against_uniform(out, table);
    print_row(out, table, "true bits a dim", "%*.3f", true_bits);
    print_row(out, table, "over causal pairs", "%*.4f", causal_mae);
    print_row(out, table, "where attention looks", "%*.4f", attended_mae);
    print_row(out, table, "attention KL, nats", "%*.5f", attention_kl);
    print_row(out, table, "key error, %", "%*.2f", relative_error);
    print_tails(out, table);
    fprintf(out, "\n");
    for (int m = 0; m < table->n_methods; m++) print_flagged(out, &table->methods[m], &table->model);
    for (int m = 0; m < table->n_methods; m++) print_worst(out, &table->methods[m]);
}
