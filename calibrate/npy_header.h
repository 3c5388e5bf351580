/* The header of a .npy, which is also each array of an .npz:
 *
 *   6 bytes    "\x93NUMPY"
 *   2 bytes    version: 1.0, 2.0 or 3.0
 *   2 or 4     length of the header, little-endian; 2 in version 1.0
 *   length     a Python literal {'descr': '<f4', 'fortran_order': False, 'shape': (2, 300, 64), }
 *   the rest   the data
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#ifndef RB_CALIBRATE_NPY_HEADER_H
#define RB_CALIBRATE_NPY_HEADER_H

#include "model/safetensors.h"

#define NPY_MAGIC "\x93NUMPY"
enum {
    NPY_PREFIX_BYTES = 8,            /* magic and version */
    NPY_START_BYTES = 12,            /* with the length, at most */
    NPY_MAX_HEADER_BYTES = 64 * 1024 /* what numpy itself allows is 10000 */
};

/* Bytes of the length, 2 or 4; 0 where the first NPY_PREFIX_BYTES are not those of an array. */
size_t npy_length_bytes(const unsigned char *start);
/* The length, of a start that is complete. */
size_t npy_header_length(const unsigned char *start);
/* dtype, rank (0 before) and shape of the header's text, which ends with a NUL. `where` starts the message. Fails with
 * RB_EFORMAT on what is no header, with RB_EUNSUPPORTED on Fortran order, big-endian numbers and a dtype that
 * safetensors has not. */
rb_status npy_header_parse(safetensor *tensor, const char *header, const char *where, rb_error *err);

#endif
