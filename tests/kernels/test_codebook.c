/* Codebooks: against the reference fixture, against closed forms, and against what Lloyd-Max means, by integration that
 * shares nothing with the code under test (Simpson's rule in t, y = sin t). */
#include "tests/test_support.h"

#include "core/json.h"
#include "kernels/reference/codebook.h"

static codebook build(codebook_kind kind, int width, int dims)
{
    rb_error err = {0};
    codebook book;
    assert_ok(codebook_build(&book, kind, width, dims, &err));
    return book;
}

/* ---- the sphere's law, integrated ------------------------------------------------------------ */

typedef struct moments {
    double mass, mean, square; /* of p; of y p; of (y - center)^2 p, over a stretch; p not normalised */
} moments;

/* Over y in [from, to]. Simpson's error is h^4/180 times the fourth derivative of cos(t)^(m-2) sin(t)^2, at most 3 m^2
 * of it: 2e-13 relative at the step taken here and m = 32, the largest tested. */
static moments integrate(double from, double to, double center, int dims)
{
    const double a = asin(from), b = asin(to);
    const int n = 2 * (8 + (int)((b - a) * 2500.0));
    moments sum = {0};
    for (int i = 0; i <= n; i++) {
        const double t = a + (b - a) * i / n, y = sin(t);
        const double weight = (i == 0 || i == n ? 1.0
                               : i % 2          ? 4.0
                                                : 2.0)
                              * (b - a) / (3.0 * n) * pow(cos(t), dims - 2);
        sum.mass += weight;
        sum.mean += weight * y;
        sum.square += weight * (y - center) * (y - center);
    }
    return sum;
}

typedef struct quality {
    double residual; /* largest distance of a centroid from its cell's mean */
    double mse;      /* E (y - its centroid)^2 */
} quality;

static quality measure(const double *centroid, int size, int dims)
{
    quality out = {0};
    double mass = 0.0, lower = -1.0;
    for (int i = 0; i < size; i++) {
        /* block-gtq's normal law puts boundaries past the end of the sphere's */
        const double upper = i + 1 < size ? fmax(-1.0, fmin(1.0, 0.5 * (centroid[i] + centroid[i + 1]))) : 1.0;
        const moments cell = integrate(lower, upper, centroid[i], dims);
        out.residual = fmax(out.residual, cell.mass > 0.0 ? fabs(cell.mean / cell.mass - centroid[i]) : INFINITY);
        out.mse += cell.square;
        mass += cell.mass;
        lower = upper;
    }
    out.mse /= mass;
    return out;
}

/* ---- the fixture ----------------------------------------------------------------------------- */

/* fixture centroids "KIND/bWIDTH/dDIMS"; returns how many */
static int fixture_codebook(double *centroid, const char *kind, int width, int dims)
{
    static cJSON *fixture;
    rb_error err = {0};
    const cJSON *books = NULL, *values = NULL, *item;
    char key[64];
    int n = 0;
    if (!fixture) assert_ok(rb_json_read(&fixture, "tests/fixtures/rotations_codebooks.json", 0, &err));
    snprintf(key, sizeof key, "%s/b%d/d%d", kind, width, dims);
    assert_ok(rb_json_get_object(fixture, "codebooks", "fixture", &books, &err));
    assert_ok(rb_json_get_array(books, key, "fixture", &values, &err));
    assert_int_equal(cJSON_GetArraySize(values), 1 << width);
    cJSON_ArrayForEach (item, values) centroid[n++] = item->valuedouble;
    return n;
}

static void check_against_fixture(const codebook *book, const char *fixture_kind, double tolerance)
{
    double expected[CODEBOOK_MAX_SIZE];
    const int n = fixture_codebook(expected, fixture_kind, book->width, book->dims);
    for (int i = 0; i < n; i++)
        if (!(fabs(book->centroid[i] - expected[i]) <= tolerance))
            fail_msg("%s width %d dims %d: centroid %d is %.17g, expected %.17g", fixture_kind, book->width, book->dims,
                     i, book->centroid[i], expected[i]);
}

static const int sphere_fixture_dims[] = {2, 4, 8, 32};

static void block_gtq_equals_the_reference_fixture_at_every_width(void **state)
{
    (void)state;
    for (int width = 1; width <= CODEBOOK_MAX_WIDTH; width++) {
        const codebook book = build(CODEBOOK_BLOCK_GTQ, width, 128);
        check_against_fixture(&book, "block-gtq", 1e-11);
    }
}

static void sphere_equals_the_reference_fixture_where_that_converged(void **state)
{
    (void)state;
    for (size_t d = 0; d < RB_COUNT(sphere_fixture_dims); d++)
        for (int width = 1; width < CODEBOOK_MAX_WIDTH; width++) {
            const codebook book = build(CODEBOOK_SPHERE, width, sphere_fixture_dims[d]);
            check_against_fixture(&book, "sphere-lloyd-max", 1e-6);
        }
}

/* At 8 bits the fixture's Lloyd iteration was stopped early: centroids still move by up to 1e-6 a step, and the error
 * is up to 0.2 % larger. So the fixture is no yardstick there; being a fixed point is. */
