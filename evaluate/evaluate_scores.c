/* See evaluate_scores.h. */
#include "evaluate/evaluate_scores.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "evaluate/understanding_score.h"

static const model_config *config_of(const evaluate_scores *s) { return checkpoint_config(s->request->model); }

rb_status evaluate_scores_create(evaluate_scores *out, const evaluate_request *request, const evaluate_batch *batch,
                                 rb_error *err)
{
    rb_status st;
    *out = (evaluate_scores){.request = request, .batch = batch};
    RB_TRY(st,
           rb_alloc(&out->tokens, (size_t)batch->n_positions, (size_t)batch->n_runs * sizeof *out->tokens,
                    "token scores", err),
           done);
    RB_TRY(st,
           rb_alloc(&out->scratch, (size_t)omp_get_max_threads() * 2,
                    (size_t)config_of(out)->vocab_size * sizeof *out->scratch, "logit rows", err),
           done);
    RB_TRY(st, attention_scores_create(&out->attention, request, batch, err), done);
    RB_TRY(st, output_scores_create(&out->outputs, request, batch, err), done);
done:
    return st;
}

void evaluate_scores_free(evaluate_scores *scores)
{
    free(scores->tokens);
    free(scores->scratch);
    attention_scores_free(&scores->attention);
    output_scores_free(&scores->outputs);
    *scores = (evaluate_scores){0};
}

/* ---- during the pass ------------------------------------------------------------------------- */

rb_status evaluate_scores_add_heads(evaluate_scores *scores, const layer_heads *heads, rb_error *err)
{
    return attention_scores_add(&scores->attention, heads, err);
}

void evaluate_scores_add_attended(evaluate_scores *scores, const layer_heads *heads, const float *attended)
{
    output_scores_add(&scores->outputs, heads, attended);
}

void evaluate_scores_add_logits(evaluate_scores *scores, int64_t first, int64_t n, const float *logits)
{
    const evaluate_batch *b = scores->batch;
    const int n_runs = b->n_runs;
    const int64_t n_vocab = config_of(scores)->vocab_size, from = first / n_runs;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n / n_runs; i++)
        token_scores(scores->tokens + (from + i) * n_runs, logits + i * n_runs * n_vocab, n_runs, n_vocab,
                     b->positions[from + i].target, scores->scratch + omp_get_thread_num() * 2 * n_vocab);
}

/* ---- from sums to a run's numbers ------------------------------------------------------------ */

static double mean(const double *values, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += values[i];
    return sum / n;
}

/* 0 / 0 below gives NaN, which means no query or no output. */
static void summarize_attention(evaluate_score *out, const attention_scores *scores, int run, int n_layers)
{
    const int n_runs = scores->batch->n_runs;
    for (int layer = 0; layer < n_layers; layer++) {
        out->attention_kl_by_layer[layer] = scores->kl[layer * n_runs + run] / (double)scores->n_queries[layer];
        out->attention_overlap_by_layer[layer] =
            scores->overlap[layer * n_runs + run] / (double)scores->n_overlap_queries[layer];
    }
    out->attention_kl = mean(out->attention_kl_by_layer, n_layers);
    out->attention_overlap = mean(out->attention_overlap_by_layer, n_layers);
}

static void summarize_outputs(evaluate_score *out, const output_scores *scores, int run, int n_layers, int n_q_heads)
{
    const int n_runs = scores->batch->n_runs;
    for (int layer = 0; layer < n_layers; layer++) {
        double error = 0.0, size = 0.0;
        for (int h = 0; h < n_q_heads; h++) {
            const double *squares = scores->squares + (layer * n_q_heads + h) * n_runs,
                         head_error = run > 0 ? squares[run] : 0.0;
            out->output_error_by_head[layer * n_q_heads + h] = sqrt(head_error / squares[0]);
            error += head_error;
            size += squares[0];
        }
        out->output_error_by_layer[layer] = sqrt(error / size);
    }
    out->output_error = mean(out->output_error_by_layer, n_layers);
}

