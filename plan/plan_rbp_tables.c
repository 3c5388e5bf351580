/* See plan_rbp_tables.h. */
#include "plan/plan_rbp_tables.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/half.h"
#include "core/message.h"
#include "kernels/reference/trellis.h"
#include "plan/plan_codebooks.h"

/* The file's table of N(0, 1) is scaled to a group's dims in f64 and rounded once, as ours is. */
static const double ROUNDING = 0x1p-22; /* of a number, relative */

static bool are_same(const float *theirs, const float *ours, int n)
{
    for (int i = 0; i < n; i++)
        if (!(fabs((double)theirs[i] - (double)ours[i]) <= ROUNDING * fabs((double)ours[i]))) return false;
    return true;
}

/* ---- codebooks of groups and values ---------------------------------------------------------- */

/* The file's centroids for a codebook that the plan needs: of the first group, or else of the values, that has it. */
static const float *find_centroids(const ropebits_plan *source, const codebook_spec *spec)
{
    const ropebits_plan_info *info = ropebits_plan_get_info(source);
    for (uint32_t layer = 0; layer < info->n_layers; layer++)
        for (uint32_t kv_head = 0; kv_head < info->n_kv_heads; kv_head++) {
            const ropebits_head *head = ropebits_plan_head(source, layer, kv_head);
            for (int g = 0; g < head->n_groups; g++) {
                const ropebits_group *group = &head->groups[g];
                if (group->codebook == spec->kind && group->width == spec->width && group->n_dims == spec->dims)
                    return group->centroids;
            }
            if (head->value_centroids && info->value_codebook == spec->kind && head->value_width == spec->width
                && (int)info->value_dim == spec->dims)
                return head->value_centroids;
        }
    return NULL;
}

static rb_status compare_centroids(char *out, size_t size, const ropebits_plan *source, const codebook_spec *spec,
                                   rb_error *err)
{
    const float *theirs = find_centroids(source, spec);
    codebook ours;
    if (!theirs) return RB_OK;
    const rb_status st = codebook_build(&ours, spec->kind, spec->width, spec->dims, err);
    if (st == RB_OK && !are_same(theirs, ours.centroid_f32, ours.size))
        snprintf(out, size, "%s centroids of width %d for %d dims", codebook_kind_name(spec->kind), spec->width,
                 spec->dims);
    return st;
}

/* ---- points, levels, trellises: stored as fp16 ----------------------------------------------- */

static bool are_same_f16(const float *theirs, const float *ours, int n)
{
    for (int i = 0; i < n; i++)
        if (theirs[i] != rb_f16_to_f32(rb_f32_to_f16(ours[i]))) return false;
    return true;
}

static rb_status compare_points(char *out, size_t size, const ropebits_plan *source, int bits, rb_error *err)
{
    const float *theirs = ropebits_plan_points(source, (uint32_t)bits);
    float *ours = NULL;
    const rb_status st = plan_points_build(&ours, bits, err);
    if (st == RB_OK && theirs && !are_same_f16(theirs, ours, 2 << bits)) snprintf(out, size, "points of %d bits", bits);
    free(ours);
    return st;
}

static rb_status compare_levels(char *out, size_t size, const ropebits_plan *source, int bits, rb_error *err)
{
    const float *theirs = ropebits_plan_levels(source, (uint32_t)bits);
    block_levels ours = {0};
    const rb_status st = block_levels_build(&ours, bits, err);
    if (st == RB_OK && theirs && !are_same_f16(theirs, ours.level, ours.size))
        snprintf(out, size, "levels of %d bits", bits);
    return st;
}

static void compare_trellis(char *out, size_t size, const ropebits_plan *source, int width)
{
    const float *theirs = ropebits_plan_trellis(source, (uint32_t)width);
    if (theirs && !are_same_f16(theirs, trellis_tables[width], TRELLIS_STATES))
        snprintf(out, size, "the trellis of width %d", width);
}

rb_status plan_rbp_find_other_table(char *out, size_t size, const ropebits_plan *source, const bit_plan *plan,
                                    rb_error *err)
{
    plan_codebooks books = {0};
    rb_status st;
    out[0] = '\0';
    RB_TRY(st, plan_codebooks_collect(&books, plan, err), done);
    for (int i = 0; i < books.n && out[0] == '\0'; i++)
        RB_TRY(st, compare_centroids(out, size, source, &books.at[i], err), done);
    for (int bits = 1; bits <= PLAN_MAX_POINT_BITS && out[0] == '\0'; bits++)
        if (books.has_points[bits]) RB_TRY(st, compare_points(out, size, source, bits, err), done);
    for (int bits = 1; bits <= PLAN_MAX_LEVEL_BITS && out[0] == '\0'; bits++)
        if (books.has_levels[bits]) RB_TRY(st, compare_levels(out, size, source, bits, err), done);
    for (int width = 1; width <= PLAN_MAX_TRELLIS_WIDTH && out[0] == '\0'; width++)
        if (books.has_trellis[width]) compare_trellis(out, size, source, width);
done:
    plan_codebooks_free(&books);
    return st;
}

/* ---- of a file ------------------------------------------------------------------------------- */

rb_status plan_rbp_warn_of_tables(const char *path, const bit_plan *plan, rb_error *err)
{
    ropebits_plan *source = NULL;
    char message[512], other[64];
    rb_status st;
    if (ropebits_plan_open(&source, path, message, sizeof message) != 0) return rb_fail(err, RB_EFORMAT, "%s", message);
    RB_TRY(st, plan_rbp_find_other_table(other, sizeof other, source, plan, err), done);
    if (other[0] != '\0')
        rb_message_warn("%s: its %s are not those of this build: runtimes code by the file's tables, and this program "
                        "by its own; export the plan again",
                        path, other);
done:
    ropebits_plan_close(source);
    return st;
}
