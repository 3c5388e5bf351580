/* The survey of a file by libhdf5, in a child process: see core/hdf5/hdf5_contents.h.
 *
 * It tells what it finds and judges nothing: an object that ropebits does not know may stand in a file, and what cannot
 * be read is told to whoever asks for it. Only links that lead to objects of the same file are followed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/hdf5/hdf5_contents.h"
#include "core/hdf5/hdf5_elements.h"
#include "core/hdf5/hdf5_internal.h"

/* Our deepest object is three names deep. Hard links may go round in circles, which the depth and the number end. */
enum { MAX_DEPTH = 8, MAX_OBJECTS = 1 << 17, MAX_PATH = 1024, MAX_STRING = 1 << 20 };

typedef struct survey {
    const h5_survey_request *request;
    FILE *out;
    int64_t n_objects;
    int depth;
    char path[MAX_PATH]; /* of the object at work */
} survey;

/* ---- the pipe -------------------------------------------------------------------------------- */

static void send_bytes(const survey *s, const void *bytes, size_t n)
{
    if (fwrite(bytes, 1, n, s->out) != n) _exit(1); /* the reader left */
}

static void send_head(const survey *s, h5_record_kind kind, size_t n_bytes)
{
    const h5_record record = {.kind = kind, .n_bytes = n_bytes};
    send_bytes(s, &record, sizeof record);
}

/* Nothing of the file can be used, and the survey ends. */
_Noreturn static void give_up(const survey *s, h5_reason reason, const char *cause)
{
    h5_failure failure = {.reason = reason};
    snprintf(failure.cause, sizeof failure.cause, "%s", cause);
    send_head(s, H5_RECORD_FAILURE, sizeof failure);
    send_bytes(s, &failure, sizeof failure);
    fflush(s->out);
    _exit(0);
}

/* The same right after a call that HDF5 refused. */
_Noreturn static void give_up_after_call(const survey *s)
{
    char cause[H5_CAUSE_BYTES];
    const bool is_truncated = rb_h5_last_cause(cause, sizeof cause);
    give_up(s, is_truncated ? H5_TRUNCATED : H5_UNREADABLE, cause);
}

static void send_object(survey *s, const h5_object_facts *facts)
{
    const size_t path_bytes = strlen(s->path) + 1;
    if (++s->n_objects > MAX_OBJECTS) give_up(s, H5_UNREADABLE, "more objects than such a file can have");
    send_head(s, H5_RECORD_OBJECT, sizeof *facts + path_bytes);
    send_bytes(s, facts, sizeof *facts);
    send_bytes(s, s->path, path_bytes);
}

static void send_attribute(const survey *s, const h5_attribute_facts *facts, const char *name, const char *text)
{
    const size_t name_bytes = strlen(name) + 1, text_bytes = strlen(text) + 1;
    send_head(s, H5_RECORD_ATTRIBUTE, sizeof *facts + name_bytes + text_bytes);
    send_bytes(s, facts, sizeof *facts);
    send_bytes(s, name, name_bytes);
    send_bytes(s, text, text_bytes);
}

static void note_cause(h5_object_facts *facts)
{
    if (facts->cause[0] == '\0') rb_h5_last_cause(facts->cause, sizeof facts->cause);
}

/* ---- attributes ------------------------------------------------------------------------------ */

/* Exactly one element, whatever the shape of its space says. */
static bool has_one_element(hid_t attribute)
{
    hid_t space = H5Aget_space(attribute);
    const hssize_t n = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    if (space >= 0) H5Sclose(space);
    return n == 1;
}

/* The text of a string of fixed length, freed by free(); NULL: it cannot be read. */
static char *read_text(hid_t attribute, hid_t type, size_t n_bytes)
{
    char *text = calloc(1, n_bytes + 1);
    hid_t memory_type = H5Tcopy(H5T_C_S1);
    const bool is_read = text && memory_type >= 0 && H5Tset_size(memory_type, n_bytes + 1) >= 0
                         && H5Tset_cset(memory_type, H5Tget_cset(type)) >= 0
                         && H5Aread(attribute, memory_type, text) >= 0;
    if (memory_type >= 0) H5Tclose(memory_type);
    if (is_read) return text;
    free(text);
    return NULL;
}

