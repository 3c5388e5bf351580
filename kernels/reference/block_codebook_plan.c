/* Family block-codebook, the plan of a head: see kernels/reference/block_codebook_plan.h. */
#include "kernels/reference/block_codebook_plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/plan_head.h"

/* ---- making ---------------------------------------------------------------------------------- */

static void block_codebook_clear(plan_head *head)
{
    free(head->block_codebook.bits);
    free(head->block_codebook.maps);
    free(head->block_codebook.weights);
}

static rb_status alloc_numbers(plan_block_codebook *out, int n_blocks, rb_error *err)
{
    static const char what[] = "block codebooks of a head";
    const size_t n = (size_t)n_blocks;
    rb_status st;
    RB_TRY(st, rb_alloc(&out->bits, n, sizeof *out->bits, what, err), done);
    RB_TRY(st, rb_alloc(&out->maps, BLOCK_CODEBOOK_MAP_SIZE * n, sizeof *out->maps, what, err), done);
    RB_TRY(st, rb_alloc(&out->weights, n, sizeof *out->weights, what, err), done);
done:
    return st;
}

static rb_status block_codebook_copy(plan_head *out, const plan_head *head, int n_blocks, rb_error *err)
{
    const plan_block_codebook *from = &head->block_codebook;
    plan_block_codebook *to = &out->block_codebook;
    const rb_status st = alloc_numbers(to, n_blocks, err);
    if (st != RB_OK) return st;
    to->gain_bits = from->gain_bits;
    memcpy(to->bits, from->bits, (size_t)n_blocks);
    memcpy(to->maps, from->maps, BLOCK_CODEBOOK_MAP_SIZE * (size_t)n_blocks * sizeof *from->maps);
    memcpy(to->weights, from->weights, (size_t)n_blocks * sizeof *from->weights);
    return RB_OK;
}

rb_status plan_head_set_block_codebook(plan_head *head, const uint8_t *bits, const double *maps, const double *weights,
                                       int gain_bits, int n_blocks, rb_error *err)
{
    plan_head made = {.family = FAMILY_BLOCK_CODEBOOK, .block_codebook = {.gain_bits = gain_bits}};
    plan_block_codebook *to = &made.block_codebook;
    const rb_status st = alloc_numbers(to, n_blocks, err);
    if (st != RB_OK) {
        plan_head_clear(&made);
        return st;
    }
    memcpy(to->bits, bits, (size_t)n_blocks);
    for (int i = 0; i < BLOCK_CODEBOOK_MAP_SIZE * n_blocks; i++) to->maps[i] = plan_fp16(maps[i]);
    for (int i = 0; i < n_blocks; i++) to->weights[i] = plan_fp16(fmax(weights[i], BLOCK_CODEBOOK_LEAST_WEIGHT));
    made.center = head->center;
    head->center = NULL;
    plan_head_clear(head);
    *head = made;
    return RB_OK;
}

/* ---- looking --------------------------------------------------------------------------------- */

static bool block_codebook_equal(const plan_head *a, const plan_head *b, int n_blocks)
{
    const plan_block_codebook *x = &a->block_codebook, *y = &b->block_codebook;
    return x->gain_bits == y->gain_bits && memcmp(x->bits, y->bits, (size_t)n_blocks) == 0
           && plan_floats_equal(x->maps, y->maps, BLOCK_CODEBOOK_MAP_SIZE * n_blocks)
           && plan_floats_equal(x->weights, y->weights, n_blocks);
}

static void block_codebook_bits(const plan_head *head, uint8_t *bits, int n_blocks)
{
    memcpy(bits, head->block_codebook.bits, (size_t)n_blocks);
}

static int block_codebook_code_bits(const plan_head *head, int n_blocks)
{
    int bits = 0;
    for (int i = 0; i < n_blocks; i++) bits += head->block_codebook.bits[i];
    return bits;
}

static int block_codebook_stored_bits(const plan_head *head, int n_blocks)
{
    return (block_codebook_code_bits(head, n_blocks) + head->block_codebook.gain_bits + 7) / 8 * 8;
}

static bool block_codebook_is_published_form(const plan_head *head, int n_blocks)
{
    (void)head;
    (void)n_blocks;
    return false;
}

/* ---- check ----------------------------------------------------------------------------------- */

static rb_status block_codebook_check(const plan_head *head, int n_blocks, const char *where, rb_error *err)
{
    const plan_block_codebook *own = &head->block_codebook;
    int n_coded = 0;
    if (own->gain_bits < 0 || own->gain_bits > BLOCK_CODEBOOK_MAX_GAIN_BITS)
        return rb_fail(err, RB_EFORMAT, "%s: gain_bits is %d, expected 0 to %d", where, own->gain_bits,
                       BLOCK_CODEBOOK_MAX_GAIN_BITS);
    for (int i = 0; i < n_blocks; i++) {
        const int most = block_codebook_most_bits(i, own->gain_bits);
        if (own->bits[i] > most)
            return rb_fail(err, RB_EFORMAT, "%s: block %d has %d bits, expected 0 to %d", where, i, own->bits[i], most);
        n_coded += own->bits[i] > 0;
    }
    if (n_coded == 0) return rb_fail(err, RB_EFORMAT, "%s: no block has bits", where);
    rb_status st = plan_floats_check(own->maps, BLOCK_CODEBOOK_MAP_SIZE * n_blocks, -INFINITY, "map", where, err);
    return st == RB_OK ? plan_floats_check(own->weights, n_blocks, 0.0f, "weight", where, err) : st;
}

extern const plan_head_functions block_codebook_plan_functions;
const plan_head_functions block_codebook_plan_functions = {
    .bits_are_of_block = true,
    .clear = block_codebook_clear,
    .copy = block_codebook_copy,
    .equal = block_codebook_equal,
    .bits = block_codebook_bits,
    .code_bits = block_codebook_code_bits,
    .stored_bits = block_codebook_stored_bits,
    .is_published_form = block_codebook_is_published_form,
    .check = block_codebook_check,
};
