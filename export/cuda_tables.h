/* The tables of `export --format cuda`: a plan as the flat arrays that export/templates/cuda/plan_tables.h declares.
 * What a name means is said there; here are the same structs as data to be printed.
 *
 * All numbers of a kind lie in one array, and structs hold indexes into it: so the generated program copies a few
 * arrays to a device, and no pointers. */
#ifndef RB_EXPORT_CUDA_TABLES_H
#define RB_EXPORT_CUDA_TABLES_H

#include "core/model_facts.h"
#include "kernels/reference/codec_tables.h"
#include "plan/library/ropebits_plan.h"

enum {
    CUDA_NONE = -1,
    CUDA_FP16 = 3
}; /* PLAN_NONE, PLAN_FP16 of the template; other families are ROPEBITS_FAMILY_... */

/* Members of plan_group and plan_head, all int32_t but the coherence. */
#define CUDA_GROUP_MEMBERS(M)   M(n_dims) M(width) M(first_bit) M(dims_at) M(rotation_at) M(centroids_at) M(norm_exponent)
#define CUDA_PLACE_MEMBERS(M)   M(family) M(dims) M(codes_at) M(code_bytes) M(norms_at) M(norm_bytes) M(n_norms)
#define CUDA_GROUPS_MEMBERS(M)  M(center_at) M(n_groups) M(first_group) M(scales_at) M(searches)
#define CUDA_BLOCK_MEMBERS(M)   M(bits_at) M(starts_at) M(first_bits_at) M(maps_at) M(weights_at)
#define CUDA_TRELLIS_MEMBERS(M) M(gain_bits) M(gain_zero) M(gain_start) M(n_coded) M(basis_at)
#define CUDA_HEAD_MEMBERS(M)    CUDA_PLACE_MEMBERS(M) CUDA_GROUPS_MEMBERS(M) CUDA_BLOCK_MEMBERS(M) CUDA_TRELLIS_MEMBERS(M)

#define CUDA_MEMBER(name)       int32_t name;
typedef struct cuda_group {
    CUDA_GROUP_MEMBERS(CUDA_MEMBER)
    float coherence;
} cuda_group;
typedef struct cuda_head {
    CUDA_HEAD_MEMBERS(CUDA_MEMBER)
} cuda_head;
#undef CUDA_MEMBER

typedef struct cuda_layer {
    int32_t record_bytes, inv_freq_at;
    double attention_factor;
} cuda_layer;

/* Elements of one size, which grow. */
typedef struct cuda_array {
    void *at;
    size_t element_bytes;
    int64_t n, room;
} cuda_array;

typedef struct cuda_tables {
    const ropebits_plan *plan;
    const ropebits_plan_info *info;
    codec_tables *codecs; /* rotations */
    cuda_array layers, heads, groups, doubles, floats, halves, shorts, bytes;
    int32_t points_at[ROPEBITS_MAX_POINT_BITS + 1], levels_at[ROPEBITS_MAX_LEVEL_BITS + 1],
        trellis_at[ROPEBITS_MAX_TRELLIS_WIDTH + 1];
    cuda_array rotations, centroids; /* of what is in floats already: cuda_shared */
    bool has_family[CUDA_FP16 + 1];
    int32_t max_record_bytes, max_code_bytes;
} cuda_tables;

/* plan and codecs must outlive the tables. */
rb_status cuda_tables_build(cuda_tables *out, const ropebits_plan *plan, codec_tables *codecs, rb_error *err);
void cuda_tables_free(cuda_tables *tables);
const cuda_head *cuda_tables_head(const cuda_tables *tables, int layer, bool is_value, int kv_head);
const cuda_layer *cuda_tables_layer(const cuda_tables *tables, int layer);

/* ---- for the families ------------------------------------------------------------------------ */

/* Appends n elements; *at becomes the index of the first. Fails with RB_EUNSUPPORTED beyond 2^31 - 1. */
rb_status cuda_append(cuda_array *array, const void *elements, int64_t n, int32_t *at, rb_error *err);
/* A group of a head from this bit of its stream on; *first_bit becomes the bit after it. */
rb_status cuda_add_group(cuda_tables *tables, const ropebits_group *group, int32_t *first_bit, rb_error *err);

/* What a family gives: fills what is the family's in a head of `dims` dims, and code_bytes. A row stands in
 * export/cuda_FAMILY.c. */
typedef struct cuda_family {
    rb_status (*add)(cuda_tables *tables, cuda_head *out, const ropebits_head *head, int dims, rb_error *err);
} cuda_family;

#endif
