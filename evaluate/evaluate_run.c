/* See evaluate_run.h. */
#include "evaluate/evaluate_run.h"

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

/* ---- the pass -------------------------------------------------------------------------------- */

rb_status evaluate_plans(evaluate_result *out, const evaluate_request *request, rb_error *err)
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
                                 .n_recent = request->n_recent,
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
