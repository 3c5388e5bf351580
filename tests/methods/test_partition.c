/* methods/partition.h against every partition there is, on heads of few blocks. */
#include "tests/test_support.h"

#include "core/threads.h"
#include "kernels/reference/numpy_random.h"
#include "methods/partition.h"

enum { MAX_BLOCKS = 6, MAX_POINTS = 256, N_KINDS = PARTITION_N_WIDTHS };

static rb_error err;

/* ---- heads made up --------------------------------------------------------------------------- */

typedef struct head {
    int n;
    double a[MAX_BLOCKS], b[MAX_BLOCKS];
    double c[N_KINDS * (MAX_BLOCKS + 1)];
    group_distortion distortion;
} head;

/* Lloyd-Max errors of the normal law, a little less in groups of few dims, as on the sphere; `noise` disturbs each. */
static void make_head(head *h, int n, double spread, double noise, bool equalized, uint64_t seed)
{
    static const double normal_error[N_KINDS] = {1.0,      0.3634,    0.1175,    0.03454,  0.009497,
                                                 0.002499, 0.0006442, 0.0001639, 0.0000413};
    double draws[2 * MAX_BLOCKS + N_KINDS * (MAX_BLOCKS + 1)], *disturb = draws + 2 * MAX_BLOCKS;
    numpy_rng rng;
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, draws, RB_COUNT(draws));
    h->n = n;
    for (int i = 0; i < n; i++) {
        h->a[i] = exp(spread * draws[i]);
        h->b[i] = exp(spread * draws[MAX_BLOCKS + i]);
        if (equalized) h->a[i] = h->b[i] = sqrt(h->a[i] * h->b[i]);
    }
    for (int w = 0; w < N_KINDS; w++)
        for (int m = 0; m <= n; m++)
            h->c[w * (n + 1) + m] =
                m == 0 ? NAN : normal_error[w] * (1.0 - 0.4 / (2 * m)) * exp(noise * disturb[w * (MAX_BLOCKS + 1) + m]);
    h->distortion = (group_distortion){n, h->c};
}

static void sort_blocks(head *h)
{
    for (int i = 0; i < h->n; i++)
        for (int j = i + 1; j < h->n; j++)
            if (h->a[j] * h->b[j] > h->a[i] * h->b[i]) {
                const double a = h->a[i], b = h->b[i];
                h->a[i] = h->a[j];
                h->b[i] = h->b[j];
                h->a[j] = a;
                h->b[j] = b;
            }
}

/* ---- every partition ------------------------------------------------------------------------- */

typedef struct every {
    const head *h;
    const partition_options *options;
    bool contiguous;
    int group_of[MAX_BLOCKS]; /* -1: no bits */
    double *least;            /* [MAX_POINTS] by stored bytes */
} every;

static void every_width(const every *e, int n_groups, int group, int code_bits, int norm_bits, double error)
{
    if (group == n_groups) {
        const int point = (code_bits + 7) / 8 + norm_bits / 8;
        if (point < MAX_POINTS && error < e->least[point]) e->least[point] = error;
        return;
    }
    double a = 0.0, b = 0.0;
    int m = 0;
    for (int i = 0; i < e->h->n; i++)
        if (e->group_of[i] == group) {
            a += e->h->a[i];
            b += e->h->b[i];
            m++;
        }
    for (int w = 1; w < N_KINDS; w++)
        if (e->options->widths >> w & 1)
            every_width(e, n_groups, group + 1, code_bits + 2 * m * w, norm_bits + e->options->norm_bits,
                        error + e->h->c[w * (e->h->n + 1) + m] * a * b / (2 * m));
}

static void every_group(every *e, int block, int n_groups, double error)
{
    if (block == e->h->n) {
        every_width(e, n_groups, 0, 0, 0, error);
        return;
    }
    if (e->options->widths & 1) {
        e->group_of[block] = -1;
        every_group(e, block + 1, n_groups, error + e->h->a[block] * e->h->b[block] / 2);
    }
    const int first = !e->contiguous ? 0 : block > 0 && e->group_of[block - 1] >= 0 ? e->group_of[block - 1] : n_groups;
    for (int g = first; g <= n_groups; g++) {
        if (g == n_groups && e->options->max_groups > 0 && n_groups == e->options->max_groups) break;
        e->group_of[block] = g;
        every_group(e, block + 1, n_groups + (g == n_groups), error);
    }
}

