/* Frames of datasets, from one file to another: see core/hdf5/hdf5_file.h.
 *
 * H5Dwrite_chunk hands a frame to the operating system at once, and HDF5 keeps only metadata back. So a file whose
 * writer was killed has all frames, and no way to find them but their places, noted while it was written. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/hdf5/hdf5_chunks.h"
#include "core/hdf5/hdf5_internal.h"
#include "core/hdf5/hdf5_zstd_filter.h"

static chunk_grid whole_grid(rb_h5_type type, int rank, const int64_t *dims)
{
    static const int64_t zeros[RB_H5_RANK];
    int64_t chunk[RB_H5_RANK];
    rb_h5_choose_chunk(type, rank, dims, chunk);
    return chunk_grid_make(type, rank, zeros, dims, chunk);
}

int64_t rb_h5_n_frames(rb_h5_type type, int rank, const int64_t *dims) { return whole_grid(type, rank, dims).n_chunks; }

int64_t rb_h5_max_frame_bytes(rb_h5_type type, int rank, const int64_t *dims)
{
    return (int64_t)rb_zstd_capacity(whole_grid(type, rank, dims).chunk_bytes);
}

rb_status rb_h5_find_frames(hid_t dataset, const chunk_grid *grid, rb_h5_frame *frames, hid_t loc, const char *path,
                            rb_error *err)
{
    for (int64_t i = 0; i < grid->n_chunks; i++) {
        hsize_t offset[RB_H5_RANK], size = 0;
        haddr_t address = HADDR_UNDEF;
        unsigned mask = 0;
        chunk_grid_offset(grid, i, offset);
        if (H5Dget_chunk_info_by_coord(dataset, offset, &mask, &address, &size) < 0 || address == HADDR_UNDEF)
            return rb_h5_fail_call(err, RB_EIO, loc, path, "cannot find chunk %lld", (long long)i);
        frames[i].offset = (int64_t)address;
        frames[i].size_bytes = (int64_t)size;
    }
    return RB_OK;
}

static rb_status read_frame(int fd, const char *from, const rb_h5_frame *frame, char *bytes, rb_error *err)
{
    for (int64_t done = 0; done < frame->size_bytes;) {
        const ssize_t n = pread(fd, bytes + done, (size_t)(frame->size_bytes - done), frame->offset + done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return rb_fail(err, RB_EIO, "%s: read failed: %s", from, n < 0 ? strerror(errno) : "it is cut off");
        done += n;
    }
    return RB_OK;
}

rb_status rb_h5_write_frames(hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims,
                             int zstd_level, int fd, const char *from, rb_h5_frame *frames, rb_error *err)
{
    const chunk_grid grid = whole_grid(type, rank, dims);
    const int64_t capacity = rb_h5_max_frame_bytes(type, rank, dims);
    hid_t dataset = -1;
    char *bytes = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&bytes, (size_t)capacity, 1, path, err), done);
    RB_TRY(st, rb_h5_create_dataset(&dataset, loc, path, type, rank, dims, zstd_level, err), done);
    for (int64_t i = 0; i < grid.n_chunks; i++) {
        hsize_t offset[RB_H5_RANK];
        if (frames[i].size_bytes < 1 || frames[i].size_bytes > capacity) {
            st = rb_fail(err, RB_EFORMAT, "%s: a chunk of %lld bytes, expected 1 to %lld", from,
                         (long long)frames[i].size_bytes, (long long)capacity);
            goto done;
        }
        RB_TRY(st, read_frame(fd, from, &frames[i], bytes, err), done);
        chunk_grid_offset(&grid, i, offset);
        if (H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, offset, (size_t)frames[i].size_bytes, bytes) < 0) {
            st = rb_h5_fail_call(err, RB_EIO, loc, path, "cannot write chunk %lld", (long long)i);
            goto done;
        }
    }
    st = rb_h5_find_frames(dataset, &grid, frames, loc, path, err);
done:
    if (dataset >= 0 && H5Dclose(dataset) < 0 && st == RB_OK)
        st = rb_h5_fail_call(err, RB_EIO, loc, path, "cannot close");
    free(bytes);
    return st;
}
