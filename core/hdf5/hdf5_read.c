/* Whole datasets in: see core/hdf5/hdf5_file.h.
 *
 * Reading trusts no size: type, shape, layout and filter are checked before anything is read, and a frame must decode
 * to exactly its chunk. Only layouts that we write are read: contiguous or chunked, without a filter or only with zstd.
 * Threads take turns at getting a frame from HDF5 with H5Dread_chunk; each then decompresses and converts its frame
 * while others do the same. H5Dread is not used on chunks: it would take a frame shorter than its chunk at its word and
 * read past the end. */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/hdf5/hdf5_chunks.h"
#include "core/hdf5/hdf5_elements.h"
#include "core/hdf5/hdf5_internal.h"
#include "core/hdf5/hdf5_zstd_filter.h"

enum { MAX_CHUNK_BYTES = 64 << 20 };

/* An open dataset that has passed its checks. */
typedef struct open_dataset {
    hid_t id, loc;
    const char *path;
    rb_h5_type type; /* of the file */
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
    else if (found != rank) st = rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "rank %d, expected %d", found, rank);
    set->rank = rank;
    for (int i = 0; st == RB_OK && i < rank; i++) {
        if (extent[i] == 0 || extent[i] > INT64_MAX)
            st = rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "dimension %d is %llu", i,
                            (unsigned long long)extent[i]);
        set->dims[i] = (int64_t)extent[i];
    }
    if (space >= 0) H5Sclose(space);
    return st;
}

/* Fills in dims of -1 and refuses any other difference. */
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

/* The type must be `type`. With is_loose F16 may also be F32, and F32 may be F16. */
static rb_status match_type(open_dataset *set, rb_h5_type type, bool is_loose, rb_error *err)
{
    static const char *const class_names[] = {
        [H5T_INTEGER] = "integers", [H5T_FLOAT] = "floats", [H5T_STRING] = "strings"};
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
        const char *class_name =
            class_id >= 0 && (size_t)class_id < RB_COUNT(class_names) ? class_names[class_id] : NULL;
        st = rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "%zu-byte %s of another kind, expected little-endian %s",
                        H5Tget_size(found), class_name ? class_name : "elements", rb_h5_type_name(type));
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
    if (H5Pget_chunk(list, H5S_MAX_RANK, extent) != set->rank)
        return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "chunks of another rank");
    for (int i = 0; i < set->rank; i++) {
        if (extent[i] == 0 || __builtin_mul_overflow(n_bytes, (uint64_t)extent[i], &n_bytes)
            || n_bytes > MAX_CHUNK_BYTES)
            return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "chunks of more than %d MiB",
                              MAX_CHUNK_BYTES >> 20);
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
    if (layout == H5D_LAYOUT_ERROR) st = rb_h5_fail_call(err, RB_EFORMAT, set->loc, set->path, "damaged layout");
    else if (layout == H5D_CHUNKED) st = read_chunking(set, list, err);
    else if (layout == H5D_VIRTUAL || H5Pget_external_count(list) != 0)
        st = rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "its data are outside this file");
    if (list >= 0) H5Pclose(list);
    return st;
}

static rb_status open_checked(open_dataset *set, hid_t loc, const char *path, rb_h5_type type, bool is_loose, int rank,
                              int64_t *dims, rb_error *err)
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

/* ---- chunks ---------------------------------------------------------------------------------- */

typedef struct read_job {
    const open_dataset *set;
    const chunk_grid *grid;
    void *data;
    rb_h5_crew *crew;
    pthread_mutex_t lock; /* HDF5 is called under it */
    int64_t n_taken;      /* chunks, from the first */
    int64_t failed;       /* the first chunk that failed; n_chunks: none */
    bool has_unfit;
    rb_status status; /* of that chunk */
    rb_error error;
} read_job;

typedef struct stored_chunk {
    size_t n_bytes;
    bool is_plain; /* the frame is the chunk itself: no filter was applied */
} stored_chunk;

/* The failure of the lowest chunk is told, whichever thread failed first. */
static void note_failure(read_job *job, int64_t index, rb_status st, const rb_error *error)
{
    if (index > job->failed) return;
    job->failed = index;
    job->status = st;
    job->error = *error;
}

