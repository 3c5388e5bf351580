/* What a file is that was expected to be something else, told by how it starts: a Git LFS pointer that was never
 * fetched, a page that a server sent in place of the file, weights in another format. For messages. */
#ifndef RB_CORE_FILE_KIND_H
#define RB_CORE_FILE_KIND_H

#include <stddef.h>

/* "a Git LFS pointer, ..." for the first bytes of a file [n_bytes]; NULL when they look like none of these kinds. An
 * empty file is "an empty file". */
const char *rb_file_kind(const void *bytes, size_t n_bytes);

#endif
