/* Where things are in a capture, as writer and reader agree. Nobody else includes it. */
#ifndef RB_CALIBRATE_CAPTURE_LAYOUT_H
#define RB_CALIBRATE_CAPTURE_LAYOUT_H

#include "calibrate/capture_file.h"

#define CAPTURE_POINT "pre-rope"

enum {
    CAPTURE_MAX_TOKENS = 1 << 26,  /* tokens of a set: 256 MiB of ids, and far more keys than anyone stores */
    CAPTURE_MAX_OPTIONS = 1 << 16, /* characters */
    CAPTURE_MAX_PATH = 64
};
#define CAPTURE_MAX_COUNTED (INT64_C(1) << 40) /* tokens of merged captures, stored or not */

/* "calibration/layer_003/k"; name "" gives the group. */
typedef struct capture_path {
    char text[CAPTURE_MAX_PATH];
} capture_path;
capture_path capture_path_of(capture_set set, int layer, const char *name);
capture_path capture_tokens_path(capture_set set);

#define CAPTURE_OUTPUT          "output"
#define CAPTURE_WINDOW          CAPTURE_OUTPUT "/window"
#define CAPTURE_RESIDUAL_ENERGY CAPTURE_OUTPUT "/residual_energy"
capture_path capture_output_metric_path(int layer);                             /* "output/layer_003" */
void capture_output_metric_dims(const capture_header *header, int64_t dims[3]); /* [n_kv_heads][n][n] */

const char *capture_value_type_name(rb_h5_type type); /* "f16", "f32" */

/* The vectors of a layer: q, k and, on request, v. */
typedef enum capture_vectors { CAPTURE_Q, CAPTURE_K, CAPTURE_V, CAPTURE_N_VECTORS } capture_vectors;
const char *capture_vectors_name(capture_vectors vectors);
int capture_vectors_dim(const capture_header *header, capture_vectors vectors); /* head_dim, of values value_dim */
/* [heads][n_tokens][head_dim or value_dim]. */
void capture_vectors_dims(const capture_header *header, capture_set set, capture_vectors vectors, int64_t dims[3]);
int capture_n_vectors(const capture_header *header); /* 2, or 3 with values: q, k, v in the order of the enum */

/* The three tables of a layer's statistics: name, width, and where they are in the struct. */
typedef struct capture_table {
    const char *name;
    int64_t dims[2]; /* [n_kv_heads][n_blocks or head_dim] */
    double *values;
} capture_table;
enum { CAPTURE_N_TABLES = 3 };
/* statistics NULL: no values. */
void capture_tables(capture_table tables[CAPTURE_N_TABLES], const model_facts *model,
                    const block_statistics *statistics);

/* What a set has of a layer: its vectors, then its tables, in the order in which they are written. */
typedef struct capture_dataset {
    capture_path path;
    rb_h5_type type;
    int rank;
    int64_t dims[3];
} capture_dataset;
int capture_n_datasets(const capture_header *header);
capture_dataset capture_dataset_at(const capture_header *header, capture_set set, int layer, int index);

/* RB_ENONFINITE: "FILE: calibration layer 3 kv_head 1 token 17 dim 5: key 70000 does not fit f16 ..." */
rb_status capture_fail_unfit(rb_error *err, const char *path, const capture_header *header, capture_set set, int layer,
                             capture_vectors vectors, double value, int64_t index);

#endif
