/* Curves of heads and the partitions on them: see allocate/partition.h. */
#include "allocate/partition.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "allocate/partition_search.h"
#include "core/threads.h"

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

double partition_error(const block_partition *partition, const double *q_energy, const double *k_energy, const group_distortion *distortion)
{
    double error = 0.0;
    for (int g = 0; g < partition->n_groups; g++) {
        const int first = partition->first[g], m = partition->first[g + 1] - first, width = partition->width[g];
        double q_sum = 0.0, k_sum = 0.0, product_sum = 0.0;
        for (int i = first; i < first + m; i++) {
            const int block = partition->blocks[i];
            q_sum += q_energy[block];
            k_sum += k_energy[block];
            product_sum += q_energy[block] * k_energy[block];
        }
        error += width > 0 ? distortion->c[(size_t)width * (distortion->max_blocks + 1) + m] * q_sum * k_sum / (2 * m) : 0.5 * product_sum;
    }
    return error;
}

/* ---- checks -------------------------------------------------------------------------------------------------------------------- */

static rb_status check_options(const partition_options *o, int n_blocks, rb_error *err)
{
    if (n_blocks < 1 || n_blocks > RB_MAX_BLOCKS) return rb_fail(err, RB_EINVAL, "%d blocks, expected 1 to %d", n_blocks, RB_MAX_BLOCKS);
    if (o->widths > ALL_WIDTHS || o->widths >> 1 == 0)
        return rb_fail(err, RB_EINVAL, "set of widths is 0x%x, expected bits 0 to %d with one above 0", o->widths, PARTITION_MAX_WIDTH);
    if (o->norm_bits < 0 || o->norm_bits > MAX_NORM_BITS || o->norm_bits % 8 != 0)
        return rb_fail(err, RB_EINVAL, "a norm of %d bits, expected whole bytes up to %d bits", o->norm_bits, MAX_NORM_BITS);
    if (o->max_groups < 0) return rb_fail(err, RB_EINVAL, "at most %d groups, expected 1 or more, or 0 for no limit", o->max_groups);
    if (o->max_bits < 0) return rb_fail(err, RB_EINVAL, "a curve up to %lld bits, expected 1 or more, or 0 for all", (long long)o->max_bits);
    return RB_OK;
}

static rb_status check_distortion(const group_distortion *distortion, unsigned widths, int n_blocks, rb_error *err)
{
    if (distortion->max_blocks < n_blocks)
        return rb_fail(err, RB_EINVAL, "errors of groups up to %d blocks, expected %d", distortion->max_blocks, n_blocks);
    for (int w = 1; w <= PARTITION_MAX_WIDTH; w++)
        for (int m = 1; widths >> w & 1 && m <= n_blocks; m++) {
            const double c = distortion->c[(size_t)w * (distortion->max_blocks + 1) + m];
            if (!(c >= 0.0 && c <= 1e6)) return rb_fail(err, RB_EINVAL, "relative error of width %d, %d blocks is %g, expected 0 to 1e6", w, m, c);
        }
    return RB_OK;
}

/* Sums must not overflow either: V is infinite only where nothing fits. */
static rb_status check_energies(const double *q_energy, const double *k_energy, int n_blocks, rb_error *err)
{
    double q_sum = 0.0, k_sum = 0.0;
    for (int i = 0; i < n_blocks; i++) {
        if (!(q_energy[i] >= 0.0 && isfinite(q_energy[i])))
            return rb_fail(err, RB_ENONFINITE, "block %d: query energy is %g, expected a finite number from 0", i, q_energy[i]);
        if (!(k_energy[i] >= 0.0 && isfinite(k_energy[i])))
            return rb_fail(err, RB_ENONFINITE, "block %d: key energy is %g, expected a finite number from 0", i, k_energy[i]);
        q_sum += q_energy[i];
        k_sum += k_energy[i];
    }
    if (q_sum * k_sum > 1e300) return rb_fail(err, RB_ENONFINITE, "energies sum to %g (queries) and %g (keys), expected a product up to 1e300", q_sum, k_sum);
    return RB_OK;
}

/* ---- curves -------------------------------------------------------------------------------------------------------------------- */

static void order_by_product(int16_t *order, const double *a, const double *b, int n)
{
    for (int i = 0; i < n; i++) {
        int place = i;
        for (; place > 0 && a[order[place - 1]] * b[order[place - 1]] < a[i] * b[i]; place--) order[place] = order[place - 1];
        order[place] = (int16_t)i;
    }
}

static rb_status build_curve(partition_curve *curve, partition_search *search, const double *q_energy, const double *k_energy,
                             const group_distortion *distortion, rb_error *err)
{
    const int n = search->n_blocks;
    double a[RB_MAX_BLOCKS], b[RB_MAX_BLOCKS];
    rb_status st;
    RB_TRY(st, check_energies(q_energy, k_energy, n, err), done);
    RB_TRY(st, rb_alloc(&curve->error, search->n_points, sizeof *curve->error, "curve of a head", err), done);
    RB_TRY(st, rb_alloc(&curve->choices, (size_t)search->n_points * n, sizeof *curve->choices, "partitions of a head", err), done);
    RB_TRY(st, rb_alloc(&curve->order, n, sizeof *curve->order, "order of blocks", err), done);
    curve->n_blocks = n;
    curve->n_points = search->n_points;
    order_by_product(curve->order, q_energy, k_energy, n);
    for (int i = 0; i < n; i++) {
        a[i] = q_energy[curve->order[i]];
        b[i] = k_energy[curve->order[i]];
    }
    partition_search_solve(search, a, b, distortion, curve->error, curve->choices);
done:
    return st;
}

rb_status partition_curves_build(partition_curve *curves, int n_heads, int n_blocks, const double *q_energy, const double *k_energy,
                                 const group_distortion *distortion, int n_distortions, const partition_options *options, rb_error *err)
{
    const int n_threads = rb_threads_count();
    partition_search *searches = NULL;
    rb_first_failure failure = {0};
    rb_status st;
    memset(curves, 0, (size_t)n_heads * sizeof *curves);
    RB_TRY(st, check_options(options, n_blocks, err), done);
    if (n_distortions != 1 && n_distortions != n_heads) {
        st = rb_fail(err, RB_EINVAL, "%d tables of errors for %d heads, expected 1 or one a head", n_distortions, n_heads);
        goto done;
    }
    for (int d = 0; d < n_distortions; d++) RB_TRY(st, check_distortion(&distortion[d], options->widths, n_blocks, err), done);
    RB_TRY(st, rb_alloc(&searches, n_threads, sizeof *searches, "tables of partitions", err), done);
    for (int t = 0; t < n_threads; t++) RB_TRY(st, partition_search_create(&searches[t], n_blocks, options, err), done);
    #pragma omp parallel for schedule(dynamic)
    for (int h = 0; h < n_heads; h++) {
        const int64_t at = (int64_t)h * n_blocks;
        rb_error mine = {0};
        rb_status found = build_curve(&curves[h], &searches[rb_thread_index()], q_energy + at, k_energy + at, &distortion[n_distortions == 1 ? 0 : h], &mine);
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