static void survey_value(const survey *s, hid_t attribute, hid_t type, const char *name)
{
    h5_attribute_facts facts = {.kind = H5_ATTRIBUTE_OTHER};
    const H5T_class_t type_class = H5Tget_class(type);
    const size_t n_bytes = H5Tget_size(type);
    char *text = NULL, cause[H5_CAUSE_BYTES] = "";
    bool is_read = true;
    if (!has_one_element(attribute)) {
        facts.kind = H5_ATTRIBUTE_MANY;
    } else if (type_class == H5T_STRING && H5Tis_variable_str(type) == 0 && n_bytes > 0 && n_bytes <= MAX_STRING) {
        facts.kind = H5_ATTRIBUTE_STRING;
        text = read_text(attribute, type, n_bytes);
        is_read = text != NULL;
    } else if (type_class == H5T_INTEGER && n_bytes <= sizeof facts.whole) {
        facts.kind = H5_ATTRIBUTE_INT;
        is_read = H5Aread(attribute, H5T_NATIVE_INT64, &facts.whole) >= 0;
    } else if (type_class == H5T_FLOAT && n_bytes <= sizeof facts.number) {
        facts.kind = H5_ATTRIBUTE_NUMBER;
        is_read = H5Aread(attribute, H5T_NATIVE_DOUBLE, &facts.number) >= 0;
    }
    if (!is_read) {
        facts.kind = H5_ATTRIBUTE_DAMAGED;
        rb_h5_last_cause(cause, sizeof cause);
    }
    send_attribute(s, &facts, name, text ? text : cause);
    free(text);
}

static herr_t survey_attribute(hid_t object, const char *name, const H5A_info_t *info, void *user)
{
    const survey *s = user;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT), type = attribute < 0 ? -1 : H5Aget_type(attribute);
    (void)info;
    if (type < 0) {
        const h5_attribute_facts damaged = {.kind = H5_ATTRIBUTE_DAMAGED};
        char cause[H5_CAUSE_BYTES];
        rb_h5_last_cause(cause, sizeof cause);
        send_attribute(s, &damaged, name, cause);
    } else {
        survey_value(s, attribute, type, name);
        H5Tclose(type);
    }
    if (attribute >= 0) H5Aclose(attribute);
    return 0;
}

/* After the record of the object. That the list is cut short is told as an attribute without a name. */
static void survey_attributes(survey *s, hid_t object)
{
    const h5_attribute_facts damaged = {.kind = H5_ATTRIBUTE_DAMAGED};
    char cause[H5_CAUSE_BYTES];
    if (H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, survey_attribute, s) >= 0) return;
    rb_h5_last_cause(cause, sizeof cause);
    send_attribute(s, &damaged, "", cause);
}

/* ---- datasets -------------------------------------------------------------------------------- */

static bool survey_shape(h5_object_facts *facts, hid_t dataset)
{
    hsize_t extent[H5S_MAX_RANK];
    hid_t space = H5Dget_space(dataset);
    const int rank = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    const bool is_good = rank >= 0 && rank <= H5S_MAX_RANK && H5Sget_simple_extent_dims(space, extent, NULL) >= 0;
    if (is_good) {
        facts->rank = rank;
        for (int i = 0; i < rank && i < RB_H5_MAX_RANK; i++) facts->dims[i] = extent[i];
    }
    if (space >= 0) H5Sclose(space);
    return is_good;
}

static bool survey_type(h5_object_facts *facts, hid_t dataset)
{
    static const rb_h5_type types[] = {RB_H5_F16, RB_H5_F32, RB_H5_F64, RB_H5_I32, RB_H5_U8};
    hid_t found = H5Dget_type(dataset);
    if (found < 0) return false;
    facts->type = -1;
    facts->type_class = H5Tget_class(found);
    facts->type_bytes = H5Tget_size(found);
    for (size_t i = 0; i < RB_COUNT(types) && facts->type < 0; i++) {
        hid_t wanted = rb_h5_make_type(types[i]);
        if (wanted >= 0 && H5Tequal(found, wanted) > 0) facts->type = types[i];
        if (wanted >= 0) H5Tclose(wanted);
    }
    H5Tclose(found);
    return true;
}

