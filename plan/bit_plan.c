/* The bit plan as data: see plan/bit_plan.h. */
#include "plan/bit_plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"

enum { WIDTH_SEED = 42, VALUE_SEED = 1000 };

const char *group_order_name(group_order order) { return order == GROUP_ORDER_NATURAL ? "natural" : "block"; }

/* ---- life ------------------------------------------------------------------------------------ */

static void free_planes(plan_planes *planes)
{
    if (!planes) return;
    free(planes->bits);
    free(planes->maps);
    free(planes->weights);
    free(planes);
}

void plan_head_clear(plan_head *head)
{
    free_planes(head->planes);
    for (int g = 0; g < head->n_groups; g++) free(head->groups[g].blocks);
    free(head->groups);
    free(head->scales);
    free(head->center);
    *head = (plan_head){0};
}

const char *const plan_encoder_names[ENCODER_N_KINDS + 1] = {"nearest", "search", NULL};
const char *const plan_family_names[FAMILY_N_KINDS + 1] = {"groups", "block-codebook", NULL};

static bool groups_equal(const plan_group *a, const plan_group *b)
{
    return a->width == b->width && a->n_blocks == b->n_blocks && a->order == b->order && a->codebook == b->codebook
           && a->rotation.kind == b->rotation.kind && a->rotation.seed == b->rotation.seed
           && a->rotation.dims == b->rotation.dims && a->norm_exponent == b->norm_exponent
           && a->coherence == b->coherence
           && memcmp(a->blocks, b->blocks, (size_t)a->n_blocks * sizeof *a->blocks) == 0;
}

static bool floats_equal(const float *a, const float *b, int n)
{
    return a && b ? memcmp(a, b, (size_t)n * sizeof *a) == 0 : a == b;
}

static bool planes_equal(const plan_planes *a, const plan_planes *b, int n_blocks)
{
    if (!a || !b) return a == b;
    return a->gain_bits == b->gain_bits && memcmp(a->bits, b->bits, (size_t)n_blocks) == 0
           && floats_equal(a->maps, b->maps, PLAN_MAP_SIZE * n_blocks)
           && floats_equal(a->weights, b->weights, n_blocks);
}

bool plan_head_equal(const plan_head *a, const plan_head *b, const model_facts *model)
{
    if (!planes_equal(a->planes, b->planes, model_n_blocks(model))) return false;
    if (a->n_groups != b->n_groups || a->norm != b->norm || a->encoder != b->encoder) return false;
    if (!floats_equal(a->scales, b->scales, model_n_blocks(model))
        || !floats_equal(a->center, b->center, model->head_dim))
        return false;
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
    RB_TRY(st,
           rb_alloc(&plan->heads, (size_t)model->n_layers * (size_t)model->n_kv_heads, sizeof *plan->heads,
                    "heads of a bit plan", err),
           done);
    RB_TRY(st,
           rb_alloc(&plan->value_widths, (size_t)n_heads(plan), sizeof *plan->value_widths,
                    "value widths of a bit plan", err),
           done);
    bit_plan_set_value_width(plan, PLAN_FP16_WIDTH);
    *out = plan;
    plan = NULL;
done:
    bit_plan_free(plan);
    return st;
}

void bit_plan_free(bit_plan *plan)
{
    if (!plan) return;
    for (int h = 0; plan->heads && h < n_heads(plan); h++) plan_head_clear(&plan->heads[h]);
    free(plan->heads);
    free(plan->value_widths);
    free(plan);
}

plan_head *bit_plan_head(const bit_plan *plan, int layer, int kv_head)
{
    return &plan->heads[(int64_t)layer * plan->model.n_kv_heads + kv_head];
}

plan_family plan_head_family(const plan_head *head) { return head->planes ? FAMILY_BLOCK_CODEBOOK : FAMILY_GROUPS; }

bool bit_plan_has_planes(const bit_plan *plan)
{
    for (int h = 0; h < n_heads(plan); h++)
        if (plan->heads[h].planes) return true;
    return false;
}

/* ---- groups ---------------------------------------------------------------------------------- */

