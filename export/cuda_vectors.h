/* Test vectors of generated CUDA: keys, values and queries, the records that the definition makes of them, and what
 * these restore to. */
#ifndef RB_EXPORT_CUDA_VECTORS_H
#define RB_EXPORT_CUDA_VECTORS_H

#include "calibrate/capture_file.h"
#include "export/cuda_source.h"

typedef struct cuda_vectors {
    int n_tokens;
    char source[192];               /* where they are from, plain text */
    uint16_t *keys;                 /* [layers][tokens][KV heads][head_dim], fp16 words, as they enter RoPE */
    uint16_t *values;               /* [layers][tokens][KV heads][value_dim] */
    uint16_t *queries;              /* [layers][query heads][head_dim] */
    uint8_t *records;               /* [layers][tokens * max_record_bytes] */
    float *keys_back, *values_back; /* restored, of the shapes of keys and values */
} cuda_vectors;

/* capture NULL: vectors that lie between such as random codes of the plan stand for. Otherwise test tokens of the
 * capture, spread over its text, and of a capture without values such values. */
rb_status cuda_vectors_make(cuda_vectors *out, const bit_plan *plan, const cuda_tables *tables,
                            const capture_file *capture, rb_error *err);
void cuda_vectors_free(cuda_vectors *vectors);
/* test_vectors.c. */
void cuda_write_vectors(FILE *out, const cuda_vectors *vectors, const cuda_tables *tables);

#endif
