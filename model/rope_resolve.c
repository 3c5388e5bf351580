/* RoPE settings to frequencies, in double: transformers' modeling_rope_utils.py.
 *
 * f[i] = theta^(-2 i / rotary_dim) is what every type begins with.
 *
 *   default       f
 *   linear        f / factor (position interpolation, arXiv 2306.15595)
 *   dynamic       f of a larger theta where the sequences are longer than max_position (NTK scaling)
 *   llama3        by wavelength 2 pi / f: shorter than original_max_position / high_freq_factor stays, longer than
 *                 original_max_position / low_freq_factor is divided by factor, between the two a linear blend
 *   yarn          blocks that turn often within original_max_position stay, those that turn seldom are divided by
 *                 factor, a linear ramp over the blocks between (arXiv 2309.00071)
 *   longrope      f / long_factor[i] where the sequences are longer than original_max_position, else f /
 *                 short_factor[i] (arXiv 2402.13753)
 *   proportional  theta^(-2 i / head_dim) for the first blocks, 0 for the others
 */
#include <math.h>

#include "model/rope_settings.h"

static const double TWO_PI = 6.283185307179586476925;

/* ---- checks ---------------------------------------------------------------------------------- */

rb_status rope_rotary_dim(int *rotary_dim, const rope_settings *settings, int head_dim, const char *where,
                          rb_error *err)
{
    const double share = settings->rotary_factor;
    if (!(share > 0 && share <= 1))
        return rb_fail(err, RB_EINVAL, "%s: partial_rotary_factor %g, expected a number above 0 and up to 1", where,
                       share);
    if (settings->kind == ROPE_PROPORTIONAL) {
        *rotary_dim = head_dim;
        return RB_OK;
    }
    *rotary_dim = (int)(head_dim * share);
    if (*rotary_dim < 2 || *rotary_dim % 2 != 0)
        return rb_fail(err, RB_EINVAL,
                       "%s: partial_rotary_factor %g of head_dim %d is %d dims, expected an even "
                       "number from 2 up",
                       where, share, head_dim, *rotary_dim);
    return RB_OK;
}

static rb_status check_factors(const rope_settings *settings, int n_freqs, const char *where, rb_error *err)
{
    if (settings->n_short == n_freqs && settings->n_long == n_freqs) return RB_OK;
    return rb_fail(err, RB_EINVAL, "%s: %d short and %d long factors, expected %d of each (half the dims that turn)",
                   where, settings->n_short, settings->n_long, n_freqs);
}

static rb_status check_settings(const rope_settings *settings, const rope_facts *rope, int rotary_dim,
                                const char *where, rb_error *err)
{
    if (rotary_dim < 2 || rotary_dim % 2 != 0 || rotary_dim > RB_MAX_HEAD_DIM)
        return rb_fail(err, RB_EINVAL, "%s: rotary dim %d, expected an even number from 2 to %d", where, rotary_dim,
                       RB_MAX_HEAD_DIM);
    if (!(settings->theta >= 1 && isfinite(settings->theta)))
        return rb_fail(err, RB_EINVAL, "%s: rope_theta %g, expected a number from 1 up", where, settings->theta);
    if (!(rope->factor >= 1 && isfinite(rope->factor)))
        return rb_fail(err, RB_EINVAL, "%s: rope factor %g, expected a number from 1 up", where, rope->factor);
    if (!(rope->attention_factor > 0 && isfinite(rope->attention_factor)))
        return rb_fail(err, RB_EINVAL, "%s: attention_factor %g, expected a number above 0", where,
                       rope->attention_factor);
    if (settings->kind == ROPE_LONGROPE) return check_factors(settings, rotary_dim / 2, where, err);
    if (settings->kind == ROPE_YARN && !(settings->beta_slow > 0 && settings->beta_fast > settings->beta_slow))
        return rb_fail(err, RB_EINVAL, "%s: beta_slow %g and beta_fast %g, expected 0 < slow < fast", where,
                       settings->beta_slow, settings->beta_fast);
    if (settings->kind == ROPE_LLAMA3
        && !(settings->low_freq_factor > 0 && settings->high_freq_factor > settings->low_freq_factor
             && isfinite(settings->high_freq_factor)))
        return rb_fail(err, RB_EINVAL, "%s: low_freq_factor %g and high_freq_factor %g, expected 0 < low < high", where,
                       settings->low_freq_factor, settings->high_freq_factor);
    return RB_OK;
}

/* ---- types ----------------------------------------------------------------------------------- */

