/* The bytes of a page: where the codes and norms of every KV head lie. See cache/library/ropebits_kv.h. Plain data,
 * read by CUDA sources too. */
#ifndef RB_CACHE_CACHE_LAYOUT_H
#define RB_CACHE_CACHE_LAYOUT_H

#include <stdint.h>

enum { CACHE_PAGE_TOKENS = 64 };

/* One head's part of a page: its keys, or its values. Offsets in bytes from the page's start. */
typedef struct cache_part {
    int32_t code_bytes; /* of a token: packed codes, or fp16 numbers where nothing is coded */
    int32_t norm_bytes; /* of a token: all its norms */
    int64_t codes_at, norms_at;
} cache_part;

typedef struct cache_head {
    cache_part keys, values;
} cache_head;

/* Of a layer. */
typedef struct cache_layout {
    int n_kv_heads, head_dim, value_dim;
    int64_t page_bytes;
    cache_head *heads; /* [n_kv_heads] */
} cache_layout;

#endif
