/* The shards of a checkpoint (weight_map.h).
 *
 * The index is "weight_map": {tensor name: file name}. It comes with the weights from wherever they were downloaded, so
 * a file name must be a plain name ending in .safetensors: no index may point a reader at a file outside its folder. */
#include "model/weight_map.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "model/folder_check.h"

static const char SINGLE_FILE[] = "model.safetensors", INDEX_FILE[] = "model.safetensors.index.json",
                  SUFFIX[] = ".safetensors";

static rb_status file_exists(bool *exists, const char *folder, const char *name, rb_error *err)
{
    char *path = NULL;
    const rb_status st = rb_join_path(&path, folder, name, err);
    if (st == RB_OK) *exists = access(path, F_OK) == 0;
    free(path);
    return st;
}

/* ---- shards ---------------------------------------------------------------------------------- */

static rb_status open_shard(weight_map *map, const char *folder, const char *name, rb_error *err)
{
    weight_shard *shard = &map->shards[map->n_shards++];
    const rb_status st = rb_join_path(&shard->path, folder, name, err);
    return st == RB_OK ? safetensors_open(&shard->file, shard->path, err) : st;
}

static int compare_entries(const void *a, const void *b)
{
    const weight_entry *x = a, *y = b;
    return strcmp(x->tensor->name, y->tensor->name);
}

void weight_map_sort(weight_map *map)
{
    qsort(map->entries, (size_t)map->n_entries, sizeof *map->entries, compare_entries);
}

static rb_status open_single(weight_map *map, const char *folder, rb_error *err)
{
    rb_status st;

    RB_TRY(st, rb_alloc(&map->shards, 1, sizeof *map->shards, "shard list", err), done);
    RB_TRY(st, open_shard(map, folder, SINGLE_FILE, err), done);
    const safetensors_file *file = map->shards[0].file;
    RB_TRY(st, rb_alloc(&map->entries, (size_t)safetensors_count(file), sizeof *map->entries, "tensor list", err),
           done);
    for (int64_t i = 0; i < safetensors_count(file); i++)
        map->entries[map->n_entries++] = (weight_entry){.tensor = safetensors_at(file, i), .file = file};
    weight_map_sort(map);
done:
    return st;
}

/* ---- the index ------------------------------------------------------------------------------- */

