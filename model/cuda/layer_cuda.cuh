/* What the .cu files of a layer share: conversions, sums, and the functions of the table in layer_cuda.cu. */
#ifndef RB_MODEL_CUDA_LAYER_CUDA_CUH
#define RB_MODEL_CUDA_LAYER_CUDA_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/cuda_check.cuh"
#include "model/cuda/layer_cuda.h"

static inline cudaStream_t as_stream(void *stream) { return static_cast<cudaStream_t>(stream); }

__device__ __forceinline__ void put(__nv_bfloat16 *to, float x) { *to = __float2bfloat16_rn(x); }
__device__ __forceinline__ void put(float *to, float x) { *to = x; }
__device__ __forceinline__ void put(__half *to, float x) { *to = __float2half_rn(x); }
__device__ __forceinline__ float get(const __nv_bfloat16 *from) { return __bfloat162float(*from); }
__device__ __forceinline__ float get(const float *from) { return *from; }
__device__ __forceinline__ float get(const __half *from) { return __half2float(*from); }

__device__ __forceinline__ float warp_sum(float x)
{
    for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}

/* A kernel that is launched for it (gemv_cuda.cu) may begin now, and waits for this one before it reads what it makes.
 */
__device__ __forceinline__ void may_begin_next()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Kernels in which a warp takes one head of one token, or one token. */
enum { HEAD_WARPS = 8 };
static inline unsigned warp_blocks(int64_t items)
{
    return static_cast<unsigned>((items + HEAD_WARPS - 1) / HEAD_WARPS);
}

/* Kernels in which a thread takes an element of a row: blocks of ROW_BLOCK threads along the row, and at most
 * MAX_GRID_ROWS rows a launch. */
enum { ROW_BLOCK = 256 };
static const int64_t MAX_GRID_ROWS = 65535;
static inline dim3 row_grid(int64_t n, int64_t width)
{
    return dim3(static_cast<unsigned>((width + ROW_BLOCK - 1) / ROW_BLOCK), static_cast<unsigned>(n));
}

/* norm_cuda.cu */
rb_status norm_rows(void *out, const float *x, const int64_t *rows, const layer_cuda_norm *norm, int64_t n,
                    int64_t width, layer_cuda_precision precision, void *stream, rb_error *err);
rb_status norm_add(float *hidden, const float *x, const float *bias, const layer_cuda_norm *norm, float scale,
                   int64_t n, int64_t width, void *stream, rb_error *err);
rb_status norm_row_squares(double *squares, const float *x, bool multiplies, double factor, int64_t n, int64_t width,
                           void *stream, rb_error *err);
/* x = norm(x + bias) in place: n rows of `width` that lie `stride` floats apart. */
rb_status norm_in_place(float *x, int64_t stride, const float *bias, const layer_cuda_norm *norm, int64_t n,
                        int64_t width, void *stream, rb_error *err);
rb_status norm_add_bias(float *x, const float *bias, int64_t n, int64_t width, void *stream, rb_error *err);

/* heads_cuda.cu */
rb_status heads_run(const layer_cuda_heads *in, void *stream, rb_error *err);
size_t heads_scratch(const layer_cuda_heads *in);
rb_status heads_turn(const layer_cuda_turn *in, void *stream, rb_error *err);

/* rows_cuda.cu */
rb_status rows_expand(const layer_cuda_expand *in, void *stream, rb_error *err);
rb_status rows_part(float *out, const layer_cuda_rows *in, void *stream, rb_error *err);
rb_status rows_pack(void *out, const layer_cuda_rows *in, void *stream, rb_error *err);

/* mlp_cuda.cu */
rb_status mlp_activate(void *out, const void *gate_up, const float *bias, layer_cuda_activation activation,
                       bool is_gated, int64_t n, int64_t width, layer_cuda_precision precision, void *stream,
                       rb_error *err);
rb_status mlp_finish_logits(float *x, float scale, float cap, int64_t n, void *stream, rb_error *err);

/* gemv_cuda.cu */
rb_status few_rows_run(void *y, bool is_f32, bool adds, const void *x, const void *w, int64_t m, int64_t n, int64_t k,
                       void *stream, rb_error *err);

/* expert_cuda.cu */
rb_status expert_route(const layer_cuda_router *in, void *stream, rb_error *err);
rb_status expert_gather(void *out, const void *rows, const layer_cuda_visits *visits, int64_t n_rows,
                        layer_cuda_precision precision, void *stream, rb_error *err);
rb_status expert_scatter(float *hidden, const float *x, const layer_cuda_visits *visits, float scale, void *stream,
                         rb_error *err);

#endif
