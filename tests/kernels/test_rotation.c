/* Rotations: against numpy's, and against what they are (orthogonal; haar: determinant 1, random; hadamard: products of
 * sign and Hadamard matrices). */
#include "tests/test_support.h"

#include "core/json.h"
#include "kernels/reference/rotation.h"

enum { MAX_TESTED = 130 };

static double matrix[MAX_TESTED * MAX_TESTED];

static void build_kind(rotation_kind kind, uint64_t seed, int m)
{
    rb_error err = {0};
    for (int i = 0; i < m * m; i++) matrix[i] = NAN;
    assert_ok(rotation_build(matrix, &(rotation_spec){.kind = kind, .seed = seed, .dims = m}, &err));
}

static void build(uint64_t seed, int m) { build_kind(ROTATION_HAAR, seed, m); }

/* ---- numpy's --------------------------------------------------------------------------------- */

/* The fixture holds f32 values: half a unit of f32 below 1 is 2^-25. Blocks of one row are the matrix's first. */
static void check_fixture_rotation(const cJSON *rows, int m, uint64_t seed)
{
    const double tolerance = 0x1p-25 + 1e-12;
    const cJSON *row, *item;
    int i = 0;
    build(seed, m);
    assert_int_equal(cJSON_GetArraySize(rows), m <= 16 ? m : 1);
    cJSON_ArrayForEach (row, rows) {
        int j = 0;
        assert_int_equal(cJSON_GetArraySize(row), m);
        cJSON_ArrayForEach (item, row) {
            if (!(fabs(matrix[i * m + j] - item->valuedouble) <= tolerance))
                fail_msg("d%d seed %llu: [%d][%d] is %.17g, expected %.17g", m, (unsigned long long)seed, i, j,
                         matrix[i * m + j], item->valuedouble);
            j++;
        }
        i++;
    }
}

static void haar_equals_the_reference_fixture(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *fixture = NULL;
    const cJSON *rotations = NULL, *rows;
    int n = 0;
    assert_ok(rb_json_read(&fixture, "tests/fixtures/rotations_codebooks.json", 0, &err));
    assert_ok(rb_json_get_object(fixture, "rotations", "fixture", &rotations, &err));
    cJSON_ArrayForEach (rows, rotations) {
        int m = 0;
        unsigned long long seed = 0;
        assert_int_equal(sscanf(rows->string, "d%d/seed%llu", &m, &seed), 2);
        check_fixture_rotation(rows, m, seed);
        n++;
    }
    assert_int_equal(n, 27);
    cJSON_Delete(fixture);
}

/* All digits, odd sizes, a seed of two words; the third has its first column negated by the determinant, the others
 * not. By python3:
 *   g = numpy.random.default_rng(seed).standard_normal((m, m))
 *   q, r = numpy.linalg.qr(g)
 *   q *= numpy.sign(numpy.diag(r))
 *   if numpy.linalg.det(q) < 0: q[:, 0] *= -1 */
typedef struct exact_case {
    uint64_t seed;
    int m;
    double expected[25];
} exact_case;

static const exact_case exact_cases[] = {
    {42U,
     3,
     {0.3056572521325831, -0.94407777705807627, -0.12365595450215668, 0.94346672952066446, 0.31779849724785059,
      -0.094205336550480384, 0.12823484123411946, -0.087870734673660814, 0.98784338813476469}},
    {4294967303U,
     3,
     {0.14647781351832068, -0.96878230879018734, 0.2000127204005944, -0.28804942201384798, 0.15165963157515841,
      0.94552995014857966, -0.94634654362151083, -0.19611270822065932, -0.25684241287213133}},
    {1003U,
     5,
     {0.30922316689388585,  0.054995059939920973,  -0.41627654363338634, -0.61533902699609,   0.59112460405101275,
      -0.44997924262245659, 0.72343071643125589,   0.2185297148877394,   0.13031945627264654, 0.45763334970319319,
      -0.13027105184957868, -0.22733921558736531,  -0.61860505227863527, 0.65851700226049659, 0.33915996393342496,
      0.64581970690890222,  -0.084277836105149537, 0.5158916785737524,   0.36854609768156288, 0.41694568275925475,
      0.51753847536501085,  0.64407893095762669,   -0.36075222550308411, 0.18682572839373068, -0.39021819052687018}},
};

