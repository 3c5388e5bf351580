/* f[i][B] = min( f[i-1][B] + lost[i-1],
 *                min over j < i and w > 0 of f[j][B - cost(i - j, w)] + error of the group j..i-1 at w )
 *
 * B counts units, the greatest common divisor of all costs. f[0][B] = 0 for every B, so f is the least V within B, not
 * at exactly B, and never rises with B. With a limit of groups f has a layer for each number of groups, and a group
 * leads from one layer to the next. Few heads want many groups, so the limit is left out at first: if no point's
 * partition exceeds it, the curve is found. No back pointers: the inner loop is an addition and a minimum, which
 * compilers turn into vector code, and a path is found again by looking which candidate gives exactly the stored value
 * (same operands, same operations, same number). */
#include "methods/partition_search.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"

static int greatest_common_divisor(int a, int b) { return b == 0 ? a : greatest_common_divisor(b, a % b); }

static double *row_of(const partition_search *s, int layer, int i)
{
    return s->least + ((size_t)layer * (s->n_blocks + 1) + i) * (s->n_units + 1);
}

/* The group of places j..i-1, by width. */
static double *errors_of_group(const partition_search *s, int i, int j)
{
    return s->group_error + ((size_t)i * (i - 1) / 2 + j) * s->n_widths;
}

static int last_layer(const partition_search *s) { return s->limited ? s->max_groups : 0; }

/* Layer that the places before a group are in. */
static int layer_before(const partition_search *s, int layer) { return s->limited ? layer - 1 : layer; }

rb_status partition_search_create(partition_search *s, int n_blocks, const partition_options *options, rb_error *err)
{
    rb_status st;
    *s = (partition_search){.n_blocks = n_blocks, .unit = options->norm_bits, .zero = options->widths & 1};
    for (int w = 1; w <= PARTITION_MAX_WIDTH; w++)
        if (options->widths >> w & 1) {
            s->width[s->n_widths++] = w;
            s->unit = greatest_common_divisor(2 * w, s->unit);
        }
    for (int w = 0; w < s->n_widths; w++) s->block_units[w] = 2 * s->width[w] / s->unit;
    s->norm_units = options->norm_bits / s->unit;

    const int64_t block_bits = 2 * s->width[s->n_widths - 1],
                  useful_bits = n_blocks * (block_bits + options->norm_bits);
    int64_t max_bits = options->max_bits > 0 ? options->max_bits : n_blocks * block_bits + options->norm_bits;
    if (max_bits > useful_bits) max_bits = useful_bits;
    s->n_points = (int)(max_bits / 8) + 1;
    s->n_units = (s->n_points - 1) * 8 / s->unit;
    s->max_groups = options->max_groups < n_blocks ? options->max_groups : 0;

    RB_TRY(st,
           rb_alloc(&s->least, (size_t)(s->max_groups + 1) * (n_blocks + 1) * (s->n_units + 1), sizeof *s->least,
                    "table of partitions", err),
           done);
    RB_TRY(st,
           rb_alloc(&s->group_error, (size_t)n_blocks * (n_blocks + 1) / 2 * s->n_widths, sizeof *s->group_error,
                    "errors of groups", err),
           done);
    RB_TRY(st, rb_alloc(&s->lost, n_blocks, sizeof *s->lost, "errors of blocks without bits", err), done);
done:
    return st;
}

void partition_search_free(partition_search *s)
{
    free(s->least);
    free(s->group_error);
    free(s->lost);
    *s = (partition_search){0};
}

/* Blocks without bits are mostly the last ones, together: what adds up with the later ones is counted. */
static double lost_error(const double *a, const double *b, const double *moment, int i, int n)
{
    double error = 0.5 * a[i] * b[i];
    if (!moment) return error;
    error = partition_group_moment(error, moment[(size_t)i * n + i]);
    for (int j = i + 1; j < n; j++) error += 2.0 * fmax(0.0, moment[(size_t)i * n + j]);
    return error;
}

/* Sums run from the end of a group to its start. Differences of prefix sums would lose small energies that come after
 * large ones. */
static void find_errors(partition_search *s, const double *a, const double *b, const double *moment,
                        const group_distortion *distortion)
{
    const int n = s->n_blocks;
    for (int i = 1; i <= n; i++) {
        double a_sum = 0.0, b_sum = 0.0, moment_sum = 0.0;
        s->lost[i - 1] = lost_error(a, b, moment, i - 1, n);
        for (int j = i - 1; j >= 0; j--) {
            double *error = errors_of_group(s, i, j);
            const int m = i - j;
            a_sum += a[j];
            b_sum += b[j];
            for (int other = j; moment && other < i; other++)
                moment_sum += (other == j ? 1.0 : 2.0) * moment[(size_t)j * n + other];
            const double independent = a_sum * b_sum / (2 * m);
            for (int w = 0; w < s->n_widths; w++) {
                const double c = distortion->c[(size_t)s->width[w] * (distortion->max_blocks + 1) + m];
                error[w] = moment
                               ? partition_group_error(independent, partition_group_moment(independent, moment_sum), c)
                               : c * independent;
            }
        }
    }
}