/* Appends a group of `count` blocks, to be filled in by the caller. */
static rb_status add_group(plan_head *head, int width, int count, group_order order, uint64_t seed, codebook_kind books,
                           rb_error *err)
{
    plan_group *group = &head->groups[head->n_groups];
    *group = (plan_group){.width = width,
                          .order = order,
                          .codebook = books,
                          .coherence = 1.0f,
                          .rotation = {.kind = ROTATION_HAAR, .seed = seed, .dims = 2 * count}};
    rb_status st = rb_alloc(&group->blocks, (size_t)count, sizeof *group->blocks, "blocks of a group", err);
    if (st == RB_OK) head->n_groups++;
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
    RB_TRY(st, rb_alloc(&head->groups, PLAN_MAX_WIDTH, sizeof *head->groups, "groups of a head", err), done);
    for (int width = PLAN_MIN_WIDTH; width <= PLAN_MAX_WIDTH; width++) {
        if (count[width] == 0) continue;
        RB_TRY(st, add_group(head, width, count[width], GROUP_ORDER_BLOCK, WIDTH_SEED + (uint64_t)width, books, err),
               done);
        plan_group *group = &head->groups[head->n_groups - 1];
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
    RB_TRY(st, rb_alloc(&head->groups, 1, sizeof *head->groups, "groups of a head", err), done);
    RB_TRY(st, add_group(head, width, n_blocks, GROUP_ORDER_NATURAL, seed, books, err), done);
    for (int i = 0; i < n_blocks; i++) head->groups[0].blocks[i] = i;
    head->groups[0].n_blocks = n_blocks;
done:
    if (st != RB_OK) plan_head_clear(head);
    return st;
}

rb_status plan_head_set_values(plan_head *head, int width, int n_blocks, int kv_head, codebook_kind books,
                               rb_error *err)
{
    return plan_head_set_uniform(head, width, n_blocks, VALUE_SEED + (uint64_t)kv_head, books, err);
}

rb_status bit_plan_value_head(const bit_plan *plan, int layer, int kv_head, plan_head *out, rb_error *err)
{
    const int width = plan->value_widths[(int64_t)layer * plan->model.n_kv_heads + kv_head];
    *out = (plan_head){0};
    return plan_head_set_values(out, width, model_n_blocks(&plan->model), kv_head, plan->value_codebook, err);
}

void bit_plan_set_value_width(bit_plan *plan, int width) { memset(plan->value_widths, width, (size_t)n_heads(plan)); }

bool bit_plan_quantizes_values(const bit_plan *plan) { return plan->value_widths[0] != PLAN_FP16_WIDTH; }

static rb_status copy_floats(float **out, const float *from, int n, rb_error *err)
{
    if (!from) return RB_OK;
    rb_status st = rb_alloc(out, (size_t)n, sizeof **out, "transform of a head", err);
    if (st == RB_OK) memcpy(*out, from, (size_t)n * sizeof **out);
    return st;
}

static rb_status create_planes(plan_planes **out, int n_blocks, rb_error *err)
{
    plan_planes *planes = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&planes, 1, sizeof *planes, "planes of a head", err), done);
    RB_TRY(st, rb_alloc(&planes->bits, (size_t)n_blocks, sizeof *planes->bits, "planes of a head", err), done);
    RB_TRY(st, rb_alloc(&planes->maps, PLAN_MAP_SIZE * (size_t)n_blocks, sizeof *planes->maps, "planes of a head", err),
           done);
    RB_TRY(st, rb_alloc(&planes->weights, (size_t)n_blocks, sizeof *planes->weights, "planes of a head", err), done);
    *out = planes;
    planes = NULL;
done:
    free_planes(planes);
    return st;
}

static rb_status copy_planes(plan_planes **out, const plan_planes *from, int n_blocks, rb_error *err)
{
    const rb_status st = create_planes(out, n_blocks, err);
    if (st != RB_OK) return st;
    (*out)->gain_bits = from->gain_bits;
    memcpy((*out)->bits, from->bits, (size_t)n_blocks);
    memcpy((*out)->maps, from->maps, PLAN_MAP_SIZE * (size_t)n_blocks * sizeof *from->maps);
    memcpy((*out)->weights, from->weights, (size_t)n_blocks * sizeof *from->weights);
    return RB_OK;
}

