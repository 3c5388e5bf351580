/* What a BPE model is made of; shared by bpe.c, which encodes, and bpe_file.c, which reads. Nobody else includes it. */
#ifndef RB_MODEL_TOKENIZER_BPE_TABLES_H
#define RB_MODEL_TOKENIZER_BPE_TABLES_H

#include <stdbool.h>
#include <stdint.h>

#include "model/tokenizer/bpe.h"

typedef struct bpe_merge {
    uint64_t pair;  /* left id << 32 | right id; BPE_NO_PAIR: free */
    uint32_t rank;  /* place in the file, 0 first */
    int32_t merged; /* id of the two together */
} bpe_merge;

#define BPE_NO_PAIR UINT64_MAX

/* Characters below have two bytes at most, among them all byte-level symbols: their ids are looked up by number. */
enum { BPE_N_DIRECT = 0x800 };

struct bpe {
    vocabulary *vocabulary;
    int32_t direct_ids[BPE_N_DIRECT]; /* of characters, -1: no token */
    int32_t fallback_ids[256];        /* of "<0x00>" .. "<0xFF>", -1: no token */
    bool is_byte_level, has_byte_fallback, fuses_unk;
    char *unk_token;     /* owned; NULL: none */
    int32_t unk_id;      /* -1: unk_token is not in the vocabulary */
    bpe_merge *merges;   /* hash table, open addressing, at most half full */
    unsigned merge_bits; /* log2 of its size */
    bool ignore_merges;  /* a piece that is a token is that token, whatever the merges would make of it */
};

static inline uint64_t bpe_pair(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The slot of a pair, or the free one where it belongs. Fibonacci hashing. */
static inline bpe_merge *bpe_merge_slot(const bpe *b, uint64_t pair)
{
    const size_t mask = ((size_t)1 << b->merge_bits) - 1;
    size_t slot = (size_t)((pair * 0x9e3779b97f4a7c15u) >> (64 - b->merge_bits));
    while (b->merges[slot].pair != pair && b->merges[slot].pair != BPE_NO_PAIR) slot = (slot + 1) & mask;
    return &b->merges[slot];
}

static inline const bpe_merge *bpe_find_merge(const bpe *b, int32_t left, int32_t right)
{
    const bpe_merge *merge = bpe_merge_slot(b, bpe_pair(left, right));
    return merge->pair == BPE_NO_PAIR ? NULL : merge;
}

#endif
