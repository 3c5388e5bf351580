/* Whole datasets in: see core/hdf5_file.h.
 *
 * Reading trusts no size: type, shape, layout and filter are checked before anything is read, and a frame must decode to exactly its
 * chunk. Only what we write is read: contiguous or chunked, without a filter or with zstd alone. Frames come from HDF5 one by one with
 * H5Dread_chunk; all threads decompress and convert the frames of a batch. H5Dread is not used on chunks: it would take a frame shorter
 * than its chunk at its word and read past the end. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/hdf5_chunks.h"
#include "core/hdf5_elements.h"
#include "core/hdf5_internal.h"
#include "core/hdf5_zstd_filter.h"

enum { MAX_CHUNK_BYTES = 64 << 20 };

/* An open dataset that has passed its checks. */
typedef struct open_dataset {
    hid_t id, loc;
    const char *path;
    rb_h5_type type;            /* of the file */
    int rank;
    int64_t dims[RB_H5_RANK];
    bool is_chunked, has_zstd;
    int64_t chunk[RB_H5_RANK];
} open_dataset;

static void close_dataset(open_dataset *set)
{
    if (set->id >= 0) H5Dclose(set->id);
}

static rb_status open_any(open_dataset *set, hid_t loc, const char *path, rb_error *err)
{
    *set = (open_dataset){.id = -1, .loc = loc, .path = path};
    rb_status st = rb_h5_check_links(loc, path, err);
    if (st != RB_OK) return st;
    set->id = H5Dopen2(loc, path, H5P_DEFAULT);
    return set->id < 0 ? rb_h5_fail_call(err, RB_EFORMAT, loc, path, "not a dataset, or a damaged one") : RB_OK;
}

static rb_status read_shape(open_dataset *set, int rank, rb_error *err)
{
    hsize_t extent[H5S_MAX_RANK];
    hid_t space = H5Dget_space(set->id);
    const int found = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    rb_status st = RB_OK;
    if (found < 0 || H5Sget_simple_extent_dims(space, extent, NULL) < 0)
        st = rb_h5_fail_call(err, RB_EFORMAT, set->loc, set->path, "damaged shape");
    else if (found != rank)
        st = rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "rank %d, expected %d", found, rank);
    set->rank = rank;
    for (int i = 0; st == RB_OK && i < rank; i++) {
        if (extent[i] == 0 || extent[i] > INT64_MAX)
            st = rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "dimension %d is %llu", i, (unsigned long long)extent[i]);
        set->dims[i] = (int64_t)extent[i];
    }
    if (space >= 0) H5Sclose(space);
    return st;
}

/* Fills -1 in, refuses any other difference. */
static rb_status match_shape(const open_dataset *set, int64_t *dims, rb_error *err)
{
    bool is_same = true;
    for (int i = 0; i < set->rank; i++) is_same = is_same && (dims[i] == -1 || dims[i] == set->dims[i]);
    if (!is_same) {
        char found[128], expected[128];
        rb_h5_format_shape(found, sizeof found, set->rank, set->dims);
        rb_h5_format_shape(expected, sizeof expected, set->rank, dims);
        return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "shape %s, expected %s", found, expected);
    }
    memcpy(dims, set->dims, (size_t)set->rank * sizeof *dims);
    return RB_OK;
}

static bool is_type(hid_t found, rb_h5_type type)
{
    hid_t wanted = rb_h5_make_type(type);
    const bool is_equal = wanted >= 0 && H5Tequal(found, wanted) > 0;
    if (wanted >= 0) H5Tclose(wanted);
    return is_equal;
}

