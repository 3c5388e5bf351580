/* Merging bytes to tokens: see bpe.h. Reading the model from JSON is in bpe_file.c. */
#include "model/tokenizer/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/bpe_tables.h"
#include "model/tokenizer/byte_level.h"

/* A token of the piece, in a list by position of its first byte. */
typedef struct symbol {
    int32_t id;             /* -1: swallowed by the token on its left */
    int32_t previous, next; /* -1: none */
} symbol;

/* Two neighbours that have a merge. It is stale when either has changed since. */
typedef struct candidate {
    uint64_t order;      /* rank, then position of the left one: the heap's key */
    int32_t left, right; /* ids */
    int32_t merged;
} candidate;

struct bpe_scratch {
    symbol *symbols; /* [capacity] */
    /* [2 * capacity]: n - 1 pairs to begin with, and each of up to n - 1 merges removes one and adds two. */
    candidate *heap;
    size_t capacity, heap_size;
    char *mapped; /* [capacity * BYTE_LEVEL_MAX_SIZE], the piece in symbols */
};

rb_status bpe_scratch_new(bpe_scratch **out, rb_error *err)
{
    return rb_alloc(out, 1, sizeof **out, "BPE scratch", err);
}

static void scratch_release(bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    free(scratch->mapped);
    *scratch = (bpe_scratch){0};
}

void bpe_scratch_free(bpe_scratch *scratch)
{
    if (!scratch) return;
    scratch_release(scratch);
    free(scratch);
}

static rb_status scratch_reserve(bpe_scratch *scratch, size_t length, rb_error *err)
{
    rb_status st;
    if (length <= scratch->capacity) return RB_OK;
    if (length > INT32_MAX)
        return rb_fail(err, RB_EINVAL, "a piece of %zu bytes between two places to cut, at most %d can be merged",
                       length, INT32_MAX);
    scratch_release(scratch);
    const size_t capacity = length < 64 ? 64 : length + length / 2;
    RB_TRY(st, rb_alloc(&scratch->symbols, capacity, sizeof *scratch->symbols, "BPE symbols", err), done);
    RB_TRY(st, rb_alloc(&scratch->heap, 2 * capacity, sizeof *scratch->heap, "BPE heap", err), done);
    RB_TRY(st, rb_alloc(&scratch->mapped, capacity, BYTE_LEVEL_MAX_SIZE, "BPE symbols", err), done);
    scratch->capacity = capacity;
done:
    return st;
}

/* ---- the heap: smallest order first ---------------------------------------------------------- */

static void heap_push(bpe_scratch *scratch, candidate added)
{
    candidate *heap = scratch->heap;
    size_t at = scratch->heap_size++;
    while (at > 0 && added.order < heap[(at - 1) / 2].order) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = added;
}

static candidate heap_pop(bpe_scratch *scratch)
{
    candidate *heap = scratch->heap;
    const candidate top = heap[0], last = heap[--scratch->heap_size];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < scratch->heap_size) {
        if (child + 1 < scratch->heap_size && heap[child + 1].order < heap[child].order) child++;
        if (last.order <= heap[child].order) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* ---- merging --------------------------------------------------------------------------------- */

/* Where the symbol at `left` and its right neighbour have a merge, it becomes a candidate. */
static void offer(const bpe *b, bpe_scratch *scratch, int32_t left)
{
    const symbol *symbols = scratch->symbols;
    const int32_t right = symbols[left].next;
    if (right < 0) return;
    const bpe_merge *merge = bpe_find_merge(b, symbols[left].id, symbols[right].id);
    if (!merge) return;
    heap_push(scratch, (candidate){(uint64_t)merge->rank << 32 | (uint32_t)left, symbols[left].id, symbols[right].id,
                                   merge->merged});
}

static rb_status bytes_to_symbols(const bpe *b, symbol *symbols, const char *piece, int32_t length, rb_error *err)
{
    for (int32_t i = 0; i < length; i++) {
        const unsigned char byte = (unsigned char)piece[i];
        if (b->byte_ids[byte] < 0)
            return rb_fail(err, RB_EFORMAT, "the vocabulary has no token for byte 0x%02x, which the text holds", byte);
        symbols[i] = (symbol){b->byte_ids[byte], i - 1, i + 1 < length ? i + 1 : -1};
    }
    return RB_OK;
}

static void merge_all(const bpe *b, bpe_scratch *scratch, int32_t length)
{
    symbol *symbols = scratch->symbols;
    scratch->heap_size = 0;
    for (int32_t i = 0; i + 1 < length; i++) offer(b, scratch, i);
    while (scratch->heap_size > 0) {
        const candidate best = heap_pop(scratch);
        const int32_t left = (int32_t)(best.order & UINT32_MAX), right = symbols[left].next;
        if (symbols[left].id != best.left || right < 0 || symbols[right].id != best.right) continue;
        symbols[left].id = best.merged;
        symbols[left].next = symbols[right].next;
        symbols[right].id = -1;
        if (symbols[left].next >= 0) symbols[symbols[left].next].previous = left;
        if (symbols[left].previous >= 0) offer(b, scratch, symbols[left].previous);
        offer(b, scratch, left);
    }
}

rb_status bpe_encode(const bpe *b, bpe_scratch *scratch, const char *piece, size_t length, id_list *ids, rb_error *err)
{
    rb_status st;
    RB_TRY(st, scratch_reserve(scratch, length, err), done);
    if (b->ignore_merges) {
        const size_t size = byte_level_encode(piece, length, scratch->mapped);
        const int32_t whole = vocabulary_find(b->vocabulary, scratch->mapped, size);
        if (whole >= 0) return id_list_push(ids, whole, err);
    }
    RB_TRY(st, bytes_to_symbols(b, scratch->symbols, piece, (int32_t)length, err), done);
    merge_all(b, scratch, (int32_t)length);
    for (int32_t i = 0; i >= 0; i = scratch->symbols[i].next)
        RB_TRY(st, id_list_push(ids, scratch->symbols[i].id, err), done);
done:
    return st;
}

const vocabulary *bpe_vocabulary(const bpe *b) { return b->vocabulary; }
