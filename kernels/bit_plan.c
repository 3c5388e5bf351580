/* The bit plan as data: see kernels/bit_plan.h. */
#include "kernels/bit_plan.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH_SEED = 42, VALUE_SEED = 1000 };

const char *group_order_name(group_order order) { return order == GROUP_ORDER_NATURAL ? "natural" : "block"; }

/* ---- life ----------------------------------------------------------------------------------------------------------------------- */

void plan_head_clear(plan_head *head)
{
    for (int g = 0; g < head->n_groups; g++) free(head->groups[g].blocks);
    free(head->groups);
    *head = (plan_head){0};
}

static bool groups_equal(const plan_group *a, const plan_group *b)
{
    return a->width == b->width && a->n_blocks == b->n_blocks && a->order == b->order && a->codebook == b->codebook && a->rotation.kind == b->rotation.kind
           && a->rotation.seed == b->rotation.seed && a->rotation.dims == b->rotation.dims
           && memcmp(a->blocks, b->blocks, (size_t)a->n_blocks * sizeof *a->blocks) == 0;
}

bool plan_head_equal(const plan_head *a, const plan_head *b)
{
    if (a->n_groups != b->n_groups) return false;
    for (int g = 0; g < a->n_groups; g++)
        if (!groups_equal(&a->groups[g], &b->groups[g])) return false;
    return true;
}

static int n_heads(const bit_plan *plan) { return plan->model.n_layers * plan->model.n_kv_heads; }

rb_status bit_plan_create(bit_plan **out, const model_facts *model, rb_error *err)
{
    bit_plan *plan = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&plan, 1, sizeof *plan, "bit plan", err), done);
    plan->model = *model;
    RB_TRY(st, rb_alloc(&plan->heads, (size_t)model->n_layers * (size_t)model->n_kv_heads, sizeof *plan->heads, "heads of a bit plan", err), done);
    *out = plan;
    plan = NULL;
done:
    free(plan);
    return st;
}

void bit_plan_free(bit_plan *plan)
{
    if (!plan) return;
    for (int h = 0; h < n_heads(plan); h++) plan_head_clear(&plan->heads[h]);
    free(plan->heads);
    free(plan);
}

plan_head *bit_plan_head(const bit_plan *plan, int layer, int kv_head) { return &plan->heads[(int64_t)layer * plan->model.n_kv_heads + kv_head]; }

/* ---- groups --------------------------------------------------------------------------------------------------------------------- */

/* Appends a group of `count` blocks, to be filled in by the caller. */
static rb_status add_group(plan_head *head, int width, int count, group_order order, uint64_t seed, codebook_kind books, rb_error *err)
{
    plan_group *group = &head->groups[head->n_groups];
    *group = (plan_group){.width = width, .order = order, .codebook = books, .rotation = {.kind = ROTATION_HAAR, .seed = seed, .dims = 2 * count}};
    rb_status st = rb_alloc(&group->blocks, (size_t)count, sizeof *group->blocks, "blocks of a group", err);
    if (st == RB_OK) head->n_groups++;
    return st;
}

rb_status plan_head_set_block_widths(plan_head *head, const uint8_t *bits, int n_blocks, codebook_kind books, rb_error *err)
{
    int count[PLAN_MAX_WIDTH + 1] = {0};
    rb_status st;
    plan_head_clear(head);
    for (int i = 0; i < n_blocks; i++) {
        if (bits[i] < PLAN_MIN_WIDTH || bits[i] > PLAN_MAX_WIDTH)
            return rb_fail(err, RB_EINVAL, "block %d: width %d, expected %d to %d", i, bits[i], PLAN_MIN_WIDTH, PLAN_MAX_WIDTH);
        count[bits[i]]++;
    }
    RB_TRY(st, rb_alloc(&head->groups, PLAN_MAX_WIDTH, sizeof *head->groups, "groups of a head", err), done);
    for (int width = PLAN_MIN_WIDTH; width <= PLAN_MAX_WIDTH; width++) {
        if (count[width] == 0) continue;
        RB_TRY(st, add_group(head, width, count[width], GROUP_ORDER_BLOCK, WIDTH_SEED + (uint64_t)width, books, err), done);
        plan_group *group = &head->groups[head->n_groups - 1];
        for (int i = 0; i < n_blocks; i++)
            if (bits[i] == width) group->blocks[group->n_blocks++] = i;
    }
done:
    if (st != RB_OK) plan_head_clear(head);
    return st;
}

