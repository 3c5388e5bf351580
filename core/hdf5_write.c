/* Whole datasets out: see core/hdf5_file.h.
 *
 * HDF5 would run its filter on one thread. Here the chunks of a batch are converted and compressed by all threads, and only their
 * frames pass through HDF5, in order, with H5Dwrite_chunk. A batch is a few chunks per thread, so memory does not grow with the dataset,
 * and nothing in a frame depends on which thread made it. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/hdf5_chunks.h"
#include "core/hdf5_elements.h"
#include "core/hdf5_internal.h"
#include "core/hdf5_zstd_filter.h"

enum { MAX_CHUNK_BYTES = 1 << 20 };     /* HDF5's default chunk cache: any reader can hold one */

/* Parts of equal size, as few as keep each within max: the last one is short by less than one element a part. */
static int64_t even_part(int64_t n, int64_t max)
{
    const int64_t n_parts = (n + max - 1) / max;
    return (n + n_parts - 1) / n_parts;
}

/* Chunks cover the last two dims, cut evenly where that is more than MAX_CHUNK_BYTES. */
static void choose_chunk(rb_h5_type type, int rank, const int64_t *dims, int64_t *chunk)
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
        failed = failed || H5Pset_chunk(list, rank, extent) < 0 || H5Pset_filter(list, RB_H5_ZSTD_FILTER, H5Z_FLAG_MANDATORY, 1, params) < 0;
    if (failed) {
        H5Pclose(list);
        return -1;
    }
    return list;
}

static rb_status create_dataset(hid_t *out, hid_t loc, const char *path, hid_t type, int rank, const int64_t *dims, const int64_t *chunk, int level,
                                rb_error *err)
{
    hsize_t extent[RB_H5_RANK];
    for (int i = 0; i < rank; i++) extent[i] = (hsize_t)dims[i];
    hid_t space = H5Screate_simple(rank, extent, NULL), list = make_dataset_list(rank, chunk, level);
    *out = space < 0 || list < 0 ? -1 : H5Dcreate2(loc, path, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    const rb_status st = *out < 0 ? rb_h5_fail_call(err, RB_EIO, loc, path, "cannot create dataset") : RB_OK;
    if (list >= 0) H5Pclose(list);
    if (space >= 0) H5Sclose(space);
    return st;
}

static void pack_chunk(const chunk_grid *grid, const chunk_batch *batch, int64_t index, int64_t slot, const void *data, int level)
{
    unsigned char *elements = chunk_batch_elements(batch, slot);
    /* A chunk at the edge is stored whole; what lies outside the dataset is zero, not what the slot held before. */
    memset(elements, 0, grid->chunk_bytes);
    chunk_grid_gather(grid, index, elements, data);
    batch->frame_bytes[slot] = rb_zstd_pack(chunk_batch_frame(batch, slot), batch->frame_capacity, elements, grid->chunk_bytes, level);
}

static rb_status write_batch(hid_t dataset, const chunk_grid *grid, const chunk_batch *batch, int64_t first, int64_t end, hid_t loc, const char *path,
                             rb_error *err)
{
    hsize_t offset[RB_H5_RANK];
    for (int64_t index = first; index < end; index++) {
        const int64_t slot = index - first;
        if (batch->frame_bytes[slot] == 0) return rb_h5_fail(err, RB_ENOMEM, loc, path, "zstd cannot compress chunk %lld", (long long)index);
        chunk_grid_offset(grid, index, offset);
        if (H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, offset, batch->frame_bytes[slot], chunk_batch_frame(batch, slot)) < 0)
            return rb_h5_fail_call(err, RB_EIO, loc, path, "cannot write chunk %lld", (long long)index);
    }
    return RB_OK;
}

static rb_status write_chunks(hid_t dataset, const chunk_grid *grid, const void *data, int level, hid_t loc, const char *path, rb_error *err)
{
    chunk_batch batch;
    rb_status st = chunk_batch_make(&batch, grid, err);
    for (int64_t first = 0; st == RB_OK && first < grid->n_chunks; first += batch.n_slots) {
        const int64_t end = chunk_batch_end(&batch, grid, first);
        #pragma omp parallel for schedule(dynamic, 1) if (chunk_grid_wants_threads(grid))
        for (int64_t index = first; index < end; index++) pack_chunk(grid, &batch, index, index - first, data, level);
        st = write_batch(dataset, grid, &batch, first, end, loc, path, err);
    }
    chunk_batch_free(&batch);
    return st;
}

static rb_status write_contiguous(hid_t dataset, hid_t file_type, rb_h5_type type, const void *data, int64_t n, hid_t loc, const char *path,
                                  rb_error *err)
{
    unsigned char *stored = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&stored, (size_t)n, rb_h5_file_bytes(type), path, err), done);
    rb_h5_to_file(type, stored, data, n);
    if (H5Dwrite(dataset, file_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, stored) < 0) st = rb_h5_fail_call(err, RB_EIO, loc, path, "cannot write");
done:
    free(stored);
    return st;
}

rb_status rb_h5_write(hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims, const void *data, int zstd_level, rb_error *err)
{
    static const int64_t zeros[RB_H5_RANK];
    hid_t dataset = -1, file_type = -1;
    int64_t chunk[RB_H5_RANK], n = 0, unfit;
    rb_status st = RB_OK;

    assert(rank >= 1 && rank <= RB_H5_MAX_RANK);
    if (!rb_h5_count_elements(type, rank, dims, &n)) {
        char shape[128];
        rb_h5_format_shape(shape, sizeof shape, rank, dims);
        return rb_h5_fail(err, RB_EINVAL, loc, path, "dims %s, expected positive ones that memory can hold", shape);
    }
    unfit = rb_h5_first_unfit(type, data, n);
    if (unfit >= 0) return rb_h5_fail_unfit(err, type, data, unfit, loc, path);

    choose_chunk(type, rank, dims, chunk);
    file_type = rb_h5_make_type(type);
    RB_TRY(st, create_dataset(&dataset, loc, path, file_type, rank, dims, chunk, zstd_level, err), done);
    if (zstd_level > 0) {
        const chunk_grid grid = chunk_grid_make(type, rank, zeros, dims, chunk);
        RB_TRY(st, write_chunks(dataset, &grid, data, zstd_level, loc, path, err), done);
    } else {
        RB_TRY(st, write_contiguous(dataset, file_type, type, data, n, loc, path, err), done);
    }
done:
    if (dataset >= 0 && H5Dclose(dataset) < 0 && st == RB_OK) st = rb_h5_fail_call(err, RB_EIO, loc, path, "cannot close");
    if (file_type >= 0) H5Tclose(file_type);
    return st;
}