static bool survey_chunking(h5_object_facts *facts, hid_t list)
{
    hsize_t extent[H5S_MAX_RANK];
    unsigned flags;
    size_t n_params = 0;
    facts->chunk_rank = H5Pget_chunk(list, H5S_MAX_RANK, extent);
    if (facts->chunk_rank < 0) return false;
    for (int i = 0; i < facts->chunk_rank && i < RB_H5_MAX_RANK; i++) facts->chunk[i] = extent[i];
    const int n_filters = H5Pget_nfilters(list);
    if (n_filters < 0) return false;
    facts->filters = n_filters == 0 ? H5_FILTERS_NONE : H5_FILTERS_OTHER;
    if (n_filters == 1 && H5Pget_filter2(list, 0, &flags, &n_params, NULL, 0, NULL, NULL) == RB_H5_ZSTD_FILTER)
        facts->filters = H5_FILTERS_ZSTD;
    return true;
}

static bool survey_layout(h5_object_facts *facts, hid_t dataset)
{
    hid_t list = H5Dget_create_plist(dataset);
    const H5D_layout_t layout = list < 0 ? H5D_LAYOUT_ERROR : H5Pget_layout(list);
    bool is_good = layout != H5D_LAYOUT_ERROR;
    facts->layout = layout == H5D_COMPACT ? H5_LAYOUT_IN_HEADER : H5_LAYOUT_CONTIGUOUS;
    if (layout == H5D_CHUNKED) {
        facts->layout = H5_LAYOUT_CHUNKED;
        is_good = survey_chunking(facts, list);
    } else if (is_good && (layout == H5D_VIRTUAL || H5Pget_external_count(list) != 0)) {
        facts->layout = H5_LAYOUT_OUTSIDE;
    } else if (layout == H5D_CONTIGUOUS) {
        facts->address = H5Dget_offset(dataset);
        facts->stored_bytes = H5Dget_storage_size(dataset);
    }
    if (list >= 0) H5Pclose(list);
    return is_good;
}

uint64_t h5_count_chunks(int rank, const uint64_t *dims, const uint64_t *chunk)
{
    uint64_t n = 1;
    for (int i = 0; i < rank; i++) {
        if (dims[i] == 0 || chunk[i] == 0 || __builtin_mul_overflow(n, (dims[i] - 1) / chunk[i] + 1, &n)) return 0;
    }
    return n;
}

/* Every chunk has a byte in the file, so more chunks than bytes cannot be there; a reader is told so by their absence.
 */
static void survey_chunks(const survey *s, const h5_object_facts *facts, hid_t dataset)
{
    if (facts->layout != H5_LAYOUT_CHUNKED || facts->rank < 1 || facts->rank > RB_H5_MAX_RANK
        || facts->chunk_rank != facts->rank)
        return;
    const uint64_t n = h5_count_chunks(facts->rank, facts->dims, facts->chunk);
    if (n == 0 || n > s->request->size_bytes) return;
    send_head(s, H5_RECORD_CHUNKS, n * sizeof(h5_chunk));
    for (uint64_t index = 0; index < n; index++) {
        h5_chunk chunk = {0};
        hsize_t offset[RB_H5_MAX_RANK], n_bytes = 0;
        haddr_t address = HADDR_UNDEF;
        unsigned mask = 0;
        uint64_t rest = index;
        for (int i = facts->rank - 1; i >= 0; i--) {
            const uint64_t count = (facts->dims[i] - 1) / facts->chunk[i] + 1;
            offset[i] = rest % count * facts->chunk[i];
            rest /= count;
        }
        if (H5Dget_chunk_info_by_coord(dataset, offset, &mask, &address, &n_bytes) >= 0 && address != HADDR_UNDEF)
            chunk = (h5_chunk){.address = address, .n_bytes = n_bytes, .skipped_filters = mask};
        send_bytes(s, &chunk, sizeof chunk);
    }
}