/* The type must be `type`, or with `is_loose` its neighbour among F16 and F32. */
static rb_status match_type(open_dataset *set, rb_h5_type type, bool is_loose, rb_error *err)
{
    static const char *const class_names[] = {[H5T_INTEGER] = "integers", [H5T_FLOAT] = "floats", [H5T_STRING] = "strings"};
    const bool is_short_float = type == RB_H5_F16 || type == RB_H5_F32;
    const rb_h5_type other = !is_loose || !is_short_float ? type : type == RB_H5_F16 ? RB_H5_F32 : RB_H5_F16;
    hid_t found = H5Dget_type(set->id);
    rb_status st = RB_OK;
    if (found < 0) return rb_h5_fail_call(err, RB_EFORMAT, set->loc, set->path, "damaged type");
    if (is_type(found, type)) {
        set->type = type;
    } else if (is_type(found, other)) {
        set->type = other;
    } else {
        const H5T_class_t class_id = H5Tget_class(found);
        const char *class_name = class_id >= 0 && (size_t)class_id < RB_COUNT(class_names) ? class_names[class_id] : NULL;
        st = rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "%zu-byte %s of another kind, expected little-endian %s", H5Tget_size(found),
                        class_name ? class_name : "elements", rb_h5_type_name(type));
    }
    H5Tclose(found);
    return st;
}

static rb_status read_filters(open_dataset *set, hid_t list, rb_error *err)
{
    unsigned flags;
    size_t n_params = 0;
    const int n_filters = H5Pget_nfilters(list);
    if (n_filters == 0) return RB_OK;
    if (n_filters == 1 && H5Pget_filter2(list, 0, &flags, &n_params, NULL, 0, NULL, NULL) == RB_H5_ZSTD_FILTER) {
        set->has_zstd = true;
        return RB_OK;
    }
    return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "a filter other than zstd (%d) alone", RB_H5_ZSTD_FILTER);
}

static rb_status read_chunking(open_dataset *set, hid_t list, rb_error *err)
{
    hsize_t extent[H5S_MAX_RANK];
    uint64_t n_bytes = rb_h5_file_bytes(set->type);
    if (H5Pget_chunk(list, H5S_MAX_RANK, extent) != set->rank) return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "chunks of another rank");
    for (int i = 0; i < set->rank; i++) {
        if (extent[i] == 0 || __builtin_mul_overflow(n_bytes, (uint64_t)extent[i], &n_bytes) || n_bytes > MAX_CHUNK_BYTES)
            return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "chunks of more than %d MiB", MAX_CHUNK_BYTES >> 20);
        set->chunk[i] = (int64_t)extent[i];
    }
    set->is_chunked = true;
    return read_filters(set, list, err);
}

/* Inside this file, and either in one piece or in chunks we can decode. */
static rb_status read_layout(open_dataset *set, rb_error *err)
{
    hid_t list = H5Dget_create_plist(set->id);
    rb_status st = RB_OK;
    const H5D_layout_t layout = list < 0 ? H5D_LAYOUT_ERROR : H5Pget_layout(list);
    if (layout == H5D_LAYOUT_ERROR)
        st = rb_h5_fail_call(err, RB_EFORMAT, set->loc, set->path, "damaged layout");
    else if (layout == H5D_CHUNKED)
        st = read_chunking(set, list, err);
    else if (layout == H5D_VIRTUAL || H5Pget_external_count(list) != 0)
        st = rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "its data are outside this file");
    if (list >= 0) H5Pclose(list);
    return st;
}

static rb_status open_checked(open_dataset *set, hid_t loc, const char *path, rb_h5_type type, bool is_loose, int rank, int64_t *dims, rb_error *err)
{
    rb_status st;
    assert(rank >= 1 && rank <= RB_H5_MAX_RANK);
    RB_TRY(st, open_any(set, loc, path, err), done);
    RB_TRY(st, read_shape(set, rank, err), done);
    RB_TRY(st, match_shape(set, dims, err), done);
    RB_TRY(st, match_type(set, type, is_loose, err), done);
    RB_TRY(st, read_layout(set, err), done);
done:
    return st;
}

