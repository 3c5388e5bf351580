/* Times the CPU forward pass on a checkpoint, whole and by part, with tokens that are not text (timing does not depend
 * on them).
 *
 *   build/bench/bench_forward MODEL_DIR [N_TOKENS 4096] [CONTEXT 1024] [THREADS 0]
 *
 * Prints tab-separated lines: what, milliseconds (best of several runs), and peak memory next to the bound of
 * forward_memory_bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "core/message.h"
#include "core/threads.h"
#include "model/forward.h"
#include "model/layer.h"
#include "model/rope_apply.h"

enum { REPEATS = 5 };

typedef struct bench_batch {
    int32_t *tokens;
    int64_t *starts;
    token_batch batch;
} bench_batch;

static rb_status make_batch(bench_batch *out, int64_t n_tokens, int64_t context, int vocab_size, rb_error *err)
{
    const int64_t n_sequences = (n_tokens + context - 1) / context;
    rb_status st;

    RB_TRY(st, rb_alloc(&out->tokens, (size_t)n_tokens, sizeof *out->tokens, "tokens", err), done);
    RB_TRY(st, rb_alloc(&out->starts, (size_t)n_sequences + 1, sizeof *out->starts, "sequence bounds", err), done);
    for (int64_t t = 0; t < n_tokens; t++) out->tokens[t] = (int32_t)(t * 2654435761 % vocab_size);
    for (int64_t s = 0; s <= n_sequences; s++) out->starts[s] = s * context < n_tokens ? s * context : n_tokens;
    out->batch = (token_batch){out->tokens, n_tokens, out->starts, n_sequences};
done:
    return st;
}

static rb_status ignore_qkv(void *user, layer_heads *heads, rb_error *err)
{
    (void)user, (void)heads, (void)err;
    return RB_OK;
}

static rb_status ignore_logits(void *user, int64_t first_token, int64_t n, const float *logits, rb_error *err)
{
    (void)user, (void)first_token, (void)n, (void)logits, (void)err;
    return RB_OK;
}

static void keep_best(double *best_s, double started_s)
{
    const double took_s = rb_now_s() - started_s;
    if (*best_s == 0.0 || took_s < *best_s) *best_s = took_s;
}

static double peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024.0;
}

static rb_status time_forward(const char *what, const checkpoint *model, const token_batch *batch,
                              const forward_hooks *hooks, rb_error *err)
{
    double best_s = 0.0;
    for (int i = 0; i < REPEATS; i++) {
        const double started_s = rb_now_s();
        const rb_status st = forward_run(model, batch, hooks, err);
        if (st != RB_OK) return st;
        keep_best(&best_s, started_s);
    }
    printf("%s\t%.1f ms\tpeak %.1f MiB\n", what, best_s * 1e3, peak_mib());
    return RB_OK;
}

/* The parts of layer 0, on the activations that the parts themselves leave. */
static rb_status time_parts(const checkpoint *model, const token_batch *batch, int64_t context, rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const model_facts *facts = &config->facts;
    layer_weights weights = {0};
    layer_activations activations = {0};
    rope_table rope = {0};
    double load_s = 0.0, project_s = 0.0, rope_s = 0.0, attend_s = 0.0, mlp_s = 0.0;
    rb_status st;

    RB_TRY(st, layer_weights_alloc(&weights, config, err), done);
    RB_TRY(st, layer_activations_alloc(&activations, config, batch->n_tokens, batch->n_tokens, false, err), done);
    activations.n_tokens = batch->n_tokens;
    activations.n_sequences = batch->n_sequences;
    activations.sequence_start = batch->sequence_start;
    activations.hidden = activations.all_hidden;
    RB_TRY(st, rope_table_init(&rope, facts, &facts->rope, context, err), done);
    for (int64_t i = 0; i < batch->n_tokens * config->hidden_size; i++)
        activations.hidden[i] = (float)(i % 17) * 0.1f - 0.8f;
    for (int i = 0; i < REPEATS; i++) {
        double started_s = rb_now_s();
        RB_TRY(st, layer_weights_load(&weights, model, 0, STEP_HEADS, 0, err), done);
        RB_TRY(st, layer_weights_load(&weights, model, 0, STEP_REST, 0, err), done);
        keep_best(&load_s, started_s);
        started_s = rb_now_s();
        layer_project_heads(config, &weights, &activations);
        keep_best(&project_s, started_s);
        started_s = rb_now_s();
        rope_apply(&rope, activations.heads, facts->n_q_heads + facts->n_kv_heads, facts->head_dim,
                   batch->sequence_start, batch->n_sequences);
        keep_best(&rope_s, started_s);
        started_s = rb_now_s();
        RB_TRY(st, layer_attend(config, &weights, 0, 0, &activations, err), done);
        layer_project_out(config, &weights, &activations);
        keep_best(&attend_s, started_s);
        started_s = rb_now_s();
        if (config->layer_has_experts[0])
            RB_TRY(st, layer_experts_run(config, &weights, model, 0, activations.hidden, batch->n_tokens, err), done);
        else layer_mlp(config, &weights, &activations);
        keep_best(&mlp_s, started_s);
    }
    printf("layer: load weights\t%.2f ms\nlayer: norm, q, k, v\t%.2f ms\nlayer: RoPE\t%.2f ms\nlayer: attention, "
           "o\t%.2f ms\nlayer: MLP\t%.2f ms\n",
           load_s * 1e3, project_s * 1e3, rope_s * 1e3, attend_s * 1e3, mlp_s * 1e3);
done:
    rope_table_free(&rope);
    layer_activations_free(&activations);
    layer_weights_free(&weights);
    return st;
}

static rb_status bench(const char *folder, int64_t n_tokens, int64_t context, rb_error *err)
{
    const forward_hooks heads_only = {.on_qkv = ignore_qkv}, with_logits = {.on_logits = ignore_logits};
    checkpoint *model = NULL;
    bench_batch made = {0};
    rb_status st;

    RB_TRY(st, checkpoint_open(&model, folder, err), done);
    RB_TRY(st, make_batch(&made, n_tokens, context, checkpoint_config(model)->vocab_size, err), done);
    printf("%s: %" PRId64 " tokens, context %" PRId64 ", %d threads, bound %.1f MiB\n", folder, n_tokens, context,
           rb_threads_count(),
           (double)forward_memory_bytes(checkpoint_config(model), &made.batch, NULL, rb_threads_count()) / 1048576.0);
    RB_TRY(st, time_forward("forward, q and k only", model, &made.batch, &heads_only, err), done);
    RB_TRY(st, time_parts(model, &made.batch, context, err), done);
    RB_TRY(st, time_forward("forward with logits", model, &made.batch, &with_logits, err), done);
done:
    checkpoint_close(model);
    free(made.tokens);
    free(made.starts);
    return st;
}

int main(int argc, char **argv)
{
    const int64_t n_tokens = argc > 2 ? atoll(argv[2]) : 4096, context = argc > 3 ? atoll(argv[3]) : 1024;
    rb_error err = {0};
    rb_status st;

    if (argc < 2 || n_tokens < 1 || context < 1) {
        fprintf(stderr, "usage: bench_forward MODEL_DIR [N_TOKENS] [CONTEXT] [THREADS]\n");
        return 2;
    }
    rb_threads_init(argc > 4 ? atoll(argv[4]) : 0);
    st = bench(argv[1], n_tokens, context, &err);
    if (st != RB_OK) fprintf(stderr, "bench_forward: error: %s\n", err.msg);
    return rb_exit_code(st);
}
