/* Family groups in plan.json. Fields: docs/plan-json.md. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "plan/groups_form.h"
#include "plan/plan_json_parts.h"

/* What a JSON number keeps exactly. Above it neighbours share a double: a seed would be read as another. */
static const int64_t LARGEST_SEED = ((int64_t)1 << 53) - 1;

const char *const groups_json_members[] = {"bits", "groups", "norm", "encoder", "scales", NULL};

/* ---- writing --------------------------------------------------------------------------------- */

static rb_status rotation_to_json(cJSON **out, const rotation_spec *rotation, rb_error *err)
{
    rb_status st;
    *out = NULL;
    if (rotation->seed > (uint64_t)LARGEST_SEED)
        return rb_fail(err, RB_EUNSUPPORTED, "rotation seed is %" PRIu64 ", expected below 2^53 in a plan.json",
                       rotation->seed);
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "kind", rotation_kind_name(rotation->kind), err), done);
    RB_TRY(st, rb_json_add_number(*out, "seed", (double)rotation->seed, err), done);
    RB_TRY(st, rb_json_add_number(*out, "dims", rotation->dims, err), done);
done:
    return st;
}

static rb_status group_to_json(cJSON **out, const plan_head *head, const plan_group *group, rb_error *err)
{
    cJSON *rotation = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "width", group->width, err), done);
    RB_TRY(st, plan_json_add_ints(*out, "blocks", group->blocks, group->n_blocks, err), done);
    RB_TRY(st, rb_json_add_string(*out, "order", group_order_name(group->order), err), done);
    RB_TRY(st, rotation_to_json(&rotation, &group->rotation, err), done);
    RB_TRY(st, rb_json_add_item(*out, "rotation", &rotation, err), done);
    RB_TRY(st, rb_json_add_string(*out, "codebook", codebook_kind_name(group->codebook), err), done);
    if (head->groups.norm == NORM_LOG8)
        RB_TRY(st, rb_json_add_number(*out, "norm_exponent", group->norm_exponent, err), done);
    if (head->groups.encoder == ENCODER_SEARCH)
        RB_TRY(st, rb_json_add_number(*out, "coherence", (double)group->coherence, err), done);
done:
    cJSON_Delete(rotation);
    return st;
}

static rb_status list_to_json(cJSON *json, const plan_head *head, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : plan_json_no_memory(err);
    for (int g = 0; g < head->groups.n && st == RB_OK; g++) {
        st = group_to_json(&item, head, &head->groups.at[g], err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
        cJSON_Delete(item);
    }
    if (st == RB_OK) return rb_json_add_item(json, "groups", &list, err);
    cJSON_Delete(list);
    return st;
}

/* What the published form does not have. */
static rb_status coding_to_json(cJSON *json, const plan_head *head, const model_facts *model, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_add_string(json, "norm", norm_kind_names[head->groups.norm], err), done);
    RB_TRY(st, rb_json_add_string(json, "encoder", plan_encoder_names[head->groups.encoder], err), done);
    RB_TRY(st, plan_json_add_floats(json, "scales", head->groups.scales, model_n_blocks(model), err), done);
    RB_TRY(st, plan_json_add_floats(json, "center", head->center, model->head_dim, err), done);
done:
    return st;
}

rb_status groups_to_json(cJSON *json, const plan_head *head, const model_facts *model, rb_error *err)
{
    rb_status st = RB_OK;
    if (!plan_head_is_published_form(head, model_n_blocks(model))) st = coding_to_json(json, head, model, err);
    return st == RB_OK ? list_to_json(json, head, err) : st;
}

/* ---- reading a group ------------------------------------------------------------------------- */

static rb_status blocks_from_json(plan_group *group, const cJSON *json, int n_blocks, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    rb_status st = rb_json_get_array(json, "blocks", where, &list, err);
    if (st == RB_OK && cJSON_GetArraySize(list) > n_blocks)
        st = rb_fail(err, RB_EFORMAT, "%s: %d blocks, expected at most the head's %d", where, cJSON_GetArraySize(list),
                     n_blocks);
    if (st == RB_OK)
        st =
            rb_alloc(&group->blocks, (size_t)cJSON_GetArraySize(list), sizeof *group->blocks, "blocks of a group", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble < n_blocks)
            || item->valuedouble != floor(item->valuedouble))
            return rb_fail(err, RB_EFORMAT, "%s: blocks[%d] is no block, expected a whole number from 0 to %d", where,
                           group->n_blocks, n_blocks - 1);
        group->blocks[group->n_blocks++] = (int)item->valuedouble;
    }
    return RB_OK;
}

static rb_status order_from_json(group_order *order, const cJSON *json, const char *where, rb_error *err)
{
    const char *name;
    rb_status st = rb_json_get_string(json, "order", where, &name, err);
    if (st != RB_OK) return st;
    for (int i = GROUP_ORDER_BLOCK; i <= GROUP_ORDER_NATURAL; i++)
        if (strcmp(name, group_order_name((group_order)i)) == 0) {
            *order = (group_order)i;
            return RB_OK;
        }
    return rb_fail(err, RB_EFORMAT, "%s: order is \"%s\", expected \"block\" or \"natural\"", where, name);
}

static rb_status rotation_from_json(rotation_spec *out, const cJSON *json, const char *where, rb_error *err)
{
    const cJSON *object;
    const char *name;
    int64_t seed, dims;
    rb_status st;
    RB_TRY(st, rb_json_get_object(json, "rotation", where, &object, err), done);
    RB_TRY(st, rb_json_get_string(object, "kind", where, &name, err), done);
    RB_TRY(st, rb_json_get_int(object, "seed", where, 0, LARGEST_SEED, &seed, err), done);
    RB_TRY(st, rb_json_get_int(object, "dims", where, 1, RB_MAX_HEAD_DIM, &dims, err), done);
    if (!rotation_kind_from_name(name, &out->kind)) {
        st = rb_fail(err, RB_EUNSUPPORTED, "%s: unknown rotation \"%s\"", where, name);
        goto done;
    }
    out->seed = (uint64_t)seed;
    out->dims = (int)dims;
done:
    return st;
}

