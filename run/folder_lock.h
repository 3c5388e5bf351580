/* One run at a time in a folder of outputs. */
#ifndef RB_RUN_FOLDER_LOCK_H
#define RB_RUN_FOLDER_LOCK_H

#include "core/status.h"

/* Makes the folder and locks it for this process and the stages that it starts: FOLDER/.stages/lock, which names the
 * process and is never removed, since only the lock on it counts. The lock ends with its holders, so none is stale.
 * Fails with RB_EIO, naming the other run, when it still holds the folder after a second: a run that was killed leaves
 * a stage that is just ending. *fd is closed by the caller; -1: the folder cannot be locked, and no other run can
 * either. */
rb_status folder_lock_take(int *fd, const char *folder, rb_error *err);

#endif
