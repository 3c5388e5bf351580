/* The image of heads of family block-codebook that the CUDA kernels read: encode, decode and logits simulated from its
 * tables only, by the code that the kernels share where they do, against the reference. */
#include "tests/test_support.h"

#include "core/half.h"
#include "kernels/cuda/block_codebook_search.h"
#include "kernels/cuda/codec_image.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/block_codebook_codec.h"
#include "kernels/reference/numpy_random.h"

enum { N_HEADS = 3, N_VECTORS = 300, MAX_BLOCKS = 128 };

static rb_error err;
static codec_tables *tables; /* codebooks of 10 bits take a second: one for all */

/* ---- images to look at ----------------------------------------------------------------------- */

typedef struct sample {
    model_facts model;
    plan_head heads[N_HEADS];
    codec_image *image;
    float *x; /* [N_VECTORS][head_dim] */
} sample;

static double normal_at(numpy_rng *rng)
{
    double value;
    numpy_rng_standard_normal(rng, &value, 1);
    return value;
}

/* Bits 0 to 16, maps of every shape, one that is 0 in places. Head 0 has a gain and a centre, head 1 has a gain, head 2
 * has neither. */
static void fill_heads(sample *s)
{
    const int n_blocks = model_n_blocks(&s->model);
    double maps[BLOCK_CODEBOOK_MAP_SIZE * MAX_BLOCKS], weights[MAX_BLOCKS], center[2 * MAX_BLOCKS];
    uint8_t bits[MAX_BLOCKS];
    numpy_rng rng;
    numpy_rng_seed(&rng, 5);
    for (int h = 0; h < N_HEADS; h++) {
        for (int i = 0; i < n_blocks; i++) {
            bits[i] = (uint8_t)(i % 9 == 0   ? (i * (h + 3) + h) % (BLOCK_CODEBOOK_MAX_POINT_BITS + 1)
                                : i % 9 == 5 ? BLOCK_CODEBOOK_MAX_POINT_BITS + 1 + (i + h) % 6
                                             : (i * (h + 3) + h) % 7);
            maps[3 * i] = exp(normal_at(&rng));
            maps[3 * i + 1] = normal_at(&rng);
            maps[3 * i + 2] = exp(normal_at(&rng)) * (i % 3 ? 1.0 : -1.0);
            weights[i] = exp(2.0 * normal_at(&rng));
            if (i % 13 == 4) maps[3 * i + i % 3] = 0.0;
            for (int j = 0; j < 2; j++) center[2 * i + j] = 3.0 * normal_at(&rng);
        }
        if (h == 0) assert_ok(plan_head_set_transform(&s->heads[h], NULL, n_blocks, center, 2 * n_blocks, &err));
        assert_ok(plan_head_set_block_codebook(&s->heads[h], bits, maps, weights, h == 2 ? 0 : 3 - h, n_blocks, &err));
    }
}

/* Vectors as the heads have them: mostly normal, of sizes over 2^6; some blocks far out, one vector at 0. */
static void draw_vectors(sample *s)
{
    const int d = s->model.head_dim;
    numpy_rng rng;
    s->x = malloc((size_t)(N_VECTORS * d) * sizeof *s->x);
    assert_non_null(s->x);
    numpy_rng_seed(&rng, 6);
    for (int v = 0; v < N_VECTORS; v++)
        for (int j = 0; j < d; j++) {
            const double outlier = (v * d + j) % 97 == 0 ? 30.0 : 1.0;
            s->x[v * d + j] = v == 3 ? 0.0f : (float)(normal_at(&rng) * outlier * exp2((v % 13 - 6) / 2.0));
        }
}

static void build(sample *s, int head_dim, int rotary_dim, rope_pairing pairing)
{
    *s = (sample){.model = {.n_layers = 1,
                            .n_q_heads = N_HEADS,
                            .n_kv_heads = N_HEADS,
                            .head_dim = head_dim,
                            .rotary_dim = rotary_dim,
                            .value_dim = head_dim,
                            .rope = {.attention_factor = 1, .pairing = pairing}}};
    fill_heads(s);
    draw_vectors(s);
    assert_ok(codec_image_build(&s->image, s->heads, N_HEADS, &s->model, tables, &err));
}

