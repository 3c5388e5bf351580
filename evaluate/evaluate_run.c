/* See evaluate_run.h. */
#include "evaluate/evaluate_run.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "core/message.h"
#include "core/order.h"
#include "evaluate/attention_score.h"
#include "evaluate/evaluate_batch.h"
#include "evaluate/evaluate_cuda.h"
#include "evaluate/kv_restore.h"
#include "evaluate/token_score.h"
#include "model/forward.h"

typedef struct evaluate_pass {
    const evaluate_request *request;
    evaluate_batch batch;
    kv_restore *restore;
    token_score *scores;            /* [n_positions][n_runs] */
    float *scratch;                 /* [n_threads][2 * vocab_size] */
    double *attention_sums;         /* [n_layers][n_runs] */
    int64_t *attention_queries;     /* [n_layers] */
    rb_progress progress;
} evaluate_pass;

/* ---- hooks ----------------------------------------------------------------------------------------------------------------------- */

static rb_status restore_heads(void *user, layer_heads *heads, rb_error *err)
{
    evaluate_pass *pass = user;
    return kv_restore_part(pass->restore, heads, err);
}

static rb_status score_attention(void *user, const layer_heads *heads, rb_error *err)
{
    evaluate_pass *pass = user;
    const model_config *config = checkpoint_config(pass->request->model);
    return attention_scores_add(pass->attention_sums + heads->layer * pass->batch.n_runs, &pass->attention_queries[heads->layer], pass->request, &pass->batch, heads,
                                config->layer_slides[heads->layer] ? config->sliding_window : 0, err);
}

static rb_status score_logits(void *user, int64_t first, int64_t n, const float *logits, rb_error *err)
{
    evaluate_pass *pass = user;
    const int n_runs = pass->batch.n_runs;
    const int64_t n_vocab = checkpoint_config(pass->request->model)->vocab_size, from = first / n_runs;
    (void)err;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n / n_runs; i++)
        token_scores(pass->scores + (from + i) * n_runs, logits + i * n_runs * n_vocab, n_runs, n_vocab, pass->batch.positions[from + i].target,
                     pass->scratch + omp_get_thread_num() * 2 * n_vocab);
    return RB_OK;
}

static void layer_done(void *user, int layer)
{
    evaluate_pass *pass = user;
    (void)layer;
    rb_progress_step(&pass->progress, NULL);
}

/* ---- from positions to a run's numbers --------------------------------------------------------------------------------------------- */

static rb_status summarize_text(evaluate_score *out, const evaluate_pass *pass, int run, rb_error *err)
{
    const int64_t n = pass->batch.n_text_positions;
    const int n_layers = checkpoint_config(pass->request->model)->facts.n_layers, n_runs = pass->batch.n_runs;
    double *kl = NULL, nll = 0.0, kl_sum = 0.0, same = 0.0;
    rb_status st;
    RB_TRY(st, rb_alloc(&kl, (size_t)n, sizeof *kl, "divergences", err), done);
    for (int64_t i = 0; i < n; i++) {
        const token_score *score = &pass->scores[i * n_runs + run];
        nll += score->nll;
        kl_sum += kl[i] = score->kl;
        same += score->is_top1_same;
    }
    if (n > 0) {
        out->nll = nll / (double)n;
        out->perplexity = exp(out->nll);
        out->kl_mean = kl_sum / (double)n;
        rb_sort_doubles(kl, n);
        out->kl_p99 = kl[rb_quantile_place(n, 0.99)];
        out->kl_p999 = kl[rb_quantile_place(n, 0.999)];
        out->kl_max = kl[n - 1];
        out->top1_agreement = same / (double)n;
    }
    double attention = 0.0;
    for (int layer = 0; layer < n_layers; layer++) {
        out->attention_kl_by_layer[layer] = pass->attention_sums[layer * n_runs + run] / (double)pass->attention_queries[layer];    /* NaN: no query */
        attention += out->attention_kl_by_layer[layer] / n_layers;
    }
    out->attention_kl = attention;
done:
    free(kl);
    return st;
}

static void summarize_documents(evaluate_score *out, const evaluate_pass *pass, int run)
{
    const evaluate_batch *b = &pass->batch;
    const int64_t n = pass->request->documents ? pass->request->documents->n : 0;
    for (int64_t d = 0; d < n; d++) out->is_right[d] = true;
    for (int64_t i = b->n_text_positions; i < b->n_positions; i++)
        if (!pass->scores[i * b->n_runs + run].is_target_first) out->is_right[b->positions[i].document] = false;
    for (int64_t d = 0; d < n; d++) out->n_right += out->is_right[d];
}

