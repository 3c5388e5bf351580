/* Whether a plan can be what it says it is: bit_plan_check of plan/bit_plan.h. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>

#include "core/half.h"
#include "plan/bit_plan.h"

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
            return rb_fail(err, RB_EFORMAT, "%s: block %d behind block %d, expected ascending blocks", place, block,
                           group->blocks[i - 1]);
        if (is_taken[block]) return rb_fail(err, RB_EFORMAT, "%s: block %d is in another group too", place, block);
        is_taken[block] = true;
    }
    return RB_OK;
}

static rb_status check_floats(const float *values, int n, float above, const char *what, const char *place,
                              rb_error *err)
{
    for (int i = 0; values && i < n; i++)
        if (!(values[i] > above) || !isfinite(values[i]) || rb_f16_to_f32(rb_f32_to_f16(values[i])) != values[i])
            return rb_fail(err, RB_EFORMAT, "%s: %s %d is %.9g, expected a number%s that fp16 holds", place, what, i,
                           (double)values[i], above == 0.0f ? " above 0" : "");
    return RB_OK;
}

static rb_status check_coding(const plan_head *head, int n_blocks, int head_dim, const char *place, rb_error *err)
{
    if ((unsigned)head->norm >= NORM_N_KINDS)
        return rb_fail(err, RB_EFORMAT, "%s: unknown norm kind %d", place, (int)head->norm);
    if ((unsigned)head->encoder >= ENCODER_N_KINDS)
        return rb_fail(err, RB_EFORMAT, "%s: unknown encoder %d", place, (int)head->encoder);
    rb_status st = check_floats(head->scales, n_blocks, 0.0f, "scale", place, err);
    return st == RB_OK ? check_floats(head->center, head_dim, -INFINITY, "center", place, err) : st;
}

static rb_status check_coherence(const plan_head *head, const plan_group *group, const char *place, rb_error *err)
{
    if (head->encoder != ENCODER_SEARCH && group->coherence != 1.0f)
        return rb_fail(err, RB_EFORMAT, "%s: coherence is %g, expected 1 for the nearest encoder", place,
                       (double)group->coherence);
    return check_floats(&group->coherence, 1, 0.0f, "coherence", place, err);
}

static rb_status check_exponent(const plan_head *head, const plan_group *group, const char *place, rb_error *err)
{
    const int least = head->norm == NORM_LOG8 ? NORM_MIN_EXPONENT : 0,
              most = head->norm == NORM_LOG8 ? NORM_MAX_EXPONENT : 0;
    if (group->norm_exponent >= least && group->norm_exponent <= most) return RB_OK;
    return rb_fail(err, RB_EFORMAT, "%s: norm_exponent is %d, expected %d to %d", place, group->norm_exponent, least,
                   most);
}

static rb_status check_planes(const plan_head *head, int n_blocks, const char *place, rb_error *err)
{
    const plan_planes *planes = head->planes;
    int n_coded = 0;
    if (head->n_groups > 0 || head->norm != NORM_FP16 || head->encoder != ENCODER_NEAREST || head->scales)
        return rb_fail(
            err, RB_EFORMAT,
            "%s: has block codebooks and groups, 8-bit norms, a search encoder or scales, expected codebooks alone",
            place);
    if (planes->gain_bits < 0 || planes->gain_bits > PLAN_MAX_GAIN_BITS)
        return rb_fail(err, RB_EFORMAT, "%s: gain_bits is %d, expected 0 to %d", place, planes->gain_bits,
                       PLAN_MAX_GAIN_BITS);
    for (int i = 0; i < n_blocks; i++) {
        if (planes->bits[i] > PLANE_MAX_BITS)
            return rb_fail(err, RB_EFORMAT, "%s: block %d has %d bits, expected 0 to %d", place, i, planes->bits[i],
                           PLANE_MAX_BITS);
        n_coded += planes->bits[i] > 0;
    }
    if (n_coded == 0) return rb_fail(err, RB_EFORMAT, "%s: no block has bits", place);
    rb_status st = check_floats(planes->maps, PLAN_MAP_SIZE * n_blocks, -INFINITY, "map", place, err);
    return st == RB_OK ? check_floats(planes->weights, n_blocks, 0.0f, "weight", place, err) : st;
}

static rb_status check_groups(const plan_head *head, int n_blocks, const char *place, rb_error *err)
{
    bool is_taken[RB_MAX_BLOCKS] = {false};
    char group_place[256];
    if (head->n_groups < 1) return rb_fail(err, RB_EFORMAT, "%s: has no groups", place);
    for (int g = 0; g < head->n_groups; g++) {
        snprintf(group_place, sizeof group_place, "%s group %d", place, g);
        rb_status st = check_group(&head->groups[g], is_taken, n_blocks, group_place, err);
        if (st == RB_OK) st = check_exponent(head, &head->groups[g], group_place, err);
        if (st == RB_OK) st = check_coherence(head, &head->groups[g], group_place, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

static rb_status check_head(const plan_head *head, int n_blocks, int head_dim, const char *place, rb_error *err)
{
    const rb_status st =
        head->planes ? check_planes(head, n_blocks, place, err) : check_groups(head, n_blocks, place, err);
    return st == RB_OK ? check_coding(head, n_blocks, head_dim, place, err) : st;
}

static rb_status check_value_width(const bit_plan *plan, int h, const char *place, rb_error *err)
{
    const int width = plan->value_widths[h];
    if (width != PLAN_FP16_WIDTH && (width < PLAN_MIN_WIDTH || width > PLAN_MAX_WIDTH))
        return rb_fail(err, RB_EFORMAT, "%s: value width is %d, expected %d to %d, or %d", place, width, PLAN_MIN_WIDTH,
                       PLAN_MAX_WIDTH, PLAN_FP16_WIDTH);
    if ((width == PLAN_FP16_WIDTH) != (plan->value_widths[0] == PLAN_FP16_WIDTH))
        return rb_fail(err, RB_EFORMAT,
                       "%s: value width is %d, the first head's is %d, expected all values to be fp16 (%d) or none",
                       place, width, plan->value_widths[0], PLAN_FP16_WIDTH);
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
    const int n_blocks = model_n_blocks(&plan->model), n_heads = plan->model.n_layers * plan->model.n_kv_heads;
    char place[200];
    rb_status st = model_facts_check(&plan->model, where, err);
    if (st != RB_OK) return st;
    if (!plan->method[0] || !is_printable(plan->method))
        return rb_fail(err, RB_EFORMAT, "%s: method is not a printable name", where);
    if (!isfinite(plan->avg_bits) || plan->avg_bits < 0.0)
        return rb_fail(err, RB_EFORMAT, "%s: avg_bits is %g, expected a number from 0", where, plan->avg_bits);
    if ((unsigned)plan->value_codebook >= CODEBOOK_N_KINDS)
        return rb_fail(err, RB_EFORMAT, "%s: unknown value codebook kind %d", where, (int)plan->value_codebook);
    for (int h = 0; h < n_heads && st == RB_OK; h++) {
        snprintf(place, sizeof place, "%.150s: layer %d kv_head %d", where, h / plan->model.n_kv_heads,
                 h % plan->model.n_kv_heads);
        st = check_value_width(plan, h, place, err);
        if (st == RB_OK) st = check_head(&plan->heads[h], n_blocks, plan->model.head_dim, place, err);
    }
    return st;
}
