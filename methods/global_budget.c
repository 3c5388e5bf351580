/* Hulls, the Lagrangian, trades: see methods/global_budget.h. */
#include "methods/global_budget.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

const char *const budget_objective_names[OBJECTIVE_N + 1] = {"mae", "variance", NULL};
const char *const budget_scope_names[SCOPE_N + 1] = {"head", "layer", "model", NULL};

/* A head as the solver sees it. */
typedef struct bidder {
    int low, high;       /* points it may have */
    const double *value; /* [high + 1] weight * phi(V); read from low on */
} bidder;

/* From one point of a head's hull to the next. */
typedef struct hull_step {
    double gain_per_byte;
    int head, from, to;
} hull_step;

/* The two best offers of different heads for a number of bytes: a head does not trade with itself. */
typedef struct offers {
    double amount[2];
    int head[2]; /* -1: nobody */
} offers;

typedef struct budget_solver {
    int n_heads, max_points;
    double *values;   /* [n_heads][max_points] */
    bidder *bidders;  /* [n_heads] */
    hull_step *steps; /* [n_heads * (max_points - 1)] at most */
    int *hull;        /* [max_points] */
    offers *gains,
        *losses; /* [max_points] by bytes: the most a head gains by them, the least a head loses without them */
} budget_solver;

/* ---- what is asked --------------------------------------------------------------------------- */

static rb_status check_request(const budget_request *r, rb_error *err)
{
    if (r->n_layers < 1 || r->heads_per_layer < 1 || r->n_layers > (1 << 20) / r->heads_per_layer)
        return rb_fail(err, RB_EINVAL, "%d layers of %d heads, expected at least 1 of each and at most %d heads",
                       r->n_layers, r->heads_per_layer, 1 << 20);
    if ((unsigned)r->objective >= OBJECTIVE_N)
        return rb_fail(err, RB_EINVAL, "objective is %d, expected 0 to %d", (int)r->objective, OBJECTIVE_N - 1);
    if ((unsigned)r->scope >= SCOPE_N)
        return rb_fail(err, RB_EINVAL, "scope of the budget is %d, expected 0 to %d", (int)r->scope, SCOPE_N - 1);
    if (r->total_bits < 0)
        return rb_fail(err, RB_EINVAL, "a budget of %lld bits, expected 0 or more", (long long)r->total_bits);
    if (r->min_head_bits < 0 || r->max_head_bits < 0)
        return rb_fail(err, RB_EINVAL, "limits of a head are %lld and %lld bits, expected 0 or more",
                       (long long)r->min_head_bits, (long long)r->max_head_bits);
    for (int h = 0; h < r->n_layers * r->heads_per_layer; h++) {
        if (r->curves[h].n_points < 1)
            return rb_fail(err, RB_EINVAL, "head %d: a curve of %d points, expected 1 or more", h,
                           r->curves[h].n_points);
        if (r->weights && !(r->weights[h] >= 0.0 && isfinite(r->weights[h])))
            return rb_fail(err, RB_EINVAL, "head %d: weight is %g, expected a finite number from 0", h, r->weights[h]);
    }
    return RB_OK;
}

/* Fills the head's values and finds what it may have: from its floor, or its first point where something fits, to its
 * ceiling. */
static rb_status make_bidder(bidder *out, double *values, const budget_request *r, int h, rb_error *err)
{
    const budget_curve *curve = &r->curves[h];
    const int64_t last = curve->n_points - 1, floor_bytes = (r->min_head_bits + 7) / 8,
                  ceiling_bytes = r->max_head_bits / 8;
    int64_t low = floor_bytes < last ? floor_bytes : last,
            high = r->max_head_bits > 0 && ceiling_bytes < last ? ceiling_bytes : last;
    while (low < last && curve->error[low] == INFINITY) low++;
    if (low > high)
        return rb_fail(err, RB_EINVAL, "head %d needs %lld bits, its limit is %lld", h, (long long)(8 * low),
                       (long long)r->max_head_bits);
    for (int64_t p = low; p <= high; p++) {
        const double error = curve->error[p];
        if (!(error >= 0.0 && isfinite(error)) || (p > low && error > curve->error[p - 1]))
            return rb_fail(err, RB_EINVAL,
                           "head %d: error within %lld bytes is %g, expected a finite number that does not rise", h,
                           (long long)p, error);
        values[p] = (r->weights ? r->weights[h] : 1.0) * (r->objective == OBJECTIVE_MAE ? sqrt(error) : error);
    }
    *out = (bidder){(int)low, (int)high, values};
    return RB_OK;
}

