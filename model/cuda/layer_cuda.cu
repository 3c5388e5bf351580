/* The table of a layer's kernels, and the conversion of weights. See model/cuda/layer_cuda.h. */
#include "model/cuda/layer_cuda.cuh"
#include "model/cuda/matmul_cuda.cuh"

/* ---- weights --------------------------------------------------------------------------------- */

template <typename T, typename F> __global__ void convert_kernel(T *out, const F *from, int64_t n)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) put(out + i, get(from + i));
}

template <typename T>
static void launch_convert(T *out, const void *from, layer_cuda_weight type, int64_t n, cudaStream_t stream)
{
    const unsigned blocks = static_cast<unsigned>((n + ROW_BLOCK - 1) / ROW_BLOCK);
    if (type == LAYER_CUDA_WEIGHT_F16)
        convert_kernel<<<blocks, ROW_BLOCK, 0, stream>>>(out, static_cast<const __half *>(from), n);
    if (type == LAYER_CUDA_WEIGHT_BF16)
        convert_kernel<<<blocks, ROW_BLOCK, 0, stream>>>(out, static_cast<const __nv_bfloat16 *>(from), n);
    if (type == LAYER_CUDA_WEIGHT_F32)
        convert_kernel<<<blocks, ROW_BLOCK, 0, stream>>>(out, static_cast<const float *>(from), n);
}

static rb_status convert(void *out, const void *from, layer_cuda_weight type, int64_t n, layer_cuda_precision precision,
                         void *stream, rb_error *err)
{
    if (n == 0) return RB_OK;
    if (precision == LAYER_CUDA_BF16)
        launch_convert(static_cast<__nv_bfloat16 *>(out), from, type, n, as_stream(stream));
    else launch_convert(static_cast<float *>(out), from, type, n, as_stream(stream));
    return rb_cuda_launched("conversion kernel", err);
}

extern "C" {
extern const layer_cuda_api rb_layer_cuda;
const layer_cuda_api rb_layer_cuda = {norm_rows,     norm_add,     norm_row_squares, norm_add_bias,  heads_run,
                                      heads_scratch, heads_turn,   rows_expand,      rows_part,      rows_pack,
                                      mlp_activate,  expert_route, expert_gather,    expert_scatter, mlp_finish_logits,
                                      convert,       matmul_open,  matmul_close,     matmul_run,     few_rows_run};
}
