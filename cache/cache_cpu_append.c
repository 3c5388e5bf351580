/* New tokens of sequences on the CPU: which of them are exact, which are coded, and which leave the exact area. See
 * cache_cpu.h, and cache/library/ropebits_kv.h for the area. */
#include <stdlib.h>

#include "cache/cache_cpu.h"

/* One new token. */
typedef struct new_token {
    int32_t sequence, token;
    int64_t vector; /* its number in the call */
} new_token;

/* The new tokens of one sequence: tokens [first, end), vectors new[0 .. end - first). */
typedef struct sequence_part {
    const new_token *new;
    int64_t first, end;
} sequence_part;

/* Work of the size that a call needs: tokens to code at a time. */
typedef struct append_memory {
    int64_t *row, *slots;
    int32_t *positions;
} append_memory;

static int by_sequence(const void *a, const void *b)
{
    const new_token *x = a, *y = b;
    if (x->sequence != y->sequence) return x->sequence < y->sequence ? -1 : 1;
    return (x->vector > y->vector) - (x->vector < y->vector);
}

/* [n], sequence after sequence; checks that each one's are consecutive. */
static rb_status sort_tokens(new_token *out, const ropebits_kv_tokens *tokens, rb_error *err)
{
    for (int64_t i = 0; i < tokens->n; i++) {
        out[i] =
            (new_token){.sequence = tokens->sequence ? tokens->sequence[i] : 0, .token = tokens->token[i], .vector = i};
        if (out[i].sequence < 0 || out[i].token < 0)
            return rb_fail(err, RB_EINVAL, "vector %lld is token %d of sequence %d, expected numbers from 0 on",
                           (long long)i, (int)out[i].token, (int)out[i].sequence);
    }
    qsort(out, (size_t)tokens->n, sizeof *out, by_sequence);
    for (int64_t i = 1; i < tokens->n; i++)
        if (out[i].sequence == out[i - 1].sequence && out[i].token != out[i - 1].token + 1)
            return rb_fail(err, RB_EINVAL, "sequence %d: token %d comes after token %d, expected %d",
                           (int)out[i].sequence, (int)out[i].token, (int)out[i - 1].token, (int)out[i - 1].token + 1);
    return RB_OK;
}

/* ---- the exact area -------------------------------------------------------------------------- */

static rb_status keep_token(const cache_cpu *cache, int layer, const ropebits_kv_tokens *tokens, const new_token *new,
                            const ropebits_kv_vectors rows[2], rb_error *err)
{
    const model_facts *model = cache->model;
    float cos_row[RB_MAX_BLOCKS], sin_row[RB_MAX_BLOCKS], x[RB_MAX_HEAD_DIM];
    const int64_t row = cache_exact_row(cache, new->token);
    if (!tokens->keys_are_turned) cache_rope_row(cos_row, sin_row, model, layer, new->token);
    for (int i = 0; i < 2 * model->n_kv_heads; i++) {
        const bool is_value = i % 2 != 0;
        const int kv_head = i / 2, dims = is_value ? model->value_dim : model->head_dim;
        cache_vector_load(x, is_value ? &tokens->values : &tokens->keys, new->vector, kv_head, dims);
        if (!is_value && !tokens->keys_are_turned) cache_rope_turn(x, cos_row, sin_row, model, layer);
        const rb_status st = cache_vector_check(x, dims, err);
        if (st != RB_OK)
            return rb_fail_in(err, st, "layer %d kv_head %d, %s: vector %lld", layer, kv_head,
                              is_value ? "values" : "keys", (long long)new->vector);
        cache_vector_store(&rows[is_value], row, kv_head, dims, x);
    }
    return RB_OK;
}

static rb_status keep_tokens(const cache_cpu *cache, int layer, const ropebits_kv_tokens *tokens,
                             const ropebits_kv_pages *pages, const sequence_part *part, rb_error *err)
{
    const ropebits_kv_vectors rows[2] = {cache_exact_rows(cache, pages, part->new->sequence, false),
                                         cache_exact_rows(cache, pages, part->new->sequence, true)};
    rb_status st = RB_OK;
    for (int64_t t = part->first; t < part->end && st == RB_OK; t++)
        if (t < cache->n_sink || t >= part->end - cache->n_recent)
            st = keep_token(cache, layer, tokens, &part->new[t - part->first], rows, err);
    return st;
}

