/* The image of heads of family groups in the general form, by what it means: where dims of no group go, that bytes of
 * norms are bytes, that fragments hold scaled rotations and coordinates start from where the centre puts them, that a
 * search's levels are the codebook's and a step crosses no more of them than it says. */
#include "tests/test_support.h"

#include "core/half.h"
#include "kernels/cuda/codec_image.h"
#include "kernels/reference/encoder_stretches.h"

enum { D = 64, N_BLOCKS = D / 2, N_HEADS = 2 };

static rb_error err;

typedef struct sample {
    model_facts model;
    plan_head heads[N_HEADS];
    double scales[N_BLOCKS], center[D];
    codec_tables *tables;
    codec_image *image;
} sample;

/* Head 0: three groups and dims of none, bytes for norms, scales, a centre, a search. Head 1: one group, and nothing of
 * that. */
static void build(sample *s, rotation_kind rotation, rope_pairing pairing)
{
    static const int widths[] = {2, 4, 7};
    *s = (sample){.model = {.n_layers = 1,
                            .n_q_heads = N_HEADS,
                            .n_kv_heads = N_HEADS,
                            .head_dim = D,
                            .rotary_dim = D,
                            .value_dim = D,
                            .rope = {.attention_factor = 1, .pairing = pairing}}};
    assert_ok(codec_tables_create(&s->tables, &err));
    s->heads[0] = (plan_head){.groups.norm = NORM_LOG8, .groups.encoder = ENCODER_SEARCH};
    for (int g = 0; g < 3; g++) {
        int blocks[N_BLOCKS], n = 0;
        for (int i = 0; i < N_BLOCKS - 1; i++)
            if (i % 4 == g) blocks[n++] = i; /* 8, 8 and 8; the others are in none */
        assert_ok(plan_head_add_group(&s->heads[0], widths[g], blocks, n - (g == 2), CODEBOOK_SPHERE, 3 + g, &err));
        s->heads[0].groups.at[g].rotation.kind = rotation;
    }
    for (int i = 0; i < N_BLOCKS; i++) s->scales[i] = 0.375 * (1 + i % 7);
    for (int i = 0; i < D; i++) s->center[i] = 0.25 * (i - 20);
    assert_ok(plan_head_set_transform(&s->heads[0], s->scales, N_BLOCKS, s->center, D, &err));
    assert_ok(plan_head_set_uniform(&s->heads[1], 4, N_BLOCKS, 1000, CODEBOOK_BLOCK_GTQ, &err));
    s->heads[1].groups.at[0].rotation.kind = rotation;
    assert_ok(codec_image_build(&s->image, s->heads, N_HEADS, &s->model, s->tables, &err));
}

static void clear(sample *s)
{
    codec_image_free(s->image);
    for (int h = 0; h < N_HEADS; h++) plan_head_clear(&s->heads[h]);
    codec_tables_free(s->tables);
}

static double scale_of(const sample *s, int dim)
{
    for (int block = 0; block < N_BLOCKS; block++) {
        int dims[2];
        model_block_dims(&s->model, block, dims);
        if (dims[0] == dim || dims[1] == dim) return s->scales[block];
    }
    fail_msg("dim %d is in no block", dim);
    return 0.0;
}

/* ---- dims ------------------------------------------------------------------------------------ */

