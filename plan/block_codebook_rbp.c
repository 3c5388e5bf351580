/* A head of family block-codebook out of a plan.rbp: a row of the table in plan/plan_rbp_reader.c. */
#include "plan/plan_rbp_head.h"

static void as_doubles(double *out, const float *numbers, int n)
{
    for (int i = 0; i < n; i++) out[i] = (double)numbers[i];
}

rb_status block_codebook_from_library(plan_head *out, const ropebits_head *head, const model_facts *model,
                                      rb_error *err)
{
    double maps[BLOCK_CODEBOOK_MAP_SIZE * RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS];
    const int n_blocks = model_n_blocks(model);
    as_doubles(maps, head->maps, BLOCK_CODEBOOK_MAP_SIZE * n_blocks);
    as_doubles(weights, head->weights, n_blocks);
    return plan_head_set_block_codebook(out, head->bits, maps, weights, head->gain_bits, n_blocks, err);
}
