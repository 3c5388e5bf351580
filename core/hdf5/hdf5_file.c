/* Files, groups and messages of HDF5: see core/hdf5/hdf5_file.h.
 *
 * Files have the layout of HDF5 1.10 (H5F_LIBVER_V110, both bounds): every piece of metadata in it carries a checksum,
 * so that damage is found where older layouts would be misread. Fixed bounds keep the bytes the same with a newer
 * library. HDF5 notes the time in each object that it makes unless it is told otherwise, so every creation list here
 * says no. */
#include "core/hdf5/hdf5_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/atomic_file.h"
#include "core/hdf5/hdf5_contents.h"
#include "core/hdf5/hdf5_zstd_filter.h"
#include "core/temporary_file.h"

/* ---- messages -------------------------------------------------------------------------------- */

typedef struct hdf5_cause {
    char text[160];
    bool is_truncated;
} hdf5_cause;

/* Called for each entry of HDF5's error stack, the innermost first. Keeps the operating system's words, which HDF5 puts
 * into "errno = 28, error message = 'No space left on device', buf = ...", or the innermost description where there are
 * none. */
static herr_t note_cause(unsigned n, const H5E_error2_t *entry, void *user)
{
    static const char marker[] = "error message = '";
    hdf5_cause *cause = user;
    const char *desc = entry->desc ? entry->desc : "";
    const char *os_text = strstr(desc, marker);
    if (entry->min_num == H5E_TRUNCATED) cause->is_truncated = true;
    if (os_text) {
        os_text += sizeof marker - 1;
        snprintf(cause->text, sizeof cause->text, "%.*s", (int)strcspn(os_text, "'"), os_text);
    } else if (n == 0) {
        snprintf(cause->text, sizeof cause->text, "%.*s", (int)strcspn(desc, "\n"), desc);
    }
    return 0;
}

static hdf5_cause last_cause(void)
{
    hdf5_cause cause = {.text = ""};
    if (H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, note_cause, &cause) < 0 || cause.text[0] == '\0')
        snprintf(cause.text, sizeof cause.text, "HDF5 gave no reason");
    return cause;
}

bool rb_h5_last_cause(char *cause, size_t size)
{
    const hdf5_cause found = last_cause();
    snprintf(cause, size, "%s", found.text);
    return found.is_truncated;
}

/* "FILE: PATH" of an object under loc. The file is being written, and told by the name that it will have. */
static void place_of(char *out, size_t size, hid_t loc, const char *path)
{
    char file[512] = "?", base[512] = "";
    if (H5Fget_name(loc, file, sizeof file) < 0) snprintf(file, sizeof file, "HDF5 file");
    file[rb_temporary_name_length(file)] = '\0';
    if (H5Iget_name(loc, base, sizeof base) < 0 || strcmp(base, "/") == 0) base[0] = '\0';
    if (strcmp(path, ".") == 0) path = base[0] ? "" : "/";
    const char *joint = base[0] && path[0] && path[0] != '/' ? "/" : "";
    snprintf(out, size, "%s: %.120s%s%.120s", file, base[0] == '/' ? base + 1 : base, joint, path);
}

static rb_status fail_at(rb_error *err, rb_status st, hid_t loc, const char *path, const char *cause, const char *fmt,
                         va_list ap)
{
    char place[768], sentence[512];
    vsnprintf(sentence, sizeof sentence, fmt, ap);
    place_of(place, sizeof place, loc, path);
    return cause ? rb_fail(err, st, "%s: %s (%s)", place, sentence, cause)
                 : rb_fail(err, st, "%s: %s", place, sentence);
}

rb_status rb_h5_fail(rb_error *err, rb_status st, hid_t loc, const char *path, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail_at(err, st, loc, path, NULL, fmt, ap);
    va_end(ap);
    return st;
}

rb_status rb_h5_fail_call(rb_error *err, rb_status st, hid_t loc, const char *path, const char *fmt, ...)
{
    const hdf5_cause cause = last_cause(); /* must come first: any call that succeeds forgets the cause */
    va_list ap;
    va_start(ap, fmt);
    fail_at(err, st, loc, path, cause.text, fmt, ap);
    va_end(ap);
    return st;
}

/* ---- files ----------------------------------------------------------------------------------- */

void rb_h5_silence_thread(void) { (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL); }

rb_status rb_h5_init(rb_error *err)
{
    /* HDF5 closes what is open when the program exits, and crashes there on a file it could not write (a full disk).
     * Everything that we open we close ourselves. The call counts only as the process's first one to HDF5; later calls
     * report a failure, which means nothing. */
    (void)H5dont_atexit();
    if (H5Eset_auto2(H5E_DEFAULT, NULL, NULL) < 0) return rb_fail(err, RB_EIO, "HDF5 cannot be started");
    if (H5Zfilter_avail(RB_H5_ZSTD_FILTER) <= 0 && H5Zregister(&rb_zstd_filter) < 0)
        return rb_fail(err, RB_EIO, "HDF5 refuses the zstd filter (%s)", last_cause().text);
    return RB_OK;
}

/* STRONG: closing the file closes what a failed function may have left open in it, so that no half-written file lives
 * on. No locks: a file is complete before it has its name and never changes after, and network file systems often have
 * none. */
