/* Keys of method trellis by a budget of their own: its rows in the tables of methods/optimal.h and
 * methods/plan_error.h. */
#include <math.h>
#include <stdlib.h>

#include "core/threads.h"
#include "kernels/reference/trellis_codec.h"
#include "methods/optimal.h"
#include "methods/plan_error.h"
#include "methods/trellis_allocation.h"
#include "methods/trellis_curve.h"

/* ---- curves of a model (methods/optimal.h) --------------------------------------------------- */

typedef struct key_curves {
    const optimal_input *input;
    trellis_curves *heads;
    double *errors; /* [n_heads][n_points] */
    int n_points;
} key_curves;

static void free_curves(void *curves)
{
    key_curves *c = curves;
    if (!c) return;
    trellis_curves_free(c->heads);
    free(c->errors);
    free(c);
}

static rb_status build_curves(void **out, const optimal_input *in, rb_error *err)
{
    key_curves *c = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&c, 1, sizeof *c, "curves", err), done);
    *out = c;
    c->input = in;
    RB_TRY(st, trellis_curves_build(&c->heads, TRELLIS_KEYS, in->model, in->statistics, err), done);
    c->n_points = trellis_curves_key_head(c->heads, 0)->n_points;
    RB_TRY(st, rb_alloc(&c->errors, (size_t)in->n_heads, (size_t)c->n_points * sizeof *c->errors, "curves", err), done);
    for (int h = 0; h < in->n_heads; h++)
        for (int p = 0; p < c->n_points; p++)
            c->errors[h * c->n_points + p] = trellis_curves_key_head(c->heads, h)->error[p]
                                             * trellis_layer_weight(in->statistics, h / in->model->n_kv_heads);
done:
    return st;
}

static budget_curve curve_of(const void *curves, int h)
{
    const key_curves *c = curves;
    return (budget_curve){c->n_points, c->errors + (int64_t)h * c->n_points};
}

static int64_t least_bits(const optimal_options *options)
{
    (void)options;
    return 8 * trellis_least_bytes(TRELLIS_KEY_GAIN_BITS);
}

static rb_status make_head(plan_head *head, const void *curves, int h, int point, rb_error *err)
{
    const key_curves *c = curves;
    return trellis_head_make(head, trellis_curves_key_head(c->heads, h), point, err);
}

static bool has_options(const optimal_options *own, const optimal_options *usual)
{
    (void)own;
    (void)usual;
    return false;
}

extern const optimal_family trellis_optimal_family;
const optimal_family trellis_optimal_family = {
    .scope = SCOPE_MODEL,
    .sums_harm = true,
    .least_bits = least_bits,
    .build = build_curves,
    .free = free_curves,
    .curve = curve_of,
    .make_head = make_head,
    .has_options = has_options,
};

/* ---- the error to expect (methods/plan_error.h) ---------------------------------------------- */

/* Share of a coordinate's variance that its error has, in the units of its row of the basis: the stretch takes c to
 * c / (1 - c) of the unstretched row. A coordinate without bits is lost. */
static double error_in_row(int width)
{
    const double stretch = trellis_stretch(width);
    return width > 0 ? trellis_errors[width] / (1.0 - trellis_errors[width]) / (stretch * stretch) : 1.0;
}

/* V of a logit as docs/method.md has it: an error spreads over the phases of its block. */
static double variance_of(const coded_head *coded, const plan_head *head, const codec_errors *errors)
{
    const plan_trellis *own = &head->trellis;
    double variance = 0.0;
    (void)errors;
    for (int block = 0; block < coded->n_blocks; block++) {
        double energy = 0.0;
        int dims[2];
        model_block_dims(coded->model, block, dims);
        for (int i = 0; i < own->n_dims; i++) {
            const double x = (double)own->basis[i * own->n_dims + dims[0]],
                         y = (double)own->basis[i * own->n_dims + dims[1]];
            energy += error_in_row(own->widths[i]) * (x * x + y * y);
        }
        variance += 0.5 * coded->q_energy[block] * energy;
    }
    return variance;
}

extern const head_error_functions trellis_error_functions;
const head_error_functions trellis_error_functions = {.variance = variance_of};
