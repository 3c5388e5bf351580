/* The table of columns: see plan/plan_columns.h. */
#include "plan/plan_columns.h"

#include <assert.h>

#include "plan/plan_family.h"

/* ---- columns of all heads -------------------------------------------------------------------- */

static int take_bits(plan_number *out, const bit_plan *plan, int h)
{
    const int n_blocks = model_n_blocks(&plan->model);
    uint8_t bits[RB_MAX_BLOCKS];
    plan_head_bits(&plan->heads[h], bits, n_blocks);
    for (int i = 0; i < n_blocks; i++) out[i].whole = bits[i];
    return n_blocks;
}

static int take_permutation(plan_number *out, const bit_plan *plan, int h)
{
    int dims[RB_MAX_HEAD_DIM], groups[RB_MAX_HEAD_DIM];
    plan_coding_order(dims, groups, plan, h);
    for (int i = 0; i < plan->model.head_dim; i++) out[i].whole = dims[i];
    return plan->model.head_dim;
}

static int take_value_width(plan_number *out, const bit_plan *plan, int h)
{
    out[0].whole = plan->value_widths[h];
    return 1;
}

static int take_center(plan_number *out, const bit_plan *plan, int h)
{
    return plan_numbers_put(out, plan->heads[h].center, plan->model.head_dim);
}

static int take_family(plan_number *out, const bit_plan *plan, int h)
{
    out[0].whole = (int64_t)plan->heads[h].family;
    return 1;
}

static int take_value_center(plan_number *out, const bit_plan *plan, int h)
{
    return plan_numbers_put(out, plan->value_heads[h].center, plan->model.value_dim);
}

static const plan_column shared_columns[] = {
    {.family = COLUMN_OF_ALL_FAMILIES,
     .since = 1,
     .extent = COLUMN_OF_BLOCK,
     .type = COLUMN_U8,
     .take = take_bits,
     .place = {[FORM_HEADER] = 1, [FORM_TENSORS] = 31},
     .header_comment = "/* width of every RoPE block */\n",
     .header_name = "ropebits_k_bits",
     .tensor_name = "k_bits"},
    {.family = COLUMN_OF_ALL_FAMILIES,
     .since = 1,
     .extent = COLUMN_OF_DIM,
     .type = COLUMN_U16,
     .take = take_permutation,
     .place = {[FORM_TENSORS] = 32},
     .tensor_name = "k_permutation"},
    /* plan.rbp has it in a section of its own, once where it is one for all heads. */
    {.family = COLUMN_OF_ALL_FAMILIES,
     .since = 2,
     .extent = COLUMN_OF_HEAD,
     .type = COLUMN_U8,
     .take = take_value_width,
     .place = {[FORM_HEADER] = 5, [FORM_TENSORS] = 27},
     .header_name = "ropebits_v_width",
     .tensor_name = "v_widths"},
    {.family = COLUMN_OF_ALL_FAMILIES,
     .since = 2,
     .extent = COLUMN_OF_DIM,
     .type = COLUMN_F16,
     .take = take_center,
     .place = {[FORM_HEADER] = 11, [FORM_TENSORS] = 22, [FORM_RBP] = 14},
     .header_comment = "/* 0: none */\n",
     .header_name = "ropebits_k_center",
     .tensor_name = "k_center",
     .storing = STORED_AFTER_FLAGS},
    {.family = COLUMN_OF_ALL_FAMILIES,
     .since = 3,
     .extent = COLUMN_OF_HEAD,
     .type = COLUMN_U8,
     .take = take_family,
     .place = {[FORM_HEADER] = 12, [FORM_TENSORS] = 41, [FORM_RBP] = 1},
     .header_name = "ropebits_k_family",
     .tensor_name = "k_families"},
    {.family = COLUMN_OF_ALL_FAMILIES,
     .since = PLAN_VERSION_EXACT,
     .of_values = true,
     .extent = COLUMN_OF_DIM,
     .type = COLUMN_F16,
     .take = take_value_center,
     .place = {[FORM_HEADER] = 25, [FORM_TENSORS] = 65, [FORM_RBP] = 29},
     .header_comment = "/* 0: none */\n",
     .header_name = "ropebits_v_center",
     .tensor_name = "v_center",
     .storing = STORED_AFTER_FLAGS},
};

/* ---- the table ------------------------------------------------------------------------------- */

/* Keeps the list in the form's order. */
static void insert(const plan_column **list, int n, const plan_column *column, plan_form form)
{
    assert(n < PLAN_COLUMNS_ROOM);
    for (; n > 0 && list[n - 1]->place[form] > column->place[form]; n--) list[n] = list[n - 1];
    list[n] = column;
}

static int insert_all(const plan_column **list, int n, const plan_column *columns, int n_columns, plan_form form,
                      int version)
{
    for (int i = 0; i < n_columns; i++)
        if (columns[i].place[form] > 0 && columns[i].since <= version) insert(list, n++, &columns[i], form);
    return n;
}

int plan_columns_list(const plan_column **out, plan_form form, int version)
{
    int n = insert_all(out, 0, shared_columns, RB_COUNT(shared_columns), form, version);
    for (int f = 0; f < FAMILY_N_KINDS; f++)
        n = insert_all(out, n, plan_families[f]->columns, plan_families[f]->n_columns, form, version);
    return n;
}

static bool is_in_plan(const plan_column *column, const bit_plan *plan)
{
    if (column->of_values) return plan->value_heads != NULL;
    return !column->only_with_family || bit_plan_has_family(plan, (codec_family)column->family);
}

int plan_columns_of(const plan_column **out, plan_form form, const bit_plan *plan)
{
    const plan_column *all[PLAN_COLUMNS_ROOM];
    const int n_all = plan_columns_list(all, form, plan_version(plan));
    int n = 0;
    for (int i = 0; i < n_all; i++)
        if (is_in_plan(all[i], plan)) out[n++] = all[i];
    return n;
}

/* Whether head h has numbers of the column at all. */
static bool is_asked(const plan_column *column, const bit_plan *plan, int h)
{
    const plan_head *heads = column->of_values ? plan->value_heads : plan->heads;
    return heads && (column->family == COLUMN_OF_ALL_FAMILIES || column->family == (int)heads[h].family);
}

int plan_column_take(const plan_column *column, plan_number *out, const bit_plan *plan, int h)
{
    return column->take && is_asked(column, plan, h) ? column->take(out, plan, h) : 0;
}

const float *plan_column_floats(const plan_column *column, const bit_plan *plan, int h)
{
    return is_asked(column, plan, h) ? column->floats(plan, h) : NULL;
}

int plan_column_dims(const plan_column *column, const model_facts *model)
{
    return column->of_values ? model->value_dim : model->head_dim;
}

int plan_numbers_put(plan_number *out, const float *values, int n)
{
    for (int i = 0; values && i < n; i++) out[i].real = values[i];
    return values ? n : 0;
}

int plan_coding_order(int *dims, int *groups, const bit_plan *plan, int h)
{
    const plan_family *family = plan_families[plan->heads[h].family];
    bool is_coded[RB_MAX_HEAD_DIM] = {false};
    const int n_coded = family->coding_order ? family->coding_order(dims, groups, &plan->heads[h], &plan->model) : 0;
    for (int i = 0; i < n_coded; i++) is_coded[dims[i]] = true;
    for (int dim = 0, at = n_coded; dim < plan->model.head_dim; dim++)
        if (!is_coded[dim]) {
            groups[at] = -1;
            dims[at++] = dim;
        }
    return n_coded;
}
