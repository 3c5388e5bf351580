/* See trellis_codec.h. */
#include "kernels/reference/trellis_codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/tile_product.h"

enum { LANES = TRELLIS_LANES };

struct trellis_codec {
    plan_trellis plan; /* no basis, no weights; its widths are the codec's own */
    int n_coded;       /* coordinates that have bits */
    double *project;   /* [n_coded][n_dims]: y g = (x - c) . project_i */
    double *basis;     /* [n_coded][n_dims] */
    double *weights;   /* [n_coded] */
    double sum_weights;
    float *center; /* [n_dims], zeroes where the head has none */
};

/* ---- gains, stretches, codes ----------------------------------------------------------------- */

double trellis_gain(const plan_trellis *plan, int level)
{
    return (double)(float)exp2(0.5 * (level - plan->gain_zero));
}

double trellis_stretch(int width) { return 1.0 / (1.0 - trellis_errors[width]); }

int trellis_codes_gain(const plan_trellis *plan, const uint8_t *codes)
{
    return codes[plan->n_dims - 1] >> plan->widths[plan->n_dims - 1];
}

static int gain_near(const plan_trellis *plan, double level)
{
    return (int)fmin(fmax(floor(level + 0.5), 0.0), (double)((1 << plan->gain_bits) - 1));
}

static int code_of(const plan_trellis *plan, const uint8_t *codes, int i)
{
    return codes[i] & ((1 << plan->widths[i]) - 1);
}

static int next_state(int state, int code, int width) { return state >> width | code << (TRELLIS_STATE_BITS - width); }

/* ---- the inverse of a basis ------------------------------------------------------------------ */

/* Swaps the row with the largest pivot of this column up; returns whether there is one. */
static bool bring_pivot(double *left, double *right, int n, int column)
{
    int pivot = column;
    for (int row = column + 1; row < n; row++)
        if (fabs(left[row * n + column]) > fabs(left[pivot * n + column])) pivot = row;
    if (!(fabs(left[pivot * n + column]) > 0.0)) return false;
    for (int j = 0; j < n && pivot != column; j++) {
        const double l = left[column * n + j], r = right[column * n + j];
        left[column * n + j] = left[pivot * n + j];
        left[pivot * n + j] = l;
        right[column * n + j] = right[pivot * n + j];
        right[pivot * n + j] = r;
    }
    return true;
}

static void clear_column(double *left, double *right, int n, int column)
{
    const double pivot = 1.0 / left[column * n + column];
    for (int j = 0; j < n; j++) {
        left[column * n + j] *= pivot;
        right[column * n + j] *= pivot;
    }
    for (int row = 0; row < n; row++) {
        const double factor = left[row * n + column];
        if (row == column || factor == 0.0) continue;
        for (int j = 0; j < n; j++) {
            left[row * n + j] -= factor * left[column * n + j];
            right[row * n + j] -= factor * right[column * n + j];
        }
    }
}

/* Gauss and Jordan with pivots by column: a LAPACK differs in last bits from machine to machine, and codes with it. */
rb_status trellis_invert_basis(double *inverse, const plan_trellis *plan, rb_error *err)
{
    const int n = plan->n_dims;
    bool is_regular = true;
    double *left = NULL;
    const rb_status st = rb_alloc(&left, (size_t)n * (size_t)n, sizeof *left, "basis", err);
    if (st != RB_OK) return st;
    for (int i = 0; i < n * n; i++) {
        left[i] = (double)plan->basis[i];
        inverse[i] = i / n == i % n ? 1.0 : 0.0;
    }
    for (int column = 0; column < n && is_regular; column++) {
        is_regular = bring_pivot(left, inverse, n, column);
        if (is_regular) clear_column(left, inverse, n, column);
    }
    for (int i = 0; i < n * n && is_regular; i++) is_regular = isfinite(inverse[i]);
    free(left);
    return is_regular ? RB_OK : rb_fail(err, RB_EFORMAT, "basis of %d vectors cannot be inverted", n);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void trellis_codec_free(void *own)
{
    trellis_codec *codec = own;
    if (!codec) return;
    free(codec->plan.widths);
    free(codec->project);
    free(codec->basis);
    free(codec->weights);
    free(codec->center);
    free(codec);
}

static rb_status alloc_codec(trellis_codec *codec, rb_error *err)
{
    const size_t n = (size_t)codec->plan.n_dims, n_coded = (size_t)codec->n_coded;
    rb_status st;
    RB_TRY(st, rb_alloc(&codec->plan.widths, n, 1, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->project, n_coded * n, sizeof *codec->project, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->basis, n_coded * n, sizeof *codec->basis, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->weights, n_coded, sizeof *codec->weights, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->center, n, sizeof *codec->center, "codec", err), done);
done:
    return st;
}

static rb_status set_basis(trellis_codec *codec, const plan_trellis *plan, rb_error *err)
{
    const int n = plan->n_dims;
    double *inverse = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&inverse, (size_t)n * (size_t)n, sizeof *inverse, "basis", err), done);
    RB_TRY(st, trellis_invert_basis(inverse, plan, err), done);
    for (int i = 0; i < codec->n_coded; i++) {
        const double stretch = trellis_stretch(plan->widths[i]);
        for (int j = 0; j < n; j++) {
            codec->project[i * n + j] = inverse[j * n + i] * stretch;
            codec->basis[i * n + j] = (double)plan->basis[i * n + j];
        }
        codec->weights[i] = (double)plan->weights[i];
        codec->sum_weights += codec->weights[i];
    }
