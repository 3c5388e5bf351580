/* The judge of family groups: see kernels/check/codec_check.h.
 *
 * Codes may differ from the reference's only where the exact coordinate lies within `code_tie` of a boundary between
 * the two, norms by one unit where the exact norm lies within `norm_tie` of the middle.
 *
 * A search (ENCODER_SEARCH) may also end at another stretch. Its codes must be those of one of the stretches, but for
 * ties. They must be as close in angle as the best stretch's, but for `cosine_tie`: there ties are decided for the
 * codes found and against the best. The norm is held to |x| cos of the codes found.
 *
 * x -> (x - c) s is exact in the reference; an implementation in f32 errs by a share of |s x| + |s c|, not of what is
 * left of them. So bounds that are shares of a norm are shares of that: code_tie, norm_tie and cosine_tie grow by
 * (|s x| + |s c|) / |s (x - c)| of the group, which is 1 without a transform. A restored dim is held to N / s,
 * N = |s (x^ - c)|. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check/codec_check.h"
#include "kernels/reference/encoder_stretches.h"

/* ---- what is exact --------------------------------------------------------------------------- */

/* A group of one vector, in double. */
typedef struct exact_group {
    const plan_group *group;
    const codebook *book;
    int dims;
    double norm, magnitude;    /* |s (x - c)|; |s x| + |s c|, or without a centre the norm */
    double growth;             /* magnitude / norm */
    double y[RB_MAX_HEAD_DIM]; /* rotated unit vector */
} exact_group;

static double dim_center(const codec_checked *on, int dim)
{
    return on->head->center ? (double)on->head->center[dim] : 0.0;
}

static void find_scales(double *scales, const codec_checked *on)
{
    for (int block = 0; block < model_n_blocks(on->model); block++) {
        int dims[2];
        model_block_dims(on->model, block, dims);
        scales[dims[0]] = scales[dims[1]] = on->head->groups.scales ? (double)on->head->groups.scales[block] : 1.0;
    }
}

static rb_status find_exact(exact_group *out, const codec_checked *on, int g, const float *x, rb_error *err)
{
    const plan_group *group = &on->head->groups.at[g];
    const int m = 2 * group->n_blocks;
    double scales[RB_MAX_HEAD_DIM], unit[RB_MAX_HEAD_DIM], square = 0.0, square_x = 0.0, square_c = 0.0;
    const double *rotation;
    int dims[RB_MAX_HEAD_DIM];
    rb_status st;
    out->group = group;
    out->dims = m;
    RB_TRY(st, codec_tables_codebook(on->tables, group->codebook, group->width, m, &out->book, err), done);
    RB_TRY(st, codec_tables_rotation(on->tables, &group->rotation, &rotation, err), done);
    plan_group_dims(group, on->model, dims);
    find_scales(scales, on);
    for (int j = 0; j < m; j++) {
        const double s = scales[dims[j]], c = dim_center(on, dims[j]);
        unit[j] = ((double)x[dims[j]] - c) * s;
        square += unit[j] * unit[j];
        square_x += s * s * (double)x[dims[j]] * (double)x[dims[j]];
        square_c += s * s * c * c;
    }
    out->norm = sqrt(square);
    out->magnitude = square_c > 0.0 ? sqrt(square_x) + sqrt(square_c) : out->norm;
    out->growth = out->magnitude > out->norm ? out->magnitude / out->norm : 1.0;
    for (int row = 0; row < m; row++) {
        out->y[row] = 0.0;
        for (int j = 0; j < m; j++) out->y[row] += rotation[(size_t)row * (size_t)m + (size_t)j] * unit[j];
        out->y[row] = out->norm > 0.0 ? out->y[row] / out->norm : 0.0;
    }
done:
    return st;
}

