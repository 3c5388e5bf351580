/* A program that this process starts and waits for. The two end together:
 *
 *   SIGINT, SIGTERM, SIGHUP or SIGQUIT here   goes on to the child; when that has ended, this process ends by it too
 *   SIGKILL, or any other end, here           the kernel sends the child SIGTERM
 *
 * so that no child goes on writing for a parent that is gone. A signal that this process ignores (nohup) is ignored by
 * both. */
#ifndef RB_CORE_CHILD_H
#define RB_CORE_CHILD_H

#include "core/status.h"

/* Runs argv (argv[0] is a path; ends in NULL) with its stdout in the file stdout_path, which is there, and waits. *how
 * is its end as waitpid tells it. Called by the main thread: the kernel takes the end of the calling thread for that of
 * the parent. Fails with RB_EIO when the program cannot be started. */
rb_status rb_child_run(int *how, const char *const *argv, const char *stdout_path, rb_error *err);

#endif
