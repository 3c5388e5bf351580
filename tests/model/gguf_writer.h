/* Writes small GGUF files, right ones and damaged ones. */
#ifndef RB_TESTS_GGUF_WRITER_H
#define RB_TESTS_GGUF_WRITER_H

#include "tests/test_support.h"

enum { G_U8 = 0, G_U16 = 2, G_U32 = 4, G_I32 = 5, G_F32 = 6, G_BOOL = 7, G_STRING = 8, G_ARRAY = 9, G_U64 = 10 };

/* Numbers of types in ggml.h. */
enum {
    G_TYPE_F32 = 0,
    G_TYPE_F16 = 1,
    G_TYPE_Q4_0 = 2,
    G_TYPE_Q8_0 = 8,
    G_TYPE_Q2_K = 10,
    G_TYPE_Q4_K = 12,
    G_TYPE_I32 = 26,
    G_TYPE_IQ1_M = 29
};

typedef struct gguf_bytes {
    unsigned char *at;
    size_t n;
} gguf_bytes;

static inline void g_put(gguf_bytes *b, const void *bytes, size_t n)
{
    b->at = realloc(b->at, b->n + n + 1);
    assert_non_null(b->at);
    memcpy(b->at + b->n, bytes, n);
    b->n += n;
}

static inline void g_u32(gguf_bytes *b, uint32_t value) { g_put(b, &value, sizeof value); }
static inline void g_u64(gguf_bytes *b, uint64_t value) { g_put(b, &value, sizeof value); }

static inline void g_string(gguf_bytes *b, const char *text)
{
    g_u64(b, strlen(text));
    g_put(b, text, strlen(text));
}

static inline void g_pad(gguf_bytes *b, size_t alignment)
{
    while (b->n % alignment) g_put(b, "", 1);
}

/* The parts of a file. */
typedef struct gguf_made {
    gguf_bytes metadata, infos, data;
    uint64_t n_entries, n_tensors;
    uint32_t version;
    size_t alignment;
} gguf_made;

static inline gguf_made g_begin(void) { return (gguf_made){.version = 3, .alignment = 32}; }

static inline void g_free(gguf_made *made)
{
    free(made->metadata.at);
    free(made->infos.at);
    free(made->data.at);
}

static inline void g_key(gguf_made *made, const char *key, uint32_t type)
{
    g_string(&made->metadata, key);
    g_u32(&made->metadata, type);
    made->n_entries++;
}

static inline void g_key_u32(gguf_made *made, const char *key, uint32_t value)
{
    g_key(made, key, G_U32);
    g_u32(&made->metadata, value);
}

static inline void g_key_f32(gguf_made *made, const char *key, float value)
{
    g_key(made, key, G_F32);
    g_put(&made->metadata, &value, sizeof value);
}

static inline void g_key_bool(gguf_made *made, const char *key, int value)
{
    const unsigned char byte = (unsigned char)value;
    g_key(made, key, G_BOOL);
    g_put(&made->metadata, &byte, 1);
}

static inline void g_key_string(gguf_made *made, const char *key, const char *value)
{
    g_key(made, key, G_STRING);
    g_string(&made->metadata, value);
}

static inline void g_array(gguf_made *made, const char *key, uint32_t item_type, uint64_t n)
{
    g_key(made, key, G_ARRAY);
    g_u32(&made->metadata, item_type);
    g_u64(&made->metadata, n);
}

static inline void g_key_strings(gguf_made *made, const char *key, const char *const *values, size_t n)
{
    g_array(made, key, G_STRING, n);
    for (size_t i = 0; i < n; i++) g_string(&made->metadata, values[i]);
}

/* f32 or i32 items. */
static inline void g_key_items(gguf_made *made, const char *key, uint32_t item_type, const void *items, size_t n)
{
    g_array(made, key, item_type, n);
    g_put(&made->metadata, items, n * 4);
}

/* The entry of a tensor; columns 0: a vector. */
static inline void g_info(gguf_made *made, const char *name, uint64_t rows, uint64_t columns, uint32_t type,
                          uint64_t offset)
{
    g_string(&made->infos, name);
    g_u32(&made->infos, columns ? 2 : 1);
    if (columns) g_u64(&made->infos, columns);
    g_u64(&made->infos, rows);
    g_u32(&made->infos, type);
    g_u64(&made->infos, offset);
    made->n_tensors++;
}

static inline void g_tensor(gguf_made *made, const char *name, uint64_t rows, uint64_t columns, uint32_t type,
                            const void *data, size_t n_bytes)
{
    g_pad(&made->data, made->alignment);
    g_info(made, name, rows, columns, type, made->data.n);
    g_put(&made->data, data, n_bytes);
}

static inline gguf_bytes g_file(const gguf_made *made)
{
    gguf_bytes file = {0};
    g_put(&file, "GGUF", 4);
    g_u32(&file, made->version);
    g_u64(&file, made->n_tensors);
    g_u64(&file, made->n_entries);
    g_put(&file, made->metadata.at ? made->metadata.at : (const unsigned char *)"", made->metadata.n);
    g_put(&file, made->infos.at ? made->infos.at : (const unsigned char *)"", made->infos.n);
    g_pad(&file, made->alignment);
    g_put(&file, made->data.at ? made->data.at : (const unsigned char *)"", made->data.n);
    return file;
}

static inline void g_write_bytes(const char *path, const void *bytes, size_t n)
{
    unlink(path); /* a fresh file: ext4 flushes one that is cut and written anew */
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, n, out), n);
    assert_int_equal(fclose(out), 0);
}

/* Writes the file, frees its parts. */
static inline const char *g_end(gguf_made *made, const char *path)
{
    const gguf_bytes file = g_file(made);
    g_write_bytes(path, file.at, file.n);
    free(file.at);
    g_free(made);
    return path;
}

#endif
