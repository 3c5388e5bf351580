/* Looks at queries and keys on their way into a capture, for warnings: attention sinks, and layers whose energy sits in
 * few blocks. It sees the calibration text only, and costs little beside the pass. */
#ifndef RB_CALIBRATE_CAPTURE_WATCH_H
#define RB_CALIBRATE_CAPTURE_WATCH_H

#include "calibrate/block_statistics.h"
#include "calibrate/warnings.h"
#include "model/model_config.h"

/* A position is told as a sink in the layers where it takes this share of the attention or more; blocks are told as few
 * where one block in WATCH_BLOCKS holds this share of the energy or more, as a mean over KV heads. */
#define WATCH_SINK_SHARE  0.2
#define WATCH_BLOCK_SHARE 0.9
enum { WATCH_POSITIONS = 4, WATCH_BLOCKS = 16 };

typedef struct watched_layer {
    double sink[WATCH_POSITIONS]; /* mean attention on the first positions; 0 where it was not looked at */
    double block_share;           /* of the energy, in the strongest n_blocks / WATCH_BLOCKS blocks */
} watched_layer;

typedef struct capture_watch {
    const model_config *config;
    int64_t first_sequence; /* tokens of the first calibration sequence */
    watched_layer *layers;  /* [n_layers], owned */
} capture_watch;

rb_status capture_watch_create(capture_watch *watch, const model_config *config, int64_t first_sequence, rb_error *err);
void capture_watch_free(capture_watch *watch);

/* A layer of the calibration text as it enters RoPE: q [n_q_heads][n_tokens][head_dim], k [n_kv_heads][n_tokens]
 * [head_dim], f16 bits or f32, and its statistics. The attention is that of up to 8 query heads, evenly spread, and of
 * 32 queries in the second half of the first 512 tokens. Where the keys without RoPE are elsewhere (MLA), or the
 * sequence is shorter than 64 tokens, sinks are not looked for. */
rb_status capture_watch_layer(capture_watch *watch, int layer, const void *q, const void *k, bool is_f16,
                              int64_t n_tokens, const block_statistics *statistics, rb_error *err);

void capture_watch_warn(const capture_watch *watch, warning_list *list);

#endif
