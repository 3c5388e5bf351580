/* A checkpoint: its configuration and its tensors, mapped and read where they lie (checkpoint.h). */
#include "model/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/folder_check.h"
#include "model/weight_map.h"

struct checkpoint {
    char *folder;
    model_config config;
    weight_map weights;
};

rb_status checkpoint_open(checkpoint **out, const char *folder, rb_error *err)
{
    checkpoint *opened = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&opened, 1, sizeof *opened, "checkpoint", err), done);
    RB_TRY(st, rb_format(&opened->folder, err, "%s", folder), done);
    RB_TRY(st, folder_check(folder, err), done);
    RB_TRY(st, model_config_read(&opened->config, folder, err), done);
    RB_TRY(st, weight_map_open(&opened->weights, folder, err), done);
    *out = opened;
    opened = NULL;
done:
    checkpoint_close(opened);
    return st;
}

void checkpoint_close(checkpoint *ckpt)
{
    if (!ckpt) return;
    weight_map_close(&ckpt->weights);
    free(ckpt->folder);
    free(ckpt);
}

const model_config *checkpoint_config(const checkpoint *ckpt) { return &ckpt->config; }

const char *checkpoint_folder(const checkpoint *ckpt) { return ckpt->folder; }

int64_t checkpoint_n_tensors(const checkpoint *ckpt) { return ckpt->weights.n_entries; }

const safetensor *checkpoint_tensor_at(const checkpoint *ckpt, int64_t index)
{
    return ckpt->weights.entries[index].tensor;
}

int64_t checkpoint_tensor_index(const checkpoint *ckpt, const char *name)
{
    const weight_entry *entry = weight_map_find(&ckpt->weights, name);
    return entry ? entry - ckpt->weights.entries : -1;
}

bool checkpoint_has(const checkpoint *ckpt, const char *name) { return weight_map_find(&ckpt->weights, name) != NULL; }

/* ---- one tensor ------------------------------------------------------------------------------ */

/* "[192, 512]" */
static void format_shape(char *text, size_t size, int rank, const int64_t *shape)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, i ? ", " : "", shape[i]);
    if (used < size) snprintf(text + used, size - used, "]");
}

static rb_status find_entry(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape,
                            const weight_entry **out, rb_error *err)
{
    enum { SHAPE_TEXT = SAFETENSORS_MAX_RANK * 22 + 3 };
    const weight_entry *entry = weight_map_find(&ckpt->weights, name);
    if (!entry) return rb_fail(err, RB_EFORMAT, "%s: no tensor \"%s\"", ckpt->folder, name);
    const safetensor *tensor = entry->tensor;
    bool is_same = tensor->rank == rank;
    for (int i = 0; is_same && i < rank; i++) is_same = tensor->shape[i] == shape[i];
    if (!is_same) {
        char found[SHAPE_TEXT], expected[SHAPE_TEXT];
        format_shape(found, sizeof found, tensor->rank, tensor->shape);
        format_shape(expected, sizeof expected, rank, shape);
        return rb_fail(err, RB_EFORMAT, "%s: tensor \"%s\" has shape %s, expected %s", ckpt->folder, name, found,
                       expected);
    }
    *out = entry;
    return RB_OK;
}

rb_status checkpoint_tensor(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape,
                            const safetensor **out, rb_error *err)
{
    const weight_entry *entry;
    const rb_status st = find_entry(ckpt, name, rank, shape, &entry, err);
    if (st == RB_OK) *out = entry->tensor;
    return st;
}

rb_status checkpoint_place(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape, tensor_place *out,
                           rb_error *err)
{
    const weight_entry *entry;
    const rb_status st = find_entry(ckpt, name, rank, shape, &entry, err);
    if (st != RB_OK) return st;
    *out = (tensor_place){.offset = safetensors_offset(entry->file, entry->tensor),
                          .size_bytes = (int64_t)entry->tensor->size_bytes,
                          .dtype = entry->tensor->dtype};
    for (int64_t i = 0; i < ckpt->weights.n_shards; i++)
        if (ckpt->weights.shards[i].file == entry->file) out->path = ckpt->weights.shards[i].path;
    return RB_OK;
}

rb_status checkpoint_load(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape, float *out,
                          rb_error *err)
{
    enum { TILE = 1 << 16 }; /* elements; a smaller tensor is not worth waking the threads for */
    const weight_entry *entry;
    rb_status st = find_entry(ckpt, name, rank, shape, &entry, err);
    if (st != RB_OK) return st;

    const safetensor *tensor = entry->tensor;
    /* With no elements this only tells whether the dtype can be converted. Nothing else can fail. */
    st = safetensor_to_f32(tensor, 0, 0, out, err);
    if (st != RB_OK) return rb_fail_in(err, st, "%s", ckpt->folder);
    const int64_t n = (int64_t)(tensor->size_bytes / tensor_dtype_size(tensor->dtype)), n_tiles = (n + TILE - 1) / TILE;
#pragma omp parallel for schedule(static) if (n_tiles > 1)
    for (int64_t tile = 0; tile < n_tiles; tile++) {
        const int64_t first = tile * TILE, count = n - first < TILE ? n - first : TILE;
        safetensor_to_f32(tensor, first, count, out + first, NULL);
    }
    safetensors_release(entry->file, tensor);
    return RB_OK;
}

/* ---- identity -------------------------------------------------------------------------------- */

int64_t checkpoint_weight_bytes(const checkpoint *ckpt)
{
    int64_t size_bytes = 0;
    for (int64_t i = 0; i < ckpt->weights.n_entries; i++)
        size_bytes += (int64_t)ckpt->weights.entries[i].tensor->size_bytes;
    return size_bytes;
}

/* Read, not mapped: hashing a large checkpoint must not fill the process with its pages. */
static rb_status hash_file(rb_sha256 *hash, const char *path, unsigned char *buffer, size_t buffer_bytes, rb_error *err)
{
    size_t n_read;
    rb_status st = RB_OK;
    FILE *in = fopen(path, "rb");
    if (!in) return rb_fail(err, RB_EIO, "%s: cannot open: %s", path, strerror(errno));
    while (st == RB_OK && (n_read = fread(buffer, 1, buffer_bytes, in)) > 0)
        st = rb_sha256_add(hash, buffer, n_read, err);
    if (st == RB_OK && ferror(in)) st = rb_fail(err, RB_EIO, "%s: cannot read: %s", path, strerror(errno));
    fclose(in);
    return st;
}

rb_status checkpoint_weights_sha256(const checkpoint *ckpt, char hex[RB_SHA256_HEX], rb_error *err)
{
    enum { BUFFER_BYTES = 1 << 20 };
    unsigned char *buffer = NULL;
    rb_sha256 *hash = NULL;
    rb_status st;

    RB_TRY(st, rb_alloc(&buffer, BUFFER_BYTES, 1, "read buffer", err), done);
    RB_TRY(st, rb_sha256_begin(&hash, err), done);
    for (int64_t i = 0; i < ckpt->weights.n_shards; i++)
        RB_TRY(st, hash_file(hash, ckpt->weights.shards[i].path, buffer, BUFFER_BYTES, err), done);
    RB_TRY(st, rb_sha256_end(&hash, hex, err), done);
done:
    if (hash) rb_sha256_end(&hash, NULL, NULL);
    free(buffer);
    return st;
}
