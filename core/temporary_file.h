/* Temporary files beside the files that they become: "NAME.k3Zw9a.tmp", another in each run.
 *
 * None outlives its writer for long. A writer that is told to end (SIGINT, SIGTERM, SIGHUP, SIGQUIT) removes its own.
 * One that is killed cannot: but it holds a lock on each while it lives (core/file_lock.h), so whoever writes NAME next
 * finds that nobody holds it, and removes it. Where locks say nothing, on a network file system, none is removed. */
#ifndef RB_CORE_TEMPORARY_FILE_H
#define RB_CORE_TEMPORARY_FILE_H

#include <stddef.h>

#include "core/status.h"

/* Removes what dead writers of `path` left, and makes an empty file beside it, with the mode that the umask lets. The
 * name is freed by free(). Fails with RB_EIO. */
rb_status rb_temporary_make(char **tmp_path, const char *path, rb_error *err);
/* It has got its final name. */
void rb_temporary_forget(const char *tmp_path);
void rb_temporary_remove(const char *tmp_path);

/* Removes all of this process. A signal handler may call it. */
void rb_temporary_remove_all(void);

/* The characters of a temporary name that are the final one's; all of them for any other name. For messages. A
 * temporary file may also lie in a folder beside the final one: "c.h5.parts/c.h5.000001.tmp". */
size_t rb_temporary_name_length(const char *tmp_path);

#endif
