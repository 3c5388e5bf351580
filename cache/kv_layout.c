/* See kv_layout.h. */
#include "cache/kv_layout.h"

#include <stdlib.h>

#include "core/status.h"

enum { FP16_BYTES = 2 };

/* Bytes of a token's norms; only groups have any. */
static int norm_bytes(const plan_head *head)
{
    const plan_groups *groups = plan_head_groups(head);
    return groups ? groups->n * norm_kind_bits(groups->norm) / 8 : 0;
}

static cache_part key_part(const bit_plan *plan, int h, const model_facts *model)
{
    if (!plan) return (cache_part){.code_bytes = FP16_BYTES * model->head_dim};
    const int norms = norm_bytes(&plan->heads[h]),
              stored = plan_head_stored_bits(&plan->heads[h], model_n_blocks(model)) / 8;
    return (cache_part){.code_bytes = stored - norms, .norm_bytes = norms};
}

/* Values of a width have one fp16 norm, values with heads of their own none. */
static cache_part value_part(const bit_plan *plan, int h, const model_facts *model)
{
    if (!plan || !bit_plan_quantizes_values(plan)) return (cache_part){.code_bytes = FP16_BYTES * model->value_dim};
    const int norms = plan->value_heads ? 0 : norm_kind_bits(NORM_FP16) / 8;
    return (cache_part){.code_bytes = bit_plan_value_stored_bits(plan, h) / 8 - norms, .norm_bytes = norms};
}

static void place(cache_part *part, int64_t *at)
{
    part->codes_at = *at;
    *at += CACHE_PAGE_TOKENS * (int64_t)part->code_bytes;
    part->norms_at = *at;
    *at += CACHE_PAGE_TOKENS * (int64_t)part->norm_bytes;
}

rb_status kv_layout_make(cache_layout *out, const model_facts *model, const bit_plan *plan, int layer, rb_error *err)
{
    const int n_heads = model->n_kv_heads;
    *out = (cache_layout){.n_kv_heads = n_heads, .head_dim = model->head_dim, .value_dim = model->value_dim};
    const rb_status st = rb_alloc(&out->heads, (size_t)n_heads, sizeof *out->heads, "layout of a cache", err);
    for (int h = 0; h < n_heads && st == RB_OK; h++) {
        cache_head *head = &out->heads[h];
        head->keys = key_part(plan, layer * n_heads + h, model);
        head->values = value_part(plan, layer * n_heads + h, model);
        place(&head->keys, &out->page_bytes);
        place(&head->values, &out->page_bytes);
    }
    return st;
}

void kv_layout_clear(cache_layout *layout)
{
    free(layout->heads);
    *layout = (cache_layout){0};
}
