/* Family groups, the plan of a head: see kernels/reference/groups_plan.h. */
#include "kernels/reference/groups_plan.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/plan_head.h"

const char *group_order_name(group_order order) { return order == GROUP_ORDER_NATURAL ? "natural" : "block"; }

const char *const plan_encoder_names[ENCODER_N_KINDS + 1] = {"nearest", "search", NULL};

/* ---- making ---------------------------------------------------------------------------------- */

/* Appends a group of `count` blocks, to be filled in by the caller. */
static rb_status add_group(plan_head *head, int width, int count, group_order order, uint64_t seed, codebook_kind books,
                           rb_error *err)
{
    plan_group *group = &head->groups.at[head->groups.n];
    *group = (plan_group){.width = width,
                          .order = order,
                          .codebook = books,
                          .coherence = 1.0f,
                          .rotation = {.kind = ROTATION_HAAR, .seed = seed, .dims = 2 * count}};
    rb_status st = rb_alloc(&group->blocks, (size_t)count, sizeof *group->blocks, "blocks of a group", err);
    if (st == RB_OK) head->groups.n++;
    return st;
}

rb_status plan_head_set_block_widths(plan_head *head, const uint8_t *bits, int n_blocks, codebook_kind books,
                                     rb_error *err)
{
    int count[PLAN_MAX_WIDTH + 1] = {0};
    rb_status st;
    plan_head_clear(head);
    for (int i = 0; i < n_blocks; i++) {
        if (bits[i] < PLAN_MIN_WIDTH || bits[i] > PLAN_MAX_WIDTH)
            return rb_fail(err, RB_EINVAL, "block %d: width %d, expected %d to %d", i, bits[i], PLAN_MIN_WIDTH,
                           PLAN_MAX_WIDTH);
        count[bits[i]]++;
    }
    RB_TRY(st, rb_alloc(&head->groups.at, PLAN_MAX_WIDTH, sizeof *head->groups.at, "groups of a head", err), done);
    for (int width = PLAN_MIN_WIDTH; width <= PLAN_MAX_WIDTH; width++) {
        if (count[width] == 0) continue;
        RB_TRY(st, add_group(head, width, count[width], GROUP_ORDER_BLOCK, WIDTH_SEED + (uint64_t)width, books, err),
               done);
        plan_group *group = &head->groups.at[head->groups.n - 1];
        for (int i = 0; i < n_blocks; i++)
            if (bits[i] == width) group->blocks[group->n_blocks++] = i;
    }
done:
    if (st != RB_OK) plan_head_clear(head);
    return st;
}

rb_status plan_head_set_uniform(plan_head *head, int width, int n_blocks, uint64_t seed, codebook_kind books,
                                rb_error *err)
{
    rb_status st;
    plan_head_clear(head);
    if (width < PLAN_MIN_WIDTH || width > PLAN_MAX_WIDTH)
        return rb_fail(err, RB_EINVAL, "width is %d, expected %d to %d", width, PLAN_MIN_WIDTH, PLAN_MAX_WIDTH);
    RB_TRY(st, rb_alloc(&head->groups.at, 1, sizeof *head->groups.at, "groups of a head", err), done);
    RB_TRY(st, add_group(head, width, n_blocks, GROUP_ORDER_NATURAL, seed, books, err), done);
    for (int i = 0; i < n_blocks; i++) head->groups.at[0].blocks[i] = i;
    head->groups.at[0].n_blocks = n_blocks;
done:
    if (st != RB_OK) plan_head_clear(head);
    return st;
}

rb_status plan_head_set_values(plan_head *head, int width, int n_blocks, int kv_head, codebook_kind books,
                               rb_error *err)
{
    return plan_head_set_uniform(head, width, n_blocks, VALUE_SEED + (uint64_t)kv_head, books, err);
}

rb_status plan_head_add_group(plan_head *head, int width, const int *blocks, int n, codebook_kind books,
                              int norm_exponent, rb_error *err)
{
    plan_group *grown = realloc(head->groups.at, ((size_t)head->groups.n + 1) * sizeof *grown);
    if (!grown) return rb_fail(err, RB_ENOMEM, "out of memory for groups of a head");
    head->groups.at = grown;
    rb_status st = add_group(head, width, n, GROUP_ORDER_BLOCK, WIDTH_SEED + (uint64_t)width, books, err);
    if (st != RB_OK) return st;
    plan_group *group = &head->groups.at[head->groups.n - 1];
    memcpy(group->blocks, blocks, (size_t)n * sizeof *blocks);
    group->n_blocks = n;
    group->norm_exponent = norm_exponent;
    return RB_OK;
}

