/* See kernels/check/codec_check.h. */
#include "kernels/check/codec_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check/block_codebook_check.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/encoder_stretches.h"

bool codec_report_is_good(const codec_report *report)
{
    return report->codes_wrong == 0 && report->norms_wrong == 0 && report->bytes_wrong == 0 && report->values_wrong == 0
           && report->logits_wrong == 0;
}

void codec_report_add(codec_report *sum, const codec_report *report)
{
    sum->n_vectors += report->n_vectors;
    sum->n_codes += report->n_codes;
    sum->n_norms += report->n_norms;
    sum->n_values += report->n_values;
    sum->n_logits += report->n_logits;
    sum->codes_tied += report->codes_tied;
    sum->codes_wrong += report->codes_wrong;
    sum->searches_tied += report->searches_tied;
    sum->norms_tied += report->norms_tied;
    sum->norms_wrong += report->norms_wrong;
    sum->bytes_wrong += report->bytes_wrong;
    sum->values_wrong += report->values_wrong;
    sum->logits_wrong += report->logits_wrong;
    sum->worst_tie = fmax(sum->worst_tie, report->worst_tie);
    sum->worst_cosine = fmax(sum->worst_cosine, report->worst_cosine);
    sum->worst_value = fmax(sum->worst_value, report->worst_value);
    sum->worst_logit = fmax(sum->worst_logit, report->worst_logit);
}

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

static double block_scale(const codec_checked *on, int block)
{
    return plan_head_groups(on->head)->scales ? (double)plan_head_groups(on->head)->scales[block] : 1.0;
}
static double dim_center(const codec_checked *on, int dim)
{
    return on->head->center ? (double)on->head->center[dim] : 0.0;
}

/* [head_dim], by dim. */
static void find_scales(double *scales, const codec_checked *on)
{
    for (int block = 0; block < model_n_blocks(on->model); block++) {
        int dims[2];
        model_block_dims(on->model, block, dims);
        scales[dims[0]] = scales[dims[1]] = block_scale(on, block);
    }
}

static rb_status find_exact(exact_group *out, const codec_checked *on, int g, const float *x, rb_error *err)
{
    const plan_group *group = &plan_head_groups(on->head)->at[g];
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

/* The code of a norm that may be beyond what can be stored: then the largest. */
static int norm_code(const codec_checked *on, const plan_group *group, double norm)
{
    enum { LARGEST_FP16 = 0x7bff };
    uint16_t stored;
    rb_error unused = {0};
    return norm_encode(&stored, plan_head_groups(on->head)->norm, group->norm_exponent, norm, &unused) == RB_OK
               ? stored
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
    const bool is_searched = plan_head_groups(on->head)->encoder == ENCODER_SEARCH;
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

/* ---- public ---------------------------------------------------------------------------------- */

static int64_t count_different_bytes(const uint8_t *a, const uint8_t *b, size_t n)
{
    int64_t different = 0;
    for (size_t i = 0; i < n; i++) different += a[i] != b[i];
    return different;
}

/* Codes of a packed vector; padding that is not zero, which unpack_codes refuses, shows as bytes that pack_codes would
 * not make. */
static void read_packed(codec_report *report, const codec_checked *on, const uint8_t *packed, uint8_t *codes)
{
    const uint8_t *widths = head_codec_widths(on->codec);
    const int d = head_codec_dims(on->codec);
    uint8_t again[RB_MAX_HEAD_DIM];
    rb_error unused = {0};
    memset(codes, 0, (size_t)d);
    (void)unpack_codes(codes, packed, widths, d, &unused);
    pack_codes(again, codes, widths, d);
    report->bytes_wrong += count_different_bytes(again, packed, head_codec_packed_bytes(on->codec));
}

/* One group of a vector. */
static rb_status check_group(codec_report *report, const codec_checked *on, int g, const float *x, const uint8_t *codes,
                             const uint8_t *codes_reference, uint16_t norm, uint16_t norm_reference,
                             const codec_bounds *bounds, rb_error *err)
{
    const bool has_other_codes =
        memcmp(codes, codes_reference, 2 * (size_t)plan_head_groups(on->head)->at[g].n_blocks) != 0;
    exact_group exact;
    if (!has_other_codes && norm == norm_reference) return RB_OK;
    const rb_status st = find_exact(&exact, on, g, x, err);
    if (st != RB_OK) return st;
    if (has_other_codes && plan_head_groups(on->head)->encoder == ENCODER_SEARCH)
        judge_search(report, &exact, codes, bounds);
    else judge_codes(report, &exact, codes, codes_reference, bounds);
    judge_norm(report, on, &exact, codes, norm, bounds);
    return RB_OK;
}

static rb_status check_vector(codec_report *report, const codec_checked *on, const float *x, const uint8_t *codes,
                              const uint8_t *codes_reference, const uint16_t *norms, const uint16_t *norms_reference,
                              const codec_bounds *bounds, rb_error *err)
{
    rb_status st = RB_OK;
    for (int g = 0, first = 0; g < plan_head_groups(on->head)->n && st == RB_OK;
         first += 2 * plan_head_groups(on->head)->at[g].n_blocks, g++)
        st = check_group(report, on, g, x, codes + first, codes_reference + first, norms[g], norms_reference[g], bounds,
                         err);
    return st;
}

rb_status codec_check_encoded(codec_report *report, const codec_checked *on, const float *x, int64_t n,
                              const uint8_t *packed, const uint16_t *norms, const codec_bounds *bounds, uint8_t *codes,
                              rb_error *err)
{
    const int d = head_codec_dims(on->codec), n_groups = head_codec_n_norms(on->codec);
    const size_t packed_bytes = head_codec_packed_bytes(on->codec);
    uint8_t *codes_reference = NULL;
    uint16_t *norms_reference = NULL;
    block_codebook_judge *judge = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&codes_reference, (size_t)n, (size_t)d, "reference codes", err), done);
    RB_TRY(st,
           rb_alloc(&norms_reference, (size_t)n, (size_t)n_groups * sizeof *norms_reference, "reference norms", err),
           done);
    RB_TRY(st, head_codec_encode(on->codec, x, n, codes_reference, norms_reference, err), done);
    if (on->head->family == FAMILY_BLOCK_CODEBOOK) RB_TRY(st, block_codebook_judge_create(&judge, on, err), done);
    for (int64_t v = 0; v < n; v++) {
        read_packed(report, on, packed + (size_t)v * packed_bytes, codes + v * d);
        if (judge) block_codebook_judge_codes(report, judge, x + v * d, codes + v * d, codes_reference + v * d, bounds);
        else
            RB_TRY(st,
                   check_vector(report, on, x + v * d, codes + v * d, codes_reference + v * d, norms + v * n_groups,
                                norms_reference + v * n_groups, bounds, err),
                   done);
    }
    report->n_vectors += n;
    report->n_codes += n * (judge ? block_codebook_judge_n_codes(judge) : d);
    report->n_norms += n * n_groups;
done:
    free(codes_reference);
    free(norms_reference);
    block_codebook_judge_free(judge);
    return st;
}