static void dims_of_no_group_have_columns_after_a_gap_and_positions_as_the_reference(void **state)
{
    (void)state;
    for (int pairing = ROPE_SPLIT_HALF; pairing <= ROPE_INTERLEAVED; pairing++) {
        sample s;
        build(&s, ROTATION_HAAR, (rope_pairing)pairing);
        const groups_image_head *head = &s.image->groups.heads[0];
        const groups_image_group *last = &s.image->groups.at[2];
        bool is_taken[2 * RB_MAX_HEAD_DIM] = {false};
        uint8_t bits[RB_MAX_BLOCKS];
        head_codec *codec = NULL;
        assert_ok(head_codec_create(&codec, &s.heads[0], &s.model, s.tables, &err));
        assert_int_equal(head->n_coded, 16 + 16 + 14);
        assert_int_equal(head->first_uncoded, last->column + 8 * last->n_tiles + 8);
        assert_int_equal(head->n_columns % 8, 0);
        assert_true(head->n_columns <= s.image->groups.max_columns);
        assert_int_equal(s.image->heads[0].packed_bytes, head_codec_packed_bytes(codec));
        for (int p = 0; p < D; p++) {
            const int dim = head_codec_permutation(codec)[p], column = s.image->groups.column[dim];
            assert_int_equal(s.image->groups.position[dim], p);
            assert_int_equal(column >= head->first_uncoded, p >= head->n_coded);
            assert_true(column < head->n_columns && !is_taken[column]);
            is_taken[column] = true;
        }
        plan_head_bits(&s.heads[0], bits, N_BLOCKS);
        for (int block = 0; block < N_BLOCKS; block++) { /* in a group or not, a block's dims are neighbours */
            int dims[2];
            model_block_dims(&s.model, block, dims);
            assert_int_equal(s.image->groups.column[dims[1]], s.image->groups.column[dims[0]] + 1);
        }
        assert_int_equal(s.image->groups.heads[1].n_coded, D);
        assert_int_equal(head->order, pairing == ROPE_SPLIT_HALF ? GROUPS_ORDER_SPLIT_PAIRS : GROUPS_ORDER_ANY);
        head_codec_free(codec);
        clear(&s);
    }
}

/* ---- norms ----------------------------------------------------------------------------------- */

static void bytes_of_norms_are_bytes(void **state)
{
    (void)state;
    enum { N = 37 };
    sample s;
    uint16_t norms[N_HEADS][N * 3], again[N * 3];
    build(&s, ROTATION_HAAR, ROPE_SPLIT_HALF);
    const int64_t size = codec_image_norms_offset(s.image, N_HEADS, N),
                  second = codec_image_norms_offset(s.image, 1, N);
    assert_int_equal(second, 128);     /* 3 x 37 bytes */
    assert_int_equal(size, 128 + 128); /* 2 x 37 bytes */
    uint8_t *streams = calloc((size_t)size, 1);
    assert_non_null(streams);
    for (int i = 0; i < N * 3; i++) norms[0][i] = (uint16_t)(i * 7 % 256), norms[1][i] = (uint16_t)(i * 1001);
    for (int h = 0; h < N_HEADS; h++) codec_image_write_norms(streams, s.image, h, norms[h], N);
    for (int i = 0; i < N * 3; i++) assert_int_equal(streams[i], i * 7 % 256);
    for (int i = N * 3; i < second; i++) assert_int_equal(streams[i], 0);
    for (int h = 0; h < N_HEADS; h++) {
        codec_image_read_norms(again, s.image, h, streams, N);
        assert_memory_equal(again, norms[h], (size_t)(N * (h == 0 ? 3 : 1)) * sizeof *again);
    }
    free(streams);
    clear(&s);
}

/* ---- rotations ------------------------------------------------------------------------------- */

static double half_of(uint32_t word, int i) { return (double)rb_f16_to_f32((uint16_t)(word >> 16 * i)); }

/* Entry (k, n) of a product's operand B, as mma.m16n8k16 has it: from the lane and register that hold it. */
static double entry_of(const codec_image *image, const groups_image_group *group, int first_fragment, int inner,
                       int outer)
{
    const int k = inner % 16, n = outer % 8, lane = n * 4 + k % 8 / 2, r = k / 8;
    const groups_image_lane *fragment =
        image->groups.fragments
        + ((size_t)first_fragment + (size_t)(outer / 8 * group->n_steps + inner / 16)) * GROUPS_LANES;
    return (half_of(fragment[lane].at[r], k % 2) + half_of(fragment[lane].at[2 + r], k % 2))
           / (double)GROUPS_FRAGMENT_SCALE;
}

