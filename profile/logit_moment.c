/* See logit_moment.h. */
#include "profile/logit_moment.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>

/* 512 tokens of 16 offsets each are enough: a moment's error is 1 to 2 %. */
enum { MOST_TOKENS = 512, N_OFFSETS = 16, LARGEST_OFFSET = 1024, TILE_TOKENS = 16 };

typedef struct moment_task {
    int n_blocks;
    double freqs[RB_MAX_BLOCKS], gains[RB_MAX_BLOCKS]; /* gains: squared */
    int dims[RB_MAX_BLOCKS][2];
    double turns[RB_MAX_BLOCKS][2]; /* cos and sin of a block's angle from offset to offset */
    double *sum;                    /* [n_blocks][n_blocks] */
    float *rows;                    /* [TILE_TOKENS * N_OFFSETS][n_blocks]: z */
    float *product;                 /* [n_blocks][n_blocks] */
} moment_task;

/* Offsets of a sampled token: even steps, the first shifted from token to token by the golden ratio. */
#define OFFSET_STEP (2.0 * LARGEST_OFFSET / N_OFFSETS)
static double first_offset(int64_t t)
{
    return OFFSET_STEP * fmod((double)t * 0.6180339887498949, 1.0) - LARGEST_OFFSET;
}

static void token_rows(const moment_task *task, float *rows, const float *q, const float *k, const double *mean,
                       int64_t t)
{
    for (int i = 0; i < task->n_blocks; i++) {
        const int x = task->dims[i][0], y = task->dims[i][1];
        const double kx = (double)k[x] - (mean ? mean[x] : 0.0), ky = (double)k[y] - (mean ? mean[y] : 0.0);
        const double re = task->gains[i] * ((double)q[x] * kx + (double)q[y] * ky),
                     im = task->gains[i] * ((double)q[x] * ky - (double)q[y] * kx);
        const double angle = first_offset(t) * task->freqs[i], turn_x = task->turns[i][0], turn_y = task->turns[i][1];
        double z_x = re * cos(angle) - im * sin(angle), z_y = re * sin(angle) + im * cos(angle);
        for (int s = 0; s < N_OFFSETS; s++) {
            const double next_x = z_x * turn_x - z_y * turn_y;
            rows[(int64_t)s * task->n_blocks + i] = (float)z_x;
            z_y = z_x * turn_y + z_y * turn_x;
            z_x = next_x;
        }
    }
}

static void add_products(const moment_task *task, int n_rows)
{
    const int n = task->n_blocks;
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, n, n_rows, 1.0f, task->rows, n, 0.0f, task->product, n);
    for (int i = 0; i < n; i++)
        for (int j = i; j < n; j++) task->sum[(int64_t)i * n + j] += (double)task->product[(int64_t)i * n + j];
}

rb_status logit_moment_measure(float *moment, const model_facts *model, int layer, const float *q, const float *k,
                               const double *mean, int64_t n_tokens, rb_error *err)
{
    const int n = model_n_blocks(model), n_q_heads = model_q_per_kv(model), dim = model->head_dim;
    const int64_t n_sampled = n_tokens < MOST_TOKENS ? n_tokens : MOST_TOKENS;
    moment_task task = {.n_blocks = n};
    rb_status st;
    RB_TRY(st, rb_alloc(&task.sum, (size_t)n * (size_t)n, sizeof *task.sum, "logit moments", err), done);
    RB_TRY(st, rb_alloc(&task.product, (size_t)n * (size_t)n, sizeof *task.product, "logit moments", err), done);
    RB_TRY(st, rb_alloc(&task.rows, TILE_TOKENS * N_OFFSETS, (size_t)n * sizeof *task.rows, "logit moments", err),
           done);
    for (int i = 0; i < n; i++) {
        const double gain = model_block_gain(model, layer, i);
        task.freqs[i] = model_block_freq(model, layer, i);
        task.gains[i] = gain * gain;
        const double angle = OFFSET_STEP * task.freqs[i];
        model_block_dims(model, i, task.dims[i]);
        task.turns[i][0] = cos(angle);
        task.turns[i][1] = sin(angle);
    }
    for (int64_t item = 0, held = 0; item < n_sampled * n_q_heads; item++) {
        const int64_t sample = item / n_q_heads, t = sample * n_tokens / n_sampled, head = item % n_q_heads;
        token_rows(&task, task.rows + held * N_OFFSETS * n, q + (head * n_tokens + t) * dim, k + t * dim, mean, item);
        if (++held < TILE_TOKENS && item + 1 < n_sampled * n_q_heads) continue;
        add_products(&task, (int)held * N_OFFSETS);
        held = 0;
    }
    const double n_rows = (double)(n_sampled * n_q_heads * N_OFFSETS);
    for (int i = 0; i < n; i++)
        for (int j = i; j < n; j++) *moment++ = (float)(task.sum[(int64_t)i * n + j] / n_rows);
done:
    free(task.sum);
    free(task.product);
    free(task.rows);
    return st;
}
