/* GGUF, the file of llama.cpp: metadata and tensors in one mapped file.
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 *   4 bytes "GGUF"; u32 version (2 or 3); u64 number of tensors; u64 number of metadata entries
 *   the metadata (gguf_metadata.h)
 *   a tensor each: name, u32 rank, u64 dims (the fastest first), u32 type, u64 offset into the data
 *   padding to the alignment (metadata general.alignment, else 32), then the data
 *
 * Checked before anything is handed out: every count and length against the size of the file, names that are there
 * twice, types and ranks, offsets (aligned, within the file, no two tensors overlap). Refused by name: a big-endian
 * file, one part of a split model, a tensor of a type that is not read here. A file that another process cuts ends this
 * one with a sentence (core/mapped_file.h). */
#ifndef RB_MODEL_GGUF_FILE_H
#define RB_MODEL_GGUF_FILE_H

#include "model/gguf/gguf_metadata.h"
#include "model/tensor_dtype.h"

enum { GGUF_MAX_RANK = 4 };

typedef struct gguf_tensor {
    char *name;
    tensor_dtype dtype;
    int rank;
    int64_t shape[GGUF_MAX_RANK]; /* the last dim is the fastest, as everywhere in ropebits */
    const void *data;
    size_t size_bytes;
} gguf_tensor;

typedef struct gguf_file gguf_file;

/* Whether a path is a regular file, which a model can be only as a GGUF; a folder holds config.json. */
bool gguf_is_file(const char *path);

rb_status gguf_open(gguf_file **out, const char *path, rb_error *err);
void gguf_close(gguf_file *file);
const char *gguf_path(const gguf_file *file);
const gguf_metadata *gguf_metadata_of(const gguf_file *file);
int64_t gguf_count(const gguf_file *file);
const gguf_tensor *gguf_at(const gguf_file *file, int64_t index);             /* in file order */
const gguf_tensor *gguf_find_tensor(const gguf_file *file, const char *name); /* NULL when absent */
int64_t gguf_offset(const gguf_file *file, const void *data);                 /* of data in the file */
/* Fails when the file is shorter by now: what was read last may be zeros. */
rb_status gguf_check_whole(const gguf_file *file, rb_error *err);

#endif