/* ---- the Lagrangian -------------------------------------------------------------------------- */

static double gain_per_byte(const bidder *b, int from, int to) { return (b->value[from] - b->value[to]) / (to - from); }

/* Steps of the lower convex hull, gains per byte strictly falling (as computed, so that sorting keeps a head's steps in
 * order). Returns how many. */
static int find_steps(hull_step *steps, int *hull, const bidder *b, int head)
{
    int n = 0, n_steps = 0;
    hull[n++] = b->low;
    for (int p = b->low + 1; p <= b->high; p++) {
        if (b->value[p] >= b->value[hull[n - 1]]) continue;
        while (n > 1 && gain_per_byte(b, hull[n - 1], p) >= gain_per_byte(b, hull[n - 2], hull[n - 1])) n--;
        hull[n++] = p;
    }
    for (int i = 1; i < n; i++)
        steps[n_steps++] = (hull_step){gain_per_byte(b, hull[i - 1], hull[i]), head, hull[i - 1], hull[i]};
    return n_steps;
}

static int by_gain_then_head(const void *a, const void *b)
{
    const hull_step *x = a, *y = b;
    if (x->gain_per_byte != y->gain_per_byte)
        return (x->gain_per_byte < y->gain_per_byte) - (x->gain_per_byte > y->gain_per_byte);
    return x->head != y->head ? x->head - y->head : x->from - y->from;
}

static double sum_of_values(const bidder *bidders, const int32_t *points, int n)
{
    double sum = 0.0;
    for (int h = 0; h < n; h++) sum += bidders[h].value[points[h]];
    return sum;
}

/* Takes the steps that fit, best first; *left bytes remain. Returns the dual bound. */
static double take_steps(budget_solver *s, const bidder *bidders, int n, int32_t *points, int64_t *left)
{
    double bound = 0.0;
    bool all_fit = true;
    int n_steps = 0;
    for (int h = 0; h < n; h++) n_steps += find_steps(s->steps + n_steps, s->hull, &bidders[h], h);
    qsort(s->steps, n_steps, sizeof *s->steps, by_gain_then_head);
    for (int i = 0; i < n_steps; i++) {
        const hull_step *step = &s->steps[i];
        const int bytes = step->to - step->from;
        if (points[step->head] != step->from) continue; /* an earlier step of this head did not fit */
        if (bytes <= *left) {
            points[step->head] = step->to;
            *left -= bytes;
        } else if (all_fit) {
            bound = sum_of_values(bidders, points, n) - step->gain_per_byte * (double)*left;
            all_fit = false;
        }
    }
    return all_fit ? sum_of_values(bidders, points, n) : bound;
}

/* ---- trades ---------------------------------------------------------------------------------- */

/* Keeps the two best offers: larger amounts are better; among equal ones the first stays. */
static void offer(offers *o, double amount, int head)
{
    if (head == o->head[0] || head < 0) {
        if (head >= 0 && amount > o->amount[0]) o->amount[0] = amount;
    } else if (amount > o->amount[0]) {
        o->amount[1] = o->amount[0];
        o->head[1] = o->head[0];
        o->amount[0] = amount;
        o->head[0] = head;
    } else if (amount > o->amount[1]) {
        o->amount[1] = amount;
        o->head[1] = head;
    }
}