static void sphere_is_nearer_to_the_fixed_point_than_the_fixture_at_8_bits(void **state)
{
    (void)state;
    for (size_t d = 0; d < RB_COUNT(sphere_fixture_dims); d++) {
        const int dims = sphere_fixture_dims[d];
        double fixture[CODEBOOK_MAX_SIZE];
        const int n = fixture_codebook(fixture, "sphere-lloyd-max", 8, dims);
        const codebook book = build(CODEBOOK_SPHERE, 8, dims);
        const quality ours = measure(book.centroid, n, dims), theirs = measure(fixture, n, dims);
        assert_true(ours.residual < 1e-11);
        assert_true(theirs.residual > 1e-7);
        assert_true(ours.mse < theirs.mse);
    }
}

/* ---- closed forms ---------------------------------------------------------------------------- */

/* m = 3: the coordinate is uniform (Archimedes), so levels are evenly spaced. */
static void sphere_in_three_dims_is_evenly_spaced(void **state)
{
    (void)state;
    for (int width = 1; width <= CODEBOOK_MAX_WIDTH; width++) {
        const codebook book = build(CODEBOOK_SPHERE, width, 3);
        for (int i = 0; i < book.size; i++)
            assert_true(fabs(book.centroid[i] - ((2.0 * i + 1.0) / book.size - 1.0)) < 1e-10);
    }
}

/* 1 bit: the centroid is E|y| = gamma(m/2) / (sqrt(pi) gamma((m+1)/2)). */
static void sphere_at_one_bit_is_the_mean_absolute_coordinate(void **state)
{
    (void)state;
    for (int dims = 2; dims <= 1024; dims = dims < 10 ? dims + 1 : dims * 2) {
        const codebook book = build(CODEBOOK_SPHERE, 1, dims);
        const double expected = exp(lgamma(0.5 * dims) - lgamma(0.5 * (dims + 1))) / sqrt(M_PI);
        assert_true(fabs(book.centroid[1] - expected) <= 1e-12);
    }
}

static void block_gtq_has_the_published_constants_at_one_and_two_bits(void **state)
{
    (void)state;
    for (int dims = 2; dims <= 130; dims += 16) {
        const codebook one = build(CODEBOOK_BLOCK_GTQ, 1, dims), two = build(CODEBOOK_BLOCK_GTQ, 2, dims);
        assert_true(fabs(one.centroid[1] - sqrt(2.0 / (M_PI * dims))) <= 1e-16);
        assert_true(fabs(two.centroid[2] - 0.453 / sqrt(dims)) <= 1e-16);
        assert_true(fabs(two.centroid[3] - 1.51 / sqrt(dims)) <= 1e-15);
    }
}

/* Every codebook of N(0, 1/m) is one of N(0, 1) scaled. */
static void block_gtq_scales_with_the_square_root_of_dims(void **state)
{
    (void)state;
    for (int width = 1; width <= CODEBOOK_MAX_WIDTH; width++) {
        const codebook wide = build(CODEBOOK_BLOCK_GTQ, width, 128), narrow = build(CODEBOOK_BLOCK_GTQ, width, 2);
        for (int i = 0; i < wide.size; i++) assert_true(fabs(narrow.centroid[i] - 8.0 * wide.centroid[i]) <= 1e-15);
    }
}

/* ---- what Lloyd-Max means -------------------------------------------------------------------- */

static void sphere_centroids_are_the_means_of_their_cells(void **state)
{
    (void)state;
    static const int tested[] = {2, 3, 4, 5, 6, 10, 32};
    for (size_t d = 0; d < RB_COUNT(tested); d++)
        for (int width = 1; width <= CODEBOOK_MAX_WIDTH; width++) {
            const codebook book = build(CODEBOOK_SPHERE, width, tested[d]);
            const double residual = measure(book.centroid, book.size, tested[d]).residual;
            if (!(residual < 1e-11)) fail_msg("width %d dims %d: residual is %g", width, tested[d], residual);
        }
}

/* The sphere's law is the true one of the two. Before norm correction 41 % less error at m = 4 and 4 bits (a third
 * less behind it). */
static void sphere_has_less_error_than_block_gtq_in_four_dims(void **state)
{
    (void)state;
    const codebook sphere = build(CODEBOOK_SPHERE, 4, 4), published = build(CODEBOOK_BLOCK_GTQ, 4, 4);
    const double ratio = measure(sphere.centroid, 16, 4).mse / measure(published.centroid, 16, 4).mse;
    assert_true(ratio > 0.58 && ratio < 0.59);
}

/* ---- form ------------------------------------------------------------------------------------ */

static void check_form(const codebook *book)
{
    const int size = book->size;
    assert_int_equal(size, 1 << book->width);
    for (int i = 0; i < size; i++) {
        assert_true(book->centroid[i] == -book->centroid[size - 1 - i]);
        assert_true(book->centroid_f32[i] == (float)book->centroid[i]);
        if (i + 1 == size) break;
        assert_true(book->centroid[i] < book->centroid[i + 1]);
        assert_true(book->centroid_f32[i] < book->centroid_f32[i + 1]);
        assert_true(book->boundary[i] == 0.5 * ((double)book->centroid_f32[i] + (double)book->centroid_f32[i + 1]));
    }
    assert_true(book->boundary[size / 2 - 1] == 0.0);
    if (book->kind == CODEBOOK_SPHERE) assert_true(book->centroid[size - 1] < 1.0);
}

