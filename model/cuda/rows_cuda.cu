/* Rows of heads on the GPU, put together and taken apart: see layer_cuda.h. A warp takes one head of one token. */
#include "model/cuda/layer_cuda.cuh"

/* ---- keys and values out of latents ---------------------------------------------------------- */

template <typename T> __global__ void expand_kernel(const layer_cuda_expand in)
{
    const int64_t item = static_cast<int64_t>(blockIdx.x) * HEAD_WARPS + threadIdx.x / 32, token = item / in.n_heads;
    if (token >= in.n_tokens) return;
    const T *from = static_cast<const T *>(in.projected) + item * (in.plain_dim + in.value_dim),
            *key = static_cast<const T *>(in.key) + token * in.rope_dim;
    T *k = static_cast<T *>(in.k) + item * in.k_pitch, *v = static_cast<T *>(in.v) + item * in.v_pitch;
    const T zero = T(0.0f);
    for (int dim = threadIdx.x % 32; dim < in.k_pitch; dim += 32) {
        const int turned = dim - in.plain_dim;
        k[dim] = turned < 0 ? from[dim] : turned < in.rope_dim ? key[turned] : zero;
    }
    for (int dim = threadIdx.x % 32; dim < in.v_pitch; dim += 32)
        v[dim] = dim < in.value_dim ? from[in.plain_dim + dim] : zero;
}

rb_status rows_expand(const layer_cuda_expand *in, void *stream, rb_error *err)
{
    const unsigned blocks = warp_blocks(in->n_tokens * in->n_heads);
    if (in->n_tokens == 0) return RB_OK;
    if (in->precision == LAYER_CUDA_BF16)
        expand_kernel<__nv_bfloat16><<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(*in);
    else expand_kernel<float><<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(*in);
    return rb_cuda_launched("latent kernel", err);
}

/* ---- rows as others see them ----------------------------------------------------------------- */

/* Neighbouring warps take tokens of one head, so that writes are contiguous, to host memory too. */
template <typename T> __global__ void part_kernel(float *out, const layer_cuda_rows in)
{
    const int64_t item = static_cast<int64_t>(blockIdx.x) * HEAD_WARPS + threadIdx.x / 32, head = item / in.n_tokens,
                  token = item % in.n_tokens;
    if (head >= in.n_heads) return;
    const T *row = static_cast<const T *>(in.rows) + token * in.token_stride + head * in.pitch;
    for (int dim = threadIdx.x % 32; dim < in.head_dim; dim += 32) out[item * in.head_dim + dim] = get(row + dim);
}

rb_status rows_part(float *out, const layer_cuda_rows *in, void *stream, rb_error *err)
{
    const unsigned blocks = warp_blocks(in->n_tokens * in->n_heads);
    if (in->n_tokens == 0) return RB_OK;
    if (in->precision == LAYER_CUDA_BF16)
        part_kernel<__nv_bfloat16><<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(out, *in);
    else part_kernel<float><<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(out, *in);
    return rb_cuda_launched("heads kernel", err);
}

template <typename T> __global__ void pack_kernel(T *out, const layer_cuda_rows in)
{
    const int64_t item = static_cast<int64_t>(blockIdx.x) * HEAD_WARPS + threadIdx.x / 32, token = item / in.n_heads,
                  head = item % in.n_heads;
    if (token >= in.n_tokens) return;
    const T *row = static_cast<const T *>(in.rows) + token * in.token_stride + head * in.pitch;
    for (int dim = threadIdx.x % 32; dim < in.head_dim; dim += 32) out[item * in.head_dim + dim] = row[dim];
}

rb_status rows_pack(void *out, const layer_cuda_rows *in, void *stream, rb_error *err)
{
    const unsigned blocks = warp_blocks(in->n_tokens * in->n_heads);
    if (in->n_tokens == 0) return RB_OK;
    if (in->precision == LAYER_CUDA_BF16)
        pack_kernel<<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(static_cast<__nv_bfloat16 *>(out), *in);
    else pack_kernel<<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(static_cast<float *>(out), *in);
    return rb_cuda_launched("heads kernel", err);
}
