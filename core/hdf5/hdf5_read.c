/* Whole datasets in: see core/hdf5/hdf5_file.h.
 *
 * Reading trusts no size: type, shape, layout and filter are checked before anything is read, and a frame must decode
 * to exactly its chunk. Only layouts that we write are read: contiguous or chunked, without a filter or only with zstd.
 * libhdf5 has no part in it (core/hdf5/hdf5_contents.h says why): each thread reads the bytes of a chunk from the place
 * that the list of contents names, decompresses and converts them. */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/hdf5/hdf5_chunks.h"
#include "core/hdf5/hdf5_contents.h"
#include "core/hdf5/hdf5_elements.h"
#include "core/hdf5/hdf5_zstd_filter.h"

enum { MAX_CHUNK_BYTES = 64 << 20 };

/* An open dataset that has passed its checks. */
typedef struct open_dataset {
    const rb_h5_contents *file;
    const h5_object *object;
    const char *path;
    rb_h5_type type; /* of the file */
    int rank;
    int64_t dims[RB_H5_RANK];
    bool is_chunked;
    int64_t chunk[RB_H5_RANK];
} open_dataset;

/* The dataset, its shape of this rank. */
static rb_status open_any(open_dataset *set, const rb_h5_contents *file, const char *path, int rank, rb_error *err)
{
    const h5_object *object = NULL;
    *set = (open_dataset){.file = file, .path = path, .rank = rank};
    const rb_status st = h5_find_object(&object, file, path, err);
    if (st != RB_OK) return st;
    if (object->facts.kind != H5_DATASET) return h5_fail(err, RB_EFORMAT, file, path, "not a dataset");
    if (object->facts.rank != rank)
        return h5_fail(err, RB_EFORMAT, file, path, "rank %d, expected %d", object->facts.rank, rank);
    for (int i = 0; i < rank; i++) {
        const uint64_t dim = object->facts.dims[i];
        if (dim == 0 || dim > INT64_MAX)
            return h5_fail(err, RB_EFORMAT, file, path, "dimension %d is %llu", i, (unsigned long long)dim);
        set->dims[i] = (int64_t)dim;
    }
    set->object = object;
    return RB_OK;
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
        return h5_fail(err, RB_EFORMAT, set->file, set->path, "shape %s, expected %s", found, expected);
    }
    memcpy(dims, set->dims, (size_t)set->rank * sizeof *dims);
    return RB_OK;
}

static bool is_type(const open_dataset *set, rb_h5_type type)
{
    return set->object->facts.type == (int)(type == RB_H5_F16_BITS ? RB_H5_F16 : type);
}

/* The type must be `type`. With is_loose F16 may also be F32, and F32 may be F16. */
static rb_status match_type(open_dataset *set, rb_h5_type type, bool is_loose, rb_error *err)
{
    static const char *const class_names[] = {
        [H5T_INTEGER] = "integers", [H5T_FLOAT] = "floats", [H5T_STRING] = "strings"};
    const bool is_short_float = type == RB_H5_F16 || type == RB_H5_F32;
    const rb_h5_type other = !is_loose || !is_short_float ? type : type == RB_H5_F16 ? RB_H5_F32 : RB_H5_F16;
    const int class_id = set->object->facts.type_class;
    if (is_type(set, type) || is_type(set, other)) {
        set->type = is_type(set, type) ? type : other;
        return RB_OK;
    }
    const char *class_name = class_id >= 0 && (size_t)class_id < RB_COUNT(class_names) ? class_names[class_id] : NULL;
    return h5_fail(err, RB_EFORMAT, set->file, set->path, "%llu-byte %s of another kind, expected little-endian %s",
                   (unsigned long long)set->object->facts.type_bytes, class_name ? class_name : "elements",
                   rb_h5_type_name(type));
}

static h5_chunk chunk_at(const open_dataset *set, uint64_t place)
{
    h5_chunk chunk;
    assert(place < set->object->n_chunks);
    memcpy(&chunk, set->object->chunks + place * sizeof chunk, sizeof chunk);
    return chunk;
}

/* Every chunk is in the file, with a size that can be right: what is allocated for the dataset then has its bytes. */
static rb_status check_chunks(const open_dataset *set, size_t chunk_bytes, rb_error *err)
{
    const h5_object_facts *facts = &set->object->facts;
    const size_t capacity = rb_zstd_capacity(chunk_bytes);
    if (set->object->n_chunks == 0 || set->object->n_chunks != h5_count_chunks(set->rank, facts->dims, facts->chunk))
        return h5_fail(err, RB_EFORMAT, set->file, set->path, "more chunks than a file of %llu bytes can hold",
                       (unsigned long long)set->file->size_bytes);
    for (uint64_t i = 0; i < set->object->n_chunks; i++) {
        const h5_chunk chunk = chunk_at(set, i);
        if (chunk.n_bytes == 0 || chunk.n_bytes > capacity)
            return h5_fail(err, RB_EFORMAT, set->file, set->path, "chunk %llu has %llu bytes stored, expected 1 to %zu",
                           (unsigned long long)i, (unsigned long long)chunk.n_bytes, capacity);
        if (!h5_is_inside(set->file, chunk.address, chunk.n_bytes))
            return h5_fail(err, RB_EFORMAT, set->file, set->path, "chunk %llu lies outside the file",
                           (unsigned long long)i);
    }
    return RB_OK;
}

