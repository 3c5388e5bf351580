/* The elements of a dataset: their type in the file, the way to and from memory, and which values do not fit. */
#ifndef RB_CORE_HDF5_HDF5_ELEMENTS_H
#define RB_CORE_HDF5_HDF5_ELEMENTS_H

#include "core/hdf5/hdf5_file.h"

size_t rb_h5_file_bytes(rb_h5_type type); /* of one element */
size_t rb_h5_memory_bytes(rb_h5_type type);
const char *rb_h5_type_name(rb_h5_type type); /* "f16" */

/* The type in the file. HDF5 is told the same type for memory, so that it never converts. Closed with H5Tclose;
 * negative on failure. */
hid_t rb_h5_make_type(rb_h5_type type);

/* Converts n elements. That they fit F16 has been checked. */
void rb_h5_to_file(rb_h5_type type, void *stored, const void *memory, int64_t n);
void rb_h5_from_file(rb_h5_type type, void *memory, const void *stored, int64_t n);

/* Whether n elements in memory suit the type, by the rule of rb_h5_first_unfit. */
bool rb_h5_fits(rb_h5_type type, const void *memory, int64_t n);

/* "value 70000 at index 3 does not fit f16, ...": the value at the index that rb_h5_first_unfit found. */
typedef struct rb_h5_unfit {
    char text[128];
} rb_h5_unfit;
rb_h5_unfit rb_h5_describe_unfit(rb_h5_type type, const void *data, int64_t index);

/* Elements of an array; false unless all dims are positive and its bytes in memory can be counted in an int64_t. */
bool rb_h5_count_elements(rb_h5_type type, int rank, const int64_t *dims, int64_t *n);

/* "8 x 2048 x 128", for messages. */
void rb_h5_format_shape(char *text, size_t size, int rank, const int64_t *dims);

#endif
