/* Where the running executable is: see core/sibling.h. */
#include "core/sibling.h"

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

rb_status rb_sibling_program(char **out, const char *name, rb_error *err)
{
    char *folder = NULL;
    const rb_status st = rb_program_folder(&folder, err);
    if (st != RB_OK) return st;
    const rb_status st_path = rb_format(out, err, "%s/ropebits-%s", folder, name);
    free(folder);
    return st_path;
}
