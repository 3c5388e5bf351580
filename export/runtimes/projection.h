/* A plan on another runtime: the closest choice of the runtime's types within the plan's bytes.
 *
 * A plan gave a head so many bits because an error there costs so much: were all choices free, w * 4^-bits would cost
 * the same everywhere, so the weight of an error is w = 4^bits. A runtime's type leaves the share D of the squared
 * norm of a normal vector (runtime_quantizer_distortion). The projection
 *
 *      minimises  sum over layers, heads, keys and values of 4^bits * D[type]      under   bytes <= the plan's
 *
 * over what the runtime can say: a type for a head, a layer, the ends, or all. bits are the plan's true bits a dim of
 * the head's keys or values. methods/global_budget.h solves it; every unit that has a type brings its best choice by
 * bytes. */
#ifndef RB_EXPORT_RUNTIMES_PROJECTION_H
#define RB_EXPORT_RUNTIMES_PROJECTION_H

#include "export/runtimes/runtime.h"
#include "plan/bit_plan.h"

typedef struct projection {
    const runtime *runtime;
    model_facts model;
    uint8_t *keys, *values; /* [n_layers][n_kv_heads] types of the runtime, owned */
} projection;

/* Fails: runtime_check_model; RB_EUNSUPPORTED where the runtime's least bytes are more than the plan's, saying both,
 * unless may_be_larger: then it gets its least. */
rb_status projection_create(projection **out, const bit_plan *plan, const runtime *r, bool may_be_larger,
                            codec_tables *tables, rb_error *err);
void projection_free(projection *p); /* NULL is fine */

/* The quantizers of a head. */
const runtime_quantizer *projection_keys(const projection *p, int layer, int kv_head);
const runtime_quantizer *projection_values(const projection *p, int layer, int kv_head);

/* Bytes of a token that is quantized: of a layer, and of all. */
int64_t projection_layer_bytes(const projection *p, int layer);
int64_t projection_bytes(const projection *p);
/* The same of the plan. */
int64_t projection_plan_layer_bytes(const bit_plan *plan, int layer);

/* The type that a layer's keys or values have; of head 0 where heads differ. */
int projection_layer_type(const projection *p, int layer, bool of_values);
/* Layers of 16 bits, keys and values both. */
int projection_n_fp16_layers(const projection *p);

/* What of the plan the runtime cannot say: sentences, one by one, without an end of line. Returns their number. */
enum { PROJECTION_MAX_LOST = 8, PROJECTION_LOST_SIZE = 200 };
int projection_describe_lost(char lost[PROJECTION_MAX_LOST][PROJECTION_LOST_SIZE], const projection *p,
                             const bit_plan *plan);

#endif
