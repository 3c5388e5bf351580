/* See plan/plan_seeds.h. */
#include "plan/plan_seeds.h"

#include <string.h>

#include "core/json.h"

static bool comes_before(const plan_seed *a, const plan_seed *b)
{
    return a->width != b->width ? a->width < b->width : a->seed < b->seed;
}

/* Sorted, each once. */
static void insert(plan_seeds *seeds, plan_seed seed)
{
    int at = 0;
    while (at < seeds->n && comes_before(&seeds->at[at], &seed)) at++;
    if (at == PLAN_MAX_SEEDS || (at < seeds->n && !comes_before(&seed, &seeds->at[at]))) return;
    if (seeds->n < PLAN_MAX_SEEDS) seeds->n++;
    memmove(&seeds->at[at + 1], &seeds->at[at], (size_t)(seeds->n - 1 - at) * sizeof seed);
    seeds->at[at] = seed;
}

plan_seeds plan_seeds_of(const bit_plan *plan)
{
    plan_seeds seeds = {0};
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        const plan_head *head = &plan->heads[h];
        if (head->family != FAMILY_GROUPS) continue;
        for (int g = 0; g < head->groups.n; g++)
            insert(&seeds, (plan_seed){head->groups.at[g].width, head->groups.at[g].rotation.seed});
    }
    return seeds;
}

rb_status plan_draw_anew(bit_plan **out, const bit_plan *plan, uint64_t shift, rb_error *err)
{
    const int head_dim = plan->model.head_dim;
    rb_status st = bit_plan_create_like(out, plan, err);
    for (int h = 0; st == RB_OK && h < bit_plan_n_heads(plan); h++) {
        plan_head *head = &(*out)->heads[h];
        st = plan_head_copy(head, &plan->heads[h], head_dim / 2, head_dim, err);
        if (st != RB_OK || head->family != FAMILY_GROUPS) continue;
        for (int g = 0; g < head->groups.n; g++) head->groups.at[g].rotation.seed += shift;
    }
    if (st != RB_OK) {
        bit_plan_free(*out);
        *out = NULL;
    }
    return st;
}

rb_status plan_seeds_add(cJSON *object, const plan_seeds *seeds, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *pair = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for JSON");
    for (int i = 0; i < seeds->n && st == RB_OK; i++) {
        pair = cJSON_CreateDoubleArray((const double[]){seeds->at[i].width, (double)seeds->at[i].seed}, 2);
        st = rb_json_append(list, &pair, err);
    }
    if (st == RB_OK) st = rb_json_add_item(object, "rotation_seeds", &list, err);
    cJSON_Delete(list);
    return st;
}