static void haar_equals_numpy_to_the_last_digits(void **state)
{
    (void)state;
    for (size_t c = 0; c < RB_COUNT(exact_cases); c++) {
        const exact_case *expected = &exact_cases[c];
        build(expected->seed, expected->m);
        for (int i = 0; i < expected->m * expected->m; i++)
            if (!(fabs(matrix[i] - expected->expected[i]) <= 1e-12))
                fail_msg("d%d: element %d is %.17g, expected %.17g", expected->m, i, matrix[i], expected->expected[i]);
    }
}

/* ---- what a rotation is ---------------------------------------------------------------------- */

static void assert_orthogonal(int m)
{
    for (int a = 0; a < m; a++)
        for (int b = a; b < m; b++) {
            double dot = 0.0;
            for (int i = 0; i < m; i++) dot += matrix[a * m + i] * matrix[b * m + i];
            if (!(fabs(dot - (a == b)) <= 1e-13)) fail_msg("d%d: rows %d and %d have product %.17g", m, a, b, dot);
        }
}

static void haar_is_orthogonal_for_odd_and_even_sizes(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 3, 5, 7, 8, 31, 33, 64, 80, 86, 127, 128, 130};
    for (size_t s = 0; s < RB_COUNT(sizes); s++) {
        build(1000 + (uint64_t)sizes[s], sizes[s]);
        assert_orthogonal(sizes[s]);
    }
}

/* By elimination with row exchanges; destroys `matrix`. */
static double determinant(int m)
{
    double value = 1.0;
    for (int column = 0; column < m; column++) {
        int pivot = column;
        for (int row = column + 1; row < m; row++)
            if (fabs(matrix[row * m + column]) > fabs(matrix[pivot * m + column])) pivot = row;
        if (pivot != column) value = -value;
        for (int j = 0; j < m; j++) {
            const double swapped = matrix[pivot * m + j];
            matrix[pivot * m + j] = matrix[column * m + j];
            matrix[column * m + j] = swapped;
        }
        value *= matrix[column * m + column];
        for (int row = column + 1; row < m; row++) {
            const double factor = matrix[row * m + column] / matrix[column * m + column];
            for (int j = column; j < m; j++) matrix[row * m + j] -= factor * matrix[column * m + j];
        }
    }
    return value;
}

/* Half of the raw matrices have determinant -1, so 8 seeds a size see both; odd and even sizes differ in the parity of
 * LAPACK's reflections. */
static void haar_has_determinant_one_for_every_size_and_seed(void **state)
{
    (void)state;
    for (int m = 1; m <= 40; m++)
        for (uint64_t seed = 42; seed < 50; seed++) {
            build(seed, m);
            const double value = determinant(m);
            if (!(fabs(value - 1.0) <= 1e-12))
                fail_msg("d%d seed %llu: determinant is %.17g", m, (unsigned long long)seed, value);
        }
}

static void one_dim_gives_the_identity(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        build(seed, 1);
        assert_true(matrix[0] == 1.0);
    }
}

static void another_seed_gives_another_rotation_and_the_same_seed_the_same(void **state)
{
    (void)state;
    double first[64];
    build(42, 8);
    memcpy(first, matrix, sizeof first);
    build(43, 8);
    assert_memory_not_equal(matrix, first, sizeof first);
    build(42, 8);
    assert_memory_equal(matrix, first, sizeof first);
}

/* ---- hadamard -------------------------------------------------------------------------------- */

/* Signs by python3 (numpy 2.4.6):
 *   x = numpy.random.default_rng(seed).standard_normal(m if p == m else 2 * m)
 *   ''.join('-' if v < 0 else '+' for v in x) */
