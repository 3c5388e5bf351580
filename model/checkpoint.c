/* A checkpoint: its configuration and its tensors, mapped and read where they lie (checkpoint.h).
 *
 * A folder and a GGUF fill the same map of tensors, under the same names. What a GGUF stores in another way than its
 * name promises is undone here, where values are read. */
#include "model/checkpoint.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/message.h"
#include "model/folder_check.h"
#include "model/gguf/gguf_config.h"
#include "model/gguf/gguf_weights.h"
#include "model/weight_map.h"

struct checkpoint {
    char *path;
    model_config config;
    gguf_file *gguf; /* NULL: a folder */
    weight_map weights;
};

/* ---- opening --------------------------------------------------------------------------------- */

static rb_status open_folder(checkpoint *ckpt, rb_error *err)
{
    rb_status st;
    RB_TRY(st, folder_check(ckpt->path, err), done);
    RB_TRY(st, model_config_read(&ckpt->config, ckpt->path, err), done);
    st = weight_map_open(&ckpt->weights, ckpt->path, err);
done:
    return st;
}

static rb_status open_gguf(checkpoint *ckpt, rb_error *err)
{
    char *text = NULL;
    rb_status st;
    RB_TRY(st, gguf_open(&ckpt->gguf, ckpt->path, err), done);
    RB_TRY(st, gguf_config_text(&text, ckpt->gguf, err), done);
    RB_TRY(st, model_config_parse(&ckpt->config, text, strlen(text), ckpt->path, err), done);
    st = gguf_weights_open(&ckpt->weights, ckpt->gguf, err);
done:
    free(text);
    return st;
}

void checkpoint_warn_quantized(const checkpoint *ckpt)
{
    bool is_there[TENSOR_N_DTYPES] = {false};
    char names[128] = "";
    size_t used = 0;
    for (int64_t i = 0; i < ckpt->weights.n_entries; i++) is_there[ckpt->weights.entries[i].tensor->dtype] = true;
    for (int dtype = 0; dtype < TENSOR_N_DTYPES && used < sizeof names; dtype++)
        if (is_there[dtype] && tensor_dtype_is_block((tensor_dtype)dtype))
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "",
                                     tensor_dtype_name((tensor_dtype)dtype));
    if (used)
        rb_message_warn("%s: quantized weights (%s): energies, errors and perplexity are those of the quantized model, "
                        "not of the one it was made from",
                        ckpt->path, names);
}

rb_status checkpoint_open(checkpoint **out, const char *path, rb_error *err)
{
    checkpoint *opened = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&opened, 1, sizeof *opened, "checkpoint", err), done);
    RB_TRY(st, rb_format(&opened->path, err, "%s", path), done);
    RB_TRY(st, gguf_is_file(path) ? open_gguf(opened, err) : open_folder(opened, err), done);
    if (opened->config.defaults[0] != '\0')
        rb_message_info("%s: config.json does not say %s: taken as transformers documents for %s", path,
                        opened->config.defaults, opened->config.facts.model_type);
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
    gguf_close(ckpt->gguf);
    free(ckpt->path);
    free(ckpt);
}

const model_config *checkpoint_config(const checkpoint *ckpt) { return &ckpt->config; }

rb_status checkpoint_set_longest(checkpoint *ckpt, int64_t n_positions, rb_error *err)
{
    return model_config_resolve_rope(&ckpt->config, n_positions, ckpt->path, err);
}