static void clear(sample *s)
{
    codec_image_free(s->image);
    for (int h = 0; h < N_HEADS; h++) plan_head_clear(&s->heads[h]);
    free(s->x);
}

static const struct shape {
    int head_dim, rotary_dim;
    rope_pairing pairing;
} shapes[] = {
    {64, 64, ROPE_SPLIT_HALF},   {64, 64, ROPE_INTERLEAVED}, {80, 32, ROPE_SPLIT_HALF},
    {128, 128, ROPE_SPLIT_HALF}, {32, 12, ROPE_SPLIT_HALF},
};

typedef void (*look)(sample *s, int h, const head_codec *codec);

/* At every head, in every shape. */
static void for_every_head(look at)
{
    for (size_t i = 0; i < RB_COUNT(shapes); i++) {
        sample s;
        build(&s, shapes[i].head_dim, shapes[i].rotary_dim, shapes[i].pairing);
        for (int h = 0; h < N_HEADS; h++) {
            head_codec *codec = NULL;
            assert_ok(head_codec_create(&codec, &s.heads[h], &s.model, tables, &err));
            at(&s, h, codec);
            head_codec_free(codec);
        }
        clear(&s);
    }
}

static const block_codebook_image_block *blocks_of(const sample *s, int h)
{
    return s->image->block_codebook.blocks + h * s->image->block_codebook.n_blocks;
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void look_at_facts(sample *s, int h, const head_codec *codec)
{
    const block_codebook_image_head *head = &s->image->block_codebook.heads[h];
    const block_codebook_image_block *blocks = blocks_of(s, h);
    int bit = s->heads[h].block_codebook.gain_bits;
    assert_int_equal(head->gain_bits, bit);
    assert_int_equal(s->image->heads[h].packed_bytes, head_codec_packed_bytes(codec));
    assert_int_equal(s->image->heads[h].n_norms, 0);
    assert_int_equal(codec_image_norms_offset(s->image, h + 1, 1000), codec_image_norms_offset(s->image, h, 1000));
    for (int i = 0; i < s->image->block_codebook.n_blocks; i++) {
        int dims[2];
        model_block_dims(&s->model, i, dims);
        assert_int_equal(blocks[i].dims & 0xffff, dims[0]);
        assert_int_equal(blocks[i].dims >> 16, dims[1]);
        assert_int_equal(blocks[i].bits, s->heads[h].block_codebook.bits[i]);
        assert_int_equal(blocks[i].bit_first, bit);
        bit += blocks[i].bits;
        for (int j = 0; j < 2; j++)
            assert_int_equal(s->image->block_codebook.position[h * s->model.head_dim + dims[j]], 2 * i + j);
    }
}

static void a_head_has_the_references_size_dims_and_stream(void **state)
{
    (void)state;
    for_every_head(look_at_facts);
}

/* What decode stores by: four blocks from a multiple of 4 on are two runs of four dims, or one of eight. */
static void runs_of_dims_are_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < RB_COUNT(shapes); i++) {
        sample s;
        build(&s, shapes[i].head_dim, shapes[i].rotary_dim, shapes[i].pairing);
        assert_int_equal(s.image->block_codebook.heads[0].is_scattered, shapes[i].rotary_dim % 8 != 0);
        assert_int_equal(s.image->block_codebook.heads[0].is_split,
                         shapes[i].pairing == ROPE_SPLIT_HALF && shapes[i].rotary_dim == shapes[i].head_dim);
        clear(&s);
    }
}

/* ---- encode ---------------------------------------------------------------------------------- */

static block_codebook_levels levels_of(const sample *s)
{
    const block_codebook_levels levels = {s->image->block_codebook.edges, s->image->block_codebook.levels};
    return levels;
}

