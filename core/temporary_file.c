/* See core/temporary_file.h. */
#include "core/temporary_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file_lock.h"

/* ---- names ----------------------------------------------------------------------------------- */

/* ".k3Zw9a.tmp" */
static const char suffix_form[] = ".XXXXXX.tmp", ending[] = ".tmp";
enum { N_LETTERS = 6, SUFFIX_LENGTH = sizeof suffix_form - 1, ENDING_LENGTH = sizeof ending - 1 };
static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

static bool is_suffix(const char *text)
{
    return text[0] == '.' && strspn(text + 1, letters) == N_LETTERS && strcmp(text + 1 + N_LETTERS, ending) == 0;
}

/* "c.h5.parts/c.h5": a file in the folder of its parts, whose own name begins with the final one. */
static size_t length_without_parts(const char *path, size_t length)
{
    static const char ending_of_folder[] = ".parts/";
    const size_t of_ending = sizeof ending_of_folder - 1;
    const char *slash = memrchr(path, '/', length);
    if (!slash) return length;
    const size_t folder = (size_t)(slash - path) + 1, name = length - folder;
    const bool is_part = folder >= of_ending + name
                         && memcmp(path + folder - of_ending, ending_of_folder, of_ending) == 0
                         && memcmp(path + folder - of_ending - name, slash + 1, name) == 0
                         && (folder == of_ending + name || path[folder - of_ending - name - 1] == '/');
    return is_part ? folder - of_ending : length;
}

size_t rb_temporary_name_length(const char *tmp_path)
{
    const size_t length = strlen(tmp_path);
    const bool is_temporary = length > SUFFIX_LENGTH && is_suffix(tmp_path + length - SUFFIX_LENGTH);
    return is_temporary ? length_without_parts(tmp_path, length - SUFFIX_LENGTH) : length;
}

/* Writes new letters into a name that ends in the suffix. */
static rb_status choose_letters(char *tmp_path, rb_error *err)
{
    unsigned char random[N_LETTERS];
    char *at = tmp_path + strlen(tmp_path) - ENDING_LENGTH - N_LETTERS;
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return rb_fail(err, RB_EIO, "no random numbers for a file name: %s", strerror(errno));
    for (int i = 0; i < N_LETTERS; i++) at[i] = letters[random[i] % (sizeof letters - 1)];
    return RB_OK;
}

/* ---- the files of this process --------------------------------------------------------------- */

/* A signal handler can only remove names that stand still, so they stand in places that are never freed. */
enum { MAX_PENDING = 64 };
enum { PLACE_FREE, PLACE_TAKEN, PLACE_HOLDS };
typedef struct pending_file {
    atomic_int state;
    int fd; /* holds the lock; -1: none */
    char path[PATH_MAX];
} pending_file;
static pending_file pending[MAX_PENDING];
static const int endings[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

void rb_temporary_remove_all(void)
{
    for (int i = 0; i < MAX_PENDING; i++)
        if (pending[i].state == PLACE_HOLDS) unlink(pending[i].path);
}

static void end_by_signal(int number)
{
    rb_temporary_remove_all();
    signal(number, SIG_DFL); /* the signal is blocked here, and ends the process when this returns */
    raise(number);
}

/* An ending that is ignored (nohup) or has a handler stays as it is. */
static void handle_endings(void)
{
    static atomic_flag is_done = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set(&is_done)) return;
    (void)atexit(rb_temporary_remove_all); /* a library may end the process: OpenMP does where it gets no thread */
    for (size_t i = 0; i < RB_COUNT(endings); i++) {
        struct sigaction now, ours = {.sa_handler = end_by_signal};
        if (sigaction(endings[i], NULL, &now) == 0 && now.sa_handler == SIG_DFL) sigaction(endings[i], &ours, NULL);
    }
}

/* Notes a name before there is a file of it: a signal may come between the two. NULL: no place is left. */
static pending_file *note(const char *tmp_path)
{
    handle_endings();
    for (int i = 0; i < MAX_PENDING; i++) {
        int expected = PLACE_FREE;
        if (!atomic_compare_exchange_strong(&pending[i].state, &expected, PLACE_TAKEN)) continue;
        strcpy(pending[i].path, tmp_path);
        pending[i].fd = -1;
        pending[i].state = PLACE_HOLDS;
        return &pending[i];
    }
    return NULL;
}

