/* numpy's default_rng: see kernels/reference/numpy_random.h. */
#include "kernels/reference/numpy_random.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>

/* ---- SeedSequence: a seed becomes 256 well-mixed bits (O'Neill's seed_seq_fe, as numpy documents it)  */

enum { POOL_SIZE = 4, STATE_WORDS = 8 };

static uint32_t hash_mix(uint32_t value, uint32_t *hash_const)
{
    value ^= *hash_const;
    *hash_const *= 0x931e8875u;
    value *= *hash_const;
    return value ^ value >> 16;
}

static uint32_t mix(uint32_t x, uint32_t y)
{
    const uint32_t result = x * 0xca01f9ddu - y * 0x4973f715u;
    return result ^ result >> 16;
}

static void seed_words(uint32_t out[STATE_WORDS], uint64_t seed)
{
    /* Entropy: the seed's 32-bit words, low first; missing ones count as zero. */
    const uint32_t entropy[POOL_SIZE] = {(uint32_t)seed, (uint32_t)(seed >> 32), 0, 0};
    uint32_t pool[POOL_SIZE], hash_const = 0x43b0d7e5u;
    for (int i = 0; i < POOL_SIZE; i++) pool[i] = hash_mix(entropy[i], &hash_const);
    for (int from = 0; from < POOL_SIZE; from++)
        for (int to = 0; to < POOL_SIZE; to++)
            if (from != to) pool[to] = mix(pool[to], hash_mix(pool[from], &hash_const));
    hash_const = 0x8b51f9ddu;
    for (int i = 0; i < STATE_WORDS; i++) {
        uint32_t value = pool[i % POOL_SIZE] ^ hash_const;
        hash_const *= 0x58f38dedu;
        value *= hash_const;
        out[i] = value ^ value >> 16;
    }
}

/* ---- PCG64: 128-bit LCG, XSL RR output ------------------------------------------------------- */

static unsigned __int128 wide(uint64_t high, uint64_t low) { return (unsigned __int128)high << 64 | low; }

static void step(numpy_rng *rng)
{
    rng->state = rng->state * wide(0x2360ed051fc65da4u, 0x4385df649fccf645u) + rng->increment;
}

void numpy_rng_seed(numpy_rng *rng, uint64_t seed)
{
    uint32_t words[STATE_WORDS];
    uint64_t value[STATE_WORDS / 2];
    seed_words(words, seed);
    for (int i = 0; i < STATE_WORDS / 2; i++) value[i] = (uint64_t)words[2 * i + 1] << 32 | words[2 * i];
    rng->state = 0;
    rng->increment = wide(value[2], value[3]) << 1 | 1;
    step(rng);
    rng->state += wide(value[0], value[1]);
    step(rng);
}

uint64_t numpy_rng_next(numpy_rng *rng)
{
    step(rng);
    const uint64_t folded = (uint64_t)(rng->state >> 64) ^ (uint64_t)rng->state;
    const unsigned rotation = (unsigned)(rng->state >> 122);
    return folded >> rotation | folded << (-rotation & 63);
}

double numpy_rng_double(numpy_rng *rng) { return (double)(numpy_rng_next(rng) >> 11) * 0x1p-53; }

/* ---- ziggurat -------------------------------------------------------------------------------- */

enum { LAYERS = 256 };
/* Where the base layer's tail begins, for 256 layers of exp(-x^2/2) (Doornik 2005, table 1). */
static const double TAIL_START = 3.6541528853610087963519472518, INVERSE_TAIL_START = 0.27366123732975827203338247596;

/* A draw is 52 bits times width[layer]; below threshold[layer] it is inside the rectangle and done. */
static struct ziggurat {
    uint64_t threshold[LAYERS];
    double width[LAYERS], height[LAYERS];
} table;

/* exp(-x^2/2) and log rounded to double from long double: the same for every C library. */
static double density(double x) { return (double)expl((long double)(-0.5 * x * x)); }
static double rounded_log(double x) { return (double)logl((long double)x); }

/* Layer i > 0 spans [0, x(i)] with x(255) the tail's start, height f(x(i)) .. f(x(i-1)); layer 0 is the base strip with
 * the tail.
 *
 * numpy ships these tables as numbers. They were made by this recursion in double, whose rounding adds up to 3e-14 at
 * the innermost layers, and a draw is numpy's to its last bit only if that rounding is. So the recursion is not done
 * better here, it is done the same: every step in double, thresholds to the nearest integer, and the two numbers that
 * correct rounding does not explain, `area` and one height, as numpy has them. All 768 entries come out equal to
 * numpy's. */
static void build_table(void)
{
    enum { ODD_LAYER = 38 };
    static const double scale = 0x1p52;
    /* TAIL_START * f(TAIL_START) + the tail's area, which every layer has; 3 units in the last place below the exact
     * value. */
    static const double area = 0.0049286732339746519;
    double outer = TAIL_START, height = density(outer);
    table.threshold[0] = (uint64_t)rint(outer * height / area * scale);
    table.threshold[1] = 0;
    table.width[0] = area / height / scale; /* the base strip as a rectangle of the same area */
    table.height[0] = 1.0;
    table.width[LAYERS - 1] = outer / scale;
    table.height[LAYERS - 1] = height;
    for (int i = LAYERS - 2; i >= 1; i--) {
        const double inner = sqrt(-2.0 * rounded_log(area / outer + height));
        table.threshold[i + 1] = (uint64_t)rint(inner / outer * scale);
        height = density(inner);
        if (i == ODD_LAYER)
            height = nextafter(height, 1.0); /* all but a tie (0.498 of a unit), and numpy has it rounded up */
        table.width[i] = inner / scale;
        table.height[i] = height;
        outer = inner;
    }
}

/* Marsaglia's tail method beyond TAIL_START. */
static double draw_tail(numpy_rng *rng, bool is_negative)
{
    for (;;) {
        const double beyond = -INVERSE_TAIL_START * log1p(-numpy_rng_double(rng));
        const double y = -log1p(-numpy_rng_double(rng));
        if (y + y > beyond * beyond) return is_negative ? -(TAIL_START + beyond) : TAIL_START + beyond;
    }
}

static double draw(numpy_rng *rng)
{
    for (;;) {
        const uint64_t bits = numpy_rng_next(rng);
        const int layer = (int)(bits & 0xff);
        const bool is_negative = bits >> 8 & 1;
        const uint64_t magnitude = bits >> 9 & 0x000fffffffffffffu;
        double x = (double)magnitude * table.width[layer];
        if (is_negative) x = -x;
        if (magnitude < table.threshold[layer]) return x;
        /* numpy takes the tail's sign from another bit of the same draw. */
        if (layer == 0) return draw_tail(rng, magnitude >> 8 & 1);
        const double level =
            (table.height[layer - 1] - table.height[layer]) * numpy_rng_double(rng) + table.height[layer];
        if (level < exp(-0.5 * x * x)) return x;
    }
}

void numpy_rng_standard_normal(numpy_rng *rng, double *out, size_t n)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, build_table);
    for (size_t i = 0; i < n; i++) out[i] = draw(rng);
}
