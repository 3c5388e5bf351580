/* Making cache_layout.h of a plan, and finding a token's bytes by it. */
#ifndef RB_CACHE_KV_LAYOUT_H
#define RB_CACHE_KV_LAYOUT_H

#include "cache/cache_layout.h"
#include "plan/bit_plan.h"

/* The layout of one layer; plan NULL: keys and values are fp16. Zero-initialise; owned, freed by kv_layout_clear. */
rb_status kv_layout_make(cache_layout *out, const model_facts *model, const bit_plan *plan, int layer, rb_error *err);
void kv_layout_clear(cache_layout *layout);

/* Bytes of a token of a KV head: codes and norms of key and value. */
static inline size_t kv_layout_token_bytes(const cache_layout *layout, int kv_head)
{
    const cache_head *head = &layout->heads[kv_head];
    return (size_t)head->keys.code_bytes + (size_t)head->keys.norm_bytes + (size_t)head->values.code_bytes
           + (size_t)head->values.norm_bytes;
}

/* From the start of a layer's pool to the codes, and to the norms, of a slot. */
static inline int64_t kv_layout_codes_at(const cache_layout *layout, const cache_part *part, int64_t slot)
{
    return slot / CACHE_PAGE_TOKENS * layout->page_bytes + part->codes_at + slot % CACHE_PAGE_TOKENS * part->code_bytes;
}

static inline int64_t kv_layout_norms_at(const cache_layout *layout, const cache_part *part, int64_t slot)
{
    return slot / CACHE_PAGE_TOKENS * layout->page_bytes + part->norms_at + slot % CACHE_PAGE_TOKENS * part->norm_bytes;
}

#endif