/* One stored chunk. The size comes from the file, so it is checked before HDF5 copies that much. */
static rb_status fetch_chunk(const read_job *job, int64_t index, chunk_buffer *frame, stored_chunk *stored,
                             rb_error *err)
{
    const open_dataset *set = job->set;
    const size_t capacity = rb_zstd_capacity(job->grid->chunk_bytes);
    hsize_t offset[RB_H5_RANK], stored_bytes = 0;
    uint32_t skipped_filters = 0;
    chunk_grid_offset(job->grid, index, offset);
    if (H5Dget_chunk_storage_size(set->id, offset, &stored_bytes) < 0) stored_bytes = 0;
    if (stored_bytes == 0 || stored_bytes > capacity)
        return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "chunk %lld has %llu bytes stored, expected 1 to %zu",
                          (long long)index, (unsigned long long)stored_bytes, capacity);
    if (!chunk_buffer_reserve(frame, capacity))
        return rb_h5_fail(err, RB_ENOMEM, set->loc, set->path, "no memory for chunk %lld", (long long)index);
    if (H5Dread_chunk(set->id, H5P_DEFAULT, offset, &skipped_filters, frame->at) < 0)
        return rb_h5_fail_call(err, RB_EFORMAT, set->loc, set->path, "cannot read chunk %lld", (long long)index);
    *stored = (stored_chunk){.n_bytes = (size_t)stored_bytes, .is_plain = !set->has_zstd || (skipped_filters & 1u)};
    return RB_OK;
}

/* Takes a chunk and fetches it; -1: no more. */
static int64_t take_chunk(read_job *job, chunk_buffer *frame, stored_chunk *stored)
{
    rb_error error = {0};
    pthread_mutex_lock(&job->lock);
    int64_t index = job->n_taken < job->failed ? job->n_taken++ : -1;
    const rb_status st = index < 0 ? RB_OK : fetch_chunk(job, index, frame, stored, &error);
    if (st != RB_OK) {
        note_failure(job, index, st, &error);
        index = -1;
    }
    pthread_mutex_unlock(&job->lock);
    return index;
}

/* Decodes one chunk into its place in the array, or spreads it there; false when it is damaged. */
static bool unpack_chunk(const read_job *job, int64_t index, const stored_chunk *stored, chunk_tools *tools)
{
    const chunk_grid *grid = job->grid;
    void *place = chunk_grid_place(grid, index, job->data), *elements = place;
    if (stored->is_plain) {
        if (stored->n_bytes != grid->chunk_bytes) return false;
        chunk_grid_scatter(grid, index, tools->frame.at, job->data);
        return true;
    }
    if (!place) elements = chunk_buffer_reserve(&tools->elements, grid->chunk_bytes) ? tools->elements.at : NULL;
    if (!elements || !rb_zstd_unpack(&tools->unpacker, elements, grid->chunk_bytes, tools->frame.at, stored->n_bytes))
        return false;
    if (!place) chunk_grid_scatter(grid, index, elements, job->data);
    return true;
}

static void fetch_and_unpack(void *user, int member)
{
    read_job *job = user;
    chunk_tools *tools = &job->crew->tools[member];
    stored_chunk stored = {0};
    int64_t index;
    while ((index = take_chunk(job, &tools->frame, &stored)) >= 0) {
        const bool is_good = unpack_chunk(job, index, &stored, tools),
                   fits = is_good && chunk_grid_fits(job->grid, index, job->data);
        if (fits) continue;
        rb_error error = {0};
        pthread_mutex_lock(&job->lock);
        if (is_good) job->has_unfit = true;
        else
            note_failure(job, index,
                         rb_h5_fail(&error, RB_EFORMAT, job->set->loc, job->set->path, "chunk %lld is damaged",
                                    (long long)index),
                         &error);
        pthread_mutex_unlock(&job->lock);
    }
}

static rb_status read_chunks(rb_h5_crew *crew, const open_dataset *set, const int64_t *begin, const int64_t *end,
                             void *data, bool *has_unfit, rb_error *err)
{
    const chunk_grid grid = chunk_grid_make(set->type, set->rank, begin, end, set->chunk);
    read_job job = {.set = set, .grid = &grid, .data = data, .crew = crew, .failed = grid.n_chunks};
    rb_h5_crew *own = NULL;
    rb_status st;
    pthread_mutex_init(&job.lock, NULL);
    if (!crew) RB_TRY(st, rb_h5_crew_create(&own, err), done);
    if (!crew) job.crew = own;
    RB_TRY(st, chunk_crew_run(job.crew, &grid, fetch_and_unpack, &job, err), done);
    *has_unfit = job.has_unfit;
    if (job.status != RB_OK) st = rb_fail(err, job.status, "%s", job.error.msg);
done:
    rb_h5_crew_free(own);
    pthread_mutex_destroy(&job.lock);
    return st;
}

