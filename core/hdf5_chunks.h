/* Chunks of a dataset, without HDF5: which ones a box touches, their elements in and out of an array, and a batch of them in flight.
 * Shapes are brought to rank 4 by leading ones; every function then has one case. */
#ifndef RB_CORE_HDF5_CHUNKS_H
#define RB_CORE_HDF5_CHUNKS_H

#include "core/hdf5_file.h"

enum { RB_H5_RANK = RB_H5_MAX_RANK };

/* The chunks that a box of a dataset touches, numbered in row-major order. An array in memory holds the box alone. */
typedef struct chunk_grid {
    rb_h5_type type;
    int rank;                                       /* in the file */
    int64_t begin[RB_H5_RANK], end[RB_H5_RANK];     /* the box, in elements of the dataset */
    int64_t chunk[RB_H5_RANK];                      /* extent of a chunk */
    int64_t first[RB_H5_RANK], count[RB_H5_RANK];   /* chunk coordinates */
    int64_t n_chunks;
    size_t chunk_bytes;                             /* in the file, decoded */
} chunk_grid;

/* begin, end, chunk: rank of each, begin < end. */
chunk_grid chunk_grid_make(rb_h5_type type, int rank, const int64_t *begin, const int64_t *end, const int64_t *chunk);

/* Whether the work is worth waking threads for: more than one chunk, and more than a few small ones. */
bool chunk_grid_wants_threads(const chunk_grid *grid);

/* First element of a chunk, as HDF5 names it: rank coordinates. */
void chunk_grid_offset(const chunk_grid *grid, int64_t index, hsize_t offset[RB_H5_RANK]);

/* What chunk and box share, from the array into the chunk or back, converted on the way. The rest stays as it is. */
void chunk_grid_gather(const chunk_grid *grid, int64_t index, void *chunk, const void *array);
void chunk_grid_scatter(const chunk_grid *grid, int64_t index, const void *chunk, void *array);

/* Chunks in flight: as many slots as a few chunks per thread, or as the grid has. */
typedef struct chunk_batch {
    int64_t n_slots;
    size_t chunk_bytes, frame_capacity;
    unsigned char *elements;    /* [n_slots][chunk_bytes] */
    unsigned char *frames;      /* [n_slots][frame_capacity] */
    size_t *frame_bytes;        /* [n_slots]; 0: failed */
    bool *is_plain;             /* [n_slots]; the frame is the chunk itself, no filter was applied */
} chunk_batch;

/* Freed with chunk_batch_free, also after a failure. */
rb_status chunk_batch_make(chunk_batch *batch, const chunk_grid *grid, rb_error *err);
void chunk_batch_free(chunk_batch *batch);

unsigned char *chunk_batch_elements(const chunk_batch *batch, int64_t slot);
unsigned char *chunk_batch_frame(const chunk_batch *batch, int64_t slot);
/* One past the last chunk of the batch that starts at chunk `first`. */
int64_t chunk_batch_end(const chunk_batch *batch, const chunk_grid *grid, int64_t first);

#endif
