/* The image of family trellis: the kernels played from it lane by lane, in f32 where they are, and held to the
 * reference by the judge that holds the GPU. */
#include "tests/test_support.h"

#include "core/half.h"
#include "core/threads.h"
#include "kernels/check/codec_check.h"
#include "kernels/cuda/codec_cuda.h"
#include "kernels/cuda/trellis_search.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/numpy_random.h"
#include "kernels/reference/trellis_codec.h"

enum { N = 160, LANES = 32, MAX_DIMS = 128 };

static rb_error err;
static codec_tables *tables;

static int create_tables(void **state)
{
    (void)state;
    rb_threads_init(1);
    return codec_tables_create(&tables, &err) != RB_OK;
}

static int free_tables(void **state)
{
    (void)state;
    codec_tables_free(tables);
    return 0;
}

static void normals(double *out, uint64_t seed, size_t n)
{
    numpy_rng rng;
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, out, n);
}

/* ---- heads ----------------------------------------------------------------------------------- */

/* Widths that fall from 8, as plans have them, or that change from coordinate to coordinate. */
typedef struct head_shape {
    const char *name;
    int n_dims, n_uncoded, gain_bits, gain_zero;
    bool is_mixed, is_diagonal, has_center;
} head_shape;

static const head_shape shapes[] = {
    {"falling", 128, 20, 3, 4, false, false, true}, {"mixed", 64, 3, 2, 1, true, false, true},
    {"folded", 96, 10, 4, 7, false, true, false},   {"all coded", 48, 0, 0, 0, true, false, true},
    {"one step", 16, 9, 1, 0, false, false, false}, {"half a group", 80, 40, 3, 2, false, false, true},
};

static model_facts facts_of(int n_dims)
{
    return (model_facts){.n_layers = 1,
                         .n_q_heads = 1,
                         .n_kv_heads = 1,
                         .head_dim = n_dims,
                         .rotary_dim = n_dims,
                         .value_dim = n_dims,
                         .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}};
}

static void set_widths(uint8_t *widths, const head_shape *shape)
{
    const int n_coded = shape->n_dims - shape->n_uncoded;
    memset(widths, 0, (size_t)shape->n_dims);
    for (int i = 0; i < n_coded; i++)
        widths[i] = (uint8_t)(shape->is_mixed ? 1 + (i * 5 + i * i / 7) % 8
                                              : 1 + 6 * (n_coded - i) * (n_coded - i) / (n_coded * n_coded));
    widths[0] = 8;
    if (n_coded == shape->n_dims) widths[n_coded - 1] = 4;
}

static plan_head make_head(const head_shape *shape)
{
    static double basis[MAX_DIMS * MAX_DIMS];
    const int n = shape->n_dims;
    double weights[MAX_DIMS], center[MAX_DIMS];
    uint8_t widths[MAX_DIMS];
    plan_head head = {0};
    normals(basis, 11, (size_t)(n * n));
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++)
            basis[i * n + j] =
                (shape->is_diagonal ? 0.0 : 0.3 * basis[i * n + j] / sqrt(n)) + (i == j) * (1.0 + 0.5 * sin(i));
        weights[i] = exp(sin(i * 0.7));
        center[i] = sin(i * 1.3);
    }
    set_widths(widths, shape);
    assert_ok(plan_head_set_trellis(&head, widths, basis, weights, shape->gain_bits, shape->gain_zero, n, &err));
    if (shape->has_center) assert_ok(plan_head_set_center(&head, center, n, &err));
    return head;
}

static void make_vectors(float *x, int n_dims)
{
    double *drawn = malloc((size_t)(N * n_dims) * sizeof *drawn);
    assert_non_null(drawn);
    normals(drawn, 5, (size_t)(N * n_dims));
    for (int i = 0; i < N * n_dims; i++) x[i] = (float)(exp2(0.25 * (i / n_dims % 13 - 6)) * drawn[i]);
    memset(x, 0, (size_t)n_dims * sizeof *x);
    free(drawn);
}

/* ---- encode, as a warp does it ---------------------------------------------------------------- */

/* Costs of all lanes. */
typedef float warp_costs[LANES][TRELLIS_LANE_STATES];

static float table_number(const trellis_image *image, int width, int state)
{
    return rb_f16_to_f32(image->tables[width * TRELLIS_STATES + state]);
}

static void add_errors(warp_costs cost, warp_costs before, const trellis_image *image, int width, float y, float root)
{
    for (int lane = 0; lane < LANES; lane++)
        for (int k = 0; k < TRELLIS_LANE_STATES; k++) {
            const float off = fmaf(table_number(image, width, TRELLIS_LANE_STATES * lane + k), -root, y);
            cost[lane][k] = fmaf(off, off, before[lane][k]);
        }
}

