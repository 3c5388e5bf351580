/* train_trellis: writes kernels/reference/trellis_tables.c to standard output, the same bytes on every machine:
 *
 *   make build/bench/train_trellis && build/bench/train_trellis >kernels/reference/trellis_tables.c
 *
 * Training is that of any vector quantizer: search paths for normal variables, then let every state's number become the
 * mean of the variables that met it. It starts from the quantiles of the normal law in an order without structure. The
 * table of 8 bits is a scalar codebook in that order. Takes minutes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "kernels/reference/codebook.h"
#include "kernels/reference/numpy_random.h"
#include "kernels/reference/trellis.h"

enum {
    N_STEPS = 64,        /* coordinates of a path after the first */
    N_VECTORS = 1 << 14, /* a round */
    N_ROUNDS = 60,
    N_TEST_ROUNDS = 4,
    SEED = 7,
    LEAST_COUNT = 20,  /* a state that fewer variables met keeps its number */
    SCALAR_DIMS = 256, /* a coordinate of a unit vector of so many dims is near enough to normal */
    LANES = TRELLIS_LANES,
    NUMBERS_PER_LINE = 7
};

typedef struct training {
    trellis_table *tables;
    double sums[TRELLIS_STATES], counts[TRELLIS_STATES];
    double error; /* mean over the round, without the first coordinates */
} training;

static void *must(void *memory)
{
    if (!memory) {
        fprintf(stderr, "train_trellis: out of memory\n");
        exit(3);
    }
    return memory;
}

/* The order without structure: places sorted by random numbers. */
static void shuffle(int order[TRELLIS_STATES])
{
    numpy_rng rng;
    numpy_rng_seed(&rng, SEED);
    for (int i = 0; i < TRELLIS_STATES; i++) order[i] = i;
    for (int i = TRELLIS_STATES - 1; i > 0; i--) {
        const int j = (int)(numpy_rng_double(&rng) * (i + 1)), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

static void set_scalar(trellis_table table, const int *order)
{
    codebook book = {0};
    rb_error err = {0};
    if (codebook_build(&book, CODEBOOK_SPHERE, TRELLIS_MAX_WIDTH, SCALAR_DIMS, &err) != RB_OK) exit(1);
    for (int i = 0; i < TRELLIS_STATES; i++) table[order[i]] = (float)(book.centroid[i] * sqrt(SCALAR_DIMS));
}

static void add_tile(training *sums, const double *y, const uint8_t *states)
{
    for (int t = 1; t <= N_STEPS; t++)
        for (int v = 0; v < LANES; v++) {
            const double number = y[t * LANES + v];
            const int state = states[t * LANES + v];
            sums->sums[state] += number;
            sums->counts[state] += 1.0;
        }
}

/* Sums of a round in the order of its tiles, whatever the threads. */
static void search_round(training *sums, int width, numpy_rng *rng)
{
    const size_t per_tile = (size_t)(N_STEPS + 1) * LANES, n_tiles = N_VECTORS / LANES;
    double *y = must(malloc(n_tiles * per_tile * sizeof *y)), weights[N_STEPS + 1], squares = 0.0;
    uint8_t *states = must(malloc(n_tiles * per_tile)), widths[N_STEPS + 1];
    numpy_rng_standard_normal(rng, y, n_tiles * per_tile);
    for (int t = 0; t <= N_STEPS; t++) {
        widths[t] = (uint8_t)(t == 0 ? TRELLIS_STATE_BITS : width);
        weights[t] = 1.0;
    }
#pragma omp parallel
    {
        void *work = must(malloc(trellis_search_size(N_STEPS + 1)));
#pragma omp for
        for (size_t tile = 0; tile < n_tiles; tile++)
            trellis_search(states + tile * per_tile, y + tile * per_tile, weights, widths, N_STEPS + 1,
                           (const trellis_table *)sums->tables, work);
        free(work);
    }
    memset(sums->sums, 0, sizeof sums->sums);
    memset(sums->counts, 0, sizeof sums->counts);
    for (size_t tile = 0; tile < n_tiles; tile++) {
        add_tile(sums, y + tile * per_tile, states + tile * per_tile);
        for (size_t i = LANES; i < per_tile; i++) {
            const double e = y[tile * per_tile + i] - (double)sums->tables[width][states[tile * per_tile + i]];
            squares += e * e;
        }
    }
    sums->error = squares / ((double)N_VECTORS * N_STEPS);
    free(y);
    free(states);
}

static void round_to_fp16(trellis_table table)
{
    for (int s = 0; s < TRELLIS_STATES; s++) table[s] = rb_f16_to_f32(rb_f32_to_f16(table[s]));
}

/* Returns the error of the table, on variables of its own. */
static double train(training *sums, int width)
{
    float *table = sums->tables[width];
    numpy_rng rng;
    double error = 0.0;
    numpy_rng_seed(&rng, (uint64_t)(SEED + width));
    for (int round = 0; round < N_ROUNDS && width < TRELLIS_MAX_WIDTH; round++) {
        search_round(sums, width, &rng);
        for (int s = 0; s < TRELLIS_STATES; s++)
            if (sums->counts[s] >= LEAST_COUNT) table[s] = (float)(sums->sums[s] / sums->counts[s]);
    }
    round_to_fp16(table);
    for (int round = 0; round < N_TEST_ROUNDS; round++) {
        search_round(sums, width, &rng);
        error += sums->error / N_TEST_ROUNDS;
    }
    fprintf(stderr, "width %d: error %.6f\n", width, error);
    return error;
}

static void print_table(const float *table)
{
    printf("    {");
    for (int s = 0; s < TRELLIS_STATES; s++)
        printf("%s%.9gf", s == 0 ? "" : s % NUMBERS_PER_LINE == 0 ? ",\n     " : ", ", (double)table[s]);
    printf("},\n");
}

int main(void)
{
    static trellis_table tables[TRELLIS_MAX_WIDTH + 1];
    static training sums;
    double errors[TRELLIS_MAX_WIDTH + 1] = {1.0};
    int order[TRELLIS_STATES];
    sums.tables = tables;
    shuffle(order);
    set_scalar(tables[TRELLIS_MAX_WIDTH], order);
    round_to_fp16(tables[TRELLIS_MAX_WIDTH]);
    for (int width = 1; width <= TRELLIS_MAX_WIDTH; width++) {
        if (width < TRELLIS_MAX_WIDTH) memcpy(tables[width], tables[TRELLIS_MAX_WIDTH], sizeof tables[width]);
        errors[width] = train(&sums, width);
    }
    printf("/* Made by bench/train_trellis.c: see trellis.h. */\n#include \"kernels/reference/trellis.h\"\n\n");
    printf("/* clang-format off */\nconst double trellis_errors[TRELLIS_MAX_WIDTH + 1] = {\n    ");
    for (int width = 0; width <= TRELLIS_MAX_WIDTH; width++) printf("%s%.6f", width ? ", " : "", errors[width]);
    printf("};\n\nconst trellis_table trellis_tables[TRELLIS_MAX_WIDTH + 1] = {\n    {0},\n");
    for (int width = 1; width <= TRELLIS_MAX_WIDTH; width++) print_table(tables[width]);
    printf("};\n/* clang-format on */\n");
    return ferror(stdout) ? 1 : 0;
}
