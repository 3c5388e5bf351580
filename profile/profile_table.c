/* Scores in memory and their means: see profile/profile_table.h. */
#include "profile/profile_table.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t head_count(const model_facts *model) { return (size_t)model->n_layers * (size_t)model->n_kv_heads; }

rb_status profile_table_create(profile_table **out, const model_facts *model, rb_error *err)
{
    profile_table *table = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&table, 1, sizeof *table, "profile", err), done);
    table->model = *model;
    table->n_blocks = model_n_blocks(model);
    RB_TRY(st, token_statistics_create(&table->all, model, err), done);
    RB_TRY(st, rb_alloc(&table->coverage, head_count(model), sizeof *table->coverage, "coverage", err), done);
    *out = table;
    table = NULL;
done:
    profile_table_free(table);
    return st;
}

rb_status profile_table_add_methods(profile_table *table, int n, rb_error *err)
{
    rb_status st;
    assert(!table->methods);
    if (n < 0 || n > PROFILE_MAX_METHODS)
        return rb_fail(err, RB_EINVAL, "%d methods to score, expected at most %d", n, PROFILE_MAX_METHODS);
    RB_TRY(st, rb_alloc(&table->methods, (size_t)n, sizeof *table->methods, "scores", err), done);
    for (; table->n_methods < n; table->n_methods++) {
        method_score *method = &table->methods[table->n_methods];
        RB_TRY(st, rb_alloc(&method->heads, head_count(&table->model), sizeof *method->heads, "scores", err), done);
        st = worst_tokens_create(&method->worst, table->n_worst_tokens, err);
        if (st != RB_OK) {
            free(method->heads);
            goto done;
        }
    }
done:
    return st;
}

rb_status profile_table_add_curves(profile_table *table, rb_error *err)
{
    const size_t n = head_count(&table->model) * PROFILE_MAX_WIDTH;
    assert(!table->curve_logit_mae);
    rb_status st = rb_alloc(&table->curve_logit_mae, n, sizeof *table->curve_logit_mae, "error curves", err);
    return st == RB_OK ? rb_alloc(&table->curve_block_mse, n * (size_t)table->n_blocks, sizeof *table->curve_block_mse,
                                  "error curves", err)
                       : st;
}

rb_status profile_table_add_values(profile_table *table, rb_error *err)
{
    return token_statistics_add_values(&table->all, &table->model, err);
}

rb_status profile_table_add_counted(profile_table *table, int64_t n_sink, rb_error *err)
{
    assert(table->n_sink == 0 && n_sink > 0);
    const rb_status st = token_statistics_create(&table->counted, &table->model, err);
    table->n_sink = n_sink;
    return st == RB_OK && table->all.value_error ? token_statistics_add_values(&table->counted, &table->model, err)
                                                 : st;
}

rb_status profile_table_add_sinks(profile_table *table, rb_error *err)
{
    return sink_evidence_create(&table->sinks, &table->model, table->all.value_error != NULL, err);
}

const token_statistics *profile_table_statistics(const profile_table *table, int64_t n_sink)
{
    return n_sink > 0 && table->n_sink > 0 ? &table->counted : &table->all;
}

void method_score_free(method_score *method)
{
    free(method->heads);
    free(method->spread.layer_mean);
    free(method->spread.layer_deviation);
    worst_tokens_free(&method->worst);
}

void profile_table_free(profile_table *table)
{
    if (!table) return;
    for (int m = 0; m < table->n_methods; m++) method_score_free(&table->methods[m]);
    free(table->methods);
    rb_sha256_file_finish(&table->hashing, NULL, NULL);
    token_statistics_free(&table->all);
    token_statistics_free(&table->counted);
    sink_evidence_free(&table->sinks);
    output_sensitivity_free(&table->sensitivity);
    free(table->coverage);
    free(table->curve_logit_mae);
    free(table->curve_block_mse);
    free(table);
}

head_score method_mean(const method_score *method, const model_facts *model, int layer)
{
    const int first = layer < 0 ? 0 : layer, last = layer < 0 ? model->n_layers - 1 : layer;
    const double n = (double)(last - first + 1) * model->n_kv_heads;
    head_score mean = {0};
    for (int l = first; l <= last; l++)
        for (int h = 0; h < model->n_kv_heads; h++) {
            const head_score *score = method_head(method, model, l, h);
            mean.logit_mae += score->logit_mae / n;
            mean.causal_mae += score->causal_mae / n;
            mean.attended_mae += score->attended_mae / n;
            mean.attention_kl += score->attention_kl / n;
            mean.relative_error += score->relative_error / n;
            mean.true_bits += score->true_bits / n;
            mean.tail.median += score->tail.median / n;
            mean.tail.p99 += score->tail.p99 / n;
            mean.tail.p999 += score->tail.p999 / n;
            mean.tail.largest += score->tail.largest / n;
            mean.tail.ratio += score->tail.ratio / n;
            mean.tail.outside += score->tail.outside / n;
        }
    return mean;
}

head_coverage profile_table_coverage(const profile_table *table)
{
    const size_t n = head_count(&table->model);
    head_coverage mean = {0};
    for (size_t h = 0; h < n; h++) {
        mean.key_distance += table->coverage[h].key_distance / (double)n;
        mean.key_outside += table->coverage[h].key_outside / (double)n;
        mean.query_shift += table->coverage[h].query_shift / (double)n;
        mean.plan_transfer += table->coverage[h].plan_transfer / (double)n;
    }
    return mean;
}

rb_status method_keep_tail(method_score *method, const model_facts *model, int layer, int kv_head, const float *errors,
                           const float *sizes, int64_t n_tokens, rb_error *err)
{
    head_score *score = method_head(method, model, layer, kv_head);
    float *excess = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&excess, (size_t)n_tokens, sizeof *excess, "token errors", err), done);
    RB_TRY(st, tail_measure(&score->tail, excess, errors, sizes, n_tokens, err), done);
    worst_tokens_add(&method->worst, layer, kv_head, excess, errors, sizes, n_tokens);
done:
    free(excess);
    return st;
}

int method_heads_flagged(const method_score *method, const model_facts *model)
{
    int n = 0;
    for (size_t h = 0; h < head_count(model); h++) n += method->heads[h].tail.ratio > TAIL_LIMIT;
    return n;
}

double method_largest_ratio(const method_score *method, const model_facts *model)
{
    double largest = 0.0;
    for (size_t h = 0; h < head_count(model); h++) largest = fmax(largest, method->heads[h].tail.ratio);
    return largest;
}

const method_score *profile_table_uniform(const profile_table *table, double avg_bits)
{
    for (int m = 0; m < table->n_methods; m++)
        if (strcmp(table->methods[m].method, "uniform") == 0 && table->methods[m].avg_bits == avg_bits)
            return &table->methods[m];
    return NULL;
}

double method_reduction(const method_score *method, const method_score *uniform, const model_facts *model)
{
    return 1.0 - method_mean(method, model, -1).logit_mae / method_mean(uniform, model, -1).logit_mae;
}

int method_layers_won(const method_score *method, const method_score *uniform, const model_facts *model)
{
    int won = 0;
    for (int layer = 0; layer < model->n_layers; layer++)
        won += method_mean(method, model, layer).logit_mae < method_mean(uniform, model, layer).logit_mae;
    return won;
}
