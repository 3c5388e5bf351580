/* What the files of core/hdf5 share. Nobody else includes it. */
#ifndef RB_CORE_HDF5_HDF5_INTERNAL_H
#define RB_CORE_HDF5_HDF5_INTERNAL_H

#include "core/hdf5/hdf5_chunks.h"

/* "FILE: PATH: sentence", with the path from the root of the file, for a file that is written. */
rb_status rb_h5_fail(rb_error *err, rb_status st, hid_t loc, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* The same right after a call that HDF5 itself refused; ends with what HDF5 or the operating system gave as the reason.
 */
rb_status rb_h5_fail_call(rb_error *err, rb_status st, hid_t loc, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* Why the last call failed: the operating system's words where there are any, HDF5's elsewhere. True: the file is
 * shorter than it says. */
bool rb_h5_last_cause(char *cause, size_t size);

/* The chunks of a dataset, in elements, as rb_h5_write cuts it: dims and chunk [rank]. */
void rb_h5_choose_chunk(rb_h5_type type, int rank, const int64_t *dims, int64_t *chunk);
/* A new dataset, closed with H5Dclose. zstd_level 0: contiguous. */
rb_status rb_h5_create_dataset(hid_t *out, hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims,
                               int zstd_level, rb_error *err);

/* offset and size_bytes of the frames of a dataset that is written. */
rb_status rb_h5_find_frames(hid_t dataset, const chunk_grid *grid, rb_h5_frame *frames, hid_t loc, const char *path,
                            rb_error *err);

/* Every thread has an error stack of its own, which would print itself page by page: called by each function that
 * writes, since any thread may be its first. */
void rb_h5_silence_thread(void);

/* offset and size_bytes of the frames of a dataset that is written. */
rb_status rb_h5_find_frames(hid_t dataset, const chunk_grid *grid, rb_h5_frame *frames, hid_t loc, const char *path,
                            rb_error *err);

/* How files are opened; closed with H5Pclose, negative on failure. */
hid_t rb_h5_access_list(void);

#endif
