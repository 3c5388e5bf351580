/* See kernels/cuda/groups_columns.h. */
#include "kernels/cuda/groups_columns.h"

#include <math.h>

/* ---- columns ------------------------------------------------------------------------------------ */

static int order_of(const uint16_t *column, int head_dim)
{
    bool is_natural = true, is_split = true;
    for (int dim = 0; dim < head_dim; dim++) is_natural &= column[dim] == dim;
    for (int dim = 0; dim < head_dim / 2; dim++)
        is_split &= column[dim] % 2 == 0 && column[dim + head_dim / 2] == column[dim] + 1;
    return is_natural ? GROUPS_ORDER_NATURAL : is_split ? GROUPS_ORDER_SPLIT_PAIRS : GROUPS_ORDER_ANY;
}

/* Dims of no group: positions ascending, after the others, as head_codec.h has them; columns block by block, so that
 * pairs stay together. */
static void fill_uncoded(const groups_head_build *h, const model_facts *model)
{
    uint8_t bits[RB_MAX_BLOCKS];
    bool is_uncoded[RB_MAX_HEAD_DIM] = {false};
    int at = h->head->first_uncoded, next = h->head->n_coded, dims[2];
    plan_head_bits(h->from, bits, model_n_blocks(model));
    for (int block = 0; block < model_n_blocks(model); block++) {
        if (bits[block] > 0) continue;
        model_block_dims(model, block, dims);
        for (int i = 0; i < 2; i++) {
            is_uncoded[dims[i]] = true;
            h->column[dims[i]] = (uint16_t)at++;
        }
    }
    for (int dim = 0; dim < model->head_dim; dim++)
        if (is_uncoded[dim]) h->position[dim] = (uint16_t)next++;
}

static void fill_positions(const groups_head_build *h, const model_facts *model)
{
    int dims[RB_MAX_HEAD_DIM];
    for (int g = 0; g < h->plan->n; g++) {
        plan_group_dims(&h->plan->at[g], model, dims);
        for (int j = 0; j < h->groups[g].dims; j++) {
            h->position[dims[j]] = (uint16_t)(h->groups[g].first + j);
            h->column[dims[j]] = (uint16_t)(h->groups[g].column + j);
        }
    }
    fill_uncoded(h, model);
    h->head->order = order_of(h->column, model->head_dim);
}

/* ---- scales and centres ------------------------------------------------------------------------ */

void groups_scales_of(double *scales, const plan_groups *plan, int g, const model_facts *model)
{
    const plan_group *group = &plan->at[g];
    double by_dim[RB_MAX_HEAD_DIM];
    int dims[RB_MAX_HEAD_DIM];
    for (int block = 0; block < model_n_blocks(model); block++) {
        model_block_dims(model, block, dims);
        by_dim[dims[0]] = by_dim[dims[1]] = plan->scales ? (double)plan->scales[block] : 1.0;
    }
    plan_group_dims(group, model, dims);
    for (int j = 0; j < 2 * group->n_blocks; j++) scales[j] = by_dim[dims[j]];
}

static void fill_centers(const groups_head_build *h, const model_facts *model)
{
    const float *from = h->from->center;
    for (int dim = 0; dim < model->head_dim; dim++) {
        const float center = from ? from[dim] : 0.0f;
        const bool is_coded = h->column[dim] < h->head->first_uncoded;
        if (from || !is_coded) h->centers[h->column[dim]] = center;
        if (is_coded) h->head->largest_center = fmaxf(h->head->largest_center, fabsf(center));
    }
}

static void fill_inverse_scales(const groups_head_build *h, const model_facts *model)
{
    for (int block = 0; h->plan->scales && block < model_n_blocks(model); block++) {
        int dims[2];
        model_block_dims(model, block, dims);
        for (int i = 0; i < 2; i++) h->inverse_scales[h->column[dims[i]]] = 1.0f / h->plan->scales[block];
    }
}

/* -R S c of a group, as products have it. */
static void fill_group_shifts(const groups_head_build *h, const groups_image *image, const model_facts *model, int g)
{
    const groups_image_group *group = &h->groups[g];
    double scales[RB_MAX_HEAD_DIM];
    int dims[RB_MAX_HEAD_DIM];
    groups_scales_of(scales, h->plan, g, model);
    plan_group_dims(&h->plan->at[g], model, dims);
    for (int row = 0; row < group->dims; row++) {
        const float *rotation = image->rotations + group->rotation + row * group->dims;
        double sum = 0.0;
        for (int j = 0; j < group->dims; j++) sum += (double)rotation[j] * scales[j] * (double)h->from->center[dims[j]];
        h->shifts[group->column + row] = (float)-ldexp(sum * (double)GROUPS_FRAGMENT_SCALE, -group->encode_exponent);
    }
}

/* Centres and scales by column, and what each coordinate starts from, which needs rotations and exponents. */
static void fill_transform(const groups_head_build *h, const groups_image *image, const model_facts *model)
{
    for (int i = 0; i < image->max_columns; i++) {
        h->inverse_scales[i] = 1.0f;
        h->centers[i] = -0.0f;
    }
    fill_centers(h, model);
    fill_inverse_scales(h, model);
    for (int g = 0; h->from->center && g < h->plan->n; g++) fill_group_shifts(h, image, model, g);
}

void groups_columns_fill(const groups_head_build *h, const groups_image *image, const model_facts *model)
{
    fill_positions(h, model);
    fill_transform(h, image, model);
}