/* Chunks that we can decode. */
static rb_status read_chunking(open_dataset *set, rb_error *err)
{
    const h5_object_facts *facts = &set->object->facts;
    uint64_t n_bytes = rb_h5_file_bytes(set->type);
    if (facts->chunk_rank != set->rank) return h5_fail(err, RB_EFORMAT, set->file, set->path, "chunks of another rank");
    for (int i = 0; i < set->rank; i++) {
        if (facts->chunk[i] == 0 || __builtin_mul_overflow(n_bytes, facts->chunk[i], &n_bytes)
            || n_bytes > MAX_CHUNK_BYTES)
            return h5_fail(err, RB_EFORMAT, set->file, set->path, "chunks of more than %d MiB", MAX_CHUNK_BYTES >> 20);
        set->chunk[i] = (int64_t)facts->chunk[i];
    }
    set->is_chunked = true;
    if (facts->filters != H5_FILTERS_NONE && facts->filters != H5_FILTERS_ZSTD)
        return h5_fail(err, RB_EFORMAT, set->file, set->path, "a filter other than zstd (%d) alone", RB_H5_ZSTD_FILTER);
    return check_chunks(set, (size_t)n_bytes, err);
}

/* A dataset whose space was never written has less storage than elements: HDF5 would hand out fill values for it. */
static rb_status check_stored_whole(const open_dataset *set, rb_error *err)
{
    const h5_object_facts *facts = &set->object->facts;
    int64_t n;
    if (!rb_h5_count_elements(set->type, set->rank, set->dims, &n))
        return h5_fail(err, RB_EFORMAT, set->file, set->path, "more elements than memory can hold");
    if (facts->stored_bytes != (uint64_t)n * rb_h5_file_bytes(set->type)
        || !h5_is_inside(set->file, facts->address, facts->stored_bytes))
        return h5_fail(err, RB_EFORMAT, set->file, set->path, "part of its data is missing");
    return RB_OK;
}

/* Inside this file, and either in one piece or in chunks we can decode. */
static rb_status read_layout(open_dataset *set, rb_error *err)
{
    switch (set->object->facts.layout) {
    case H5_LAYOUT_CHUNKED: return read_chunking(set, err);
    case H5_LAYOUT_CONTIGUOUS: return check_stored_whole(set, err);
    case H5_LAYOUT_IN_HEADER:
        return h5_fail(err, RB_EFORMAT, set->file, set->path,
                       "its data are in its header, expected chunks or one piece");
    default: return h5_fail(err, RB_EFORMAT, set->file, set->path, "its data are outside this file");
    }
}