rb_status plan_head_set_uniform(plan_head *head, int width, int n_blocks, uint64_t seed, codebook_kind books, rb_error *err)
{
    rb_status st;
    plan_head_clear(head);
    if (width < PLAN_MIN_WIDTH || width > PLAN_MAX_WIDTH)
        return rb_fail(err, RB_EINVAL, "width is %d, expected %d to %d", width, PLAN_MIN_WIDTH, PLAN_MAX_WIDTH);
    RB_TRY(st, rb_alloc(&head->groups, 1, sizeof *head->groups, "groups of a head", err), done);
    RB_TRY(st, add_group(head, width, n_blocks, GROUP_ORDER_NATURAL, seed, books, err), done);
    for (int i = 0; i < n_blocks; i++) head->groups[0].blocks[i] = i;
    head->groups[0].n_blocks = n_blocks;
done:
    if (st != RB_OK) plan_head_clear(head);
    return st;
}

rb_status bit_plan_value_head(const bit_plan *plan, int kv_head, plan_head *out, rb_error *err)
{
    *out = (plan_head){0};
    return plan_head_set_uniform(out, plan->value_width, model_n_blocks(&plan->model), VALUE_SEED + (uint64_t)kv_head, plan->value_codebook, err);
}

/* ---- looking ---------------------------------------------------------------------------------------------------------------------- */

void plan_head_bits(const plan_head *head, uint8_t *bits, int n_blocks)
{
    memset(bits, 0, (size_t)n_blocks);
    for (int g = 0; g < head->n_groups; g++)
        for (int i = 0; i < head->groups[g].n_blocks; i++) bits[head->groups[g].blocks[i]] = (uint8_t)head->groups[g].width;
}

