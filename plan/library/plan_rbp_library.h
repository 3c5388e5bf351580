/* What the files of libropebits_plan share: the plan in memory, the cursor over its payload, the sections. Nothing here
 * is for runtimes, and nothing leaves the shared library: names are hidden. Includes nothing of ropebits but the two
 * headers of the format. */
#ifndef RB_PLAN_LIBRARY_PLAN_RBP_LIBRARY_H
#define RB_PLAN_LIBRARY_PLAN_RBP_LIBRARY_H

#include <stdbool.h>

#include "plan/library/plan_rbp_format.h"
#include "plan/library/ropebits_plan.h"

enum { RBP_MAX_WIDTH = 8, RBP_MAX_HEAD_DIM = 1024, RBP_NAME_SIZE = 256, RBP_HEX_SIZE = 2 * PLAN_RBP_SHA256_SIZE + 1 };

typedef struct codebook_table {
    uint8_t kind, width;
    uint16_t dims;         /* PLAN_RBP_UNIT_DIMS: for any */
    const uint8_t *values; /* upper half, ascending: f64 for unit tables, else f32 */
} codebook_table;

/* Centroids for one (kind, width, dims), made from a table when a group first asks. */
typedef struct centroid_set {
    uint8_t kind, width;
    uint16_t dims;
    float *centroids;
} centroid_set;

/* Memory that the plan owns: columns of the file, that heads point into. */
typedef struct rbp_owned {
    struct rbp_owned *next;
    uint64_t at[];
} rbp_owned;

struct ropebits_plan {
    ropebits_plan_info info;
    char method[RBP_NAME_SIZE], tool_version[RBP_NAME_SIZE], model_type[RBP_NAME_SIZE];
    char config_sha256[RBP_HEX_SIZE], weights_sha256[RBP_HEX_SIZE], calibration_sha256[RBP_HEX_SIZE];
    double *inv_freq, *local_inv_freq;
    uint8_t *layer_is_local;
    uint32_t version; /* of the file */
    uint32_t n_heads, n_groups, n_blocks;
    ropebits_head *heads;       /* [n_heads] */
    ropebits_group *groups;     /* [n_groups] */
    uint16_t *dims;             /* [n_heads][head_dim] */
    uint8_t *bits;              /* [n_heads][n_blocks] */
    ropebits_head *value_heads; /* [n_heads], where values have such; else NULL */
    rbp_owned *owned;
    const float *points[ROPEBITS_MAX_POINT_BITS + 1];     /* by bits, [2][1 << bits]; NULL: not in the plan */
    const float *levels[ROPEBITS_MAX_LEVEL_BITS + 1];     /* by bits, [1 << bits]; NULL: not in the plan */
    const float *trellis[ROPEBITS_MAX_TRELLIS_WIDTH + 1]; /* by width, [256]; NULL: not in the plan */
    codebook_table *tables;                               /* gone, as value_widths, when the plan is read */
    uint32_t n_tables;
    uint8_t value_width;         /* of all heads, or PLAN_RBP_VALUE_HEADS, or PLAN_RBP_WIDTH_PER_HEAD and */
    const uint8_t *value_widths; /* [n_heads], in the payload */
    centroid_set *sets;
    uint32_t n_sets, max_sets;
};

/* Where reading is, and the one sentence if it failed. */
typedef struct rbp_reader {
    const uint8_t *at, *end;
    char *error;
    size_t error_size;
    bool failed;
} rbp_reader;

/* ROW(the end of a codec family's ROPEBITS_FAMILY_..., the part of its row's name), in the order of the numbers. */
#define RBP_FAMILIES(ROW)              ROW(GROUPS, groups) ROW(BLOCK_CODEBOOK, block_codebook) ROW(TRELLIS, trellis)
#define RBP_FAMILY_COUNT(NAME, prefix) +1
enum { RBP_N_FAMILIES = 0 RBP_FAMILIES(RBP_FAMILY_COUNT) };
#undef RBP_FAMILY_COUNT

