/* See kernels/codec_check.h. */
#include "kernels/codec_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "kernels/bit_packing.h"

bool codec_report_is_good(const codec_report *report)
{
    return report->codes_wrong == 0 && report->norms_wrong == 0 && report->bytes_wrong == 0 && report->values_wrong == 0 && report->logits_wrong == 0;
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
    sum->norms_tied += report->norms_tied;
    sum->norms_wrong += report->norms_wrong;
    sum->bytes_wrong += report->bytes_wrong;
    sum->values_wrong += report->values_wrong;
    sum->logits_wrong += report->logits_wrong;
    sum->worst_tie = fmax(sum->worst_tie, report->worst_tie);
    sum->worst_value = fmax(sum->worst_value, report->worst_value);
    sum->worst_logit = fmax(sum->worst_logit, report->worst_logit);
}

/* ---- what is exact --------------------------------------------------------------------------------------------------------------- */

static double exact_norm(const plan_group *group, const model_facts *model, const float *x)
{
    int dims[RB_MAX_HEAD_DIM];
    double square = 0.0;
    plan_group_dims(group, model, dims);
    for (int j = 0; j < 2 * group->n_blocks; j++) square += (double)x[dims[j]] * (double)x[dims[j]];
    return sqrt(square);
}

/* Coordinate `row` of the rotated unit vector of a group. */
static rb_status exact_coordinate(double *y, const codec_checked *on, const plan_group *group, const float *x, int row, rb_error *err)
{
    const int m = 2 * group->n_blocks;
    const double norm = exact_norm(group, on->model, x), *rotation;
    int dims[RB_MAX_HEAD_DIM];
    const rb_status st = codec_tables_rotation(on->tables, &group->rotation, &rotation, err);
    if (st != RB_OK) return st;
    plan_group_dims(group, on->model, dims);
    *y = 0.0;
    for (int j = 0; j < m; j++) *y += rotation[(size_t)row * (size_t)m + (size_t)j] * (double)x[dims[j]];
    *y = norm > 0.0 ? *y / norm : 0.0;
    return RB_OK;
}

/* ---- codes ------------------------------------------------------------------------------------------------------------------------ */

/* How far y is from the farthest boundary that lies between the two codes. */
static double tie_distance(const codebook *book, double y, int code, int reference)
{
    const int low = code < reference ? code : reference, high = code < reference ? reference : code;
    return fmax(fabs(y - book->boundary[low]), fabs(y - book->boundary[high - 1]));
}

static rb_status judge_code(codec_report *report, const codec_checked *on, const float *x, int position, int code, int reference, const codec_bounds *bounds,
                            rb_error *err)
{
    const plan_group *group = on->head->groups;
    const codebook *book;
    int first = 0;
    double y;
    rb_status st;
    for (; position >= first + 2 * group->n_blocks; group++) first += 2 * group->n_blocks;
    RB_TRY(st, codec_tables_codebook(on->tables, group->codebook, group->width, 2 * group->n_blocks, &book, err), done);
    RB_TRY(st, exact_coordinate(&y, on, group, x, position - first, err), done);
    const double distance = tie_distance(book, y, code, reference);
    if (distance <= bounds->code_tie) {
        report->codes_tied++;
        if (distance > report->worst_tie) report->worst_tie = distance;
    } else {
        report->codes_wrong++;
    }
done:
    return st;
}

/* ---- norms ------------------------------------------------------------------------------------------------------------------------ */

static void judge_norm(codec_report *report, const codec_checked *on, const plan_group *group, const float *x, uint16_t norm, uint16_t reference,
                       const codec_bounds *bounds)
{
    const bool is_neighbour = norm == reference + 1 || reference == norm + 1;
    const double exact = exact_norm(group, on->model, x), middle = ((double)rb_f16_to_f32(norm) + (double)rb_f16_to_f32(reference)) / 2.0;
    if (is_neighbour && fabs(exact - middle) <= bounds->norm_tie * exact)
        report->norms_tied++;
    else
        report->norms_wrong++;
}

/* ---- public ------------------------------------------------------------------------------------------------------------------------ */

static int64_t count_different_bytes(const uint8_t *a, const uint8_t *b, size_t n)
{
    int64_t different = 0;
    for (size_t i = 0; i < n; i++) different += a[i] != b[i];
    return different;
}

