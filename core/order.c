/* See core/order.h. */
#include "core/order.h"

#include <math.h>
#include <stdlib.h>

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void rb_sort_floats(float *values, int64_t n) { qsort(values, (size_t)n, sizeof *values, compare_floats); }
void rb_sort_doubles(double *values, int64_t n) { qsort(values, (size_t)n, sizeof *values, compare_doubles); }

int64_t rb_quantile_place(int64_t n, double p)
{
    const int64_t rank = (int64_t)ceil(p * (double)n);
    return (rank < 1 ? 1 : rank > n ? n : rank) - 1;
}