/* What a codec family adds to the file: a row in the family's own file, plan_rbp_FAMILY.c. */
typedef struct rbp_family {
    const char *name;
    uint32_t since;                                           /* the first version that has it */
    void (*read_tables)(rbp_reader *r, ropebits_plan *plan);  /* after the codebooks; NULL: none */
    void (*read_columns)(rbp_reader *r, ropebits_plan *plan); /* of its heads; others are skipped or 0 */
} rbp_family;

/* A flag for every head, then the numbers of the heads whose flag is 1. */
typedef struct rbp_flagged_column {
    const char *name, *number_name; /* "scales", "scale" */
    bool is_above_0;
    bool (*may_have)(const ropebits_head *head); /* NULL: every head may */
    void (*set)(ropebits_head *head, const float *numbers);
} rbp_flagged_column;

#pragma GCC visibility push(hidden)

/* ---- cursor: after a failure everything does nothing and gives 0, NULL or false; the first sentence stays  */

bool rbp_fail(rbp_reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* false */
const uint8_t *rbp_take(rbp_reader *r, size_t n);
uint64_t rbp_take_uint(rbp_reader *r, int n_bytes);
uint64_t rbp_take_range(rbp_reader *r, int n_bytes, uint64_t min, uint64_t max, const char *what);
double rbp_take_f64(rbp_reader *r, const char *what); /* finite */
/* A column of n fp16 numbers as floats, which the plan owns; every one finite, and above 0 where asked. */
const float *rbp_take_f16_column(rbp_reader *r, ropebits_plan *plan, size_t n, bool above_0, const char *what);
const float *rbp_take_weights(rbp_reader *r, ropebits_plan *plan, size_t n); /* such a column, from the least weight */
/* Such a column as fp16 words. */
const uint16_t *rbp_take_f16_words(rbp_reader *r, ropebits_plan *plan, size_t n, const char *what);
void rbp_take_name(rbp_reader *r, char out[RBP_NAME_SIZE], const char *what);
void rbp_take_sha256(rbp_reader *r, char out[RBP_HEX_SIZE], const char *what);
void *rbp_allocate(rbp_reader *r, size_t n, size_t size);          /* zeroed */
void *rbp_own(rbp_reader *r, ropebits_plan *plan, size_t n_bytes); /* which the plan owns */

uint64_t rbp_little_endian(const uint8_t *bytes, int n);
double rbp_f64_at(const uint8_t *bytes);
float rbp_f32_at(const uint8_t *bytes);

/* ---- sections, in file order ----------------------------------------------------------------- */

void rbp_read_identity(rbp_reader *r, ropebits_plan *plan);
void rbp_read_geometry(rbp_reader *r, ropebits_plan *plan);
void rbp_read_exact(rbp_reader *r, ropebits_plan *plan);     /* from PLAN_RBP_EXACT_VERSION */
void rbp_read_codebooks(rbp_reader *r, ropebits_plan *plan); /* tables point into the payload */
void rbp_read_values(rbp_reader *r, ropebits_plan *plan);
void rbp_read_heads(rbp_reader *r, ropebits_plan *plan);
void rbp_read_value_heads(rbp_reader *r, ropebits_plan *plan); /* where values have such */
void rbp_compute_cost(ropebits_plan *plan);

/* ---- families -------------------------------------------------------------------------------- */

#define RBP_FAMILY_DECLARATION(NAME, prefix) extern const rbp_family rbp_family_##prefix;
RBP_FAMILIES(RBP_FAMILY_DECLARATION)
#undef RBP_FAMILY_DECLARATION
extern const rbp_family *const rbp_families[RBP_N_FAMILIES]; /* by ROPEBITS_FAMILY_... */
/* n numbers of each head of heads [n_heads] that has them, which it then points to. */
void rbp_take_flagged_column(rbp_reader *r, ropebits_plan *plan, ropebits_head *heads, uint32_t n,
                             const rbp_flagged_column *column);

/* The centroids of (kind, width, dims), [1 << width], of the plan; NULL after a failure. */
const float *rbp_centroids_for(rbp_reader *r, ropebits_plan *plan, uint8_t kind, uint8_t width, uint16_t dims);

#pragma GCC visibility pop

#endif
