/* See rope_apply.h. */
#include "model/rope_apply.h"

#include <assert.h>
#include <stdlib.h>

#include "model/rope_turn.h"

rb_status rope_table_init(rope_table *table, const model_facts *facts, const rope_facts *rope, int64_t n_positions,
                          rb_error *err)
{
    const int n_freqs = facts->rotary_dim / 2;
    const size_t row_bytes = (size_t)n_freqs * sizeof(float);
    rb_status st;

    *table = (rope_table){.pairing = rope->pairing, .n_freqs = n_freqs, .n_positions = n_positions};
    RB_TRY(st, rb_alloc(&table->cos, (size_t)n_positions, row_bytes, "RoPE table", err), failed);
    RB_TRY(st, rb_alloc(&table->sin, (size_t)n_positions, row_bytes, "RoPE table", err), failed);
#pragma omp parallel for schedule(static)
    for (int64_t position = 0; position < n_positions; position++)
        rope_row_fill(table->cos + position * n_freqs, table->sin + position * n_freqs, rope, n_freqs, position);
    return RB_OK;
failed:
    rope_table_free(table);
    return st;
}

void rope_table_free(rope_table *table)
{
    free(table->cos);
    free(table->sin);
    *table = (rope_table){0};
}

int64_t rope_table_bytes(const model_facts *facts, int64_t n_positions)
{
    return n_positions * facts->rotary_dim * (int64_t)sizeof(float);
}

static void turn_rows(const rope_table *table, float *rows, int head_dim, int64_t first_position, int64_t n_rows)
{
    const int n = table->n_freqs;
    assert(first_position + n_rows <= table->n_positions);
    for (int64_t i = 0; i < n_rows; i++) {
        const int64_t at = (first_position + i) * n;
        rope_turn(rows + i * head_dim, table->cos + at, table->sin + at, n, table->pairing);
    }
}

void rope_apply(const rope_table *table, float *heads, int n_heads, int head_dim, const int64_t *sequence_start,
                int64_t n_sequences)
{
    const int64_t n_tokens = sequence_start[n_sequences];

#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int head = 0; head < n_heads; head++) {
        for (int64_t s = 0; s < n_sequences; s++)
            turn_rows(table, heads + (head * n_tokens + sequence_start[s]) * head_dim, head_dim, 0,
                      sequence_start[s + 1] - sequence_start[s]);
    }
}

void rope_apply_from(const rope_table *table, float *heads, int n_heads, int head_dim, int64_t first_position,
                     int64_t n_tokens)
{
#pragma omp parallel for schedule(static)
    for (int head = 0; head < n_heads; head++)
        turn_rows(table, heads + head * n_tokens * head_dim, head_dim, first_position, n_tokens);
}

void rope_turn_back(const rope_table *table, float *x, int64_t position)
{
    const int n = table->n_freqs;
    rope_turn_transposed(x, table->cos + position * n, table->sin + position * n, n, table->pairing);
}
