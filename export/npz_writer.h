/* Writes .npz: arrays that numpy.load reads, uncompressed. The format: calibrate/npz_file.h. */
#ifndef RB_EXPORT_NPZ_WRITER_H
#define RB_EXPORT_NPZ_WRITER_H

#include "model/safetensors.h"

/* Atomic, the same bytes for the same arrays. Fails with RB_EUNSUPPORTED on more than 4 GiB, where zip ends. */
rb_status npz_write(const char *path, const safetensor *arrays, int64_t n, rb_error *err);

#endif
