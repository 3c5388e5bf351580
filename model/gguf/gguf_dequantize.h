/* The block types of GGUF, to f32.
 *
 * Every value equals that of the Python package `gguf` (gguf.quants.dequantize) bit for bit: the same f32 operations in
 * the same order, without fused multiply-adds. f16 is d, the scale, and m or dmin, the minimum; q is a code.
 *
 *   type   elements   bytes of a block                                                        value
 *   Q4_0      32      d f16, 16 x 2 codes (element i: low half of byte i; i + 16: high half)  d (q - 8)
 *   Q4_1      32      d, m f16, codes as Q4_0                                                 d q + m
 *   Q5_0      32      d f16, fifth bits u32, low 4 bits as Q4_0                               d (q - 16)
 *   Q5_1      32      d, m f16, fifth bits u32, low 4 bits as Q4_0                            d q + m
 *   Q8_0      32      d f16, 32 signed bytes                                                  d q
 *   Q4_K     256      d, dmin f16, 8 scales and 8 minima of 6 bits in 12 bytes, 128 x 2 codes (d s) q - dmin m
 *   Q5_K     256      as Q4_K, with 32 bytes of fifth bits before the codes                   (d s) q - dmin m
 *   Q6_K     256      128 bytes low 4 bits, 64 bytes high 2 bits, 16 signed scales, d f16     (d s) (q - 32)
 *
 * Source: ggml-quants.c of llama.cpp and quants.py of the package. */
#ifndef RB_MODEL_GGUF_DEQUANTIZE_H
#define RB_MODEL_GGUF_DEQUANTIZE_H

#include "model/tensor_dtype.h"

/* n_blocks blocks of a block type, at any alignment, into out [n_blocks * elements of a block]. */
void gguf_dequantize(tensor_dtype dtype, const unsigned char *blocks, int64_t n_blocks, float *out);

#endif