/* Minima, ballots and shuffles of a coordinate; before: what new states come from. */
static void merge(warp_costs before, uint32_t *words, warp_costs cost, int width)
{
    float least[LANES][TRELLIS_LANE_GROUPS], own[LANES];
    uint32_t ballots[TRELLIS_COMPARISONS] = {0};
    for (int lane = 0; lane < LANES; lane++) {
        bool is_second[TRELLIS_COMPARISONS];
        const int n = trellis_merge(least[lane], is_second, cost[lane], width);
        for (int k = 0; k < n; k++) ballots[k] |= (uint32_t)is_second[k] << lane;
        own[lane] = least[lane][0];
    }
    trellis_join(words, ballots, width);
    if (width > TRELLIS_LANE_BITS) {
        const int n_lanes = 1 << (width - TRELLIS_LANE_BITS);
        words[3] = 0;
        for (int lane = 0; lane < LANES; lane++) {
            for (int i = 0; i < n_lanes; i++) least[lane][0] = fminf(least[lane][0], own[lane / n_lanes * n_lanes + i]);
            words[3] |= (uint32_t)(own[lane] == least[lane][0]) << lane;
        }
    }
    for (int lane = 0; lane < LANES; lane++)
        for (int k = 0; k < TRELLIS_LANE_STATES; k++)
            before[lane][k] = least[trellis_lane_of(lane, k, width)][trellis_group_of(k, width)];
}

static void search(uint8_t *states, const trellis_image *image, const float *y)
{
    static warp_costs cost, before;
    uint32_t words[MAX_DIMS][TRELLIS_WORDS];
    const int n_coded = image->heads[0].n_coded;
    int state = 0;
    memset(before, 0, sizeof before);
    add_errors(cost, before, image, TRELLIS_MAX_WIDTH, y[0], image->roots[0]);
    for (int t = 1; t < n_coded; t++) {
        merge(before, words[t], cost, image->runs[t].width);
        add_errors(cost, before, image, image->runs[t].width, y[t], image->roots[t]);
    }
    for (int s = 1; s < TRELLIS_STATES; s++)
        if (cost[s / TRELLIS_LANE_STATES][s % TRELLIS_LANE_STATES]
            < cost[state / TRELLIS_LANE_STATES][state % TRELLIS_LANE_STATES])
            state = s;
    for (int t = n_coded - 1; t >= 0; t--) {
        states[t] = (uint8_t)state;
        if (t > 0) state = trellis_previous(words[t], state, image->runs[t].width);
    }
}

static void encode(uint8_t *packed, const codec_image *all, const float *x)
{
    const trellis_image *image = &all->trellis;
    const trellis_image_head *head = &image->heads[0];
    const int n = image->n_dims, n_coded = head->n_coded, packed_bytes = all->heads[0].packed_bytes;
    float y[MAX_DIMS] = {0}, square = 0.0f;
    uint8_t states[MAX_DIMS];
    for (int i = 0; i < n_coded; i++) {
        for (int j = 0; j < n; j++) y[i] = fmaf(x[j] - image->centers[j], image->project[j * n + i], y[i]);
        square += image->roots[i] * y[i] * (image->roots[i] * y[i]);
    }
    const float level = floorf(log2f(square * head->inverse_weight) + (float)head->gain_zero + 0.5f);
    const int gain = (int)fminf(fmaxf(level, 0.0f), (float)((1 << head->gain_bits) - 1));
    for (int i = 0; i < n_coded; i++) y[i] = y[i] * head->inverse_gains[gain] * image->roots[i];
    for (int i = 0; i < n_coded; i++) { /* what steers the warps */
        const trellis_image_run run = image->runs[i];
        assert_true(run.first <= i && i < run.end && run.end <= n_coded);
        for (int j = run.first; j < run.end; j++) assert_int_equal(image->runs[j].width, run.width);
    }
    search(states, image, y);
    for (int b = 0; b < packed_bytes; b++) {
        const trellis_image_byte from = image->bytes[b];
        unsigned byte = trellis_byte(states, from.coordinate, from.left, from.right);
        if (b >= head->code_bits / 8) byte |= (unsigned)gain << head->code_bits % 8 >> 8 * (b - head->code_bits / 8);
        packed[b] = (uint8_t)byte;
    }
}

/* ---- decode, as a warp does it ---------------------------------------------------------------- */

static uint32_t read_windows(const uint8_t *packed, int bit)
{
    uint64_t bits = 0;
    for (int i = 0; i < 5; i++) bits |= (uint64_t)packed[bit / 8 + i] << 8 * i;
    return (uint32_t)(bits >> bit % 8);
}

static float pair_number(const trellis_image *image, int word, int width, int which)
{
    if (word < TRELLIS_PAIRS_AT) return 0.0f;
    const int at = word - TRELLIS_PAIRS_AT - ((256 << width) - 512);
    assert_in_range(at, 0, (256 << width) - 1);
    return table_number(image, width, which ? at >> width : at & 255);
}

