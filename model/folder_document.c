/* See model/folder_document.h. */
#include "model/folder_document.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/atomic_file.h"
#include "core/json.h"

rb_status folder_document_read(cJSON **out, const char *folder, const char *name, rb_error *err)
{
    char *path = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_join_path(&path, folder, name, err), done);
    if (access(path, F_OK) == 0) st = rb_json_read(out, path, 0, err);
done:
    free(path);
    return st;
}
