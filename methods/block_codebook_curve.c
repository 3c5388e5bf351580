/* See block_codebook_curve.h. */
#include "methods/block_codebook_curve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"

enum { N_BITS = BLOCK_CODEBOOK_MAX_BITS + 1, ROUNDS = 3 };
/* Blocks that cancel are not counted on: shrinking maps and moving bits for them was measured to cost 2 to 6 % of MAE
 * where it should have gained. */
static const double LEAST_COHERENCE = 1.0, MOST_COHERENCE = 4096.0;

static int most_code_bits(int n_blocks) { return n_blocks * BLOCK_CODEBOOK_MAX_BITS; }

/* ---- the model ------------------------------------------------------------------------------- */

/* c of a block with so many bits; a block without energy has no error to share. */
static double error_share(const block_codebook_head *head, int block, int bits)
{
    const float *error = head->error + (size_t)N_BITS * (size_t)block;
    return error[0] > 0.0f ? fmin(1.0, (double)error[bits] / (double)error[0]) : 0.0;
}

static double size_of(const block_codebook_head *head, int block)
{
    return 0.5 * head->q_energy[block] * (double)head->error[(size_t)N_BITS * (size_t)block];
}

static double stretch_of(double coherence, double share) { return coherence / ((1.0 - share) * coherence + share); }

/* Sums of four that are added up last: in one order, and side by side. */
static inline double product_of(const float *m, const double *x, int n)
{
    double part[4] = {0.0};
    int k = 0;
    for (; k + 4 <= n; k += 4)
        for (int l = 0; l < 4; l++) part[l] += (double)m[k + l] * x[k + l];
    for (; k < n; k++) part[0] += (double)m[k] * x[k];
    return (part[0] + part[1]) + (part[2] + part[3]);
}

/* sum_j M_ij x_j for every i. */
RB_CPU_CLONES static void multiply_moments(double *restrict out, const block_codebook_head *head,
                                           const double *restrict x)
{
    const float *m = head->moment;
    memset(out, 0, (size_t)head->n_blocks * sizeof *out);
    for (int i = 0; i < head->n_blocks; i++) {
        const int n = head->n_blocks - i;
        const double own = x[i];
        out[i] += product_of(m, x + i, n);
        for (int j = 1; j < n; j++) out[i + j] += (double)m[j] * own;
        m += n;
    }
}

/* kappa_i of these bits. */
static void find_coherence(double *coherence, const block_codebook_head *head, const uint8_t *bits)
{
    double share[RB_MAX_BLOCKS] = {0}, sums[RB_MAX_BLOCKS];
    for (int i = 0; i < head->n_blocks; i++) {
        coherence[i] = 1.0;
        share[i] = error_share(head, i, bits[i]);
    }
    if (!head->moment) return;
    multiply_moments(sums, head, share);
    for (int i = 0; i < head->n_blocks; i++) {
        const double own = size_of(head, i) * share[i];
        if (own > 0.0) coherence[i] = fmin(fmax(sums[i] / own, LEAST_COHERENCE), MOST_COHERENCE);
    }
}

double block_codebook_head_error(const block_codebook_head *head, const uint8_t *bits, double *stretches)
{
    double coherence[RB_MAX_BLOCKS], kept[RB_MAX_BLOCKS] = {0}, sums[RB_MAX_BLOCKS], variance = 0.0;
    find_coherence(coherence, head, bits);
    for (int i = 0; i < head->n_blocks; i++) {
        const double share = error_share(head, i, bits[i]);
        stretches[i] = bits[i] > 0 ? stretch_of(coherence[i], share) : 1.0;
        kept[i] = bits[i] > 0 ? 1.0 - stretches[i] * (1.0 - share) : 1.0;
        if (bits[i] > 0) variance += stretches[i] * stretches[i] * (1.0 - share) * share * size_of(head, i);
    }
    if (head->moment) multiply_moments(sums, head, kept);
    for (int i = 0; i < head->n_blocks; i++)
        variance += kept[i] * (head->moment ? sums[i] : kept[i] * size_of(head, i));
    return fmax(0.0, variance);
}

/* ---- the best bits --------------------------------------------------------------------------- */

/* cost [n_blocks][N_BITS]: v of these kappa. */
static void find_costs(double *cost, const block_codebook_head *head, const double *coherence)
{
    for (int i = 0; i < head->n_blocks; i++)
        for (int bits = 0; bits < N_BITS; bits++) {
            const double share = error_share(head, i, bits);
            cost[N_BITS * i + bits] = size_of(head, i) * stretch_of(coherence[i], share) * share;
        }
}

/* next[b] = min over B of before[b - B] + cost[B]. */
RB_CPU_CLONES static void add_block(double *restrict next, const double *restrict before, const double *restrict cost,
                                    int n)
{
    for (int b = 0; b < n; b++) next[b] = before[b] + cost[0];
    for (int bits = 1; bits < N_BITS; bits++) {
        const double own = cost[bits];
        for (int b = bits; b < n; b++) {
            const double trial = before[b - bits] + own;
            next[b] = trial < next[b] ? trial : next[b];
        }
    }
}

/* f of the first 0 to n_blocks blocks, for budgets 0 to most bits. Bits are read back from it: sums are the same again.
 */
typedef struct bit_table {
    int n;         /* most + 1 */
    double *least; /* [n_blocks + 1][n] */
} bit_table;

static void free_table(bit_table *table) { free(table->least); }

