/* The functions of codec_cuda_api, whatever the family: see kernels/cuda/codec_cuda.h. They check what is common to
 * all, and call the kernels of the image's family. */
#include "kernels/cuda/codec_kernels.cuh"

struct family_kernels {
    rb_status (*encode)(const codec_encode_call &call, rb_error *err);
    rb_status (*decode)(const codec_decode_call &call, rb_error *err);
    rb_status (*logits)(const codec_logits_call &call, rb_error *err);
};

#define RB_FAMILY_ROW(NAME, prefix, name) {prefix##_encode, prefix##_decode, prefix##_logits},
static const family_kernels all_kernels[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW

static const family_kernels &kernels_of(const codec_image &image) { return all_kernels[image.family]; }

/* Kernels count elements from token to token in 32 bits. */
static rb_status check_vectors(const codec_vectors *x, rb_error *err)
{
    if (x->token_stride >= 0 && x->token_stride <= INT32_MAX) return RB_OK;
    return rb_fail(err, RB_EINVAL, "vectors lie %lld elements apart, expected at most %d",
                   static_cast<long long>(x->token_stride), INT32_MAX);
}

static rb_status encode(const codec_device_image *image, const codec_vectors *x, int64_t n, uint8_t *packed,
                        void *norms, uint64_t *first_bad, void *stream, rb_error *err)
{
    const codec_encode_call call = {
        image->on_device, *x, n, packed, static_cast<uint8_t *>(norms), first_bad, static_cast<cudaStream_t>(stream)};
    const rb_status st = check_vectors(x, err);
    return st != RB_OK || n == 0 ? st : kernels_of(call.image).encode(call, err);
}

static rb_status decode(const codec_device_image *image, const uint8_t *packed, const void *norms, int64_t n,
                        const codec_vectors *x_hat, void *stream, rb_error *err)
{
    const codec_decode_call call = {
        image->on_device, packed, static_cast<const uint8_t *>(norms), n, *x_hat, static_cast<cudaStream_t>(stream)};
    const rb_status st = check_vectors(x_hat, err);
    return st != RB_OK || n == 0 ? st : kernels_of(call.image).decode(call, err);
}

static rb_status logits(const codec_device_image *image, const uint8_t *packed, const void *norms, int64_t n,
                        const float *queries, int n_queries, float *rotated, float *out, void *stream, rb_error *err)
{
    const codec_logits_call call = {
        image->on_device, packed, static_cast<const uint8_t *>(norms), n, queries, n_queries,
        rotated,          out,    static_cast<cudaStream_t>(stream)};
    return n == 0 || n_queries == 0 ? RB_OK : kernels_of(call.image).logits(call, err);
}

extern "C" {
extern const codec_cuda_api rb_codec_cuda;
const codec_cuda_api rb_codec_cuda = {encode, decode, logits};
}