static block_codebook_match match_of(const sample *s, int h, int block, const float *x, float gain)
{
    const block_codebook_image_block *own = &blocks_of(s, h)[block];
    const block_codebook_image_head *head = &s->image->block_codebook.heads[h];
    const block_codebook_points points = {s->image->block_codebook.points_x + head->first_point + own->first_point,
                                          s->image->block_codebook.points_y + head->first_point + own->first_point};
    const uint32_t *cells = s->image->block_codebook.cells + head->first_cell + own->first_cell;
    const float a = x[own->dims & 0xffff] - own->center[0], b = x[own->dims >> 16] - own->center[1];
    if (own->first_bits > 0) return block_codebook_search_levels(own, levels_of(s), a, b, gain);
    if (own->n_columns == 0) return block_codebook_search_all(points, 1 << own->bits, a, b, gain);
    return block_codebook_search(own, points, cells, a, b, fmaf(a, own->to_grid[0], b * own->to_grid[1]),
                                 fmaf(a, own->to_grid[2], b * own->to_grid[3]), gain, 1.0f / gain);
}

/* Distance to the nearest point, and what f32 may be wrong by: shares of |x| + |c|. */
static void look_at_searches(sample *s, int h, const head_codec *codec)
{
    const int gain_bits = s->heads[h].block_codebook.gain_bits;
    const int d = s->model.head_dim;
    (void)codec;
    for (int v = 0; v < N_VECTORS; v++)
        for (int i = 0; i < s->image->block_codebook.n_blocks; i++) {
            const block_codebook_image_block *block = &blocks_of(s, h)[i];
            const float gain = s->image->block_codebook.heads[h].gains[v % (1 << gain_bits)], *x = s->x + v * d;
            const block_codebook *book;
            if (block->bits == 0 || block->first_bits > 0) continue;
            assert_ok(codec_tables_block_codebook(tables, block->bits, &book, &err));
            const double a = (double)x[block->dims & 0xffff] - (double)block->center[0],
                         b = (double)x[block->dims >> 16] - (double)block->center[1];
            const block_codebook_match match = match_of(s, h, i, x, gain);
            double least = INFINITY, found = INFINITY, largest = 0.0;
            for (int c = 0; c < book->size; c++) {
                const double px = (double)gain * (double)block->map[0] * (double)book->x[c];
                const double py =
                    (double)gain
                    * ((double)block->map[1] * (double)book->x[c] + (double)block->map[2] * (double)book->y[c]);
                const double distance = hypot(a - px, b - py);
                least = fmin(least, distance);
                largest = fmax(largest, hypot(px, py));
                if (c == match.code) found = distance;
            }
            const double size = hypot(a, b) + hypot((double)block->center[0], (double)block->center[1]) + largest;
            if (!(found <= least + 1e-6 * size))
                fail_msg("head %d block %d (%d bits), vector %d: point %d at %.9g, the nearest at %.9g", h, i,
                         block->bits, v, match.code, found, least);
            assert_true(fabs(sqrt((double)match.distance) - found) <= 1e-6 * size);
        }
}

static void cells_find_the_nearest_point(void **state)
{
    (void)state;
    for_every_head(look_at_searches);
}

