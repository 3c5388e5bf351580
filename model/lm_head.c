/* See lm_head.h. */
#include "model/lm_head.h"

#include <assert.h>
#include <cblas.h>
#include <omp.h>
#include <stdlib.h>

#include "model/layer_weights.h"
#include "model/vector_math.h"

/* A tile of logits holds up to 256 tokens and 64 MiB. With so many tokens, converting the weights again for each tile
 * costs little compared with the product. */
enum { MAX_TILE_TOKENS = 256, MAX_TILE_LOGITS = 16 * 1024 * 1024, TILE_VOCAB = 256 };

typedef struct lm_head {
    const checkpoint *model;
    char weight[LAYER_TENSOR_NAME]; /* name of the matrix [vocab_size][hidden_size] */
    int64_t vocab_size, hidden_size;
    float *norm, *norm_bias; /* [hidden_size]; the bias is NULL without */
    float *rows;             /* [tile_tokens][hidden_size], normalised */
    float *logits;           /* [tile_tokens][vocab_size] */
    float *weight_tiles;     /* [n_threads][TILE_VOCAB][hidden_size] */
} lm_head;

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t n_wanted(const forward_hooks *hooks, int64_t n_tokens)
{
    return hooks->logit_tokens ? hooks->n_logit_tokens : n_tokens;
}

/* A whole number of groups, at least one. */
static int64_t tile_tokens(const model_config *config, int64_t n_tokens, const forward_hooks *hooks)
{
    const int64_t fitting = min_i64(MAX_TILE_LOGITS / config->vocab_size, MAX_TILE_TOKENS),
                  group = hooks->logit_group > 0 ? hooks->logit_group : 1;
    return min_i64(n_wanted(hooks, n_tokens), fitting > group ? fitting / group * group : group);
}

int64_t lm_head_bytes(const model_config *config, int64_t n_tokens, const forward_hooks *hooks, int n_threads)
{
    const int64_t tokens = tile_tokens(config, n_tokens, hooks), hidden = config->hidden_size;
    return (2 * hidden + tokens * (hidden + config->vocab_size) + (int64_t)n_threads * TILE_VOCAB * hidden)
           * (int64_t)sizeof(float);
}

static void lm_head_close(lm_head *head)
{
    free(head->norm);
    free(head->norm_bias);
    free(head->rows);
    free(head->logits);
    free(head->weight_tiles);
}

static rb_status lm_head_open(lm_head *head, const checkpoint *model, int64_t tile, rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const checkpoint_tensors *tensors = config->family->tensors;
    const int64_t shape[2] = {config->vocab_size, config->hidden_size};
    const size_t row_bytes = (size_t)config->hidden_size * sizeof(float), tokens = (size_t)tile;
    rb_status st;

    *head = (lm_head){.model = model, .vocab_size = config->vocab_size, .hidden_size = config->hidden_size};
    model_tensor_name(head->weight, config, model_config_lm_head(config));
    RB_TRY(st, rb_alloc(&head->norm, 1, row_bytes, "final norm", err), done);
    RB_TRY(st, rb_alloc(&head->rows, tokens, row_bytes, "LM head rows", err), done);
    RB_TRY(st, rb_alloc(&head->logits, tokens, (size_t)config->vocab_size * sizeof(float), "logits", err), done);
    RB_TRY(st,
           rb_alloc(&head->weight_tiles, (size_t)omp_get_max_threads() * TILE_VOCAB, row_bytes, "LM head weight tiles",
                    err),
           done);
    if (tensors->final_norm_bias) RB_TRY(st, rb_alloc(&head->norm_bias, 1, row_bytes, "final norm", err), done);
    RB_TRY(st, final_norm_load(model, head->norm, head->norm_bias, err), done);
    /* Reads nothing, and fails where a tile of rows could not be read. */
    RB_TRY(st, checkpoint_load_rows(model, head->weight, 2, shape, 0, 0, head->weight_tiles, err), done);
done:
    if (st != RB_OK) lm_head_close(head);
    return st;
}

/* Logits of n normalised rows for the vocabulary rows from `first` on; weight: scratch of this thread. */
static void vocab_tile(const lm_head *head, int64_t n, int64_t first, float *weight)
{
    const int64_t rows = min_i64(TILE_VOCAB, head->vocab_size - first),
                  shape[2] = {head->vocab_size, head->hidden_size};
    const int width = (int)head->hidden_size;
    checkpoint_load_rows(head->model, head->weight, 2, shape, first, rows, weight, NULL); /* lm_head_open tried it */
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)rows, width, 1.0f, head->rows, width, weight,
                width, 0.0f, head->logits + first, (int)head->vocab_size);
}

static void logits_of_rows(const lm_head *head, int64_t n)
{
#pragma omp parallel for schedule(dynamic)
    for (int64_t first = 0; first < head->vocab_size; first += TILE_VOCAB)
        vocab_tile(head, n, first, head->weight_tiles + (int64_t)omp_get_thread_num() * TILE_VOCAB * head->hidden_size);
}

/* rows = the final norm of n wanted tokens from `first` on. */
static void norm_rows(const lm_head *head, const float *hidden, double eps, const forward_hooks *hooks, int64_t first,
                      int64_t n)
{
    const int64_t width = head->hidden_size;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const int64_t token = hooks->logit_tokens ? hooks->logit_tokens[first + i] : first + i;
        float *row = head->rows + i * width;
        if (head->norm_bias)
            layer_norm_row(row, hidden + token * width, head->norm, head->norm_bias, (float)eps, width);
        else rms_norm_row(row, hidden + token * width, head->norm, (float)eps, width);
    }
}

static void finish_logits(const model_config *config, float *logits, int64_t n)
{
    const int64_t width = config->vocab_size;
    if (config->logit_scale == 1 && config->logit_softcap == 0) return;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++) {
        float *of_row = logits + row * width;
        if (config->logit_scale != 1) scale_row(of_row, of_row, (float)config->logit_scale, width);
        if (config->logit_softcap > 0) softcap_row(of_row, (float)config->logit_softcap, width);
    }
}

rb_status lm_head_run(const checkpoint *model, const float *hidden, int64_t n_tokens, const forward_hooks *hooks,
                      rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const int64_t step = tile_tokens(config, n_tokens, hooks), n_all = n_wanted(hooks, n_tokens);
    lm_head head = {0};
    rb_status st;

    assert(hooks->on_logits);
    if (n_all == 0) return RB_OK;
    RB_TRY(st, lm_head_open(&head, model, step, err), done);
    for (int64_t first = 0; first < n_all; first += step) {
        const int64_t n = min_i64(step, n_all - first);
        norm_rows(&head, hidden, config->norm_eps, hooks, first, n);
        logits_of_rows(&head, n);
        finish_logits(config, head.logits, n);
        RB_TRY(st, hooks->on_logits(hooks->user, first, n, head.logits, err), done);
    }
done:
    lm_head_close(&head);
    return st;
}