rb_status plan_head_set_transform(plan_head *head, const double *scales, int n_blocks, const double *center,
                                  int head_dim, rb_error *err)
{
    rb_status st = RB_OK;
    assert(!scales || head->family == FAMILY_GROUPS);
    if (head->family == FAMILY_GROUPS) st = plan_floats_round(&head->groups.scales, scales, n_blocks, err);
    return st == RB_OK ? plan_head_set_center(head, center, head_dim, err) : st;
}

static void groups_clear(plan_head *head)
{
    for (int g = 0; g < head->groups.n; g++) free(head->groups.at[g].blocks);
    free(head->groups.at);
    free(head->groups.scales);
}

static rb_status groups_copy(plan_head *out, const plan_head *head, int n_blocks, rb_error *err)
{
    const plan_groups *from = &head->groups;
    plan_groups *to = &out->groups;
    rb_status st;
    *to = (plan_groups){.norm = from->norm, .encoder = from->encoder};
    RB_TRY(st, plan_floats_copy(&to->scales, from->scales, n_blocks, err), done);
    RB_TRY(st, rb_alloc(&to->at, (size_t)from->n, sizeof *to->at, "groups of a head", err), done);
    for (; to->n < from->n; to->n++) {
        plan_group *group = &to->at[to->n];
        *group = from->at[to->n];
        group->blocks = NULL;
        RB_TRY(st, rb_alloc(&group->blocks, (size_t)group->n_blocks, sizeof *group->blocks, "blocks of a group", err),
               done);
        memcpy(group->blocks, from->at[to->n].blocks, (size_t)group->n_blocks * sizeof *group->blocks);
    }
done:
    return st;
}

/* ---- looking --------------------------------------------------------------------------------- */

static bool same_group(const plan_group *a, const plan_group *b)
{
    return a->width == b->width && a->n_blocks == b->n_blocks && a->order == b->order && a->codebook == b->codebook
           && a->rotation.kind == b->rotation.kind && a->rotation.seed == b->rotation.seed
           && a->rotation.dims == b->rotation.dims && a->norm_exponent == b->norm_exponent
           && a->coherence == b->coherence
           && memcmp(a->blocks, b->blocks, (size_t)a->n_blocks * sizeof *a->blocks) == 0;
}

static bool groups_equal(const plan_head *a, const plan_head *b, int n_blocks)
{
    const plan_groups *x = &a->groups, *y = &b->groups;
    if (x->n != y->n || x->norm != y->norm || x->encoder != y->encoder
        || !plan_floats_equal(x->scales, y->scales, n_blocks))
        return false;
    for (int g = 0; g < x->n; g++)
        if (!same_group(&x->at[g], &y->at[g])) return false;
    return true;
}

const plan_groups *plan_head_groups(const plan_head *head)
{
    static const plan_groups none = {0};
    return head->family == FAMILY_GROUPS ? &head->groups : &none;
}

