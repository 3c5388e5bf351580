/* Vectors of one head with what the definition makes of them: packed codes, norms, restored vectors. For what is
 * written so that other readers of a plan can be held to it. */
#ifndef RB_EXPORT_CODED_VECTORS_H
#define RB_EXPORT_CODED_VECTORS_H

#include "kernels/reference/head_codec.h"

typedef struct coded_vectors {
    int64_t n;
    int dims, packed_bytes, n_norms;
    int norm_bits;   /* of a norm, 16 or 8; 0 where the head has none */
    float *x;        /* [n][dims], as given */
    uint8_t *packed; /* [n][packed_bytes] */
    uint16_t *norms; /* [n][n_norms]: fp16 words, or bytes where norm_bits is 8 */
    float *restored; /* [n][dims] */
} coded_vectors;

/* Codes x [n][head_dim of model], which is copied. */
rb_status coded_vectors_encode(coded_vectors *out, const plan_head *head, const model_facts *model,
                               codec_tables *tables, const float *x, int64_t n, rb_error *err);
/* Restores packed [n][packed_bytes] with norms [n][n_norms]; x stays NULL. packed_bytes and n_norms are what the caller
 * has, and must be the head's: RB_EINVAL. */
rb_status coded_vectors_decode(coded_vectors *out, const plan_head *head, const model_facts *model,
                               codec_tables *tables, const uint8_t *packed, int64_t packed_bytes, const uint16_t *norms,
                               int64_t n_norms, int64_t n, rb_error *err);
/* sqrt(sum |x - restored|^2 / sum |x|^2). */
double coded_vectors_relative_error(const coded_vectors *vectors);
void coded_vectors_free(coded_vectors *vectors);

#endif
