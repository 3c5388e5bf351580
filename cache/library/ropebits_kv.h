/* ropebits_kv: packed KV caches by a plan.rbp. For runtimes: encodes keys and values into pages, decodes them, and
 * attends over pages as they are. One header, one library (libropebits_kv, with libropebits_plan); on the CPU it needs
 * libc, libm and libzstd only. On a GPU it opens lib/ropebits_cuda.so of the same release.
 *
 *   ropebits_kv *kv; char error[256];
 *   if (ropebits_kv_open(&kv, "plan.rbp", "cuda:0", error, sizeof error)) { fprintf(stderr, "%s\n", error); ... }
 *   void *pages = device memory of n_pages * ropebits_kv_page_bytes(kv, layer) bytes;
 *   ropebits_kv_append(kv, layer, &new_tokens, &cache, stream, error, sizeof error);
 *   ropebits_kv_attend(kv, layer, &queries, &cache, stream, error, sizeof error);
 *   ropebits_kv_close(kv);
 *
 * The library keeps tables only. Keys, values, pages and workspaces are the caller's, in the memory of the device that
 * ropebits_kv_open was given. Functions may be called from several threads, each with memory of its own. On a GPU every
 * call is asynchronous on the stream, a cudaStream_t, and makes the device the calling thread's current one; on the CPU
 * the stream is NULL, and a call runs in the calling thread. docs/kv-library.md of ropebits says more.
 *
 * Pages. A page is ROPEBITS_KV_PAGE_TOKENS tokens of one layer, all KV heads, head after head. Of a head it has four
 * parts, each an array over the 64 tokens: the codes of keys, their norms, the codes of values, their norms. A token's
 * codes are the bits of ropebits_plan.h's stream, padded to bytes; norms are those of each group in turn, fp16 or a
 * byte; a value that is not quantized is [value_dim] fp16 in place of codes. So a page takes exactly what the plan
 * says: 64 times the bytes of a token. Every part starts at a multiple of 64 bytes. Of a cache without a plan a key is
 * [head_dim] fp16 as it leaves RoPE.
 *
 * Slots. Token j of page p is in slot p * ROPEBITS_KV_PAGE_TOKENS + j. A block table says which page has tokens 64 i to
 * 64 i + 63 of a sequence.
 *
 * Exact tokens. Where the plan keeps the first n_sink and the last n_recent tokens in fp16 (ropebits_plan_info), a
 * sequence has, for each layer, an exact area of n_sink + n_recent rows. A row is [n_kv_heads][head_dim] keys as they
 * leave RoPE, then [n_kv_heads][value_dim] values, all fp16: ropebits_kv_exact_bytes(kv) for all rows. Row t is token
 * t < n_sink; other tokens t have row n_sink + (t - n_sink) % n_recent while they are among the last n_recent. Slots of
 * tokens that are exact now are not read.
 *
 * Positions. Token t of a sequence has RoPE position t. Keys are coded as they enter RoPE: those given as they leave it
 * are turned back first. Queries are given as they leave RoPE. */
#ifndef ROPEBITS_KV_H
#define ROPEBITS_KV_H

#include <stddef.h>
#include <stdint.h>

#include <ropebits_plan.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ROPEBITS_KV_ABI_VERSION 1 /* raised with every change of a struct or function that is there */

enum { ROPEBITS_KV_PAGE_TOKENS = 64 };

typedef enum ropebits_kv_status {
    ROPEBITS_KV_OK = 0,
    ROPEBITS_KV_EINVAL = 1,       /* an argument, or a file, is not as it must be */
    ROPEBITS_KV_EIO = 2,          /* a file cannot be read */
    ROPEBITS_KV_ENOMEM = 3,       /* of host or device */
    ROPEBITS_KV_EUNSUPPORTED = 4, /* the plan is fine, but this library or device cannot do it */
    ROPEBITS_KV_ENONFINITE = 5,   /* a key or value is not finite, or larger than fp16 holds. On a GPU it is not told:
                                   * such a token is coded as zeroes */
    ROPEBITS_KV_EDEVICE = 6       /* what CUDA said */
} ropebits_kv_status;

typedef enum ropebits_kv_dtype { ROPEBITS_KV_F16 = 0, ROPEBITS_KV_BF16 = 1, ROPEBITS_KV_F32 = 2 } ropebits_kv_dtype;

/* Vectors of all heads and some tokens: element (token i, head h, dim d) is at data + i * token_stride + h *
 * head_stride + d, strides in elements. On a GPU strides are multiples of 8 and data is aligned to 16 bytes. */
typedef struct ropebits_kv_vectors {
    void *data;
    int32_t dtype; /* ropebits_kv_dtype */
    int64_t token_stride, head_stride;
} ropebits_kv_vectors;

/* The cache of one layer. */
typedef struct ropebits_kv_pages {
    void *pages; /* the layer's pool: page p at pages + p * ropebits_kv_page_bytes; aligned to 128 bytes */
    const int32_t *block_table; /* [n_sequences][block_stride]: pages of each sequence in order */
    int64_t block_stride;
    void *exact;                /* [n_sequences] areas; NULL where the plan keeps none */
    int64_t exact_stride_bytes; /* from one sequence's to the next's, at least ropebits_kv_exact_bytes */
} ropebits_kv_pages;