/* ---- coding ---------------------------------------------------------------------------------- */

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Codes the tokens [begin, end) of a sequence: the vectors of the call, or where those are over, of its exact area. */
static rb_status code_tokens(const cache_cpu *cache, int layer, const ropebits_kv_tokens *tokens,
                             const ropebits_kv_pages *pages, const sequence_part *part, int64_t begin, int64_t end,
                             bool is_leaving, append_memory *memory, rb_error *err)
{
    const int64_t sequence = part->new->sequence;
    ropebits_kv_vectors keys = tokens->keys, values = tokens->values;
    if (is_leaving) {
        keys = cache_exact_rows(cache, pages, sequence, false);
        values = cache_exact_rows(cache, pages, sequence, true);
    }
    for (int64_t t = begin; t < end; t++) {
        memory->row[t - begin] = is_leaving ? cache_exact_row(cache, t) : part->new[t - part->first].vector;
        memory->slots[t - begin] = cache_slot(pages, sequence, t);
        memory->positions[t - begin] = (int32_t)t;
    }
    const cache_coding coding = {.n = end - begin,
                                 .keys = &keys,
                                 .values = &values,
                                 .row = memory->row,
                                 .positions = memory->positions,
                                 .keys_are_turned = is_leaving || tokens->keys_are_turned,
                                 .slots = memory->slots};
    return cache_cpu_code(cache, layer, &coding, pages->pages, err);
}

/* Tokens that leave the area are coded before new ones take their rows. */
static rb_status append_sequence(const cache_cpu *cache, int layer, const ropebits_kv_tokens *tokens,
                                 const ropebits_kv_pages *pages, const sequence_part *part, append_memory *memory,
                                 rb_error *err)
{
    const int64_t first_recent = larger(part->end - cache->n_recent, 0),
                  first_kept = larger(cache->n_sink, part->first - cache->n_recent);
    rb_status st;
    RB_TRY(st,
           code_tokens(cache, layer, tokens, pages, part, first_kept, smaller(part->first, first_recent), true, memory,
                       err),
           done);
    RB_TRY(st,
           code_tokens(cache, layer, tokens, pages, part, larger(part->first, cache->n_sink), first_recent, false,
                       memory, err),
           done);
    if (cache->n_sink + cache->n_recent > 0) st = keep_tokens(cache, layer, tokens, pages, part, err);
done:
    return st;
}

/* ---- the call -------------------------------------------------------------------------------- */

static rb_status alloc_memory(append_memory *memory, size_t n, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_alloc(&memory->row, n, sizeof *memory->row, "new tokens", err), done);
    RB_TRY(st, rb_alloc(&memory->slots, n, sizeof *memory->slots, "new tokens", err), done);
    RB_TRY(st, rb_alloc(&memory->positions, n, sizeof *memory->positions, "new tokens", err), done);
done:
    return st;
}

rb_status cache_cpu_append(const cache_cpu *cache, int layer, const ropebits_kv_tokens *tokens,
                           const ropebits_kv_pages *pages, rb_error *err)
{
    const int64_t n_most = larger(tokens->n, cache->n_recent);
    append_memory memory = {0};
    new_token *new = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&new, (size_t)tokens->n, sizeof *new, "new tokens", err), done);
    RB_TRY(st, alloc_memory(&memory, (size_t)n_most, err), done);
    RB_TRY(st, sort_tokens(new, tokens, err), done);
    for (int64_t at = 0, end; at < tokens->n; at = end) {
        for (end = at + 1; end < tokens->n && new[end].sequence == new[at].sequence;) end++;
        const sequence_part part = {.new = new + at, .first = new[at].token, .end = new[at].token + (end - at)};
        RB_TRY(st, append_sequence(cache, layer, tokens, pages, &part, &memory, err), done);
    }
done:
    free(memory.row);
    free(memory.slots);
    free(memory.positions);
    free(new);
    return st;
}
