/* C text of arrays, for `export --format cuda`. */
#ifndef RB_EXPORT_CUDA_SOURCE_H
#define RB_EXPORT_CUDA_SOURCE_H

#include <stdio.h>

#include "export/cuda_tables.h"
#include "plan/bit_plan.h"

typedef enum cuda_number { CUDA_F64, CUDA_F32, CUDA_HEX16, CUDA_U16, CUDA_U8 } cuda_number;

enum { CUDA_MAX_RANK = 4 };
/* "const TYPE NAME[..][..] = {..};" with braces around every row. dims [rank]; data in C order. */
void cuda_write_array(FILE *out, const char *name, cuda_number number, const void *data, const int64_t *dims, int rank);

/* plan_constants.h: n_test_tokens is how many the test vectors have. */
void cuda_write_constants(FILE *out, const bit_plan *plan, const cuda_tables *tables, int n_test_tokens);
/* plan_tables.c. */
void cuda_write_tables(FILE *out, const cuda_tables *tables);

#endif