/* New tokens: vector i is token token[i] of sequence[i]. A sequence's come in order, without gaps after those it has.
 */
typedef struct ropebits_kv_tokens {
    int64_t n;
    const int32_t *sequence; /* [n]; NULL: all of sequence 0 */
    const int32_t *token;    /* [n] */
    ropebits_kv_vectors keys, values;
    int32_t keys_are_turned; /* 1: keys as they leave RoPE, 0: as they enter it */
} ropebits_kv_tokens;

/* One query token a sequence. */
typedef struct ropebits_kv_queries {
    int64_t n_sequences;
    const int32_t *length; /* [n_sequences]: tokens to attend over, the query's own included; 0: the output is 0 */
    int32_t max_length;    /* at least every length; for the size of workspace and launch */
    ropebits_kv_vectors queries; /* "token" i is sequence i; n_q_heads heads, as they leave RoPE */
    ropebits_kv_vectors out;     /* likewise, [value_dim] */
    float *log_sum_exp;          /* [n_sequences][n_q_heads] of the scaled logits, natural log, -infinity of length 0;
                                  * NULL: not wanted */
    double scale;                /* of logits; 0: the plan's */
    double softcap;              /* cap * tanh(logit / cap) of scaled logits; 0: none */
    int32_t window;              /* the last so many tokens, the query's own included; 0: all */
    void *workspace;             /* ropebits_kv_workspace_bytes; aligned to 128 bytes. Its content is of no interest */
} ropebits_kv_queries;

typedef struct ropebits_kv ropebits_kv;

/* ROPEBITS_KV_ABI_VERSION of the library that is loaded. A program that was compiled with this header works with it
 * where both numbers are equal; a binding of another language has only this one to look at. */
int ropebits_kv_abi_version(void);

/* device: "cpu", "cuda" or "cuda:N". On failure *kv is NULL. Functions return a ropebits_kv_status, and on failure one
 * sentence in error (always terminated; error may be NULL with size 0). */
int ropebits_kv_open(ropebits_kv **kv, const char *plan_path, const char *device, char *error, size_t error_size);
void ropebits_kv_close(ropebits_kv *kv);
/* The plan, and with it the geometry; lives as long as kv. */
const ropebits_plan *ropebits_kv_plan(const ropebits_kv *kv);

/* Bytes of a token of a (layer, KV head): codes and norms of key and value. 0 when out of range. */
size_t ropebits_kv_token_bytes(const ropebits_kv *kv, uint32_t layer, uint32_t kv_head);
size_t ropebits_kv_page_bytes(const ropebits_kv *kv, uint32_t layer); /* of a page, all KV heads */
size_t ropebits_kv_exact_bytes(const ropebits_kv *kv);                /* of a sequence's exact area in a layer */
/* Of attend; on the CPU, and of append, 0 where none is needed. */
size_t ropebits_kv_workspace_bytes(const ropebits_kv *kv, uint32_t layer, int64_t n_sequences, int32_t max_length);
/* Of encode, append and decode of n tokens. */
size_t ropebits_kv_coding_bytes(const ropebits_kv *kv, uint32_t layer, int64_t n);

/* Codes n vectors of every KV head into slots [n], whatever the plan keeps exact. positions [n], where keys are turned;
 * NULL: keys are as they enter RoPE. A slot below 0 is skipped. workspace: ropebits_kv_coding_bytes(kv, layer, n). */
int ropebits_kv_encode(ropebits_kv *kv, uint32_t layer, int64_t n, const ropebits_kv_vectors *keys,
                       const ropebits_kv_vectors *values, const int32_t *positions, const int64_t *slots, void *pages,
                       void *workspace, void *stream, char *error, size_t error_size);
/* The inverse. positions [n]: keys come out as they leave RoPE; NULL: as they enter it. keys or values may be NULL. */
int ropebits_kv_decode(ropebits_kv *kv, uint32_t layer, int64_t n, const int64_t *slots, const void *pages,
                       const int32_t *positions, const ropebits_kv_vectors *keys, const ropebits_kv_vectors *values,
                       void *workspace, void *stream, char *error, size_t error_size);
/* Takes new tokens: exact ones go to the exact area, and tokens that leave it into pages. A token that is older than
 * the exact ones when the call is over is coded as it is given. workspace: ropebits_kv_coding_bytes(kv, layer,
 * tokens->n). */
int ropebits_kv_append(ropebits_kv *kv, uint32_t layer, const ropebits_kv_tokens *tokens,
                       const ropebits_kv_pages *cache, void *workspace, void *stream, char *error, size_t error_size);
/* out = softmax(scale * q . k) v over the cache, exact tokens included. */
int ropebits_kv_attend(ropebits_kv *kv, uint32_t layer, const ropebits_kv_queries *queries,
                       const ropebits_kv_pages *cache, void *stream, char *error, size_t error_size);

#ifdef __cplusplus
}
#endif

#endif
