/* See kernels/cuda/groups_fragments.h. */
#include "kernels/cuda/groups_fragments.h"

#include "core/half.h"

/* A fragment's entry (k, n), k 0..15 of a step, n 0..7 of a tile: row and column of R, or false where B is 0. */
typedef struct fragment_source {
    const groups_image_group *group;
    const float *rotation;
    bool is_encode;
    const double *scales; /* of the group's dims, brought to 1 at most; NULL: 1 */
    int tile, step;
} fragment_source;

/* y = R S x, or x = S^-1 R^T y. */
static double fragment_entry(const fragment_source *from, int k, int n)
{
    const groups_image_group *group = from->group;
    const int inner = GROUPS_FRAGMENT_STEP * from->step + k, outer = GROUPS_FRAGMENT_TILE * from->tile + n;
    if (inner >= group->dims || outer >= group->dims) return 0.0;
    const int row = from->is_encode ? outer : inner, column = from->is_encode ? inner : outer;
    return (double)from->rotation[row * group->dims + column] * (double)GROUPS_FRAGMENT_SCALE
           * (from->scales ? from->scales[column] : 1.0);
}

/* The layout of B in mma.m16n8k16 (PTX ISA): register r of a lane holds rows 2 t + 8 r and the next, column lane / 4,
 * with t = lane % 4. */
static groups_image_lane fragment_lane(const fragment_source *from, int lane)
{
    groups_image_lane out;
    for (int r = 0; r < 2; r++) {
        uint16_t high[2], low[2];
        for (int i = 0; i < 2; i++) {
            const double value = fragment_entry(from, lane % 4 * 2 + 8 * r + i, lane / 4);
            high[i] = rb_f32_to_f16((float)value);
            low[i] = rb_f32_to_f16((float)(value - (double)rb_f16_to_f32(high[i])));
        }
        out.at[r] = groups_pack_halves(high[0], high[1]);
        out.at[2 + r] = groups_pack_halves(low[0], low[1]);
    }
    return out;
}

/* R = H_p / sqrt(p) * diag(signs): the first row of H_p is all ones. */
static bool is_negative_dim(const groups_image *image, const groups_image_group *group, int dim)
{
    return image->rotations[group->rotation + dim] < 0.0f;
}

/* H_16 as operand B, its two halves of 8 columns after each other; row k negated where bit k of `negative_rows` is set.
 */
static groups_image_lane transform_lane(unsigned negative_rows, int lane)
{
    groups_image_lane out;
    for (int r = 0; r < 4; r++) {
        const int k = lane % 4 * 2 + r % 2 * 8, n = lane / 4 + r / 2 * 8;
        uint16_t half[2];
        for (int i = 0; i < 2; i++) {
            const unsigned is_negative =
                (unsigned)__builtin_popcount((unsigned)((k + i) & n)) ^ negative_rows >> (k + i);
            half[i] = rb_f32_to_f16(is_negative & 1 ? -1.0f : 1.0f);
        }
        out.at[r] = groups_pack_halves(half[0], half[1]);
    }
    return out;
}

static groups_image_lane sign_lane(const groups_image *image, const groups_image_group *group, int lane)
{
    groups_image_lane out = {{0}};
    for (int tile = 0; tile < group->n_tiles; tile++)
        for (int i = 0; i < 2; i++)
            out.at[tile / 16] |= (uint32_t)is_negative_dim(image, group, GROUPS_FRAGMENT_TILE * tile + lane % 4 * 2 + i)
                                 << (tile % 16 + 16 * i);
    return out;
}

static groups_image_lane *next_fragment(groups_image *image)
{
    return image->fragments + image->n_fragments++ * GROUPS_LANES;
}

static int add_transform(groups_image *image, const groups_image_group *group, bool is_encode)
{
    const int first = (int)image->n_fragments;
    for (int step = 0; step < (is_encode ? group->n_steps : 1); step++) {
        groups_image_lane *lanes = next_fragment(image);
        unsigned negative_rows = 0;
        for (int k = 0; is_encode && k < GROUPS_FRAGMENT_STEP; k++)
            negative_rows |= (unsigned)is_negative_dim(image, group, GROUPS_FRAGMENT_STEP * step + k) << k;
        for (int lane = 0; lane < GROUPS_LANES; lane++) lanes[lane] = transform_lane(negative_rows, lane);
    }
    if (!is_encode) {
        groups_image_lane *lanes = next_fragment(image);
        for (int lane = 0; lane < GROUPS_LANES; lane++) lanes[lane] = sign_lane(image, group, lane);
    }
    return first;
}

int groups_fragments_add(groups_image *image, const groups_image_group *group, const double *scales, bool is_encode)
{
    const int first = (int)image->n_fragments;
    if (group->is_transform) return add_transform(image, group, is_encode);
    for (int tile = 0; tile < group->n_tiles; tile++)
        for (int step = 0; step < group->n_steps; step++) {
            const fragment_source from = {group, image->rotations + group->rotation, is_encode, scales, tile, step};
            groups_image_lane *lanes = next_fragment(image);
            for (int lane = 0; lane < GROUPS_LANES; lane++) lanes[lane] = fragment_lane(&from, lane);
        }
    return first;
}