rb_status plan_head_copy(plan_head *out, const plan_head *head, int n_blocks, int head_dim, rb_error *err)
{
    rb_status st;
    *out = (plan_head){.norm = head->norm, .encoder = head->encoder};
    RB_TRY(st, copy_floats(&out->scales, head->scales, n_blocks, err), done);
    RB_TRY(st, copy_floats(&out->center, head->center, head_dim, err), done);
    if (head->planes) RB_TRY(st, copy_planes(&out->planes, head->planes, n_blocks, err), done);
    RB_TRY(st, rb_alloc(&out->groups, (size_t)head->n_groups, sizeof *out->groups, "groups of a head", err), done);
    for (; out->n_groups < head->n_groups; out->n_groups++) {
        const plan_group *from = &head->groups[out->n_groups];
        plan_group *group = &out->groups[out->n_groups];
        *group = *from;
        group->blocks = NULL;
        RB_TRY(st, rb_alloc(&group->blocks, (size_t)from->n_blocks, sizeof *group->blocks, "blocks of a group", err),
               done);
        memcpy(group->blocks, from->blocks, (size_t)from->n_blocks * sizeof *group->blocks);
    }
done:
    if (st != RB_OK) plan_head_clear(out);
    return st;
}

rb_status plan_head_add_group(plan_head *head, int width, const int *blocks, int n, codebook_kind books,
                              int norm_exponent, rb_error *err)
{
    plan_group *grown = realloc(head->groups, ((size_t)head->n_groups + 1) * sizeof *grown);
    if (!grown) return rb_fail(err, RB_ENOMEM, "out of memory for groups of a head");
    head->groups = grown;
    rb_status st = add_group(head, width, n, GROUP_ORDER_BLOCK, WIDTH_SEED + (uint64_t)width, books, err);
    if (st != RB_OK) return st;
    plan_group *group = &head->groups[head->n_groups - 1];
    memcpy(group->blocks, blocks, (size_t)n * sizeof *blocks);
    group->n_blocks = n;
    group->norm_exponent = norm_exponent;
    return RB_OK;
}

static float fp16_of(double value) { return rb_f16_to_f32(rb_f32_to_f16((float)value)); }

/* Rounded to fp16, so that plan.json, plan.rbp and a kernel hold the same. */
static rb_status set_floats(float **out, const double *from, int n, rb_error *err)
{
    free(*out);
    *out = NULL;
    if (!from) return RB_OK;
    rb_status st = rb_alloc(out, (size_t)n, sizeof **out, "transform of a head", err);
    for (int i = 0; st == RB_OK && i < n; i++) (*out)[i] = fp16_of(from[i]);
    return st;
}

rb_status plan_head_set_transform(plan_head *head, const double *scales, int n_blocks, const double *center,
                                  int head_dim, rb_error *err)
{
    rb_status st = set_floats(&head->scales, scales, n_blocks, err);
    return st == RB_OK ? set_floats(&head->center, center, head_dim, err) : st;
}

rb_status plan_head_set_planes(plan_head *head, const uint8_t *bits, const double *maps, const double *weights,
                               int gain_bits, int n_blocks, rb_error *err)
{
    float *center = head->center;
    plan_planes *planes;
    const rb_status st = create_planes(&planes, n_blocks, err);
    if (st != RB_OK) return st;
    head->center = NULL;
    plan_head_clear(head);
    head->center = center;
    head->planes = planes;
    planes->gain_bits = gain_bits;
    memcpy(planes->bits, bits, (size_t)n_blocks);
    for (int i = 0; i < PLAN_MAP_SIZE * n_blocks; i++) planes->maps[i] = fp16_of(maps[i]);
    for (int i = 0; i < n_blocks; i++) planes->weights[i] = fp16_of(fmax(weights[i], PLAN_LEAST_WEIGHT));
    return RB_OK;
}

/* ---- looking --------------------------------------------------------------------------------- */

void plan_head_bits(const plan_head *head, uint8_t *bits, int n_blocks)
{
    memset(bits, 0, (size_t)n_blocks);
    if (head->planes) memcpy(bits, head->planes->bits, (size_t)n_blocks);
    for (int g = 0; g < head->n_groups; g++)
        for (int i = 0; i < head->groups[g].n_blocks; i++)
            bits[head->groups[g].blocks[i]] = (uint8_t)head->groups[g].width;
}