static rb_status summarize(evaluate_result *out, const evaluate_pass *pass, rb_error *err)
{
    const int n_layers = checkpoint_config(pass->request->model)->facts.n_layers;
    const size_t n_documents = pass->request->documents ? (size_t)pass->request->documents->n : 0;
    rb_status st;
    RB_TRY(st, rb_alloc(&out->runs, (size_t)pass->batch.n_runs, sizeof *out->runs, "scores", err), done);
    out->n_runs = pass->batch.n_runs;
    out->n_layers = n_layers;
    for (int run = 0; run < out->n_runs; run++) {
        evaluate_score *score = &out->runs[run];
        *score = (evaluate_score){.nll = NAN, .perplexity = NAN, .kl_mean = NAN, .kl_p99 = NAN, .kl_p999 = NAN, .kl_max = NAN, .top1_agreement = NAN};
        RB_TRY(st, rb_alloc(&score->attention_kl_by_layer, (size_t)n_layers, sizeof *score->attention_kl_by_layer, "scores", err), done);
        RB_TRY(st, rb_alloc(&score->is_right, n_documents, sizeof *score->is_right, "scores", err), done);
        RB_TRY(st, summarize_text(score, pass, run, err), done);
        summarize_documents(score, pass, run);
    }
done:
    return st;
}

/* ---- the pass --------------------------------------------------------------------------------------------------------------------- */

static rb_status begin(evaluate_pass *pass, rb_error *err)
{
    const model_config *config = checkpoint_config(pass->request->model);
    rb_status st;
    RB_TRY(st, evaluate_batch_make(&pass->batch, pass->request, err), done);
    const size_t n_runs = (size_t)pass->batch.n_runs, n_layers = (size_t)config->facts.n_layers;
    RB_TRY(st, kv_restore_create(&pass->restore, pass->request, &pass->batch, err), done);
    RB_TRY(st, rb_alloc(&pass->scores, (size_t)pass->batch.n_positions, n_runs * sizeof *pass->scores, "token scores", err), done);
    RB_TRY(st, rb_alloc(&pass->scratch, (size_t)omp_get_max_threads() * 2, (size_t)config->vocab_size * sizeof *pass->scratch, "logit rows", err), done);
    RB_TRY(st, rb_alloc(&pass->attention_sums, n_layers, n_runs * sizeof *pass->attention_sums, "attention scores", err), done);
    RB_TRY(st, rb_alloc(&pass->attention_queries, n_layers, sizeof *pass->attention_queries, "attention scores", err), done);
done:
    return st;
}

rb_status evaluate_plans(evaluate_result *out, const evaluate_request *request, rb_error *err)
{
    evaluate_pass pass = {.request = request};
    rb_status st;
    *out = (evaluate_result){0};
    RB_TRY(st, begin(&pass, err), done);
    const evaluate_batch *b = &pass.batch;
    const forward_hooks hooks = {.user = &pass, .on_qkv = restore_heads, .on_rotated = b->n_text_sequences > 0 ? score_attention : NULL, .on_logits = score_logits,
                                 .on_layer_done = layer_done, .part_start = b->part_start, .n_parts = b->n_parts, .n_recent = request->n_recent,
                                 .logit_tokens = b->logit_tokens, .n_logit_tokens = b->n_positions * b->n_runs, .logit_group = b->n_runs};
    rb_progress_start(&pass.progress, "evaluate", checkpoint_config(request->model)->facts.n_layers);
    st = request->is_on_cuda ? evaluate_cuda_run(pass.scores, request, b, &hooks, err) : forward_run(request->model, &b->batch, &hooks, err);
    rb_progress_finish(&pass.progress);
    if (st == RB_OK) st = summarize(out, &pass, err);
done:
    kv_restore_free(pass.restore);
    free(pass.scores);
    free(pass.scratch);
    free(pass.attention_sums);
    free(pass.attention_queries);
    evaluate_batch_free(&pass.batch);
    return st;
}

void evaluate_result_free(evaluate_result *result)
{
    for (int i = 0; result->runs && i < result->n_runs; i++) {
        free(result->runs[i].attention_kl_by_layer);
        free(result->runs[i].is_right);
    }
    free(result->runs);
    *result = (evaluate_result){0};
}
