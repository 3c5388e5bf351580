/* The profile as a table: see profile/profile_report.h. */
#include "profile/profile_report.h"

#include <stdbool.h>

enum { LABEL = 22, COLUMN = 16 };

static void print_row(FILE *out, const profile_table *table, const char *label, const char *format, double (*value)(const head_score *))
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
        if (opponent(table, m)) snprintf(cell, sizeof cell, "%.1f", 100.0 * method_reduction(&table->methods[m], opponent(table, m), &table->model));
        fprintf(out, "%*s", COLUMN, cell);
    }
    fprintf(out, "\n%-*s", LABEL, "layers won");
    for (int m = 0; m < table->n_methods; m++) {
        cell[0] = '\0';
        if (opponent(table, m))
            snprintf(cell, sizeof cell, "%d of %d", method_layers_won(&table->methods[m], opponent(table, m), &table->model), table->model.n_layers);
        fprintf(out, "%*s", COLUMN, cell);
    }
    fprintf(out, "\n");
}

void profile_report_print(FILE *out, const profile_table *table)
{
    char label[64];
    fprintf(out, "logit MAE on %lld test tokens, |q.k - q.k^| without 1/sqrt(d); less is better\n\n%-*s", (long long)table->test.n_tokens, LABEL,
            "layer");
    for (int m = 0; m < table->n_methods; m++) {
        snprintf(label, sizeof label, "%s@%g", table->methods[m].method, table->methods[m].avg_bits);
        fprintf(out, "%*s", COLUMN, label);
    }
    fprintf(out, "\n");
    for (int layer = 0; layer < table->model.n_layers; layer++) {
        fprintf(out, "%-*d", LABEL, layer);
        for (int m = 0; m < table->n_methods; m++) fprintf(out, "%*.4f", COLUMN, method_mean(&table->methods[m], &table->model, layer).logit_mae);
        fprintf(out, "\n");
    }
    print_row(out, table, "mean", "%*.4f", logit_mae);
    if (has_opponents(table)) print_against_uniform(out, table);
    print_row(out, table, "true bits a dim", "%*.3f", true_bits);
    print_row(out, table, "over causal pairs", "%*.4f", causal_mae);
    print_row(out, table, "attention KL, nats", "%*.5f", attention_kl);
    print_row(out, table, "key error, %", "%*.2f", relative_error);
}