/* cos of the angle between the group and its codes. */
static double exact_cosine(const exact_group *exact, const uint8_t *codes)
{
    double product = 0.0, square = 0.0;
    for (int j = 0; j < exact->dims; j++) {
        const double c = (double)exact->book->centroid_f32[codes[j]];
        product += c * exact->y[j];
        square += c * c;
    }
    return square > 0.0 ? product / sqrt(square) : 0.0;
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* How far y is from the farthest boundary that lies between the two codes. */
static double tie_distance(const codebook *book, double y, int code, int reference)
{
    const int low = code < reference ? code : reference, high = code < reference ? reference : code;
    return fmax(fabs(y - book->boundary[low]), fabs(y - book->boundary[high - 1]));
}

static void judge_codes(codec_report *report, const exact_group *exact, const uint8_t *codes, const uint8_t *reference,
                        const codec_bounds *bounds)
{
    for (int j = 0; j < exact->dims; j++) {
        if (codes[j] == reference[j]) continue;
        const double distance = tie_distance(exact->book, exact->y[j], codes[j], reference[j]);
        if (distance <= bounds->code_tie * exact->growth) {
            report->codes_tied++;
            report->worst_tie = fmax(report->worst_tie, distance / exact->growth);
        } else {
            report->codes_wrong++;
        }
    }
}

/* ---- searches -------------------------------------------------------------------------------- */

/* The cosine of codes of a stretch where each that is tied lies as it raises it (is_lucky) or lowers it. */
static double cosine_with_ties(const exact_group *exact, const uint8_t *of, double stretch, double tie, bool is_lucky)
{
    uint8_t codes[RB_MAX_HEAD_DIM];
    double best;
    memcpy(codes, of, (size_t)exact->dims);
    best = exact_cosine(exact, codes);
    for (int j = 0; j < exact->dims; j++) {
        const int own = codes[j], below = codebook_code(exact->book, stretch * exact->y[j] - tie),
                  above = codebook_code(exact->book, stretch * exact->y[j] + tie);
        if (below == above) continue;
        codes[j] = (uint8_t)(below != own ? below : above);
        const double cosine = exact_cosine(exact, codes);
        if ((cosine > best) == is_lucky) best = cosine;
        else codes[j] = (uint8_t)own;
    }
    return best;
}

/* How many of the codes are not those of the stretch, `expected` [dims], ties aside; the ties are added up. */
static int64_t count_strange(codec_report *ties, uint8_t *expected, const exact_group *exact, const uint8_t *codes,
                             double stretch, const codec_bounds *bounds)
{
    exact_group stretched = *exact;
    for (int j = 0; j < exact->dims; j++) {
        stretched.y[j] = stretch * exact->y[j];
        expected[j] = (uint8_t)codebook_code(exact->book, stretched.y[j]);
    }
    *ties = (codec_report){0};
    judge_codes(ties, &stretched, codes, expected, bounds);
    return ties->codes_wrong;
}

/* Codes that are not the reference's. */
static void judge_search(codec_report *report, const exact_group *exact, const uint8_t *codes,
                         const codec_bounds *bounds)
{
    static const double stretches[] = {1.0, ENCODER_STRETCHES_DOWN, ENCODER_STRETCHES_UP};
    const double tie = bounds->code_tie * exact->growth;
    codec_report nearest = {.codes_wrong = exact->dims + 1};
    double needed = 0.0, found = 0.0;
    for (size_t s = 0; s < sizeof stretches / sizeof *stretches; s++) {
        uint8_t expected[RB_MAX_HEAD_DIM];
        codec_report ties;
        if (count_strange(&ties, expected, exact, codes, stretches[s], bounds) < nearest.codes_wrong) nearest = ties;
        if (ties.codes_wrong == 0) found = fmax(found, cosine_with_ties(exact, codes, stretches[s], tie, true));
        needed = fmax(needed, cosine_with_ties(exact, expected, stretches[s], tie, false));
    }
    const double missing = needed > 0.0 ? fmax(1.0 - found / needed, 0.0) / exact->growth : 0.0;
    if (nearest.codes_wrong == 0 && !(missing <= bounds->cosine_tie)) nearest.codes_wrong = 1; /* as a whole */
    if (nearest.codes_wrong == 0) {
        report->searches_tied++;
        report->worst_cosine = fmax(report->worst_cosine, missing);
    }
    report->codes_tied += nearest.codes_tied;
    report->codes_wrong += nearest.codes_wrong;
    report->worst_tie = fmax(report->worst_tie, nearest.worst_tie);
}

/* ---- norms ----------------------------------------------------------------------------------- */

/* The code of a norm; the largest, where it is more than can be stored. */
static int norm_code(const codec_checked *on, const plan_group *group, double norm)
{
    enum { LARGEST_FP16 = 0x7bff };
    uint16_t stored;
    rb_error unused = {0};
    return norm_encode(&stored, on->head->groups.norm, group->norm_exponent, norm, &unused) == RB_OK ? stored
                                                                                                     : LARGEST_FP16;
}

/* d gain / d cosine of plan_encoder_gain: what an error of the cosine becomes. */
static double gain_slope(double cosine, double coherence)
{
    const double square = cosine * cosine * (coherence - 1.0);
    return coherence * (1.0 - square) / ((1.0 + square) * (1.0 + square));
}

/* A norm that is not the reference's, or of codes that are not. */
static void judge_norm(codec_report *report, const codec_checked *on, const exact_group *exact, const uint8_t *codes,
                       uint16_t norm, const codec_bounds *bounds)
{
    const bool is_searched = on->head->groups.encoder == ENCODER_SEARCH;
    const double cosine = exact_cosine(exact, codes), coherence = (double)exact->group->coherence;
    const double gain = is_searched ? plan_encoder_gain(cosine, coherence) : 1.0, expected = exact->norm * gain;
    const double slope = is_searched ? fmax(1.0, fabs(gain_slope(cosine, coherence))) : 0.0;
    const double rounding = 0x1p-24 * expected; /* to f32, before the norm is encoded */
    const double tie = (bounds->norm_tie * fmax(1.0, gain) + bounds->cosine_tie * slope) * exact->magnitude
                       + (bounds->norm_tie > 0.0 ? rounding : 0.0);
    if (norm == norm_code(on, exact->group, expected)) return;
    if (norm >= norm_code(on, exact->group, fmax(expected - tie, 0.0))
        && norm <= norm_code(on, exact->group, expected + tie))
        report->norms_tied++;
    else report->norms_wrong++;
}

/* ---- a vector -------------------------------------------------------------------------------- */

/* One group of a vector. */
static rb_status judge_group(codec_report *report, const codec_checked *on, int g, const codec_checked_vector *vector,
                             const uint8_t *codes, const uint8_t *codes_reference, const codec_bounds *bounds,
                             rb_error *err)
{
    const bool has_other_codes = memcmp(codes, codes_reference, 2 * (size_t)on->head->groups.at[g].n_blocks) != 0;
    exact_group exact;
    if (!has_other_codes && vector->norms[g] == vector->norms_reference[g]) return RB_OK;
    const rb_status st = find_exact(&exact, on, g, vector->x, err);
    if (st != RB_OK) return st;
    if (has_other_codes && on->head->groups.encoder == ENCODER_SEARCH) judge_search(report, &exact, codes, bounds);
    else judge_codes(report, &exact, codes, codes_reference, bounds);
    judge_norm(report, on, &exact, codes, vector->norms[g], bounds);
    return RB_OK;
}

static rb_status judge_vector(codec_report *report, const codec_checked *on, const void *own,
                              const codec_checked_vector *vector, const codec_bounds *bounds, rb_error *err)
{
    rb_status st = RB_OK;
    (void)own;
    for (int g = 0, first = 0; g < on->head->groups.n && st == RB_OK; first += 2 * on->head->groups.at[g].n_blocks, g++)
        st = judge_group(report, on, g, vector, vector->codes + first, vector->codes_reference + first, bounds, err);
    return st;
}

static rb_status create(void **own, const codec_checked *on, rb_error *err)
{
    (void)on;
    (void)err;
    *own = NULL; /* nothing to prepare */
    return RB_OK;
}

static int n_codes(const codec_checked *on, const void *own)
{
    (void)own;
    return on->model->head_dim;
}

static double restore_bound(const codec_bounds *bounds) { return bounds->restore; }

/* N / s. */
static void find_shares(double *shares, const codec_checked *on, const void *own, const float *restored,
                        const uint8_t *codes)
{
    double scales[RB_MAX_HEAD_DIM];
    (void)own;
    (void)codes;
    find_scales(scales, on);
    const double norm = codec_check_coded_norm(on, scales, restored);
    for (int j = 0; j < on->model->head_dim; j++) shares[j] = norm / scales[j];
}

extern const codec_judge_functions groups_judge_functions;
const codec_judge_functions groups_judge_functions = {
    .create = create,
    .free = free,
    .n_codes = n_codes,
    .judge_vector = judge_vector,
    .restore_bound = restore_bound,
    .find_shares = find_shares,
    .find_scales = find_scales,
};