done:
    free(inverse);
    return st;
}

static void set_layout(code_layout *layout, const plan_trellis *plan)
{
    for (int i = 0; i < plan->n_dims; i++) {
        layout->permutation[i] = i;
        layout->widths[i] = plan->widths[i];
    }
    layout->widths[plan->n_dims - 1] = (uint8_t)(plan->widths[plan->n_dims - 1] + plan->gain_bits);
}

static rb_status trellis_codec_create(void **own, code_layout *layout, const plan_head *head, const model_facts *model,
                                      codec_tables *tables, rb_error *err)
{
    const plan_trellis *plan = &head->trellis;
    trellis_codec *codec = NULL;
    rb_status st;
    (void)tables;
    if (plan->n_dims != model->head_dim)
        return rb_fail(err, RB_EFORMAT, "trellis of %d dims, expected %d", plan->n_dims, model->head_dim);
    RB_TRY(st, rb_alloc(&codec, 1, sizeof *codec, "codec", err), done);
    codec->plan = (plan_trellis){.n_dims = plan->n_dims, .gain_bits = plan->gain_bits, .gain_zero = plan->gain_zero};
    codec->n_coded = plan_trellis_n_coded(plan);
    RB_TRY(st, alloc_codec(codec, err), done);
    memcpy(codec->plan.widths, plan->widths, (size_t)plan->n_dims);
    if (head->center) memcpy(codec->center, head->center, (size_t)plan->n_dims * sizeof *codec->center);
    RB_TRY(st, set_basis(codec, plan, err), done);
    set_layout(layout, plan);
    *own = codec;
    codec = NULL;
done:
    trellis_codec_free(codec);
    return st;
}

/* ---- encode ---------------------------------------------------------------------------------- */

/* Working memory of LANES vectors. */
typedef struct lane_memory {
    double *y;       /* [n_coded][LANES] */
    uint8_t *states; /* [n_coded][LANES] */
    void *search;
} lane_memory;

static size_t rounded_up(size_t n) { return (n + 63) / 64 * 64; }

static size_t trellis_work_size(const void *own)
{
    const trellis_codec *codec = own;
    const size_t n = (size_t)codec->n_coded * LANES,
                 to_encode = rounded_up(n * sizeof(double)) + rounded_up(n) + trellis_search_size(codec->n_coded),
                 to_decode = HEAD_CODEC_TILE * (size_t)(codec->n_coded + codec->plan.n_dims) * sizeof(double);
    return to_encode > to_decode ? to_encode : to_decode;
}

static lane_memory split_work(const trellis_codec *codec, void *work)
{
    const size_t n = (size_t)codec->n_coded * LANES;
    uint8_t *bytes = work;
    return (lane_memory){.y = work,
                         .states = bytes + rounded_up(n * sizeof(double)),
                         .search = bytes + rounded_up(n * sizeof(double)) + rounded_up(n)};
}

/* y [n_coded][LANES] of one lane. */
static void project(double *y, const trellis_codec *codec, const float *x)
{
    const int n = codec->plan.n_dims;
    for (int i = 0; i < codec->n_coded; i++) {
        const double *row = codec->project + (size_t)i * (size_t)n;
        double sum = 0.0;
        for (int j = 0; j < n; j++) sum += ((double)x[j] - (double)codec->center[j]) * row[j];
        y[(size_t)i * LANES] = sum;
    }
}

static double level_of(const trellis_codec *codec, const double *y)
{
    double square = 0.0;
    for (int i = 0; i < codec->n_coded; i++) square += codec->weights[i] * (y[i * LANES] * y[i * LANES]);
    return square > 0.0 ? log2(square / codec->sum_weights) + codec->plan.gain_zero : -INFINITY;
}

static void store_codes(uint8_t *codes, const trellis_codec *codec, const uint8_t *states, int level)
{
    const plan_trellis *plan = &codec->plan;
    const int last = plan->n_dims - 1;
    memset(codes, 0, (size_t)plan->n_dims);
    for (int i = 0; i < codec->n_coded; i++)
        codes[i] = (uint8_t)(states[i * LANES] >> (TRELLIS_STATE_BITS - plan->widths[i]));
    codes[last] = (uint8_t)(codes[last] | level << plan->widths[last]);
}