typedef struct signs_case {
    uint64_t seed;
    int m, p; /* p: largest power of two up to m */
    const char *signs;
} signs_case;

static const signs_case signs_cases[] = {
    {44U, 2, 2, "++"},
    {42U, 8, 8, "+-++--+-"},
    {45U, 6, 4, "--++-+++-+--"},
    {4294967303U, 5, 4, "+---++-+--"},
    {46U, 22, 16, "-+-+----+++---++---++-+++--+++-+---++-++++-+"},
};

static int sign_at(const signs_case *c, int i) { return c->signs[i] == '-' ? -1 : 1; }

/* Element of the m x m matrix that is H_p / sqrt(p) on dims first .. first + p - 1, and the identity elsewhere. */
static double hadamard_at(int row, int column, int first, int p)
{
    const int i = row - first, j = column - first;
    if (i < 0 || j < 0 || i >= p || j >= p) return row == column;
    return (__builtin_popcount((unsigned)(i & j)) % 2 ? -1.0 : 1.0) / sqrt(p);
}

static double expected_hadamard(const signs_case *c, int row, int column)
{
    double sum = 0.0;
    if (c->p == c->m) return hadamard_at(row, column, 0, c->p) * sign_at(c, column);
    for (int j = 0; j < c->m; j++)
        sum += hadamard_at(row, j, c->m - c->p, c->p) * sign_at(c, c->m + j) * hadamard_at(j, column, 0, c->p)
               * sign_at(c, column);
    return sum;
}

static void hadamard_equals_the_product_of_its_factors_with_numpys_signs(void **state)
{
    (void)state;
    for (size_t n = 0; n < RB_COUNT(signs_cases); n++) {
        const signs_case *c = &signs_cases[n];
        build_kind(ROTATION_HADAMARD, c->seed, c->m);
        for (int row = 0; row < c->m; row++)
            for (int column = 0; column < c->m; column++)
                if (!(fabs(matrix[row * c->m + column] - expected_hadamard(c, row, column)) <= 1e-15))
                    fail_msg("d%d seed %llu: [%d][%d] is %.17g, expected %.17g", c->m, (unsigned long long)c->seed, row,
                             column, matrix[row * c->m + column], expected_hadamard(c, row, column));
    }
}

/* Seed 1003, 5 dims, by numpy from the definition: quarters, exactly. */
static void hadamard_of_five_dims_is_exact(void **state)
{
    (void)state;
    static const double quarters[25] = {-2, -2, -2, -2, 0,  -3, 1, 1, 1, -2, -1, 3, -1,
                                        -1, 2,  -1, -1, -1, 3,  2, 1, 1, -3, 1,  -2};
    build_kind(ROTATION_HADAMARD, 1003, 5);
    for (int i = 0; i < 25; i++) assert_true(matrix[i] == quarters[i] / 4.0);
}

static void hadamard_is_orthogonal_for_every_size(void **state)
{
    (void)state;
    static const int large[] = {64, 127, 128, 130};
    for (int m = 1; m <= 40; m++) {
        build_kind(ROTATION_HADAMARD, 42 + (uint64_t)m, m);
        assert_orthogonal(m);
    }
    for (size_t s = 0; s < RB_COUNT(large); s++) {
        build_kind(ROTATION_HADAMARD, 42 + (uint64_t)large[s], large[s]);
        assert_orthogonal(large[s]);
    }
}

/* Row 0 of H_p is all 1, so row 0 of R has the signs; R without them is symmetric and orthogonal, so its own inverse.
 */
