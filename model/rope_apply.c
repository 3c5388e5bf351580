/* See rope_apply.h. */
#include "model/rope_apply.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "core/threads.h"

static void fill_position(rope_table *table, const rope_facts *rope, int64_t position)
{
    const float factor = (float)rope->attention_factor;
    for (int i = 0; i < table->n_freqs; i++) {
        const float angle = (float)position * (float)rope->inv_freq[i];
        const int64_t at = position * table->n_freqs + i;
        table->cos[at] = (float)cos((double)angle) * factor;
        table->sin[at] = (float)sin((double)angle) * factor;
    }
}

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
    for (int64_t position = 0; position < n_positions; position++) fill_position(table, rope, position);
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

RB_CPU_CLONES static void rotate_split_half(float *x, const float *cos_row, const float *sin_row, int n)
{
    float *low = x, *high = x + n;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float a = low[i], b = high[i];
        low[i] = a * cos_row[i] - b * sin_row[i];
        high[i] = b * cos_row[i] + a * sin_row[i];
    }
}

RB_CPU_CLONES static void rotate_interleaved(float *x, const float *cos_row, const float *sin_row, int n)
{
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos_row[i] - b * sin_row[i];
        x[2 * i + 1] = b * cos_row[i] + a * sin_row[i];
    }
}

void rope_apply(const rope_table *table, float *heads, int n_heads, int head_dim, const int64_t *sequence_start,
                int64_t n_sequences)
{
    const int64_t n_tokens = sequence_start[n_sequences];
    const int n = table->n_freqs;

#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int head = 0; head < n_heads; head++) {
        for (int64_t s = 0; s < n_sequences; s++) {
            const int64_t length = sequence_start[s + 1] - sequence_start[s];
            float *rows = heads + (head * n_tokens + sequence_start[s]) * head_dim;
            assert(length <= table->n_positions);
            for (int64_t position = 0; position < length; position++) {
                const float *cos_row = table->cos + position * n, *sin_row = table->sin + position * n;
                if (table->pairing == ROPE_INTERLEAVED)
                    rotate_interleaved(rows + position * head_dim, cos_row, sin_row, n);
                else rotate_split_half(rows + position * head_dim, cos_row, sin_row, n);
            }
        }
    }
}

void rope_turn_back(const rope_table *table, float *x, int64_t position)
{
    const int n = table->n_freqs, is_interleaved = table->pairing == ROPE_INTERLEAVED;
    const float *cos_row = table->cos + position * n, *sin_row = table->sin + position * n;
    for (int i = 0; i < n; i++) {
        float *low = x + (is_interleaved ? 2 * i : i), *high = x + (is_interleaved ? 2 * i + 1 : i + n);
        const float a = *low, b = *high;
        *low = a * cos_row[i] + b * sin_row[i];
        *high = b * cos_row[i] - a * sin_row[i];
    }
}
