/* The quantizer of one head, as its plan_head says. Of family block-codebook: kernels/reference/block_codebook_codec.h,
 * with 0 groups. Else TurboQuant-MSE per group (design.md, section 2): norm = |x|; u = x / norm (0 stays 0); y = R u;
 * code[j] = number of boundaries < y[j]; y^[j] = centroid[code[j]]; y^ /= |y^|; x^ = fp16(norm) * R^T y^. This is the
 * definition the CUDA kernels are held to: products and sums in double, rotation and centroids as the f32 values a
 * runtime holds. Rotations by cblas_dgemm over fixed tiles of vectors, so a batch is fast and any thread count gives
 * the same bytes. */
#ifndef RB_KERNELS_REFERENCE_HEAD_CODEC_H
#define RB_KERNELS_REFERENCE_HEAD_CODEC_H

#include "kernels/reference/encoder_stretches.h"
#include "plan/bit_plan.h"

/* What ENCODER_SEARCH stretches a vector by, beside 1: ascending. */
#define ENCODER_STRETCHES                            \
    {                                                \
        ENCODER_STRETCHES_DOWN, ENCODER_STRETCHES_UP \
    }

/* Rotations and codebooks by (kind, seed, dims) and (kind, width, dims), built once and shared by all heads.
 * Thread-safe. */
typedef struct codec_tables codec_tables;
rb_status codec_tables_create(codec_tables **out, rb_error *err);
void codec_tables_free(codec_tables *tables);
/* The shared, immutable tables; live as long as `tables`. rotation: [dims][dims] double, each value rounded to f32. */
rb_status codec_tables_rotation(codec_tables *tables, const rotation_spec *spec, const double **matrix, rb_error *err);
rb_status codec_tables_codebook(codec_tables *tables, codebook_kind kind, int width, int dims, const codebook **out,
                                rb_error *err);
rb_status codec_tables_plane(codec_tables *tables, int bits, const plane_codebook **out, rb_error *err);

typedef struct head_codec head_codec;
/* Copies what it needs of head and model; keeps pointers into tables. */
rb_status head_codec_create(head_codec **out, const plan_head *head, const model_facts *model, codec_tables *tables,
                            rb_error *err);
void head_codec_free(head_codec *codec);

int head_codec_n_groups(const head_codec *codec);
int head_codec_dims(const head_codec *codec);               /* head_dim */
const int *head_codec_permutation(const head_codec *codec); /* [head_dim]: the dim of x at each coding position */
const uint8_t *head_codec_widths(const head_codec *codec);  /* [head_dim], by coding position */
size_t head_codec_packed_bytes(const head_codec *codec);    /* codes of a vector, padded to bytes; norms not included */
const struct plane_codec *head_codec_planes(
    const head_codec *codec); /* of family block-codebook, for its judge; else NULL. Owned by codec */

/* x [n][head_dim] f32 -> codes [n][head_dim] (coding order, one a byte) and norms [n][n_groups] as fp16 bits. Not
 * parallel inside. Fails with RB_ENONFINITE naming the vector on a non-finite x or a norm that rounds to more than
 * fp16's 65504. */
rb_status head_codec_encode(const head_codec *codec, const float *x, int64_t n, uint8_t *codes, uint16_t *norms,
                            rb_error *err);
/* The inverse: x_hat [n][head_dim] f32. */
rb_status head_codec_decode(const head_codec *codec, const uint8_t *codes, const uint16_t *norms, int64_t n,
                            float *x_hat, rb_error *err);
/* encode then decode, without the codes; x_hat may be x. */
rb_status head_codec_round_trip(const head_codec *codec, const float *x, int64_t n, float *x_hat, rb_error *err);

#endif
