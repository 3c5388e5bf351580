/* HDF5 as ropebits uses it: no time stamps (same input, same bytes), errors as one sentence, zstd chunks.
 *
 * Compression is HDF5's registered filter 32015 (zstd). rb_h5_init registers it in this process; build/lib/hdf5-plugin/
 * libropebits_h5zstd.so is the same filter for h5dump and h5py through HDF5_PLUGIN_PATH. A chunk is one zstd frame with
 * its content size in the header, which is what h5py + hdf5plugin expects. All threads compress chunks, which are then
 * written with H5Dwrite_chunk. Only one thread at a time may call HDF5, and so it is with the functions here.
 *
 * A file that is read may be damaged on purpose, and libhdf5 ends the process on some of those. So libhdf5 sees it in a
 * child process only, and the functions that read work on what the child found (core/hdf5/hdf5_contents.h). */
#ifndef RB_CORE_HDF5_HDF5_FILE_H
#define RB_CORE_HDF5_HDF5_FILE_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/checksum.h"
#include "core/status.h"

enum { RB_H5_MAX_RANK = 4, RB_H5_ZSTD_FILTER = 32015 };

/* Registers the filter, silences HDF5's error stack. Called by create and open. */
rb_status rb_h5_init(rb_error *err);

/* What a file holds, once it is open for reading. Any number of threads may read it. */
typedef struct rb_h5_contents rb_h5_contents;

/* A file being written (under a temporary name) or read. */
typedef struct rb_h5_file {
    hid_t id;                 /* being written: for the functions that write and make, and for the HDF5 API */
    rb_h5_contents *contents; /* being read: for the functions that get, check and read */
    char *path, *tmp_path;    /* tmp_path NULL: open for reading */
    bool is_kept;             /* tmp_path is the caller's, and stays where it is not published */
} rb_h5_file;

rb_status rb_h5_create(rb_h5_file *file, const char *path, rb_error *err);
/* The same under a temporary name of the caller's on the same file system. The file stays there, as far as it was
 * written, when it is closed without being published. */
rb_status rb_h5_create_at(rb_h5_file *file, const char *path, const char *tmp_path, rb_error *err);
/* Missing, not HDF5, truncated, damaged so that libhdf5 does not survive it: each its own sentence. Forks; nothing else
 * of the process goes on in the child. */
rb_status rb_h5_open(rb_h5_file *file, const char *path, rb_error *err);
/* Closes; a written file is fsynced and renamed to its final name. */
rb_status rb_h5_publish(rb_h5_file *file, rb_error *err);
/* Closes without publishing and removes the temporary file; after publish or on a zeroed struct it does nothing. */
void rb_h5_close(rb_h5_file *file);

/* A group and its parents. */
rb_status rb_h5_make_group(hid_t parent, const char *name, rb_error *err);
/* Whether a path of hard links leads to an object, if only to a damaged one: then reading it fails. */
bool rb_h5_exists(const rb_h5_contents *file, const char *path);

/* Attributes of the object `object` ("/" or "." or a path) under loc, or of a file that is read. */
rb_status rb_h5_set_string(hid_t loc, const char *object, const char *name, const char *value, rb_error *err);
rb_status rb_h5_set_int(hid_t loc, const char *object, const char *name, int64_t value, rb_error *err);
rb_status rb_h5_set_number(hid_t loc, const char *object, const char *name, double value, rb_error *err);
bool rb_h5_has_attribute(const rb_h5_contents *file, const char *object, const char *name);
rb_status rb_h5_get_string(const rb_h5_contents *file, const char *object, const char *name, char *value, size_t size,
                           rb_error *err);
rb_status rb_h5_get_int(const rb_h5_contents *file, const char *object, const char *name, int64_t min, int64_t max,
                        int64_t *value, rb_error *err);
rb_status rb_h5_get_number(const rb_h5_contents *file, const char *object, const char *name, double *value,
                           rb_error *err);

/* schema name and version of a ropebits file, as attributes schema, schema_version, tool_version of "/". */
rb_status rb_h5_set_schema(hid_t file, const char *schema, int version, rb_error *err);
rb_status rb_h5_check_schema(const rb_h5_contents *file, const char *name, const char *schema, int version,
                             rb_error *err);

/* Types in the file. Memory is always float for F16 and F32 (rounded to nearest even on the way to F16; a value beyond
 * 65504 fails with RB_ENONFINITE and its index), double for F64, int32_t for I32. F16_BITS is F16 in the file and its
 * uint16_t bits in memory. A float dataset holds finite values only, written or read. */
