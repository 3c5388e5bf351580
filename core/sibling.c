/* Where the running executable is, and where a library of ours: see core/sibling.h. */
#include "core/sibling.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

rb_status rb_program_folder(char **out, rb_error *err)
{
    char self[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) return rb_fail(err, RB_EIO, "/proc/self/exe: %s", strerror(errno));
    self[length] = '\0';
    char *slash = strrchr(self, '/');
    if (slash) *slash = '\0';
    return rb_format(out, err, "%s", self);
}

/* The loader's name of an object is a path for all but the program, for which it may be anything. */
rb_status rb_library_folder(char **out, rb_error *err)
{
    static const char here;
    char path[PATH_MAX], program[PATH_MAX];
    Dl_info object;
    *out = NULL;
    if (dladdr(&here, &object) == 0 || !object.dli_fname || !realpath(object.dli_fname, path)) return RB_OK;
    if (!realpath("/proc/self/exe", program) || strcmp(path, program) == 0) return RB_OK;
    char *slash = strrchr(path, '/');
    if (slash) *slash = '\0';
    return rb_format(out, err, "%s", path);
}

rb_status rb_sibling_program(char **out, const char *name, rb_error *err)
{
    char *folder = NULL;
    const rb_status st = rb_program_folder(&folder, err);
    if (st != RB_OK) return st;
    const rb_status st_path = rb_format(out, err, "%s/ropebits-%s", folder, name);
    free(folder);
    return st_path;
}
