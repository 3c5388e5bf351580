/* See calibrate/parts_folder.h. */
#include "calibrate/parts_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/atomic_file.h"
#include "core/file_lock.h"
#include "core/message.h"

#define LOCK_NAME     "lock"
#define IDENTITY_NAME "run.json"
#define JOURNAL_STEM  "layers."
#define STREAM_STEM   "stream."
#define TMP_ENDING    ".tmp"

/* ---- names ----------------------------------------------------------------------------------- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

rb_status parts_identity_path(char **out, const parts_folder *folder, rb_error *err)
{
    return rb_join_path(out, folder->path, IDENTITY_NAME, err);
}

rb_status parts_capture_path(char **out, const parts_folder *folder, int generation, rb_error *err)
{
    return rb_format(out, err, "%s/%s.%06d" TMP_ENDING, folder->path, base_name(folder->output), generation);
}

rb_status parts_journal_path(char **out, const parts_folder *folder, int generation, rb_error *err)
{
    return rb_format(out, err, "%s/" JOURNAL_STEM "%06d", folder->path, generation);
}

rb_status parts_stream_path(char **out, const parts_folder *folder, int slot, rb_error *err)
{
    return rb_format(out, err, "%s/" STREAM_STEM "%d", folder->path, slot);
}

typedef enum part_kind { PART_OF_OTHERS, PART_LOCK, PART_IDENTITY, PART_STREAM, PART_CAPTURE, PART_JOURNAL } part_kind;

static const char *after(const char *name, const char *stem)
{
    const size_t length = strlen(stem);
    return strncmp(name, stem, length) == 0 ? name + length : NULL;
}

/* The number of exactly six digits before `ending`; 0: it is none. */
static int generation_in(const char *digits, const char *ending)
{
    enum { N_DIGITS = 6 };
    if (!digits || strspn(digits, "0123456789") != N_DIGITS || strcmp(digits + N_DIGITS, ending) != 0) return 0;
    return atoi(digits);
}

/* *generation: of a capture or a journal. */
static part_kind kind_of(const parts_folder *folder, const char *name, int *generation)
{
    const char *rest = after(name, base_name(folder->output));
    *generation = 0;
    if (strcmp(name, LOCK_NAME) == 0) return PART_LOCK;
    if (rest && *rest == '.' && (*generation = generation_in(rest + 1, TMP_ENDING)) > 0) return PART_CAPTURE;
    if ((*generation = generation_in(after(name, JOURNAL_STEM), "")) > 0) return PART_JOURNAL;
    rest = after(name, IDENTITY_NAME); /* or a temporary file of it, whose writer was killed */
    if (rest
        && (*rest == '\0'
            || (*rest == '.' && strlen(rest) > sizeof TMP_ENDING - 1
                && strcmp(rest + strlen(rest) - (sizeof TMP_ENDING - 1), TMP_ENDING) == 0)))
        return PART_IDENTITY;
    rest = after(name, STREAM_STEM);
    return rest && (strcmp(rest, "0") == 0 || strcmp(rest, "1") == 0) ? PART_STREAM : PART_OF_OTHERS;
}

/* ---- lock ------------------------------------------------------------------------------------ */

/* Whether the descriptor is the file that has the name now: the run that held the lock before may have removed it. */
static bool is_current(int fd, const char *path)
{
    struct stat held, named;
    return fstat(fd, &held) == 0 && stat(path, &named) == 0 && held.st_ino == named.st_ino
           && held.st_dev == named.st_dev;
}

/* *result: TAKEN, UNKNOWN, or BUSY where another run has just removed the folder and it is to be tried again. */
static rb_status try_lock(parts_folder *folder, const char *lock_path, rb_lock_result *result, rb_error *err)
{
    *result = RB_LOCK_BUSY;
    if (mkdir(folder->path, 0777) != 0 && errno != EEXIST)
        return rb_fail(err, RB_EIO, "%s: cannot make the folder: %s", folder->path, strerror(errno));
    const int fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return errno == ENOENT ? RB_OK : rb_fail(err, RB_EIO, "%s: %s", lock_path, strerror(errno));
    *result = rb_file_lock(fd);
    if (*result == RB_LOCK_TAKEN && is_current(fd, lock_path)) {
        folder->lock = fd;
        return RB_OK;
    }
    close(fd);
    if (*result == RB_LOCK_BUSY)
        return rb_fail(err, RB_EIO, "%s: another run is writing it and holds %s: wait for it, or give another output",
                       folder->output, folder->path);
    if (*result == RB_LOCK_TAKEN) *result = RB_LOCK_BUSY;
    return RB_OK;
}