static int by_number(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

void plan_group_dims(const plan_group *group, const model_facts *model, int *dims)
{
    for (int i = 0; i < group->n_blocks; i++) model_block_dims(model, group->blocks[i], dims + 2 * i);
    if (group->order == GROUP_ORDER_NATURAL) qsort(dims, 2 * (size_t)group->n_blocks, sizeof *dims, by_number);
}

static void groups_bits(const plan_head *head, uint8_t *bits, int n_blocks)
{
    (void)n_blocks;
    for (int g = 0; g < head->groups.n; g++) {
        const plan_group *group = &head->groups.at[g];
        for (int i = 0; i < group->n_blocks; i++) bits[group->blocks[i]] = (uint8_t)group->width;
    }
}

static int groups_code_bits(const plan_head *head, int n_blocks)
{
    int bits = 0;
    (void)n_blocks;
    for (int g = 0; g < head->groups.n; g++) bits += head->groups.at[g].width * 2 * head->groups.at[g].n_blocks;
    return bits;
}

static int groups_stored_bits(const plan_head *head, int n_blocks)
{
    return (groups_code_bits(head, n_blocks) + 7) / 8 * 8 + norm_kind_bits(head->groups.norm) * head->groups.n;
}

static bool groups_is_published_form(const plan_head *head, int n_blocks)
{
    int n = 0;
    for (int g = 0; g < head->groups.n; g++) n += head->groups.at[g].n_blocks;
    return n == n_blocks && head->groups.norm == NORM_FP16 && head->groups.encoder == ENCODER_NEAREST
           && !head->groups.scales;
}

/* ---- check ----------------------------------------------------------------------------------- */

static rb_status check_group(const plan_group *group, bool *is_taken, int n_blocks, const char *place, rb_error *err)
{
    if (group->width < PLAN_MIN_WIDTH || group->width > PLAN_MAX_WIDTH)
        return rb_fail(err, RB_EFORMAT, "%s: width is %d, expected %d to %d", place, group->width, PLAN_MIN_WIDTH,
                       PLAN_MAX_WIDTH);
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
        return rb_fail(err, RB_EFORMAT, "%s: rotation has %d dims, expected %d for %d blocks", place,
                       group->rotation.dims, 2 * group->n_blocks, group->n_blocks);
    for (int i = 0; i < group->n_blocks; i++) {
        const int block = group->blocks[i];
        if (block < 0 || block >= n_blocks)
            return rb_fail(err, RB_EFORMAT, "%s: block %d, expected 0 to %d", place, block, n_blocks - 1);
        if (i > 0 && block <= group->blocks[i - 1])
            return rb_fail(err, RB_EFORMAT, "%s: block %d after block %d, expected ascending blocks", place, block,
                           group->blocks[i - 1]);
        if (is_taken[block]) return rb_fail(err, RB_EFORMAT, "%s: block %d is in another group too", place, block);
        is_taken[block] = true;
    }
    return RB_OK;
}

static rb_status check_coherence(const plan_groups *groups, const plan_group *group, const char *place, rb_error *err)
{
    if (groups->encoder != ENCODER_SEARCH && group->coherence != 1.0f)
        return rb_fail(err, RB_EFORMAT, "%s: coherence is %g, expected 1 for the nearest encoder", place,
                       (double)group->coherence);
    return plan_floats_check(&group->coherence, 1, 0.0f, "coherence", place, err);
}

static rb_status check_exponent(const plan_groups *groups, const plan_group *group, const char *place, rb_error *err)
{
    const bool is_log = groups->norm == NORM_LOG8;
    const int least = is_log ? NORM_MIN_EXPONENT : 0, most = is_log ? NORM_MAX_EXPONENT : 0;
    if (group->norm_exponent >= least && group->norm_exponent <= most) return RB_OK;
    return rb_fail(err, RB_EFORMAT, "%s: norm_exponent is %d, expected %d to %d", place, group->norm_exponent, least,
                   most);
}

static rb_status groups_check(const plan_head *head, int n_blocks, const char *where, rb_error *err)
{
    const plan_groups *groups = &head->groups;
    bool is_taken[RB_MAX_BLOCKS] = {false};
    char place[256];
    if (groups->n < 1) return rb_fail(err, RB_EFORMAT, "%s: has no groups", where);
    for (int g = 0; g < groups->n; g++) {
        snprintf(place, sizeof place, "%s group %d", where, g);
        rb_status st = check_group(&groups->at[g], is_taken, n_blocks, place, err);
        if (st == RB_OK) st = check_exponent(groups, &groups->at[g], place, err);
        if (st == RB_OK) st = check_coherence(groups, &groups->at[g], place, err);
        if (st != RB_OK) return st;
    }
    if ((unsigned)groups->norm >= NORM_N_KINDS)
        return rb_fail(err, RB_EFORMAT, "%s: unknown norm kind %d", where, (int)groups->norm);
    if ((unsigned)groups->encoder >= ENCODER_N_KINDS)
        return rb_fail(err, RB_EFORMAT, "%s: unknown encoder %d", where, (int)groups->encoder);
    return plan_floats_check(groups->scales, n_blocks, 0.0f, "scale", where, err);
}

extern const plan_head_functions groups_plan_functions;
const plan_head_functions groups_plan_functions = {
    .clear = groups_clear,
    .copy = groups_copy,
    .equal = groups_equal,
    .bits = groups_bits,
    .code_bits = groups_code_bits,
    .stored_bits = groups_stored_bits,
    .is_published_form = groups_is_published_form,
    .check = groups_check,
};