/* One stored chunk into its slot. The size comes from the file, so it is checked before HDF5 copies that much. */
static rb_status fetch_chunk(const open_dataset *set, const chunk_grid *grid, const chunk_batch *batch, int64_t index, int64_t slot, rb_error *err)
{
    hsize_t offset[RB_H5_RANK], stored_bytes = 0;
    uint32_t skipped_filters = 0;
    chunk_grid_offset(grid, index, offset);
    if (H5Dget_chunk_storage_size(set->id, offset, &stored_bytes) < 0) stored_bytes = 0;
    if (stored_bytes == 0 || stored_bytes > batch->frame_capacity)
        return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "chunk %lld has %llu bytes stored, expected 1 to %zu", (long long)index,
                          (unsigned long long)stored_bytes, batch->frame_capacity);
    if (H5Dread_chunk(set->id, H5P_DEFAULT, offset, &skipped_filters, chunk_batch_frame(batch, slot)) < 0)
        return rb_h5_fail_call(err, RB_EFORMAT, set->loc, set->path, "cannot read chunk %lld", (long long)index);
    batch->frame_bytes[slot] = (size_t)stored_bytes;
    batch->is_plain[slot] = !set->has_zstd || (skipped_filters & 1u);
    return RB_OK;
}

/* Decodes and spreads one chunk; on failure marks the slot. */
static void unpack_chunk(const chunk_grid *grid, const chunk_batch *batch, int64_t index, int64_t slot, void *data)
{
    unsigned char *frame = chunk_batch_frame(batch, slot), *elements = chunk_batch_elements(batch, slot);
    const size_t frame_bytes = batch->frame_bytes[slot];
    const bool is_plain = batch->is_plain[slot];
    if (is_plain ? frame_bytes == grid->chunk_bytes : rb_zstd_unpack(elements, grid->chunk_bytes, frame, frame_bytes))
        chunk_grid_scatter(grid, index, is_plain ? frame : elements, data);
    else
        batch->frame_bytes[slot] = 0;
}

static rb_status read_batch(const open_dataset *set, const chunk_grid *grid, const chunk_batch *batch, int64_t first, void *data, rb_error *err)
{
    const int64_t end = chunk_batch_end(batch, grid, first);
    for (int64_t index = first; index < end; index++) {
        const rb_status st = fetch_chunk(set, grid, batch, index, index - first, err);
        if (st != RB_OK) return st;
    }
    #pragma omp parallel for schedule(dynamic, 1) if (chunk_grid_wants_threads(grid))
    for (int64_t index = first; index < end; index++) unpack_chunk(grid, batch, index, index - first, data);
    for (int64_t index = first; index < end; index++)
        if (batch->frame_bytes[index - first] == 0)
            return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "chunk %lld is damaged", (long long)index);
    return RB_OK;
}

static rb_status read_chunks(const open_dataset *set, const int64_t *begin, const int64_t *end, void *data, rb_error *err)
{
    const chunk_grid grid = chunk_grid_make(set->type, set->rank, begin, end, set->chunk);
    chunk_batch batch;
    rb_status st = chunk_batch_make(&batch, &grid, err);
    for (int64_t first = 0; st == RB_OK && first < grid.n_chunks; first += batch.n_slots) st = read_batch(set, &grid, &batch, first, data, err);
    chunk_batch_free(&batch);
    return st;
}

/* A dataset whose space was never written has less storage than elements: HDF5 would hand out fill values for it. */
static bool is_stored_whole(const open_dataset *set)
{
    int64_t n;
    return rb_h5_count_elements(set->type, set->rank, set->dims, &n) && H5Dget_storage_size(set->id) == (hsize_t)n * rb_h5_file_bytes(set->type);
}

