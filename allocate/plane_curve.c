/* See plane_curve.h. */
#include "allocate/plane_curve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"

enum { N_BITS = PLANE_MAX_BITS + 1 };

static int row_size(int n_blocks) { return n_blocks * PLANE_MAX_BITS + 1; }

/* next[b] = min over B of before[b - B] + error[B], the least bits of equals. */
static void add_block(double *next, uint8_t *choice, const double *before, const double *error, int n)
{
    for (int b = 0; b < n; b++) {
        next[b] = before[b] + error[0];
        choice[b] = 0;
    }
    for (int bits = 1; bits < N_BITS; bits++)
        for (int b = bits; b < n; b++) {
            const double trial = before[b - bits] + error[bits];
            if (trial < next[b]) {
                next[b] = trial;
                choice[b] = (uint8_t)bits;
            }
        }
}

/* Bits that codes may take of p stored bytes; below 0: not even the gain fits. */
static int code_bits(const plane_curve *curve, int point)
{
    const int bits = 8 * point - curve->gain_bits, most = row_size(curve->n_blocks) - 1;
    return bits < most ? bits : most;
}

static rb_status build_curve(plane_curve *curve, int n_blocks, const double *q_energy, const float *plane_error, int gain_bits, rb_error *err)
{
    const int n = row_size(n_blocks);
    double *rows = NULL, *before, *next;
    rb_status st;
    curve->n_blocks = n_blocks;
    curve->gain_bits = gain_bits;
    curve->n_points = (n - 1 + gain_bits + 7) / 8 + 1;
    RB_TRY(st, rb_alloc(&curve->error, (size_t)curve->n_points, sizeof *curve->error, "error curve", err), done);
    RB_TRY(st, rb_alloc(&curve->choices, (size_t)n_blocks, (size_t)n, "bits of blocks", err), done);
    RB_TRY(st, rb_alloc(&rows, 2 * (size_t)n, sizeof *rows, "error curve", err), done);
    before = rows;
    next = rows + n;
    for (int i = 0; i < n_blocks; i++) {
        double error[N_BITS], *other = before;
        for (int bits = 0; bits < N_BITS; bits++) error[bits] = 0.5 * q_energy[i] * (double)plane_error[N_BITS * i + bits];
        add_block(next, curve->choices + (size_t)i * (size_t)n, before, error, n);
        before = next;
        next = other;
    }
    for (int p = 0; p < curve->n_points; p++) curve->error[p] = code_bits(curve, p) > 0 ? before[code_bits(curve, p)] : INFINITY;
done:
    free(rows);
    return st;
}

rb_status plane_curves_build(plane_curve *curves, int n_heads, int n_blocks, const double *q_energy, const float *plane_error, int gain_bits, rb_error *err)
{
    rb_first_failure failure = {0};
    memset(curves, 0, (size_t)n_heads * sizeof *curves);
#pragma omp parallel for schedule(dynamic)
    for (int h = 0; h < n_heads; h++) {
        rb_error mine = {0};
        const int64_t at = (int64_t)h * n_blocks;
        const rb_status st = build_curve(&curves[h], n_blocks, q_energy + at, plane_error + at * N_BITS, gain_bits, &mine);
        rb_note_failure(&failure, h, st, &mine);
    }
    const rb_status st = rb_tell_failure(&failure, err);
    for (int h = 0; st != RB_OK && h < n_heads; h++) plane_curve_free(&curves[h]);
    return st;
}

void plane_curve_free(plane_curve *curve)
{
    free(curve->error);
    free(curve->choices);
    *curve = (plane_curve){0};
}

void plane_curve_at(const plane_curve *curve, int point, uint8_t *bits)
{
    const size_t n = (size_t)row_size(curve->n_blocks);
    int left = code_bits(curve, point);
    for (int i = curve->n_blocks - 1; i >= 0; i--) {
        bits[i] = curve->choices[(size_t)i * n + (size_t)left];
        left -= bits[i];
    }
}
