/* The row of family trellis in the table of plan/plan_family.h: its columns, of keys and of values, its tables, its
 * words. Its part of plan.json: plan/trellis_json.c. */
#include "plan/trellis_form.h"

#include <stdio.h>
#include <string.h>

enum { SINCE = PLAN_VERSION_EXACT };

/* ---- columns --------------------------------------------------------------------------------- */

/* Getters of the same numbers of a key head and of a value head. */
#define GETTER_OF(name, list, ...)                                 \
    static int name(plan_number *out, const bit_plan *plan, int h) \
    {                                                              \
        const plan_trellis *own = &plan->list[h].trellis;          \
        __VA_ARGS__                                                \
    }
#define GETTER(name, ...)                          \
    GETTER_OF(take_key_##name, heads, __VA_ARGS__) \
    GETTER_OF(take_value_##name, value_heads, __VA_ARGS__)
GETTER(gain_bits, out[0].whole = own->gain_bits; return 1;)
GETTER(gain_zero, out[0].whole = own->gain_zero; return 1;)
GETTER(widths, for (int i = 0; i < own->n_dims; i++) out[i].whole = own->widths[i]; return own->n_dims;)
GETTER(weights, return plan_numbers_put(out, own->weights, own->n_dims);)
#undef GETTER
#undef GETTER_OF

static const float *key_basis(const bit_plan *plan, int h) { return plan->heads[h].trellis.basis; }
static const float *value_basis(const bit_plan *plan, int h) { return plan->value_heads[h].trellis.basis; }

#define KEYS   .family = FAMILY_TRELLIS, .since = SINCE, .only_with_family = true
#define VALUES .family = FAMILY_TRELLIS, .since = SINCE, .of_values = true
static const plan_column columns[] = {
    {KEYS, .extent = COLUMN_OF_HEAD, .type = COLUMN_U8, .take = take_key_gain_bits,
     .place = {[FORM_HEADER] = 16, [FORM_TENSORS] = 51, [FORM_RBP] = 19}, .header_name = "ropebits_k_trellis_gain_bits",
     .tensor_name = "k_trellis_gain_bits"},
    {KEYS, .extent = COLUMN_OF_HEAD, .type = COLUMN_U8, .take = take_key_gain_zero,
     .place = {[FORM_HEADER] = 17, [FORM_TENSORS] = 52, [FORM_RBP] = 20}, .header_name = "ropebits_k_trellis_gain_zero",
     .tensor_name = "k_trellis_gain_zero"},
    {KEYS, .extent = COLUMN_OF_DIM, .type = COLUMN_U8, .take = take_key_widths,
     .place = {[FORM_HEADER] = 18, [FORM_TENSORS] = 53, [FORM_RBP] = 21}, .header_name = "ropebits_k_trellis_widths",
     .tensor_name = "k_trellis_widths"},
    {KEYS, .extent = COLUMN_OF_DIM, .type = COLUMN_F16, .take = take_key_weights,
     .place = {[FORM_HEADER] = 19, [FORM_TENSORS] = 54, [FORM_RBP] = 22}, .header_name = "ropebits_k_trellis_weights",
     .tensor_name = "k_trellis_weights"},
    {KEYS, .extent = COLUMN_OF_MATRIX, .type = COLUMN_F16, .floats = key_basis,
     .place = {[FORM_HEADER] = 20, [FORM_TENSORS] = 55, [FORM_RBP] = 23}, .header_name = "ropebits_k_trellis_basis",
     .tensor_name = "k_trellis_basis"},
    {VALUES, .extent = COLUMN_OF_HEAD, .type = COLUMN_U8, .take = take_value_gain_bits,
     .place = {[FORM_HEADER] = 21, [FORM_TENSORS] = 61, [FORM_RBP] = 24}, .header_name = "ropebits_v_trellis_gain_bits",
     .tensor_name = "v_trellis_gain_bits"},
    {VALUES, .extent = COLUMN_OF_HEAD, .type = COLUMN_U8, .take = take_value_gain_zero,
     .place = {[FORM_HEADER] = 22, [FORM_TENSORS] = 62, [FORM_RBP] = 25}, .header_name = "ropebits_v_trellis_gain_zero",
     .tensor_name = "v_trellis_gain_zero"},
    {VALUES, .extent = COLUMN_OF_DIM, .type = COLUMN_U8, .take = take_value_widths,
     .place = {[FORM_HEADER] = 23, [FORM_TENSORS] = 63, [FORM_RBP] = 26}, .header_name = "ropebits_v_trellis_widths",
     .tensor_name = "v_trellis_widths"},
    {VALUES, .extent = COLUMN_OF_DIM, .type = COLUMN_F16, .take = take_value_weights,
     .place = {[FORM_HEADER] = 24, [FORM_TENSORS] = 64, [FORM_RBP] = 27}, .header_name = "ropebits_v_trellis_weights",
     .tensor_name = "v_trellis_weights"},
    {VALUES, .extent = COLUMN_OF_MATRIX, .type = COLUMN_F16, .floats = value_basis,
     .place = {[FORM_HEADER] = 26, [FORM_TENSORS] = 66, [FORM_RBP] = 28}, .header_name = "ropebits_v_trellis_basis",
     .tensor_name = "v_trellis_basis"},
};
#undef KEYS
#undef VALUES

/* ---- tables ---------------------------------------------------------------------------------- */

static rb_status add_tables(plan_codebooks *out, const plan_head *head, const model_facts *model, rb_error *err)
{
    (void)err;
    for (int i = 0; i < model->head_dim; i++)
        if (head->trellis.widths[i] > 0) out->has_trellis[head->trellis.widths[i]] = true;
    return RB_OK;
}

/* ---- words ----------------------------------------------------------------------------------- */

static int coordinate_widths(uint8_t *out, const plan_head *head)
{
    memcpy(out, head->trellis.widths, (size_t)head->trellis.n_dims);
    return head->trellis.n_dims;
}

static void describe(char *out, size_t size, const plan_head *head)
{
    snprintf(out, size, "trellis, %d coordinates, %d bits of gain", plan_trellis_n_coded(&head->trellis),
             head->trellis.gain_bits);
}

static const plan_comment header_comments[] = {
    {.since = SINCE,
     .only_with_family = true,
     .text =
         "/* Heads whose ropebits_k_family is 2 have no groups: they are of trellis. So are values where there is "
         "ropebits_v_trellis_widths; then read v for k,\n"
         " * ROPEBITS_VALUE_DIM for ROPEBITS_HEAD_DIM. With w = ropebits_k_trellis_widths[layer][kv_head], n the "
         "number "
         "of coordinates that have bits, which come first, a\n"
         " * vector's stream is w[i] bits of every coordinate i in order, each least significant bit first, and then "
         "ropebits_k_trellis_gain_bits bits of the gain's\n"
         " * code l, padded to a byte. Coordinate i is y[i] = ropebits_trellis[w[i]][the 8 bits of the stream that end "
         "with its own, the first of them the lowest]. With\n"
         " * g = 2^((l - ropebits_k_trellis_gain_zero) / 2) as a float and B[i] row i of ropebits_k_trellis_basis, "
         "whose numbers are fp16 words, the vector is\n"
         " *   ropebits_k_center + g * (sum of y[i] B[i] over i < n)\n"
         " * ropebits_plan.h of ropebits says how an encoder finds the bits. */\n"},
    {0},
};

const plan_family trellis_form = {
    .since = SINCE,
    .members = trellis_json_members,
    .to_json = trellis_to_json,
    .from_json = trellis_from_json,
    .columns = columns,
    .n_columns = RB_COUNT(columns),
    .add_codebooks = add_tables,
    .coordinate_widths = coordinate_widths,
    .summary = "quantize before RoPE, in a basis of the head's own, by a bit-shift trellis, no norm",
    .bits_note = "of trellis those of every coordinate in order, in place of blocks",
    .bits_note_html = "Bits of trellis are those of every coordinate in order, in place of blocks.",
    .describe = describe,
    .header_comments = header_comments,
};
