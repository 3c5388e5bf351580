/* See plan_explain.h. */
#include "allocate/plan_explain.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"

void explained_head_free(explained_head *explained)
{
    free(explained->groups);
    *explained = (explained_head){0};
}

/* ---- groups ---------------------------------------------------------------------------------- */

static double group_bits(int width, int n_blocks, norm_kind norm)
{
    return width > 0 ? 2.0 * width * n_blocks + norm_kind_bits(norm) : 0.0;
}

static width_change change_of(const coded_head *coded, const plan_head *head, const plan_group *group, int from, int to,
                              const codec_errors *errors)
{
    if (to < 0 || to > PLAN_MAX_WIDTH) return (width_change){0};
    return (width_change){
        .is_possible = true,
        .bits = fabs(group_bits(to, group->n_blocks, head->groups.norm)
                     - group_bits(from, group->n_blocks, head->groups.norm)),
        .variance = fabs(group_error_at(coded, head, group, from, errors).variance
                         - group_error_at(coded, head, group, to, errors).variance),
    };
}

static void explain_group(explained_group *out, const coded_head *coded, const plan_head *head, const plan_group *group,
                          int width, const codec_errors *errors)
{
    out->width = width;
    out->n_blocks = group->n_blocks;
    memcpy(out->blocks, group->blocks, (size_t)group->n_blocks * sizeof *out->blocks);
    out->bits = group_bits(width, group->n_blocks, head->groups.norm);
    out->error = group_error_at(coded, head, group, width, errors);
    out->more = change_of(coded, head, group, width, width + 1, errors);
    out->less = change_of(coded, head, group, width, width - 1, errors);
}

