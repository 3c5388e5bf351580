/* Which tensors of an import hold which vectors, and whether their shapes agree.
 *
 * A name is a pattern with one %d or %0Nd for the layer. A tensor of a set is called "calibration." or "test." and
 * that, or that without a prefix where its files belong to one set only. */
#ifndef RB_CALIBRATE_IMPORT_LAYOUT_H
#define RB_CALIBRATE_IMPORT_LAYOUT_H

#include "calibrate/capture_layout.h"
#include "calibrate/import_run.h"
#include "calibrate/import_tensors.h"

typedef struct import_set {
    import_tensors *tensors; /* both sets may share them */
    import_tensor *vectors;  /* [n_layers][CAPTURE_N_VECTORS]; v only where has_values */
    import_tensor tokens;    /* tensor NULL: there are none */
    int64_t first, n_tokens; /* of the tensors' tokens */
} import_set;

typedef struct import_layout {
    import_tensors *own[CAPTURE_N_SETS]; /* opened; [CAPTURE_TEST] NULL without files of its own */
    import_set set[CAPTURE_N_SETS];
    int n_layers, n_q_heads, n_kv_heads, head_dim, value_dim;
    bool has_values;
} import_layout;

/* Opens the files and finds every vector. Fails with RB_EFORMAT on a layer that is missing, and with RB_EMISMATCH on a
 * shape that does not suit the others; tensor and file are named. Free on failure too. */
rb_status import_layout_open(import_layout *out, const rb_string_list *files, const import_options *options,
                             rb_error *err);
void import_layout_free(import_layout *layout);

/* A tensor outside the layers, such as "inv_freq", under its name or with the calibration set's prefix. */
bool import_layout_find(import_layout *layout, const char *name, import_tensor *out);

/* Tensors that nothing read, over all files, and the name of the first. */
int64_t import_layout_unread(const import_layout *layout, const char **first);

#endif
