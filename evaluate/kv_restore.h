/* Keys and values of a layer, replaced by what plans make of them: what a quantized cache would give back. */
#ifndef RB_EVALUATE_KV_RESTORE_H
#define RB_EVALUATE_KV_RESTORE_H

#include "evaluate/evaluate_batch.h"
#include "model/forward.h"

typedef struct kv_restore kv_restore;

rb_status kv_restore_create(kv_restore **out, const evaluate_request *request, const evaluate_batch *batch,
                            rb_error *err);
void kv_restore_free(kv_restore *restore);

/* heads: a part of the batch, as in on_qkv. */
rb_status kv_restore_part(kv_restore *restore, layer_heads *heads, rb_error *err);

#endif