/* ---- datasets -------------------------------------------------------------------------------- */

/* A dataset whose space was never written has less storage than elements: HDF5 would hand out fill values for it. */
static bool is_stored_whole(const open_dataset *set)
{
    int64_t n;
    return rb_h5_count_elements(set->type, set->rank, set->dims, &n)
           && H5Dget_storage_size(set->id) == (hsize_t)n * rb_h5_file_bytes(set->type);
}

static rb_status read_contiguous(const open_dataset *set, const int64_t *begin, const int64_t *end, int64_t n,
                                 void *data, bool *has_unfit, rb_error *err)
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
    if (file_space < 0 || memory_space < 0
        || H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL) < 0
        || H5Dread(set->id, file_type, memory_space, file_space, H5P_DEFAULT, stored) < 0) {
        st = rb_h5_fail_call(err, RB_EFORMAT, set->loc, set->path, "cannot read");
        goto done;
    }
    rb_h5_from_file(set->type, data, stored, n);
    *has_unfit = !rb_h5_fits(set->type, data, n);
done:
    if (memory_space >= 0) H5Sclose(memory_space);
    if (file_space >= 0) H5Sclose(file_space);
    if (file_type >= 0) H5Tclose(file_type);
    free(stored);
    return st;
}

/* Rows [first, first + count) of an open dataset. */
static rb_status read_rows(rb_h5_crew *crew, const open_dataset *set, int64_t first, int64_t count, void *data,
                           rb_error *err)
{
    int64_t begin[RB_H5_RANK] = {first}, end[RB_H5_RANK], extent[RB_H5_RANK], n = 0;
    bool has_unfit = false;
    memcpy(end, set->dims, sizeof end);
    memcpy(extent, set->dims, sizeof extent);
    end[0] = first + count;
    extent[0] = count;
    if (!rb_h5_count_elements(set->type, set->rank, extent, &n))
        return rb_h5_fail(err, RB_EFORMAT, set->loc, set->path, "more elements than memory can hold");
    const rb_status st = set->is_chunked ? read_chunks(crew, set, begin, end, data, &has_unfit, err)
                                         : read_contiguous(set, begin, end, n, data, &has_unfit, err);
    if (st != RB_OK || !has_unfit) return st;
    return rb_h5_fail_unfit(err, set->type, data, rb_h5_first_unfit(set->type, data, n), set->loc, set->path);
}

rb_status rb_h5_read_by(rb_h5_crew *crew, hid_t loc, const char *path, rb_h5_type type, int rank, int64_t *dims,
                        void *data, rb_error *err)
{
    open_dataset set;
    rb_status st;
    RB_TRY(st, open_checked(&set, loc, path, type, true, rank, dims, err), done);
    RB_TRY(st, read_rows(crew, &set, 0, set.dims[0], data, err), done);
done:
    close_dataset(&set);
    return st;
}

rb_status rb_h5_read(hid_t loc, const char *path, rb_h5_type type, int rank, int64_t *dims, void *data, rb_error *err)
{
    return rb_h5_read_by(NULL, loc, path, type, rank, dims, data, err);
}

rb_status rb_h5_read_rows(hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims, int64_t first,
                          int64_t count, void *data, rb_error *err)
{
    int64_t expected[RB_H5_RANK];
    open_dataset set;
    rb_status st;
    memcpy(expected, dims, (size_t)rank * sizeof *dims);
    RB_TRY(st, open_checked(&set, loc, path, type, true, rank, expected, err), done);
    if (first < 0 || count < 1 || count > set.dims[0] - first) {
        st = rb_h5_fail(err, RB_EINVAL, loc, path, "rows %lld to %lld, expected within 0 to %lld", (long long)first,
                        (long long)(first + count), (long long)set.dims[0]);
        goto done;
    }
    RB_TRY(st, read_rows(NULL, &set, first, count, data, err), done);
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

rb_status rb_h5_check_dataset(hid_t loc, const char *path, rb_h5_type type, int rank, const int64_t *dims,
                              rb_error *err)
{
    int64_t expected[RB_H5_RANK];
    open_dataset set;
    memcpy(expected, dims, (size_t)rank * sizeof *dims);
    const rb_status st = open_checked(&set, loc, path, type, false, rank, expected, err);
    close_dataset(&set);
    return st;
}
