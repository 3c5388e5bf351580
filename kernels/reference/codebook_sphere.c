/* Lloyd-Max for the coordinate law of the sphere: see kernels/reference/codebook_sphere.h.
 *
 * The density is p(y) = C (1 - y^2)^e with e = (m - 3) / 2; with y = sin t it is cos(t)^(m-2) dt, smooth for every m.
 * Mass and mean of a cell come from Gauss-Legendre quadrature over the cell: differences of the closed integrals would
 * cancel in the thin cells of the tail. Lloyd's iteration converges linearly, at 256 levels in tens of thousands of
 * steps. Newton's method on F(c) = mean of cell - c takes four at most: cell i depends on its two boundaries only, so
 * the Jacobian is tridiagonal and a step costs as much as one of Lloyd's, and the companding approximation (levels
 * spaced by p^(1/3)), near optimal for many levels, starts it inside its basin for every size. */
#include "kernels/reference/codebook_sphere.h"

#include <math.h>
#include <stdbool.h>

enum { MAX_HALF = 128 };

/* (1 - y^2)^e from 1 - y and 1 + y, exact near the ends. */
static double density(double y, double e) { return e == 0.0 ? 1.0 : pow((1.0 - y) * (1.0 + y), e); }

typedef struct cell {
    double mass, mean, lower, upper;
} cell;

/* 8-point Gauss-Legendre on [-1, 1]: the positive nodes and their weights (Abramowitz & Stegun, table 25.4). */
enum { HALF_NODES = 4 };
static const double node[HALF_NODES] = {0.18343464249564980, 0.52553240991632899, 0.79666647741362674,
                                        0.96028985649753623};
static const double weight[HALF_NODES] = {0.36268378337836198, 0.31370664587788729, 0.22238103445337447,
                                          0.10122853629037626};

/* Adds the integrals of cos(t)^(dims-2) and sin(t) cos(t)^(dims-2) over [from, to]. */
static void integrate_panel(double *mass, double *moment, double from, double to, int dims)
{
    const double middle = 0.5 * (from + to), reach = 0.5 * (to - from);
    for (int i = 0; i < HALF_NODES; i++)
        for (int side = -1; side <= 1; side += 2) {
            const double t = middle + side * reach * node[i];
            const double density_t = reach * weight[i] * pow(cos(t), dims - 2);
            *mass += density_t;
            *moment += density_t * sin(t);
        }
}

static void measure_cells(cell *cells, const double *centroid, int half, int dims)
{
    /* A panel is a quarter of the law's width; 14 of its widths out nothing is left (e^-98). */
    const double panel = 0.25 / sqrt((double)dims), t_end = fmin(0.5 * M_PI, 14.0 / sqrt((double)dims));
    double lower = 0.0, t_lower = 0.0;
    for (int i = 0; i < half; i++) {
        const double upper = i + 1 < half ? 0.5 * (centroid[i] + centroid[i + 1]) : 1.0;
        const double t_upper = i + 1 < half ? asin(upper) : t_end;
        const int n_panels = 1 + (int)((t_upper - t_lower) / panel);
        double mass = 0.0, moment = 0.0;
        for (int p = 0; p < n_panels; p++)
            integrate_panel(&mass, &moment, t_lower + (t_upper - t_lower) * p / n_panels,
                            t_lower + (t_upper - t_lower) * (p + 1) / n_panels, dims);
        cells[i] = (cell){.mass = mass, .mean = moment / mass, .lower = lower, .upper = upper};
        lower = upper;
        t_lower = t_upper;
    }
}

/* Levels at equal steps of the integral of p^(1/3), the optimal point density for many levels: the same family of laws,
 * with exponent e/3. */
static void start_levels(double *centroid, int half, int dims)
{
    enum { GRID = 4096 };
    const double e = (dims - 3) / 6.0;
    double total = 0.0, at = 0.0;
    int next = 0;
    for (int i = 0; i < GRID; i++) total += density((i + 0.5) / GRID, e);
    for (int i = 0; i < GRID && next < half; i++) {
        at += density((i + 0.5) / GRID, e);
        for (; next < half && at >= total * (next + 0.5) / half; next++)
            centroid[next] = (i + (double)(next + 1) / (half + 1)) / GRID;
    }
}

/* Solves the tridiagonal Newton system (J - I) step = mean - centroid in place (Thomas); true when it is solvable. */
static bool newton_step(double *step, const cell *cells, const double *centroid, int half, int dims)
{
    const double e = 0.5 * (dims - 3);
    double above[MAX_HALF]; /* eliminated upper diagonal */
    for (int i = 0; i < half; i++) {
        /* d mean / d boundary, half of which each neighbouring centroid moves. */
        const double at_lower =
            i > 0 ? 0.5 * density(cells[i].lower, e) * (cells[i].mean - cells[i].lower) / cells[i].mass : 0.0;
        const double at_upper =
            i + 1 < half ? 0.5 * density(cells[i].upper, e) * (cells[i].upper - cells[i].mean) / cells[i].mass : 0.0;
        const double diagonal = 1.0 - at_lower - at_upper;
        const double pivot = diagonal - (i > 0 ? at_lower * above[i - 1] : 0.0);
        if (!(fabs(pivot) > 1e-300)) return false;
        above[i] = at_upper / pivot;
        step[i] = (cells[i].mean - centroid[i] + (i > 0 ? at_lower * step[i - 1] : 0.0)) / pivot;
    }
    for (int i = half - 2; i >= 0; i--) step[i] += above[i] * step[i + 1];
    return true;
}

/* Every centroid is its cell's mean; false, too, where one is not a number. */
static bool is_fixed_point(const cell *cells, const double *centroid, int half)
{
    static const double TOLERANCE = 1e-13;
    for (int i = 0; i < half; i++)
        if (!(fabs(cells[i].mean - centroid[i]) < TOLERANCE)) return false;
    return true;
}

rb_status sphere_upper_half(double *centroid, int half, int dims, rb_error *err)
{
    enum { MAX_STEPS = 20 }; /* 4 are the most that any size up to 4096 dims takes */
    cell cells[MAX_HALF];
    double step[MAX_HALF];
    start_levels(centroid, half, dims);
    for (int i = 0; i < MAX_STEPS; i++) {
        measure_cells(cells, centroid, half, dims);
        if (is_fixed_point(cells, centroid, half)) return RB_OK;
        if (!newton_step(step, cells, centroid, half, dims)) break;
        for (int j = 0; j < half; j++) centroid[j] += step[j];
    }
    return rb_fail(err, RB_EINVAL, "sphere codebook of %d levels for %d dims: Newton's method did not converge",
                   2 * half, dims);
}
