/* See block_codebook_curve.h; at the end what the family gives to methods/optimal.h and methods/plan_error.h. */
#include "methods/block_codebook_curve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "methods/optimal.h"
#include "methods/plan_error.h"

enum { N_BITS = BLOCK_CODEBOOK_MAX_BITS + 1, ROUNDS = 3 };
/* Blocks that cancel are not counted on: shrinking maps and moving bits for them was measured to cost 2 to 6 % of MAE
 * where it should have gained. */
static const double LEAST_COHERENCE = 1.0, MOST_COHERENCE = 4096.0;

static int most_code_bits(int n_blocks, int gain_bits)
{
    return (n_blocks - 1) * BLOCK_CODEBOOK_MAX_BITS + block_codebook_most_bits(0, gain_bits);
}

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

/* cost [n_blocks][N_BITS]: v of these kappa; INFINITY of bits that a block cannot have. */
static void find_costs(double *cost, const block_codebook_head *head, const double *coherence, int gain_bits)
{
    for (int i = 0; i < head->n_blocks; i++)
        for (int bits = 0; bits < N_BITS; bits++) {
            const double share = error_share(head, i, bits);
            cost[N_BITS * i + bits] = bits <= block_codebook_most_bits(i, gain_bits)
                                          ? size_of(head, i) * stretch_of(coherence[i], share) * share
                                          : INFINITY;
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

/* f of the first 0 to n_blocks blocks, for budgets of 0 to most bits. Bits are read back from it by adding up again:
 * the sums are the same. */
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

/* The fewest bits among equals. */
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

/* How many of p stored bytes' bits codes may take; below 0: not even the gain fits. */
static int code_bits(int n_blocks, int gain_bits, int point)
{
    const int bits = 8 * point - gain_bits, most = most_code_bits(n_blocks, gain_bits);
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
    curve->n_points = (most_code_bits(n, gain_bits) + gain_bits + 7) / 8 + 1;
    RB_TRY(st, rb_alloc(&curve->error, (size_t)curve->n_points, sizeof *curve->error, "error curve", err), done);
    RB_TRY(st, rb_alloc(&curve->cost, (size_t)n * N_BITS, sizeof *curve->cost, "error curve", err), done);
    RB_TRY(st, alloc_table(&table, n, most_code_bits(n, gain_bits), err), done);
    for (int i = 0; i < n; i++) coherence[i] = 1.0;
    for (int round = 0; round < (head->moment ? ROUNDS : 1); round++) {
        find_costs(curve->cost, head, coherence, gain_bits);
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
        find_costs(cost, head, coherence, curve->gain_bits);
    }
done:
    free_table(&table);
    return st;
}

/* ---- curves of a model (methods/optimal.h) --------------------------------------------------- */

typedef struct block_codebook_curves {
    const optimal_input *input;
    block_codebook_head *heads;     /* [n_heads] */
    block_codebook_curve *of_heads; /* [n_heads] */
} block_codebook_curves;

static void free_curves(void *curves)
{
    block_codebook_curves *c = curves;
    if (!c) return;
    for (int h = 0; c->of_heads && h < c->input->n_heads; h++) block_codebook_curve_free(&c->of_heads[h]);
    free(c->of_heads);
    free(c->heads);
    free(c);
}

static rb_status build_curves(void **out, const optimal_input *in, rb_error *err)
{
    const head_statistics *known = in->statistics;
    block_codebook_curves *c = NULL;
    rb_status st;
    *out = NULL;
    if (!known->block_codebook_map || !known->block_codebook_error)
        return rb_fail(err, RB_EINVAL, "family block-codebook needs the maps and errors of blocks, which are missing");
    RB_TRY(st, rb_alloc(&c, 1, sizeof *c, "curves", err), done);
    *out = c;
    c->input = in;
    RB_TRY(st, rb_alloc(&c->heads, (size_t)in->n_heads, sizeof *c->heads, "curves", err), done);
    RB_TRY(st, rb_alloc(&c->of_heads, (size_t)in->n_heads, sizeof *c->of_heads, "curves", err), done);
    for (int64_t h = 0, at = 0; h < in->n_heads; h++, at += in->n_blocks)
        c->heads[h] =
            (block_codebook_head){in->n_blocks, known->q_energy + at, known->block_codebook_error + at * N_BITS,
                                  in->moment ? in->moment + at * (in->n_blocks + 1) / 2 : NULL};
    RB_TRY(st, block_codebook_curves_build(c->of_heads, c->heads, in->n_heads, in->options->gain_bits, err), done);
done:
    return st;
}

static budget_curve curve_of(const void *curves, int h)
{
    const block_codebook_curves *c = curves;
    return (budget_curve){c->of_heads[h].n_points, c->of_heads[h].error};
}

/* Room for a gain and a code, whatever their bits, in whole bytes. */
static int64_t least_bits(const optimal_options *options)
{
    (void)options;
    return (BLOCK_CODEBOOK_MAX_GAIN_BITS + BLOCK_CODEBOOK_MAX_BITS + 7) / 8 * 8;
}

/* Weights of errors are shares of the largest: what a gain is chosen by has no scale. */
static void set_weights(double *weights, const double *q_energy, int n_blocks)
{
    double most = 0.0;
    for (int i = 0; i < n_blocks; i++) most = fmax(most, q_energy[i]);
    for (int i = 0; i < n_blocks; i++) weights[i] = most > 0.0 ? q_energy[i] / most : 1.0;
}

static rb_status make_head(plan_head *head, const void *curves, int h, int point, rb_error *err)
{
    const block_codebook_curves *c = curves;
    const int n = c->input->n_blocks;
    const float *known = c->input->statistics->block_codebook_map + (int64_t)h * n * BLOCK_CODEBOOK_MAP_SIZE;
    double maps[RB_MAX_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE], stretches[RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS];
    uint8_t bits[RB_MAX_BLOCKS];
    const rb_status st = block_codebook_curve_at(&c->of_heads[h], &c->heads[h], point, bits, err);
    if (st != RB_OK) return st;
    block_codebook_head_error(&c->heads[h], bits, stretches);
    set_weights(weights, c->heads[h].q_energy, n);
    for (int i = 0; i < BLOCK_CODEBOOK_MAP_SIZE * n; i++)
        maps[i] = (double)known[i] * stretches[i / BLOCK_CODEBOOK_MAP_SIZE];
    return plan_head_set_block_codebook(head, bits, maps, weights, c->input->options->gain_bits, n, err);
}

static bool has_options(const optimal_options *own, const optimal_options *usual)
{
    return own->gain_bits != usual->gain_bits;
}

/* A head has a budget of its own: from a shared one the first layers, whose logits are small, would lose bits to the
 * others, and needles with them (docs/method.md). */
extern const optimal_family block_codebook_optimal_family;
const optimal_family block_codebook_optimal_family = {
    .scope = SCOPE_HEAD,
    .least_bits = least_bits,
    .build = build_curves,
    .free = free_curves,
    .curve = curve_of,
    .make_head = make_head,
    .has_options = has_options,
    .refusal = "has no gain, expected --gain-bits with block-codebook",
};

/* ---- the error to expect (methods/plan_error.h) ---------------------------------------------- */

static double variance_of(const coded_head *coded, const plan_head *head, const codec_errors *errors)
{
    const block_codebook_head known = {coded->n_blocks, coded->q_energy, coded->block_codebook_error, coded->moment};
    double stretches[RB_MAX_BLOCKS];
    (void)errors;
    return block_codebook_head_error(&known, head->block_codebook.bits, stretches);
}

extern const head_error_functions block_codebook_error_functions;
const head_error_functions block_codebook_error_functions = {.variance = variance_of};