/* One level after the other, by trying all: the second where the first left it. */
static void look_at_levels(sample *s, int h, const head_codec *codec)
{
    const int d = s->model.head_dim;
    (void)codec;
    for (int v = 0; v < N_VECTORS; v++)
        for (int i = 0; i < s->image->block_codebook.n_blocks; i++) {
            const block_codebook_image_block *block = &blocks_of(s, h)[i];
            const float gain = s->image->block_codebook.heads[h].gains[0], *x = s->x + v * d;
            const block_levels *levels[2];
            if (block->first_bits == 0) continue;
            assert_ok(codec_tables_block_levels(tables, block->first_bits, &levels[0], &err));
            assert_ok(codec_tables_block_levels(tables, block->bits - block->first_bits, &levels[1], &err));
            const block_codebook_match match = match_of(s, h, i, x, gain);
            const int at[2] = {match.code & ((1 << block->first_bits) - 1), match.code >> block->first_bits};
            double z[2] = {(double)x[block->dims & 0xffff] - (double)block->center[0],
                           (double)x[block->dims >> 16] - (double)block->center[1]},
                   distance = 0.0;
            const double size =
                hypot(z[0], z[1]) + hypot((double)block->center[0], (double)block->center[1])
                + 5.0 * (double)gain
                      * hypot(hypot((double)block->map[0], (double)block->map[1]), (double)block->map[2]);
            z[1] -= (double)gain * (double)block->map[1] * (double)levels[0]->level[at[0]];
            for (int j = 0; j < 2; j++) {
                const double scale = (double)gain * (double)block->map[2 * j];
                double least = INFINITY;
                for (int c = 0; c < levels[j]->size; c++)
                    least = fmin(least, fabs(z[j] - scale * (double)levels[j]->level[c]));
                const double found = fabs(z[j] - scale * (double)levels[j]->level[at[j]]);
                assert_true(found <= least + 1e-6 * size);
                distance = hypot(distance, found);
            }
            assert_true(fabs(sqrt((double)match.distance) - distance) <= 1e-6 * size);
        }
}

static void levels_are_found_one_after_the_other(void **state)
{
    (void)state;
    for_every_head(look_at_levels);
}

/* Places on every cell's edge and beyond, for anisotropic maps: the device's tanh may err by 2^-11 and still find the
 * nearest, since the neighbouring cell lists it too. */
static void look_at_neighbours(sample *s, int h, const head_codec *codec)
{
    (void)codec;
    for (int i = 0; i < s->image->block_codebook.n_blocks; i++) {
        const block_codebook_image_block *block = &blocks_of(s, h)[i];
        const block_codebook_image_head *head = &s->image->block_codebook.heads[h];
        const int first = head->first_point + block->first_point;
        const block_codebook_points points = {s->image->block_codebook.points_x + first,
                                              s->image->block_codebook.points_y + first};
        const uint32_t *cells = s->image->block_codebook.cells + head->first_cell + block->first_cell;
        if (block->n_columns == 0 || block->bits > 6) continue;
        for (int edge = 0; edge < block->n_columns - 1; edge++)
            for (int along = 0; along < 40; along++) {
                /* t at the edge between two columns, moved by what tanh may err. */
                const double t = (2.0 * edge + 1.0) / (block->n_columns - 1) - 1.0, u = atanh(t),
                             v = 4.0 * sin(along * 1.7);
                const double g[4] = {(double)block->to_grid[0], (double)block->to_grid[1], (double)block->to_grid[2],
                                     (double)block->to_grid[3]},
                             size = g[0] * g[3] - g[1] * g[2];
                const float x = (float)((g[3] * u - g[1] * v) / size), y = (float)((g[0] * v - g[2] * u) / size);
                const block_codebook_match all = block_codebook_search_all(points, 1 << block->bits, x, y, 1.0f);
                for (int side = -1; side <= 1; side += 2) {
                    const double moved = t * (1.0 + side * 0x1p-11);
                    const block_codebook_match found =
                        block_codebook_search(block, points, cells, x, y, (float)atanh(moved), (float)v, 1.0f, 1.0f);
                    assert_true(sqrtf(found.distance) <= sqrtf(all.distance)
                                                             + 1e-5f
                                                                   * (hypotf(x, y) + fabsf(block->map[0])
                                                                      + fabsf(block->map[1]) + fabsf(block->map[2])));
                }
            }
    }
}

static void cells_overlap_by_what_the_devices_tanh_may_err(void **state)
{
    (void)state;
    for_every_head(look_at_neighbours);
}