/* least [MAX_POINTS]: the best of all partitions within so many bytes. */
static void try_every_partition(double *least, const head *h, const partition_options *options, bool contiguous)
{
    every e = {.h = h, .options = options, .contiguous = contiguous, .least = least};
    for (int p = 0; p < MAX_POINTS; p++) least[p] = INFINITY;
    every_group(&e, 0, 0, 0.0);
    for (int p = 1; p < MAX_POINTS; p++) least[p] = fmin(least[p], least[p - 1]);
}

/* ---- the program against them ---------------------------------------------------------------- */

static void build(partition_curve *curve, const head *h, const partition_options *options)
{
    assert_ok(partition_curves_build(curve, 1, h->n, h->a, h->b, NULL, &h->distortion, 1, options, &err));
}

/* Every block once, groups as the header says, and what the options allow. */
static void assert_partition_is_sound(const block_partition *p, int n, const partition_options *options)
{
    bool seen[MAX_BLOCKS] = {false};
    int n_coded = 0;
    assert_int_equal(p->n_blocks, n);
    assert_int_equal(p->first[0], 0);
    assert_int_equal(p->first[p->n_groups], n);
    for (int g = 0; g < p->n_groups; g++) {
        assert_true(options->widths >> p->width[g] & 1);
        assert_true(p->first[g] < p->first[g + 1]);
        if (p->width[g] == 0) assert_int_equal(g, p->n_groups - 1);
        n_coded += p->width[g] > 0;
        for (int i = p->first[g]; i < p->first[g + 1]; i++) {
            assert_in_range(p->blocks[i], 0, n - 1);
            assert_false(seen[p->blocks[i]]);
            seen[p->blocks[i]] = true;
            if (i > p->first[g]) assert_true(p->blocks[i] > p->blocks[i - 1]);
        }
    }
    if (options->max_groups > 0) assert_in_range(n_coded, 0, options->max_groups);
}

static bool close_to(double a, double b) { return a == b || fabs(a - b) <= 1e-12 * fabs(b); }

/* Returns how many points were compared. */
static int assert_curve_is_the_best(const head *h, const partition_options *options)
{
    double least[MAX_POINTS];
    partition_curve curve;
    block_partition partition;
    build(&curve, h, options);
    try_every_partition(least, h, options, true);
    for (int p = 0; p < curve.n_points; p++) {
        if (!close_to(curve.error[p], least[p]))
            fail_msg("%d blocks, widths 0x%x, norm %d, at most %d groups, %d bytes: %.17g, expected %.17g", h->n,
                     options->widths, options->norm_bits, options->max_groups, p, curve.error[p], least[p]);
        if (curve.error[p] == INFINITY) continue;
        partition_curve_at(&curve, p, &partition);
        assert_partition_is_sound(&partition, h->n, options);
        assert_in_range(partition_stored_bits(&partition, options->norm_bits), 0, 8 * p);
        assert_true(close_to(partition_error(&partition, h->a, h->b, NULL, &h->distortion), curve.error[p]));
    }
    const int n_points = curve.n_points;
    partition_curve_free(&curve);
    return n_points;
}

static void a_curve_is_the_best_contiguous_partition_at_every_budget(void **state)
{
    (void)state;
    static const unsigned width_sets[] = {0x1ff, 0x1fe, 0x114, 0x115,
                                          0x008, 0x02b}; /* 0..8; 1..8; {2,4,8} without and with 0; {3}; {0,1,3,5} */
    static const int norms[] = {16, 8, 0};
    int n_points = 0;
    for (int n = 1; n <= MAX_BLOCKS; n++)
        for (size_t set = 0; set < RB_COUNT(width_sets); set++)
            for (size_t norm = 0; norm < RB_COUNT(norms); norm++)
                for (int groups = 0; groups <= 3; groups++) {
                    head h;
                    const partition_options options = {
                        .widths = width_sets[set], .norm_bits = norms[norm], .max_groups = groups};
                    make_head(&h, n, 1.2, 0.3, false, (uint64_t)(n * 1000 + groups));
                    sort_blocks(&h);
                    n_points += assert_curve_is_the_best(&h, &options);
                }
    assert_true(n_points > 2000);
}