/* |s (x - c)|, s by dim. */
static double coded_norm(const codec_checked *on, const double *scales, const float *x)
{
    double square = 0.0;
    for (int j = 0; j < on->model->head_dim; j++) {
        const double coded = scales[j] * ((double)x[j] - dim_center(on, j));
        square += coded * coded;
    }
    return sqrt(square);
}

rb_status codec_check_restored(codec_report *report, const codec_checked *on, const uint8_t *codes,
                               const uint16_t *norms, int64_t n, const float *x_hat, const codec_bounds *bounds,
                               float *reference, rb_error *err)
{
    const int d = head_codec_dims(on->codec);
    const double restore = on->head->family == FAMILY_BLOCK_CODEBOOK ? bounds->block_codebook_restore : bounds->restore;
    double scales[RB_MAX_HEAD_DIM], shares[RB_MAX_HEAD_DIM];
    block_codebook_judge *judge = NULL;
    rb_status st;
    RB_TRY(st, head_codec_decode(on->codec, codes, norms, n, reference, err), done);
    if (on->head->family == FAMILY_BLOCK_CODEBOOK) RB_TRY(st, block_codebook_judge_create(&judge, on, err), done);
    find_scales(scales, on);
    for (int64_t v = 0; v < n; v++) {
        const float *expected = reference + v * d, *found = x_hat + v * d;
        const double norm = coded_norm(on, scales, expected);
        for (int j = 0; j < d; j++) shares[j] = norm / scales[j];
        if (judge) block_codebook_judge_scales(shares, judge, codes + v * d);
        for (int j = 0; j < d; j++) {
            const double rounding = fmax(bounds->rounding * fabs((double)expected[j]), bounds->rounding_least),
                         share = shares[j];
            const double beyond = fabs((double)found[j] - (double)expected[j]) - rounding;
            if (share > 0.0 && beyond > report->worst_value * share) report->worst_value = beyond / share;
            report->values_wrong += !(beyond <= restore * share);
        }
    }
    report->n_values += n * d;
done:
    block_codebook_judge_free(judge);
    return st;
}

static double length_of(const float *x, const double *divided_by, int n)
{
    double square = 0.0;
    for (int j = 0; j < n; j++)
        square += (double)x[j] * (double)x[j] / (divided_by ? divided_by[j] * divided_by[j] : 1.0);
    return sqrt(square);
}

void codec_check_logits(codec_report *report, const codec_checked *on, const float *queries, int n_queries,
                        const float *reference, int64_t n, const float *logits, const codec_bounds *bounds)
{
    const int d = on->model->head_dim;
    const double center = on->head->center ? length_of(on->head->center, NULL, d) : 0.0;
    double scales[RB_MAX_HEAD_DIM];
    find_scales(scales, on);
    for (int query = 0; query < n_queries; query++) {
        const float *q = queries + (int64_t)query * d;
        const double scaled = length_of(q, scales, d), at_center = center > 0.0 ? length_of(q, NULL, d) * center : 0.0;
        for (int64_t v = 0; v < n; v++) {
            const float *k = reference + v * d;
            double exact = 0.0;
            for (int j = 0; j < d; j++) exact += (double)q[j] * (double)k[j];
            const double scale = scaled * coded_norm(on, scales, k) + at_center,
                         error = fabs((double)logits[query * n + v] - exact);
            if (scale > 0.0 && error > report->worst_logit * scale) report->worst_logit = error / scale;
            report->logits_wrong += !(error <= bounds->logits * scale);
        }
    }
    report->n_logits += n_queries * n;
}
