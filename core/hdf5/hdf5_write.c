/* Whole datasets out: see core/hdf5/hdf5_file.h.
 *
 * HDF5 would run its filter on one thread. Here all threads convert and compress chunks, and only their frames pass
 * through HDF5, by H5Dwrite_chunk, in order and one at a time. The thread that brings the next frame writes it while
 * the others go on. At most two frames a thread are on their way, so memory does not grow with the dataset. Nothing in
 * a frame depends on the thread that made it. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/handover.h"
#include "core/hdf5/hdf5_chunks.h"
#include "core/hdf5/hdf5_elements.h"
#include "core/hdf5/hdf5_internal.h"
#include "core/hdf5/hdf5_zstd_filter.h"

enum { MAX_CHUNK_BYTES = 1 << 20 }; /* HDF5's default chunk cache: any reader can hold one */

/* Size of the fewest equal parts of at most max elements. The last part is shorter by fewer elements than there are
 * parts. */
static int64_t even_part(int64_t n, int64_t max)
{
    const int64_t n_parts = (n + max - 1) / max;
    return (n + n_parts - 1) / n_parts;
}

/* Chunks cover the last two dims, cut evenly where that is more than MAX_CHUNK_BYTES. */
void rb_h5_choose_chunk(rb_h5_type type, int rank, const int64_t *dims, int64_t *chunk)
{
    const int64_t max_elements = MAX_CHUNK_BYTES / (int64_t)rb_h5_file_bytes(type);
    for (int i = 0; i < rank; i++) chunk[i] = 1;
    chunk[rank - 1] = even_part(dims[rank - 1], max_elements);
    if (rank > 1) chunk[rank - 2] = even_part(dims[rank - 2], max_elements / chunk[rank - 1]);
}

/* Creation list: no times, no fill values; zstd chunks unless level is 0. */
static hid_t make_dataset_list(int rank, const int64_t *chunk, int level)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t extent[RB_H5_RANK];
    const unsigned params[] = {(unsigned)level};
    if (list < 0) return -1;
    for (int i = 0; i < rank; i++) extent[i] = (hsize_t)chunk[i];
    herr_t failed = H5Pset_obj_track_times(list, false) < 0 || H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) < 0;
    if (level > 0)
        failed = failed || H5Pset_chunk(list, rank, extent) < 0
                 || H5Pset_filter(list, RB_H5_ZSTD_FILTER, H5Z_FLAG_MANDATORY, 1, params) < 0;
    if (failed) {
        H5Pclose(list);
        return -1;
    }
    return list;
}

rb_status rb_h5_create_dataset(hid_t *out, hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims,
                               int zstd_level, rb_error *err)
{
    hsize_t extent[RB_H5_RANK];
    int64_t chunk[RB_H5_RANK];
    rb_h5_choose_chunk(type, rank, dims, chunk);
    for (int i = 0; i < rank; i++) extent[i] = (hsize_t)dims[i];
    hid_t file_type = rb_h5_make_type(type), space = H5Screate_simple(rank, extent, NULL),
          list = make_dataset_list(rank, chunk, zstd_level);
    *out = file_type < 0 || space < 0 || list < 0
               ? -1
               : H5Dcreate2(loc, path, file_type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    const rb_status st = *out < 0 ? rb_h5_fail_call(err, RB_EIO, loc, path, "cannot create dataset") : RB_OK;
    if (file_type >= 0) H5Tclose(file_type);
    if (list >= 0) H5Pclose(list);
    if (space >= 0) H5Sclose(space);
    return st;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

typedef struct write_job {
    hid_t dataset, loc;
    const char *path;
    const chunk_grid *grid;
    const void *data;
    int level;
    rb_h5_crew *crew;
    rb_handover *frames; /* of every chunk, from the thread that packed it to the one that writes */
    rb_h5_frame *noted;  /* [n_chunks] out, or NULL */
} write_job;

static chunk_slot *slot_of(const write_job *job, int64_t index)
{
    return &job->crew->slots[index % job->crew->n_slots];
}

static void pack_chunk(const write_job *job, int64_t index, chunk_tools *tools)
{
    const chunk_grid *grid = job->grid;
    const size_t capacity = rb_zstd_capacity(grid->chunk_bytes);
    chunk_slot *slot = slot_of(job, index);
    bool fits;
    slot->frame_bytes = 0;
    if (!chunk_buffer_reserve(&tools->elements, grid->chunk_bytes) || !chunk_buffer_reserve(&slot->frame, capacity))
        return;
    const void *elements = chunk_grid_gather(grid, index, tools->elements.at, job->data, &fits);
    slot->is_unfit = !fits;
    slot->frame_bytes = rb_zstd_pack(&tools->packer, slot->frame.at, capacity, elements, grid->chunk_bytes, job->level);
    if (job->noted && slot->frame_bytes > 0)
        (void)rb_checksum_bytes(&job->noted[index].checksum, slot->frame.at, slot->frame_bytes, NULL);
}

static rb_status write_frame(const write_job *job, int64_t index, rb_error *err)
{
    const chunk_slot *slot = slot_of(job, index);
    hsize_t offset[RB_H5_RANK];
    if (slot->frame_bytes == 0)
        return rb_h5_fail(err, RB_ENOMEM, job->loc, job->path, "zstd cannot compress chunk %lld", (long long)index);
    if (slot->is_unfit) return RB_ENONFINITE; /* rb_h5_write_by finds out which value it is */
    rb_h5_silence_thread();
    chunk_grid_offset(job->grid, index, offset);
    if (H5Dwrite_chunk(job->dataset, H5P_DEFAULT, 0, offset, slot->frame_bytes, slot->frame.at) < 0)
        return rb_h5_fail_call(err, RB_EIO, job->loc, job->path, "cannot write chunk %lld", (long long)index);
    return RB_OK;
}

/* Writes all frames that are due, unless another thread is in HDF5: then that thread will come to them. */
static void write_due_frames(const write_job *job)
{
    int64_t index;
    while ((index = rb_handover_try_take(job->frames)) >= 0) {
        rb_error error = {0};
        const rb_status st = write_frame(job, index, &error);
        if (st == RB_OK) rb_handover_release(job->frames, index);
        else rb_handover_fail(job->frames, index, st, &error);
    }
}

static void pack_and_write(void *user, int member)
{
    const write_job *job = user;
    int64_t index;
    while ((index = rb_handover_claim(job->frames)) >= 0) {
        pack_chunk(job, index, &job->crew->tools[member]);
        rb_handover_give(job->frames, index);
        write_due_frames(job);
    }
}

static rb_status write_chunks(rb_h5_crew *crew, hid_t dataset, const chunk_grid *grid, const void *data, int level,
                              rb_h5_frame *noted, hid_t loc, const char *path, rb_error *err)
{
    write_job job = {.dataset = dataset,
                     .loc = loc,
                     .path = path,
                     .grid = grid,
                     .data = data,
                     .level = level,
                     .crew = crew,
                     .noted = noted};
    rb_h5_crew *own = NULL;
    rb_status st;
    if (!crew) RB_TRY(st, rb_h5_crew_create(&own, err), done);
    if (!crew) job.crew = own;
    RB_TRY(st, rb_handover_create(&job.frames, job.crew->n_slots, grid->n_chunks, err), done);
    RB_TRY(st, chunk_crew_run(job.crew, grid, pack_and_write, &job, err), done);
    RB_TRY(st, rb_handover_status(job.frames, err), done);
    if (noted) st = rb_h5_find_frames(dataset, grid, noted, loc, path, err);
done:
    rb_handover_free(job.frames);
    rb_h5_crew_free(own);
    return st;
}

/* ---- datasets -------------------------------------------------------------------------------- */

static rb_status write_contiguous(hid_t dataset, hid_t file_type, rb_h5_type type, const void *data, int64_t n,
                                  hid_t loc, const char *path, rb_error *err)
{
    unsigned char *stored = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&stored, (size_t)n, rb_h5_file_bytes(type), path, err), done);
    rb_h5_to_file(type, stored, data, n);
    if (H5Dwrite(dataset, file_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, stored) < 0)
        st = rb_h5_fail_call(err, RB_EIO, loc, path, "cannot write");
done:
    free(stored);
    return st;
}

