/* Rotations and codebooks by (kind, seed, dims), (kind, width, dims) and bits, built once and shared by all heads.
 * Thread-safe. */
#ifndef RB_KERNELS_REFERENCE_CODEC_TABLES_H
#define RB_KERNELS_REFERENCE_CODEC_TABLES_H

#include "kernels/reference/block_codebook.h"
#include "kernels/reference/codebook.h"
#include "kernels/reference/rotation.h"

typedef struct codec_tables codec_tables;
rb_status codec_tables_create(codec_tables **out, rb_error *err);
void codec_tables_free(codec_tables *tables);

/* The shared, immutable tables; they live as long as `tables`. */
/* matrix: [2][dims][dims] double, the rotation, each value rounded to f32, and after it its transpose. */
rb_status codec_tables_rotation(codec_tables *tables, const rotation_spec *spec, const double **matrix, rb_error *err);
rb_status codec_tables_codebook(codec_tables *tables, codebook_kind kind, int width, int dims, const codebook **out,
                                rb_error *err);
/* bits 0 to BLOCK_CODEBOOK_MAX_POINT_BITS. */
rb_status codec_tables_block_codebook(codec_tables *tables, int bits, const block_codebook **out, rb_error *err);
/* bits 1 to BLOCK_CODEBOOK_MAX_LEVEL_BITS. */
rb_status codec_tables_block_levels(codec_tables *tables, int bits, const block_levels **out, rb_error *err);

#endif
