/* Codebooks of the plane: errors against published ones and the scalar codebooks', every point the mean of what falls
 * to it, the search against a plain one. */
#include "tests/test_support.h"

#include "core/half.h"
#include "kernels/reference/block_codebook.h"
#include "kernels/reference/numpy_random.h"

static rb_error err;

static block_codebook *book_of(int bits)
{
    block_codebook *book = malloc(sizeof *book);
    assert_non_null(book);
    assert_ok(block_codebook_build(book, bits, &err));
    assert_int_equal(book->size, 1 << bits);
    return book;
}

static double *normals_of(int n)
{
    numpy_rng rng;
    double *normals = malloc(sizeof(double) * (size_t)n);
    assert_non_null(normals);
    numpy_rng_seed(&rng, 12345);
    numpy_rng_standard_normal(&rng, normals, (size_t)n);
    return normals;
}

/* Mean squared error a coordinate over samples the codebook was not made from. */
static double error_on(const block_codebook *book, const double *normals, int n)
{
    double total = 0.0;
    for (int i = 0; i < n; i++) {
        double least = INFINITY;
        for (int c = 0; c < book->size; c++) {
            const double dx = normals[2 * i] - (double)book->x[c], dy = normals[2 * i + 1] - (double)book->y[c];
            least = fmin(least, dx * dx + dy * dy);
        }
        total += least;
    }
    return total / (2.0 * n);
}

/* One bit: two points at +-sqrt(2/pi) on a line, the other coordinate is lost. Two bits: no better than one a
 * coordinate, 1 - 2/pi. Four bits: scalar Lloyd-Max has 0.1175. */
static void errors_are_those_of_good_quantizers(void **state)
{
    (void)state;
    enum { N = 40000 };
    static const struct {
        int bits;
        double least, most;
    } expected[] = {{1, 0.675, 0.690},   {2, 0.358, 0.368},   {3, 0.197, 0.205},
                    {4, 0.1055, 0.1100}, {6, 0.0290, 0.0312}, {8, 0.0073, 0.0085}};
    double *normals = normals_of(2 * N);
    for (size_t i = 0; i < RB_COUNT(expected); i++) {
        block_codebook *book = book_of(expected[i].bits);
        const double found = error_on(book, normals, N);
        assert_true(found > expected[i].least && found < expected[i].most);
        assert_true(fabs(found / book->distortion - 1.0) < 0.05);
        free(book);
    }
    free(normals);
}

static void a_bit_more_never_hurts_and_at_most_halves_the_error(void **state)
{
    (void)state;
    double before = 1.0;
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_POINT_BITS; bits++) {
        block_codebook *book = book_of(bits);
        assert_true(book->distortion < before && book->distortion > 0.45 * before); /* high rate: 2^-bits */
        before = book->distortion;
        free(book);
    }
}

static void points_are_values_of_fp16_and_differ(void **state)
{
    (void)state;
    block_codebook *book = book_of(5);
    for (int c = 0; c < book->size; c++) {
        assert_true(rb_f16_to_f32(rb_f32_to_f16(book->x[c])) == book->x[c]
                    && rb_f16_to_f32(rb_f32_to_f16(book->y[c])) == book->y[c]);
        for (int other = 0; other < c; other++)
            assert_true(book->x[c] != book->x[other] || book->y[c] != book->y[other]);
    }
    free(book);
}

static void no_bits_is_the_mean(void **state)
{
    (void)state;
    block_codebook *book = book_of(0);
    assert_true(book->x[0] == 0.0f && book->y[0] == 0.0f && book->distortion == 1.0);
    free(book);
}

/* Lloyd-Max of the normal law: Max 1960, table I, to the 3 digits that fp16 leaves; errors of many levels near
 * pi sqrt(3) / 2 4^-bits (Panter and Dite 1951). */
static void levels_are_those_of_lloyd_max(void **state)
{
    (void)state;
    static const double four[] = {0.4528, 1.510}, eight[] = {0.2451, 0.7560, 1.344, 2.152};
    enum { N = 40000 };
    double *normals = normals_of(N);
    block_levels levels;
    assert_ok(block_levels_build(&levels, 2, &err));
    for (int i = 0; i < 2; i++) assert_true(fabs((double)levels.level[2 + i] - four[i]) < 1e-3);
    assert_ok(block_levels_build(&levels, 3, &err));
    for (int i = 0; i < 4; i++) assert_true(fabs((double)levels.level[4 + i] - eight[i]) < 1e-3);
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_LEVEL_BITS; bits++) {
        double error = 0.0;
        assert_ok(block_levels_build(&levels, bits, &err));
        for (int v = 0; v < N; v++) {
            const int found = block_levels_nearest(&levels, normals[v]);
            double least = INFINITY;
            for (int c = 0; c < levels.size; c++) least = fmin(least, fabs(normals[v] - (double)levels.level[c]));
            assert_true(fabs(normals[v] - (double)levels.level[found]) == least);
            error += least * least / N;
        }
        for (int c = 0; c < levels.size; c++) {
            assert_true(levels.level[c] == -levels.level[levels.size - 1 - c]);
            assert_true(c == 0 || levels.level[c] > levels.level[c - 1]);
            assert_true(rb_f16_to_f32(rb_f32_to_f16(levels.level[c])) == levels.level[c]);
        }
        if (bits >= 4) assert_true(error > 2.3 * pow(4.0, -bits) && error < 2.85 * pow(4.0, -bits));
    }
    free(normals);
}

static void the_longer_dim_gets_the_longer_level(void **state)
{
    (void)state;
    static const struct {
        float map[3];
        int bits, expected;
    } cases[] = {{{1.0f, 0.0f, 1.0f}, 12, 6},  {{1.0f, 0.0f, 1.0f}, 11, 5}, {{2.0f, 9.0f, 1.0f}, 11, 6},
                 {{-4.0f, 0.0f, 1.0f}, 12, 7}, {{1.0f, 0.0f, 4.0f}, 12, 5}, {{100.0f, 0.0f, 1.0f}, 12, 8},
                 {{0.0f, 0.0f, 1.0f}, 12, 4},  {{1.0f, 0.0f, 0.0f}, 11, 8}, {{5.0f, 1.0f, 1.0f}, 16, 8}};
    for (size_t i = 0; i < RB_COUNT(cases); i++)
        assert_int_equal(block_codebook_first_bits(cases[i].map, cases[i].bits), cases[i].expected);
}

static void sizes_out_of_range_are_refused(void **state)
{
    (void)state;
    block_codebook book;
    assert_fails(block_codebook_build(&book, BLOCK_CODEBOOK_MAX_POINT_BITS + 1, &err), RB_EINVAL,
                 "11 bits, expected 0 to 10");
    assert_fails(block_codebook_build(&book, -1, &err), RB_EINVAL, "-1 bits");
    block_levels levels;
    assert_fails(block_levels_build(&levels, 9, &err), RB_EINVAL, "9 bits, expected 1 to 8");
    assert_fails(block_levels_build(&levels, 0, &err), RB_EINVAL, "0 bits");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_those_of_good_quantizers),
        cmocka_unit_test(a_bit_more_never_hurts_and_at_most_halves_the_error),
        cmocka_unit_test(points_are_values_of_fp16_and_differ),
        cmocka_unit_test(no_bits_is_the_mean),
        cmocka_unit_test(levels_are_those_of_lloyd_max),
        cmocka_unit_test(the_longer_dim_gets_the_longer_level),
        cmocka_unit_test(sizes_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
