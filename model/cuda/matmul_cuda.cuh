/* Matrix products by cuBLASLt. It is opened at the first product, so that a host without it can run everything else. */
#ifndef RB_MODEL_CUDA_MATMUL_CUDA_CUH
#define RB_MODEL_CUDA_MATMUL_CUDA_CUH

#include "model/cuda/layer_cuda.h"

rb_status matmul_open(void **matmul, rb_error *err);
void matmul_close(void *matmul);
rb_status matmul_run(void *matmul, void *y, bool is_f32, bool adds, const void *x, const void *w, int64_t m, int64_t n,
                     int64_t k, layer_cuda_precision precision, void *stream, rb_error *err);

#endif
