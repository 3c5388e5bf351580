/* The "model" of tokenizer.json: byte-level byte pair encoding.
 *
 * A piece starts as its bytes, one token each. The adjacent pair with the lowest merge rank becomes one token, the
 * leftmost of equals first, until no pair has a merge. A heap of candidate pairs and a linked list of tokens make that
 * O(n log n) for n bytes. Sources: Sennrich et al. 2016 (arXiv 1508.07909); the order is that of
 * https://github.com/huggingface/tokenizers (models/bpe). */
#ifndef RB_MODEL_TOKENIZER_BPE_H
#define RB_MODEL_TOKENIZER_BPE_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "core/status.h"
#include "model/tokenizer/id_list.h"
#include "model/tokenizer/vocabulary.h"

typedef struct bpe bpe;                 /* shared by threads */
typedef struct bpe_scratch bpe_scratch; /* one per thread; grows to the longest piece */

/* Fails with RB_EUNSUPPORTED on a model or setting other than plain byte-level BPE, with RB_EFORMAT on a vocabulary or
 * merges that contradict each other: no merges, a merge whose parts or result have no id. */
rb_status bpe_open(bpe **out, const cJSON *model, rb_error *err);
void bpe_close(bpe *bpe);
const vocabulary *bpe_vocabulary(const bpe *bpe);

rb_status bpe_scratch_new(bpe_scratch **out, rb_error *err);
void bpe_scratch_free(bpe_scratch *scratch);

/* Appends the ids of one piece of the pre-tokenizer (any bytes, not empty). Fails on a byte that has no token. */
rb_status bpe_encode(const bpe *bpe, bpe_scratch *scratch, const char *piece, size_t length, id_list *ids,
                     rb_error *err);

#endif
