/* See export/cuda_tables.h. */
#include "export/cuda_tables.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/reference/codec_family.h"
#include "kernels/reference/groups_plan.h"
#include "kernels/reference/trellis.h"

#define RB_FAMILY_DECLARATION(NAME, prefix, name) extern const cuda_family cuda_family_##prefix;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION
#define RB_FAMILY_ROW(NAME, prefix, name) [ROPEBITS_FAMILY_##NAME] = &cuda_family_##prefix,
static const cuda_family *const families[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW

/* ---- arrays ---------------------------------------------------------------------------------- */

rb_status cuda_append(cuda_array *array, const void *elements, int64_t n, int32_t *at, rb_error *err)
{
    if (n > INT32_MAX - array->n)
        return rb_fail(err, RB_EUNSUPPORTED, "the plan has more than %d numbers of a kind, too many for its source",
                       INT32_MAX);
    if (array->n + n > array->room) {
        const int64_t room = 2 * array->room > array->n + n ? 2 * array->room : array->n + n;
        void *grown = realloc(array->at, (size_t)room * array->element_bytes);
        if (!grown) return rb_fail(err, RB_ENOMEM, "out of memory for the tables of a plan");
        array->at = grown;
        array->room = room;
    }
    if (n > 0)
        memcpy((char *)array->at + (size_t)array->n * array->element_bytes, elements, (size_t)n * array->element_bytes);
    *at = (int32_t)array->n;
    array->n += n;
    return RB_OK;
}

/* Numbers that several heads use, by what they are: rotations by their spec, centroids by where the plan has them. */
typedef struct cuda_shared {
    rotation_spec rotation;
    const float *centroids;
    int32_t at;
} cuda_shared;

static const cuda_shared *find_shared(const cuda_array *array, const cuda_shared *like)
{
    const cuda_shared *all = array->at;
    for (int64_t i = 0; i < array->n; i++)
        if (all[i].rotation.kind == like->rotation.kind && all[i].rotation.seed == like->rotation.seed
            && all[i].rotation.dims == like->rotation.dims && all[i].centroids == like->centroids)
            return &all[i];
    return NULL;
}

static rb_status add_rotation(cuda_tables *tables, const rotation_spec *spec, int32_t *at, rb_error *err)
{
    cuda_shared own = {.rotation = *spec};
    const int64_t n = (int64_t)spec->dims * spec->dims;
    const cuda_shared *known = find_shared(&tables->rotations, &own);
    const double *matrix;
    float *numbers = NULL;
    int32_t index;
    rb_status st = RB_OK;
    if (known) {
        *at = known->at;
        return RB_OK;
    }
    RB_TRY(st, codec_tables_rotation(tables->codecs, spec, &matrix, err), done);
    RB_TRY(st, rb_alloc(&numbers, (size_t)n, sizeof *numbers, "rotation", err), done);
    for (int64_t i = 0; i < n; i++) numbers[i] = (float)matrix[i];
    RB_TRY(st, cuda_append(&tables->floats, numbers, n, at, err), done);
    own.at = *at;
    st = cuda_append(&tables->rotations, &own, 1, &index, err);
done:
    free(numbers);
    return st;
}

static rb_status add_centroids(cuda_tables *tables, const float *centroids, int width, int32_t *at, rb_error *err)
{
    cuda_shared own = {.centroids = centroids};
    const cuda_shared *known = find_shared(&tables->centroids, &own);
    int32_t index;
    rb_status st;
    if (known) {
        *at = known->at;
        return RB_OK;
    }
    RB_TRY(st, cuda_append(&tables->floats, centroids, (int64_t)1 << width, at, err), done);
    own.at = *at;
    st = cuda_append(&tables->centroids, &own, 1, &index, err);
done:
    return st;
}

rb_status cuda_add_group(cuda_tables *tables, const ropebits_group *group, int32_t *first_bit, rb_error *err)
{
    const rotation_spec spec = {group->rotation == ROPEBITS_ROTATION_HADAMARD ? ROTATION_HADAMARD : ROTATION_HAAR,
                                group->seed, group->n_dims};
    cuda_group own = {.n_dims = group->n_dims,
                      .width = group->width,
                      .first_bit = *first_bit,
                      .norm_exponent = group->norm_exponent,
                      .coherence = group->coherence};
    int32_t index;
    rb_status st;
    RB_TRY(st, cuda_append(&tables->shorts, group->dims, group->n_dims, &own.dims_at, err), done);
    RB_TRY(st, add_rotation(tables, &spec, &own.rotation_at, err), done);
    RB_TRY(st, add_centroids(tables, group->centroids, group->width, &own.centroids_at, err), done);
    *first_bit += (int32_t)group->n_dims * group->width;
    st = cuda_append(&tables->groups, &own, 1, &index, err);
done:
    return st;
}

/* ---- heads ----------------------------------------------------------------------------------- */

static cuda_head head_without_parts(int family, int dims)
{
    return (cuda_head){.family = family,
                       .dims = dims,
                       .center_at = CUDA_NONE,
                       .scales_at = CUDA_NONE,
                       .bits_at = CUDA_NONE,
                       .starts_at = CUDA_NONE,
                       .first_bits_at = CUDA_NONE,
                       .maps_at = CUDA_NONE,
                       .weights_at = CUDA_NONE,
                       .basis_at = CUDA_NONE};
}

static rb_status add_head_of_family(cuda_tables *tables, cuda_head *out, const ropebits_head *head, int dims,
                                    rb_error *err)
{
    rb_status st = RB_OK;
    *out = head_without_parts(head->family, dims);
    if (head->center) RB_TRY(st, cuda_append(&tables->floats, head->center, dims, &out->center_at, err), done);
    st = families[head->family]->add(tables, out, head, dims, err);
done:
    return st;
}

/* A value with a width: one group of all dims, as ropebits_plan.h says. */
static rb_status add_value_of_width(cuda_tables *tables, cuda_head *out, const ropebits_head *head, int kv_head,
                                    rb_error *err)
{
    uint16_t dims[RB_MAX_HEAD_DIM];
    const int n = (int)tables->info->value_dim;
    const ropebits_group group = {.width = head->value_width,
                                  .rotation = ROPEBITS_ROTATION_HAAR,
                                  .seed = VALUE_SEED + (uint64_t)kv_head,
                                  .n_dims = (uint16_t)n,
                                  .dims = dims,
                                  .centroids = head->value_centroids,
                                  .coherence = 1.0f};
    int32_t bits = 0;
    for (int i = 0; i < n; i++) dims[i] = (uint16_t)i;
    *out = head_without_parts(ROPEBITS_FAMILY_GROUPS, n);
    out->n_groups = out->n_norms = 1;
    out->norm_bytes = 2;
    out->first_group = (int32_t)tables->groups.n;
    const rb_status st = cuda_add_group(tables, &group, &bits, err);
    out->code_bytes = (bits + 7) / 8;
    return st;
}

static rb_status add_value(cuda_tables *tables, cuda_head *out, int layer, int kv_head, rb_error *err)
{
    const ropebits_head *head = ropebits_plan_head(tables->plan, (uint32_t)layer, (uint32_t)kv_head);
    const int dims = (int)tables->info->value_dim;
    if (head->value_width == ROPEBITS_VALUES_OF_HEADS)
        return add_head_of_family(
            tables, out, ropebits_plan_value_head(tables->plan, (uint32_t)layer, (uint32_t)kv_head), dims, err);
    if (head->value_width != ROPEBITS_VALUES_FP16) return add_value_of_width(tables, out, head, kv_head, err);
    *out = head_without_parts(CUDA_FP16, dims);
    out->code_bytes = 2 * dims;
    return RB_OK;
}

/* Puts a head behind what the record has. */
static rb_status place_head(cuda_tables *tables, cuda_head *head, int32_t *record_bytes, rb_error *err)
{
    int32_t index;
    head->codes_at = *record_bytes;
    head->norms_at = head->codes_at + head->code_bytes;
    *record_bytes = head->norms_at + head->n_norms * head->norm_bytes;
    tables->has_family[head->family] = true;
    if (head->code_bytes > tables->max_code_bytes) tables->max_code_bytes = head->code_bytes;
    return cuda_append(&tables->heads, head, 1, &index, err);
}

static rb_status add_layer(cuda_tables *tables, int layer, int32_t inv_freq_at, rb_error *err)
{
    const int n_kv_heads = (int)tables->info->n_kv_heads, dims = (int)tables->info->head_dim;
    cuda_layer own = {.inv_freq_at = inv_freq_at,
                      .attention_factor = ropebits_plan_attention_factor(tables->plan, (uint32_t)layer)};
    cuda_head head;
    int32_t index;
    rb_status st = RB_OK;
    for (int h = 0; h < n_kv_heads; h++) {
        const ropebits_head *keys = ropebits_plan_head(tables->plan, (uint32_t)layer, (uint32_t)h);
        RB_TRY(st, add_head_of_family(tables, &head, keys, dims, err), done);
        RB_TRY(st, place_head(tables, &head, &own.record_bytes, err), done);
    }
    for (int h = 0; h < n_kv_heads; h++) {
        RB_TRY(st, add_value(tables, &head, layer, h, err), done);
        RB_TRY(st, place_head(tables, &head, &own.record_bytes, err), done);
    }
    if (own.record_bytes > tables->max_record_bytes) tables->max_record_bytes = own.record_bytes;
    st = cuda_append(&tables->layers, &own, 1, &index, err);
done:
    return st;
}

/* ---- all ------------------------------------------------------------------------------------- */

static rb_status add_books(cuda_tables *tables, rb_error *err)
{
    rb_status st = RB_OK;
    for (uint32_t bits = 0; bits <= ROPEBITS_MAX_POINT_BITS; bits++) {
        const float *points = ropebits_plan_points(tables->plan, bits);
        tables->points_at[bits] = CUDA_NONE;
        if (points)
            RB_TRY(st, cuda_append(&tables->floats, points, (int64_t)2 << bits, &tables->points_at[bits], err), done);
    }
    for (uint32_t bits = 0; bits <= ROPEBITS_MAX_LEVEL_BITS; bits++) {
        const float *levels = ropebits_plan_levels(tables->plan, bits),
                    *trellis = ropebits_plan_trellis(tables->plan, bits);
        tables->levels_at[bits] = tables->trellis_at[bits] = CUDA_NONE;
        if (levels)
            RB_TRY(st, cuda_append(&tables->floats, levels, (int64_t)1 << bits, &tables->levels_at[bits], err), done);
        if (trellis)
            RB_TRY(st, cuda_append(&tables->floats, trellis, TRELLIS_STATES, &tables->trellis_at[bits], err), done);
    }
done:
    return st;
}

static rb_status add_layers(cuda_tables *tables, rb_error *err)
{
    const ropebits_plan_info *info = tables->info;
    const int64_t n = info->rotary_dim / 2;
    int32_t inv_freq_at, local_at = CUDA_NONE;
    rb_status st;
    RB_TRY(st, cuda_append(&tables->doubles, info->inv_freq, n, &inv_freq_at, err), done);
    if (info->layer_is_local) RB_TRY(st, cuda_append(&tables->doubles, info->local_inv_freq, n, &local_at, err), done);
    for (uint32_t layer = 0; layer < info->n_layers; layer++)
        RB_TRY(st,
               add_layer(tables, (int)layer,
                         info->layer_is_local && info->layer_is_local[layer] ? local_at : inv_freq_at, err),
               done);
done:
    return st;
}

rb_status cuda_tables_build(cuda_tables *out, const ropebits_plan *plan, codec_tables *codecs, rb_error *err)
{
    *out = (cuda_tables){.plan = plan,
                         .info = ropebits_plan_get_info(plan),
                         .codecs = codecs,
                         .layers = {.element_bytes = sizeof(cuda_layer)},
                         .heads = {.element_bytes = sizeof(cuda_head)},
                         .groups = {.element_bytes = sizeof(cuda_group)},
                         .doubles = {.element_bytes = sizeof(double)},
                         .floats = {.element_bytes = sizeof(float)},
                         .halves = {.element_bytes = sizeof(uint16_t)},
                         .shorts = {.element_bytes = sizeof(uint16_t)},
                         .bytes = {.element_bytes = sizeof(uint8_t)},
                         .rotations = {.element_bytes = sizeof(cuda_shared)},
                         .centroids = {.element_bytes = sizeof(cuda_shared)}};
    rb_status st = add_books(out, err);
    if (st == RB_OK) st = add_layers(out, err);
    return st;
}

void cuda_tables_free(cuda_tables *tables)
{
    cuda_array *const arrays[] = {&tables->layers,    &tables->heads,    &tables->groups, &tables->doubles,
                                  &tables->floats,    &tables->halves,   &tables->shorts, &tables->bytes,
                                  &tables->rotations, &tables->centroids};
    for (size_t i = 0; i < RB_COUNT(arrays); i++) free(arrays[i]->at);
}

const cuda_head *cuda_tables_head(const cuda_tables *tables, int layer, bool is_value, int kv_head)
{
    return (const cuda_head *)tables->heads.at + (2 * layer + is_value) * (int)tables->info->n_kv_heads + kv_head;
}

const cuda_layer *cuda_tables_layer(const cuda_tables *tables, int layer)
{
    return (const cuda_layer *)tables->layers.at + layer;
}
