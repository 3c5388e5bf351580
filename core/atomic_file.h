/* Files that are complete or absent: write a temporary file beside the final one, fsync, rename. A full disk or a
 * killed run leaves nothing under a final name. Temporary names are a process's own (core/temporary_file.h), so that
 * two runs with one output each publish their own bytes. */
#ifndef RB_CORE_ATOMIC_FILE_H
#define RB_CORE_ATOMIC_FILE_H

#include <stddef.h>
#include <stdio.h>

#include "core/status.h"

/* The name of a new empty file beside the final one, freed by free(). Fails with RB_EIO when the folder does not exist.
 */
rb_status rb_atomic_begin(char **tmp_path, const char *path, rb_error *err);
/* fsync(tmp), rename to path, fsync(folder). On failure tmp is removed. Messages name the final file only. */
rb_status rb_atomic_publish(const char *tmp_path, const char *path, rb_error *err);
/* The same for a file of the caller's on the same file system, which stays on failure. */
rb_status rb_atomic_move(const char *from, const char *path, rb_error *err);
/* Removes tmp; accepts NULL. */
void rb_atomic_discard(const char *tmp_path);

/* Writes all of it where the descriptor stands. Fails with RB_EIO; messages name `path`. */
rb_status rb_write_all(int fd, const void *data, size_t size_bytes, const char *path, rb_error *err);

/* Begins, writes the bytes and publishes. */
rb_status rb_atomic_write(const char *path, const void *bytes, size_t size_bytes, rb_error *err);

/* The whole file in memory, with a NUL after it; freed by free(). Fails on more than max_bytes. */
rb_status rb_read_file(char **out, size_t *size_bytes, const char *path, size_t max_bytes, rb_error *err);

/* mkdir -p. */
rb_status rb_make_folder(const char *path, rb_error *err);

/* "folder/name", freed by free(). */
rb_status rb_join_path(char **out, const char *folder, const char *name, rb_error *err);

#endif
