/* What a folder is that was given as a checkpoint. Folders that are none, or that hold more than one could mean, are
 * named as what they are before anything is read: an adapter without or beside the weights, shards without an index, a
 * model.safetensors beside shards, weights in another format. */
#ifndef RB_MODEL_FOLDER_CHECK_H
#define RB_MODEL_FOLDER_CHECK_H

#include <cjson/cJSON.h>

#include "core/status.h"

/* Fails with one sentence unless the folder has a config.json and weights in one safetensors form, and no adapter. The
 * content of files is not looked at. */
rb_status folder_check(const char *folder, rb_error *err);

/* Fails where the folder has a shard (model-00001-of-00002.safetensors) that the index does not name; names is the
 * index' {tensor name: file name}, all of them strings. */
rb_status folder_check_index(const char *folder, const cJSON *names, rb_error *err);

#endif
