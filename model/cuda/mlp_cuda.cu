/* Activations of an MLP, and what is done with logits, on the GPU: see layer_cuda.h. */
#include "model/cuda/layer_cuda.cuh"

/* gelu: x Phi(x); gelu_tanh: its approximation, arXiv 1606.08415. */
template <layer_cuda_activation A> __device__ __forceinline__ float activation(float x)
{
    if (A == LAYER_CUDA_SILU) return x / (1.0f + expf(-x));
    if (A == LAYER_CUDA_GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752440f));
    return 0.5f * x * (1.0f + tanhf(0.79788456080286535588f * (x + 0.044715f * x * x * x)));
}

/* Both loads of a gated row come before the activation, so that they are under way together. */
template <typename T, layer_cuda_activation A, bool GATED>
__global__ void activate_kernel(T *out, const T *gate_up, const float *bias, int64_t width)
{
    may_begin_next();
    const T *gate = gate_up + (GATED ? 2 : 1) * blockIdx.y * width, *up = gate + width;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= width) return;
    const float g = get(gate + i) + (bias ? bias[i] : 0.0f),
                u = GATED ? get(up + i) + (bias ? bias[width + i] : 0.0f) : 1.0f;
    put(out + blockIdx.y * width + i, GATED ? activation<A>(g) * u : activation<A>(g));
}

template <typename T, layer_cuda_activation A>
static void launch_kind(T *out, const T *gate_up, const float *bias, bool is_gated, int64_t n, int64_t width,
                        cudaStream_t stream)
{
    const dim3 grid = row_grid(n, width);
    if (is_gated) activate_kernel<T, A, true><<<grid, ROW_BLOCK, 0, stream>>>(out, gate_up, bias, width);
    else activate_kernel<T, A, false><<<grid, ROW_BLOCK, 0, stream>>>(out, gate_up, bias, width);
}

template <typename T>
static void launch_activate(T *out, const T *gate_up, const float *bias, layer_cuda_activation activation,
                            bool is_gated, int64_t n, int64_t width, cudaStream_t stream)
{
    switch (activation) {
    case LAYER_CUDA_SILU: launch_kind<T, LAYER_CUDA_SILU>(out, gate_up, bias, is_gated, n, width, stream); break;
    case LAYER_CUDA_GELU: launch_kind<T, LAYER_CUDA_GELU>(out, gate_up, bias, is_gated, n, width, stream); break;
    case LAYER_CUDA_GELU_TANH:
        launch_kind<T, LAYER_CUDA_GELU_TANH>(out, gate_up, bias, is_gated, n, width, stream);
        break;
    }
}

rb_status mlp_activate(void *out, const void *gate_up, const float *bias, layer_cuda_activation activation,
                       bool is_gated, int64_t n, int64_t width, layer_cuda_precision precision, void *stream,
                       rb_error *err)
{
    const int64_t in_width = (is_gated ? 2 : 1) * width;
    for (int64_t first = 0; first < n; first += MAX_GRID_ROWS) {
        const int64_t rows = n - first < MAX_GRID_ROWS ? n - first : MAX_GRID_ROWS;
        if (precision == LAYER_CUDA_BF16)
            launch_activate(static_cast<__nv_bfloat16 *>(out) + first * width,
                            static_cast<const __nv_bfloat16 *>(gate_up) + first * in_width, bias, activation, is_gated,
                            rows, width, as_stream(stream));
        else
            launch_activate(static_cast<float *>(out) + first * width,
                            static_cast<const float *>(gate_up) + first * in_width, bias, activation, is_gated, rows,
                            width, as_stream(stream));
    }
    return rb_cuda_launched("activation kernel", err);
}

__global__ void finish_logits_kernel(float *x, float scale, float cap, int64_t n)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) x[i] = cap > 0.0f ? cap * tanhf(scale * x[i] / cap) : scale * x[i];
}

rb_status mlp_finish_logits(float *x, float scale, float cap, int64_t n, void *stream, rb_error *err)
{
    if (n == 0) return RB_OK;
    finish_logits_kernel<<<static_cast<unsigned>((n + ROW_BLOCK - 1) / ROW_BLOCK), ROW_BLOCK, 0, as_stream(stream)>>>(
        x, scale, cap, n);
    return rb_cuda_launched("logits kernel", err);
}
