/* What the forms of a plan need of a codec family: one row of functions and words a family. This table is made from
 * RB_CODEC_FAMILIES (kernels/reference/codec_family.h); nothing else in plan/ and export/ asks for a family. The rows
 * are in plan/groups_form.c, plan/block_codebook_form.c and plan/trellis_form.c. */
#ifndef RB_PLAN_PLAN_FAMILY_H
#define RB_PLAN_PLAN_FAMILY_H

#include <cjson/cJSON.h>

#include "plan/bit_plan.h"
#include "plan/library/plan_rbp_format.h"
#include "plan/library/ropebits_plan.h"
#include "plan/plan_codebooks.h"
#include "plan/plan_columns.h"

/* Versions of plan.json and plan.rbp, which count alike: those of plan/library/plan_rbp_format.h. A plan has the lowest
 * that holds it, so that older readers take what they know: PUBLISHED where bit_plan_is_published_form, else GENERAL,
 * or the version that what its newest head holds came with; but MODEL at least where plan_model_is_new, and
 * EXACT where bit_plan_keeps_exact or values have heads of their own. */
enum {
    PLAN_VERSION_PUBLISHED = PLAN_RBP_PUBLISHED_VERSION,
    PLAN_VERSION_GENERAL = PLAN_RBP_GENERAL_VERSION,
    PLAN_VERSION_POINTS = PLAN_RBP_POINTS_VERSION, /* the first with codebooks of points */
    PLAN_VERSION_MODEL = PLAN_RBP_MODEL_VERSION,   /* the first that knows every model */
    PLAN_VERSION_EXACT = PLAN_RBP_EXACT_VERSION,   /* the first with tokens that stay fp16, and with family trellis */
    PLAN_VERSION_LEVELS = PLAN_RBP_LEVELS_VERSION, /* the first with blocks of block-codebook that have levels */
    PLAN_VERSION_NEWEST = ROPEBITS_PLAN_FORMAT_VERSION
};

/* "what COUNT of TOTAL heads: what it means", for the heads that have it. */
typedef struct plan_word {
    const char *label; /* "norms" */
    const char *what;  /* "log8, one byte each, in " */
    const char *means; /* "heads", "heads: apply them" */
    bool (*is_in)(const plan_head *head);
} plan_word;

/* A comment of plan.h, for plans of this version and later. */
typedef struct plan_comment {
    int since;
    const char *text;
    bool only_with_family; /* nothing for plans without heads of the family, of keys or values */
} plan_comment;

typedef struct plan_family {
    int since; /* the first version that has heads of it; those of version 1 go without a name in plan.json */
    /* The first version that holds this head, and what of it is new to that version: the end of "..., expected none in
     * version 4". NULL: `since` of them all. */
    int (*version)(const char **what, const plan_head *head, int n_blocks);

    /* plan.json: its members of a head, all of them but the shared ones. Reading needs no check but that nothing was
     * rounded: bit_plan_check follows. */
    const char *const *members; /* NULL-terminated; a head has none that only other families have */
    rb_status (*to_json)(cJSON *json, const plan_head *head, const model_facts *model, rb_error *err);
    rb_status (*from_json)(plan_head *out, const cJSON *json, const model_facts *model, const char *where,
                           rb_error *err); /* the centre is there already */

    /* plan.rbp */
    rb_status (*check_storable)(const plan_head *head, const char *where, rb_error *err); /* NULL: all are */

    /* Numbers and tables of all forms. */
    const plan_column *columns;
    int n_columns;
    rb_status (*add_codebooks)(plan_codebooks *out, const plan_head *head, const model_facts *model, rb_error *err);
    /* The dims that are coded in groups, in the order of their codes, and their groups; returns how many. NULL: none */
    int (*coding_order)(int *dims, int *groups, const plan_head *head, const model_facts *model);
    const float *(*scales)(const plan_head *head); /* [n_blocks], or NULL: none. NULL: the family has no scales */

    /* Of a family whose codes belong to no block: the bits of each of its coordinates, [head_dim]; returns how many.
     * NULL: bits are of blocks. */
    int (*coordinate_widths)(uint8_t *out, const plan_head *head);

    /* Words for people. */
    const char *summary;        /* what it is, for a plan that has heads of it; NULL: nothing is said */
    const plan_word *words;     /* ends with a label NULL; NULL: none */
    const char *bits_note;      /* what the bits in a heat map are, a line of inspect; NULL: nothing is said */
    const char *bits_note_html; /* and a sentence of the report */
    void (*describe)(char *out, size_t size, const plan_head *head); /* "4 groups" */
    const char *header_types;                                        /* declarations of plan.h; NULL: none */
    const plan_comment *header_comments;                             /* ends with a text NULL */
} plan_family;

/* The rows, groups_form and so on, and the table of them. */
#define RB_FAMILY_DECLARATION(NAME, prefix, name) extern const plan_family prefix##_form;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION
extern const plan_family *const plan_families[FAMILY_N_KINDS];

static inline const plan_family *plan_family_of(const plan_head *head) { return plan_families[head->family]; }
/* The first version that holds a head, and what it has that is new to it; NULL: the family itself. */
int plan_family_version(const char **what, const plan_head *head, int n_blocks);
/* Its scales, [n_blocks]; NULL: none. */
const float *plan_family_scales(const plan_head *head);
/* The bits that a heat map shows of it, of its blocks or coordinates, [RB_MAX_HEAD_DIM]; returns how many. */
int plan_family_cells(uint8_t *out, const plan_head *head, int n_blocks);
/* Whether a reader of versions before PLAN_VERSION_MODEL would take the model for another: values of a size of their
 * own, another kind of RoPE, an attention factor, a local RoPE. */
bool plan_model_is_new(const model_facts *model);
/* The version of its forms. */
int plan_version(const bit_plan *plan);

#endif
