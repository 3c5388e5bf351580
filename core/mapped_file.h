/* Files that are mapped for reading.
 *
 * A mapping shows its file as it is now: where another process cuts the file, or its disk fails, a read ends in SIGBUS
 * where a read() would have ended in an error. So a handler that knows the mappings writes the sentence, removes the
 * temporary files and ends the process with exit code 1. The rest of the last page reads as zeros, without a signal:
 * who has read values asks rb_mapped_file_check. */
#ifndef RB_CORE_MAPPED_FILE_H
#define RB_CORE_MAPPED_FILE_H

#include <stddef.h>

#include "core/status.h"

typedef struct rb_mapped_file rb_mapped_file;

/* Maps a whole regular file. An empty one has no address. Messages do not name the file: the caller knows what it is.
 * Fails with RB_EIO. */
rb_status rb_map_file(rb_mapped_file **out, const char *path, rb_error *err);
void rb_unmap_file(rb_mapped_file *file); /* NULL is fine */

unsigned char *rb_mapped_address(const rb_mapped_file *file);
size_t rb_mapped_size(const rb_mapped_file *file);

/* Fails with RB_EIO, naming the file, when it is now shorter than what was mapped. Any thread may call it. */
rb_status rb_mapped_file_check(const rb_mapped_file *file, rb_error *err);

#endif
