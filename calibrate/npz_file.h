/* .npz of numpy: a zip of .npy arrays, stored or deflated. Read through libzip.
 *
 *   NAME.npy in the zip   array NAME
 *   a .npy                "\x93NUMPY", version (1.0, 2.0 or 3.0), length of the header (2 or 4 bytes), the header: a
 *                         Python literal {'descr': '<f4', 'fortran_order': False, 'shape': (2, 300, 64), }, the data
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
 *
 * An array is handed out as a safetensor: one reader of elements then serves both kinds of file. */
#ifndef RB_CALIBRATE_NPZ_FILE_H
#define RB_CALIBRATE_NPZ_FILE_H

#include "model/safetensors.h"

typedef struct npz_file npz_file;

/* Reads the header of every array. Fails with RB_EFORMAT on a zip that is damaged, an entry that is no array or whose
 * size is not that of its shape, and a name given twice; with RB_EUNSUPPORTED on Fortran order, big-endian numbers and
 * a dtype that safetensors has not. */
rb_status npz_open(npz_file **out, const char *path, rb_error *err);
void npz_close(npz_file *file); /* NULL is fine */
int64_t npz_count(const npz_file *file);
const safetensor *npz_at(const npz_file *file, int64_t index); /* data is NULL: see npz_load */

/* The data of an array, freed by free(). Its CRC is checked. */
rb_status npz_load(const npz_file *file, int64_t index, void **data, rb_error *err);

#endif