static rb_status open_checked(open_dataset *set, const rb_h5_contents *file, const char *path, rb_h5_type type,
                              bool is_loose, int rank, int64_t *dims, rb_error *err)
{
    rb_status st;
    assert(rank >= 1 && rank <= RB_H5_MAX_RANK);
    RB_TRY(st, open_any(set, file, path, rank, err), done);
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
    pthread_mutex_t lock; /* of the four after it */
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

/* Where the list says that the chunk is. */
static h5_chunk chunk_of(const read_job *job, int64_t index)
{
    const open_dataset *set = job->set;
    hsize_t offset[RB_H5_RANK];
    uint64_t place = 0;
    chunk_grid_offset(job->grid, index, offset);
    for (int i = 0; i < set->rank; i++)
        place = place * (uint64_t)((set->dims[i] - 1) / set->chunk[i] + 1) + offset[i] / (uint64_t)set->chunk[i];
    return chunk_at(set, place);
}

/* One stored chunk. */
static rb_status fetch_chunk(const read_job *job, int64_t index, chunk_buffer *frame, stored_chunk *stored,
                             rb_error *err)
{
    const open_dataset *set = job->set;
    const h5_chunk chunk = chunk_of(job, index);
    if (!chunk_buffer_reserve(frame, rb_zstd_capacity(job->grid->chunk_bytes)))
        return h5_fail(err, RB_ENOMEM, set->file, set->path, "no memory for chunk %lld", (long long)index);
    *stored = (stored_chunk){.n_bytes = (size_t)chunk.n_bytes,
                             .is_plain = set->object->facts.filters == H5_FILTERS_NONE || (chunk.skipped_filters & 1u)};
    return h5_read_bytes(set->file, set->path, chunk.address, frame->at, stored->n_bytes, err);
}

/* The next chunk to work on; -1: no more. */
static int64_t take_chunk(read_job *job)
{
    pthread_mutex_lock(&job->lock);
    const int64_t index = job->n_taken < job->failed ? job->n_taken++ : -1;
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

static rb_status read_chunk(const read_job *job, int64_t index, chunk_tools *tools, rb_error *err)
{
    stored_chunk stored = {0};
    const rb_status st = fetch_chunk(job, index, &tools->frame, &stored, err);
    if (st != RB_OK || unpack_chunk(job, index, &stored, tools)) return st;
    return h5_fail(err, RB_EFORMAT, job->set->file, job->set->path, "chunk %lld is damaged", (long long)index);
}

static void read_and_unpack(void *user, int member)
{
    read_job *job = user;
    int64_t index;
    while ((index = take_chunk(job)) >= 0) {
        rb_error error = {0};
        const rb_status st = read_chunk(job, index, &job->crew->tools[member], &error);
        const bool fits = st != RB_OK || chunk_grid_fits(job->grid, index, job->data);
        if (st == RB_OK && fits) continue;
        pthread_mutex_lock(&job->lock);
        if (st != RB_OK) note_failure(job, index, st, &error);
        else job->has_unfit = true;
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
    RB_TRY(st, chunk_crew_run(job.crew, &grid, read_and_unpack, &job, err), done);
    *has_unfit = job.has_unfit;
    if (job.status != RB_OK) st = rb_fail(err, job.status, "%s", job.error.msg);
done:
    rb_h5_crew_free(own);
    pthread_mutex_destroy(&job.lock);
    return st;
}

/* ---- datasets -------------------------------------------------------------------------------- */

/* n elements from the row that begins at `begin`: rows of the first dimension, so that they stand in one piece. */
static rb_status read_contiguous(const open_dataset *set, const int64_t *begin, const int64_t *end, int64_t n,
                                 void *data, bool *has_unfit, rb_error *err)
{
    const size_t element = rb_h5_file_bytes(set->type), n_bytes = (size_t)n * element;
    const uint64_t row_bytes = n_bytes / (uint64_t)(end[0] - begin[0]);
    unsigned char *stored = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&stored, (size_t)n, element, set->path, err), done);
    RB_TRY(st,
           h5_read_bytes(set->file, set->path, set->object->facts.address + (uint64_t)begin[0] * row_bytes, stored,
                         n_bytes, err),
           done);
    rb_h5_from_file(set->type, data, stored, n);
    *has_unfit = !rb_h5_fits(set->type, data, n);
done:
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
        return h5_fail(err, RB_EFORMAT, set->file, set->path, "more elements than memory can hold");
    const rb_status st = set->is_chunked ? read_chunks(crew, set, begin, end, data, &has_unfit, err)
                                         : read_contiguous(set, begin, end, n, data, &has_unfit, err);
    if (st != RB_OK || !has_unfit) return st;
    const int64_t unfit = rb_h5_first_unfit(set->type, data, n);
    return h5_fail(err, RB_ENONFINITE, set->file, set->path, "%s", rb_h5_describe_unfit(set->type, data, unfit).text);
}

rb_status rb_h5_read_by(rb_h5_crew *crew, const rb_h5_contents *file, const char *path, rb_h5_type type, int rank,
                        int64_t *dims, void *data, rb_error *err)
{
    open_dataset set;
    const rb_status st = open_checked(&set, file, path, type, true, rank, dims, err);
    return st == RB_OK ? read_rows(crew, &set, 0, set.dims[0], data, err) : st;
}

rb_status rb_h5_read(const rb_h5_contents *file, const char *path, rb_h5_type type, int rank, int64_t *dims, void *data,
                     rb_error *err)
{
    return rb_h5_read_by(NULL, file, path, type, rank, dims, data, err);
}

rb_status rb_h5_read_rows(const rb_h5_contents *file, const char *path, rb_h5_type type, int rank, const int64_t *dims,
                          int64_t first, int64_t count, void *data, rb_error *err)
{
    int64_t expected[RB_H5_RANK];
    open_dataset set;
    memcpy(expected, dims, (size_t)rank * sizeof *dims);
    const rb_status st = open_checked(&set, file, path, type, true, rank, expected, err);
    if (st != RB_OK) return st;
    if (first < 0 || count < 1 || count > set.dims[0] - first)
        return h5_fail(err, RB_EINVAL, file, path, "rows %lld to %lld, expected within 0 to %lld", (long long)first,
                       (long long)(first + count), (long long)set.dims[0]);
    return read_rows(NULL, &set, first, count, data, err);
}

rb_status rb_h5_dims(const rb_h5_contents *file, const char *path, int rank, int64_t *dims, rb_error *err)
{
    open_dataset set;
    assert(rank >= 1 && rank <= RB_H5_MAX_RANK);
    const rb_status st = open_any(&set, file, path, rank, err);
    if (st == RB_OK) memcpy(dims, set.dims, (size_t)rank * sizeof *dims);
    return st;
}

rb_status rb_h5_check_dataset(const rb_h5_contents *file, const char *path, rb_h5_type type, int rank,
                              const int64_t *dims, rb_error *err)
{
    int64_t expected[RB_H5_RANK];
    open_dataset set;
    memcpy(expected, dims, (size_t)rank * sizeof *dims);
    return open_checked(&set, file, path, type, false, rank, expected, err);
}
