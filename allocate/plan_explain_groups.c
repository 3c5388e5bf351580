/* See plan_explain_groups.h. */
#include "allocate/plan_explain_groups.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"

void explained_groups_clear(explained_groups *explained)
{
    free(explained->groups);
    *explained = (explained_groups){0};
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

static void explain_blocks(explained_groups *out, int g, const coded_head *coded, const plan_head *head,
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

rb_status plan_explain_groups(explained_groups *out, const bit_plan *plan, int h, const head_statistics *statistics,
                              const codec_errors *errors, rb_error *err)
{
    const plan_head *head = &plan->heads[h];
    const int n = model_n_blocks(&plan->model);
    uint8_t bits[RB_MAX_BLOCKS];
    int lost[RB_MAX_BLOCKS], n_lost = 0;
    coded_head coded;
    *out = (explained_groups){.n_blocks = n};
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

int explained_cheapest_other(const explained_groups *explained, int group)
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

static rb_status change_to_json(cJSON *group, const char *name, const width_change *change, const explained_groups *e,
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

static rb_status group_to_json(cJSON *groups, const explained_group *group, const explained_groups *e, rb_error *err)
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

rb_status explained_groups_to_json(cJSON **out, const explained_groups *e, rb_error *err)
{
    cJSON *json = NULL, *groups = cJSON_CreateArray(), *blocks = cJSON_CreateArray();
    rb_status st = groups && blocks ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for an explanation");
    *out = NULL;
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", EXPLAIN_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(json, "version", EXPLAIN_VERSION, err), done);
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

/* ---- as text --------------------------------------------------------------------------------- */

static double percent(double variance, const explained_groups *e)
{
    return e->variance > 0.0 ? 100.0 * variance / e->variance : 0.0;
}
static double percent_per_byte(const width_change *change, const explained_groups *e)
{
    return 100.0 * width_change_per_byte(change, e->variance);
}

static void print_error(const void *explained)
{
    const explained_groups *e = explained;
    printf("error    logit MAE of %.4g expected; %.3f bits a dim above the rate-distortion bound, %.2f times its MAE\n",
           logit_mae_of_variance(e->variance), e->distance.bits_per_dim, e->distance.mae_ratio);
}

static void print_groups(const explained_groups *e)
{
    printf("\n%-6s %5s %6s %6s %9s %9s %10s %14s %14s\n", "group", "width", "blocks", "bits", "error, %", "c",
           "coherence", "a bit more, %", "a bit less, %");
    for (int g = 0; g < e->n_groups; g++) {
        const explained_group *group = &e->groups[g];
        printf("%-6d %5d %6d %6.0f %9.2f %9.3g %10.3f", g, group->width, group->n_blocks, group->bits,
               percent(group->error.variance, e), group->error.c, group->error.coherence);
        if (group->more.is_possible) printf("  -%.3g a byte", percent_per_byte(&group->more, e));
        if (group->less.is_possible) printf("  +%.3g a byte", percent_per_byte(&group->less, e));
        printf("\n");
    }
}

static void print_blocks(const explained_groups *e)
{
    printf("\n%-6s %5s %5s %11s %11s %8s %10s %9s\n", "block", "group", "width", "q energy", "k energy", "scale",
           "centre, %", "error, %");
    for (int block = 0; block < e->n_blocks; block++) {
        const explained_block *b = &e->blocks[block];
        printf("%-6d %5d %5d %11.4g %11.4g %8.3f %10.1f %9.3f\n", block, b->group, e->groups[b->group].width,
               b->q_energy, b->k_energy, b->scale, 100.0 * b->center_share, percent(b->variance, e));
    }
}

static void print_reason(const explained_groups *e, int g)
{
    const explained_group *group = &e->groups[g];
    const int other = explained_cheapest_other(e, g);
    printf(group->n_blocks == 1 ? "Block" : "Blocks");
    for (int i = 0; i < group->n_blocks; i++) printf("%s %d", i ? "," : "", group->blocks[i]);
    if (group->width > 0)
        printf(group->n_blocks == 1 ? " is in a %d-bit group" : " are in a %d-bit group", group->width);
    else printf(group->n_blocks == 1 ? " is in no group" : " are in no group");
    if (group->less.is_possible)
        printf(": a bit less would add %.3g %% of the head's error and save %g bytes (%.3g %% a byte)",
               percent(group->less.variance, e), group->less.bits / 8.0, percent_per_byte(&group->less, e));
    if (group->more.is_possible)
        printf("%s a bit more would take off %.3g %% for %g bytes (%.3g %% a byte)",
               group->less.is_possible ? ";" : ":", percent(group->more.variance, e), group->more.bits / 8.0,
               percent_per_byte(&group->more, e));
    if (group->more.is_possible && other >= 0) {
        const double price = percent_per_byte(&e->groups[other].less, e);
        printf(", where the cheapest bytes of the others, those of group %d, cost %.3g %% each: %s", other, price,
               percent_per_byte(&group->more, e) > price ? "it would pay" : "it would not pay");
    }
    printf(".\n");
}

static void print_parts(const void *explained)
{
    const explained_groups *e = explained;
    print_groups(e);
    print_blocks(e);
    printf("\n");
    for (int g = 0; g < e->n_groups; g++) print_reason(e, g);
}

/* ---- the family's row ------------------------------------------------------------------------ */

static rb_status explain(void *explained, const bit_plan *plan, int h, const head_statistics *statistics, rb_error *err)
{
    codec_errors errors = {.n_blocks = model_n_blocks(&plan->model)};
    rb_status st;
    RB_TRY(st, codec_errors_measure(&errors, plan, err), done);
    RB_TRY(st, plan_explain_groups(explained, plan, h, statistics, &errors, err), done);
done:
    codec_errors_free(&errors);
    return st;
}

static void clear(void *explained) { explained_groups_clear(explained); }

static rb_status to_json(cJSON **out, const void *explained, rb_error *err)
{
    return explained_groups_to_json(out, explained, err);
}

extern const explain_functions groups_explain_functions;
const explain_functions groups_explain_functions = {
    .size_bytes = sizeof(explained_groups),
    .explain = explain,
    .clear = clear,
    .print_error = print_error,
    .print_parts = print_parts,
    .to_json = to_json,
};
