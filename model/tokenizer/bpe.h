/* The "model" of tokenizer.json: byte pair encoding.
 *
 * A piece starts as its characters, one token each; with byte-level symbols (byte_level.h) they stand for its bytes. A
 * character without token becomes the tokens of its UTF-8 bytes, "<0x0A>", with byte_fallback, else unk_token; with
 * fuse_unk neighbours share one. The adjacent pair with the lowest merge rank becomes one token, the leftmost of equals
 * first, until no pair has a merge. A heap of candidate pairs and a linked list of tokens make that O(n log n) for n
 * bytes. Sources: Sennrich et al. 2016 (arXiv 1508.07909); the order is that of
 * https://github.com/huggingface/tokenizers (models/bpe). */
#ifndef RB_MODEL_TOKENIZER_BPE_H
#define RB_MODEL_TOKENIZER_BPE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/status.h"
#include "model/tokenizer/id_list.h"
#include "model/tokenizer/vocabulary.h"

typedef struct bpe bpe;                 /* shared by threads */
typedef struct bpe_scratch bpe_scratch; /* one per thread; grows to the longest piece */

/* A model without type is BPE where it has a vocabulary and merges. Fails with RB_EUNSUPPORTED on another model or
 * setting, with RB_EFORMAT on a vocabulary or merges that contradict each other: no merges, a merge whose parts or
 * result have no id. is_byte_level: pieces are in byte-level symbols. */
rb_status bpe_open(bpe **out, const cJSON *model, bool is_byte_level, rb_error *err);
void bpe_close(bpe *bpe);
const vocabulary *bpe_vocabulary(const bpe *bpe);
bool bpe_has_byte_fallback(const bpe *bpe);

rb_status bpe_scratch_new(bpe_scratch **out, rb_error *err);
void bpe_scratch_free(bpe_scratch *scratch);

/* What was left out of the pieces because no token stands for it and there is no unk_token. */
typedef struct bpe_dropped {
    int64_t n;      /* characters; with byte-level symbols, bytes */
    char first[16]; /* "byte 0x1d", "U+00E9" */
} bpe_dropped;
const bpe_dropped *bpe_scratch_dropped(const bpe_scratch *scratch);

/* Appends the ids of one piece of the pre-tokenizer (valid UTF-8, not empty). Fails where unk_token is needed and is
 * not in the vocabulary. */
rb_status bpe_encode(const bpe *bpe, bpe_scratch *scratch, const char *piece, size_t length, id_list *ids,
                     rb_error *err);

#endif
