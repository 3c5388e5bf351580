/* The judge of family trellis: see kernels/check/codec_check.h.
 *
 * S_i of a coordinate is sum_j (|x_j| + |c_j|) |P_ji| / g, with P the projection, z = (x - c) P: what f32 errs by a
 * share of.
 *
 * A level of gain other than the reference's is right if the vector's size, which errs by trellis_tie times root(sum w
 * S^2), may round to it.
 *
 * A path other than the reference's is right if the root of its error, E = sum w (y - y^)^2 at its level, is no more
 * than the root of the least error there, but for trellis_tie times root(sum w S^2) + root(E). For the root of E is a
 * distance: one path that is best for y as f32 has it is so for y but for twice what y errs by.
 *
 * Both are counted, a level in codes_tied and a path in searches_tied; a wrong level or path is one wrong code. A
 * restored dim is held to |c_j| + g sum_i |y^_i B_ij|. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check/codec_check.h"
#include "kernels/reference/trellis_codec.h"

typedef struct trellis_judge {
    const trellis_codec *codec;
    const plan_trellis *plan;
    int n_coded;
    double *project; /* [n_coded][n_dims] */
    double *weights; /* [n_coded] */
    double *y;       /* [n_coded][TRELLIS_LANES] */
    uint8_t *states; /* the same */
    void *search;
} trellis_judge;

/* ---- life ------------------------------------------------------------------------------------ */

static void free_judge(void *own)
{
    trellis_judge *judge = own;
    if (!judge) return;
    free(judge->project);
    free(judge->weights);
    free(judge->y);
    free(judge->states);
    free(judge->search);
    free(judge);
}

static rb_status set_projection(trellis_judge *judge, rb_error *err)
{
    const int n = judge->plan->n_dims;
    double *inverse = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&inverse, (size_t)n * (size_t)n, sizeof *inverse, "judge", err), done);
    RB_TRY(st, trellis_invert_basis(inverse, judge->plan, err), done);
    for (int i = 0; i < judge->n_coded; i++) {
        judge->weights[i] = (double)judge->plan->weights[i];
        for (int j = 0; j < n; j++)
            judge->project[i * n + j] = inverse[j * n + i] * trellis_stretch(judge->plan->widths[i]);
    }
done:
    free(inverse);
    return st;
}

static rb_status create_judge(void **own, const codec_checked *on, rb_error *err)
{
    const int n_coded = plan_trellis_n_coded(&on->head->trellis);
    const size_t n = (size_t)n_coded;
    trellis_judge *judge = NULL;
    rb_status st;
    *own = NULL;
    RB_TRY(st, rb_alloc(&judge, 1, sizeof *judge, "judge", err), done);
    *judge = (trellis_judge){.codec = head_codec_trellis(on->codec), .plan = &on->head->trellis, .n_coded = n_coded};
    RB_TRY(st, rb_alloc(&judge->project, n * (size_t)judge->plan->n_dims, sizeof *judge->project, "judge", err), done);
    RB_TRY(st, rb_alloc(&judge->weights, n, sizeof *judge->weights, "judge", err), done);
    RB_TRY(st, rb_alloc(&judge->y, n * TRELLIS_LANES, sizeof *judge->y, "judge", err), done);
    RB_TRY(st, rb_alloc(&judge->states, n * TRELLIS_LANES, 1, "judge", err), done);
    RB_TRY(st, rb_alloc(&judge->search, trellis_search_size(n_coded), 1, "judge", err), done);
    RB_TRY(st, set_projection(judge, err), done);
    *own = judge;
    judge = NULL;
done:
    free_judge(judge);
    return st;
}

/* A path, and the gain. */
static int n_codes(const codec_checked *on, const void *own)
{
    const trellis_judge *judge = own;
    (void)on;
    return judge->n_coded + (judge->plan->gain_bits > 0);
}

/* ---- what was stored ------------------------------------------------------------------------- */

/* Root of sum w S^2 at gain 1, and of sum w z^2. */
static double weighed_scale(double *size, const trellis_judge *judge, const codec_checked *on, const float *x)
{
    const int n = judge->plan->n_dims;
    double scales = 0.0, squares = 0.0;
    for (int i = 0; i < judge->n_coded; i++) {
        double scale = 0.0, z = 0.0;
        for (int j = 0; j < n; j++) {
            const double center = on->head->center ? (double)on->head->center[j] : 0.0, p = judge->project[i * n + j];
            z += ((double)x[j] - center) * p;
            scale += (fabs((double)x[j]) + fabs(center)) * fabs(p);
        }
        scales += judge->weights[i] * scale * scale;
        squares += judge->weights[i] * z * z;
    }
    *size = sqrt(squares);
    return sqrt(scales);
}

