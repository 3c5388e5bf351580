/* Which shard holds which tensor: model.safetensors, or model.safetensors.index.json and the files it names. Only
 * checkpoint.c uses it. */
#ifndef RB_MODEL_WEIGHT_MAP_H
#define RB_MODEL_WEIGHT_MAP_H

#include "model/safetensors.h"

typedef struct weight_shard {
    char *path;
    safetensors_file *file;
} weight_shard;

/* How a file stores a tensor, against what its Hugging Face name promises. All but the first are found in GGUF only,
 * and undone by the checkpoint's reader. */
typedef enum weight_storage {
    WEIGHT_AS_IS,
    /* Rows of a head in pairs that turn together: row 2i is row i, row 2i + 1 is row i + head_dim / 2. */
    WEIGHT_QUERY_ROWS_INTERLEAVED,
    WEIGHT_KEY_ROWS_INTERLEAVED,
    WEIGHT_ONE_ADDED /* to every element */
} weight_storage;

typedef struct weight_entry {
    const safetensor *tensor;
    const safetensors_file *file; /* NULL: in a GGUF */
    weight_storage storage;
} weight_entry;

typedef struct weight_map {
    weight_shard *shards; /* by file name */
    int64_t n_shards;
    weight_entry *entries; /* by tensor name */
    int64_t n_entries;
    safetensor *tensors; /* of a GGUF, described under their Hugging Face names (gguf/gguf_weights.h); else NULL */
    char *names;
} weight_map;

/* Opens every shard. Call folder_check before (model/folder_check.h). Fails on a file name that leaves the folder, a
 * missing shard, a tensor that is not in its shard, a tensor of a shard that the index does not name, and a
 * model.safetensors beside shards. Zero or half-filled maps are freed by weight_map_close. */
rb_status weight_map_open(weight_map *map, const char *folder, rb_error *err);
void weight_map_close(weight_map *map);
void weight_map_sort(weight_map *map);                                        /* the entries, once they are all there */
const weight_entry *weight_map_find(const weight_map *map, const char *name); /* NULL when absent */

#endif