/* The blocks of no group as one of width 0, which a first bit would make a group of the first one's codec. */
static void explain_lost(explained_group *out, const coded_head *coded, const plan_head *head, int *blocks, int n,
                         const codec_errors *errors)
{
    plan_group lost = {.n_blocks = n, .blocks = blocks, .coherence = 1.0f};
    if (head->groups.n > 0) lost.codebook = head->groups.at[0].codebook;
    if (head->groups.n > 0 && head->groups.encoder == ENCODER_SEARCH)
        lost.coherence = (float)group_error_at(coded, head, &lost, 0, errors).coherence;
    *out = (explained_group){.n_blocks = n, .error = group_error_at(coded, head, &lost, 0, errors)};
    memcpy(out->blocks, blocks, (size_t)n * sizeof *blocks);
    if (head->groups.n > 0) out->more = change_of(coded, head, &lost, 0, 1, errors);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void explain_blocks(explained_head *out, int g, const coded_head *coded, const plan_head *head,
                           const double *q_energy, const double *k_energy)
{
    const explained_group *group = &out->groups[g];
    double weight[RB_MAX_BLOCKS], sum = 0.0;
    for (int i = 0; i < group->n_blocks; i++) {
        const int block = group->blocks[i];
        weight[i] = coded->q_energy[block] * (group->width > 0 ? 1.0 : coded->k_energy[block]);
        sum += weight[i];
    }
    for (int i = 0; i < group->n_blocks; i++) {
        const int block = group->blocks[i];
        const double scale = head->groups.scales ? (double)head->groups.scales[block] : 1.0,
                     kept = coded->k_energy[block] / (scale * scale);
        out->blocks[block] = (explained_block){
            .group = g,
            .q_energy = q_energy[block],
            .k_energy = k_energy[block],
            .scale = scale,
            .center_share = head->center && k_energy[block] > 0.0 ? 1.0 - kept / k_energy[block] : 0.0,
            .variance = sum > 0.0 ? group->error.variance * weight[i] / sum : 0.0,
        };
    }
}

rb_status plan_explain_head(explained_head *out, const bit_plan *plan, int h, const head_statistics *statistics,
                            const codec_errors *errors, rb_error *err)
{
    const plan_head *head = &plan->heads[h];
    const int n = model_n_blocks(&plan->model);
    uint8_t bits[RB_MAX_BLOCKS];
    int lost[RB_MAX_BLOCKS], n_lost = 0;
    coded_head coded;
    *out = (explained_head){.n_blocks = n};
    const rb_status st = rb_alloc(&out->groups, (size_t)head->groups.n + 1, sizeof *out->groups, "groups", err);
    if (st != RB_OK) return st;
    coded_head_of(&coded, head, &plan->model, statistics, h);
    plan_head_bits(head, bits, n);
    for (int block = 0; block < n; block++)
        if (bits[block] == 0) lost[n_lost++] = block;
    for (int g = 0; g < head->groups.n; g++)
        explain_group(&out->groups[out->n_groups++], &coded, head, &head->groups.at[g], head->groups.at[g].width,
                      errors);
    if (n_lost > 0) explain_lost(&out->groups[out->n_groups++], &coded, head, lost, n_lost, errors);
    for (int g = 0; g < out->n_groups; g++)
        explain_blocks(out, g, &coded, head, statistics->q_energy + (int64_t)h * n,
                       statistics->k_energy + (int64_t)h * n);
    out->variance = plan_head_error(&coded, head, errors);
    out->bits = plan_head_true_bits(head, plan->model.head_dim) * plan->model.head_dim;
    out->distance = rate_bound_distance(coded.q_energy, coded.k_energy, n, out->bits, out->variance);
    return RB_OK;
}

double width_change_per_byte(const width_change *change, double head_variance)
{
    return head_variance > 0.0 && change->bits > 0.0 ? change->variance / head_variance / (change->bits / 8.0) : 0.0;
}

int explained_cheapest_other(const explained_head *explained, int group)
{
    int best = -1;
    for (int g = 0; g < explained->n_groups; g++) {
        if (g == group || !explained->groups[g].less.is_possible) continue;
        if (best < 0
            || width_change_per_byte(&explained->groups[g].less, explained->variance)
                   < width_change_per_byte(&explained->groups[best].less, explained->variance))
            best = g;
    }
    return best;
}

/* ---- as JSON --------------------------------------------------------------------------------- */

static rb_status change_to_json(cJSON *group, const char *name, const width_change *change, const explained_head *e,
                                rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    if (!change->is_possible) return rb_json_add_null(group, name, err);
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_number(json, "bits", change->bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "variance", change->variance, err), done);
    RB_TRY(st, rb_json_add_number(json, "share_per_byte", width_change_per_byte(change, e->variance), err), done);
    RB_TRY(st, rb_json_add_item(group, name, &json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

static rb_status group_to_json(cJSON *groups, const explained_group *group, const explained_head *e, rb_error *err)
{
    double blocks[RB_MAX_BLOCKS];
    cJSON *json = NULL;
    rb_status st;
    for (int i = 0; i < group->n_blocks; i++) blocks[i] = group->blocks[i];
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_number(json, "width", group->width, err), done);
    RB_TRY(st, rb_json_add_numbers(json, "blocks", blocks, group->n_blocks, err), done);
    RB_TRY(st, rb_json_add_number(json, "bits", group->bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "relative_error", group->error.c, err), done);
    RB_TRY(st, rb_json_add_number(json, "coherence", group->error.coherence, err), done);
    RB_TRY(st, rb_json_add_number(json, "variance", group->error.variance, err), done);
    RB_TRY(st, change_to_json(json, "one_bit_more", &group->more, e, err), done);
    RB_TRY(st, change_to_json(json, "one_bit_less", &group->less, e, err), done);
    RB_TRY(st, rb_json_append(groups, &json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

static rb_status block_to_json(cJSON *blocks, const explained_block *block, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_number(json, "group", block->group, err), done);
    RB_TRY(st, rb_json_add_number(json, "q_energy", block->q_energy, err), done);
    RB_TRY(st, rb_json_add_number(json, "k_energy", block->k_energy, err), done);
    RB_TRY(st, rb_json_add_number(json, "scale", block->scale, err), done);
    RB_TRY(st, rb_json_add_number(json, "center_share", block->center_share, err), done);
    RB_TRY(st, rb_json_add_number(json, "variance", block->variance, err), done);
    RB_TRY(st, rb_json_append(blocks, &json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

rb_status explained_head_to_json(cJSON **out, const explained_head *e, rb_error *err)
{
    cJSON *json = NULL, *groups = cJSON_CreateArray(), *blocks = cJSON_CreateArray();
    rb_status st = groups && blocks ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for an explanation");
    *out = NULL;
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-explain-result", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, rb_json_add_string(json, "family", codec_family_names[FAMILY_GROUPS], err), done);
    RB_TRY(st, rb_json_add_number(json, "bits", e->bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "variance", e->variance, err), done);
    RB_TRY(st, rb_json_add_number(json, "logit_mae", logit_mae_of_variance(e->variance), err), done);
    RB_TRY(st, rb_json_add_number(json, "bits_above_bound", e->distance.bits_per_dim, err), done);
    RB_TRY(st, rb_json_add_number(json, "mae_over_bound", e->distance.mae_ratio, err), done);
    for (int g = 0; g < e->n_groups; g++) RB_TRY(st, group_to_json(groups, &e->groups[g], e, err), done);
    for (int block = 0; block < e->n_blocks; block++) RB_TRY(st, block_to_json(blocks, &e->blocks[block], err), done);
    RB_TRY(st, rb_json_add_item(json, "groups", &groups, err), done);
    RB_TRY(st, rb_json_add_item(json, "blocks", &blocks, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    cJSON_Delete(groups);
    cJSON_Delete(blocks);
    return st;
}
