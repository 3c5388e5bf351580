/* The numbers of a plan, each once: a column is one number of every head, group, block or dim. plan.h, plan.safetensors
 * and plan.rbp are made from one table of columns, so a new number of a family is a row here and its reader.
 *
 * Rows of one family stand in its file (plan/groups_form.c, plan/block_codebook_form.c); those of all heads stand in
 * plan/plan_columns.c. The forms grew one by one and order the columns differently, so a row says its place in each. */
#ifndef RB_PLAN_PLAN_COLUMNS_H
#define RB_PLAN_PLAN_COLUMNS_H

#include <stdio.h>

#include "plan/bit_plan.h"

/* What a column has one number of. POSITION is a dim that is coded in a group, in the order of the codes, MATRIX a pair
 * of dims, row by row. Dims of a column of values are those of a value. */
typedef enum column_extent {
    COLUMN_OF_HEAD,
    COLUMN_OF_GROUP,
    COLUMN_OF_POSITION,
    COLUMN_OF_BLOCK,
    COLUMN_OF_DIM,
    COLUMN_OF_MATRIX
} column_extent;

/* F16 is a float that fp16 holds. */
typedef enum column_type { COLUMN_U8, COLUMN_I8, COLUMN_U16, COLUMN_U64, COLUMN_F16 } column_type;

typedef enum plan_form { FORM_HEADER, FORM_TENSORS, FORM_RBP, FORM_N_KINDS } plan_form;

/* How plan.rbp stores a column: for the heads that have it, with a flag for every head before, or for every head. */
typedef enum column_storing { STORED_WHERE_IT_IS, STORED_AFTER_FLAGS, STORED_OF_EVERY_HEAD } column_storing;

typedef union plan_number {
    int64_t whole; /* the bits of a U64 */
    float real;    /* of F16 */
} plan_number;

enum {
    COLUMN_OF_ALL_FAMILIES = -1,
    PLAN_COLUMN_MAX_SIZE = 3,
    PLAN_COLUMN_ROOM = PLAN_COLUMN_MAX_SIZE * RB_MAX_BLOCKS, /* the most numbers of a head */
    PLAN_COLUMNS_ROOM = 64                                   /* the most columns of a form */
};

typedef struct plan_column {
    int family;            /* codec_family, or COLUMN_OF_ALL_FAMILIES */
    bool of_values;        /* of value heads: a plan without such has no such column */
    bool only_with_family; /* a plan without heads of the family has no such column */
    int since;             /* the first version of the forms that has it */
    column_extent extent;
    column_type type;
    int size; /* numbers of a head, group, block or dim, to PLAN_COLUMN_MAX_SIZE; 0: one */
    /* The numbers of head h, [PLAN_COLUMN_ROOM]; returns how many, 0: the head has none. Heads of other families are
     * not asked. */
    int (*take)(plan_number *out, const bit_plan *plan, int h);
    /* In place of take, of a MATRIX of type F16: the numbers, which are too many to copy. */
    const float *(*floats)(const bit_plan *plan, int h);
    /* The order within a form; 0: not in that form. Tensors whose places have the same tens are one section, which
     * stands layer by layer. */
    int place[FORM_N_KINDS];
    const char *header_name, *tensor_name;
    double otherwise; /* what plan.h, plan.safetensors and STORED_OF_EVERY_HEAD say where a head has none */
    int no_group;     /* what plan.safetensors says of dims in no group */
    column_storing storing;
    /* plan.h only: what stands before the declaration, and how an item is written that is no number. */
    const char *header_comment, *header_type, *header_otherwise;
    void (*write_item)(FILE *out, const plan_head *head, int item);
} plan_column;

/* The columns of a form in a version, in order, [PLAN_COLUMNS_ROOM]; returns how many. */
int plan_columns_list(const plan_column **out, plan_form form, int version);
/* Those of them that the form of a plan has. */
int plan_columns_of(const plan_column **out, plan_form form, const bit_plan *plan);
/* The numbers of head h, as column->take, for any head. */
int plan_column_take(const plan_column *column, plan_number *out, const bit_plan *plan, int h);
/* Of a MATRIX; NULL: the head has none. */
const float *plan_column_floats(const plan_column *column, const bit_plan *plan, int h);
int plan_column_dims(const plan_column *column, const model_facts *model); /* of the vectors it is about */
static inline int plan_column_size(const plan_column *column) { return column->size ? column->size : 1; }

/* For getters: puts n floats, none where values is NULL; returns how many. */
int plan_numbers_put(plan_number *out, const float *values, int n);

/* All dims of head h in the order of its codes, [head_dim], and the group of each, -1 for those of none, which come
 * last, ascending. Returns how many are in groups. */
int plan_coding_order(int *dims, int *groups, const bit_plan *plan, int h);

#endif