static void fragments_hold_scaled_rotations_and_shifts_the_rotated_centre(void **state)
{
    (void)state;
    for (int kind = 0; kind < ROTATION_N_KINDS; kind++) {
        sample s;
        build(&s, (rotation_kind)kind, ROPE_SPLIT_HALF);
        const codec_image *image = s.image;
        assert_int_equal(image->groups.is_published, 0);
        for (int g = 0; g < 3; g++) {
            const groups_image_group *group = &image->groups.at[g];
            const double *rotation, to_scale = ldexp(1.0, group->encode_exponent);
            int dims[D];
            assert_ok(codec_tables_rotation(s.tables, &s.heads[0].groups.at[g].rotation, &rotation, &err));
            plan_group_dims(&s.heads[0].groups.at[g], &s.model, dims);
            for (int row = 0; row < group->dims; row++) {
                double shift = 0.0;
                for (int j = 0; j < group->dims; j++) {
                    const double r = rotation[row * group->dims + j], scale = scale_of(&s, dims[j]);
                    assert_true(fabs(to_scale * entry_of(image, group, group->encode, j, row) - r * scale)
                                < 1e-6 * scale);
                    assert_true(
                        fabs((double)group->decode_scale * entry_of(image, group, group->decode, row, j) - r / scale)
                        < 1e-6 / scale);
                    shift -= r * scale * s.center[dims[j]];
                }
                assert_true(
                    fabs((double)image->groups.shifts[group->column + row] * to_scale / (double)GROUPS_FRAGMENT_SCALE
                         - shift)
                    < 1e-5);
            }
        }
        assert_int_equal(image->groups.at[3].is_transform,
                         0); /* beside others, a Hadamard rotation of 64 dims is a matrix too */
        assert_true(image->groups.at[3].decode_scale == 1.0f && image->groups.at[3].encode_exponent == 0);
        clear(&s);
    }
}

static void columns_have_the_centres_and_scales_of_their_dims(void **state)
{
    (void)state;
    sample s;
    build(&s, ROTATION_HAAR, ROPE_SPLIT_HALF);
    for (int dim = 0; dim < D; dim++) {
        const int column = s.image->groups.column[dim],
                  other = s.image->groups.column[D + dim] + s.image->groups.max_columns;
        assert_true((double)s.image->groups.centers[column] == s.center[dim]);
        assert_true(fabs((double)s.image->groups.inverse_scales[column] * scale_of(&s, dim) - 1.0) < 1e-6);
        assert_true(s.image->groups.centers[other] == 0.0f
                    && signbit(s.image->groups.centers[other])); /* added to 0 of any sign, nothing changes */
        assert_true(s.image->groups.inverse_scales[other] == 1.0f && s.image->groups.shifts[other] == 0.0f);
    }
    assert_true(s.image->groups.heads[0].largest_center == 10.25f && s.image->groups.heads[1].largest_center == 0.0f);
    clear(&s);
}

/* ---- levels ---------------------------------------------------------------------------------- */

/* A coordinate goes up the levels as it is stretched, n_crossed at most from one stretch to the next, and is where
 * codebook_code has it. */
static void a_walk_up_the_levels_keeps_to_the_codebook(void **state)
{
    (void)state;
    static const double stretches[] = {ENCODER_STRETCHES_DOWN, 1.0, ENCODER_STRETCHES_UP};
    static const struct {
        int width, dims, n_crossed;
    } cases[] = {{2, 16, 1}, {3, 32, 1}, {4, 64, 1}, {5, 64, 1}, {6, 64, 2}, {8, 64, 6}, {4, 2, 1}};
    for (size_t c = 0; c < RB_COUNT(cases); c++) {
        const model_facts model = {.n_layers = 1,
                                   .n_q_heads = 1,
                                   .n_kv_heads = 1,
                                   .head_dim = D,
                                   .rotary_dim = D,
                                   .value_dim = D,
                                   .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}};
        int blocks[N_BLOCKS];
        plan_head head = {.groups.encoder = ENCODER_SEARCH};
        codec_tables *tables = NULL;
        codec_image *image = NULL;
        const codebook *book;
        for (int i = 0; i < N_BLOCKS; i++) blocks[i] = i;
        assert_ok(codec_tables_create(&tables, &err));
        assert_ok(plan_head_add_group(&head, cases[c].width, blocks, cases[c].dims / 2, CODEBOOK_SPHERE, 0, &err));
        assert_ok(codec_image_build(&image, &head, 1, &model, tables, &err));
        assert_ok(codec_tables_codebook(tables, CODEBOOK_SPHERE, cases[c].width, cases[c].dims, &book, &err));
        const groups_image_group *group = &image->groups.at[0];
        const float *walk = image->groups.books + image->groups.heads[0].first_book + group->walk;
        assert_int_equal(group->walk % 2, 0);
        assert_int_equal(group->n_crossed, cases[c].n_crossed);
        for (double size = 0.0003; size < 1.0; size += 0.0007) {
            int level = 0;
            while (stretches[0] * size > (double)walk[2 * level]) level++;
            for (size_t s = 0; s < RB_COUNT(stretches); s++) {
                for (int i = 0; s > 0 && i < group->n_crossed; i++)
                    level += stretches[s] * size > (double)walk[2 * level];
                const int code = codebook_code(book, stretches[s] * size);
                assert_int_equal(level + book->size / 2, code);
                assert_true(walk[2 * level + 1] == book->centroid_f32[code]);
            }
        }
        codec_image_free(image);
        plan_head_clear(&head);
        codec_tables_free(tables);
    }
}

