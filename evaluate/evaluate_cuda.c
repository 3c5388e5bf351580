/* See evaluate/evaluate_cuda.h. */
#include "evaluate/evaluate_cuda.h"

#include <stdlib.h>

#include "core/message.h"
#include "evaluate/kv_restore_cuda.h"
#include "evaluate/token_score_cuda.h"
#include "model/cuda/forward_parts_cuda.h"

typedef struct cuda_evaluation {
    const evaluate_batch *batch;
    int64_t n_vocab;
    kv_restore_cuda *restore;
    const token_score_cuda_api *api;
    rb_cuda_array targets, scores; /* of all positions */
} cuda_evaluation;

static rb_status restore_heads(void *user, const device_heads *heads, void *stream, rb_error *err)
{
    cuda_evaluation *e = user;
    return kv_restore_cuda_part(e->restore, heads, stream, err);
}

static rb_status check_layer(void *user, int layer, rb_error *err)
{
    const cuda_evaluation *e = user;
    return kv_restore_cuda_check(e->restore, layer, err);
}

static rb_status score_logits(void *user, int64_t first, int64_t n, const float *logits, void *stream, rb_error *err)
{
    const cuda_evaluation *e = user;
    const int n_runs = e->batch->n_runs;
    return e->api->scores((token_score *)e->scores.at + first, logits, n_runs, e->n_vocab, n / n_runs,
                          (const int32_t *)e->targets.at + first / n_runs, stream, err);
}

static size_t targets_bytes(const evaluate_batch *b) { return (size_t)b->n_positions * sizeof(int32_t); }
static size_t scores_bytes(const evaluate_batch *b)
{
    return (size_t)b->n_positions * (size_t)b->n_runs * sizeof(token_score);
}

static rb_status begin(cuda_evaluation *e, const evaluate_request *request, rb_error *err)
{
    const evaluate_batch *b = e->batch;
    const void *table = NULL;
    int32_t *targets = NULL;
    rb_status st;
    RB_TRY(st, rb_cuda_table(&table, "rb_token_score_cuda", err), done);
    e->api = table;
    RB_TRY(st, kv_restore_cuda_create(&e->restore, request, b, err), done);
    RB_TRY(st, rb_cuda_array_alloc(&e->targets, targets_bytes(b), "targets", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&e->scores, scores_bytes(b), "token scores", err), done);
    RB_TRY(st, rb_alloc(&targets, (size_t)b->n_positions, sizeof *targets, "targets", err), done);
    for (int64_t i = 0; i < b->n_positions; i++) targets[i] = b->positions[i].target;
    RB_TRY(st, rb_cuda()->copy(e->targets.at, targets, targets_bytes(b), NULL, err), done);
    st = rb_cuda()->stream_wait(NULL, err);
done:
    free(targets);
    return st;
}

/* How many parts hold a text sequence. They are the first ones. */
static int count_text_parts(const evaluate_batch *b)
{
    int n = 0;
    while (n < b->n_parts && evaluate_batch_text_end(b, n) > b->part_start[n]) n++;
    return n;
}

static void tell(const forward_parts_cuda_report *r)
{
    rb_message_verbose("%.3f s on %s, of it %.3f s before the first layer, %.3f s scoring attention on the host, %.3f "
                       "s for the LM head and token scores",
                       r->total_s, rb_cuda_device()->name, r->set_up_s, r->host_s, r->logits_s);
    rb_message_verbose("GPU memory %.0f MiB at most, tokens in chunks of %lld", (double)r->gpu_bytes / 0x1p20,
                       (long long)r->chunk_tokens);
}

rb_status evaluate_cuda_run(token_score *scores, const evaluate_request *request, const evaluate_batch *batch,
                            const forward_hooks *hooks, rb_error *err)
{
    cuda_evaluation e = {.batch = batch, .n_vocab = checkpoint_config(request->model)->vocab_size};
    const forward_parts_cuda_hooks on_device = {
        .user = &e,
        .on_qkv = restore_heads,
        .on_layer_done = check_layer,
        .on_logits = score_logits,
        .n_host_parts = hooks->on_rotated || hooks->on_attended ? count_text_parts(batch) : 0};
    const int64_t mine = kv_restore_cuda_bytes(request, batch) + (int64_t)(targets_bytes(batch) + scores_bytes(batch));
    const forward_parts_cuda_options options = {
        .precision = request->cuda_precision, .max_bytes = request->max_gpu_bytes, .reserved_bytes = mine};
    forward_parts_cuda_report report = {0};
    rb_status st;
    RB_TRY(st, begin(&e, request, err), done);
    RB_TRY(st, forward_parts_cuda_run(request->model, &batch->batch, hooks, &on_device, &options, &report, err), done);
    RB_TRY(st, rb_cuda()->copy(scores, e.scores.at, scores_bytes(batch), NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
    tell(&report);
done:
    kv_restore_cuda_free(e.restore);
    rb_cuda_array_free(&e.targets);
    rb_cuda_array_free(&e.scores);
    return st;
}
