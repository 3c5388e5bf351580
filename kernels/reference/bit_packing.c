/* True bit packing: see kernels/reference/bit_packing.h. */
#include "kernels/reference/bit_packing.h"

#include <assert.h>

size_t packed_size_bytes(const uint8_t *widths, int n)
{
    size_t bits = 0;
    for (int i = 0; i < n; i++) bits += widths[i];
    return (bits + 7) / 8;
}

void pack_codes(uint8_t *packed, const uint8_t *codes, const uint8_t *widths, int n)
{
    uint32_t held = 0; /* bits not yet written, lowest first; never more than 7 + 8 */
    int n_held = 0;
    for (int i = 0; i < n; i++) {
        assert(codes[i] >> widths[i] == 0);
        held |= (uint32_t)codes[i] << n_held;
        for (n_held += widths[i]; n_held >= 8; n_held -= 8) {
            *packed++ = (uint8_t)held;
            held >>= 8;
        }
    }
    if (n_held > 0) *packed = (uint8_t)held;
}

rb_status unpack_codes(uint8_t *codes, const uint8_t *packed, const uint8_t *widths, int n, rb_error *err)
{
    uint32_t held = 0;
    int n_held = 0;
    for (int i = 0; i < n; i++) {
        if (n_held < widths[i]) {
            held |= (uint32_t)*packed++ << n_held;
            n_held += 8;
        }
        codes[i] = (uint8_t)(held & ((1u << widths[i]) - 1u));
        held >>= widths[i];
        n_held -= widths[i];
    }
    if (held != 0)
        return rb_fail(err, RB_EFORMAT, "packed vector of %d codes: padding bits are %u, expected 0", n, held);
    return RB_OK;
}
