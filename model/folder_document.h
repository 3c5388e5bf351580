/* A JSON file of a checkpoint's folder that may be absent. */
#ifndef RB_MODEL_FOLDER_DOCUMENT_H
#define RB_MODEL_FOLDER_DOCUMENT_H

#include <cjson/cJSON.h>

#include "core/status.h"

/* *out is the caller's, and NULL where the folder has no such file. */
rb_status folder_document_read(cJSON **out, const char *folder, const char *name, rb_error *err);

#endif