typedef enum rb_h5_type { RB_H5_F16, RB_H5_F32, RB_H5_F64, RB_H5_I32, RB_H5_U8, RB_H5_F16_BITS } rb_h5_type;

/* Flat index of the first value that `type` cannot hold, -1 when all fit: not finite, or beyond 65504 for F16. Always
 * -1 for integers. */
int64_t rb_h5_first_unfit(rb_h5_type type, const void *data, int64_t n);
/* An element of an array in memory, of a float type. */
double rb_h5_value(rb_h5_type type, const void *data, int64_t index);

/* Threads for chunks, with their buffers: rb_threads_count() of them. Callers that write or read many datasets keep
 * one. */
typedef struct rb_h5_crew rb_h5_crew;
rb_status rb_h5_crew_create(rb_h5_crew **out, rb_error *err);
void rb_h5_crew_free(rb_h5_crew *crew); /* NULL is fine */

/* Writes a whole dataset; parents of the path must exist, dims are positive. zstd_level 0: contiguous, uncompressed
 * (small tables). Otherwise chunks cover the last two dimensions, at most 1 MiB each, compressed in parallel; any
 * thread count gives the same bytes. */
rb_status rb_h5_write(hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims, const void *data,
                      int zstd_level, rb_error *err);
/* The same by a given crew; NULL: by one that is made for this dataset. */
rb_status rb_h5_write_by(rb_h5_crew *crew, hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims,
                         const void *data, int zstd_level, rb_error *err);

/* A frame is the compressed bytes of a chunk. It lies in the file from the moment that rb_h5_write has returned, also
 * where the process dies before the file is closed: another file can take it over as it is. */
typedef struct rb_h5_frame {
    int64_t offset, size_bytes; /* in the file */
    rb_checksum checksum;       /* of its bytes; zeros where memory was short */
} rb_h5_frame;

/* Of a dataset that rb_h5_write cuts into chunks: how many frames it has, and the most bytes of one. */
int64_t rb_h5_n_frames(rb_h5_type type, int rank, const int64_t *dims);
int64_t rb_h5_max_frame_bytes(rb_h5_type type, int rank, const int64_t *dims);
/* rb_h5_write_by with a zstd_level, not 0, and frames [rb_h5_n_frames] out. The threads that compress hash too. */
rb_status rb_h5_write_noted(rb_h5_crew *crew, hid_t loc, const char *path, rb_h5_type type, int rank,
                            const int64_t *dims, const void *data, int zstd_level, rb_h5_frame *frames, rb_error *err);
/* Writes a dataset from the frames that the file `fd` has of it; then they are those of this file. The bytes are those
 * of rb_h5_write with this zstd_level of the elements. The frames are not looked at; `from` names their file in
 * messages. */
rb_status rb_h5_write_frames(hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims,
                             int zstd_level, int fd, const char *from, rb_h5_frame *frames, rb_error *err);

/* Reads a whole dataset. Its rank and dims must be as given (a dim of -1 accepts any and is filled in), and class and
 * size of its type must suit `type` (F16 and F32 interchange). Every value of a float dataset must be finite. data:
 * caller's buffer of the right size. */
rb_status rb_h5_read(const rb_h5_contents *file, const char *path, rb_h5_type type, int rank, int64_t *dims, void *data,
                     rb_error *err);
rb_status rb_h5_read_by(rb_h5_crew *crew, const rb_h5_contents *file, const char *path, rb_h5_type type, int rank,
                        int64_t *dims, void *data, rb_error *err);
/* Checks that rb_h5_read would find this type (exactly), this shape and a layout it reads; reads no element. */
rb_status rb_h5_check_dataset(const rb_h5_contents *file, const char *path, rb_h5_type type, int rank,
                              const int64_t *dims, rb_error *err);
/* Dims only, for sizing. */
rb_status rb_h5_dims(const rb_h5_contents *file, const char *path, int rank, int64_t *dims, rb_error *err);
/* Rows [first, first + count) of the first dimension. dims[0] is the whole dataset's. */
rb_status rb_h5_read_rows(const rb_h5_contents *file, const char *path, rb_h5_type type, int rank, const int64_t *dims,
                          int64_t first, int64_t count, void *data, rb_error *err);

#endif