static rb_status check_file_name(const cJSON *item, const char *index_path, rb_error *err)
{
    if (!cJSON_IsString(item))
        return rb_fail(err, RB_EFORMAT, "%s: weight_map \"%s\" is not a file name", index_path, item->string);
    const char *name = item->valuestring;
    const size_t length = strlen(name), suffix_length = strlen(SUFFIX);
    if (strchr(name, '/') || strchr(name, '\\'))
        return rb_fail(err, RB_EFORMAT, "%s: weight_map \"%s\" names \"%s\", expected a file in the same folder",
                       index_path, item->string, name);
    if (length <= suffix_length || strcmp(name + length - suffix_length, SUFFIX) != 0)
        return rb_fail(err, RB_EFORMAT, "%s: weight_map \"%s\" names \"%s\", expected a name ending in %s", index_path,
                       item->string, name, SUFFIX);
    return RB_OK;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Opens each file that the index names, once, in the order of names. */
static rb_status open_shards(weight_map *map, const cJSON *names, const char *folder, rb_error *err)
{
    const size_t n_names = (size_t)cJSON_GetArraySize(names);
    const char **files = NULL;
    const cJSON *item;
    size_t n = 0, n_files = 0;
    rb_status st;

    RB_TRY(st, rb_alloc(&files, n_names, sizeof *files, "shard names", err), done);
    cJSON_ArrayForEach (item, names) files[n++] = item->valuestring;
    qsort(files, n_names, sizeof *files, compare_strings);
    for (size_t i = 0; i < n_names; i++)
        if (i == 0 || strcmp(files[i - 1], files[i]) != 0) files[n_files++] = files[i];
    RB_TRY(st, rb_alloc(&map->shards, n_files, sizeof *map->shards, "shard list", err), done);
    for (size_t i = 0; i < n_files; i++) RB_TRY(st, open_shard(map, folder, files[i], err), done);
done:
    free(files);
    return st;
}

/* Each file that the index names is there. */
static rb_status check_shards_are_there(const cJSON *names, const char *folder, const char *index_path, rb_error *err)
{
    const cJSON *item;
    const char *last = NULL;
    cJSON_ArrayForEach (item, names) {
        bool exists = false;
        if (last && strcmp(last, item->valuestring) == 0) continue; /* the tensors of a file mostly stand together */
        last = item->valuestring;
        const rb_status st = file_exists(&exists, folder, last, err);
        if (st != RB_OK) return st;
        if (!exists)
            return rb_fail(err, RB_EIO, "%s: names %s, which is not in the folder: the weights are not complete",
                           index_path, last);
    }
    return RB_OK;
}

/* A model.safetensors that the index does not name may hold other weights than the shards. */
static rb_status check_no_stray_file(const cJSON *names, const char *folder, rb_error *err)
{
    bool has_single = false;
    const cJSON *item;
    const rb_status st = file_exists(&has_single, folder, SINGLE_FILE, err);
    if (st != RB_OK || !has_single) return st;
    cJSON_ArrayForEach (item, names) {
        if (strcmp(item->valuestring, SINGLE_FILE) == 0) return RB_OK;
    }
    return rb_fail(err, RB_EMISMATCH,
                   "%s/%s: beside %s, which names %s and not this file: which of them is meant cannot be told, "
                   "expected one or the other",
                   folder, SINGLE_FILE, INDEX_FILE, names->child ? names->child->valuestring : "no file");
}

/* Every tensor of a shard is in the index, which places it there. Call when the entries are complete. */
static rb_status check_every_tensor_is_named(const weight_map *map, const char *index_path, rb_error *err)
{
    const safetensor *first = NULL;
    const char *path = NULL;
    int64_t n = 0, n_in_shards = 0;
    for (int64_t i = 0; i < map->n_shards; i++) n_in_shards += safetensors_count(map->shards[i].file);
    if (n_in_shards == map->n_entries) return RB_OK;
    for (int64_t i = 0; i < map->n_shards; i++) {
        for (int64_t j = 0; j < safetensors_count(map->shards[i].file); j++) {
            const safetensor *tensor = safetensors_at(map->shards[i].file, j);
            const weight_entry *entry = weight_map_find(map, tensor->name);
            if (entry && entry->file == map->shards[i].file) continue;
            if (n++ == 0) first = tensor, path = map->shards[i].path;
        }
    }
    return rb_fail(err, RB_EFORMAT, "%s: does not name %lld %s of its shards: \"%s\" of %s%s; expected none",
                   index_path, (long long)n, n == 1 ? "tensor" : "tensors", first ? first->name : "", path ? path : "",
                   n > 1 ? ", ..." : "");
}

static int compare_shard(const void *key, const void *element)
{
    const weight_shard *shard = element;
    return strcmp(key, strrchr(shard->path, '/') + 1);
}

static rb_status open_indexed(weight_map *map, const char *folder, rb_error *err)
{
    char *index_path = NULL;
    cJSON *index = NULL;
    const cJSON *names, *item;
    rb_status st;

    RB_TRY(st, rb_join_path(&index_path, folder, INDEX_FILE, err), done);
    RB_TRY(st, rb_json_read(&index, index_path, 0, err), done);
    RB_TRY(st, rb_json_get_object(index, "weight_map", index_path, &names, err), done);
    cJSON_ArrayForEach (item, names) RB_TRY(st, check_file_name(item, index_path, err), done);
    RB_TRY(st, check_no_stray_file(names, folder, err), done);
    RB_TRY(st, folder_check_index(folder, names, err), done);
    RB_TRY(st, check_shards_are_there(names, folder, index_path, err), done);
    RB_TRY(st, open_shards(map, names, folder, err), done);
    RB_TRY(st, rb_alloc(&map->entries, (size_t)cJSON_GetArraySize(names), sizeof *map->entries, "tensor list", err),
           done);
    cJSON_ArrayForEach (item, names) {
        const weight_shard *shard =
            bsearch(item->valuestring, map->shards, (size_t)map->n_shards, sizeof *map->shards, compare_shard);
        const safetensor *tensor = safetensors_find(shard->file, item->string);
        if (!tensor)
            RB_TRY(st,
                   rb_fail(err, RB_EFORMAT, "%s: tensor \"%s\" is not in %s, where the index places it", index_path,
                           item->string, shard->path),
                   done);
        map->entries[map->n_entries++] = (weight_entry){.tensor = tensor, .file = shard->file};
    }
    weight_map_sort(map);
    st = check_every_tensor_is_named(map, index_path, err);
done:
    free(index_path);
    cJSON_Delete(index);
    return st;
}

/* ---- public ---------------------------------------------------------------------------------- */

rb_status weight_map_open(weight_map *map, const char *folder, rb_error *err)
{
    bool is_sharded = false;
    rb_status st;

    RB_TRY(st, file_exists(&is_sharded, folder, INDEX_FILE, err), done);
    if (is_sharded) RB_TRY(st, open_indexed(map, folder, err), done);
    else RB_TRY(st, open_single(map, folder, err), done);
done:
    return st;
}

void weight_map_close(weight_map *map)
{
    for (int64_t i = 0; i < map->n_shards; i++) {
        safetensors_close(map->shards[i].file);
        free(map->shards[i].path);
    }
    free(map->shards);
    free(map->entries);
    free(map->tensors);
    free(map->names);
    *map = (weight_map){0};
}

const weight_entry *weight_map_find(const weight_map *map, const char *name)
{
    const safetensor key_tensor = {.name = name};
    const weight_entry key = {.tensor = &key_tensor};
    return bsearch(&key, map->entries, (size_t)map->n_entries, sizeof *map->entries, compare_entries);
}