/* Blocks as a head has them, in any order: the same curve, and partitions that name the blocks as given. */
static void the_order_of_blocks_does_not_matter(void **state)
{
    (void)state;
    const partition_options options = partition_options_default();
    head given, sorted;
    partition_curve a, b;
    make_head(&given, MAX_BLOCKS, 1.2, 0.0, false, 3);
    sorted = given;
    sorted.distortion.c = sorted.c;
    sort_blocks(&sorted);
    build(&a, &given, &options);
    build(&b, &sorted, &options);
    assert_memory_equal(a.error, b.error, (size_t)a.n_points * sizeof *a.error);
    for (int p = 0; p < a.n_points; p++) {
        block_partition partition;
        partition_curve_at(&a, p, &partition);
        assert_partition_is_sound(&partition, given.n, &options);
        assert_true(close_to(partition_error(&partition, given.a, given.b, NULL, &given.distortion), a.error[p]));
    }
    partition_curve_free(&a);
    partition_curve_free(&b);
}

/* ---- how good the order is ------------------------------------------------------------------- */

typedef struct order_loss {
    int n_points, n_beaten;
    double mean_ratio, worst_ratio; /* sqrt(V) of the best contiguous partition to that of any */
} order_loss;

/* 20 heads of 5 and 6 blocks whose energies spread e to a normal of deviation `spread`, at every budget to 8 bits. */
static order_loss against_any_partition(double spread, bool equalized, unsigned widths)
{
    const partition_options options = {.widths = widths, .norm_bits = 16};
    order_loss loss = {.worst_ratio = 1.0};
    for (int trial = 0; trial < 20; trial++) {
        head h;
        double in_order[MAX_POINTS], any[MAX_POINTS];
        make_head(&h, trial % 2 ? 5 : MAX_BLOCKS, spread, 0.0, equalized, (uint64_t)(900 + trial));
        sort_blocks(&h);
        try_every_partition(in_order, &h, &options, true);
        try_every_partition(any, &h, &options, false);
        for (int p = 0; p < 2 * h.n + 3; p++) {
            if (any[p] == INFINITY) continue;
            const double ratio = sqrt(in_order[p] / any[p]);
            assert_true(in_order[p] >= any[p]);
            loss.n_points++;
            loss.n_beaten += ratio > 1.0 + 1e-12;
            loss.mean_ratio += ratio;
            loss.worst_ratio = fmax(loss.worst_ratio, ratio);
        }
    }
    loss.mean_ratio /= loss.n_points;
    if (getenv("RB_TEST_REPORT"))
        printf("spread %.1f, %s, widths 0x%x: beaten at %d of %d budgets, MAE ratio %.5f, worst %.4f\n", spread,
               equalized ? "equalized" : "as is", widths, loss.n_beaten, loss.n_points, loss.mean_ratio,
               loss.worst_ratio);
    return loss;
}

/* It is not the optimum of all partitions: a norm or a width that the budget does not allow makes mixed groups pay. But
 * it is close, and at most budgets it is the optimum. */
static void equalized_blocks_lose_little_by_contiguous_groups(void **state)
{
    (void)state;
    static const double spreads[] = {0.5, 1.0, 2.0};
    for (size_t s = 0; s < RB_COUNT(spreads); s++) {
        const order_loss all = against_any_partition(spreads[s], true, 0x1ff),
                         few = against_any_partition(spreads[s], true, 0x115);
        assert_true(all.n_beaten <= all.n_points / 50 && all.mean_ratio < 1.0005 && all.worst_ratio < 1.03);
        assert_true(few.n_beaten <= few.n_points / 8 && few.mean_ratio < 1.002 && few.worst_ratio < 1.03);
    }
}

