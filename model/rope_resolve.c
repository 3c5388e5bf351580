/* RoPE settings to frequencies, in double: transformers' modeling_rope_utils.py (default, linear, llama3).
 *
 *   default  inv_freq[i] = theta^(-2 i / rotary_dim)
 *   linear   the same, divided by factor (position interpolation, arXiv 2306.15595)
 *   llama3   by wavelength 2 pi / inv_freq: shorter than original_max_position / high_freq_factor stays, longer than
 *            original_max_position / low_freq_factor is divided by factor, between the two a linear blend (Llama 3.1)
 */
#include <math.h>

#include "model/model_config.h"

static rb_status check_rope(const rope_facts *rope, int rotary_dim, const char *where, rb_error *err)
{
    if (rotary_dim < 2 || rotary_dim % 2 != 0 || rotary_dim > RB_MAX_HEAD_DIM)
        return rb_fail(err, RB_EINVAL, "%s: rotary dim %d, expected an even number from 2 to %d", where, rotary_dim,
                       RB_MAX_HEAD_DIM);
    if (!(rope->theta >= 1 && isfinite(rope->theta)))
        return rb_fail(err, RB_EINVAL, "%s: rope_theta %g, expected a number from 1 up", where, rope->theta);
    if (rope->kind == ROPE_DEFAULT) return RB_OK;
    if (!(rope->factor >= 1 && isfinite(rope->factor)))
        return rb_fail(err, RB_EINVAL, "%s: rope factor %g, expected a number from 1 up", where, rope->factor);
    if (rope->kind != ROPE_LLAMA3) return RB_OK;
    if (!(rope->low_freq_factor > 0 && rope->high_freq_factor > rope->low_freq_factor
          && isfinite(rope->high_freq_factor)))
        return rb_fail(err, RB_EINVAL, "%s: low_freq_factor %g and high_freq_factor %g, expected 0 < low < high", where,
                       rope->low_freq_factor, rope->high_freq_factor);
    if (rope->original_max_position < 1)
        return rb_fail(err, RB_EINVAL, "%s: original_max_position_embeddings %lld, expected 1 or more", where,
                       (long long)rope->original_max_position);
    return RB_OK;
}

static double llama3_inv_freq(const rope_facts *rope, double inv_freq)
{
    const double two_pi = 6.283185307179586476925;
    const double n_turns = (double)rope->original_max_position * inv_freq / two_pi; /* within the original context */
    if (n_turns < rope->low_freq_factor) return inv_freq / rope->factor;
    if (n_turns > rope->high_freq_factor) return inv_freq;
    const double smooth = (n_turns - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * inv_freq / rope->factor + smooth * inv_freq;
}

rb_status rope_resolve(rope_facts *rope, int rotary_dim, const char *where, rb_error *err)
{
    const rb_status st = check_rope(rope, rotary_dim, where, err);
    if (st != RB_OK) return st;
    for (int i = 0; i < rotary_dim / 2; i++) {
        const double inv_freq = 1.0 / pow(rope->theta, 2.0 * i / rotary_dim);
        switch (rope->kind) {
        case ROPE_DEFAULT: rope->inv_freq[i] = inv_freq; break;
        case ROPE_LINEAR: rope->inv_freq[i] = inv_freq / rope->factor; break;
        case ROPE_LLAMA3: rope->inv_freq[i] = llama3_inv_freq(rope, inv_freq); break;
        }
    }
    return RB_OK;
}