/* What makes the search fast: few points are tried. */
static void look_at_lists(sample *s, int h, const head_codec *codec)
{
    (void)codec;
    for (int i = 0; i < s->image->block_codebook.n_blocks; i++) {
        const block_codebook_image_block *block = &blocks_of(s, h)[i];
        const uint32_t *cells =
            s->image->block_codebook.cells + s->image->block_codebook.heads[h].first_cell + block->first_cell;
        const int wide = block->bits > BLOCK_CODEBOOK_BYTE_BITS;
        int n_long = 0;
        if (block->n_columns == 0) continue;
        assert_true(block->n_columns % 2 == 1 && block->n_rows % 2 == 1);
        for (int c = 0; c < block->n_columns * block->n_rows; c++)
            n_long += wide ? (cells[2 * c] & 0xffffu) > cells[2 * c + 1] >> 16 : (cells[c] & 0xffu) > cells[c] >> 24;
        assert_true(n_long * 4 <= block->n_columns * block->n_rows); /* maps of this test are very uneven */
    }
}

static void few_cells_list_more_than_four_points(void **state)
{
    (void)state;
    for_every_head(look_at_lists);
}

/* The whole of encode, in f32 as the kernel does it, and bit by bit the stream. */
static int encode_vector(uint8_t *packed, const sample *s, int h, const float *x)
{
    const block_codebook_image_head *head = &s->image->block_codebook.heads[h];
    const block_codebook_image_block *blocks = blocks_of(s, h);
    const int n_blocks = s->image->block_codebook.n_blocks, largest = (1 << head->gain_bits) - 1;
    int codes[3][MAX_BLOCKS], best = -1;
    float square = 0.0f, error[3], least = INFINITY;
    for (int i = 0; i < n_blocks; i++) {
        const float a = x[blocks[i].dims & 0xffff] - blocks[i].center[0],
                    b = x[blocks[i].dims >> 16] - blocks[i].center[1];
        square += blocks[i].weight * (a * a + b * b);
    }
    const int level = block_codebook_level(square, head->inverse_size, head->gain_bits);
    for (int k = 0; k < 3; k++) {
        error[k] = 0.0f;
        if (level + k - 1 < 0 || level + k - 1 > largest) continue;
        for (int i = 0; i < n_blocks; i++) {
            if (blocks[i].bits == 0) continue;
            const block_codebook_match match = match_of(s, h, i, x, head->gains[level + k - 1]);
            codes[k][i] = match.code;
            error[k] += blocks[i].weight * match.distance;
        }
        if (error[k] >= least) continue;
        least = error[k];
        best = k;
    }
    const int gain = level + best - 1;
    memset(packed, 0, (size_t)s->image->heads[h].packed_bytes);
    for (int b = 0; b < head->gain_bits; b++) packed[b / 8] |= (uint8_t)((gain >> b & 1) << b % 8);
    for (int i = 0; i < n_blocks; i++)
        for (int b = 0; b < blocks[i].bits; b++) {
            const int at = blocks[i].bit_first + b;
            packed[at / 8] |= (uint8_t)((codes[best][i] >> b & 1) << at % 8);
        }
    return gain;
}

static void look_at_encoding(sample *s, int h, const head_codec *codec)
{
    const int d = s->model.head_dim;
    const size_t packed_bytes = head_codec_packed_bytes(codec);
    uint8_t *codes = malloc((size_t)(N_VECTORS * d)), *packed = malloc(packed_bytes), *expected = malloc(packed_bytes);
    uint16_t unused;
    int n_different = 0;
    assert_true(codes && packed && expected);
    assert_ok(head_codec_encode(codec, s->x, N_VECTORS, codes, &unused, &err));
    for (int v = 0; v < N_VECTORS; v++) {
        encode_vector(packed, s, h, s->x + v * d);
        pack_codes(expected, codes + v * d, head_codec_widths(codec), d);
        n_different += memcmp(packed, expected, packed_bytes) != 0;
    }
    assert_true(n_different <= 2); /* f32 against double: a tie now and then */
    free(codes);
    free(packed);
    free(expected);
}

static void encoding_from_the_image_gives_the_references_bytes(void **state)
{
    (void)state;
    for_every_head(look_at_encoding);
}

/* ---- decode ---------------------------------------------------------------------------------- */

