/* Logit MAE: see profile/logit_error.h. */
#include "profile/logit_error.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>

#include "core/threads.h"

enum { TILE = 128 }; /* tokens a product takes; fixed, so that sums do not depend on threads */

struct offset_table {
    int head_dim, n_blocks;
    int (*dims)[2]; /* [n_blocks] */
    float *turn;    /* [2 * n_blocks][LOGIT_ERROR_N_OFFSETS]: cos of every block, then -sin, times gain squared */
};

rb_status offset_table_create(offset_table **out, const model_facts *model, const rope_facts *rope, rb_error *err)
{
    const int n_blocks = model_n_blocks(model);
    offset_table *table = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&table, 1, sizeof *table, "offset table", err), done);
    table->head_dim = model->head_dim;
    table->n_blocks = n_blocks;
    RB_TRY(st, rb_alloc(&table->dims, (size_t)n_blocks, sizeof *table->dims, "offset table", err), done);
    RB_TRY(
        st,
        rb_alloc(&table->turn, 2 * (size_t)n_blocks * LOGIT_ERROR_N_OFFSETS, sizeof *table->turn, "offset table", err),
        done);
    for (int block = 0; block < n_blocks; block++) {
        const bool is_turned = block < model->rotary_dim / 2;
        const double freq = is_turned ? rope->inv_freq[block] : 0.0, gain = is_turned ? rope->attention_factor : 1.0;
        model_block_dims(model, block, table->dims[block]);
        for (int i = 0; i < LOGIT_ERROR_N_OFFSETS; i++) {
            const double offset =
                -LOGIT_ERROR_MAX_OFFSET + 2.0 * LOGIT_ERROR_MAX_OFFSET * i / (LOGIT_ERROR_N_OFFSETS - 1);
            table->turn[block * LOGIT_ERROR_N_OFFSETS + i] = (float)(gain * gain * cos(offset * freq));
            table->turn[(n_blocks + block) * LOGIT_ERROR_N_OFFSETS + i] = (float)(gain * gain * -sin(offset * freq));
        }
    }
    *out = table;
    table = NULL;
done:
    offset_table_free(table);
    return st;
}

void offset_table_free(offset_table *table)
{
    if (!table) return;
    free(table->dims);
    free(table->turn);
    free(table);
}

const float *offset_table_turn(const offset_table *table) { return table->turn; }

/* z[t] = Re of every block, then Im, of conj(q_i) e_i. */
static void multiply_blocks(float *z, const offset_table *table, const float *q, const float *k, const float *k_hat,
                            int n)
{
    const int n_blocks = table->n_blocks;
    for (int t = 0; t < n; t++) {
        const float *q_t = q + (int64_t)t * table->head_dim, *k_t = k + (int64_t)t * table->head_dim,
                    *h_t = k_hat + (int64_t)t * table->head_dim;
        float *real = z + (int64_t)t * 2 * n_blocks, *imaginary = real + n_blocks;
        for (int block = 0; block < n_blocks; block++) {
            const int a = table->dims[block][0], b = table->dims[block][1];
            const float error_a = k_t[a] - h_t[a], error_b = k_t[b] - h_t[b];
            real[block] = q_t[a] * error_a + q_t[b] * error_b;
            imaginary[block] = q_t[a] * error_b - q_t[b] * error_a;
        }
    }
}

RB_CPU_CLONES static double sum_magnitudes(const float *x, int n)
{
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += (double)fabsf(x[i]);
    return sum;
}

/* Sum of |error| over the tokens and offsets of one query head. z [TILE][2 * n_blocks] and errors [TILE][offsets] are
 * scratch. */
static double head_sum(const offset_table *table, const float *q, const float *k, const float *k_hat, int64_t n_tokens,
                       float *z, float *errors)
{
    const int width = 2 * table->n_blocks;
    double sum = 0.0;
    for (int64_t at = 0; at < n_tokens; at += TILE) {
        const int n = (int)(n_tokens - at < TILE ? n_tokens - at : TILE);
        const int64_t offset = at * table->head_dim;
        multiply_blocks(z, table, q + offset, k + offset, k_hat + offset, n);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, LOGIT_ERROR_N_OFFSETS, width, 1.0f, z, width,
                    table->turn, LOGIT_ERROR_N_OFFSETS, 0.0f, errors, LOGIT_ERROR_N_OFFSETS);
        sum += sum_magnitudes(errors, n * LOGIT_ERROR_N_OFFSETS);
    }
    return sum;
}

rb_status logit_mae(double *out, const offset_table *table, const float *q, int n_q, const float *k,
                    const float *const *k_hat, int n_candidates, int64_t n_tokens, rb_error *err)
{
    const int n_threads = rb_threads_count(), n_items = n_q * n_candidates;
    const size_t z_size = TILE * 2 * (size_t)table->n_blocks, errors_size = TILE * LOGIT_ERROR_N_OFFSETS;
    float *scratch = NULL;
    double *sums = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&scratch, (size_t)n_threads * (z_size + errors_size), sizeof *scratch, "logit error", err),
           done);
    RB_TRY(st, rb_alloc(&sums, (size_t)n_items, sizeof *sums, "logit error", err), done);
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int item = 0; item < n_items; item++) {
        float *z = scratch + (size_t)rb_thread_index() * (z_size + errors_size);
        const int candidate = item / n_q, q_head = item % n_q;
        sums[item] = head_sum(table, q + (int64_t)q_head * n_tokens * table->head_dim, k, k_hat[candidate], n_tokens, z,
                              z + z_size);
    }
    for (int c = 0; c < n_candidates; c++) {
        double sum = 0.0;
        for (int q_head = 0; q_head < n_q; q_head++) sum += sums[c * n_q + q_head];
        out[c] = sum / ((double)n_q * (double)n_tokens * LOGIT_ERROR_N_OFFSETS);
        if (!isfinite(out[c])) {
            st = rb_fail(err, RB_ENONFINITE,
                         "the logit error is not finite: queries times key errors leave the range of f32");
            goto done;
        }
    }
done:
    free(scratch);
    free(sums);
    return st;
}