/* A stretched coordinate can be more than 1, where there are no cells: no book with a boundary there may have any.
 * Block-GTQ's law ends nowhere: 6 bits of 8 dims have some. */
static void cells_end_after_the_last_boundary(void **state)
{
    (void)state;
    static const int n_blocks[] = {4, 32};
    for (int is_searched = 0; is_searched < 2; is_searched++)
        for (size_t i = 0; i < RB_COUNT(n_blocks); i++) {
            const model_facts model = {.n_layers = 1,
                                       .n_q_heads = 1,
                                       .n_kv_heads = 1,
                                       .head_dim = D,
                                       .rotary_dim = D,
                                       .value_dim = D,
                                       .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}};
            const int n = n_blocks[i];
            int blocks[N_BLOCKS];
            codec_tables *tables = NULL;
            codec_image *image = NULL;
            const codebook *book;
            for (int b = 0; b < N_BLOCKS; b++) blocks[b] = b;
            plan_head head = {.groups.norm = NORM_LOG8,
                              .groups.encoder = is_searched ? ENCODER_SEARCH : ENCODER_NEAREST};
            assert_ok(codec_tables_create(&tables, &err));
            assert_ok(plan_head_add_group(&head, 6, blocks, n, CODEBOOK_BLOCK_GTQ, 0, &err));
            assert_ok(codec_tables_codebook(tables, CODEBOOK_BLOCK_GTQ, 6, 2 * n, &book, &err));
            assert_int_equal(book->boundary[book->size - 2] >= 1.0, n == 4);
            assert_ok(codec_image_build(&image, &head, 1, &model, tables, &err));
            assert_int_equal(image->groups.at[0].log2_cells == 0, n == 4);
            codec_image_free(image);
            plan_head_clear(&head);
            codec_tables_free(tables);
        }
}

static void a_plan_of_the_published_form_has_an_image_of_it(void **state)
{
    (void)state;
    const model_facts model = {.n_layers = 1,
                               .n_q_heads = 1,
                               .n_kv_heads = 1,
                               .head_dim = D,
                               .rotary_dim = D,
                               .value_dim = D,
                               .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}};
    codec_tables *tables = NULL;
    assert_ok(codec_tables_create(&tables, &err));
    for (int is_searched = 0; is_searched < 2; is_searched++) {
        plan_head head = {0};
        codec_image *image = NULL;
        assert_ok(plan_head_set_uniform(&head, 3, N_BLOCKS, 42, CODEBOOK_BLOCK_GTQ, &err));
        head.groups.at[0].rotation.kind = ROTATION_HADAMARD;
        if (is_searched) head.groups.encoder = ENCODER_SEARCH;
        assert_ok(codec_image_build(&image, &head, 1, &model, tables, &err));
        assert_int_equal(image->groups.is_published, !is_searched);
        assert_int_equal(image->groups.at[0].is_transform, !is_searched);
        assert_int_equal(image->heads[0].norm_bytes, 2);
        assert_int_equal(image->groups.heads[0].n_columns, D);
        codec_image_free(image);
        plan_head_clear(&head);
    }
    codec_tables_free(tables);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dims_of_no_group_have_columns_after_a_gap_and_positions_as_the_reference),
        cmocka_unit_test(bytes_of_norms_are_bytes),
        cmocka_unit_test(fragments_hold_scaled_rotations_and_shifts_the_rotated_centre),
        cmocka_unit_test(columns_have_the_centres_and_scales_of_their_dims),
        cmocka_unit_test(a_walk_up_the_levels_keeps_to_the_codebook),
        cmocka_unit_test(cells_end_after_the_last_boundary),
        cmocka_unit_test(a_plan_of_the_published_form_has_an_image_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
