/* The tiled product against a plain triple loop in double, at sizes on, beside and across the tile edges. */
#include "tests/test_support.h"

#include <omp.h>

#include "core/threads.h"
#include "model/linear.h"
#include "tests/model/float_test.h"

typedef struct linear_case {
    int64_t n, n_in, n_out, x_gap, y_gap; /* gaps: floats between rows that must be left alone */
    int with_bias, accumulate;
} linear_case;

static const linear_case cases[] = {
    {1, 1, 1, 0, 0, 0, 0},      {1, 384, 300, 0, 0, 1, 0},  {31, 33, 17, 3, 5, 1, 1},   {33, 96, 320, 0, 0, 0, 1},
    {129, 48, 257, 7, 0, 1, 0}, {256, 64, 256, 0, 0, 0, 0}, {257, 80, 513, 0, 9, 1, 1}, {600, 20, 384, 4, 4, 1, 0},
};

/* Inputs in [-1, 1]: each of n_in terms and partial sums rounds once, 2^-24 relative to at most n_in. */
static double tolerance(int64_t n_in) { return (double)(n_in + 4) * 0x1p-24 * sqrt((double)n_in) + 1e-7; }

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

static void run_case(const linear_case *c)
{
    const int64_t x_stride = c->n_in + c->x_gap, y_stride = c->n_out + c->y_gap;
    float *x = random_floats((size_t)(c->n * x_stride), 1), *weight = random_floats((size_t)(c->n_out * c->n_in), 2),
          *bias = random_floats((size_t)c->n_out, 3);
    float *before = random_floats((size_t)(c->n * y_stride), 4), *y = random_floats((size_t)(c->n * y_stride), 4);

    linear_forward(x, x_stride, weight, c->with_bias ? bias : NULL, y, y_stride, c->n, c->n_in, c->n_out,
                   c->accumulate);
    for (int64_t row = 0; row < c->n; row++) {
        for (int64_t column = 0; column < y_stride; column++) {
            const int64_t at = row * y_stride + column;
            if (column >= c->n_out) {
                assert_true(y[at] == before[at]);
                continue;
            }
            const double expected = dot(x + row * x_stride, weight + column * c->n_in, c->n_in)
                                    + (c->with_bias ? bias[column] : 0.0) + (c->accumulate ? before[at] : 0.0);
            if (fabs(y[at] - expected) > tolerance(c->n_in))
                fail_msg("n %d in %d out %d: y[%d][%d] is %.8g, expected %.8g", (int)c->n, (int)c->n_in, (int)c->n_out,
                         (int)row, (int)column, (double)y[at], expected);
        }
    }
    free(x);
    free(weight);
    free(bias);
    free(before);
    free(y);
}

static void linear_equals_a_plain_product(void **state)
{
    (void)state;
    for (size_t i = 0; i < RB_COUNT(cases); i++) run_case(&cases[i]);
}

static void linear_of_no_rows_writes_nothing(void **state)
{
    (void)state;
    float x = 1.0f, weight = 1.0f, y = 7.0f;
    linear_forward(&x, 1, &weight, NULL, &y, 1, 0, 1, 1, 0);
    assert_true(y == 7.0f);
}

/* Head h of row r is columns [h * head_dim, (h + 1) * head_dim) of the plain layer. */
static void heads_hold_the_plain_product_by_head(void **state)
{
    (void)state;
    const int64_t n = 131, n_in = 50, n_heads = 3, head_dims[] = {48, 128, 300};
    for (size_t i = 0; i < RB_COUNT(head_dims); i++) {
        const int64_t d = head_dims[i], n_out = n_heads * d;
        float *x = random_floats((size_t)(n * n_in), 5), *weight = random_floats((size_t)(n_out * n_in), 6),
              *bias = random_floats((size_t)n_out, 7);
        float *heads = random_floats((size_t)(n * n_out), 8);

        linear_forward_heads(x, n_in, weight, bias, heads, n, n_in, n_heads, d);
        for (int64_t row = 0; row < n; row++) {
            for (int64_t column = 0; column < n_out; column++) {
                const double expected = dot(x + row * n_in, weight + column * n_in, n_in) + bias[column];
                assert_close(heads[(column / d * n + row) * d + column % d], expected, tolerance(n_in));
            }
        }
        free(x);
        free(weight);
        free(bias);
        free(heads);
    }
}

static void linear_gives_the_same_bytes_for_any_thread_count(void **state)
{
    (void)state;
    const int64_t n = 700, n_in = 200, n_out = 520;
    const int threads[] = {1, 2, 4};
    float *x = random_floats((size_t)(n * n_in), 9), *weight = random_floats((size_t)(n_out * n_in), 10), *y[3];
    for (int i = 0; i < 3; i++) {
        y[i] = random_floats((size_t)(n * n_out), 11);
        omp_set_num_threads(threads[i]);
        linear_forward(x, n_in, weight, NULL, y[i], n_out, n, n_in, n_out, 1);
        assert_memory_equal(y[i], y[0], (size_t)(n * n_out) * sizeof *x);
    }
    for (int i = 0; i < 3; i++) free(y[i]);
    free(x);
    free(weight);
    rb_threads_init(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_equals_a_plain_product),
        cmocka_unit_test(linear_of_no_rows_writes_nothing),
        cmocka_unit_test(heads_hold_the_plain_product_by_head),
        cmocka_unit_test(linear_gives_the_same_bytes_for_any_thread_count),
    };
    rb_threads_init(0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