hid_t rb_h5_access_list(void)
{
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    if (list < 0) return list;
    if (H5Pset_fclose_degree(list, H5F_CLOSE_STRONG) < 0
        || H5Pset_libver_bounds(list, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0
        || H5Pset_file_locking(list, false, true) < 0) {
        H5Pclose(list);
        return -1;
    }
    return list;
}

/* A creation list of the given class whose objects carry no times. */
static hid_t timeless_list(hid_t class_id)
{
    hid_t list = H5Pcreate(class_id);
    if (list >= 0 && H5Pset_obj_track_times(list, false) < 0) {
        H5Pclose(list);
        return -1;
    }
    return list;
}

static void close_list(hid_t list)
{
    if (list >= 0) H5Pclose(list);
}

static rb_status copy_path(rb_h5_file *file, const char *path, rb_error *err)
{
    *file = (rb_h5_file){.id = H5I_INVALID_HID};
    return rb_format(&file->path, err, "%s", path);
}

/* tmp_path NULL: one of this process's own. */
static rb_status create_file(rb_h5_file *file, const char *path, const char *tmp_path, rb_error *err)
{
    hid_t access_id = -1, creation = -1;
    rb_status st;

    RB_TRY(st, copy_path(file, path, err), done);
    RB_TRY(st, rb_h5_init(err), done);
    file->is_kept = tmp_path != NULL;
    if (tmp_path) RB_TRY(st, rb_format(&file->tmp_path, err, "%s", tmp_path), done);
    else RB_TRY(st, rb_atomic_begin(&file->tmp_path, path, err), done);
    access_id = rb_h5_access_list();
    creation = timeless_list(H5P_FILE_CREATE);
    file->id = access_id < 0 || creation < 0 ? -1 : H5Fcreate(file->tmp_path, H5F_ACC_TRUNC, creation, access_id);
    if (file->id < 0) st = rb_fail(err, RB_EIO, "%s: cannot create (%s)", path, last_cause().text);
done:
    close_list(access_id);
    close_list(creation);
    if (st != RB_OK) rb_h5_close(file);
    return st;
}

rb_status rb_h5_create(rb_h5_file *file, const char *path, rb_error *err) { return create_file(file, path, NULL, err); }

rb_status rb_h5_create_at(rb_h5_file *file, const char *path, const char *tmp_path, rb_error *err)
{
    return create_file(file, path, tmp_path, err);
}

rb_status rb_h5_open(rb_h5_file *file, const char *path, rb_error *err)
{
    struct stat info;
    int fd = -1;
    rb_status st;

    RB_TRY(st, copy_path(file, path, err), done);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe that nobody writes to must not hold us */
    if (fd < 0 || fstat(fd, &info) != 0) {
        st = rb_fail(err, RB_EIO, "%s: cannot open: %s", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        st = rb_fail(err, RB_EIO, "%s: cannot open: not a regular file", path);
    } else {
        st = h5_contents_read(&file->contents, path, fd, err);
        fd = -1;
    }
done:
    if (fd >= 0) close(fd);
    if (st != RB_OK) rb_h5_close(file);
    return st;
}

rb_status rb_h5_publish(rb_h5_file *file, rb_error *err)
{
    rb_status st = RB_OK;
    rb_h5_silence_thread();
    const herr_t closed = H5Fclose(file->id);
    file->id = H5I_INVALID_HID;
    if (closed < 0) st = rb_fail(err, RB_EIO, "%s: cannot write (%s)", file->path, last_cause().text);
    else if (file->is_kept) st = rb_atomic_move(file->tmp_path, file->path, err);
    else st = rb_atomic_publish(file->tmp_path, file->path, err);
    if (st == RB_OK) { /* nothing left to remove */
        free(file->tmp_path);
        file->tmp_path = NULL;
    }
    rb_h5_close(file);
    return st;
}

void rb_h5_close(rb_h5_file *file)
{
    if (file->path && file->id >= 0) {
        rb_h5_silence_thread();
        H5Fclose(file->id);
    }
    h5_contents_free(file->contents);
    if (!file->is_kept) rb_atomic_discard(file->tmp_path);
    free(file->tmp_path);
    free(file->path);
    *file = (rb_h5_file){.id = H5I_INVALID_HID};
}

/* ---- groups ------------------------------------------------------------------------ */

enum { MAX_PATH = 1024 };

/* "a", then "a/b", then "a/b/c": the path up to the end of its n-th name, from 0; false past the last. */
static bool path_prefix(char out[MAX_PATH], const char *path, int n)
{
    const char *end = path;
    for (int i = 0; i <= n; i++) {
        end += strspn(end, "/");
        if (*end == '\0') return false;
        end += strcspn(end, "/");
    }
    if (end - path >= MAX_PATH) return false;
    memcpy(out, path, (size_t)(end - path));
    out[end - path] = '\0';
    return true;
}

static rb_status make_one_group(hid_t parent, const char *name, hid_t creation, rb_error *err)
{
    rb_h5_silence_thread();
    hid_t group = H5Lexists(parent, name, H5P_DEFAULT) > 0
                      ? H5Gopen2(parent, name, H5P_DEFAULT)
                      : H5Gcreate2(parent, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (group < 0) return rb_h5_fail_call(err, RB_EIO, parent, name, "cannot create group");
    return H5Gclose(group) < 0 ? rb_h5_fail_call(err, RB_EIO, parent, name, "cannot close group") : RB_OK;
}

rb_status rb_h5_make_group(hid_t parent, const char *name, rb_error *err)
{
    /* One by one, because parents that HDF5 makes by itself would carry times. */
    char prefix[MAX_PATH];
    hid_t creation = timeless_list(H5P_GROUP_CREATE);
    rb_status st = creation < 0 ? rb_fail(err, RB_ENOMEM, "HDF5 cannot make a property list") : RB_OK;
    for (int i = 0; st == RB_OK && path_prefix(prefix, name, i); i++)
        st = make_one_group(parent, prefix, creation, err);
    close_list(creation);
    return st;
}