/* As they are, blocks of like product can have unlike a / b, and a group pays for that. */
static void equalizing_is_what_makes_the_order_good(void **state)
{
    (void)state;
    const order_loss as_is = against_any_partition(2.0, false, 0x115),
                     equalized = against_any_partition(2.0, true, 0x115);
    assert_true(as_is.mean_ratio < 1.06 && as_is.worst_ratio < 2.1);
    assert_true(as_is.mean_ratio - 1.0 > 5.0 * (equalized.mean_ratio - 1.0));
}

/* ---- heads of real size ---------------------------------------------------------------------- */

enum { MANY = 40, MANY_UNITS = 8 * MANY + 4 };

typedef struct many_blocks {
    double a[MANY], b[MANY], c[N_KINDS * (MANY + 1)];
} many_blocks;

static void make_many(many_blocks *h, uint64_t seed)
{
    numpy_rng rng;
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, h->a, MANY);
    numpy_rng_standard_normal(&rng, h->b, MANY);
    for (int i = 0; i < MANY; i++) {
        h->a[i] = exp(h->a[i] - 0.05 * i);
        h->b[i] = exp(h->b[i]);
    }
    for (int w = 0; w < N_KINDS; w++)
        for (int m = 0; m <= MANY; m++) h->c[w * (MANY + 1) + m] = pow(4.0, -w) * (2.0 - 1.0 / (m + 1));
}

/* The recurrence as it is written, without vectors, chunks or shared layers; 2-bit units, norms of 8 bits. */
static void plain_recurrence(double *least, const double *a, const double *b, const double *c, int max_groups)
{
    static double f[4][MANY + 1][MANY_UNITS + 1];
    for (int g = 0; g <= max_groups; g++)
        for (int i = 0; i <= MANY; i++)
            for (int u = 0; u <= MANY_UNITS; u++) {
                double best = i == 0 ? 0.0 : f[g][i - 1][u] + 0.5 * a[i - 1] * b[i - 1], a_sum = 0.0, b_sum = 0.0;
                for (int j = i - 1; g > 0 && j >= 0; j--) {
                    a_sum += a[j];
                    b_sum += b[j];
                    for (int w = 1; w < N_KINDS; w++) {
                        const int m = i - j, cost = m * w + 4;
                        if (cost <= u)
                            best = fmin(best, f[g - 1][j][u - cost] + c[w * (MANY + 1) + m] * a_sum * b_sum / (2 * m));
                    }
                }
                f[g][i][u] = best;
            }
    memcpy(least, f[max_groups][MANY], sizeof f[0][0]);
}

static void many_blocks_follow_the_recurrence(void **state)
{
    (void)state;
    const partition_options options = {.widths = 0x1ff, .norm_bits = 8, .max_groups = 3};
    static many_blocks h;
    double a[MANY], b[MANY], least[MANY_UNITS + 1];
    partition_curve curve;
    make_many(&h, 17);
    const group_distortion distortion = {MANY, h.c};
    assert_ok(partition_curves_build(&curve, 1, MANY, h.a, h.b, NULL, &distortion, 1, &options, &err));
    for (int i = 0; i < MANY; i++) {
        a[i] = h.a[curve.order[i]];
        b[i] = h.b[curve.order[i]];
        if (i > 0) assert_true(a[i] * b[i] <= a[i - 1] * b[i - 1]);
    }
    plain_recurrence(least, a, b, h.c, options.max_groups);
    assert_int_equal(curve.n_points, (16 * MANY + 8) / 8 + 1);
    for (int p = 0; p < curve.n_points; p++) assert_true(close_to(curve.error[p], least[4 * p]));
    partition_curve_free(&curve);
}

static void assert_same_curves(const partition_curve *x, const partition_curve *y, int n_heads, int n_points)
{
    for (int h = 0; h < n_heads; h++) {
        assert_memory_equal(x[h].error, y[h].error, (size_t)n_points * sizeof *x[h].error);
        assert_memory_equal(x[h].choices, y[h].choices, (size_t)n_points * x[h].n_blocks);
        assert_memory_equal(x[h].order, y[h].order, x[h].n_blocks * sizeof *x[h].order);
    }
}