static int by_number(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

void plan_group_dims(const plan_group *group, const model_facts *model, int *dims)
{
    for (int i = 0; i < group->n_blocks; i++) model_block_dims(model, group->blocks[i], dims + 2 * i);
    if (group->order == GROUP_ORDER_NATURAL) qsort(dims, 2 * (size_t)group->n_blocks, sizeof *dims, by_number);
}

/* ---- cost ------------------------------------------------------------------------------------------------------------------------- */

static int code_bits(const plan_head *head)
{
    int bits = 0;
    for (int g = 0; g < head->n_groups; g++) bits += head->groups[g].width * 2 * head->groups[g].n_blocks;
    return bits;
}

static int stored_bits(const plan_head *head) { return (code_bits(head) + 7) / 8 * 8 + PLAN_NORM_BITS * head->n_groups; }

double plan_head_nominal_bits(const plan_head *head, int head_dim) { return (double)code_bits(head) / head_dim; }

double plan_head_true_bits(const plan_head *head, int head_dim) { return (double)stored_bits(head) / head_dim; }

static int value_bits(const bit_plan *plan)
{
    const int head_dim = plan->model.head_dim;
    return plan->value_width == PLAN_FP16_WIDTH ? PLAN_FP16_WIDTH * head_dim : (plan->value_width * head_dim + 7) / 8 * 8 + PLAN_NORM_BITS;
}

plan_cost bit_plan_cost(const bit_plan *plan)
{
    const double n = n_heads(plan), head_dim = plan->model.head_dim;
    int64_t nominal = 0, stored = 0;
    for (int h = 0; h < n_heads(plan); h++) {
        nominal += code_bits(&plan->heads[h]);
        stored += stored_bits(&plan->heads[h]);
    }
    plan_cost cost = {
        .key_nominal_bits = (double)nominal / (n * head_dim),
        .key_true_bits = (double)stored / (n * head_dim),
        .value_true_bits = value_bits(plan) / head_dim,
        .bytes_per_token = ((double)stored + n * value_bits(plan)) / 8.0,
        .fp16_bytes_per_token = 2.0 * 2.0 * n * head_dim,
    };
    cost.compression = cost.fp16_bytes_per_token / cost.bytes_per_token;
    return cost;
}

/* ---- checks ----------------------------------------------------------------------------------------------------------------------- */

static rb_status check_group(const plan_group *group, bool *is_taken, int n_blocks, const char *place, rb_error *err)
{
    if (group->width < PLAN_MIN_WIDTH || group->width > PLAN_MAX_WIDTH)
        return rb_fail(err, RB_EFORMAT, "%s: width is %d, expected %d to %d", place, group->width, PLAN_MIN_WIDTH, PLAN_MAX_WIDTH);
    if (group->n_blocks < 1) return rb_fail(err, RB_EFORMAT, "%s: has no blocks", place);
    if ((unsigned)group->codebook >= CODEBOOK_N_KINDS)
        return rb_fail(err, RB_EFORMAT, "%s: unknown codebook kind %d", place, (int)group->codebook);
    if ((unsigned)group->rotation.kind >= ROTATION_N_KINDS)
        return rb_fail(err, RB_EFORMAT, "%s: unknown rotation kind %d", place, (int)group->rotation.kind);
    if (group->order != GROUP_ORDER_BLOCK && group->order != GROUP_ORDER_NATURAL)
        return rb_fail(err, RB_EFORMAT, "%s: unknown order %d", place, (int)group->order);
    if (group->n_blocks > n_blocks)
        return rb_fail(err, RB_EFORMAT, "%s: has %d blocks, expected %d at most", place, group->n_blocks, n_blocks);
    if (group->rotation.dims != 2 * group->n_blocks)
        return rb_fail(err, RB_EFORMAT, "%s: rotation has %d dims, expected %d for %d blocks", place, group->rotation.dims,
                       2 * group->n_blocks, group->n_blocks);
    for (int i = 0; i < group->n_blocks; i++) {
        const int block = group->blocks[i];
        if (block < 0 || block >= n_blocks)
            return rb_fail(err, RB_EFORMAT, "%s: block %d, expected 0 to %d", place, block, n_blocks - 1);
        if (i > 0 && block <= group->blocks[i - 1])
            return rb_fail(err, RB_EFORMAT, "%s: block %d behind block %d, expected ascending blocks", place, block, group->blocks[i - 1]);
        if (is_taken[block]) return rb_fail(err, RB_EFORMAT, "%s: block %d is in another group too", place, block);
        is_taken[block] = true;
    }
    return RB_OK;
}

static rb_status check_head(const plan_head *head, int n_blocks, const char *place, rb_error *err)
{
    bool is_taken[RB_MAX_BLOCKS] = {false};
    char group_place[256];
    for (int g = 0; g < head->n_groups; g++) {
        snprintf(group_place, sizeof group_place, "%s group %d", place, g);
        rb_status st = check_group(&head->groups[g], is_taken, n_blocks, group_place, err);
        if (st != RB_OK) return st;
    }
    for (int block = 0; block < n_blocks; block++)
        if (!is_taken[block]) return rb_fail(err, RB_EFORMAT, "%s: block %d is in no group", place, block);
    return RB_OK;
}

static bool is_printable(const char *text)
{
    for (; *text; text++)
        if (!isprint((unsigned char)*text)) return false;
    return true;
}

rb_status bit_plan_check(const bit_plan *plan, const char *where, rb_error *err)
{
    const int n_blocks = model_n_blocks(&plan->model);
    char place[200];
    rb_status st = model_facts_check(&plan->model, where, err);
    if (st != RB_OK) return st;
    if (!plan->method[0] || !is_printable(plan->method)) return rb_fail(err, RB_EFORMAT, "%s: method is not a printable name", where);
    if (!isfinite(plan->avg_bits) || plan->avg_bits < 0.0)
        return rb_fail(err, RB_EFORMAT, "%s: avg_bits is %g, expected a number from 0", where, plan->avg_bits);
    if (plan->value_width != PLAN_FP16_WIDTH && (plan->value_width < PLAN_MIN_WIDTH || plan->value_width > PLAN_MAX_WIDTH))
        return rb_fail(err, RB_EFORMAT, "%s: value width is %d, expected %d to %d, or %d", where, plan->value_width, PLAN_MIN_WIDTH,
                       PLAN_MAX_WIDTH, PLAN_FP16_WIDTH);
    if ((unsigned)plan->value_codebook >= CODEBOOK_N_KINDS)
        return rb_fail(err, RB_EFORMAT, "%s: unknown value codebook kind %d", where, (int)plan->value_codebook);
    for (int h = 0; h < n_heads(plan) && st == RB_OK; h++) {
        snprintf(place, sizeof place, "%.150s: layer %d kv_head %d", where, h / plan->model.n_kv_heads, h % plan->model.n_kv_heads);
        st = check_head(&plan->heads[h], n_blocks, place, err);
    }
    return st;
}
