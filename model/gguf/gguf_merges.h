/* The merges of a sentencepiece BPE, which has scores in their place: every way to cut a piece into two pieces is a
 * merge, and the one of the best piece comes first. The order is that of transformers: score, then the longer left
 * half, then the longer right half, in characters; then the piece's id. */
#ifndef RB_MODEL_GGUF_MERGES_H
#define RB_MODEL_GGUF_MERGES_H

#include "model/gguf/gguf_vocabulary.h"

typedef struct gguf_merge {
    int32_t piece;
    int32_t left_bytes;                /* where it is cut */
    int32_t left_length, right_length; /* characters */
    float score;
} gguf_merge;

/* *merges is freed by free(). Time grows with the bytes of all pieces times the bytes of one. */
rb_status gguf_merges_of_scores(gguf_merge **merges, int64_t *n_merges, const gguf_vocabulary *vocabulary,
                                rb_error *err);

#endif
