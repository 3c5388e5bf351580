/* See tune_search.h. */
#include "tune/tune_search.h"

#include <math.h>

/* How fast the logarithm of a divergence falls with a bit where points do not say: an error falls by 4 with a bit of
 * keys and one of values, so by 2 with a bit of both together. */
static const double usual_slope = -0.6931471805599453;
/* A budget this near an end of the range is that end. */
static const double rounding = 1e-6;

/* Where the search stands. */
typedef struct bracket {
    int fails, holds; /* nearest points below and at the answer; -1: none */
    double low, high; /* budgets between which the answer is looked for */
} bracket;

int tune_search_answer(const search_point *points, int n)
{
    int best = -1;
    for (int i = 0; i < n; i++)
        if (points[i].excess <= 0.0 && (best < 0 || points[i].bits < points[best].bits)) best = i;
    return best;
}

static bracket bracket_of(const search_point *points, int n, const search_range *range)
{
    bracket b = {.fails = -1, .holds = tune_search_answer(points, n)};
    for (int i = 0; i < n; i++)
        if ((b.holds < 0 || points[i].bits < points[b.holds].bits)
            && (b.fails < 0 || points[i].bits > points[b.fails].bits))
            b.fails = i;
    b.low = b.fails < 0 ? range->from : points[b.fails].bits;
    b.high = b.holds < 0 ? range->to : points[b.holds].bits;
    return b;
}

/* ---- where the limit is expected ------------------------------------------------------------- */

/* The point next to `near` in bits, on the side of more or of fewer bits; -1: none. */
static int next_to(const search_point *points, int n, int near, bool more)
{
    int best = -1;
    for (int i = 0; i < n; i++) {
        const double ahead = more ? points[i].bits - points[near].bits : points[near].bits - points[i].bits;
        if (ahead > 0.0
            && (best < 0 || fabs(points[i].bits - points[near].bits) < fabs(points[best].bits - points[near].bits)))
            best = i;
    }
    return best;
}

/* Beyond the outermost point, with the slope to the one next to it where that falls. */
static double extrapolate(const search_point *points, int n, int near, bool more)
{
    const int other = next_to(points, n, near, more);
    double slope = usual_slope;
    if (other >= 0) slope = (points[other].excess - points[near].excess) / (points[other].bits - points[near].bits);
    if (!(slope < 0.1 * usual_slope)) slope = usual_slope;
    return points[near].bits - points[near].excess / slope;
}

static double expected_place(const bracket *b, const search_point *points, int n)
{
    if (b->fails < 0) return extrapolate(points, n, b->holds, true);
    if (b->holds < 0) return extrapolate(points, n, b->fails, false);
    const double above = points[b->fails].excess, below = points[b->holds].excess;
    return b->low + (b->high - b->low) * above / (above - below);
}

/* ---- budgets of a pass ----------------------------------------------------------------------- */

/* Less than half of the bracket went away in the last pass: interpolation does not follow this curve. */
static bool is_slow(const bracket *b, const search_point *points, int n, const search_range *range)
{
    int before = n;
    while (before > 0 && points[before - 1].pass == points[n - 1].pass) before--;
    if (before == 0 || b->fails < 0 || b->holds < 0) return false;
    const bracket earlier = bracket_of(points, before, range);
    return b->high - b->low > 0.5 * (earlier.high - earlier.low);
}

/* Drops budgets that are another one again. */
static int without_copies(double *budgets, int n)
{
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (kept == 0 || budgets[i] > budgets[kept - 1] * (1.0 + rounding)) budgets[kept++] = budgets[i];
    return kept;
}

static int first_budgets(double *budgets, int n, const search_range *range)
{
    for (int i = 0; i < n; i++) budgets[i] = range->from * pow(range->to / range->from, (i + 1.0) / (n + 1.0));
    return without_copies(budgets, n);
}

static int even_budgets(double *budgets, int n, const bracket *b)
{
    for (int i = 0; i < n; i++) budgets[i] = b->low + (b->high - b->low) * (i + 1.0) / (n + 1.0);
    return n;
}

/* Around the place, a step apart: near enough that the next bracket is narrow, and no nearer than the tolerance. Where
 * the place is close to an end of the bracket, budgets are on its other side. One budget is put where more of the
 * bracket would go away. */
static int budgets_around(double *budgets, int n, double place, const bracket *b, double tolerance)
{
    const double width = b->high - b->low, step = fmax(0.9 * tolerance, width / 8.0);
    double first = place - 0.5 * (n - 1) * step;
    if (width <= (n + 1) * step) return even_budgets(budgets, n, b);
    if (n == 1) first += place - b->low > b->high - place ? -0.5 * step : 0.5 * step;
    first = fmax(b->low + 0.5 * step, fmin(b->high - (n - 0.5) * step, first));
    for (int i = 0; i < n; i++) budgets[i] = first + i * step;
    return n;
}

/* On the way from the outermost point to an end of the range, around the place; a single one is beyond it, for a
 * bracket. */
static int budgets_beyond(double *budgets, int n, double place, double outermost, double end, double tolerance)
{
    const double way = end > outermost ? 1.0 : -1.0;
    const double step = fmax(0.9 * tolerance, fmin(fabs(end - outermost), fabs(place - outermost)) / 3.0);
    for (int i = 0; i < n; i++) {
        const double far = fabs(place - outermost) + (n == 1 ? 0.5 : i - 0.5 * (n - 1)) * step;
        const double budget = outermost + way * fmin(fabs(end - outermost), fmax(0.5 * step, far));
        budgets[way > 0.0 ? i : n - 1 - i] = budget;
    }
    return without_copies(budgets, n);
}

/* Whether the end of the range towards which the answer may lie was evaluated itself, or the bracket is narrow. */
static bool is_done(const bracket *b, const search_range *range)
{
    if (b->holds < 0) return b->low >= range->to * (1.0 - rounding);
    if (b->fails < 0 && b->high <= range->from * (1.0 + rounding)) return true;
    return b->fails >= 0 && b->high - b->low <= range->tolerance * b->high;
}

int tune_search_next(double budgets[TUNE_MAX_AT_ONCE], const search_point *points, int n, const search_range *range)
{
    const int left = range->max_evaluations - n;
    int n_budgets = left < range->at_once ? left : range->at_once;
    if (n_budgets <= 0) return 0;
    if (n == 0) return first_budgets(budgets, n_budgets, range);
    const bracket b = bracket_of(points, n, range);
    if (is_done(&b, range)) return 0;
    if (is_slow(&b, points, n, range)) return even_budgets(budgets, n_budgets, &b);
    const double place = expected_place(&b, points, n), tolerance = range->tolerance * (b.holds < 0 ? b.low : b.high);
    if (b.fails >= 0 && b.holds >= 0) return budgets_around(budgets, n_budgets, place, &b, tolerance);
    /* An extrapolation that has failed once is not trusted again: the end of the range makes a bracket. */
    const bool is_lost = points[n - 1].pass > 0;
    if (b.fails < 0) {
        n_budgets = budgets_beyond(budgets, n_budgets, place, b.high, range->from, tolerance);
        if (is_lost) budgets[0] = range->from;
    } else {
        n_budgets = budgets_beyond(budgets, n_budgets, place, b.low, range->to, tolerance);
        if (is_lost || left <= range->at_once) budgets[n_budgets - 1] = range->to;
    }
    return n_budgets;
}
