/* Files that are complete or absent: see core/atomic_file.h. */
#include "core/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/temporary_file.h"

/* The folder that holds `path`; freed by free(). */
static rb_status parent_folder(char **out, const char *path, rb_error *err)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return rb_format(out, err, ".");
    if (slash == path) return rb_format(out, err, "/");
    return rb_format(out, err, "%.*s", (int)(slash - path), path);
}

static rb_status check_folder(const char *path, rb_error *err)
{
    struct stat info;
    char *folder = NULL;
    rb_status st = parent_folder(&folder, path, err);
    if (st != RB_OK) return st;
    if (stat(folder, &info) != 0) st = rb_fail(err, RB_EIO, "%s: folder %s: %s", path, folder, strerror(errno));
    else if (!S_ISDIR(info.st_mode)) st = rb_fail(err, RB_EIO, "%s: %s is not a folder", path, folder);
    free(folder);
    return st;
}

/* rename() would replace a device, a link or a pipe by a file, and /dev/null is such a name: only regular files are
 * replaced. */
static rb_status check_replaceable(const char *path, rb_error *err)
{
    struct stat info;
    const size_t length = strlen(path);
    if (length == 0) return rb_fail(err, RB_EIO, "an empty file name, expected where to write");
    if (lstat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return rb_fail(err, RB_EIO, "%s: is a %s, expected a regular file or nothing there", path,
                       S_ISDIR(info.st_mode)   ? "folder"
                       : S_ISLNK(info.st_mode) ? "symbolic link"
                                               : "device, pipe or socket");
    if (path[length - 1] == '/') return rb_fail(err, RB_EIO, "%s: names a folder, expected a file name", path);
    return RB_OK;
}

rb_status rb_atomic_begin(char **tmp_path, const char *path, rb_error *err)
{
    rb_status st;
    *tmp_path = NULL;
    RB_TRY(st, check_replaceable(path, err), done);
    RB_TRY(st, check_folder(path, err), done);
    st = rb_temporary_make(tmp_path, path, err);
done:
    return st;
}

/* name: of the file, for messages. */
static rb_status sync_path(const char *path, int flags, const char *name, rb_error *err)
{
    const int fd = open(path, flags | O_RDONLY | O_CLOEXEC);
    if (fd < 0) return rb_fail(err, RB_EIO, "%s: cannot sync it: %s", name, strerror(errno));
    rb_status st = RB_OK;
    /* EINVAL: a file system whose folders have no fsync. */
    if (fsync(fd) != 0 && errno != EINVAL) st = rb_fail(err, RB_EIO, "%s: fsync failed: %s", name, strerror(errno));
    close(fd);
    return st;
}

rb_status rb_atomic_move(const char *from, const char *path, rb_error *err)
{
    char *folder = NULL;
    rb_status st;
    RB_TRY(st, parent_folder(&folder, path, err), done);
    RB_TRY(st, sync_path(from, 0, path, err), done);
    if (rename(from, path) != 0) {
        st = rb_fail(err, RB_EIO, "%s: cannot rename the temporary file to it: %s", path, strerror(errno));
        goto done;
    }
    rb_temporary_forget(from);
    st = sync_path(folder, O_DIRECTORY, path, err); /* the rename itself survives a power cut */
done:
    free(folder);
    return st;
}

rb_status rb_atomic_publish(const char *tmp_path, const char *path, rb_error *err)
{
    const rb_status st = rb_atomic_move(tmp_path, path, err);
    if (st != RB_OK) rb_atomic_discard(tmp_path);
    return st;
}

void rb_atomic_discard(const char *tmp_path)
{
    if (tmp_path) rb_temporary_remove(tmp_path);
}

rb_status rb_write_all(int fd, const void *data, size_t size_bytes, const char *path, rb_error *err)
{
    const char *bytes = data;
    while (size_bytes > 0) {
        const ssize_t n = write(fd, bytes, size_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return rb_fail(err, RB_EIO, "%s: write failed: %s", path, strerror(errno));
        bytes += n;
        size_bytes -= (size_t)n;
    }
    return RB_OK;
}

rb_status rb_atomic_write(const char *path, const void *bytes, size_t size_bytes, rb_error *err)
{
    char *tmp_path = NULL;
    rb_status st = rb_atomic_begin(&tmp_path, path, err);
    if (st != RB_OK) return st;
    const int fd = open(tmp_path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        st = rb_fail(err, RB_EIO, "%s: %s", path, strerror(errno));
    } else {
        st = rb_write_all(fd, bytes, size_bytes, path, err);
        if (close(fd) != 0 && st == RB_OK) st = rb_fail(err, RB_EIO, "%s: close failed: %s", path, strerror(errno));
    }
    if (st == RB_OK) st = rb_atomic_publish(tmp_path, path, err);
    else rb_atomic_discard(tmp_path);
    free(tmp_path);
    return st;
}

/* Reads to the end of fd. The size is not taken from fstat: pipes and /proc have none, and a file may grow while it is
 * read. */
static rb_status read_all(char **out, size_t *size_bytes, int fd, const char *path, size_t max_bytes, rb_error *err)
{
    enum { FIRST_CAPACITY = 1 << 16 };
    size_t capacity = FIRST_CAPACITY, size = 0;
    char *buffer = malloc(capacity);
    while (buffer) {
        const ssize_t n = read(fd, buffer + size, capacity - 1 - size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            const rb_status st = rb_fail(err, RB_EIO, "%s: read failed: %s", path, strerror(errno));
            free(buffer);
            return st;
        }
        size += (size_t)n;
        if (size > max_bytes) {
            free(buffer);
            return rb_fail(err, RB_EFORMAT, "%s: larger than the %zu bytes that such a file may have", path, max_bytes);
        }
        if (n == 0) {
            buffer[size] = '\0';
            *out = buffer;
            *size_bytes = size;
            return RB_OK;
        }
        if (size == capacity - 1) {
            char *larger = capacity <= SIZE_MAX / 2 ? realloc(buffer, capacity * 2) : NULL;
            if (!larger) free(buffer);
            buffer = larger;
            capacity *= 2;
        }
    }
    return rb_fail(err, RB_ENOMEM, "%s: out of memory after %zu bytes", path, size);
}

rb_status rb_read_file(char **out, size_t *size_bytes, const char *path, size_t max_bytes, rb_error *err)
{
    *out = NULL;
    *size_bytes = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return rb_fail(err, RB_EIO, "%s: %s", path, strerror(errno));
    const rb_status st = read_all(out, size_bytes, fd, path, max_bytes, err);
    close(fd);
    return st;
}

static rb_status make_one_folder(const char *path, rb_error *err)
{
    struct stat info;
    if (mkdir(path, 0777) == 0) return RB_OK;
    const int reason = errno; /* EEXIST; a folder that is there may also give EROFS or EACCES */
    if (stat(path, &info) != 0) return rb_fail(err, RB_EIO, "%s: cannot make the folder: %s", path, strerror(reason));
    if (!S_ISDIR(info.st_mode)) return rb_fail(err, RB_EIO, "%s: is not a folder", path);
    return RB_OK;
}

rb_status rb_make_folder(const char *path, rb_error *err)
{
    char *prefix = NULL;
    rb_status st = rb_format(&prefix, err, "%s", path);
    if (st != RB_OK) return st;
    for (char *slash = strchr(prefix + (prefix[0] == '/'), '/'); slash && st == RB_OK; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        st = make_one_folder(prefix, err);
        *slash = '/';
    }
    if (st == RB_OK) st = make_one_folder(prefix, err);
    free(prefix);
    return st;
}

rb_status rb_join_path(char **out, const char *folder, const char *name, rb_error *err)
{
    const size_t length = strlen(folder);
    const bool needs_slash = length > 0 && folder[length - 1] != '/';
    return rb_format(out, err, "%s%s%s", folder, needs_slash ? "/" : "", name);
}
