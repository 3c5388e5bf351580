/* See core/hdf5/hdf5_chunks.h. */
#include "core/hdf5/hdf5_chunks.h"

#include <stdlib.h>
#include <string.h>

#include "core/hdf5/hdf5_elements.h"
#include "core/threads.h"

enum { RANK = RB_H5_RANK, SLOTS_PER_THREAD = 2 };

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

void chunk_grid_offset(const chunk_grid *grid, int64_t index, hsize_t offset[RB_H5_RANK])
{
    int64_t origin[RANK];
    chunk_origin(grid, index, origin);
    for (int i = 0; i < grid->rank; i++) offset[i] = (hsize_t)origin[RANK - grid->rank + i];
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Walks what chunk and box share, row by row. A row runs along the last dimension, and on through the dimensions before
 * it as long as there is no gap in either. */
typedef struct row_walk {
    const chunk_grid *grid;
    int n_outer;                                  /* dimensions before those of a row */
    int64_t origin[RANK], begin[RANK], end[RANK]; /* the chunk's first element; the shared part; dataset coordinates */
    int64_t at[RANK];                             /* of the next row */
    bool is_over;
    /* The current row: where it starts in chunk and array, and its length, in elements. */
    int64_t in_chunk, in_array, n;
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
    walk.n_outer = RANK - 1;
    walk.n = walk.end[RANK - 1] - walk.begin[RANK - 1];
    for (int i = RANK - 1;
         i > 0 && walk.end[i] - walk.begin[i] == grid->chunk[i] && grid->chunk[i] == grid->end[i] - grid->begin[i];
         i--) {
        walk.n *= walk.end[i - 1] - walk.begin[i - 1];
        walk.n_outer--;
    }
    return walk;
}

static bool next_row(row_walk *walk)
{
    const chunk_grid *grid = walk->grid;
    if (walk->is_over) return false;
    walk->in_chunk = walk->in_array = 0;
    for (int i = 0; i < RANK; i++) {
        walk->in_chunk = walk->in_chunk * grid->chunk[i] + walk->at[i] - walk->origin[i];
        walk->in_array = walk->in_array * (grid->end[i] - grid->begin[i]) + walk->at[i] - grid->begin[i];
    }
    int i = walk->n_outer - 1;
    while (i >= 0 && ++walk->at[i] == walk->end[i]) {
        walk->at[i] = walk->begin[i];
        i--;
    }
    walk->is_over = i < 0;
    return true;
}

/* Elements that chunk and box share. */
static int64_t count_shared(const row_walk *walk)
{
    int64_t n = 1;
    for (int i = 0; i < RANK; i++) n *= walk->end[i] - walk->begin[i];
    return n;
}

void *chunk_grid_place(const chunk_grid *grid, int64_t index, void *array)
{
    const size_t in_file = rb_h5_file_bytes(grid->type);
    row_walk walk = walk_rows(grid, index);
    next_row(&walk);
    return in_file == rb_h5_memory_bytes(grid->type) && (size_t)walk.n * in_file == grid->chunk_bytes
               ? (char *)array + walk.in_array * (int64_t)in_file
               : NULL;
}

bool chunk_grid_fits(const chunk_grid *grid, int64_t index, const void *array)
{
    const int64_t in_memory = (int64_t)rb_h5_memory_bytes(grid->type);
    row_walk walk = walk_rows(grid, index);
    bool fits = true;
    while (next_row(&walk))
        fits = rb_h5_fits(grid->type, (const char *)array + walk.in_array * in_memory, walk.n) && fits;
    return fits;
}

const void *chunk_grid_gather(const chunk_grid *grid, int64_t index, void *room, const void *array, bool *fits)
{
    const int64_t in_file = (int64_t)rb_h5_file_bytes(grid->type), in_memory = (int64_t)rb_h5_memory_bytes(grid->type);
    const void *place = chunk_grid_place(grid, index, (void *)array);
    row_walk walk = walk_rows(grid, index);
    *fits = chunk_grid_fits(grid, index, array);
    if (place) return place;
    if ((size_t)(count_shared(&walk) * in_file) < grid->chunk_bytes) memset(room, 0, grid->chunk_bytes);
    while (next_row(&walk))
        rb_h5_to_file(grid->type, (char *)room + walk.in_chunk * in_file,
                      (const char *)array + walk.in_array * in_memory, walk.n);
    return room;
}

void chunk_grid_scatter(const chunk_grid *grid, int64_t index, const void *chunk, void *array)
{
    const int64_t in_file = (int64_t)rb_h5_file_bytes(grid->type), in_memory = (int64_t)rb_h5_memory_bytes(grid->type);
    row_walk walk = walk_rows(grid, index);
    while (next_row(&walk))
        rb_h5_from_file(grid->type, (char *)array + walk.in_array * in_memory,
                        (const char *)chunk + walk.in_chunk * in_file, walk.n);
}

/* ---- the crew -------------------------------------------------------------------------------- */

bool chunk_buffer_reserve(chunk_buffer *buffer, size_t size_bytes)
{
    if (buffer->size_bytes >= size_bytes) return true;
    free(buffer->at);
    buffer->at = malloc(size_bytes);
    buffer->size_bytes = buffer->at ? size_bytes : 0;
    return buffer->at != NULL;
}

rb_status rb_h5_crew_create(rb_h5_crew **out, rb_error *err)
{
    rb_h5_crew *crew = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&crew, 1, sizeof *crew, "HDF5 threads", err), done);
    crew->n_threads = rb_threads_count();
    crew->n_slots = crew->n_threads > 1 ? SLOTS_PER_THREAD * crew->n_threads : 1;
    RB_TRY(st, rb_alloc(&crew->tools, (size_t)crew->n_threads, sizeof *crew->tools, "HDF5 threads", err), done);
    RB_TRY(st, rb_alloc(&crew->slots, (size_t)crew->n_slots, sizeof *crew->slots, "HDF5 frames", err), done);
    *out = crew;
    crew = NULL;
done:
    rb_h5_crew_free(crew);
    return st;
}

void rb_h5_crew_free(rb_h5_crew *crew)
{
    if (!crew) return;
    rb_crew_free(crew->threads);
    for (int i = 0; crew->tools && i < crew->n_threads; i++) {
        free(crew->tools[i].elements.at);
        free(crew->tools[i].frame.at);
        ZSTD_freeCCtx(crew->tools[i].packer);
        ZSTD_freeDCtx(crew->tools[i].unpacker);
    }
    for (int i = 0; crew->slots && i < crew->n_slots; i++) free(crew->slots[i].frame.at);
    free(crew->tools);
    free(crew->slots);
    free(crew);
}

rb_status chunk_crew_run(rb_h5_crew *crew, const chunk_grid *grid, void (*work)(void *user, int member), void *user,
                         rb_error *err)
{
    enum { SMALL_BYTES = 1 << 17 }; /* less is not worth a second thread */
    const bool is_small = (size_t)grid->n_chunks <= SMALL_BYTES / grid->chunk_bytes;
    const int n_members = is_small || grid->n_chunks == 1    ? 1
                          : grid->n_chunks < crew->n_threads ? (int)grid->n_chunks
                                                             : crew->n_threads;
    if (n_members == 1) {
        work(user, 0);
        return RB_OK;
    }
    if (!crew->threads) {
        const rb_status st = rb_crew_create(&crew->threads, crew->n_threads, err);
        if (st != RB_OK) return st;
    }
    rb_crew_run(crew->threads, n_members, work, user);
    return RB_OK;
}