/* out[u] = min(out[u], from[u] + error). Neither row rises, so a chunk whose last candidate is not below its first
 * `out` has nothing to gain: most of them. */
RB_CPU_CLONES static void take_smaller(double *restrict out, const double *restrict from, double error, int n)
{
    enum { CHUNK = 32 };
    for (int start = 0; start < n; start += CHUNK) {
        const int end = start + CHUNK < n ? start + CHUNK : n;
        if (from[end - 1] + error >= out[start]) continue;
        for (int u = start; u < end; u++) {
            const double with_group = from[u] + error;
            out[u] = with_group < out[u] ? with_group : out[u];
        }
    }
}

static void fill_row(const partition_search *s, int layer, int i)
{
    double *out = row_of(s, layer, i);
    const double *without = row_of(s, layer, i - 1);
    for (int u = 0; u <= s->n_units; u++) out[u] = s->zero ? without[u] + s->lost[i - 1] : INFINITY;
    if (s->limited && layer == 0) return;
    if (s->limited) take_smaller(out, row_of(s, layer - 1, i), 0.0, s->n_units + 1); /* fewer groups are allowed too */
    for (int j = i - 1; j >= 0; j--) {
        const double *from = row_of(s, layer_before(s, layer), j), *error = errors_of_group(s, i, j);
        for (int w = 0; w < s->n_widths; w++) {
            const int cost = (i - j) * s->block_units[w] + s->norm_units;
            if (cost > s->n_units) break;
            take_smaller(out + cost, from, error[w], s->n_units + 1 - cost);
        }
    }
}

/* Among equal ways, fewer groups come first, then a block without bits, then the largest group, then the smallest
 * width.
 */
static void trace(const partition_search *s, int budget, uint8_t *choice)
{
    int layer = last_layer(s), i = s->n_blocks;
    while (i > 0) {
        const double value = row_of(s, layer, i)[budget];
        if (layer > 0 && row_of(s, layer - 1, i)[budget] == value) {
            layer--;
            continue;
        }
        if (s->zero && row_of(s, layer, i - 1)[budget] + s->lost[i - 1] == value) {
            choice[--i] = 0;
            continue;
        }
        const int before = layer_before(s, layer);
        int start = -1, width = 0, cost = 0;
        for (int j = 0; j < i && start < 0; j++)
            for (int w = 0; w < s->n_widths && start < 0; w++) {
                cost = (i - j) * s->block_units[w] + s->norm_units;
                if (cost > budget) break;
                if (row_of(s, before, j)[budget - cost] + errors_of_group(s, i, j)[w] == value) {
                    start = j;
                    width = s->width[w];
                }
            }
        assert(start >= 0); /* the row was filled from one of these */
        memset(choice + start, width, i - start);
        choice[start] |= PARTITION_STARTS;
        budget -= cost;
        i = start;
        layer = before;
    }
}

static void fill_table(partition_search *s)
{
    const int n = s->n_blocks, last = last_layer(s);
    for (int layer = 0; layer <= last; layer++) {
        /* Only the end of the last layer is asked for, and the ends before it where a block without bits leads from one
         * to the next. */
        const int first = s->limited && layer == last && !s->zero ? n : 1;
        for (int u = 0; u <= s->n_units; u++) row_of(s, layer, 0)[u] = 0.0;
        for (int i = first; i <= n; i++) fill_row(s, layer, i);
    }
}

/* Returns the most groups of a point. */
static int trace_points(const partition_search *s, double *error, uint8_t *choices)
{
    const int n = s->n_blocks;
    int most = 0;
    memset(choices, 0, (size_t)s->n_points * n);
    for (int p = 0; p < s->n_points; p++) {
        uint8_t *choice = choices + (size_t)p * n;
        const int budget = 8 * p / s->unit;
        int n_groups = 0;
        error[p] = row_of(s, last_layer(s), n)[budget];
        if (p > 0 && error[p] == error[p - 1]) memcpy(choice, choice - n, n);
        else if (error[p] < INFINITY) trace(s, budget, choice);
        for (int i = 0; i < n; i++) n_groups += (choice[i] & PARTITION_STARTS) != 0;
        if (n_groups > most) most = n_groups;
    }
    return most;
}

void partition_search_solve(partition_search *s, const double *a, const double *b, const double *moment,
                            const group_distortion *distortion, double *error, uint8_t *choices)
{
    find_errors(s, a, b, moment, distortion);
    s->limited = false;
    fill_table(s);
    if (trace_points(s, error, choices) <= s->max_groups || s->max_groups == 0) return;
    s->limited = true;
    fill_table(s);
    trace_points(s, error, choices);
}
