/* Curves of heads and the partitions on them: see methods/partition.h. */
#include "methods/partition.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "methods/partition_search.h"

enum { MAX_NORM_BITS = 64, ALL_WIDTHS = (1 << PARTITION_N_WIDTHS) - 1 };

partition_options partition_options_default(void) { return (partition_options){.widths = ALL_WIDTHS, .norm_bits = 16}; }

int64_t partition_stored_bits(const block_partition *partition, int norm_bits)
{
    int64_t code_bits = 0, norms = 0;
    for (int g = 0; g < partition->n_groups; g++) {
        code_bits += 2 * partition->width[g] * (partition->first[g + 1] - partition->first[g]);
        norms += partition->width[g] > 0 ? norm_bits : 0;
    }
    return (code_bits + 7) / 8 * 8 + norms;
}

/* M of two blocks from its upper triangle. */
static double moment_of(const float *moment, int n_blocks, int i, int j)
{
    const int64_t row = i < j ? i : j, column = i < j ? j : i;
    return (double)moment[row * n_blocks - row * (row - 1) / 2 + column - row];
}

partition_sums partition_sums_of(const int16_t *blocks, int n, int n_blocks, const double *q_energy,
                                 const double *k_energy, const float *moment)
{
    double q_sum = 0.0, k_sum = 0.0;
    partition_sums sums = {0};
    for (int i = 0; i < n; i++) {
        q_sum += q_energy[blocks[i]];
        k_sum += k_energy[blocks[i]];
        sums.diagonal += 0.5 * q_energy[blocks[i]] * k_energy[blocks[i]];
        for (int j = 0; moment && j < n; j++) sums.moment += moment_of(moment, n_blocks, blocks[i], blocks[j]);
    }
    sums.independent = q_sum * k_sum / (2 * n);
    sums.moment = moment ? partition_group_moment(sums.independent, sums.moment) : sums.independent;
    return sums;
}

double partition_coherence(const int16_t *blocks, int n, int n_blocks, const double *q_energy, const double *k_energy,
                           const float *moment)
{
    const partition_sums sums = partition_sums_of(blocks, n, n_blocks, q_energy, k_energy, moment);
    return sums.independent > 0.0 ? sums.moment / sums.independent : 1.0;
}