static void curves_do_not_depend_on_threads_or_on_where_they_are_cut(void **state)
{
    (void)state;
    enum { N_HEADS = 5, CUT = 60 };
    static many_blocks h[N_HEADS];
    double q[N_HEADS * MANY], k[N_HEADS * MANY];
    group_distortion distortion[N_HEADS];
    partition_curve one[N_HEADS], three[N_HEADS], cut[N_HEADS];
    partition_options options = partition_options_default();
    for (int i = 0; i < N_HEADS; i++) {
        make_many(&h[i], (uint64_t)(30 + i));
        memcpy(q + i * MANY, h[i].a, sizeof h[i].a);
        memcpy(k + i * MANY, h[i].b, sizeof h[i].b);
        for (int c = 0; c < N_KINDS * (MANY + 1); c++) h[i].c[c] *= 1.0 + 0.1 * i;
        distortion[i] = (group_distortion){MANY, h[i].c};
    }
    rb_threads_init(1);
    assert_ok(partition_curves_build(one, N_HEADS, MANY, q, k, NULL, distortion, N_HEADS, &options, &err));
    rb_threads_init(3);
    assert_ok(partition_curves_build(three, N_HEADS, MANY, q, k, NULL, distortion, N_HEADS, &options, &err));
    options.max_bits = 8 * CUT + 7;
    assert_ok(partition_curves_build(cut, N_HEADS, MANY, q, k, NULL, distortion, N_HEADS, &options, &err));
    rb_threads_init(0);
    assert_int_equal(cut[0].n_points, CUT + 1);
    assert_same_curves(one, three, N_HEADS, one[0].n_points);
    assert_same_curves(one, cut, N_HEADS, cut[0].n_points);
    for (int i = 0; i < N_HEADS; i++) {
        partition_curve_free(&one[i]);
        partition_curve_free(&three[i]);
        partition_curve_free(&cut[i]);
    }
}

/* ---- hand counts and edges ------------------------------------------------------------------- */

/* Four like blocks at 3 bits a dim and one norm, 24 + 16 bits: one group; V = c[3] * 4 * 8 / 8. */
static void like_blocks_share_one_group(void **state)
{
    (void)state;
    double c[N_KINDS * 5];
    for (int w = 0; w < N_KINDS; w++)
        for (int m = 0; m < 5; m++) c[w * 5 + m] = pow(4.0, -w);
    const double a[] = {1, 1, 1, 1}, b[] = {2, 2, 2, 2};
    const partition_options options = partition_options_default();
    partition_curve curve;
    block_partition p;
    assert_ok(partition_curves_build(&curve, 1, 4, a, b, NULL, &(group_distortion){4, c}, 1, &options, &err));
    partition_curve_at(&curve, 5, &p);
    assert_int_equal(p.n_groups, 1);
    assert_int_equal(p.width[0], 3);
    assert_int_equal(partition_stored_bits(&p, 16), 40);
    assert_true(curve.error[5] == 4.0 / 64.0);
    assert_true(curve.error[0] == 4.0); /* nothing stored: 4 * 1 * 2 / 2 */
    partition_curve_free(&curve);
}

/* 6 + 2 bits of codes are a byte, and two norms; 6 + 12 are three, and two short norms. Width 0 has no norm. */
static void a_head_pads_its_codes_to_a_byte(void **state)
{
    (void)state;
    const block_partition p = {
        .n_blocks = 4, .n_groups = 3, .width = {3, 1, 0}, .first = {0, 1, 2, 4}, .blocks = {2, 0, 1, 3}};
    assert_int_equal(partition_stored_bits(&p, 16), 8 + 32);
    const block_partition q = {
        .n_blocks = 4, .n_groups = 2, .width = {3, 2}, .first = {0, 1, 4}, .blocks = {2, 0, 1, 3}};
    assert_int_equal(partition_stored_bits(&q, 8), 24 + 16);
}