static void survey_dataset(survey *s, hid_t dataset)
{
    h5_object_facts facts = {.kind = H5_DATASET};
    if (!survey_shape(&facts, dataset) || !survey_type(&facts, dataset) || !survey_layout(&facts, dataset)) {
        facts = (h5_object_facts){.kind = H5_DAMAGED};
        note_cause(&facts);
    }
    send_object(s, &facts);
    survey_attributes(s, dataset);
    if (facts.kind == H5_DATASET) survey_chunks(s, &facts, dataset);
}

/* ---- groups ---------------------------------------------------------------------------------- */

static void survey_group(survey *s, hid_t group);

static void survey_object(survey *s, hid_t group, const char *name)
{
    h5_object_facts facts = {.kind = H5_DAMAGED};
    hid_t object = H5Oopen(group, name, H5P_DEFAULT);
    const H5I_type_t type = object < 0 ? H5I_BADID : H5Iget_type(object);
    if (type == H5I_GROUP) {
        survey_group(s, object);
    } else if (type == H5I_DATASET) {
        survey_dataset(s, object);
    } else {
        if (object < 0) note_cause(&facts);
        else snprintf(facts.cause, sizeof facts.cause, "neither a group nor a dataset");
        send_object(s, &facts);
    }
    if (object >= 0) H5Oclose(object);
}

static herr_t survey_member(hid_t group, const char *name, const H5L_info_t *link, void *user)
{
    survey *s = user;
    const size_t length = strlen(s->path);
    const int n = snprintf(s->path + length, sizeof s->path - length, "%s%s", length ? "/" : "", name);
    if (n < 0 || (size_t)n >= sizeof s->path - length) { /* no path of ours is that long */
        s->path[length] = '\0';
        return 0;
    }
    if (link->type == H5L_TYPE_HARD) survey_object(s, group, name);
    else send_object(s, &(h5_object_facts){.kind = H5_SOFT_LINK});
    s->path[length] = '\0';
    return 0;
}

static void survey_group(survey *s, hid_t group)
{
    send_object(s, &(h5_object_facts){.kind = H5_GROUP});
    survey_attributes(s, group);
    if (s->depth >= MAX_DEPTH) return;
    s->depth++;
    if (H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, survey_member, s) < 0) give_up_after_call(s);
    s->depth--;
}

/* ---- the file -------------------------------------------------------------------------------- */

/* The path may lead to another file by now. */
static bool is_same_file(const h5_survey_request *request)
{
    struct stat info;
    return stat(request->path, &info) == 0 && (uint64_t)info.st_dev == request->device
           && (uint64_t)info.st_ino == request->inode && (uint64_t)info.st_size == request->size_bytes;
}

static bool has_user_block(hid_t file)
{
    hid_t list = H5Fget_create_plist(file);
    hsize_t n_bytes = 0;
    const bool is_known = list >= 0 && H5Pget_userblock(list, &n_bytes) >= 0;
    if (list >= 0) H5Pclose(list);
    return !is_known || n_bytes != 0;
}

void h5_survey(const h5_survey_request *request)
{
    survey s = {.request = request, .out = fdopen(request->out, "w")};
    if (!s.out || rb_h5_init(NULL) != RB_OK) _exit(1);
    hid_t access_list = rb_h5_access_list();
    if (access_list < 0) give_up_after_call(&s);
    if (H5Fis_hdf5(request->path) <= 0) give_up(&s, H5_NOT_HDF5, "");
    hid_t file = H5Fopen(request->path, H5F_ACC_RDONLY, access_list);
    if (file < 0) give_up_after_call(&s);
    if (!is_same_file(request)) give_up(&s, H5_REPLACED, "");
    if (has_user_block(file)) give_up(&s, H5_HAS_USER_BLOCK, "");
    hid_t root = H5Gopen2(file, "/", H5P_DEFAULT);
    if (root < 0) give_up_after_call(&s);
    survey_group(&s, root);
    send_head(&s, H5_RECORD_END, 0);
    fflush(s.out);
    _exit(0);
}
