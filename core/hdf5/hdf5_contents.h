/* What an HDF5 file holds: its objects, their attributes, and where their elements stand in the file.
 *
 * libhdf5 trusts the numbers in a file. A damaged one, or one made for it, ends the process inside the library or keeps
 * it there for ever, and no check before it can tell. So a file that is read is opened by libhdf5 in a child process
 * only, within limits of time and memory. The child walks the whole file and sends what it found through a pipe; this
 * process checks that as it would check any file, and reads elements itself, from the places that the list names. When
 * the child dies, the file is damaged, and that is one sentence.
 *
 *   hdf5_survey.c    the child: libhdf5, the walk, the records
 *   hdf5_contents.c  the process that reads: starts the child, reads its records, finds objects */
#ifndef RB_CORE_HDF5_HDF5_CONTENTS_H
#define RB_CORE_HDF5_HDF5_CONTENTS_H

#include "core/hdf5/hdf5_file.h"

/* ---- records, as they go through the pipe ---------------------------------------------------- */

typedef enum h5_record_kind {
    H5_RECORD_OBJECT = 1, /* h5_object_facts, path, NUL */
    H5_RECORD_ATTRIBUTE,  /* of the last object: h5_attribute_facts, name, NUL, text, NUL */
    H5_RECORD_CHUNKS,     /* of the last object: h5_chunk [number of chunks], in row-major order */
    H5_RECORD_FAILURE,    /* h5_failure: the file as a whole cannot be read */
    H5_RECORD_END         /* nothing: the walk is complete */
} h5_record_kind;

typedef struct h5_record {
    uint64_t kind, n_bytes; /* of what follows */
} h5_record;

enum { H5_CAUSE_BYTES = 160 };

typedef enum h5_object_kind { H5_GROUP, H5_DATASET, H5_SOFT_LINK, H5_DAMAGED } h5_object_kind;
typedef enum h5_layout { H5_LAYOUT_IN_HEADER, H5_LAYOUT_CONTIGUOUS, H5_LAYOUT_CHUNKED, H5_LAYOUT_OUTSIDE } h5_layout;
typedef enum h5_filters { H5_FILTERS_NONE, H5_FILTERS_ZSTD, H5_FILTERS_OTHER } h5_filters;

typedef struct h5_object_facts {
    int32_t kind; /* h5_object_kind; what follows up to the cause is for datasets */
    int32_t rank; /* may exceed RB_H5_MAX_RANK; then no dims */
    int32_t type; /* rb_h5_type; -1: another, of class and size */
    int32_t type_class;
    uint64_t type_bytes;
    int32_t layout, filters; /* h5_layout, h5_filters */
    int32_t chunk_rank;
    int32_t unused;
    uint64_t dims[RB_H5_MAX_RANK], chunk[RB_H5_MAX_RANK];
    uint64_t address, stored_bytes; /* contiguous: where, and how much of it is in the file */
    char cause[H5_CAUSE_BYTES];     /* why the object is damaged, or its members or attributes cannot all be listed */
} h5_object_facts;

typedef enum h5_attribute_kind {
    H5_ATTRIBUTE_STRING,
    H5_ATTRIBUTE_INT,
    H5_ATTRIBUTE_NUMBER,
    H5_ATTRIBUTE_OTHER,  /* a type that ropebits does not use */
    H5_ATTRIBUTE_MANY,   /* not exactly one value */
    H5_ATTRIBUTE_DAMAGED /* text: why */
} h5_attribute_kind;

typedef struct h5_attribute_facts {
    int64_t kind; /* h5_attribute_kind */
    int64_t whole;
    double number;
} h5_attribute_facts;

typedef struct h5_chunk {
    uint64_t address, n_bytes; /* n_bytes 0: not stored */
    uint64_t skipped_filters;
} h5_chunk;

typedef enum h5_reason { H5_NOT_HDF5, H5_TRUNCATED, H5_UNREADABLE, H5_REPLACED, H5_HAS_USER_BLOCK } h5_reason;

typedef struct h5_failure {
    int64_t reason; /* h5_reason */
    char cause[H5_CAUSE_BYTES];
} h5_failure;

/* The child: surveys the file, which must still be that of this device, inode and size, writes its records and ends
 * the process. */
typedef struct h5_survey_request {
    const char *path;
    uint64_t device, inode, size_bytes;
    int out; /* the pipe */
} h5_survey_request;
_Noreturn void h5_survey(const h5_survey_request *request);

/* Chunks of a dataset of these dims: their number, or 0 where it cannot be counted or a dim is 0. */
uint64_t h5_count_chunks(int rank, const uint64_t *dims, const uint64_t *chunk);

/* ---- the list -------------------------------------------------------------------------------- */

typedef struct h5_attribute {
    const char *name, *text;
    h5_attribute_facts facts;
} h5_attribute;

typedef struct h5_object {
    const char *path; /* without the first '/'; "" is the root */
    h5_object_facts facts;
    int64_t first_attribute, n_attributes;
    const unsigned char *chunks; /* h5_chunk [n_chunks], at any address */
    uint64_t n_chunks;
} h5_object;

struct rb_h5_contents {
    char *path; /* of the file, for messages */
    int fd;
    uint64_t size_bytes;
    unsigned char *records; /* names, texts and chunks stand in it */
    h5_object *objects;     /* sorted by path */
    int64_t n_objects, object_capacity;
    h5_attribute *attributes; /* each object's in one stretch */
    int64_t n_attributes, attribute_capacity;
};

/* Surveys the open file. Takes fd over, also when it fails. */
rb_status h5_contents_read(rb_h5_contents **out, const char *path, int fd, rb_error *err);
void h5_contents_free(rb_h5_contents *contents); /* NULL is fine */

/* The object; fails where the path does not lead to one: a missing name, a damaged object, or a link, since a capture
 * from a stranger must not lead to other files. */
rb_status h5_find_object(const h5_object **out, const rb_h5_contents *file, const char *path, rb_error *err);
/* NULL: the object has none of that name. */
const h5_attribute *h5_find_attribute(const rb_h5_contents *file, const h5_object *object, const char *name);

/* "FILE: PATH: sentence". */
rb_status h5_fail(rb_error *err, rb_status st, const rb_h5_contents *file, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

bool h5_is_inside(const rb_h5_contents *file, uint64_t address, uint64_t n_bytes);
/* Reads n bytes at an address inside the file, all of them or fails. */
rb_status h5_read_bytes(const rb_h5_contents *file, const char *path, uint64_t address, void *bytes, size_t n,
                        rb_error *err);

#endif
