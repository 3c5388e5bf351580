/* See rope_turn.h. */
#include "model/rope_turn.h"

#include <math.h>

#include "core/threads.h"

void rope_row_fill(float *cos_row, float *sin_row, const rope_facts *rope, int n_freqs, int64_t position)
{
    const float factor = (float)rope->attention_factor;
    for (int i = 0; i < n_freqs; i++) {
        const float angle = (float)position * (float)rope->inv_freq[i];
        cos_row[i] = (float)cos((double)angle) * factor;
        sin_row[i] = (float)sin((double)angle) * factor;
    }
}

RB_CPU_CLONES static void turn_split_half(float *x, const float *cos_row, const float *sin_row, int n)
{
    float *low = x, *high = x + n;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float a = low[i], b = high[i];
        low[i] = a * cos_row[i] - b * sin_row[i];
        high[i] = b * cos_row[i] + a * sin_row[i];
    }
}

RB_CPU_CLONES static void turn_interleaved(float *x, const float *cos_row, const float *sin_row, int n)
{
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos_row[i] - b * sin_row[i];
        x[2 * i + 1] = b * cos_row[i] + a * sin_row[i];
    }
}

void rope_turn(float *x, const float *cos_row, const float *sin_row, int n_freqs, rope_pairing pairing)
{
    if (pairing == ROPE_INTERLEAVED) turn_interleaved(x, cos_row, sin_row, n_freqs);
    else turn_split_half(x, cos_row, sin_row, n_freqs);
}

void rope_turn_transposed(float *x, const float *cos_row, const float *sin_row, int n_freqs, rope_pairing pairing)
{
    const bool is_interleaved = pairing == ROPE_INTERLEAVED;
    for (int i = 0; i < n_freqs; i++) {
        float *low = x + (is_interleaved ? 2 * i : i), *high = x + (is_interleaved ? 2 * i + 1 : i + n_freqs);
        const float a = *low, b = *high;
        *low = a * cos_row[i] + b * sin_row[i];
        *high = b * cos_row[i] - a * sin_row[i];
    }
}
