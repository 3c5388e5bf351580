/* A plan on another runtime: the closest choice of the runtime's types within the plan's bytes. It
 *
 *      minimises  sum over layers, heads, keys and values of cost[type]      under   bytes <= the plan's
 *
 * over what the runtime can say: a type for a head, a layer, the ends, or all (projection_costs.h has the costs).
 * methods/global_budget.h solves it; every unit that has a type brings its best choice by bytes. */
#ifndef RB_EXPORT_RUNTIMES_PROJECTION_H
#define RB_EXPORT_RUNTIMES_PROJECTION_H

#include "export/runtimes/projection_costs.h"

typedef struct projection {
    const runtime *runtime;
    model_facts model;
    uint8_t *keys, *values; /* [n_layers][n_kv_heads] types of the runtime, owned */
} projection;

/* costs: of this plan and runtime. Fails: runtime_check_model; RB_EUNSUPPORTED where the runtime's least bytes are more
 * than the plan's, saying both, unless may_be_larger: then it gets its least. */
rb_status projection_create(projection **out, const bit_plan *plan, const runtime *r, const projection_costs *costs,
                            bool may_be_larger, rb_error *err);
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
