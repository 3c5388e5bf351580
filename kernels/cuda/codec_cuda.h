/* The quantizer on the GPU: encode, decode and logits of many heads at once, driven by a plan
 * (kernels/cuda/codec_image.h). Held to the C reference of kernels/reference/head_codec.h by `ropebits validate` and
 * tests/gpu.
 *
 * Exactness. Norms are f32 sums, so a stored fp16 norm can differ by one unit where the exact norm lies within NORM_TIE
 * of the middle of two fp16 numbers; a code can differ where the exact coordinate lies within CODE_TIE of a boundary.
 * Given codes and norms, packed bytes are the reference's, bit by bit. An encoder that searches may end at another
 * stretch whose cosine is within COSINE_TIE of the best. With a centre these bounds are shares of |s x| + |s c|
 * (kernels/check/groups_check.c). Restored vectors agree to RESTORE_F32 (f32 output) or to one rounding of the type
 * plus RESTORE_F16, relative to the vector's norm. */
#ifndef RB_KERNELS_CUDA_CODEC_CUDA_H
#define RB_KERNELS_CUDA_CODEC_CUDA_H

#include "core/cuda_device.h"
#include "kernels/cuda/codec_image.h"

#define CODEC_CUDA_CODE_TIE    4e-6 /* of a unit vector's coordinate */
#define CODEC_CUDA_NORM_TIE    1e-6 /* relative */
#define CODEC_CUDA_COSINE_TIE  1e-6 /* relative */
#define CODEC_CUDA_RESTORE_F32 4e-6 /* largest error of a coordinate over the vector's norm */
#define CODEC_CUDA_RESTORE_F16 5e-4 /* operands of the product are rounded to fp16 */
#define CODEC_CUDA_LOGITS      1e-5 /* over |q| |k| */
/* The bounds of block-codebook. Arithmetic is f32, with a unit of 2^-24. A coordinate of x - c - g M p errs by at most
 * one unit for x - c, two for M p (rounded once to f32, and once in g M p by the fused product) and one for the
 * difference, each a share of |x| + |c| + g |M p|. That makes 4 sqrt(2) units, 3.4e-7, for a distance. A comparison has
 * two of them, and their squares two roundings more: 8e-7. A restored dim has four roundings, of parts that are at most
 * twice max |M p|, and of |c|. */
#define CODEC_CUDA_BLOCK_CODEBOOK_TIE     1e-6 /* distance over |x| + |c| + g max |M p| of a block */
#define CODEC_CUDA_BLOCK_CODEBOOK_RESTORE 1e-6 /* largest error of a coordinate over |c| + g max |M p| of its block */
/* The bounds of trellis, in the same units u = 2^-24, for n coordinates and dims, 256 at most. A coordinate z is a sum
 * of n products in f32, of factors that are rounded once: it errs by at most n + 3 units of S, the sum of what it is
 * made of (kernels/check/trellis_check.c). A path that is best for such z is worse than the best by at most twice that,
 * 518 u. The error of a path is a sum of n squares, none of them negative: it errs by at most n + 4 units of itself,
 * its root by half of that, and two of them are compared: 260 u. A restored dim is a sum of n products that are exact.
 * The tensor cores add 16 at a time, and may cut each addend, and the sum before, off at one unit of the largest: 17 u
 * for each 16 coordinates, 272 u in all. The gain and the centre take two roundings more. */
#define CODEC_CUDA_TRELLIS_TIE     3.2e-5 /* 518 u is 3.1e-5 */
#define CODEC_CUDA_TRELLIS_RESTORE 1.7e-5 /* 274 u is 1.63e-5 */

#ifdef __cplusplus
extern "C" {
#endif

typedef enum codec_dtype { CODEC_F16, CODEC_BF16, CODEC_F32, CODEC_N_DTYPES } codec_dtype;

/* Vectors on the device: element (head, t, dim) at data + head * head_stride + t * token_stride + dim; strides in
 * elements, multiples of 8 (16-byte loads), data aligned to 16 bytes. [n][n_heads][head_dim] and [n_heads][n][head_dim]
 * are both this. */
typedef struct codec_vectors {
    void *data;
    codec_dtype type;
    int64_t head_stride, token_stride;
} codec_vectors;

/* An image whose arrays are in the device's memory. */
typedef struct codec_device_image {
    codec_image on_device;
} codec_device_image;

/* packed: codec_image_packed_offset(image, n_heads, n) bytes; norms: codec_image_norms_offset(image, n_heads, n) bytes;
 * both aligned to 16 bytes. first_bad: one word, lowered to head * n + t of the first vector with a value that is not
 * finite or a norm that fp16 cannot hold; the caller sets it to UINT64_MAX before. All asynchronous on the stream. */
typedef struct codec_cuda_api {
    rb_status (*encode)(const codec_device_image *image, const codec_vectors *x, int64_t n, uint8_t *packed,
                        void *norms, uint64_t *first_bad, void *stream, rb_error *err);
    rb_status (*decode)(const codec_device_image *image, const uint8_t *packed, const void *norms, int64_t n,
                        const codec_vectors *x_hat, void *stream, rb_error *err);
    /* logits[head][query][t] = q . k^, from packed keys: queries are rotated once, keys never restored. queries
     * [n_heads][n_queries][head_dim] f32; rotated: scratch of as many floats, rounded up to a multiple of 8 queries;
     * logits [n_heads][n_queries][n] f32. */
    rb_status (*logits)(const codec_device_image *image, const uint8_t *packed, const void *norms, int64_t n,
                        const float *queries, int n_queries, float *rotated, float *logits, void *stream,
                        rb_error *err);
} codec_cuda_api;

#ifndef __cplusplus
/* ---- the C side ------------------------------------------------------------------------------ */
typedef struct codec_cuda codec_cuda; /* an image that lives on the device */

/* rb_cuda_open first. Copies what it needs; `image` may be freed after. */
rb_status codec_cuda_create(codec_cuda **out, const codec_image *image, rb_error *err);
void codec_cuda_free(codec_cuda *codec);
int64_t codec_cuda_bytes(const codec_image *image); /* of device memory that it takes; needs no GPU */
const codec_device_image *codec_cuda_image(const codec_cuda *codec);
rb_status codec_cuda_functions(const codec_cuda_api **api, rb_error *err);
#else
}
#endif

#endif
