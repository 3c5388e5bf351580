/* Which tokens of the parts a merged capture stores: whole sequences, so that positions and causality stay right.
 *
 * A capture is cut every `context` tokens, so only its last sequence may be shorter. A shorter one that does not come
 * last in the merged capture is left out. Of the others all are kept, or every K-th from the first on, or as many as
 * max_tokens allow, evenly spread. */
#ifndef RB_CALIBRATE_MERGE_SELECTION_H
#define RB_CALIBRATE_MERGE_SELECTION_H

#include "core/model_facts.h"

/* Tokens in a row of one part. */
typedef struct merge_segment {
    int part;
    int64_t first, n;
} merge_segment;

typedef struct merge_selection {
    merge_segment *segments; /* owned; in the order of the merged capture */
    int64_t n_segments, n_tokens;
    int64_t n_left_out; /* tokens of shorter sequences */
} merge_selection;

/* texts [n_parts]: one set's, of one context. max_tokens 0: all; every 1: all. Fails with RB_EINVAL where nothing is
 * left. Free on failure too. */
rb_status merge_selection_make(merge_selection *out, const text_facts *texts, int n_parts, int64_t max_tokens,
                               int64_t every, rb_error *err);
void merge_selection_free(merge_selection *selection);

#endif