static void release(pending_file *place)
{
    if (place->fd >= 0) close(place->fd);
    place->state = PLACE_FREE;
}

void rb_temporary_forget(const char *tmp_path)
{
    for (int i = 0; i < MAX_PENDING; i++)
        if (pending[i].state == PLACE_HOLDS && strcmp(pending[i].path, tmp_path) == 0) release(&pending[i]);
}

void rb_temporary_remove(const char *tmp_path)
{
    unlink(tmp_path);
    rb_temporary_forget(tmp_path);
}

/* ---- the files of dead writers --------------------------------------------------------------- */

/* The lock of a living writer is busy. One that has just made its file and not locked it yet finds out, and takes
 * another name (make_once). */
static void remove_if_dead(int folder, const char *name)
{
    struct stat held, named;
    const int fd = openat(folder, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    if (fstat(fd, &held) == 0 && S_ISREG(held.st_mode) && rb_file_lock(fd) == RB_LOCK_TAKEN
        && fstatat(folder, name, &named, AT_SYMLINK_NOFOLLOW) == 0 && named.st_ino == held.st_ino)
        unlinkat(folder, name, 0);
    close(fd);
}

/* name: the final one, without its folder. */
static void remove_dead(int folder, const char *name)
{
    const size_t length = strlen(name);
    const int copy = dup(folder);
    DIR *entries = copy < 0 ? NULL : fdopendir(copy);
    if (!entries) {
        if (copy >= 0) close(copy);
        return;
    }
    for (const struct dirent *entry; (entry = readdir(entries));)
        if (strncmp(entry->d_name, name, length) == 0 && is_suffix(entry->d_name + length))
            remove_if_dead(folder, entry->d_name);
    closedir(entries);
}

/* Whatever goes wrong here is no reason not to write. */
static void remove_dead_writers_of(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *folder_path = NULL;
    if (rb_format(&folder_path, NULL, "%.*s", slash ? (int)(name - path) : 1, slash ? path : ".") != RB_OK) return;
    const int folder = open(folder_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0 && rb_is_on_local_disk(folder)) remove_dead(folder, name);
    if (folder >= 0) close(folder);
    free(folder_path);
}

/* ---- making one ------------------------------------------------------------------------------ */

/* Whether the file is ours: another writer may have taken it for a dead one's before it had its lock. */
static bool lock_own(int fd)
{
    struct stat info;
    return !rb_is_on_local_disk(fd) || (rb_file_lock(fd) != RB_LOCK_BUSY && fstat(fd, &info) == 0 && info.st_nlink > 0);
}

/* *is_made is false where the name was taken by others, and another one may do. */
static rb_status make_once(const char *tmp_path, const char *path, bool *is_made, rb_error *err)
{
    *is_made = false;
    if (strlen(tmp_path) >= PATH_MAX) return rb_fail(err, RB_EIO, "%s: %s", path, strerror(ENAMETOOLONG));
    pending_file *place = note(tmp_path);
    if (!place) return rb_fail(err, RB_EIO, "%s: more than %d files are written at once", path, MAX_PENDING);
    place->fd = open(tmp_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    const int reason = errno;
    if (place->fd >= 0 && lock_own(place->fd)) {
        *is_made = true;
        return RB_OK;
    }
    if (place->fd >= 0) unlink(tmp_path);
    const bool is_taken = place->fd >= 0 || reason == EEXIST;
    release(place);
    if (is_taken) return RB_OK;
    return rb_fail(err, RB_EIO, "%s: cannot make a temporary file beside it: %s", path, strerror(reason));
}

rb_status rb_temporary_make(char **tmp_path, const char *path, rb_error *err)
{
    enum { MAX_TRIES = 100 };
    bool is_made = false;
    rb_status st;
    remove_dead_writers_of(path);
    RB_TRY(st, rb_format(tmp_path, err, "%s%s", path, suffix_form), done);
    for (int i = 0; i < MAX_TRIES && !is_made; i++) {
        RB_TRY(st, choose_letters(*tmp_path, err), done);
        RB_TRY(st, make_once(*tmp_path, path, &is_made, err), done);
    }
    if (!is_made) st = rb_fail(err, RB_EIO, "%s: cannot make a temporary file beside it: all names are taken", path);
done:
    if (st != RB_OK) {
        free(*tmp_path);
        *tmp_path = NULL;
    }
    return st;
}