/* The numbers of quad q, by pairs where it has them, and as single numbers. */
static void look_up(float *numbers, const trellis_image *image, const uint8_t *packed, int q)
{
    const trellis_image_quad *quad = &image->quads[q];
    const uint32_t windows = read_windows(packed, quad->bit);
    const int third = quad->third & 31;
    const int shift[TRELLIS_QUAD] = {0, quad->width[1], third, third + quad->width[3]};
    for (int i = 0; i < TRELLIS_QUAD; i++) {
        numbers[i] = table_number(image, quad->width[i], (int)(windows >> shift[i] & 255u));
        if (!(quad->third & TRELLIS_QUAD_PAIRED)) continue;
        const int word = (int)(windows >> shift[i / 2 * 2] & quad->mask[i / 2]) + quad->first[i / 2];
        assert_true(pair_number(image, word, quad->width[i], i % 2) == numbers[i]);
    }
}

/* mma.m16n8k16 of one row, from the words of B that each lane has. */
static void decode(float *x_hat, const codec_image *all, const uint8_t *packed)
{
    const trellis_image *image = &all->trellis;
    const trellis_image_head *head = &image->heads[0];
    const int n_steps = image->n_dims / TRELLIS_STEP;
    const float gain = head->gains[read_windows(packed, head->code_bits) & ((1u << head->gain_bits) - 1u)];
    float numbers[MAX_DIMS];
    for (int q = 0; q < image->n_dims / TRELLIS_QUAD; q++) look_up(numbers + TRELLIS_QUAD * q, image, packed, q);
    for (int j = 0; j < image->n_dims; j++) {
        const int group = j / TRELLIS_GROUP, column_lane = j % TRELLIS_GROUP / 8 * 2 + j % 2, tile = j % 8 / 2;
        double sum = 0.0;
        for (int s = 0; s < n_steps; s++)
            for (int row = 0; row < TRELLIS_STEP; row++) { /* row 2 t + e of a tile and its upper half */
                const int lane = 4 * column_lane + row % 8 / 2, word = row / 8;
                const uint32_t pair =
                    image->fragments[(((group * n_steps + s) * 2 + tile / 2) * LANES + lane) * 4 + tile % 2 * 2 + word];
                const int coordinate = TRELLIS_STEP * s + TRELLIS_QUAD * (lane % 4) + 2 * word + row % 2;
                sum += (double)numbers[coordinate] * (double)rb_f16_to_f32((uint16_t)(pair >> 16 * (row % 2)));
            }
        x_hat[j] = fmaf(gain, (float)sum, image->centers[j]);
        if (image->is_diagonal) assert_true(x_hat[j] == fmaf(gain, numbers[j] * image->scales[j], image->centers[j]));
    }
}

/* ---- held to the reference ------------------------------------------------------------------- */

/* Logits of a query from numbers and the projected query. */
static float logit(const codec_image *all, const uint8_t *packed, const float *query)
{
    const trellis_image *image = &all->trellis;
    const trellis_image_head *head = &image->heads[0];
    const int n = image->n_dims;
    float numbers[MAX_DIMS], sum = 0.0f, offset = 0.0f;
    for (int q = 0; q < n / TRELLIS_QUAD; q++) look_up(numbers + TRELLIS_QUAD * q, image, packed, q);
    for (int i = 0; i < n; i++) {
        float projected = 0.0f;
        for (int j = 0; j < n; j++) projected = fmaf(rb_f16_to_f32(image->basis[j * n + i]), query[j], projected);
        sum = fmaf(numbers[i], projected, sum);
        offset = fmaf(query[i], image->centers[i], offset);
    }
    return fmaf(head->gains[read_windows(packed, head->code_bits) & ((1u << head->gain_bits) - 1u)], sum, offset);
}