/* Whether a vector's size may round to this level; scale, size: weighed_scale's. */
static bool may_be_level(const trellis_judge *judge, const float *x, int level, double scale, double size,
                         const codec_bounds *bounds)
{
    static const double LOGARITHM = 1e-5,
                        LEVELS_A_SHARE =
                            2.885390081777927; /* of the level in f32; d log2(s^2) / (d s / s) = 2 / ln 2 */
    const int most = (1 << judge->plan->gain_bits) - 1;
    const double exact = trellis_codec_level(judge->codec, x),
                 tie = size > 0.0 ? LOGARITHM + LEVELS_A_SHARE * bounds->trellis_tie * scale / size : 0.0;
    return (level == 0 || exact + tie >= level - 0.5) && (level == most || exact - tie <= level + 0.5);
}

/* The least error at a level that is not the reference's: a search of its own. */
static double least_error(const trellis_judge *judge, const codec_checked *on, const float *x, int level)
{
    const int n = judge->plan->n_dims;
    const double gain = trellis_gain(judge->plan, level);
    double error = 0.0;
    memset(judge->y, 0, (size_t)judge->n_coded * TRELLIS_LANES * sizeof *judge->y);
    for (int i = 0; i < judge->n_coded; i++)
        for (int j = 0; j < n; j++)
            judge->y[i * TRELLIS_LANES] += ((double)x[j] - (on->head->center ? (double)on->head->center[j] : 0.0))
                                           * judge->project[i * n + j] / gain;
    trellis_search(judge->states, judge->y, judge->weights, judge->plan->widths, judge->n_coded, trellis_tables,
                   judge->search);
    for (int i = 0; i < judge->n_coded; i++) {
        const double off = judge->y[i * TRELLIS_LANES]
                           - (double)trellis_tables[judge->plan->widths[i]][judge->states[i * TRELLIS_LANES]];
        error += judge->weights[i] * off * off;
    }
    return error;
}

static void judge_path(codec_report *report, const trellis_judge *judge, const codec_checked_vector *vector, int level,
                       double least, double scale, const codec_bounds *bounds)
{
    const double best = sqrt(least), share = scale / trellis_gain(judge->plan, level) + best,
                 excess = sqrt(trellis_codec_error(judge->codec, vector->x, level, vector->codes)) - best;
    if (!(excess <= bounds->trellis_tie * share)) {
        report->codes_wrong++;
        return;
    }
    report->searches_tied++;
    if (share > 0.0) report->worst_cosine = fmax(report->worst_cosine, excess / share);
}

static rb_status judge_vector(codec_report *report, const codec_checked *on, const void *own,
                              const codec_checked_vector *vector, const codec_bounds *bounds, rb_error *err)
{
    const trellis_judge *judge = own;
    const int level = trellis_codes_gain(judge->plan, vector->codes),
              reference = trellis_codes_gain(judge->plan, vector->codes_reference);
    double size;
    (void)err;
    if (memcmp(vector->codes, vector->codes_reference, (size_t)judge->plan->n_dims) == 0) return RB_OK;
    const double scale = weighed_scale(&size, judge, on, vector->x);
    if (level != reference) {
        const bool is_tied = may_be_level(judge, vector->x, level, scale, size, bounds);
        report->codes_tied += is_tied;
        report->codes_wrong += !is_tied;
        if (!is_tied) return RB_OK;
    }
    judge_path(report, judge, vector, level,
               level == reference ? trellis_codec_error(judge->codec, vector->x, level, vector->codes_reference)
                                  : least_error(judge, on, vector->x, level),
               scale, bounds);
    return RB_OK;
}

/* ---- restored -------------------------------------------------------------------------------- */

static double restore_bound(const codec_bounds *bounds) { return bounds->trellis_restore; }

static void find_shares(double *shares, const codec_checked *on, const void *own, const float *restored,
                        const uint8_t *codes)
{
    const trellis_judge *judge = own;
    const plan_trellis *plan = judge->plan;
    const double gain = trellis_gain(plan, trellis_codes_gain(plan, codes));
    int state = 0;
    (void)restored;
    for (int j = 0; j < plan->n_dims; j++) shares[j] = on->head->center ? fabs((double)on->head->center[j]) : 0.0;
    for (int i = 0; i < judge->n_coded; i++) {
        const int width = plan->widths[i], code = codes[i] & ((1 << width) - 1);
        state = state >> width | code << (TRELLIS_STATE_BITS - width);
        const double number = gain * fabs((double)trellis_tables[width][state]);
        for (int j = 0; j < plan->n_dims; j++) shares[j] += number * fabs((double)plan->basis[i * plan->n_dims + j]);
    }
}

static void find_scales(double *scales, const codec_checked *on)
{
    for (int j = 0; j < on->model->head_dim; j++) scales[j] = 1.0;
}

extern const codec_judge_functions trellis_judge_functions;
const codec_judge_functions trellis_judge_functions = {
    .create = create_judge,
    .free = free_judge,
    .n_codes = n_codes,
    .judge_vector = judge_vector,
    .restore_bound = restore_bound,
    .find_shares = find_shares,
    .find_scales = find_scales,
};
