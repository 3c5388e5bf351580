/* Family trellis, the plan of a head: see kernels/reference/trellis_plan.h. */
#include "kernels/reference/trellis_plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/plan_head.h"

/* ---- making ---------------------------------------------------------------------------------- */

static void trellis_clear(plan_head *head)
{
    free(head->trellis.widths);
    free(head->trellis.basis);
    free(head->trellis.weights);
}

static rb_status alloc_numbers(plan_trellis *out, rb_error *err)
{
    static const char what[] = "trellis of a head";
    const size_t n = (size_t)out->n_dims;
    rb_status st;
    RB_TRY(st, rb_alloc(&out->widths, n, sizeof *out->widths, what, err), done);
    RB_TRY(st, rb_alloc(&out->basis, n * n, sizeof *out->basis, what, err), done);
    RB_TRY(st, rb_alloc(&out->weights, n, sizeof *out->weights, what, err), done);
done:
    return st;
}

static rb_status trellis_copy(plan_head *out, const plan_head *head, int n_blocks, rb_error *err)
{
    const plan_trellis *from = &head->trellis;
    const size_t n = (size_t)from->n_dims;
    plan_trellis *to = &out->trellis;
    (void)n_blocks;
    *to = (plan_trellis){.n_dims = from->n_dims, .gain_bits = from->gain_bits, .gain_zero = from->gain_zero};
    const rb_status st = alloc_numbers(to, err);
    if (st != RB_OK) return st;
    memcpy(to->widths, from->widths, n);
    memcpy(to->basis, from->basis, n * n * sizeof *from->basis);
    memcpy(to->weights, from->weights, n * sizeof *from->weights);
    return RB_OK;
}

rb_status plan_head_set_trellis(plan_head *head, const uint8_t *widths, const double *basis, const double *weights,
                                int gain_bits, int gain_zero, int n_dims, rb_error *err)
{
    plan_head made = {.family = FAMILY_TRELLIS,
                      .trellis = {.n_dims = n_dims, .gain_bits = gain_bits, .gain_zero = gain_zero}};
    plan_trellis *to = &made.trellis;
    const rb_status st = alloc_numbers(to, err);
    if (st != RB_OK) {
        plan_head_clear(&made);
        return st;
    }
    memcpy(to->widths, widths, (size_t)n_dims);
    for (int i = 0; i < n_dims * n_dims; i++) to->basis[i] = plan_fp16(basis[i]);
    for (int i = 0; i < n_dims; i++) to->weights[i] = plan_fp16(fmax(weights[i], TRELLIS_LEAST_WEIGHT));
    made.center = head->center;
    head->center = NULL;
    plan_head_clear(head);
    *head = made;
    return RB_OK;
}

/* ---- looking --------------------------------------------------------------------------------- */

int plan_trellis_n_coded(const plan_trellis *plan)
{
    int n = 0;
    while (n < plan->n_dims && plan->widths[n] > 0) n++;
    return n;
}

static bool trellis_equal(const plan_head *a, const plan_head *b, int n_blocks)
{
    const plan_trellis *x = &a->trellis, *y = &b->trellis;
    (void)n_blocks;
    return x->n_dims == y->n_dims && x->gain_bits == y->gain_bits && x->gain_zero == y->gain_zero
           && memcmp(x->widths, y->widths, (size_t)x->n_dims) == 0
           && plan_floats_equal(x->basis, y->basis, x->n_dims * x->n_dims)
           && plan_floats_equal(x->weights, y->weights, x->n_dims);
}

/* A coordinate belongs to no block: a block is told what all have on average, rounded to the nearest. */
static void trellis_bits(const plan_head *head, uint8_t *bits, int n_blocks)
{
    int total = 0;
    for (int i = 0; i < head->trellis.n_dims; i++) total += head->trellis.widths[i];
    for (int i = 0; i < n_blocks; i++) bits[i] = (uint8_t)((total + head->trellis.n_dims / 2) / head->trellis.n_dims);
}

static int trellis_code_bits(const plan_head *head, int n_blocks)
{
    int bits = 0;
    (void)n_blocks;
    for (int i = 0; i < head->trellis.n_dims; i++) bits += head->trellis.widths[i];
    return bits;
}

static int trellis_stored_bits(const plan_head *head, int n_blocks)
{
    return (trellis_code_bits(head, n_blocks) + head->trellis.gain_bits + 7) / 8 * 8;
}

static bool trellis_is_published_form(const plan_head *head, int n_blocks)
{
    (void)head;
    (void)n_blocks;
    return false;
}

/* ---- check ----------------------------------------------------------------------------------- */

static rb_status check_widths(const plan_trellis *own, const char *where, rb_error *err)
{
    const int n_coded = plan_trellis_n_coded(own);
    for (int i = 0; i < own->n_dims; i++)
        if (own->widths[i] > TRELLIS_MAX_WIDTH)
            return rb_fail(err, RB_EFORMAT, "%s: coordinate %d has %d bits, expected 0 to %d", where, i, own->widths[i],
                           TRELLIS_MAX_WIDTH);
    if (own->widths[0] != TRELLIS_STATE_BITS)
        return rb_fail(err, RB_EFORMAT, "%s: coordinate 0 has %d bits, expected %d", where, own->widths[0],
                       TRELLIS_STATE_BITS);
    for (int i = n_coded; i < own->n_dims; i++)
        if (own->widths[i] > 0)
            return rb_fail(err, RB_EFORMAT, "%s: coordinate %d has %d bits after one that has none", where, i,
                           own->widths[i]);
    if (own->widths[own->n_dims - 1] + own->gain_bits > TRELLIS_MAX_WIDTH)
        return rb_fail(err, RB_EFORMAT, "%s: the last coordinate and the gain have %d bits, expected %d at most", where,
                       own->widths[own->n_dims - 1] + own->gain_bits, TRELLIS_MAX_WIDTH);
    return RB_OK;
}

/* That the basis can be inverted is found by the codec. */
static rb_status trellis_check(const plan_head *head, int n_blocks, const char *where, rb_error *err)
{
    const plan_trellis *own = &head->trellis;
    rb_status st;
    if (own->n_dims != 2 * n_blocks)
        return rb_fail(err, RB_EFORMAT, "%s: trellis of %d dims, expected %d", where, own->n_dims, 2 * n_blocks);
    if (own->gain_bits < 0 || own->gain_bits > TRELLIS_MAX_GAIN_BITS)
        return rb_fail(err, RB_EFORMAT, "%s: gain_bits is %d, expected 0 to %d", where, own->gain_bits,
                       TRELLIS_MAX_GAIN_BITS);
    if (own->gain_zero < 0 || own->gain_zero >= 1 << own->gain_bits)
        return rb_fail(err, RB_EFORMAT, "%s: gain_zero is %d, expected 0 to %d", where, own->gain_zero,
                       (1 << own->gain_bits) - 1);
    RB_TRY(st, check_widths(own, where, err), done);
    RB_TRY(st, plan_floats_check(own->basis, own->n_dims * own->n_dims, -INFINITY, "basis", where, err), done);
    RB_TRY(st, plan_floats_check(own->weights, own->n_dims, 0.0f, "weight", where, err), done);
done:
    return st;
}

extern const plan_head_functions trellis_plan_functions;
const plan_head_functions trellis_plan_functions = {
    .bits_are_of_block = false,
    .clear = trellis_clear,
    .copy = trellis_copy,
    .equal = trellis_equal,
    .bits = trellis_bits,
    .code_bits = trellis_code_bits,
    .stored_bits = trellis_stored_bits,
    .is_published_form = trellis_is_published_form,
    .check = trellis_check,
};