/* What version 2 adds to a group of its head. */
static rb_status coding_of_group(plan_group *out, const cJSON *json, const plan_head *head, const char *where,
                                 rb_error *err)
{
    int64_t exponent = 0;
    double coherence = 1.0;
    rb_status st = RB_OK;
    if (head->groups.norm == NORM_LOG8)
        RB_TRY(st, rb_json_get_int(json, "norm_exponent", where, NORM_MIN_EXPONENT, NORM_MAX_EXPONENT, &exponent, err),
               done);
    else if (rb_json_find(json, "norm_exponent"))
        RB_TRY(st,
               rb_fail(err, RB_EFORMAT, "%s: has a norm_exponent, expected none with norm %s", where,
                       norm_kind_names[head->groups.norm]),
               done);
    if (head->groups.encoder == ENCODER_SEARCH)
        RB_TRY(st, rb_json_get_number(json, "coherence", where, 0.0, HUGE_VAL, &coherence, err), done);
    else if (rb_json_find(json, "coherence"))
        RB_TRY(st,
               rb_fail(err, RB_EFORMAT, "%s: has a coherence, expected none with encoder %s", where,
                       plan_encoder_names[head->groups.encoder]),
               done);
    out->norm_exponent = (int)exponent;
    RB_TRY(st, plan_json_exact_float(&out->coherence, coherence, "coherence", where, err), done);
done:
    return st;
}

static rb_status group_from_json(plan_group *out, const cJSON *json, const plan_head *head, int n_blocks,
                                 const char *where, rb_error *err)
{
    int64_t width;
    rb_status st;
    RB_TRY(st, rb_json_get_int(json, "width", where, PLAN_MIN_WIDTH, PLAN_MAX_WIDTH, &width, err), done);
    out->width = (int)width;
    RB_TRY(st, blocks_from_json(out, json, n_blocks, where, err), done);
    RB_TRY(st, order_from_json(&out->order, json, where, err), done);
    RB_TRY(st, rotation_from_json(&out->rotation, json, where, err), done);
    RB_TRY(st, plan_json_get_codebook(&out->codebook, json, where, err), done);
    RB_TRY(st, coding_of_group(out, json, head, where, err), done);
done:
    return st;
}

/* ---- reading a head -------------------------------------------------------------------------- */

static rb_status list_from_json(plan_head *head, const cJSON *json, int n_blocks, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    char place[PLAN_JSON_PLACE_SIZE];
    rb_status st = rb_json_get_array(json, "groups", where, &list, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(list) > n_blocks)
        return rb_fail(err, RB_EFORMAT, "%s: %d groups, expected at most one a block, %d", where,
                       cJSON_GetArraySize(list), n_blocks);
    st = rb_alloc(&head->groups.at, (size_t)cJSON_GetArraySize(list), sizeof *head->groups.at, "groups of a head", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        snprintf(place, sizeof place, "%.400s group %d", where, head->groups.n);
        head->groups.n++; /* counted first: a half-read one is freed too */
        st = group_from_json(&head->groups.at[head->groups.n - 1], item, head, n_blocks, place, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

/* What version 2 adds; a head without it is of the published form. */
static rb_status coding_from_json(plan_head *head, const cJSON *json, int n_blocks, const char *where, rb_error *err)
{
    int norm = NORM_FP16, encoder = ENCODER_NEAREST;
    rb_status st = RB_OK;
    if (rb_json_find(json, "norm"))
        RB_TRY(st, plan_json_get_name(&norm, json, "norm", norm_kind_names, where, err), done);
    if (rb_json_find(json, "encoder"))
        RB_TRY(st, plan_json_get_name(&encoder, json, "encoder", plan_encoder_names, where, err), done);
    head->groups.norm = (norm_kind)norm;
    head->groups.encoder = (plan_encoder)encoder;
    RB_TRY(st, plan_json_get_floats(&head->groups.scales, json, "scales", n_blocks, where, err), done);
done:
    return st;
}

static rb_status check_stated_bits(const plan_head *head, const cJSON *json, int n_blocks, const char *where,
                                   rb_error *err)
{
    const cJSON *list, *item;
    uint8_t bits[RB_MAX_BLOCKS];
    int block = 0;
    rb_status st = rb_json_get_array(json, "bits", where, &list, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(list) != n_blocks)
        return rb_fail(err, RB_EFORMAT, "%s: bits has %d entries, expected %d blocks", where, cJSON_GetArraySize(list),
                       n_blocks);
    plan_head_bits(head, bits, n_blocks);
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item)) return rb_fail(err, RB_EFORMAT, "%s: bits[%d] is no number", where, block);
        if (item->valuedouble != bits[block])
            return rb_fail(err, RB_EFORMAT, "%s: bits[%d] is %g, but its group has width %d", where, block,
                           item->valuedouble, bits[block]);
        block++;
    }
    return RB_OK;
}

rb_status groups_from_json(plan_head *out, const cJSON *json, const model_facts *model, const char *where,
                           rb_error *err)
{
    const int n_blocks = model_n_blocks(model);
    rb_status st;
    out->family = FAMILY_GROUPS;
    RB_TRY(st, coding_from_json(out, json, n_blocks, where, err), done);
    RB_TRY(st, list_from_json(out, json, n_blocks, where, err), done);
    RB_TRY(st, check_stated_bits(out, json, n_blocks, where, err), done);
done:
    return st;
}
