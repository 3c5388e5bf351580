/* See model/folder_check.h. Names are what Hugging Face's libraries, PEFT, llama.cpp and others write. */
#include "model/folder_check.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 256 };

#define SHARD_PATTERN "model-[0-9]*-of-[0-9]*.safetensors"

/* Files of one kind: how many, and the first by name. */
typedef struct found_files {
    int n;
    char first[NAME_BYTES];
} found_files;

/* What the files of a folder can be. The first kind whose pattern a name matches counts. */
typedef enum file_role {
    ROLE_CONFIG,
    ROLE_SINGLE,
    ROLE_INDEX,
    ROLE_ADAPTER,
    ROLE_SHARD,
    ROLE_ORIGINAL, /* Meta's and Mistral's own format */
    ROLE_GGUF,
    ROLE_PICKLE,
    ROLE_ONNX,
    ROLE_TENSORFLOW,
    ROLE_FLAX,
    ROLE_OPENVINO,
    ROLE_MLX,
    ROLE_DIFFUSION,
    ROLE_CACHE,
    ROLE_OTHER_SAFETENSORS,
    N_ROLES
} file_role;

static const struct {
    const char *pattern;
    file_role role;
} patterns[] = {
    {"config.json", ROLE_CONFIG},
    {"model.safetensors", ROLE_SINGLE},
    {"model.safetensors.index.json", ROLE_INDEX},
    {"adapter_config.json", ROLE_ADAPTER},
    {"adapter_model*.safetensors", ROLE_ADAPTER},
    {"adapter_model*.bin", ROLE_ADAPTER},
    {"adapters.safetensors", ROLE_ADAPTER},
    {"adapters.npz", ROLE_ADAPTER},
    {"*[Ll][Oo][Rr][Aa]*.safetensors", ROLE_ADAPTER},
    {"*adapter*.safetensors", ROLE_ADAPTER},
    {SHARD_PATTERN, ROLE_SHARD},
    {"consolidated*.safetensors", ROLE_ORIGINAL},
    {"consolidated*.pth", ROLE_ORIGINAL},
    {"params.json", ROLE_ORIGINAL},
    {"*.gguf", ROLE_GGUF},
    {"pytorch_model*.bin", ROLE_PICKLE},
    {"pytorch_model*.bin.index.json", ROLE_PICKLE},
    {"model*.bin", ROLE_PICKLE},
    {"*.pth", ROLE_PICKLE},
    {"*.pt", ROLE_PICKLE},
    {"*.ckpt", ROLE_PICKLE},
    {"*.onnx", ROLE_ONNX},
    {"onnx", ROLE_ONNX},
    {"tf_model*.h5", ROLE_TENSORFLOW},
    {"saved_model.pb", ROLE_TENSORFLOW},
    {"flax_model*.msgpack*", ROLE_FLAX},
    {"openvino_model.*", ROLE_OPENVINO},
    {"weights*.npz", ROLE_MLX},
    {"model_index.json", ROLE_DIFFUSION},
    {"snapshots", ROLE_CACHE},
    {"*.safetensors", ROLE_OTHER_SAFETENSORS},
};

/* ---- the list of files ----------------------------------------------------------------------- */

static void add_file(found_files found[N_ROLES], const char *name)
{
    for (size_t i = 0; i < RB_COUNT(patterns); i++) {
        if (fnmatch(patterns[i].pattern, name, 0) != 0) continue;
        found_files *files = &found[patterns[i].role];
        if (files->n++ == 0 || strcmp(name, files->first) < 0) snprintf(files->first, NAME_BYTES, "%s", name);
        return;
    }
}

static rb_status list_files(found_files found[N_ROLES], const char *folder, rb_error *err)
{
    const struct dirent *entry;
    DIR *dir = opendir(folder);
    if (!dir) return rb_fail(err, RB_EIO, "%s: cannot open the folder: %s", folder, strerror(errno));
    while ((entry = readdir(dir)) != NULL) add_file(found, entry->d_name);
    closedir(dir);
    return RB_OK;
}

/* ---- what it is ------------------------------------------------------------------------------ */

static rb_status check_adapter(const found_files found[N_ROLES], const char *folder, rb_error *err)
{
    const char *adapter = found[ROLE_ADAPTER].first;
    if (found[ROLE_ADAPTER].n == 0) return RB_OK;
    if (found[ROLE_CONFIG].n == 0 || found[ROLE_SINGLE].n + found[ROLE_INDEX].n + found[ROLE_SHARD].n == 0)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "%s: only an adapter (%s), without the weights of a model: merge it into its base model first",
                       folder, adapter);
    return rb_fail(err, RB_EUNSUPPORTED,
                   "%s: an adapter (%s) beside the weights, which is not read: merge it into them first, or move it "
                   "away to use the model without it",
                   folder, adapter);
}