static rb_status fail_unfit(rb_error *err, rb_h5_type type, const void *data, int64_t index, hid_t loc,
                            const char *path)
{
    return rb_h5_fail(err, RB_ENONFINITE, loc, path, "%s", rb_h5_describe_unfit(type, data, index).text);
}

rb_status rb_h5_write_by(rb_h5_crew *crew, hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims,
                         const void *data, int zstd_level, rb_error *err)
{
    return rb_h5_write_noted(crew, loc, path, type, rank, dims, data, zstd_level, NULL, err);
}

rb_status rb_h5_write_noted(rb_h5_crew *crew, hid_t loc, const char *path, rb_h5_type type, int rank,
                            const int64_t *dims, const void *data, int zstd_level, rb_h5_frame *frames, rb_error *err)
{
    static const int64_t zeros[RB_H5_RANK];
    hid_t dataset = -1, file_type = -1;
    int64_t chunk[RB_H5_RANK], n = 0, unfit = -1;
    rb_status st = RB_OK;

    assert(rank >= 1 && rank <= RB_H5_MAX_RANK);
    rb_h5_silence_thread();
    if (!rb_h5_count_elements(type, rank, dims, &n)) {
        char shape[128];
        rb_h5_format_shape(shape, sizeof shape, rank, dims);
        return rb_h5_fail(err, RB_EINVAL, loc, path, "dims %s, expected positive ones that memory can hold", shape);
    }
    if (zstd_level == 0) unfit = rb_h5_first_unfit(type, data, n);
    if (unfit >= 0) return fail_unfit(err, type, data, unfit, loc, path);

    rb_h5_choose_chunk(type, rank, dims, chunk);
    RB_TRY(st, rb_h5_create_dataset(&dataset, loc, path, type, rank, dims, zstd_level, err), done);
    if (zstd_level > 0) {
        const chunk_grid grid = chunk_grid_make(type, rank, zeros, dims, chunk);
        RB_TRY(st, write_chunks(crew, dataset, &grid, data, zstd_level, frames, loc, path, err), done);
    } else {
        file_type = rb_h5_make_type(type);
        RB_TRY(st, write_contiguous(dataset, file_type, type, data, n, loc, path, err), done);
    }
done:
    if (st == RB_ENONFINITE) { /* values are looked at when a chunk is compressed, when the dataset is there already */
        (void)H5Ldelete(loc, path, H5P_DEFAULT);
        fail_unfit(err, type, data, rb_h5_first_unfit(type, data, n), loc, path);
    }
    if (dataset >= 0 && H5Dclose(dataset) < 0 && st == RB_OK)
        st = rb_h5_fail_call(err, RB_EIO, loc, path, "cannot close");
    if (file_type >= 0) H5Tclose(file_type);
    return st;
}

rb_status rb_h5_write(hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims, const void *data,
                      int zstd_level, rb_error *err)
{
    return rb_h5_write_by(NULL, loc, path, type, rank, dims, data, zstd_level, err);
}
