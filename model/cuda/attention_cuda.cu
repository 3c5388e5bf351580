/* Checks of the input, and the choice of the kernel. See attention_cuda.h. */
#include "model/cuda/attention_tile.cuh"

/* Tokens are int32 on the device. They must not overflow in the tile that reaches past the last token. */
static const int64_t MAX_TOKENS = INT32_MAX - 65535;

static bool is_misaligned(const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 != 0; }

static bool is_dim(int dim) { return dim >= 8 && dim <= 256 && dim % 8 == 0; }

static rb_status check_input(const attention_cuda_input *in, rb_error *err)
{
    const int64_t per_16_bytes = in->type == ATTENTION_CUDA_BF16 ? 8 : 4;
    if (!is_dim(in->head_dim) || !is_dim(in->value_dim))
        return rb_fail(err, RB_EINVAL, "attention with head_dim %d and value_dim %d, expected multiples of 8 up to 256",
                       in->head_dim, in->value_dim);
    if (in->n_kv_heads < 1 || in->n_q_heads < 1 || in->n_q_heads % in->n_kv_heads != 0)
        return rb_fail(err, RB_EINVAL, "attention with %d query heads and %d KV heads, expected a multiple",
                       in->n_q_heads, in->n_kv_heads);
    if (in->first_query < 0 || in->n_queries < 0 || in->first_query > MAX_TOKENS
        || in->n_queries > MAX_TOKENS - in->first_query)
        return rb_fail(err, RB_EINVAL, "attention of %lld queries from token %lld on, expected at most %lld tokens",
                       static_cast<long long>(in->n_queries), static_cast<long long>(in->first_query),
                       static_cast<long long>(MAX_TOKENS));
    if (in->n_recent < 0)
        return rb_fail(err, RB_EINVAL, "attention with %d recent keys, expected 0 (none) or more", in->n_recent);
    if (in->sliding_window < 0)
        return rb_fail(err, RB_EINVAL, "attention with a window of %d keys, expected 0 (none) or more",
                       in->sliding_window);
    if (!(in->scale > 0.0f))
        return rb_fail(err, RB_EINVAL, "attention with scale %g, expected above 0", static_cast<double>(in->scale));
    if (!(in->softcap >= 0.0f))
        return rb_fail(err, RB_EINVAL, "attention with a cap of %g, expected 0 (none) or more",
                       static_cast<double>(in->softcap));
    if (is_misaligned(in->q) || is_misaligned(in->k) || is_misaligned(in->v) || is_misaligned(in->recent_k)
        || is_misaligned(in->recent_v) || is_misaligned(in->out) || in->q_token_stride % per_16_bytes != 0
        || in->k_token_stride % per_16_bytes != 0 || in->v_token_stride % per_16_bytes != 0
        || in->out_token_stride % per_16_bytes != 0)
        return rb_fail(err, RB_EINVAL,
                       "attention with token strides %lld, %lld, %lld, %lld, expected 16-byte aligned vectors",
                       static_cast<long long>(in->q_token_stride), static_cast<long long>(in->k_token_stride),
                       static_cast<long long>(in->v_token_stride), static_cast<long long>(in->out_token_stride));
    return RB_OK;
}

static rb_status check_bf16(rb_error *err)
{
    int device = 0, major = 0, minor = 0;
    rb_status st;
    RB_TRY(st, rb_cuda_status(cudaGetDevice(&device), "asking for the GPU", err), done);
    RB_TRY(st,
           rb_cuda_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking the GPU",
                          err),
           done);
    RB_TRY(st,
           rb_cuda_status(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking the GPU",
                          err),
           done);
    if (major < 8)
        st = rb_fail(err, RB_EUNSUPPORTED,
                     "bf16 attention on GPU %d of compute capability %d.%d, expected at least 8.0 (f32 runs here)",
                     device, major, minor);
done:
    return st;
}

static rb_status attention_forward_cuda(const attention_cuda_input *in, void *stream, rb_error *err)
{
    const cudaStream_t on = static_cast<cudaStream_t>(stream);
    const bool is_bf16 = in->type == ATTENTION_CUDA_BF16;
    rb_status st;
    RB_TRY(st, check_input(in, err), done);
    if (is_bf16) RB_TRY(st, check_bf16(err), done);
    if (in->n_queries > 0) st = is_bf16 ? attention_bf16(in, on, err) : attention_f32(in, on, err);
done:
    return st;
}

extern "C" {
extern const attention_cuda_api rb_attention_cuda;
const attention_cuda_api rb_attention_cuda = {attention_forward_cuda};
}