static void collect_offers(budget_solver *s, const bidder *bidders, int n, const int32_t *points)
{
    static const offers nobody = {{-INFINITY, -INFINITY}, {-1, -1}};
    for (int bytes = 0; bytes < s->max_points; bytes++) s->gains[bytes] = s->losses[bytes] = nobody;
    for (int h = 0; h < n; h++) {
        const bidder *b = &bidders[h];
        const int at = points[h];
        for (int p = at + 1; p <= b->high; p++) offer(&s->gains[p - at], b->value[at] - b->value[p], h);
        for (int p = b->low; p < at; p++) offer(&s->losses[at - p], b->value[at] - b->value[p], h);
    }
    for (int bytes = 1; bytes < s->max_points; bytes++) /* the gain within so many bytes */
        for (int i = 0; i < 2; i++) offer(&s->gains[bytes], s->gains[bytes - 1].amount[i], s->gains[bytes - 1].head[i]);
}

/* Moves the head to the lowest point that gains `amount`. */
static void move_up(const bidder *b, int32_t *point, double amount)
{
    int p = *point + 1;
    while (p < b->high && b->value[*point] - b->value[p] != amount) p++;
    *point = p;
}

/* The best trade: one head gives bytes (or none does), another gains by them and by what is left. Returns whether the
 * sum fell by more than rounding. */
static bool trade(budget_solver *s, const bidder *bidders, int n, int32_t *points, int64_t *left)
{
    const double rounding = 1e-13 * sum_of_values(bidders, points, n);
    double best = rounding, gain = 0.0;
    int giver = -1, taker = -1, given = 0;
    collect_offers(s, bidders, n, points);
    for (int bytes = 0; bytes < s->max_points; bytes++) {
        const int64_t most = bytes + *left;
        const offers *gains = &s->gains[most < s->max_points ? most : s->max_points - 1], *losses = &s->losses[bytes];
        for (int l = 0; l < (bytes == 0 ? 1 : 2); l++)
            for (int g = 0; g < 2; g++) {
                const int from = bytes == 0 ? -1 : losses->head[l], to = gains->head[g];
                const double change = gains->amount[g] + (bytes == 0 ? 0.0 : losses->amount[l]);
                if (to < 0 || to == from || (bytes > 0 && from < 0) || change <= best) continue;
                best = change;
                gain = gains->amount[g];
                giver = from;
                taker = to;
                given = bytes;
            }
    }
    if (taker < 0) return false;
    const int before = points[taker];
    move_up(&bidders[taker], &points[taker], gain);
    *left += given - (points[taker] - before);
    if (giver >= 0) {
        const bidder *b = &bidders[giver];
        for (points[giver] -= given; points[giver] > b->low && b->value[points[giver] - 1] == b->value[points[giver]];
             points[giver]--)
            ++*left;
    }
    assert(*left >= 0);
    return true;
}

/* ---- a share of the budget ------------------------------------------------------------------- */

/* n heads from `first` on share `bytes`: points, and what it comes to added to the answer. */
static rb_status solve_share(budget_solver *s, int first, int n, int64_t bytes, int32_t *all_points,
                             budget_answer *answer, rb_error *err)
{
    const bidder *bidders = s->bidders + first;
    int32_t *points = all_points + first;
    int64_t left = bytes;
    for (int h = 0; h < n; h++) {
        points[h] = bidders[h].low;
        left -= bidders[h].low;
    }
    if (left < 0)
        return rb_fail(err, RB_EINVAL, "a budget of %lld bits for heads %d to %d, which need %lld",
                       (long long)(8 * bytes), first, first + n - 1, (long long)(8 * (bytes - left)));
    const double bound = take_steps(s, bidders, n, points, &left);
    while (trade(s, bidders, n, points, &left)) continue;
    for (int h = 0; h < n; h++) answer->stored_bits += 8 * points[h];
    const double value = sum_of_values(bidders, points, n);
    answer->objective += value;
    answer->bound += n == 1 || bound > value ? value : bound < 0.0 ? 0.0 : bound; /* above only by rounding */
    return RB_OK;
}

/* What a layer's heads would gain by a byte more each. */
static double gain_of_layer(const budget_solver *s, int first, int n, int64_t bytes)
{
    double gain = 0.0;
    for (int h = first; h < first + n; h++) {
        const bidder *b = &s->bidders[h];
        const int now = (int)(bytes < b->high ? bytes : b->high), then = now < b->high ? now + 1 : now;
        if (now >= b->low) gain += b->value[now] - b->value[then];
    }
    return gain;
}

