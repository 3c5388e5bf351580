/* Chunks of a dataset, without HDF5: which chunks a box touches, how their elements go into and out of an array, and
 * the threads that work on them. Leading ones bring every shape to rank 4, so that every function has one case. */
#ifndef RB_CORE_HDF5_HDF5_CHUNKS_H
#define RB_CORE_HDF5_HDF5_CHUNKS_H

#include <zstd.h>

#include "core/crew.h"
#include "core/hdf5/hdf5_file.h"

enum { RB_H5_RANK = RB_H5_MAX_RANK };

/* The chunks that a box of a dataset touches, numbered in row-major order. An array in memory holds only the box. */
typedef struct chunk_grid {
    rb_h5_type type;
    int rank;                                     /* in the file */
    int64_t begin[RB_H5_RANK], end[RB_H5_RANK];   /* the box, in elements of the dataset */
    int64_t chunk[RB_H5_RANK];                    /* extent of a chunk */
    int64_t first[RB_H5_RANK], count[RB_H5_RANK]; /* chunk coordinates */
    int64_t n_chunks;
    size_t chunk_bytes; /* in the file, decoded */
} chunk_grid;

/* begin, end, chunk: rank of each, begin < end. */
chunk_grid chunk_grid_make(rb_h5_type type, int rank, const int64_t *begin, const int64_t *end, const int64_t *chunk);

/* First element of a chunk, as HDF5 names it: rank coordinates. */
void chunk_grid_offset(const chunk_grid *grid, int64_t index, hsize_t offset[RB_H5_RANK]);

/* The chunk as the file stores it. Where the array holds it in one piece and in the same form, this is its place in the
 * array; elsewhere it is gathered in `room` (chunk_bytes), with zeros where the box does not reach. *fits: every value
 * of the chunk suits the type. */
const void *chunk_grid_gather(const chunk_grid *grid, int64_t index, void *room, const void *array, bool *fits);
/* Where in the array the chunk's stored bytes belong as they are; NULL: they must be scattered. */
void *chunk_grid_place(const chunk_grid *grid, int64_t index, void *array);
/* Copies what chunk and box share from the chunk into the array, and converts it. */
void chunk_grid_scatter(const chunk_grid *grid, int64_t index, const void *chunk, void *array);
/* Whether all values that chunk and box share are finite. The array has been read. */
bool chunk_grid_fits(const chunk_grid *grid, int64_t index, const void *array);

/* ---- the crew -------------------------------------------------------------------------------- */

typedef struct chunk_buffer {
    unsigned char *at;
    size_t size_bytes;
} chunk_buffer;

/* Makes the buffer at least this large, with undefined content; false without memory. */
bool chunk_buffer_reserve(chunk_buffer *buffer, size_t size_bytes);

/* What each thread has for itself. */
typedef struct chunk_tools {
    chunk_buffer elements, frame;
    ZSTD_CCtx *packer;
    ZSTD_DCtx *unpacker;
} chunk_tools;

/* A frame on its way into the file. */
typedef struct chunk_slot {
    chunk_buffer frame;
    size_t frame_bytes; /* 0: could not be made */
    bool is_unfit;      /* it has a value that the type cannot hold */
} chunk_slot;

struct rb_h5_crew {
    int n_threads, n_slots;
    rb_crew *threads;   /* NULL until there is work for more than one */
    chunk_tools *tools; /* [n_threads] */
    chunk_slot *slots;  /* [n_slots] */
};

/* Calls work(user, member) in as many threads as the size of the grid is worth. */
rb_status chunk_crew_run(rb_h5_crew *crew, const chunk_grid *grid, void (*work)(void *user, int member), void *user,
                         rb_error *err);

#endif
