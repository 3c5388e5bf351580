/* Made by bench/train_trellis.c: see trellis.h. */
#include "kernels/reference/trellis.h"

const double trellis_errors[TRELLIS_MAX_WIDTH + 1] = {1};

const trellis_table trellis_tables[TRELLIS_MAX_WIDTH + 1] = {{0}};
