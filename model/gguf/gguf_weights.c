/* See model/gguf/gguf_weights.h. */
#include "model/gguf/gguf_weights.h"

#include <stdio.h>
#include <string.h>

#include "model/gguf/gguf_names.h"

static rb_status add_entry(weight_map *map, const gguf_tensor *tensor, const gguf_architecture *architecture,
                           rb_error *err)
{
    const int64_t index = map->n_entries;
    char *name = map->names + index * GGUF_HF_NAME_BYTES;
    safetensor *described = &map->tensors[index];
    weight_storage storage;
    if (!gguf_hf_name(name, &storage, architecture, tensor->name))
        return rb_fail(err, RB_EUNSUPPORTED,
                       "tensor \"%s\" is not one of architecture %s, as it is read here; nothing would use it",
                       tensor->name, architecture->name);
    *described = (safetensor){.name = name,
                              .dtype = tensor->dtype,
                              .rank = tensor->rank,
                              .data = tensor->data,
                              .size_bytes = tensor->size_bytes};
    memcpy(described->shape, tensor->shape, sizeof tensor->shape);
    map->entries[map->n_entries++] = (weight_entry){.tensor = described, .storage = storage};
    return RB_OK;
}

rb_status gguf_weights_open(weight_map *map, const gguf_file *file, rb_error *err)
{
    const size_t n = (size_t)gguf_count(file);
    const gguf_architecture *architecture = NULL;
    rb_status st;

    RB_TRY(st, gguf_architecture_of(&architecture, gguf_metadata_of(file), err), done);
    RB_TRY(st, rb_alloc(&map->shards, 1, sizeof *map->shards, "shard list", err), done);
    RB_TRY(st, rb_format(&map->shards[map->n_shards++].path, err, "%s", gguf_path(file)), done);
    RB_TRY(st, rb_alloc(&map->entries, n, sizeof *map->entries, "tensor list", err), done);
    RB_TRY(st, rb_alloc(&map->tensors, n, sizeof *map->tensors, "tensor list", err), done);
    RB_TRY(st, rb_alloc(&map->names, n, GGUF_HF_NAME_BYTES, "tensor names", err), done);
    for (size_t i = 0; i < n; i++) {
        const gguf_tensor *tensor = gguf_at(file, (int64_t)i);
        if (strcmp(tensor->name, GGUF_ROPE_FACTORS) == 0) continue;
        RB_TRY(st, add_entry(map, tensor, architecture, err), done);
    }
    weight_map_sort(map);
done:
    return st == RB_OK ? st : rb_fail_in(err, st, "%s", gguf_path(file));
}