static void summarize_documents(evaluate_score *out, const evaluate_scores *s, int run)
{
    const evaluate_batch *b = s->batch;
    const needle_documents *documents = s->request->documents;
    for (int64_t i = b->n_text_positions; i < b->n_positions; i++) {
        const token_score *token = &s->tokens[i * b->n_runs + run];
        answer_score *answer = &out->answers[b->positions[i].document];
        answer->n++;
        answer->n_right += token->is_target_first;
        answer->n_same += token->is_top1_same;
        answer->nll += token->nll;
    }
    for (int64_t d = 0; documents && d < documents->n; d++) {
        out->is_right[d] = out->answers[d].n_right == out->answers[d].n;
        if (documents->at[d].kind == DOCUMENT_NEEDLES) out->n_right += out->is_right[d];
    }
    out->understanding = understanding_score_make(documents, out->answers);
}

static rb_status alloc_score(evaluate_score *score, size_t n_layers, size_t n_q_heads, size_t n_documents,
                             rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_alloc(&score->attention_kl_by_layer, n_layers, sizeof *score->attention_kl_by_layer, "scores", err),
           done);
    RB_TRY(st,
           rb_alloc(&score->attention_overlap_by_layer, n_layers, sizeof *score->attention_overlap_by_layer, "scores",
                    err),
           done);
    RB_TRY(st, rb_alloc(&score->output_error_by_layer, n_layers, sizeof *score->output_error_by_layer, "scores", err),
           done);
    RB_TRY(st,
           rb_alloc(&score->output_error_by_head, n_layers, n_q_heads * sizeof *score->output_error_by_head, "scores",
                    err),
           done);
    RB_TRY(st, rb_alloc(&score->is_right, n_documents, sizeof *score->is_right, "scores", err), done);
    RB_TRY(st, rb_alloc(&score->answers, n_documents, sizeof *score->answers, "scores", err), done);
done:
    return st;
}

static rb_status summarize_run(evaluate_score *out, const evaluate_scores *s, int run, rb_error *err)
{
    const model_facts *model = &config_of(s)->facts;
    rb_status st;
    RB_TRY(st,
           alloc_score(out, (size_t)model->n_layers, (size_t)model->n_q_heads,
                       s->request->documents ? (size_t)s->request->documents->n : 0, err),
           done);
    RB_TRY(st, text_summary_make(&out->text, s->batch, s->tokens, run, err), done);
    position_curve_make(&out->by_position, s->batch, s->tokens, run, s->request->context);
    RB_TRY(st, worst_predictions_make(&out->worst, s->request->n_worst_tokens, s->batch, s->tokens, run, err), done);
    summarize_attention(out, &s->attention, run, model->n_layers);
    summarize_outputs(out, &s->outputs, run, model->n_layers, model->n_q_heads);
    summarize_documents(out, s, run);
done:
    return st;
}

rb_status evaluate_scores_finish(evaluate_result *out, const evaluate_scores *s, rb_error *err)
{
    const model_facts *model = &config_of(s)->facts;
    rb_status st;
    *out = (evaluate_result){.n_layers = model->n_layers, .n_q_heads = model->n_q_heads};
    RB_TRY(st, rb_alloc(&out->runs, (size_t)s->batch->n_runs, sizeof *out->runs, "scores", err), done);
    out->n_runs = s->batch->n_runs;
    for (int run = 0; run < out->n_runs; run++) RB_TRY(st, summarize_run(&out->runs[run], s, run, err), done);
done:
    return st;
}

void evaluate_result_free(evaluate_result *result)
{
    for (int i = 0; result->runs && i < result->n_runs; i++) {
        evaluate_score *score = &result->runs[i];
        worst_predictions_free(&score->worst);
        free(score->attention_kl_by_layer);
        free(score->attention_overlap_by_layer);
        free(score->output_error_by_layer);
        free(score->output_error_by_head);
        free(score->is_right);
        free(score->answers);
    }
    free(result->runs);
    *result = (evaluate_result){0};
}