/* Codes of a packed vector; padding that is not zero, which unpack_codes refuses, shows as bytes that pack_codes would not make. */
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

static rb_status check_vector(codec_report *report, const codec_checked *on, const float *x, const uint8_t *codes, const uint8_t *codes_reference,
                              const uint16_t *norms, const uint16_t *norms_reference, const codec_bounds *bounds, rb_error *err)
{
    for (int g = 0; g < on->head->n_groups; g++)
        if (norms[g] != norms_reference[g]) judge_norm(report, on, &on->head->groups[g], x, norms[g], norms_reference[g], bounds);
    for (int j = 0; j < head_codec_dims(on->codec); j++) {
        if (codes[j] == codes_reference[j]) continue;
        const rb_status st = judge_code(report, on, x, j, codes[j], codes_reference[j], bounds, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

rb_status codec_check_encoded(codec_report *report, const codec_checked *on, const float *x, int64_t n, const uint8_t *packed, const uint16_t *norms,
                              const codec_bounds *bounds, uint8_t *codes, rb_error *err)
{
    const int d = head_codec_dims(on->codec), n_groups = head_codec_n_groups(on->codec);
    const size_t packed_bytes = head_codec_packed_bytes(on->codec);
    uint8_t *codes_reference = NULL;
    uint16_t *norms_reference = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&codes_reference, (size_t)n, (size_t)d, "reference codes", err), done);
    RB_TRY(st, rb_alloc(&norms_reference, (size_t)n, (size_t)n_groups * sizeof *norms_reference, "reference norms", err), done);
    RB_TRY(st, head_codec_encode(on->codec, x, n, codes_reference, norms_reference, err), done);
    for (int64_t v = 0; v < n; v++) {
        read_packed(report, on, packed + (size_t)v * packed_bytes, codes + v * d);
        RB_TRY(st, check_vector(report, on, x + v * d, codes + v * d, codes_reference + v * d, norms + v * n_groups, norms_reference + v * n_groups, bounds, err),
               done);
    }
    report->n_vectors += n;
    report->n_codes += n * d;
    report->n_norms += n * n_groups;
done:
    free(codes_reference);
    free(norms_reference);
    return st;
}

rb_status codec_check_restored(codec_report *report, const codec_checked *on, const uint8_t *codes, const uint16_t *norms, int64_t n, const float *x_hat,
                               const codec_bounds *bounds, float *reference, rb_error *err)
{
    const int d = head_codec_dims(on->codec);
    const rb_status st = head_codec_decode(on->codec, codes, norms, n, reference, err);
    if (st != RB_OK) return st;
    for (int64_t v = 0; v < n; v++) {
        const float *expected = reference + v * d, *found = x_hat + v * d;
        double square = 0.0;
        for (int j = 0; j < d; j++) square += (double)expected[j] * (double)expected[j];
        const double norm = sqrt(square);
        for (int j = 0; j < d; j++) {
            const double rounding = fmax(bounds->rounding * fabs((double)expected[j]), bounds->rounding_least);
            const double beyond = fabs((double)found[j] - (double)expected[j]) - rounding;
            if (norm > 0.0 && beyond > report->worst_value * norm) report->worst_value = beyond / norm;
            report->values_wrong += !(beyond <= bounds->restore * norm);
        }
    }
    report->n_values += n * d;
    return RB_OK;
}

void codec_check_logits(codec_report *report, const float *queries, int n_queries, const float *reference, int64_t n, int head_dim, const float *logits,
                        const codec_bounds *bounds)
{
    for (int query = 0; query < n_queries; query++) {
        const float *q = queries + (int64_t)query * head_dim;
        double q_square = 0.0;
        for (int j = 0; j < head_dim; j++) q_square += (double)q[j] * (double)q[j];
        for (int64_t v = 0; v < n; v++) {
            const float *k = reference + v * head_dim;
            double exact = 0.0, k_square = 0.0;
            for (int j = 0; j < head_dim; j++) {
                exact += (double)q[j] * (double)k[j];
                k_square += (double)k[j] * (double)k[j];
            }
            const double scale = sqrt(q_square * k_square), error = fabs((double)logits[query * n + v] - exact);
            if (scale > 0.0 && error > report->worst_logit * scale) report->worst_logit = error / scale;
            report->logits_wrong += !(error <= bounds->logits * scale);
        }
    }
    report->n_logits += n_queries * n;
}
