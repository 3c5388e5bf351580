/* See trellis_curve.h. */
#include "methods/trellis_curve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/model_facts.h"
#include "kernels/reference/trellis_codec.h"
#include "methods/trellis_basis.h"

/* The most bits of a coordinate: the last shares its place in a vector's codes with the gain. */
static int most_bits(const trellis_head *head, int i)
{
    return i == head->n - 1 ? TRELLIS_MAX_WIDTH - head->gain_bits : TRELLIS_MAX_WIDTH;
}

/* What the next bit of a coordinate saves; negative where it can have none. A coordinate comes before those of less
 * harm, so a bit goes to the lowest of equals, and widths fall. */
static double saved_by_bit(const trellis_head *head, const uint8_t *widths, int i)
{
    const int width = widths[i];
    return width < most_bits(head, i) ? head->harm[i] * (trellis_errors[width] - trellis_errors[width + 1]) : -1.0;
}

static int neediest(const trellis_head *head, const uint8_t *widths)
{
    int best = -1;
    double most = 0.0;
    for (int i = 1; i < head->n; i++) {
        const double saved = saved_by_bit(head, widths, i);
        if (saved > most) {
            most = saved;
            best = i;
        }
        if (widths[i] == 0) break; /* those after it have less harm and no bits either */
    }
    return best;
}

static double harm_left(const trellis_head *head, const uint8_t *widths)
{
    double sum = 0.0;
    for (int i = 0; i < head->n; i++) sum += head->harm[i] * trellis_errors[widths[i]];
    return sum;
}

/* Widths for so many bits of codes; fewer where all have their most. Writes the harm left at every whole byte of a
 * vector to error [n_points], NULL: nowhere. */
static void give_bits(uint8_t *widths, const trellis_head *head, int bits, double *error, int n_points)
{
    int given = TRELLIS_STATE_BITS, byte = 0;
    double left;
    memset(widths, 0, (size_t)head->n);
    widths[0] = TRELLIS_STATE_BITS;
    left = harm_left(head, widths);
    for (; error && byte < n_points && 8 * byte < given + head->gain_bits; byte++) error[byte] = INFINITY;
    for (;;) {
        for (; error && byte < n_points && 8 * byte < given + 1 + head->gain_bits; byte++) error[byte] = left;
        const int i = given < bits ? neediest(head, widths) : -1;
        if (i < 0) break;
        left -= saved_by_bit(head, widths, i);
        widths[i]++;
        given++;
    }
    for (; error && byte < n_points; byte++) error[byte] = left;
}

int trellis_least_bytes(int gain_bits) { return (TRELLIS_STATE_BITS + gain_bits + 7) / 8; }

rb_status trellis_head_create(trellis_head *out, const float *metric, const float *moment, int n, int gain_bits,
                              int gain_zero, rb_error *err)
{
    uint8_t widths[RB_MAX_HEAD_DIM];
    rb_status st;
    *out = (trellis_head){.n = n, .gain_bits = gain_bits, .gain_zero = gain_zero};
    out->n_points = (TRELLIS_MAX_WIDTH * n + 7) / 8 + 1;
    RB_TRY(st, rb_alloc(&out->basis, (size_t)n, (size_t)n * sizeof *out->basis, "basis", err), done);
    RB_TRY(st, rb_alloc(&out->harm, (size_t)n, sizeof *out->harm, "basis", err), done);
    RB_TRY(st, rb_alloc(&out->error, (size_t)out->n_points, sizeof *out->error, "basis", err), done);
    RB_TRY(st, trellis_basis_find(out->basis, out->harm, metric, moment, n, err), done);
    give_bits(widths, out, TRELLIS_MAX_WIDTH * n, out->error, out->n_points);
done:
    if (st != RB_OK) trellis_head_free(out);
    return st;
}

void trellis_head_free(trellis_head *head)
{
    free(head->basis);
    free(head->harm);
    free(head->error);
    *head = (trellis_head){0};
}

/* Rows of the basis are stretched as trellis_codec.h says; weights are shares of the largest, since a search has no
 * scale. */
rb_status trellis_head_make(plan_head *out, const trellis_head *head, int bytes, rb_error *err)
{
    const int n = head->n;
    uint8_t widths[RB_MAX_HEAD_DIM];
    double weights[RB_MAX_HEAD_DIM], *basis = NULL;
    rb_status st = rb_alloc(&basis, (size_t)n, (size_t)n * sizeof *basis, "basis", err);
    if (st != RB_OK) return st;
    give_bits(widths, head, 8 * bytes - head->gain_bits, NULL, 0);
    for (int i = 0; i < n; i++) {
        const double stretch = widths[i] > 0 ? trellis_stretch(widths[i]) : 1.0;
        weights[i] = head->harm[i] / head->harm[0];
        for (int j = 0; j < n; j++) basis[i * n + j] = head->basis[i * n + j] * stretch;
    }
    st = plan_head_set_trellis(out, widths, basis, weights, head->gain_bits, head->gain_zero, n, err);
    free(basis);
    return st;
}