static int by_number(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

void plan_group_dims(const plan_group *group, const model_facts *model, int *dims)
{
    for (int i = 0; i < group->n_blocks; i++) model_block_dims(model, group->blocks[i], dims + 2 * i);
    if (group->order == GROUP_ORDER_NATURAL) qsort(dims, 2 * (size_t)group->n_blocks, sizeof *dims, by_number);
}

bool plan_head_is_published_form(const plan_head *head, int n_blocks)
{
    int n = 0;
    for (int g = 0; g < head->n_groups; g++) n += head->groups[g].n_blocks;
    return n == n_blocks && head->norm == NORM_FP16 && head->encoder == ENCODER_NEAREST && !head->scales
           && !head->center;
}

bool bit_plan_is_published_form(const bit_plan *plan)
{
    for (int h = 0; h < n_heads(plan); h++)
        if (!plan_head_is_published_form(&plan->heads[h], model_n_blocks(&plan->model))
            || plan->value_widths[h] != plan->value_widths[0])
            return false;
    return true;
}

/* ---- cost ------------------------------------------------------------------------------------ */

static int code_bits(const plan_head *head, int n_blocks)
{
    int bits = 0;
    for (int i = 0; head->planes && i < n_blocks; i++) bits += head->planes->bits[i];
    for (int g = 0; g < head->n_groups; g++) bits += head->groups[g].width * 2 * head->groups[g].n_blocks;
    return bits;
}

static int stored_bits(const plan_head *head, int n_blocks)
{
    const int gain_bits = head->planes ? head->planes->gain_bits : 0;
    return (code_bits(head, n_blocks) + gain_bits + 7) / 8 * 8 + norm_kind_bits(head->norm) * head->n_groups;
}

double plan_head_nominal_bits(const plan_head *head, int head_dim)
{
    return (double)code_bits(head, head_dim / 2) / head_dim;
}

double plan_head_true_bits(const plan_head *head, int head_dim)
{
    return (double)stored_bits(head, head_dim / 2) / head_dim;
}

int plan_value_bits(int width, int head_dim)
{
    return width == PLAN_FP16_WIDTH ? PLAN_FP16_WIDTH * head_dim
                                    : (width * head_dim + 7) / 8 * 8 + norm_kind_bits(NORM_FP16);
}

value_range bit_plan_value_range(const bit_plan *plan)
{
    value_range range = {.least = plan->value_widths[0], .most = plan->value_widths[0]};
    int64_t sum = 0;
    for (int h = 0; h < n_heads(plan); h++) {
        const int width = plan->value_widths[h];
        if (width < range.least) range.least = width;
        if (width > range.most) range.most = width;
        sum += width;
    }
    range.mean = (double)sum / n_heads(plan);
    return range;
}

void bit_plan_describe_values(char *out, size_t size, const bit_plan *plan)
{
    const value_range range = bit_plan_value_range(plan);
    const int n = snprintf(out, size, "%.3f true bits a dim", bit_plan_cost(plan).value_true_bits);
    if (range.least != range.most && n > 0 && (size_t)n < size)
        snprintf(out + n, size - (size_t)n, ", widths %d to %d", range.least, range.most);
}

plan_cost bit_plan_cost(const bit_plan *plan)
{
    const double n = n_heads(plan), head_dim = plan->model.head_dim;
    int64_t nominal = 0, stored = 0, values = 0;
    for (int h = 0; h < n_heads(plan); h++) {
        nominal += code_bits(&plan->heads[h], model_n_blocks(&plan->model));
        stored += stored_bits(&plan->heads[h], model_n_blocks(&plan->model));
        values += plan_value_bits(plan->value_widths[h], plan->model.head_dim);
    }
    plan_cost cost = {
        .key_nominal_bits = (double)nominal / (n * head_dim),
        .key_true_bits = (double)stored / (n * head_dim),
        .value_true_bits = (double)values / (n * head_dim),
        .bytes_per_token = (double)(stored + values) / 8.0,
        .fp16_bytes_per_token = 2.0 * 2.0 * n * head_dim,
    };
    cost.compression = cost.fp16_bytes_per_token / cost.bytes_per_token;
    return cost;
}