static void kernels_played_from_the_image_are_right_to_the_judge(void **state)
{
    static const codec_bounds bounds = {.trellis_tie = CODEC_CUDA_TRELLIS_TIE,
                                        .trellis_restore = CODEC_CUDA_TRELLIS_RESTORE,
                                        .logits = CODEC_CUDA_LOGITS};
    static float x[N * MAX_DIMS], x_hat[N * MAX_DIMS], reference[N * MAX_DIMS], logits[N];
    static uint8_t packed[N * MAX_DIMS + 16], codes[N * MAX_DIMS];
    (void)state;
    for (size_t s = 0; s < RB_COUNT(shapes); s++) {
        const model_facts model = facts_of(shapes[s].n_dims);
        plan_head head = make_head(&shapes[s]);
        head_codec *codec = NULL;
        codec_image *image = NULL;
        codec_report report = {0};
        const int n = shapes[s].n_dims;
        assert_ok(head_codec_create(&codec, &head, &model, tables, &err));
        assert_ok(codec_image_build(&image, &head, 1, &model, tables, &err));
        const int packed_bytes = image->heads[0].packed_bytes;
        assert_int_equal(packed_bytes, head_codec_packed_bytes(codec));
        assert_int_equal(image->trellis.is_diagonal, shapes[s].is_diagonal);
        make_vectors(x, n);
        const codec_checked on = {&head, &model, tables, codec};
        for (int v = 0; v < N; v++) {
            encode(packed + v * packed_bytes, image, x + v * n);
            decode(x_hat + v * n, image, packed + v * packed_bytes);
            logits[v] = logit(image, packed + v * packed_bytes, x + n);
        }
        assert_ok(codec_check_encoded(&report, &on, x, N, packed, NULL, &bounds, codes, &err));
        assert_ok(codec_check_restored(&report, &on, codes, NULL, N, x_hat, &bounds, reference, &err));
        codec_check_logits(&report, &on, x + n, 1, reference, N, logits, &bounds);
        if (!codec_report_is_good(&report) || getenv("RB_TEST_REPORT"))
            print_message("%s: %lld codes wrong, %lld tied; %lld paths tied (worst %.2g); %lld bytes; values %lld "
                          "(worst %.2g); logits %lld (worst %.2g)\n",
                          shapes[s].name, (long long)report.codes_wrong, (long long)report.codes_tied,
                          (long long)report.searches_tied, report.worst_cosine, (long long)report.bytes_wrong,
                          (long long)report.values_wrong, report.worst_value, (long long)report.logits_wrong,
                          report.worst_logit);
        assert_true(codec_report_is_good(&report));
        assert_true(report.searches_tied * 50 <= N); /* ties are rare, or the bound hides something */
        codec_image_free(image);
        head_codec_free(codec);
        plan_head_clear(&head);
    }
}

/* ---- the search ------------------------------------------------------------------------------ */

/* Small whole numbers, which f32 adds exactly: then a warp's path is the reference's, ties and all. */
static void a_warps_search_is_the_references_where_sums_are_exact(void **state)
{
    enum { N_COORDINATES = 40 };
    static trellis_table whole[TRELLIS_MAX_WIDTH + 1];
    static uint16_t halves[(TRELLIS_MAX_WIDTH + 1) * TRELLIS_STATES];
    static double y[N_COORDINATES * TRELLIS_LANES];
    uint8_t widths[N_COORDINATES] = {8}, states[N_COORDINATES * TRELLIS_LANES], found[N_COORDINATES];
    double weights[N_COORDINATES];
    float roots[N_COORDINATES];
    trellis_image_run runs[N_COORDINATES];
    void *work = malloc(trellis_search_size(N_COORDINATES));
    (void)state;
    assert_non_null(work);
    normals(y, 9, N_COORDINATES * TRELLIS_LANES);
    for (int i = 0; i < N_COORDINATES * TRELLIS_LANES; i++) y[i] = rint(4.0 * y[i]);
    for (int w = 0; w <= TRELLIS_MAX_WIDTH; w++)
        for (int s = 0; s < TRELLIS_STATES; s++) {
            whole[w][s] = (float)((s * 37 + w * 11) % 19 - 9);
            halves[w * TRELLIS_STATES + s] = rb_f32_to_f16(whole[w][s]);
        }
    for (int round = 0; round < TRELLIS_MAX_WIDTH + 1; round++) {
        trellis_image_head head = {.n_coded = N_COORDINATES};
        const trellis_image image = {.heads = &head, .runs = runs, .roots = roots, .tables = halves};
        for (int i = 0; i < N_COORDINATES; i++) {
            if (i > 0) widths[i] = (uint8_t)(round < TRELLIS_MAX_WIDTH ? round + 1 : 1 + i * 5 % 8);
            weights[i] = i % 3 ? 1.0 : 4.0;
            roots[i] = (float)sqrt(weights[i]);
            runs[i].width = widths[i];
        }
        trellis_search(states, y, weights, widths, N_COORDINATES, whole, work);
        for (int v = 0; v < TRELLIS_LANES; v++) {
            float own[N_COORDINATES];
            for (int i = 0; i < N_COORDINATES; i++) own[i] = (float)y[i * TRELLIS_LANES + v] * roots[i];
            search(found, &image, own);
            for (int i = 0; i < N_COORDINATES; i++) assert_int_equal(found[i], states[i * TRELLIS_LANES + v]);
        }
    }
    free(work);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_played_from_the_image_are_right_to_the_judge),
        cmocka_unit_test(a_warps_search_is_the_references_where_sums_are_exact),
    };
    return cmocka_run_group_tests(tests, create_tables, free_tables);
}
