/* Holding an implementation of the codec to the reference, whatever the family: see kernels/check/codec_check.h. */
#include "kernels/check/codec_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/bit_packing.h"

#define RB_FAMILY_DECLARATION(NAME, prefix, name) extern const codec_judge_functions prefix##_judge_functions;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION

static const codec_judge_functions *judge_of(const codec_checked *on)
{
#define RB_FAMILY_ROW(NAME, prefix, name) &prefix##_judge_functions,
    static const codec_judge_functions *const table[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW
    return table[on->head->family];
}

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

/* ---- what was stored ------------------------------------------------------------------------- */

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

rb_status codec_check_encoded(codec_report *report, const codec_checked *on, const float *x, int64_t n,
                              const uint8_t *packed, const uint16_t *norms, const codec_bounds *bounds, uint8_t *codes,
                              rb_error *err)
{
    const codec_judge_functions *judge = judge_of(on);
    const int d = head_codec_dims(on->codec), n_norms = head_codec_n_norms(on->codec);
    const size_t packed_bytes = head_codec_packed_bytes(on->codec);
    uint8_t *codes_reference = NULL;
    uint16_t *norms_reference = NULL;
    void *own = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&codes_reference, (size_t)n, (size_t)d, "reference codes", err), done);
    RB_TRY(st, rb_alloc(&norms_reference, (size_t)n, (size_t)n_norms * sizeof *norms_reference, "reference norms", err),
           done);
    RB_TRY(st, head_codec_encode(on->codec, x, n, codes_reference, norms_reference, err), done);
    RB_TRY(st, judge->create(&own, on, err), done);
    for (int64_t v = 0; v < n; v++) {
        const codec_checked_vector vector = {.x = x + v * d,
                                             .codes = codes + v * d,
                                             .codes_reference = codes_reference + v * d,
                                             .norms = n_norms > 0 ? norms + v * n_norms : NULL,
                                             .norms_reference = norms_reference + v * n_norms};
        read_packed(report, on, packed + (size_t)v * packed_bytes, codes + v * d);
        RB_TRY(st, judge->judge_vector(report, on, own, &vector, bounds, err), done);
    }
    report->n_vectors += n;
    report->n_codes += n * judge->n_codes(on, own);
    report->n_norms += n * n_norms;
done:
    free(codes_reference);
    free(norms_reference);
    judge->free(own);
    return st;
}

/* ---- what was restored ----------------------------------------------------------------------- */

double codec_check_coded_norm(const codec_checked *on, const double *scales, const float *x)
{
    double square = 0.0;
    for (int j = 0; j < on->model->head_dim; j++) {
        const double center = on->head->center ? (double)on->head->center[j] : 0.0,
                     coded = scales[j] * ((double)x[j] - center);
        square += coded * coded;
    }
    return sqrt(square);
}

/* One dim, whose error over rounding is held to restore * share. */
static void judge_value(codec_report *report, float found, float expected, double share, double restore,
                        const codec_bounds *bounds)
{
    const double rounding = fmax(bounds->rounding * fabs((double)expected), bounds->rounding_least),
                 error = fabs((double)found - (double)expected) - rounding;
    if (share > 0.0 && error > report->worst_value * share) report->worst_value = error / share;
    report->values_wrong += !(error <= restore * share);
}

rb_status codec_check_restored(codec_report *report, const codec_checked *on, const uint8_t *codes,
                               const uint16_t *norms, int64_t n, const float *x_hat, const codec_bounds *bounds,
                               float *reference, rb_error *err)
{
    const codec_judge_functions *judge = judge_of(on);
    const int d = head_codec_dims(on->codec);
    const double restore = judge->restore_bound(bounds);
    double shares[RB_MAX_HEAD_DIM];
    void *own = NULL;
    rb_status st;
    RB_TRY(st, head_codec_decode(on->codec, codes, norms, n, reference, err), done);
    RB_TRY(st, judge->create(&own, on, err), done);
    for (int64_t v = 0; v < n; v++) {
        judge->find_shares(shares, on, own, reference + v * d, codes + v * d);
        for (int j = 0; j < d; j++)
            judge_value(report, x_hat[v * d + j], reference[v * d + j], shares[j], restore, bounds);
    }
    report->n_values += n * d;
done:
    judge->free(own);
    return st;
}

/* ---- logits ---------------------------------------------------------------------------------- */

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
    judge_of(on)->find_scales(scales, on);
    for (int query = 0; query < n_queries; query++) {
        const float *q = queries + (int64_t)query * d;
        const double scaled = length_of(q, scales, d), at_center = center > 0.0 ? length_of(q, NULL, d) * center : 0.0;
        for (int64_t v = 0; v < n; v++) {
            const float *k = reference + v * d;
            double exact = 0.0;
            for (int j = 0; j < d; j++) exact += (double)q[j] * (double)k[j];
            const double scale = scaled * codec_check_coded_norm(on, scales, k) + at_center,
                         error = fabs((double)logits[query * n + v] - exact);
            if (scale > 0.0 && error > report->worst_logit * scale) report->worst_logit = error / scale;
            report->logits_wrong += !(error <= bounds->logits * scale);
        }
    }
    report->n_logits += n_queries * n;
}