const char *checkpoint_folder(const checkpoint *ckpt) { return ckpt->path; }

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
    if (!entry) return rb_fail(err, RB_EFORMAT, "%s: no tensor \"%s\"", ckpt->path, name);
    const safetensor *tensor = entry->tensor;
    bool is_same = tensor->rank == rank;
    for (int i = 0; is_same && i < rank; i++) is_same = tensor->shape[i] == shape[i];
    if (!is_same) {
        char found[SHAPE_TEXT], expected[SHAPE_TEXT];
        format_shape(found, sizeof found, tensor->rank, tensor->shape);
        format_shape(expected, sizeof expected, rank, shape);
        return rb_fail(err, RB_EFORMAT, "%s: tensor \"%s\" has shape %s, expected %s", ckpt->path, name, found,
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
    const safetensor *tensor = entry->tensor;
    *out = (tensor_place){.offset = entry->file ? safetensors_offset(entry->file, tensor)
                                                : gguf_offset(ckpt->gguf, tensor->data),
                          .size_bytes = (int64_t)tensor->size_bytes,
                          .dtype = tensor->dtype,
                          .is_plain = entry->storage == WEIGHT_AS_IS && !tensor_dtype_is_block(tensor->dtype)};
    for (int64_t i = 0; i < ckpt->weights.n_shards; i++)
        if (ckpt->weights.shards[i].file == entry->file) out->path = ckpt->weights.shards[i].path;
    return RB_OK;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Elements of a row: those of one index of the first dim. */
static int64_t row_elements(const safetensor *tensor)
{
    int64_t n = 1;
    for (int i = 1; i < tensor->rank; i++) n *= tensor->shape[i];
    return n;
}

/* Where the file has row `row` of a matrix whose heads' rows lie in pairs: row i of the first half of a head is at 2 i,
 * row i of the second at 2 i + 1. */
static int64_t interleaved_row(int64_t row, int64_t head_dim)
{
    const int64_t in_head = row % head_dim, half = head_dim / 2;
    return row - in_head + in_head % half * 2 + in_head / half;
}

/* Cannot fail once a stretch of no elements could be converted. */
static void load_rows(const checkpoint *ckpt, const weight_entry *entry, int64_t first_row, int64_t n_rows, float *out)
{
    const int64_t n = row_elements(entry->tensor);
    switch (entry->storage) {
    case WEIGHT_AS_IS: safetensor_to_f32(entry->tensor, first_row * n, n_rows * n, out, NULL); break;
    case WEIGHT_ONE_ADDED:
        safetensor_to_f32(entry->tensor, first_row * n, n_rows * n, out, NULL);
        for (int64_t i = 0; i < n_rows * n; i++) out[i] -= 1.0f;
        break;
    case WEIGHT_QUERY_ROWS_INTERLEAVED:
    case WEIGHT_KEY_ROWS_INTERLEAVED:
        for (int64_t row = 0; row < n_rows; row++)
            safetensor_to_f32(entry->tensor, interleaved_row(first_row + row, ckpt->config.facts.head_dim) * n, n,
                              out + row * n, NULL);
        break;
    }
}

static rb_status find_readable(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape,
                               const weight_entry **out, rb_error *err)
{
    const rb_status st = find_entry(ckpt, name, rank, shape, out, err);
    if (st != RB_OK) return st;
    /* With no elements this only tells whether the dtype can be converted. Nothing else can fail. */
    float nothing;
    const rb_status readable = safetensor_to_f32((*out)->tensor, 0, 0, &nothing, err);
    return readable == RB_OK ? readable : rb_fail_in(err, readable, "%s", ckpt->path);
}

/* After values were read. */
static rb_status check_whole(const checkpoint *ckpt, const weight_entry *entry, rb_error *err)
{
    return entry->file ? safetensors_check_whole(entry->file, err) : gguf_check_whole(ckpt->gguf, err);
}

rb_status checkpoint_load_rows(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape,
                               int64_t first_row, int64_t n_rows, float *out, rb_error *err)
{
    enum { LARGE_BYTES = 1 << 18 }; /* a stretch of a stream, not rows that are looked up here and there */
    const weight_entry *entry;
    const rb_status st = find_readable(ckpt, name, rank, shape, &entry, err);
    if (st != RB_OK) return st;
    assert(first_row >= 0 && n_rows >= 0 && first_row + n_rows <= shape[0]);
    load_rows(ckpt, entry, first_row, n_rows, out);
    const size_t row_bytes = shape[0] > 0 ? entry->tensor->size_bytes / (size_t)shape[0] : 0;
    if ((size_t)n_rows * row_bytes >= LARGE_BYTES)
        tensor_release_pages((const char *)entry->tensor->data + (size_t)first_row * row_bytes,
                             (size_t)n_rows * row_bytes);
    return check_whole(ckpt, entry, err);
}

rb_status checkpoint_load(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape, float *out,
                          rb_error *err)
{
    enum { TILE = 1 << 16 }; /* elements; a smaller tensor is not worth waking the threads for */
    const weight_entry *entry;
    const rb_status st = find_readable(ckpt, name, rank, shape, &entry, err);
    if (st != RB_OK) return st;

    const safetensor *tensor = entry->tensor;
    if (tensor->size_bytes == 0) return RB_OK;
    const int64_t n_rows = tensor->rank ? tensor->shape[0] : 1, n = row_elements(tensor),
                  rows = n < TILE ? TILE / n : 1, n_tiles = (n_rows + rows - 1) / rows;
#pragma omp parallel for schedule(static) if (n_tiles > 1)
    for (int64_t tile = 0; tile < n_tiles; tile++) {
        const int64_t first = tile * rows, count = n_rows - first < rows ? n_rows - first : rows;
        load_rows(ckpt, entry, first, count, out + first * n);
    }
    tensor_release_pages(tensor->data, tensor->size_bytes);
    return check_whole(ckpt, entry, err);
}

/* ---- identity -------------------------------------------------------------------------------- */

rb_status checkpoint_config_sha256(char hex[RB_SHA256_HEX], const char *path, rb_error *err)
{
    gguf_file *gguf = NULL;
    char *text = NULL;
    rb_status st;
    if (gguf_is_file(path)) {
        RB_TRY(st, gguf_open(&gguf, path, err), done);
        RB_TRY(st, gguf_config_text(&text, gguf, err), done);
        st = rb_sha256_bytes(hex, text, strlen(text), err);
    } else {
        RB_TRY(st, rb_join_path(&text, path, "config.json", err), done);
        st = rb_sha256_file(hex, text, err);
    }
done:
    free(text);
    gguf_close(gguf);
    return st;
}

void checkpoint_set_weights_sample(checkpoint *ckpt, const char hex[RB_SHA256_HEX])
{
    memcpy(ckpt->config.facts.weights_sample_sha256, hex, RB_SHA256_HEX);
}

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
