/* What `ropebits inspect` shows of a file of each kind, in the terminal or as JSON. */
#ifndef RB_EXPORT_INSPECT_H
#define RB_EXPORT_INSPECT_H

#include "calibrate/block_statistics.h"
#include "core/json.h"

#define INSPECTION_SCHEMA "ropebits-inspection"
enum { INSPECTION_VERSION = 1 };

typedef struct inspect_request {
    const char *path;
    int64_t layer; /* only this one; -1: all */
    bool as_json, in_colour;
} inspect_request;

/* plan.rbp or plan.json; capture.h5; profile.h5. Each fails as the reader of its file, and with RB_EINVAL where it has
 * no such layer. */
rb_status inspect_plan(const inspect_request *request, rb_error *err);
rb_status inspect_capture(const inspect_request *request, rb_error *err);
rb_status inspect_profile(const inspect_request *request, rb_error *err);

/* ---- what they share: inspect_facts.c -------------------------------------------------------- */

rb_status inspect_check_layer(const inspect_request *request, const model_facts *model, rb_error *err);
bool inspect_wants_layer(const inspect_request *request, int layer);
/* RB_EIO where the file cannot be looked at. */
rb_status inspect_file_size(int64_t *bytes, const char *path, rb_error *err);

/* A line each: model, config.json, rope; and a text, where it has tokens. */
void inspect_print_model(const model_facts *model);
void inspect_print_text(const char *label, const text_facts *text);

/* Statistics of a layer, means over its KV heads. */
typedef struct inspect_layer {
    double query_energy, key_energy; /* mean |q|^2 and |k|^2 */
    double largest_block_share;      /* of the energy, of the block that has most */
    double mean_key_share;           /* of the keys' energy, what the mean key has: what centring takes off */
} inspect_layer;

inspect_layer inspect_layer_of(const block_statistics *statistics);
void inspect_print_layer_head(void);
void inspect_print_layer(int layer, const inspect_layer *statistics);
rb_status inspect_layer_to_json(cJSON *list, int layer, const inspect_layer *statistics, rb_error *err);

/* {"schema", "version", "kind", "size_bytes", "model", "texts": {"calibration", "test"}} for more members. */
rb_status inspect_begin_json(cJSON **out, const char *kind, const char *path, const model_facts *model,
                             const text_facts *calibration, const text_facts *test, rb_error *err);

#endif
