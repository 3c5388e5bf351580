/* See core/hdf5_chunks.h. */
#include "core/hdf5_chunks.h"

#include <omp.h>
#include <stdlib.h>

#include "core/hdf5_elements.h"
#include "core/hdf5_zstd_filter.h"

enum { RANK = RB_H5_RANK, CHUNKS_PER_THREAD = 2 };

chunk_grid chunk_grid_make(rb_h5_type type, int rank, const int64_t *begin, const int64_t *end, const int64_t *chunk)
{
    chunk_grid grid = {.type = type, .rank = rank, .n_chunks = 1, .chunk_bytes = rb_h5_file_bytes(type)};
    for (int i = 0; i < RANK; i++) {
        const int at = i - (RANK - rank);
        grid.begin[i] = at < 0 ? 0 : begin[at];
        grid.end[i] = at < 0 ? 1 : end[at];
        grid.chunk[i] = at < 0 ? 1 : chunk[at];
        grid.first[i] = grid.begin[i] / grid.chunk[i];
        grid.count[i] = (grid.end[i] - 1) / grid.chunk[i] - grid.first[i] + 1;
        grid.n_chunks *= grid.count[i];
        grid.chunk_bytes *= (size_t)grid.chunk[i];
    }
    return grid;
}

static void chunk_origin(const chunk_grid *grid, int64_t index, int64_t origin[RANK])
{
    for (int i = RANK - 1; i >= 0; i--) {
        origin[i] = (grid->first[i] + index % grid->count[i]) * grid->chunk[i];
        index /= grid->count[i];
    }
}

bool chunk_grid_wants_threads(const chunk_grid *grid)
{
    enum { SMALL_BYTES = 1 << 17 };
    return grid->n_chunks > 1 && (size_t)grid->n_chunks > SMALL_BYTES / grid->chunk_bytes;
}

void chunk_grid_offset(const chunk_grid *grid, int64_t index, hsize_t offset[RB_H5_RANK])
{
    int64_t origin[RANK];
    chunk_origin(grid, index, origin);
    for (int i = 0; i < grid->rank; i++) offset[i] = (hsize_t)origin[RANK - grid->rank + i];
}

/* ---- rows -------------------------------------------------------------------------------------------------------------------- */

/* Walks the rows of the last dimension that chunk and box share. */
typedef struct row_walk {
    const chunk_grid *grid;
    int64_t origin[RANK], begin[RANK], end[RANK];   /* the chunk's first element; the shared part; dataset coordinates */
    int64_t at[RANK];                               /* of the next row */
    int64_t in_chunk, in_array, n;                  /* the present row: where it starts in each, in elements, and its length */
} row_walk;

static row_walk walk_rows(const chunk_grid *grid, int64_t index)
{
    row_walk walk = {.grid = grid};
    chunk_origin(grid, index, walk.origin);
    for (int i = 0; i < RANK; i++) {
        const int64_t chunk_end = walk.origin[i] + grid->chunk[i];
        walk.begin[i] = walk.origin[i] > grid->begin[i] ? walk.origin[i] : grid->begin[i];
        walk.end[i] = chunk_end < grid->end[i] ? chunk_end : grid->end[i];
        walk.at[i] = walk.begin[i];
    }
    walk.n = walk.end[RANK - 1] - walk.begin[RANK - 1];
    return walk;
}

static bool next_row(row_walk *walk)
{
    const chunk_grid *grid = walk->grid;
    if (walk->at[0] == walk->end[0]) return false;
    walk->in_chunk = walk->in_array = 0;
    for (int i = 0; i < RANK; i++) {
        walk->in_chunk = walk->in_chunk * grid->chunk[i] + walk->at[i] - walk->origin[i];
        walk->in_array = walk->in_array * (grid->end[i] - grid->begin[i]) + walk->at[i] - grid->begin[i];
    }
    for (int i = RANK - 2; i >= 0; i--) {   /* count up; the first dimension runs over its end when all is done */
        if (++walk->at[i] < walk->end[i] || i == 0) break;
        walk->at[i] = walk->begin[i];
    }
    return true;
}

void chunk_grid_gather(const chunk_grid *grid, int64_t index, void *chunk, const void *array)
{
    const int64_t in_file = (int64_t)rb_h5_file_bytes(grid->type), in_memory = (int64_t)rb_h5_memory_bytes(grid->type);
    row_walk walk = walk_rows(grid, index);
    while (next_row(&walk))
        rb_h5_to_file(grid->type, (char *)chunk + walk.in_chunk * in_file, (const char *)array + walk.in_array * in_memory, walk.n);
}

void chunk_grid_scatter(const chunk_grid *grid, int64_t index, const void *chunk, void *array)
{
    const int64_t in_file = (int64_t)rb_h5_file_bytes(grid->type), in_memory = (int64_t)rb_h5_memory_bytes(grid->type);
    row_walk walk = walk_rows(grid, index);
    while (next_row(&walk))
        rb_h5_from_file(grid->type, (char *)array + walk.in_array * in_memory, (const char *)chunk + walk.in_chunk * in_file, walk.n);
}

/* ---- batches ----------------------------------------------------------------------------------------------------------------- */

rb_status chunk_batch_make(chunk_batch *batch, const chunk_grid *grid, rb_error *err)
{
    const int64_t wanted = (int64_t)CHUNKS_PER_THREAD * omp_get_max_threads();
    *batch = (chunk_batch){.n_slots = wanted < grid->n_chunks ? wanted : grid->n_chunks,
                           .chunk_bytes = grid->chunk_bytes,
                           .frame_capacity = rb_zstd_capacity(grid->chunk_bytes)};
    const size_t n_slots = (size_t)batch->n_slots;
    rb_status st;
    RB_TRY(st, rb_alloc(&batch->elements, n_slots, batch->chunk_bytes, "HDF5 chunks", err), done);
    RB_TRY(st, rb_alloc(&batch->frames, n_slots, batch->frame_capacity, "HDF5 chunk frames", err), done);
    RB_TRY(st, rb_alloc(&batch->frame_bytes, n_slots, sizeof *batch->frame_bytes, "HDF5 chunk sizes", err), done);
    RB_TRY(st, rb_alloc(&batch->is_plain, n_slots, sizeof *batch->is_plain, "HDF5 chunk masks", err), done);
done:
    return st;
}

void chunk_batch_free(chunk_batch *batch)
{
    free(batch->elements);
    free(batch->frames);
    free(batch->frame_bytes);
    free(batch->is_plain);
}

unsigned char *chunk_batch_elements(const chunk_batch *batch, int64_t slot) { return batch->elements + (size_t)slot * batch->chunk_bytes; }

unsigned char *chunk_batch_frame(const chunk_batch *batch, int64_t slot) { return batch->frames + (size_t)slot * batch->frame_capacity; }

int64_t chunk_batch_end(const chunk_batch *batch, const chunk_grid *grid, int64_t first)
{
    return grid->n_chunks - first < batch->n_slots ? grid->n_chunks : first + batch->n_slots;
}