static void codebooks_ascend_and_mirror_for_every_width_and_dims(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEBOOK_N_KINDS; kind++)
        for (int width = 1; width <= CODEBOOK_MAX_WIDTH; width++)
            for (int dims = 2; dims <= 1024; dims = dims == 130 ? 1024 : dims + 1) {
                const codebook book = build((codebook_kind)kind, width, dims);
                assert_int_equal(book.kind, kind);
                assert_int_equal(book.width, width);
                assert_int_equal(book.dims, dims);
                check_form(&book);
            }
}

/* ---- search ---------------------------------------------------------------------------------- */

static int count_below(const codebook *book, double y)
{
    int n = 0;
    for (int i = 0; i + 1 < book->size; i++) n += book->boundary[i] < y;
    return n;
}

static void code_is_the_number_of_boundaries_below(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEBOOK_N_KINDS; kind++)
        for (int width = 1; width <= CODEBOOK_MAX_WIDTH; width++) {
            const codebook book = build((codebook_kind)kind, width, 6);
            for (int i = -1200; i <= 1200; i++)
                assert_int_equal(codebook_code(&book, i * 1e-3), count_below(&book, i * 1e-3));
            for (int b = 0; b + 1 < book.size; b++) { /* on a boundary, one double above, one below */
                assert_int_equal(codebook_code(&book, book.boundary[b]), b);
                assert_int_equal(codebook_code(&book, nextafter(book.boundary[b], 2.0)), b + 1);
                assert_int_equal(codebook_code(&book, nextafter(book.boundary[b], -2.0)), b);
            }
            assert_int_equal(codebook_code(&book, -INFINITY), 0);
            assert_int_equal(codebook_code(&book, INFINITY), book.size - 1);
            assert_int_equal(codebook_code(&book, -0.0), book.size / 2 - 1);
            for (int c = 0; c < book.size; c++) assert_int_equal(codebook_code(&book, (double)book.centroid_f32[c]), c);
        }
}

/* ---- names and refusals ---------------------------------------------------------------------- */

static void codebook_kinds_have_names(void **state)
{
    (void)state;
    codebook_kind kind = CODEBOOK_N_KINDS;
    assert_string_equal(codebook_kind_name(CODEBOOK_BLOCK_GTQ), "block-gtq");
    assert_string_equal(codebook_kind_name(CODEBOOK_SPHERE), "sphere");
    assert_true(codebook_kind_from_name("sphere", &kind));
    assert_int_equal(kind, CODEBOOK_SPHERE);
    assert_true(codebook_kind_from_name("block-gtq", &kind));
    assert_int_equal(kind, CODEBOOK_BLOCK_GTQ);
    assert_false(codebook_kind_from_name("gaussian", &kind));
}

static void codebook_refuses_widths_dims_and_kinds_out_of_range(void **state)
{
    (void)state;
    rb_error err = {0};
    codebook book;
    assert_fails(codebook_build(&book, CODEBOOK_SPHERE, 0, 8, &err), RB_EINVAL, "codebook width is 0, expected 1 to 8");
    assert_fails(codebook_build(&book, CODEBOOK_BLOCK_GTQ, 9, 8, &err), RB_EINVAL,
                 "codebook width is 9, expected 1 to 8");
    assert_fails(codebook_build(&book, CODEBOOK_SPHERE, 3, 1, &err), RB_EINVAL, "codebook for 1 dims");
    assert_fails(codebook_build(&book, CODEBOOK_SPHERE, 3, 1 << 20, &err), RB_EINVAL, "codebook for 1048576 dims");
    assert_fails(codebook_build(&book, CODEBOOK_N_KINDS, 3, 8, &err), RB_EINVAL, "codebook kind is 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_gtq_equals_the_reference_fixture_at_every_width),
        cmocka_unit_test(sphere_equals_the_reference_fixture_where_that_converged),
        cmocka_unit_test(sphere_is_nearer_to_the_fixed_point_than_the_fixture_at_8_bits),
        cmocka_unit_test(sphere_in_three_dims_is_evenly_spaced),
        cmocka_unit_test(sphere_at_one_bit_is_the_mean_absolute_coordinate),
        cmocka_unit_test(block_gtq_has_the_published_constants_at_one_and_two_bits),
        cmocka_unit_test(block_gtq_scales_with_the_square_root_of_dims),
        cmocka_unit_test(sphere_centroids_are_the_means_of_their_cells),
        cmocka_unit_test(sphere_has_less_error_than_block_gtq_in_four_dims),
        cmocka_unit_test(codebooks_ascend_and_mirror_for_every_width_and_dims),
        cmocka_unit_test(code_is_the_number_of_boundaries_below),
        cmocka_unit_test(codebook_kinds_have_names),
        cmocka_unit_test(codebook_refuses_widths_dims_and_kinds_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