rb_status parts_folder_open(parts_folder *folder, const char *output, rb_error *err)
{
    enum { MAX_TRIES = 1000 };
    char *tmp_path = NULL, *lock_path = NULL;
    rb_lock_result result = RB_LOCK_BUSY;
    rb_status st;
    *folder = (parts_folder){.output = output, .lock = -1};
    RB_TRY(st, rb_atomic_begin(&tmp_path, output, err), done); /* says what is wrong with the output */
    rb_atomic_discard(tmp_path);
    RB_TRY(st, rb_format(&folder->path, err, "%s.parts", output), done);
    RB_TRY(st, rb_join_path(&lock_path, folder->path, LOCK_NAME, err), done);
    for (int i = 0; i < MAX_TRIES && result == RB_LOCK_BUSY; i++)
        RB_TRY(st, try_lock(folder, lock_path, &result, err), done);
    if (result == RB_LOCK_BUSY) st = rb_fail(err, RB_EIO, "%s: other runs keep removing the folder", folder->path);
    if (result == RB_LOCK_UNKNOWN) parts_folder_remove(folder);
done:
    free(tmp_path);
    free(lock_path);
    if (st != RB_OK) parts_folder_close(folder);
    return st;
}

void parts_folder_close(parts_folder *folder)
{
    if (folder->lock >= 0) close(folder->lock);
    free(folder->path);
    *folder = (parts_folder){.lock = -1};
}

/* ---- what is there --------------------------------------------------------------------------- */

/* Calls visit for every entry but . and .. */
static void each_entry(const parts_folder *folder, void (*visit)(const parts_folder *, const char *name, void *user),
                       void *user)
{
    DIR *dir = opendir(folder->path);
    if (!dir) return;
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) visit(folder, entry->d_name, user);
    closedir(dir);
}

static void note_generation(const parts_folder *folder, const char *name, void *user)
{
    int *lowest = user, generation;
    if (kind_of(folder, name, &generation) == PART_JOURNAL && (*lowest == 0 || generation < *lowest))
        *lowest = generation;
}

int parts_folder_generation(const parts_folder *folder)
{
    int lowest = 0;
    each_entry(folder, note_generation, &lowest);
    return lowest;
}

static bool remove_entry(const parts_folder *folder, const char *name)
{
    char *path = NULL;
    const bool is_removed = rb_join_path(&path, folder->path, name, NULL) == RB_OK && unlink(path) == 0;
    free(path);
    return is_removed;
}

static void remove_other_generation(const parts_folder *folder, const char *name, void *user)
{
    const int *kept = user;
    int generation;
    const part_kind kind = kind_of(folder, name, &generation);
    if ((kind == PART_CAPTURE || kind == PART_JOURNAL) && generation != *kept) remove_entry(folder, name);
}

void parts_folder_keep_generation(const parts_folder *folder, int generation)
{
    each_entry(folder, remove_other_generation, &generation);
}

typedef struct clearing {
    bool takes_identity, takes_journal, found;
} clearing;

static void remove_part(const parts_folder *folder, const char *name, void *user)
{
    clearing *clear = user;
    int generation;
    const part_kind kind = kind_of(folder, name, &generation);
    if (kind == PART_STREAM || kind == PART_CAPTURE || (kind == PART_JOURNAL && clear->takes_journal)
        || (kind == PART_IDENTITY && clear->takes_identity))
        clear->found = remove_entry(folder, name) || clear->found;
}

/* The journal goes after what it tells of: of a published capture it has all that a run needs, in case that this one is
 * killed here. */
bool parts_folder_clear(const parts_folder *folder)
{
    clearing large = {0}, all = {.takes_identity = true, .takes_journal = true};
    each_entry(folder, remove_part, &large);
    each_entry(folder, remove_part, &all);
    return large.found || all.found;
}

static void note_others(const parts_folder *folder, const char *name, void *user)
{
    bool *has_others = user;
    int generation;
    if (kind_of(folder, name, &generation) == PART_OF_OTHERS) *has_others = true;
}

void parts_folder_remove(parts_folder *folder)
{
    bool has_others = false;
    remove_entry(folder, LOCK_NAME);
    if (rmdir(folder->path) == 0) return;
    each_entry(folder, note_others, &has_others); /* without them, the next run is in there already */
    if (has_others) rb_message_warn("%s: stays, since it has files that are no parts of a capture", folder->path);
}