static int read_bits(const uint8_t *packed, int first, int n)
{
    int value = 0;
    for (int b = 0; b < n; b++) value |= (packed[(first + b) / 8] >> (first + b) % 8 & 1) << b;
    return value;
}

/* A code's point, or its two levels, x | y << 16. */
static uint32_t book_word(const sample *s, const block_codebook_image_block *block, int code)
{
    const block_codebook_image *image = &s->image->block_codebook;
    const uint32_t *levels = image->book + image->n_book - image->n_levels;
    const int first = block->first_bits, second = block->bits - first;
    if (block->bits == 0) return 0;
    if (first == 0) return image->book[(1 << block->bits) - 2 + code];
    return (levels[(1 << first) - 2 + (code & ((1 << first) - 1))] & 0xffffu)
           | (levels[(1 << second) - 2 + (code >> first)] & 0xffff0000u);
}

static void look_at_decoding(sample *s, int h, const head_codec *codec)
{
    const int d = s->model.head_dim;
    const block_codebook_image_head *head = &s->image->block_codebook.heads[h];
    const block_codebook_image_block *blocks = blocks_of(s, h);
    uint8_t *codes = malloc((size_t)(N_VECTORS * d)), *packed = malloc(head_codec_packed_bytes(codec));
    float *x_hat = malloc((size_t)(N_VECTORS * d) * sizeof *x_hat);
    uint16_t unused = 0;
    assert_true(codes && packed && x_hat);
    assert_ok(head_codec_encode(codec, s->x, N_VECTORS, codes, &unused, &err));
    assert_ok(head_codec_decode(codec, codes, &unused, N_VECTORS, x_hat, &err));
    for (int v = 0; v < N_VECTORS; v++) {
        pack_codes(packed, codes + v * d, head_codec_widths(codec), d);
        const float gain = head->gains[read_bits(packed, 0, head->gain_bits)];
        for (int i = 0; i < s->image->block_codebook.n_blocks; i++) {
            const uint32_t point = book_word(s, &blocks[i], read_bits(packed, blocks[i].bit_first, blocks[i].bits));
            const float px = rb_f16_to_f32((uint16_t)(point & 0xffffu)), py = rb_f16_to_f32((uint16_t)(point >> 16)),
                        *m = blocks[i].map;
            const float x = fmaf(gain, m[0] * px, blocks[i].center[0]),
                        y = fmaf(gain, fmaf(m[2], py, m[1] * px), blocks[i].center[1]);
            const float size = fabsf(blocks[i].center[0]) + fabsf(blocks[i].center[1])
                               + 4.0f * gain * (fabsf(m[0]) + fabsf(m[1]) + fabsf(m[2]));
            assert_true(fabsf(x - x_hat[v * d + (blocks[i].dims & 0xffff)]) <= 5e-7f * size);
            assert_true(fabsf(y - x_hat[v * d + (blocks[i].dims >> 16)]) <= 5e-7f * size);
        }
    }
    free(codes);
    free(packed);
    free(x_hat);
}

static void decoding_from_the_image_gives_the_references_vectors(void **state)
{
    (void)state;
    for_every_head(look_at_decoding);
}

static int open_tables(void **state)
{
    (void)state;
    return codec_tables_create(&tables, &err) == RB_OK ? 0 : -1;
}

static int close_tables(void **state)
{
    (void)state;
    codec_tables_free(tables);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_has_the_references_size_dims_and_stream),
        cmocka_unit_test(runs_of_dims_are_told),
        cmocka_unit_test(cells_find_the_nearest_point),
        cmocka_unit_test(levels_are_found_one_after_the_other),
        cmocka_unit_test(cells_overlap_by_what_the_devices_tanh_may_err),
        cmocka_unit_test(few_cells_list_more_than_four_points),
        cmocka_unit_test(encoding_from_the_image_gives_the_references_bytes),
        cmocka_unit_test(decoding_from_the_image_gives_the_references_vectors),
    };
    return cmocka_run_group_tests(tests, open_tables, close_tables);
}
