/* See plan_explain_block_codebook.h. */
#include "allocate/plan_explain_block_codebook.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "kernels/reference/block_codebook_codec.h"
#include "methods/block_codebook_curve.h"

/* The axes of the covariance M M^T, M = (m0 0; m1 m2). */
static void set_axes(explained_code *out, const float *map)
{
    static const double DEGREES = 57.29577951308232;
    const double m0 = (double)map[0], m1 = (double)map[1], m2 = (double)map[2];
    const double xx = m0 * m0, xy = m0 * m1, yy = m1 * m1 + m2 * m2, mean = 0.5 * (xx + yy),
                 spread = hypot(0.5 * (xx - yy), xy);
    out->axes[0] = sqrt(mean + spread);
    out->axes[1] = out->axes[0] > 0.0 ? fabs(m0 * m2) / out->axes[0] : 0.0; /* their product is |det M| */
    out->angle = 0.5 * atan2(2.0 * xy, xx - yy) * DEGREES;
}

/* V were the block's code `step` bits longer, as a share of V more than it is. */
static double change(const block_codebook_head *head, const uint8_t *bits, int block, int step, int gain_bits,
                     double variance)
{
    uint8_t other[RB_MAX_BLOCKS];
    double stretches[RB_MAX_BLOCKS];
    const int own = bits[block] + step;
    if (own < 0 || own > block_codebook_most_bits(block, gain_bits) || !(variance > 0.0)) return 0.0;
    memcpy(other, bits, (size_t)head->n_blocks);
    other[block] = (uint8_t)own;
    return block_codebook_head_error(head, other, stretches) / variance - 1.0;
}

void plan_explain_block_codebook(explained_block_codebook *out, const bit_plan *plan, int h,
                                 const head_statistics *statistics)
{
    const plan_head *head = &plan->heads[h];
    const plan_block_codebook *coding = &head->block_codebook;
    const int n = model_n_blocks(&plan->model);
    double stretches[RB_MAX_BLOCKS];
    int code_bits = 0;
    coded_head coded;
    *out = (explained_block_codebook){
        .n_blocks = n,
        .gain_bits = coding->gain_bits,
        .bits = plan_head_true_bits(head, plan->model.head_dim) * plan->model.head_dim,
        .least_gain = block_codebook_gain(coding->gain_bits, 0),
        .most_gain = block_codebook_gain(coding->gain_bits, (1 << coding->gain_bits) - 1),
    };
    coded_head_of(&coded, head, &plan->model, statistics, h);
    const block_codebook_head known = {n, coded.q_energy, coded.block_codebook_error, coded.moment};
    const double variance = block_codebook_head_error(&known, coding->bits, stretches);
    out->logit_mae = logit_mae_of_variance(variance);
    for (int block = 0; block < n; block++) code_bits += coding->bits[block];
    for (int block = 0; block < n; block++) {
        explained_code *own = &out->blocks[block];
        *own = (explained_code){
            .bits = coding->bits[block],
            .code_share = (double)coding->bits[block] / code_bits,
            .weight = (double)coding->weights[block],
            .q_energy = statistics->q_energy[(int64_t)h * n + block],
            .k_energy = statistics->k_energy[(int64_t)h * n + block],
            .more = change(&known, coding->bits, block, 1, coding->gain_bits, variance),
            .less = change(&known, coding->bits, block, -1, coding->gain_bits, variance),
        };
        if (head->center && own->k_energy > 0.0) own->center_share = 1.0 - coded.k_energy[block] / own->k_energy;
        set_axes(own, coding->maps + BLOCK_CODEBOOK_MAP_SIZE * block);
    }
}

/* ---- as JSON --------------------------------------------------------------------------------- */

static rb_status block_to_json(cJSON *blocks, const explained_code *block, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_number(json, "bits", block->bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "code_share", block->code_share, err), done);
    RB_TRY(st, rb_json_add_numbers(json, "axes", block->axes, 2, err), done);
    RB_TRY(st, rb_json_add_number(json, "angle_degrees", block->angle, err), done);
    RB_TRY(st, rb_json_add_number(json, "weight", block->weight, err), done);
    RB_TRY(st, rb_json_add_number(json, "q_energy", block->q_energy, err), done);
    RB_TRY(st, rb_json_add_number(json, "k_energy", block->k_energy, err), done);
    RB_TRY(st, rb_json_add_number(json, "center_share", block->center_share, err), done);
    RB_TRY(st, rb_json_add_number(json, "variance_of_a_bit_more", block->more, err), done);
    RB_TRY(st, rb_json_add_number(json, "variance_of_a_bit_less", block->less, err), done);
    RB_TRY(st, rb_json_append(blocks, &json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

rb_status explained_block_codebook_to_json(cJSON **out, const explained_block_codebook *e, rb_error *err)
{
    cJSON *json = NULL, *blocks = cJSON_CreateArray();
    rb_status st = blocks ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for an explanation");
    *out = NULL;
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", EXPLAIN_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(json, "version", EXPLAIN_VERSION, err), done);
    RB_TRY(st, rb_json_add_string(json, "family", codec_family_names[FAMILY_BLOCK_CODEBOOK], err), done);
    RB_TRY(st, rb_json_add_number(json, "bits", e->bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "gain_bits", e->gain_bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "logit_mae", e->logit_mae, err), done);
    for (int block = 0; block < e->n_blocks; block++) RB_TRY(st, block_to_json(blocks, &e->blocks[block], err), done);
    RB_TRY(st, rb_json_add_item(json, "blocks", &blocks, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    cJSON_Delete(blocks);
    return st;
}

/* ---- as text --------------------------------------------------------------------------------- */

static void print_error(const void *explained)
{
    const explained_block_codebook *e = explained;
    printf("family   block-codebook: one code for both dims of a block, no norm; %d bits for the gain of a key, %.3g "
           "to %.3g\n",
           e->gain_bits, e->least_gain, e->most_gain);
    printf("error    logit MAE of %.4g expected; what its variance would be with a bit more or less of a block, the "
           "others as they are, is told below\n",
           e->logit_mae);
}

static void print_parts(const void *explained)
{
    const explained_block_codebook *e = explained;
    printf("\n%-6s %5s %9s %10s %10s %9s %10s %11s %11s %10s %11s %11s\n", "block", "bits", "codes, %", "axis 1",
           "axis 2", "angle", "weight", "q energy", "k energy", "centre, %", "a bit more", "a bit less");
    for (int block = 0; block < e->n_blocks; block++) {
        const explained_code *b = &e->blocks[block];
        printf("%-6d %5d %9.2f %10.4g %10.4g %9.1f %10.4g %11.4g %11.4g %10.1f %+10.2f%% %+10.2f%%\n", block, b->bits,
               100.0 * b->code_share, b->axes[0], b->axes[1], b->angle, b->weight, b->q_energy, b->k_energy,
               100.0 * b->center_share, 100.0 * b->more, 100.0 * b->less);
    }
}

/* ---- the family's row ------------------------------------------------------------------------ */

static rb_status explain(void *explained, const bit_plan *plan, int h, const head_statistics *statistics, rb_error *err)
{
    (void)err;
    plan_explain_block_codebook(explained, plan, h, statistics);
    return RB_OK;
}

static rb_status to_json(cJSON **out, const void *explained, rb_error *err)
{
    return explained_block_codebook_to_json(out, explained, err);
}

extern const explain_functions block_codebook_explain_functions;
const explain_functions block_codebook_explain_functions = {
    .size_bytes = sizeof(explained_block_codebook),
    .explain = explain,
    .print_error = print_error,
    .print_parts = print_parts,
    .to_json = to_json,
};