/* The cheapest of equal partitions: nothing where that is allowed, else one group at the least width. */
static void a_head_without_energy_stores_as_little_as_it_may(void **state)
{
    (void)state;
    partition_options options = partition_options_default();
    head h;
    partition_curve curve;
    block_partition p;
    make_head(&h, 4, 1.0, 0.0, false, 5);
    memset(h.a, 0, sizeof h.a);
    build(&curve, &h, &options);
    partition_curve_at(&curve, curve.n_points - 1, &p);
    assert_true(curve.error[0] == 0.0);
    assert_int_equal(p.n_groups, 1);
    assert_int_equal(partition_stored_bits(&p, 16), 0);
    partition_curve_free(&curve);
    options.widths = 0x1fc;
    build(&curve, &h, &options);
    partition_curve_at(&curve, curve.n_points - 1, &p);
    assert_true(curve.error[3] == INFINITY && curve.error[4] == 0.0);
    assert_int_equal(p.n_groups, 1);
    assert_int_equal(p.width[0], 2);
    partition_curve_free(&curve);
}

static void bad_input_is_told(void **state)
{
    (void)state;
    head h;
    partition_curve curves[1];
    partition_options options = partition_options_default();
    make_head(&h, 4, 1.0, 0.0, false, 6);
#define BUILD() partition_curves_build(curves, 1, h.n, h.a, h.b, NULL, &h.distortion, 1, &options, &err)
    options.widths = 1;
    assert_fails(BUILD(), RB_EINVAL, "set of widths is 0x1, expected bits 0 to 8 with one above 0");
    options.widths = 0x200;
    assert_fails(BUILD(), RB_EINVAL, "set of widths is 0x200");
    options = partition_options_default();
    options.norm_bits = 12;
    assert_fails(BUILD(), RB_EINVAL, "a norm of 12 bits, expected whole bytes");
    options = partition_options_default();
    options.max_groups = -1;
    assert_fails(BUILD(), RB_EINVAL, "at most -1 groups");
    options = partition_options_default();
    options.max_bits = -8;
    assert_fails(BUILD(), RB_EINVAL, "a curve up to -8 bits");
    options = partition_options_default();
    h.distortion.max_blocks = 3;
    assert_fails(BUILD(), RB_EINVAL, "errors of groups up to 3 blocks, expected 4");
    h.distortion.max_blocks = 4;
    h.n = 0;
    assert_fails(BUILD(), RB_EINVAL, "0 blocks, expected 1 to 512");
    h.n = 4;
    h.c[2 * 5 + 3] = -0.5;
    assert_fails(BUILD(), RB_EINVAL, "relative error of width 2, 3 blocks is -0.5");
    h.c[2 * 5 + 3] = 0.1;
    h.b[2] = NAN;
    assert_fails(BUILD(), RB_ENONFINITE, "head 0: block 2: key energy is nan");
    assert_null(curves[0].error);
    h.b[2] = 1.0;
    h.a[0] = -1.0;
    assert_fails(BUILD(), RB_ENONFINITE, "head 0: block 0: query energy is -1");
    h.a[0] = 1e200;
    h.b[0] = 1e200;
    assert_fails(BUILD(), RB_ENONFINITE, "expected a product up to 1e300");
#undef BUILD
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_curve_is_the_best_contiguous_partition_at_every_budget),
        cmocka_unit_test(the_order_of_blocks_does_not_matter),
        cmocka_unit_test(equalized_blocks_lose_little_by_contiguous_groups),
        cmocka_unit_test(equalizing_is_what_makes_the_order_good),
        cmocka_unit_test(many_blocks_follow_the_recurrence),
        cmocka_unit_test(curves_do_not_depend_on_threads_or_on_where_they_are_cut),
        cmocka_unit_test(like_blocks_share_one_group),
        cmocka_unit_test(a_head_pads_its_codes_to_a_byte),
        cmocka_unit_test(a_head_without_energy_stores_as_little_as_it_may),
        cmocka_unit_test(bad_input_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
