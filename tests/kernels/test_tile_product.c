/* The product of a tile: every element is its sum, in its order, whatever the sizes. */
#include "tests/test_support.h"

#include "kernels/reference/tile_product.h"

static void fill(double *x, int n, double step)
{
    for (int i = 0; i < n; i++) x[i] = sin(step * (i + 1));
}

static void every_element_is_the_sum_in_order(void **state)
{
    (void)state;
    enum { MOST = 130, GUARD = 7 };
    static double in[MOST * MOST], matrix[MOST * MOST], out[MOST * MOST + 1];
    static const int rows[] = {0, 1, 3, 4, 5, 31, 128}, dims[] = {1, 2, 6, 15, 16, 17, 33, 64, 80, 130};
    for (size_t r = 0; r < RB_COUNT(rows); r++)
        for (size_t d = 0; d < RB_COUNT(dims) * 2; d++) {
            const int n = rows[r], m = dims[d / 2], n_inner = d % 2 ? m : 1 + m / 2;
            fill(in, n * n_inner, 0.7);
            fill(matrix, n_inner * m, 1.3);
            out[n * m] = GUARD;
            tile_product(out, in, matrix, n, n_inner, m);
            assert_true(out[n * m] == GUARD);
            for (int v = 0; v < n; v++)
                for (int j = 0; j < m; j++) {
                    double sum = 0.0;
                    for (int k = 0; k < n_inner; k++) sum += in[v * n_inner + k] * matrix[k * m + j];
                    assert_true(out[v * m + j] == sum);
                }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_element_is_the_sum_in_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
