/* Sorted numbers and their quantiles. */
#ifndef RB_CORE_ORDER_H
#define RB_CORE_ORDER_H

#include <stdint.h>

void rb_sort_floats(float *values, int64_t n); /* ascending, in place */
void rb_sort_doubles(double *values, int64_t n);

/* Index of the quantile p in [0, 1] among n > 0 ascending values, by nearest rank: the smallest value that at least a
 * share p of the values does not exceed. */
int64_t rb_quantile_place(int64_t n, double p);

#endif