typedef struct other_format {
    file_role role;
    const char *what; /* "%s: %s (%s), expected ..." */
} other_format;

static const other_format other_formats[] = {
    {ROLE_DIFFUSION, "a pipeline of diffusers"},
    {ROLE_CACHE, "a cache folder of huggingface_hub; give the folder of a revision in snapshots"},
    {ROLE_ORIGINAL, "weights in the original format of Meta or Mistral"},
    {ROLE_PICKLE, "the weights are PyTorch pickles; convert them with transformers"},
    {ROLE_GGUF, "weights as GGUF"},
    {ROLE_ONNX, "an ONNX model"},
    {ROLE_OPENVINO, "an OpenVINO model"},
    {ROLE_TENSORFLOW, "TensorFlow weights"},
    {ROLE_FLAX, "Flax weights"},
    {ROLE_MLX, "MLX weights"},
    {ROLE_OTHER_SAFETENSORS, "safetensors under another name"},
};

/* What the folder holds in place of the weights or the configuration; NULL for nothing that is known. */
static const other_format *find_other_format(const found_files found[N_ROLES])
{
    for (size_t i = 0; i < RB_COUNT(other_formats); i++)
        if (found[other_formats[i].role].n > 0) return &other_formats[i];
    return NULL;
}

static rb_status fail_missing(const found_files found[N_ROLES], const char *folder, const char *missing,
                              const char *expected, rb_error *err)
{
    const other_format *other = find_other_format(found);
    if (!other) return rb_fail(err, RB_EIO, "%s: no %s, expected %s", folder, missing, expected);
    return rb_fail(err, RB_EUNSUPPORTED, "%s: no %s, but %s (%s); expected %s", folder, missing, other->what,
                   found[other->role].first, expected);
}

static rb_status check_weights(const found_files found[N_ROLES], const char *folder, rb_error *err)
{
    const found_files *shards = &found[ROLE_SHARD];
    if (found[ROLE_INDEX].n > 0) return RB_OK; /* weight_map.c compares it with the files */
    if (found[ROLE_SINGLE].n > 0 && shards->n > 0)
        return rb_fail(err, RB_EMISMATCH,
                       "%s: model.safetensors beside %d shards (%s, ...): which of them is meant cannot be told, "
                       "expected one or the other",
                       folder, shards->n, shards->first);
    if (found[ROLE_SINGLE].n > 0) return RB_OK;
    if (shards->n > 0)
        return rb_fail(err, RB_EFORMAT,
                       "%s: %d shards (%s, ...) without an index, expected model.safetensors.index.json", folder,
                       shards->n, shards->first);
    return fail_missing(found, folder, "weights", "model.safetensors or model.safetensors.index.json", err);
}

rb_status folder_check(const char *folder, rb_error *err)
{
    found_files found[N_ROLES] = {0};
    rb_status st;
    RB_TRY(st, list_files(found, folder, err), done);
    RB_TRY(st, check_adapter(found, folder, err), done);
    if (found[ROLE_CONFIG].n == 0)
        RB_TRY(st, fail_missing(found, folder, "config.json", "a Hugging Face checkpoint", err), done);
    st = check_weights(found, folder, err);
done:
    return st;
}

/* ---- the index ------------------------------------------------------------------------------- */

static bool is_named(const cJSON *names, const char *file)
{
    const cJSON *item;
    cJSON_ArrayForEach (item, names) {
        if (strcmp(item->valuestring, file) == 0) return true;
    }
    return false;
}

rb_status folder_check_index(const char *folder, const cJSON *names, rb_error *err)
{
    const struct dirent *entry;
    rb_status st = RB_OK;
    DIR *dir = opendir(folder);
    if (!dir) return rb_fail(err, RB_EIO, "%s: cannot open the folder: %s", folder, strerror(errno));
    while (st == RB_OK && (entry = readdir(dir)) != NULL)
        if (fnmatch(SHARD_PATTERN, entry->d_name, 0) == 0 && !is_named(names, entry->d_name))
            st = rb_fail(err, RB_EMISMATCH,
                         "%s/%s: not named by model.safetensors.index.json: which weights are meant cannot be told, "
                         "expected no other shards",
                         folder, entry->d_name);
    closedir(dir);
    return st;
}
