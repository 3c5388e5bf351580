/* The captures that are merged: whether they belong together, and in which order.
 *
 * They are either all shards of one run, each once, in the order of their numbers; or captures of one model from
 * different texts. Those go by the SHA-256 of their calibration tokens, then of their test tokens, a capture that ends
 * in a shorter sequence after those that do not. So the order on the command line does not matter. */
#ifndef RB_CALIBRATE_MERGE_PARTS_H
#define RB_CALIBRATE_MERGE_PARTS_H

#include "calibrate/capture_file.h"
#include "calibrate/shard.h"
#include "core/options.h"

typedef struct merge_part {
    capture_file *file;
    shard part;     /* count 0: no shard */
    cJSON *options; /* that the capture records, without "shard" */
} merge_part;

typedef struct merge_parts {
    int n;
    merge_part *at; /* in the order above */
    bool are_shards;
} merge_parts;

/* Opens all of them. Fails with RB_EMISMATCH where they do not belong together: the model, what is stored, context,
 * beginning of text; of shards the options, the number of shards, the texts' tokens, one that is there twice or not at
 * all; of others the same texts twice. The message names the files and both values. Free on failure too. */
rb_status merge_parts_open(merge_parts *out, const rb_string_list *paths, rb_error *err);
void merge_parts_free(merge_parts *parts);

#endif