static rb_status alloc_table(bit_table *table, int n_blocks, int most, rb_error *err)
{
    table->n = most + 1;
    return rb_alloc(&table->least, (size_t)(n_blocks + 1) * (size_t)table->n, sizeof *table->least, "bits of blocks",
                    err);
}

static double *row_of(const bit_table *table, int n_blocks)
{
    return table->least + (size_t)n_blocks * (size_t)table->n;
}

static void fill_table(bit_table *table, int n_blocks, const double *cost)
{
    memset(row_of(table, 0), 0, (size_t)table->n * sizeof *table->least);
    for (int i = 0; i < n_blocks; i++) add_block(row_of(table, i + 1), row_of(table, i), cost + N_BITS * i, table->n);
}

/* The least bits of equals. */
static void read_bits(uint8_t *bits, const bit_table *table, int n_blocks, const double *cost, int budget)
{
    for (int i = n_blocks - 1; i >= 0; i--) {
        const double *before = row_of(table, i), least = row_of(table, i + 1)[budget];
        int own = 0;
        while (own < BLOCK_CODEBOOK_MAX_BITS && own < budget && before[budget - own] + cost[N_BITS * i + own] != least)
            own++;
        bits[i] = (uint8_t)own;
        budget -= own;
    }
}

/* Bits that codes may take of p stored bytes; below 0: not even the gain fits. */
static int code_bits(int n_blocks, int gain_bits, int point)
{
    const int bits = 8 * point - gain_bits, most = most_code_bits(n_blocks);
    return bits < most ? bits : most;
}

/* ---- curves ---------------------------------------------------------------------------------- */

static rb_status build_curve(block_codebook_curve *curve, const block_codebook_head *head, int gain_bits, rb_error *err)
{
    const int n = head->n_blocks, usual = (int)(BLOCK_CODEBOOK_USUAL_BITS * 2 * n);
    double coherence[RB_MAX_BLOCKS], stretches[RB_MAX_BLOCKS];
    uint8_t bits[RB_MAX_BLOCKS] = {0};
    bit_table table = {0};
    rb_status st;
    curve->gain_bits = gain_bits;
    curve->n_points = (most_code_bits(n) + gain_bits + 7) / 8 + 1;
    RB_TRY(st, rb_alloc(&curve->error, (size_t)curve->n_points, sizeof *curve->error, "error curve", err), done);
    RB_TRY(st, rb_alloc(&curve->cost, (size_t)n * N_BITS, sizeof *curve->cost, "error curve", err), done);
    RB_TRY(st, alloc_table(&table, n, most_code_bits(n), err), done);
    for (int i = 0; i < n; i++) coherence[i] = 1.0;
    for (int round = 0; round < (head->moment ? ROUNDS : 1); round++) {
        find_costs(curve->cost, head, coherence);
        fill_table(&table, n, curve->cost);
        read_bits(bits, &table, n, curve->cost, usual);
        find_coherence(coherence, head, bits);
    }
    for (int p = 0; p < curve->n_points; p++) {
        const int budget = code_bits(n, gain_bits, p);
        curve->error[p] = INFINITY;
        if (budget <= 0) continue;
        read_bits(bits, &table, n, curve->cost, budget);
        curve->error[p] =
            fmin(p > 0 ? curve->error[p - 1] : (double)INFINITY, block_codebook_head_error(head, bits, stretches));
    }
done:
    free_table(&table);
    return st;
}

rb_status block_codebook_curves_build(block_codebook_curve *curves, const block_codebook_head *heads, int n_heads,
                                      int gain_bits, rb_error *err)
{
    rb_first_failure failure = {0};
    memset(curves, 0, (size_t)n_heads * sizeof *curves);
#pragma omp parallel for schedule(dynamic)
    for (int h = 0; h < n_heads; h++) {
        rb_error mine = {0};
        const rb_status st = build_curve(&curves[h], &heads[h], gain_bits, &mine);
        rb_note_failure(&failure, h, st, &mine);
    }
    const rb_status st = rb_tell_failure(&failure, err);
    for (int h = 0; st != RB_OK && h < n_heads; h++) block_codebook_curve_free(&curves[h]);
    return st;
}

void block_codebook_curve_free(block_codebook_curve *curve)
{
    free(curve->error);
    free(curve->cost);
    *curve = (block_codebook_curve){0};
}

rb_status block_codebook_curve_at(const block_codebook_curve *curve, const block_codebook_head *head, int point,
                                  uint8_t *bits, rb_error *err)
{
    const int n = head->n_blocks, budget = code_bits(n, curve->gain_bits, point);
    double cost[RB_MAX_BLOCKS * N_BITS], coherence[RB_MAX_BLOCKS], stretches[RB_MAX_BLOCKS], least = INFINITY;
    uint8_t trial[RB_MAX_BLOCKS] = {0}, before[RB_MAX_BLOCKS];
    bit_table table = {0};
    rb_status st;
    RB_TRY(st, alloc_table(&table, n, budget, err), done);
    memcpy(cost, curve->cost, (size_t)n * N_BITS * sizeof *cost);
    for (int round = 0; round < (head->moment ? ROUNDS : 1); round++) {
        fill_table(&table, n, cost);
        read_bits(trial, &table, n, cost, budget);
        if (round > 0 && memcmp(trial, before, (size_t)n) == 0) break; /* kappa will be the same too */
        memcpy(before, trial, (size_t)n);
        const double error = block_codebook_head_error(head, trial, stretches);
        if (error < least) {
            least = error;
            memcpy(bits, trial, (size_t)n);
        }
        find_coherence(coherence, head, trial);
        find_costs(cost, head, coherence);
    }
done:
    free_table(&table);
    return st;
}