/* n <= LANES vectors; the lanes after them are searched as zeroes. */
static void encode_lanes(const trellis_codec *codec, const lane_memory *memory, const float *x, int n, uint8_t *codes)
{
    const int n_dims = codec->plan.n_dims;
    int levels[LANES];
    memset(memory->y, 0, (size_t)codec->n_coded * LANES * sizeof *memory->y);
    for (int v = 0; v < n; v++) {
        project(memory->y + v, codec, x + (size_t)v * (size_t)n_dims);
        levels[v] = gain_near(&codec->plan, level_of(codec, memory->y + v));
        const double gain = trellis_gain(&codec->plan, levels[v]);
        for (int i = 0; i < codec->n_coded; i++) memory->y[i * LANES + v] /= gain;
    }
    trellis_search(memory->states, memory->y, codec->weights, codec->plan.widths, codec->n_coded, trellis_tables,
                   memory->search);
    for (int v = 0; v < n; v++) store_codes(codes + (size_t)v * (size_t)n_dims, codec, memory->states + v, levels[v]);
}

static rb_status check_finite(const float *x, int n, int n_dims, int64_t first_vector, rb_error *err)
{
    for (int v = 0; v < n; v++)
        for (int j = 0; j < n_dims; j++)
            if (!isfinite(x[(int64_t)v * n_dims + j]))
                return rb_fail(err, RB_ENONFINITE, "vector %lld: dim %d is %g, expected a finite number",
                               (long long)(first_vector + v), j, (double)x[(int64_t)v * n_dims + j]);
    return RB_OK;
}

/* The family has no norms. */
static rb_status trellis_codec_encode(const void *own, void *work, const float *x, int n, uint8_t *codes,
                                      uint16_t *norms, int64_t first_vector, rb_error *err)
{
    const trellis_codec *codec = own;
    const int n_dims = codec->plan.n_dims;
    const lane_memory memory = split_work(codec, work);
    const rb_status st = check_finite(x, n, n_dims, first_vector, err);
    (void)norms;
    for (int v = 0; v < n && st == RB_OK; v += LANES)
        encode_lanes(codec, &memory, x + (int64_t)v * n_dims, n - v < LANES ? n - v : LANES,
                     codes + (int64_t)v * n_dims);
    return st;
}

/* ---- decode ---------------------------------------------------------------------------------- */

/* The numbers of a vector's coordinates, [n_coded]. */
static void read_numbers(double *numbers, const trellis_codec *codec, const uint8_t *codes)
{
    const uint8_t *widths = codec->plan.widths;
    int state = 0;
    for (int i = 0; i < codec->n_coded; i++) {
        state = next_state(state, code_of(&codec->plan, codes, i), widths[i]);
        numbers[i] = (double)trellis_tables[widths[i]][state];
    }
}

static void trellis_codec_decode(const void *own, void *work, const uint8_t *codes, const uint16_t *norms, int n,
                                 float *x_hat)
{
    const trellis_codec *codec = own;
    const int n_dims = codec->plan.n_dims;
    double *numbers = work, *sums = numbers + HEAD_CODEC_TILE * codec->n_coded;
    (void)norms;
    for (int v = 0; v < n; v++) read_numbers(numbers + v * codec->n_coded, codec, codes + v * n_dims);
    tile_product(sums, numbers, codec->basis, n, codec->n_coded, n_dims);
    for (int v = 0; v < n; v++) {
        const double gain = trellis_gain(&codec->plan, trellis_codes_gain(&codec->plan, codes + v * n_dims));
        for (int j = 0; j < n_dims; j++)
            x_hat[v * n_dims + j] = (float)((double)codec->center[j] + gain * sums[v * n_dims + j]);
    }
}

/* ---- for judges ------------------------------------------------------------------------------ */

double trellis_codec_level(const trellis_codec *codec, const float *x)
{
    double y[RB_MAX_HEAD_DIM * LANES];
    project(y, codec, x);
    return level_of(codec, y);
}

double trellis_codec_error(const trellis_codec *codec, const float *x, int level, const uint8_t *codes)
{
    const double gain = trellis_gain(&codec->plan, level);
    double y[RB_MAX_HEAD_DIM * LANES], error = 0.0;
    int state = 0;
    project(y, codec, x);
    for (int i = 0; i < codec->n_coded; i++) {
        state = next_state(state, code_of(&codec->plan, codes, i), codec->plan.widths[i]);
        const double off = y[i * LANES] / gain - (double)trellis_tables[codec->plan.widths[i]][state];
        error += codec->weights[i] * (off * off);
    }
    return error;
}

extern const head_codec_functions trellis_codec_functions;
const head_codec_functions trellis_codec_functions = {
    .create = trellis_codec_create,
    .free = trellis_codec_free,
    .work_size = trellis_work_size,
    .encode = trellis_codec_encode,
    .decode = trellis_codec_decode,
};
