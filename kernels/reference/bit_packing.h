/* True bit packing: a code of width w takes w bits, never more.
 *
 * The packed vector of one (token, head) is one bit stream: groups in plan order, dims in group order, each code's
 * least significant bit first, filling bytes from bit 0 up; the last byte is padded with zero bits. */
#ifndef RB_KERNELS_REFERENCE_BIT_PACKING_H
#define RB_KERNELS_REFERENCE_BIT_PACKING_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* Bytes of a vector of n codes with these widths (0..8 each). */
size_t packed_size_bytes(const uint8_t *widths, int n);

/* codes [n] one a byte -> packed [packed_size_bytes]. Every code must be below 1 << width: asserted. */
void pack_codes(uint8_t *packed, const uint8_t *codes, const uint8_t *widths, int n);
/* The inverse. Fails with RB_EFORMAT when the padding bits are not zero. */
rb_status unpack_codes(uint8_t *codes, const uint8_t *packed, const uint8_t *widths, int n, rb_error *err);

#endif