static double llama3_inv_freq(const rope_facts *rope, double inv_freq)
{
    const double n_turns = (double)rope->original_max_position * inv_freq / TWO_PI; /* within the original context */
    if (n_turns < rope->low_freq_factor) return inv_freq / rope->factor;
    if (n_turns > rope->high_freq_factor) return inv_freq;
    const double smooth = (n_turns - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * inv_freq / rope->factor + smooth * inv_freq;
}

/* The block, as a real number, that turns n_turns times within the original context. */
static double block_of_turns(const rope_facts *rope, double n_turns, int rotary_dim)
{
    return rotary_dim * log((double)rope->original_max_position / (n_turns * TWO_PI)) / (2 * log(rope->theta));
}

static void yarn_inv_freqs(rope_facts *rope, const rope_settings *settings, int rotary_dim)
{
    double low = block_of_turns(rope, settings->beta_fast, rotary_dim),
           high = block_of_turns(rope, settings->beta_slow, rotary_dim);
    if (settings->truncates) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, rotary_dim - 1);
    if (low == high) high += 0.001; /* as transformers avoids a division by zero */
    for (int i = 0; i < rotary_dim / 2; i++) {
        const double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        rope->inv_freq[i] = rope->inv_freq[i] / rope->factor * ramp + rope->inv_freq[i] * (1 - ramp);
    }
}

static double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1; }

static double attention_factor(const rope_settings *settings, double factor, int64_t original_max_position)
{
    if (settings->attention_factor != 0) return settings->attention_factor;
    if (settings->kind == ROPE_YARN) {
        const bool has_both = settings->mscale != 0 && settings->mscale_all_dim != 0;
        return has_both ? yarn_mscale(factor, settings->mscale) / yarn_mscale(factor, settings->mscale_all_dim)
                        : yarn_mscale(factor, 1);
    }
    if (settings->kind == ROPE_LONGROPE && factor > 1)
        return sqrt(1 + log(factor) / log((double)original_max_position));
    return 1;
}

double rope_attention_scale(const rope_settings *settings)
{
    if (settings->kind != ROPE_YARN || settings->mscale_all_dim == 0) return 1;
    const double mscale = yarn_mscale(settings->factor, settings->mscale_all_dim);
    return mscale * mscale;
}

/* ---- public ---------------------------------------------------------------------------------- */

static void copy_settings(rope_facts *rope, const rope_settings *settings, int64_t max_position)
{
    const rope_kind kind = settings->kind;
    const int64_t original = settings->original_max_position ? settings->original_max_position : max_position;
    rope->kind = kind;
    rope->theta = settings->theta;
    rope->low_freq_factor = settings->low_freq_factor;
    rope->high_freq_factor = settings->high_freq_factor;
    rope->original_max_position = rope_kind_has_original(kind) ? original : 0;
    rope->factor = settings->factor;
    if (rope->factor == 0) /* not given */
        rope->factor = kind == ROPE_YARN || kind == ROPE_LONGROPE ? (double)max_position / (double)original : 1;
    rope->attention_factor = attention_factor(settings, rope->factor, original);
    /* Longrope's factor only makes its attention factor, and models are published whose max_position is the smaller. */
    if (kind == ROPE_LONGROPE && rope->factor < 1) rope->factor = 1;
}

/* theta of dynamic scaling. */
static double dynamic_theta(const rope_facts *rope, int rotary_dim, int64_t n_positions, int64_t max_position)
{
    const double length = (double)(n_positions > max_position ? n_positions : max_position);
    const double growth = rope->factor * length / (double)max_position - (rope->factor - 1);
    return rotary_dim > 2 ? rope->theta * pow(growth, (double)rotary_dim / (rotary_dim - 2)) : rope->theta;
}

rb_status rope_resolve(rope_facts *rope, const rope_settings *settings, int rotary_dim, int64_t n_positions,
                       int64_t max_position, const char *where, rb_error *err)
{
    copy_settings(rope, settings, max_position);
    const rb_status st = check_settings(settings, rope, rotary_dim, where, err);
    if (st != RB_OK) return st;
    const double theta =
        rope->kind == ROPE_DYNAMIC ? dynamic_theta(rope, rotary_dim, n_positions, max_position) : rope->theta;
    const double *stretch = n_positions > rope->original_max_position ? settings->long_factor : settings->short_factor;
    for (int i = 0; i < rotary_dim / 2; i++) {
        double inv_freq = 1.0 / pow(theta, 2.0 * i / rotary_dim);
        switch (rope->kind) {
        case ROPE_LINEAR: inv_freq /= rope->factor; break;
        case ROPE_LLAMA3: inv_freq = llama3_inv_freq(rope, inv_freq); break;
        case ROPE_LONGROPE: inv_freq /= stretch[i]; break;
        case ROPE_PROPORTIONAL:
            inv_freq = i < (int)(settings->rotary_factor * rotary_dim / 2) ? inv_freq / rope->factor : 0;
            break;
        default: break;
        }
        rope->inv_freq[i] = inv_freq;
    }
    if (rope->kind == ROPE_YARN) yarn_inv_freqs(rope, settings, rotary_dim);
    return RB_OK;
}
