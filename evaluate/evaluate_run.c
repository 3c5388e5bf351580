/* See evaluate_run.h. */
#include "evaluate/evaluate_run.h"

#include <stdlib.h>

#include "core/message.h"
#include "evaluate/evaluate_batch.h"
#include "evaluate/evaluate_cuda.h"
#include "evaluate/evaluate_scores.h"
#include "evaluate/kv_restore.h"
#include "model/forward.h"

typedef struct evaluate_pass {
    kv_restore *restore;
    evaluate_scores scores;
    rb_progress progress;
} evaluate_pass;

/* ---- hooks ----------------------------------------------------------------------------------- */

static rb_status restore_heads(void *user, layer_heads *heads, rb_error *err)
{
    evaluate_pass *pass = user;
    return kv_restore_part(pass->restore, heads, err);
}

static rb_status score_heads(void *user, const layer_heads *heads, rb_error *err)
{
    evaluate_pass *pass = user;
    return evaluate_scores_add_heads(&pass->scores, heads, err);
}

static rb_status score_attended(void *user, const layer_heads *heads, const float *attended, rb_error *err)
{
    evaluate_pass *pass = user;
    (void)err;
    evaluate_scores_add_attended(&pass->scores, heads, attended);
    return RB_OK;
}

static rb_status score_logits(void *user, int64_t first, int64_t n, const float *logits, rb_error *err)
{
    evaluate_pass *pass = user;
    (void)err;
    evaluate_scores_add_logits(&pass->scores, first, n, logits);
    return RB_OK;
}

static void layer_done(void *user, int layer)
{
    evaluate_pass *pass = user;
    (void)layer;
    rb_progress_step(&pass->progress, NULL);
}

/* ---- a pass ---------------------------------------------------------------------------------- */

/* Plans of one n_recent. */
static rb_status run_pass(evaluate_result *out, const evaluate_request *request, rb_error *err)
{
    evaluate_pass pass = {0};
    evaluate_batch b = {0};
    rb_status st;
    *out = (evaluate_result){0};
    RB_TRY(st, evaluate_batch_make(&b, request, err), done);
    if (!request->is_on_cuda) RB_TRY(st, kv_restore_create(&pass.restore, request, &b, err), done);
    RB_TRY(st, evaluate_scores_create(&pass.scores, request, &b, err), done);
    const forward_hooks hooks = {.user = &pass,
                                 .on_qkv = restore_heads,
                                 .on_rotated = score_heads,
                                 .on_attended = score_attended,
                                 .on_logits = score_logits,
                                 .on_layer_done = layer_done,
                                 .part_start = b.part_start,
                                 .n_parts = b.n_parts,
                                 .n_recent = evaluate_request_n_recent(request),
                                 .logit_tokens = b.logit_tokens,
                                 .n_logit_tokens = b.n_positions * b.n_runs,
                                 .logit_group = b.n_runs};
    rb_progress_start(&pass.progress, "evaluate", checkpoint_config(request->model)->facts.n_layers);
    st = request->is_on_cuda ? evaluate_cuda_run(pass.scores.tokens, request, &b, &hooks, err)
                             : forward_run(request->model, &b.batch, &hooks, err);
    rb_progress_finish(&pass.progress);
    if (st == RB_OK) st = evaluate_scores_finish(out, &pass.scores, err);
done:
    kv_restore_free(pass.restore);
    evaluate_scores_free(&pass.scores);
    evaluate_batch_free(&b);
    return st;
}

/* ---- all passes ------------------------------------------------------------------------------ */

static bool is_first_of_its_pass(const evaluate_request *request, int p)
{
    for (int other = 0; other < p; other++)
        if (request->plans[other]->n_recent == request->plans[p]->n_recent) return false;
    return true;
}

static void move_score(evaluate_score *to, evaluate_score *from)
{
    *to = *from;
    *from = (evaluate_score){0};
}

/* Runs the plans that have the n_recent of plan `first`, and moves their runs to their places. The unquantized run is
 * that of the first pass. plans: room for all. */
static rb_status add_pass(evaluate_result *out, const evaluate_request *request, int first, const bit_plan **plans,
                          rb_error *err)
{
    evaluate_request mine = *request;
    evaluate_result result = {0};
    int n = 0;
    for (int p = first; p < request->n_plans; p++)
        if (request->plans[p]->n_recent == request->plans[first]->n_recent) plans[n++] = request->plans[p];
    mine.plans = plans;
    mine.n_plans = n;
    const rb_status st = run_pass(&result, &mine, err);
    if (st == RB_OK && first == 0) move_score(&out->runs[0], &result.runs[0]);
    for (int p = first, run = 1; p < request->n_plans && st == RB_OK; p++)
        if (request->plans[p]->n_recent == request->plans[first]->n_recent)
            move_score(&out->runs[1 + p], &result.runs[run++]);
    out->n_layers = result.n_layers;
    out->n_q_heads = result.n_q_heads;
    evaluate_result_free(&result);
    return st;
}

rb_status evaluate_plans(evaluate_result *out, const evaluate_request *request, rb_error *err)
{
    const bit_plan **plans = NULL;
    rb_status st;
    *out = (evaluate_result){.n_runs = 1 + request->n_plans};
    if (request->n_plans == 0) return run_pass(out, request, err);
    RB_TRY(st, rb_alloc(&out->runs, (size_t)out->n_runs, sizeof *out->runs, "results", err), done);
    RB_TRY(st, rb_alloc(&plans, (size_t)request->n_plans, sizeof *plans, "plans", err), done);
    for (int p = 0; p < request->n_plans && st == RB_OK; p++)
        if (is_first_of_its_pass(request, p)) st = add_pass(out, request, p, plans, err);
done:
    free(plans);
    return st;
}
