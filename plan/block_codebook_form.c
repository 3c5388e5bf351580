/* The row of family block-codebook in the table of plan/plan_family.h: its columns, its codebooks, its words. Its part
 * of plan.json: plan/block_codebook_json.c. */
#include "plan/block_codebook_form.h"

#include <assert.h>
#include <stdio.h>

enum { SINCE = PLAN_VERSION_POINTS };

/* ---- columns --------------------------------------------------------------------------------- */

static int take_gain_bits(plan_number *out, const bit_plan *plan, int h)
{
    out[0].whole = plan->heads[h].block_codebook.gain_bits;
    return 1;
}

static int take_bits(plan_number *out, const bit_plan *plan, int h)
{
    const int n_blocks = model_n_blocks(&plan->model);
    for (int i = 0; i < n_blocks; i++) out[i].whole = plan->heads[h].block_codebook.bits[i];
    return n_blocks;
}

static int take_maps(plan_number *out, const bit_plan *plan, int h)
{
    return plan_numbers_put(out, plan->heads[h].block_codebook.maps,
                            BLOCK_CODEBOOK_MAP_SIZE * model_n_blocks(&plan->model));
}

static int take_weights(plan_number *out, const bit_plan *plan, int h)
{
    return plan_numbers_put(out, plan->heads[h].block_codebook.weights, model_n_blocks(&plan->model));
}

static_assert((int)BLOCK_CODEBOOK_MAP_SIZE <= (int)PLAN_COLUMN_MAX_SIZE, "maps fit in a column");
static const plan_column columns[] = {
    {.family = FAMILY_BLOCK_CODEBOOK,
     .since = SINCE,
     .extent = COLUMN_OF_HEAD,
     .type = COLUMN_U8,
     .take = take_gain_bits,
     .place = {[FORM_HEADER] = 13, [FORM_TENSORS] = 42, [FORM_RBP] = 15},
     .header_name = "ropebits_k_gain_bits",
     .tensor_name = "k_gain_bits"},
    {.family = FAMILY_BLOCK_CODEBOOK,
     .since = SINCE,
     .extent = COLUMN_OF_BLOCK,
     .type = COLUMN_U8,
     .take = take_bits,
     .place = {[FORM_RBP] = 16}},
    {.family = FAMILY_BLOCK_CODEBOOK,
     .since = SINCE,
     .extent = COLUMN_OF_BLOCK,
     .type = COLUMN_F16,
     .size = BLOCK_CODEBOOK_MAP_SIZE,
     .take = take_maps,
     .place = {[FORM_HEADER] = 14, [FORM_TENSORS] = 11, [FORM_RBP] = 17},
     .header_name = "ropebits_k_maps",
     .tensor_name = "k_maps"},
    {.family = FAMILY_BLOCK_CODEBOOK,
     .since = SINCE,
     .extent = COLUMN_OF_BLOCK,
     .type = COLUMN_F16,
     .take = take_weights,
     .place = {[FORM_HEADER] = 15, [FORM_TENSORS] = 12, [FORM_RBP] = 18},
     .header_name = "ropebits_k_weights",
     .tensor_name = "k_weights"},
};

/* ---- codebooks ------------------------------------------------------------------------------- */

static rb_status add_codebooks(plan_codebooks *out, const plan_head *head, const model_facts *model, rb_error *err)
{
    (void)err;
    for (int i = 0; i < model_n_blocks(model); i++) {
        const int bits = head->block_codebook.bits[i];
        if (block_codebook_has_levels(bits)) {
            const int first = block_codebook_first_bits(head->block_codebook.maps + BLOCK_CODEBOOK_MAP_SIZE * i, bits);
            out->has_levels[first] = out->has_levels[bits - first] = true;
        } else if (bits > 0) {
            out->has_points[bits] = true;
        }
    }
    return RB_OK;
}

static int version_of(const char **what, const plan_head *head, int n_blocks)
{
    for (int i = 0; i < n_blocks; i++)
        if (block_codebook_has_levels(head->block_codebook.bits[i])) {
            *what = "a block of more than 10 bits";
            return PLAN_VERSION_LEVELS;
        }
    return SINCE;
}

/* ---- words ----------------------------------------------------------------------------------- */

static void describe(char *out, size_t size, const plan_head *head)
{
    snprintf(out, size, "block-codebook, %d bits of gain", head->block_codebook.gain_bits);
}

static const plan_comment header_comments[] = {
    {.since = SINCE,
     .text = "/* Heads whose ropebits_k_family is 1 have no groups: they are of block-codebook. Every RoPE block is "
             "one code "
             "of ropebits_k_bits bits, a point in the plane for\n"
             " * both its dims. A vector's stream is ropebits_k_gain_bits bits of the gain's code c, then the code of "
             "every "
             "block in order, least significant bit first, padded\n"
             " * to a byte. With n = 1 << bits, points = ropebits_points[bits], m = "
             "ropebits_k_maps[layer][kv_head][block], "
             "zero = (1 << gain_bits) / 4 and\n"
             " * g = 2^((c - zero) / 2) as a float, a block is restored as\n"
             " *   g * (m[0] * points[code], m[1] * points[code] + m[2] * points[n + code]) + center\n"
             " * An encoder takes the nearest point, and of the levels of the gain the one with the least error, "
             "weighed by "
             "ropebits_k_weights: ropebits_plan.h of ropebits has\n"
             " * it in full. */\n"},
    {.since = PLAN_VERSION_LEVELS,
     .text = "/* A block of more than 10 bits has a level for each dim: with f the number from bits - 8 to 8 that "
             "makes m[0]^2 4^-f + m[2]^2 4^-(bits - f) least (the lowest of equals),\n"
             " * a = code & ((1 << f) - 1) and b = code >> f, points[code] above is ropebits_levels[f][a], and "
             "points[n + code] is ropebits_levels[bits - f][b]. */\n"},
    {0},
};

const plan_family block_codebook_form = {
    .since = SINCE,
    .version = version_of,
    .members = block_codebook_json_members,
    .to_json = block_codebook_to_json,
    .from_json = block_codebook_from_json,
    .columns = columns,
    .n_columns = RB_COUNT(columns),
    .add_codebooks = add_codebooks,
    .summary = "quantize before RoPE, one code for both dims of a block, no norm",
    .bits_note = "of groups the bits of a dim; of block-codebook those of both dims together, A is 10, G 16",
    .bits_note_html = "Bits of groups are those of a dim, bits of block-codebook those of both dims together, "
                      "coloured as half of them.",
    .describe = describe,
    .header_comments = header_comments,
};