double partition_error(const block_partition *partition, const double *q_energy, const double *k_energy,
                       const float *moment, const group_distortion *distortion)
{
    double error = 0.0;
    for (int g = 0; g < partition->n_groups; g++) {
        const int m = partition->first[g + 1] - partition->first[g], width = partition->width[g];
        const partition_sums sums = partition_sums_of(partition->blocks + partition->first[g], m, partition->n_blocks,
                                                      q_energy, k_energy, moment);
        if (width > 0)
            error += partition_group_error(sums.independent, sums.moment,
                                           distortion->c[(size_t)width * (distortion->max_blocks + 1) + m]);
        else error += moment ? sums.moment : sums.diagonal;
    }
    return error;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static rb_status check_options(const partition_options *o, int n_blocks, rb_error *err)
{
    if (n_blocks < 1 || n_blocks > RB_MAX_BLOCKS)
        return rb_fail(err, RB_EINVAL, "%d blocks, expected 1 to %d", n_blocks, RB_MAX_BLOCKS);
    if (o->widths > ALL_WIDTHS || o->widths >> 1 == 0)
        return rb_fail(err, RB_EINVAL, "set of widths is 0x%x, expected bits 0 to %d with one above 0", o->widths,
                       PARTITION_MAX_WIDTH);
    if (o->norm_bits < 0 || o->norm_bits > MAX_NORM_BITS || o->norm_bits % 8 != 0)
        return rb_fail(err, RB_EINVAL, "a norm of %d bits, expected whole bytes up to %d bits", o->norm_bits,
                       MAX_NORM_BITS);
    if (o->max_groups < 0)
        return rb_fail(err, RB_EINVAL, "at most %d groups, expected 1 or more, or 0 for no limit", o->max_groups);
    if (o->max_bits < 0)
        return rb_fail(err, RB_EINVAL, "a curve up to %lld bits, expected 1 or more, or 0 for all",
                       (long long)o->max_bits);
    return RB_OK;
}

static rb_status check_distortion(const group_distortion *distortion, unsigned widths, int n_blocks, rb_error *err)
{
    if (distortion->max_blocks < n_blocks)
        return rb_fail(err, RB_EINVAL, "errors of groups up to %d blocks, expected %d", distortion->max_blocks,
                       n_blocks);
    for (int w = 1; w <= PARTITION_MAX_WIDTH; w++)
        for (int m = 1; widths >> w & 1 && m <= n_blocks; m++) {
            const double c = distortion->c[(size_t)w * (distortion->max_blocks + 1) + m];
            if (!(c >= 0.0 && c <= 1e6))
                return rb_fail(err, RB_EINVAL, "relative error of width %d, %d blocks is %g, expected 0 to 1e6", w, m,
                               c);
        }
    return RB_OK;
}

/* Sums must not overflow either: V is infinite only where nothing fits. */
static rb_status check_energies(const double *q_energy, const double *k_energy, int n_blocks, rb_error *err)
{
    double q_sum = 0.0, k_sum = 0.0;
    for (int i = 0; i < n_blocks; i++) {
        if (!(q_energy[i] >= 0.0 && isfinite(q_energy[i])))
            return rb_fail(err, RB_ENONFINITE, "block %d: query energy is %g, expected a finite number from 0", i,
                           q_energy[i]);
        if (!(k_energy[i] >= 0.0 && isfinite(k_energy[i])))
            return rb_fail(err, RB_ENONFINITE, "block %d: key energy is %g, expected a finite number from 0", i,
                           k_energy[i]);
        q_sum += q_energy[i];
        k_sum += k_energy[i];
    }
    if (q_sum * k_sum > 1e300)
        return rb_fail(err, RB_ENONFINITE, "energies sum to %g (queries) and %g (keys), expected a product up to 1e300",
                       q_sum, k_sum);
    return RB_OK;
}

/* ---- curves ---------------------------------------------------------------------------------- */

static void order_by_product(int16_t *order, const double *a, const double *b, int n)
{
    for (int i = 0; i < n; i++) {
        int place = i;
        for (; place > 0 && a[order[place - 1]] * b[order[place - 1]] < a[i] * b[i]; place--)
            order[place] = order[place - 1];
        order[place] = (int16_t)i;
    }
}

static rb_status check_moment(const float *moment, int n_blocks, rb_error *err)
{
    for (int64_t i = 0; moment && i < (int64_t)n_blocks * (n_blocks + 1) / 2; i++)
        if (!isfinite(moment[i]))
            return rb_fail(err, RB_ENONFINITE, "logit moment %lld is %g, expected a finite number", (long long)i,
                           (double)moment[i]);
    return RB_OK;
}

static rb_status build_curve(partition_curve *curve, partition_search *search, const double *q_energy,
                             const double *k_energy, const float *moment, const group_distortion *distortion,
                             rb_error *err)
{
    const int n = search->n_blocks;
    double a[RB_MAX_BLOCKS], b[RB_MAX_BLOCKS], *ordered = NULL;
    rb_status st;
    RB_TRY(st, check_energies(q_energy, k_energy, n, err), done);
    RB_TRY(st, check_moment(moment, n, err), done);
    if (moment) RB_TRY(st, rb_alloc(&ordered, (size_t)n * n, sizeof *ordered, "moments of a head", err), done);
    RB_TRY(st, rb_alloc(&curve->error, search->n_points, sizeof *curve->error, "curve of a head", err), done);
    RB_TRY(st,
           rb_alloc(&curve->choices, (size_t)search->n_points * n, sizeof *curve->choices, "partitions of a head", err),
           done);
    RB_TRY(st, rb_alloc(&curve->order, n, sizeof *curve->order, "order of blocks", err), done);
    curve->n_blocks = n;
    curve->n_points = search->n_points;
    order_by_product(curve->order, q_energy, k_energy, n);
    for (int i = 0; i < n; i++) {
        a[i] = q_energy[curve->order[i]];
        b[i] = k_energy[curve->order[i]];
        for (int j = 0; moment && j < n; j++)
            ordered[(size_t)i * n + j] = moment_of(moment, n, curve->order[i], curve->order[j]);
    }
    partition_search_solve(search, a, b, ordered, distortion, curve->error, curve->choices);
done:
    free(ordered);
    return st;
}

rb_status partition_curves_build(partition_curve *curves, int n_heads, int n_blocks, const double *q_energy,
                                 const double *k_energy, const float *moments, const group_distortion *distortion,
                                 int n_distortions, const partition_options *options, rb_error *err)
{
    const int n_threads = rb_threads_count();
    const int64_t n_moments = (int64_t)n_blocks * (n_blocks + 1) / 2;
    partition_search *searches = NULL;
    rb_first_failure failure = {0};
    rb_status st;
    memset(curves, 0, (size_t)n_heads * sizeof *curves);
    RB_TRY(st, check_options(options, n_blocks, err), done);
    if (n_distortions != 1 && n_distortions != n_heads) {
        st = rb_fail(err, RB_EINVAL, "%d tables of errors for %d heads, expected 1 or one a head", n_distortions,
                     n_heads);
        goto done;
    }
    for (int d = 0; d < n_distortions; d++)
        RB_TRY(st, check_distortion(&distortion[d], options->widths, n_blocks, err), done);
    RB_TRY(st, rb_alloc(&searches, n_threads, sizeof *searches, "tables of partitions", err), done);
    for (int t = 0; t < n_threads; t++) RB_TRY(st, partition_search_create(&searches[t], n_blocks, options, err), done);
#pragma omp parallel for schedule(dynamic)
    for (int h = 0; h < n_heads; h++) {
        const int64_t at = (int64_t)h * n_blocks;
        rb_error mine = {0};
        rb_status found =
            build_curve(&curves[h], &searches[rb_thread_index()], q_energy + at, k_energy + at,
                        moments ? moments + h * n_moments : NULL, &distortion[n_distortions == 1 ? 0 : h], &mine);
        if (found != RB_OK) found = rb_fail_in(&mine, found, "head %d", h);
        rb_note_failure(&failure, h, found, &mine);
    }
    st = rb_tell_failure(&failure, err);
done:
    for (int t = 0; searches && t < n_threads; t++) partition_search_free(&searches[t]);
    free(searches);
    for (int h = 0; st != RB_OK && h < n_heads; h++) partition_curve_free(&curves[h]);
    return st;
}

void partition_curve_free(partition_curve *curve)
{
    if (!curve) return;
    free(curve->error);
    free(curve->choices);
    free(curve->order);
    *curve = (partition_curve){0};
}

static void insert_block(block_partition *out, int place, int16_t block)
{
    const int group_start = out->first[out->n_groups];
    for (; place > group_start && out->blocks[place - 1] > block; place--) out->blocks[place] = out->blocks[place - 1];
    out->blocks[place] = block;
}

static void close_group(block_partition *out, int width, int end)
{
    if (end == out->first[out->n_groups]) return;
    out->width[out->n_groups++] = (uint8_t)width;
    out->first[out->n_groups] = (int16_t)end;
}

void partition_curve_at(const partition_curve *curve, int point, block_partition *out)
{
    const uint8_t *choice = curve->choices + (size_t)point * curve->n_blocks;
    int placed = 0, width = 0;
    assert(curve->error[point] < INFINITY);
    *out = (block_partition){.n_blocks = curve->n_blocks};
    for (int i = 0; i < curve->n_blocks; i++) {
        if (choice[i] == 0) continue;
        if (choice[i] & PARTITION_STARTS) close_group(out, width, placed);
        width = choice[i] & ~PARTITION_STARTS;
        insert_block(out, placed++, curve->order[i]);
    }
    close_group(out, width, placed);
    for (int i = 0; i < curve->n_blocks; i++)
        if (choice[i] == 0) insert_block(out, placed++, curve->order[i]);
    close_group(out, 0, placed);
}
