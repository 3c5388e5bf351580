/* See run/folder_lock.h. */
#include "run/folder_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/atomic_file.h"
#include "core/file_lock.h"
#include "core/message.h"

static const double PATIENCE_S = 1.0;

/* Not O_CLOEXEC: stages hold the lock too. A folder that cannot be written to is locked among those who read it; -1
 * where there is no lock file in it and none can be made. */
static int open_lock(const char *path)
{
    const int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0666);
    if (fd >= 0 || (errno != EACCES && errno != EROFS)) return fd;
    return open(path, O_RDONLY | O_NOFOLLOW);
}

static rb_lock_result lock_patiently(int fd)
{
    static const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    const double until_s = rb_now_s() + PATIENCE_S;
    rb_lock_result result;
    while ((result = rb_file_lock(fd)) == RB_LOCK_BUSY && rb_now_s() < until_s) nanosleep(&pause, NULL);
    return result;
}

/* ---- who holds it ---------------------------------------------------------------------------- */

/* "process 123 on HOST", for people; a file system without locks or with a full disk is no reason not to run. */
static void write_holder(int fd)
{
    char host[65] = "?", text[128];
    gethostname(host, sizeof host - 1);
    const int n = snprintf(text, sizeof text, "process %ld on %s\n", (long)getpid(), host);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n) rb_message_verbose("the lock file names no run");
}

static rb_status fail_held(int fd, const char *folder, rb_error *err)
{
    char holder[128];
    const ssize_t n = pread(fd, holder, sizeof holder - 1, 0);
    holder[n > 0 ? n : 0] = '\0';
    holder[strcspn(holder, "\n")] = '\0';
    return rb_fail(err, RB_EIO,
                   "%s: another run works in this folder%s%s%s, expected one at a time; wait for it, or name another "
                   "folder with -o",
                   folder, holder[0] ? " (" : "", holder, holder[0] ? ")" : "");
}

/* ---- public ---------------------------------------------------------------------------------- */

rb_status folder_lock_take(int *fd, const char *folder, rb_error *err)
{
    char *stages = NULL, *path = NULL;
    rb_status st;
    *fd = -1;
    RB_TRY(st, rb_join_path(&stages, folder, ".stages", err), done);
    RB_TRY(st, rb_make_folder(stages, err), done);
    RB_TRY(st, rb_join_path(&path, stages, "lock", err), done);
    *fd = open_lock(path);
    if (*fd < 0 && errno != EACCES && errno != EROFS && errno != ENOENT)
        RB_TRY(st, rb_fail(err, RB_EIO, "%s: %s", path, strerror(errno)), done);
    if (*fd < 0) goto done;
    switch (lock_patiently(*fd)) {
    case RB_LOCK_TAKEN: write_holder(*fd); break;
    case RB_LOCK_BUSY: st = fail_held(*fd, folder, err); break;
    case RB_LOCK_UNKNOWN: rb_message_warn("%s: its file system has no locks: keep other runs out of it", folder); break;
    }
done:
    if (st != RB_OK && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    free(path);
    free(stages);
    return st;
}