static rb_status read_contiguous(const open_dataset *set, const int64_t *begin, const int64_t *end, int64_t n, void *data, rb_error *err)
{
    hsize_t start[RB_H5_RANK], count[RB_H5_RANK];
    hid_t file_type = -1, file_space = -1, memory_space = -1;
    unsigned char *stored = NULL;
    rb_status st;

    if (!is_stored_whole(set)) return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "part of its data is missing");
    for (int i = 0; i < set->rank; i++) {
        start[i] = (hsize_t)begin[i];
        count[i] = (hsize_t)(end[i] - begin[i]);
    }
    RB_TRY(st, rb_alloc(&stored, (size_t)n, rb_h5_file_bytes(set->type), set->path, err), done);
    file_type = rb_h5_make_type(set->type);
    file_space = H5Dget_space(set->id);
    memory_space = H5Screate_simple(set->rank, count, NULL);
    if (file_space < 0 || memory_space < 0 || H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
        H5Dread(set->id, file_type, memory_space, file_space, H5P_DEFAULT, stored) < 0) {
        st = rb_h5_fail_call(err, RB_EFORMAT, set->loc, set->path, "cannot read");
        goto done;
    }
    rb_h5_from_file(set->type, data, stored, n);
done:
    if (memory_space >= 0) H5Sclose(memory_space);
    if (file_space >= 0) H5Sclose(file_space);
    if (file_type >= 0) H5Tclose(file_type);
    free(stored);
    return st;
}

/* Rows [first, first + count) of an open dataset. */
static rb_status read_rows(const open_dataset *set, int64_t first, int64_t count, void *data, rb_error *err)
{
    int64_t begin[RB_H5_RANK] = {first}, end[RB_H5_RANK], extent[RB_H5_RANK], n = 0, unfit;
    memcpy(end, set->dims, sizeof end);
    memcpy(extent, set->dims, sizeof extent);
    end[0] = first + count;
    extent[0] = count;
    if (!rb_h5_count_elements(set->type, set->rank, extent, &n))
        return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "more elements than memory can hold");
    const rb_status st = set->is_chunked ? read_chunks(set, begin, end, data, err) : read_contiguous(set, begin, end, n, data, err);
    if (st != RB_OK) return st;
    unfit = rb_h5_first_unfit(set->type, data, n);
    return unfit < 0 ? RB_OK : rb_h5_fail_unfit(err, set->type, data, unfit, set->loc, set->path);
}

rb_status rb_h5_read(hid_t loc, const char *path, rb_h5_type type, int rank, int64_t *dims, void *data, rb_error *err)
{
    open_dataset set;
    rb_status st;
    RB_TRY(st, open_checked(&set, loc, path, type, true, rank, dims, err), done);
    RB_TRY(st, read_rows(&set, 0, set.dims[0], data, err), done);
done:
    close_dataset(&set);
    return st;
}

rb_status rb_h5_read_rows(hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims, int64_t first, int64_t count, void *data,
                          rb_error *err)
{
    int64_t expected[RB_H5_RANK];
    open_dataset set;
    rb_status st;
    memcpy(expected, dims, (size_t)rank * sizeof *dims);
    RB_TRY(st, open_checked(&set, loc, path, type, true, rank, expected, err), done);
    if (first < 0 || count < 1 || count > set.dims[0] - first) {
        st = rb_h5_fail(err, RB_EINVAL, loc, path, "rows %lld to %lld, expected within 0 to %lld", (long long)first, (long long)(first + count),
                        (long long)set.dims[0]);
        goto done;
    }
    RB_TRY(st, read_rows(&set, first, count, data, err), done);
done:
    close_dataset(&set);
    return st;
}

rb_status rb_h5_dims(hid_t loc, const char *path, int rank, int64_t *dims, rb_error *err)
{
    open_dataset set;
    rb_status st;
    assert(rank >= 1 && rank <= RB_H5_MAX_RANK);
    RB_TRY(st, open_any(&set, loc, path, err), done);
    RB_TRY(st, read_shape(&set, rank, err), done);
    memcpy(dims, set.dims, (size_t)rank * sizeof *dims);
done:
    close_dataset(&set);
    return st;
}

rb_status rb_h5_check_dataset(hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims, rb_error *err)
{
    int64_t expected[RB_H5_RANK];
    open_dataset set;
    memcpy(expected, dims, (size_t)rank * sizeof *dims);
    const rb_status st = open_checked(&set, loc, path, type, false, rank, expected, err);
    close_dataset(&set);
    return st;
}
