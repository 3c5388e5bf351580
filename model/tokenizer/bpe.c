/* Merging characters to tokens: see bpe.h. Reading the model from JSON is in bpe_file.c. */
#include "model/tokenizer/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/bpe_tables.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/unicode_text.h"

/* A token of the piece, in a list by position. */
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
    int32_t n_symbols;
    bpe_dropped dropped; /* of all pieces so far */
};

rb_status bpe_scratch_new(bpe_scratch **out, rb_error *err)
{
    return rb_alloc(out, 1, sizeof **out, "BPE scratch", err);
}

static void scratch_release(bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (bpe_scratch){.dropped = scratch->dropped};
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
    scratch->capacity = capacity;
done:
    return st;
}

const bpe_dropped *bpe_scratch_dropped(const bpe_scratch *scratch) { return &scratch->dropped; }

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

/* A run of characters without token that waits for its unk token: fuse_unk may lengthen it. As in the library, tokens
 * of byte fallback do not end it. */
typedef struct symbol_maker {
    const bpe *bpe;
    bpe_scratch *scratch;
    bool has_unk;
} symbol_maker;

static void add_symbol(bpe_scratch *scratch, int32_t id)
{
    const int32_t at = scratch->n_symbols++;
    scratch->symbols[at] = (symbol){id, at - 1, at + 1};
}

static void flush_unk(symbol_maker *m)
{
    if (m->has_unk) add_symbol(m->scratch, m->bpe->unk_id);
    m->has_unk = false;
}

static bool add_bytes(symbol_maker *m, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (m->bpe->fallback_ids[(unsigned char)text[i]] < 0) return false;
    for (size_t i = 0; i < size; i++) add_symbol(m->scratch, m->bpe->fallback_ids[(unsigned char)text[i]]);
    return true;
}

/* A character that no token stands for is left out, as by the library. The first one is remembered by its name. */
static void drop_character(symbol_maker *m, const char *text, size_t size, int32_t character)
{
    bpe_dropped *dropped = &m->scratch->dropped;
    char byte;
    size_t n;
    if (dropped->n++ > 0) return;
    if (m->bpe->is_byte_level && byte_level_decode(text, size, &byte, &n))
        snprintf(dropped->first, sizeof dropped->first, "byte 0x%02x", (unsigned)(unsigned char)byte);
    else snprintf(dropped->first, sizeof dropped->first, "U+%04X", (unsigned)character);
}

static rb_status add_character(symbol_maker *m, const char *text, size_t size, int32_t character, rb_error *err)
{
    const bpe *b = m->bpe;
    const int32_t id = character < BPE_N_DIRECT ? b->direct_ids[character] : vocabulary_find(b->vocabulary, text, size);
    if (id >= 0) {
        flush_unk(m);
        add_symbol(m->scratch, id);
        return RB_OK;
    }
    if (b->has_byte_fallback && add_bytes(m, text, size)) return RB_OK;
    if (!b->unk_token) {
        drop_character(m, text, size, character);
        return RB_OK;
    }
    if (b->unk_id < 0)
        return rb_fail(err, RB_EFORMAT,
                       "the vocabulary has no token for U+%04X, which the text holds, and model.unk_token \"%.64s\" is "
                       "not in it either",
                       (unsigned)character, b->unk_token);
    if (!b->fuses_unk) flush_unk(m);
    m->has_unk = true;
    return RB_OK;
}

/* At most one symbol for each byte of the piece. */
static rb_status make_symbols(const bpe *b, bpe_scratch *scratch, const char *piece, size_t length, rb_error *err)
{
    symbol_maker m = {.bpe = b, .scratch = scratch};
    scratch->n_symbols = 0;
    for (size_t at = 0, size; at < length; at += size) {
        const int32_t character = utf8_first(piece + at, length - at, &size);
        const rb_status st = add_character(&m, piece + at, size, character, err);
        if (st != RB_OK) return st;
    }
    flush_unk(&m);
    if (scratch->n_symbols > 0) scratch->symbols[scratch->n_symbols - 1].next = -1;
    return RB_OK;
}

static void merge_all(const bpe *b, bpe_scratch *scratch)
{
    symbol *symbols = scratch->symbols;
    scratch->heap_size = 0;
    for (int32_t i = 0; i + 1 < scratch->n_symbols; i++) offer(b, scratch, i);
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
        const int32_t whole = vocabulary_find(b->vocabulary, piece, length);
        if (whole >= 0) return id_list_push(ids, whole, err);
    }
    RB_TRY(st, make_symbols(b, scratch, piece, length, err), done);
    merge_all(b, scratch);
    for (int32_t i = scratch->n_symbols > 0 ? 0 : -1; i >= 0; i = scratch->symbols[i].next)
        RB_TRY(st, id_list_push(ids, scratch->symbols[i].id, err), done);
done:
    return st;
}

const vocabulary *bpe_vocabulary(const bpe *b) { return b->vocabulary; }
bool bpe_has_byte_fallback(const bpe *b) { return b->has_byte_fallback; }