static void hadamard_without_its_signs_undoes_itself(void **state)
{
    (void)state;
    for (int m = 2; m <= 128; m *= 2) {
        build_kind(ROTATION_HADAMARD, 7, m);
        for (int row = 0; row < m; row++)
            for (int column = 0; column < m; column++) {
                double sum = 0.0;
                for (int j = 0; j < m; j++) {
                    const double sign_j = matrix[j] < 0.0 ? -1.0 : 1.0, sign_column = matrix[column] < 0.0 ? -1.0 : 1.0;
                    sum += matrix[row * m + j] * sign_j * matrix[j * m + column] * sign_column;
                }
                if (!(fabs(sum - (row == column)) <= 1e-13))
                    fail_msg("d%d: [%d][%d] of the square is %.17g", m, row, column, sum);
            }
    }
}

static void another_seed_gives_another_hadamard_and_none_is_haar(void **state)
{
    (void)state;
    double first[484];
    build_kind(ROTATION_HADAMARD, 42, 22);
    memcpy(first, matrix, sizeof first);
    build_kind(ROTATION_HADAMARD, 43, 22);
    assert_memory_not_equal(matrix, first, sizeof first);
    build_kind(ROTATION_HADAMARD, 42, 22);
    assert_memory_equal(matrix, first, sizeof first);
    build_kind(ROTATION_HAAR, 42, 22);
    assert_memory_not_equal(matrix, first, sizeof first);
}

/* ---- names and refusals ---------------------------------------------------------------------- */

static void rotation_kinds_have_names(void **state)
{
    (void)state;
    rotation_kind kind = ROTATION_N_KINDS;
    assert_string_equal(rotation_kind_name(ROTATION_HAAR), "haar");
    assert_true(rotation_kind_from_name("haar", &kind));
    assert_int_equal(kind, ROTATION_HAAR);
    assert_string_equal(rotation_kind_name(ROTATION_HADAMARD), "hadamard");
    assert_true(rotation_kind_from_name("hadamard", &kind));
    assert_int_equal(kind, ROTATION_HADAMARD);
    assert_null(rotation_kind_names[ROTATION_N_KINDS]);
    assert_false(rotation_kind_from_name("Haar", &kind));
    assert_false(rotation_kind_from_name("", &kind));
}

static void rotation_refuses_sizes_and_kinds_it_cannot_build(void **state)
{
    (void)state;
    rb_error err = {0};
    assert_fails(rotation_build(matrix, &(rotation_spec){.dims = 0}, &err), RB_EINVAL, "rotation of 0 dims");
    assert_fails(rotation_build(matrix, &(rotation_spec){.dims = -2}, &err), RB_EINVAL, "rotation of -2 dims");
    assert_fails(rotation_build(matrix, &(rotation_spec){.dims = 1 << 20}, &err), RB_EINVAL,
                 "rotation of 1048576 dims");
    assert_fails(rotation_build(matrix, &(rotation_spec){.kind = ROTATION_N_KINDS, .dims = 4}, &err), RB_EINVAL,
                 "rotation kind is 2, expected 0 to 1");
    assert_fails(rotation_build(matrix, &(rotation_spec){.kind = ROTATION_HADAMARD, .dims = 4097}, &err), RB_EINVAL,
                 "rotation of 4097 dims");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(haar_equals_the_reference_fixture),
        cmocka_unit_test(haar_equals_numpy_to_the_last_digits),
        cmocka_unit_test(haar_is_orthogonal_for_odd_and_even_sizes),
        cmocka_unit_test(haar_has_determinant_one_for_every_size_and_seed),
        cmocka_unit_test(one_dim_gives_the_identity),
        cmocka_unit_test(another_seed_gives_another_rotation_and_the_same_seed_the_same),
        cmocka_unit_test(hadamard_equals_the_product_of_its_factors_with_numpys_signs),
        cmocka_unit_test(hadamard_of_five_dims_is_exact),
        cmocka_unit_test(hadamard_is_orthogonal_for_every_size),
        cmocka_unit_test(hadamard_without_its_signs_undoes_itself),
        cmocka_unit_test(another_seed_gives_another_hadamard_and_none_is_haar),
        cmocka_unit_test(rotation_kinds_have_names),
        cmocka_unit_test(rotation_refuses_sizes_and_kinds_it_cannot_build),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