/* Marks the layers that gain most by a byte more for each head, as many as there are bytes for; the lowest of equals,
 * and none that gains nothing. */
static void choose_layers(bool *is_chosen, double *gains, const budget_solver *s, const budget_request *r,
                          int64_t bytes_of_head, int64_t left)
{
    for (int layer = 0; layer < r->n_layers; layer++)
        gains[layer] = gain_of_layer(s, layer * r->heads_per_layer, r->heads_per_layer, bytes_of_head);
    for (; left >= r->heads_per_layer; left -= r->heads_per_layer) {
        int best = 0;
        for (int layer = 1; layer < r->n_layers; layer++)
            if (gains[layer] > gains[best]) best = layer;
        if (!(gains[best] > 0.0)) break;
        is_chosen[best] = true;
        gains[best] = 0.0;
    }
}

/* Heads by themselves. */
static rb_status solve_heads(budget_solver *s, const budget_request *r, int32_t *points, budget_answer *answer,
                             rb_error *err)
{
    const int64_t bytes = r->total_bits / 8, of_head = bytes / s->n_heads;
    bool *is_chosen = NULL;
    double *gains = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&is_chosen, (size_t)r->n_layers, sizeof *is_chosen, "layers of a budget", err), done);
    RB_TRY(st, rb_alloc(&gains, (size_t)r->n_layers, sizeof *gains, "layers of a budget", err), done);
    choose_layers(is_chosen, gains, s, r, of_head, bytes - of_head * s->n_heads);
    for (int h = 0; h < s->n_heads; h++)
        RB_TRY(st, solve_share(s, h, 1, of_head + is_chosen[h / r->heads_per_layer], points, answer, err), done);
done:
    free(is_chosen);
    free(gains);
    return st;
}

static rb_status create_solver(budget_solver *s, const budget_request *r, rb_error *err)
{
    const int n = r->n_layers * r->heads_per_layer;
    rb_status st;
    *s = (budget_solver){.n_heads = n};
    for (int h = 0; h < n; h++)
        if (r->curves[h].n_points > s->max_points) s->max_points = r->curves[h].n_points;
    RB_TRY(st, rb_alloc(&s->values, (size_t)n * s->max_points, sizeof *s->values, "values of curves", err), done);
    RB_TRY(st, rb_alloc(&s->bidders, n, sizeof *s->bidders, "heads of a budget", err), done);
    RB_TRY(st, rb_alloc(&s->steps, (size_t)n * s->max_points, sizeof *s->steps, "steps of hulls", err), done);
    RB_TRY(st, rb_alloc(&s->hull, s->max_points, sizeof *s->hull, "hull of a curve", err), done);
    RB_TRY(st, rb_alloc(&s->gains, s->max_points, sizeof *s->gains, "offers of bytes", err), done);
    RB_TRY(st, rb_alloc(&s->losses, s->max_points, sizeof *s->losses, "offers of bytes", err), done);
    for (int h = 0; h < n; h++)
        RB_TRY(st, make_bidder(&s->bidders[h], s->values + (size_t)h * s->max_points, r, h, err), done);
done:
    return st;
}

static void free_solver(budget_solver *s)
{
    free(s->values);
    free(s->bidders);
    free(s->steps);
    free(s->hull);
    free(s->gains);
    free(s->losses);
}

rb_status budget_solve(int32_t *points, budget_answer *answer, const budget_request *request, rb_error *err)
{
    const int n_heads = request->n_layers * request->heads_per_layer;
    budget_solver solver = {0};
    rb_status st;
    *answer = (budget_answer){0};
    RB_TRY(st, check_request(request, err), done);
    RB_TRY(st, create_solver(&solver, request, err), done);
    const int n_shares = request->scope == SCOPE_MODEL ? 1 : request->n_layers, n = n_heads / n_shares;
    if (request->scope == SCOPE_HEAD) RB_TRY(st, solve_heads(&solver, request, points, answer, err), done);
    for (int share = 0; request->scope != SCOPE_HEAD && share < n_shares; share++)
        RB_TRY(st, solve_share(&solver, share * n, n, request->total_bits / 8 / n_shares, points, answer, err), done);
done:
    free_solver(&solver);
    return st;
}
