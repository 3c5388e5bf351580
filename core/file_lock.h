/* Locks on open files that end with their holder, however it ends: also by SIGKILL, so that none is ever stale. They
 * are Linux's open file description locks: a program that opens and closes the same file by its name does not lose
 * them, and a child that inherits the descriptor holds them too. */
#ifndef RB_CORE_FILE_LOCK_H
#define RB_CORE_FILE_LOCK_H

#include <stdbool.h>

typedef enum rb_lock_result {
    RB_LOCK_TAKEN,  /* held until the last copy of the descriptor is closed */
    RB_LOCK_BUSY,   /* another holds it */
    RB_LOCK_UNKNOWN /* this file system has no locks */
} rb_lock_result;

/* Locks the whole file, without waiting. A file that is open for reading only gets a lock that others like it may
 * share, and that a writer's excludes. */
rb_lock_result rb_file_lock(int fd);

/* Whether every process that can open this file or folder is on this host and sees its locks. Network and unknown file
 * systems are not: their locks may be a host's own, or held by nobody's knowledge. */
bool rb_is_on_local_disk(int fd);

#endif
