/* The image of heads of family groups that the CUDA kernels read, checked on the host by what it means, whatever its
 * exact layout: where dims go, that its tables give the reference's codes and its fragments the reference's rotations.
 */
#include "tests/test_support.h"

#include "core/half.h"
#include "kernels/cuda/codec_image.h"

enum { N_HEADS = 4 };

static rb_error err;

/* ---- images to look at ----------------------------------------------------------------------- */

typedef struct sample {
    model_facts model;
    plan_head heads[N_HEADS];
    codec_tables *tables;
    codec_image *image;
} sample;

static model_facts some_model(int head_dim, int rotary_dim, rope_pairing pairing)
{
    return (model_facts){.n_layers = 1,
                         .n_q_heads = N_HEADS,
                         .n_kv_heads = N_HEADS,
                         .head_dim = head_dim,
                         .rotary_dim = rotary_dim,
                         .value_dim = head_dim,
                         .rope = {.attention_factor = 1, .pairing = pairing}};
}

/* Head 0 is uniform, in natural order; head 1 has one width in block order; the others have many widths, groups of
 * every size. */
static void fill_heads(sample *s)
{
    const int n_blocks = model_n_blocks(&s->model);
    uint8_t bits[RB_MAX_BLOCKS];
    assert_ok(plan_head_set_uniform(&s->heads[0], 4, n_blocks, 1000, CODEBOOK_BLOCK_GTQ, &err));
    memset(bits, 5, sizeof bits);
    assert_ok(plan_head_set_block_widths(&s->heads[1], bits, n_blocks, CODEBOOK_SPHERE, &err));
    for (int h = 2; h < N_HEADS; h++) {
        for (int i = 0; i < n_blocks; i++) bits[i] = (uint8_t)(1 + (i * (h + 1) + i * i / 5 + h) % (h == 2 ? 8 : 5));
        assert_ok(plan_head_set_block_widths(&s->heads[h], bits, n_blocks,
                                             h == 2 ? CODEBOOK_BLOCK_GTQ : CODEBOOK_SPHERE, &err));
    }
}

static void build(sample *s, int head_dim, int rotary_dim, rope_pairing pairing)
{
    *s = (sample){.model = some_model(head_dim, rotary_dim, pairing)};
    assert_ok(codec_tables_create(&s->tables, &err));
    fill_heads(s);
    assert_ok(codec_image_build(&s->image, s->heads, N_HEADS, &s->model, s->tables, &err));
}

static void clear(sample *s)
{
    codec_image_free(s->image);
    for (int h = 0; h < N_HEADS; h++) plan_head_clear(&s->heads[h]);
    codec_tables_free(s->tables);
}

static const struct shape {
    int head_dim, rotary_dim;
    rope_pairing pairing;
} shapes[] = {
    {16, 16, ROPE_SPLIT_HALF}, {64, 64, ROPE_SPLIT_HALF},   {64, 64, ROPE_INTERLEAVED},
    {80, 32, ROPE_SPLIT_HALF}, {128, 128, ROPE_SPLIT_HALF}, {256, 64, ROPE_SPLIT_HALF},
};

typedef void (*look)(sample *s);
static void for_every_shape(look at)
{
    for (size_t i = 0; i < RB_COUNT(shapes); i++) {
        sample s;
        build(&s, shapes[i].head_dim, shapes[i].rotary_dim, shapes[i].pairing);
        at(&s);
        clear(&s);
    }
}

static const codebook *book_of(sample *s, int h, int g)
{
    const plan_group *group = &s->heads[h].groups.at[g];
    const codebook *book = NULL;
    assert_ok(codec_tables_codebook(s->tables, group->codebook, group->width, 2 * group->n_blocks, &book, &err));
    return book;
}

/* ---- dims and streams ------------------------------------------------------------------------ */

static void look_at_positions(sample *s)
{
    const int d = s->model.head_dim;
    for (int h = 0; h < N_HEADS; h++) {
        const uint16_t *position = s->image->groups.position + h * d;
        head_codec *codec = NULL;
        assert_ok(head_codec_create(&codec, &s->heads[h], &s->model, s->tables, &err));
        for (int p = 0; p < d; p++) assert_int_equal(position[head_codec_permutation(codec)[p]], p);
        head_codec_free(codec);
    }
}

static void positions_are_those_of_the_reference(void **state)
{
    (void)state;
    for_every_shape(look_at_positions);
}

/* Each group's dims, in its order, side by side from a multiple of 8 on; no column twice. */
static void look_at_columns(sample *s)
{
    const int d = s->model.head_dim;
    for (int h = 0; h < N_HEADS; h++) {
        const groups_image_head *head = &s->image->groups.heads[h];
        const uint16_t *column = s->image->groups.column + h * d;
        bool is_taken[RB_MAX_HEAD_DIM] = {false};
        assert_int_equal(head->n_columns % 8, 0);
        assert_true(head->n_columns <= RB_MAX_HEAD_DIM);
        for (int g = 0; g < s->heads[h].groups.n; g++) {
            int dims[RB_MAX_HEAD_DIM];
            plan_group_dims(&s->heads[h].groups.at[g], &s->model, dims);
            assert_int_equal(column[dims[0]] % 8, 0);
            for (int j = 0; j < 2 * s->heads[h].groups.at[g].n_blocks; j++) {
                assert_int_equal(column[dims[j]], column[dims[0]] + j);
                assert_true(column[dims[j]] < head->n_columns);
                assert_false(is_taken[column[dims[j]]]);
                is_taken[column[dims[j]]] = true;
            }
        }
    }
}

static void columns_start_every_group_at_a_multiple_of_8(void **state)
{
    (void)state;
    for_every_shape(look_at_columns);
}

static void look_at_groups(sample *s)
{
    int first_group = 0;
    for (int h = 0; h < N_HEADS; h++) {
        const groups_image_head *head = &s->image->groups.heads[h];
        int first = 0, bit = 0;
        assert_int_equal(head->n_groups, s->heads[h].groups.n);
        assert_int_equal(head->first_group, first_group);
        for (int g = 0; g < head->n_groups; g++) {
            const groups_image_group *group = &s->image->groups.at[first_group + g];
            const plan_group *from = &s->heads[h].groups.at[g];
            assert_int_equal(group->first, first);
            assert_int_equal(group->dims, 2 * from->n_blocks);
            assert_int_equal(group->width, from->width);
            assert_int_equal(group->bit_first, bit);
            first += group->dims;
            bit += group->dims * group->width;
        }
        assert_int_equal(first, s->model.head_dim);
        first_group += head->n_groups;
    }
    assert_int_equal(s->image->groups.n, first_group);
}

static void groups_are_the_plans_in_its_order(void **state)
{
    (void)state;
    for_every_shape(look_at_groups);
}

static void look_at_sizes(sample *s)
{
    for (int h = 0; h < N_HEADS; h++) {
        head_codec *codec = NULL;
        assert_ok(head_codec_create(&codec, &s->heads[h], &s->model, s->tables, &err));
        assert_int_equal(s->image->heads[h].packed_bytes, head_codec_packed_bytes(codec));
        assert_int_equal(s->image->heads[h].n_norms, head_codec_n_norms(codec));
        assert_int_equal(s->image->heads[h].norm_bytes, 2);
        head_codec_free(codec);
    }
}

static void streams_have_the_references_sizes(void **state)
{
    (void)state;
    for_every_shape(look_at_sizes);
}

/* What the kernels exploit must be so: they load by it. */
static void look_at_orders(sample *s)
{
    const int d = s->model.head_dim;
    for (int h = 0; h < N_HEADS; h++) {
        const uint16_t *position = s->image->groups.position + h * d;
        if (s->image->groups.heads[h].order == GROUPS_ORDER_NATURAL)
            for (int dim = 0; dim < d; dim++) assert_int_equal(position[dim], dim);
        if (s->image->groups.heads[h].order == GROUPS_ORDER_SPLIT_PAIRS)
            for (int dim = 0; dim < d / 2; dim++) {
                assert_int_equal(position[dim] % 2, 0);
                assert_int_equal(position[dim + d / 2], position[dim] + 1);
            }
    }
    assert_int_equal(s->image->groups.heads[0].order, GROUPS_ORDER_NATURAL);
    if (s->model.rotary_dim == d && s->model.rope.pairing == ROPE_SPLIT_HALF)
        for (int h = 1; h < N_HEADS; h++) assert_int_equal(s->image->groups.heads[h].order, GROUPS_ORDER_SPLIT_PAIRS);
    if (s->model.rope.pairing == ROPE_INTERLEAVED)
        assert_int_equal(s->image->groups.heads[1].order, GROUPS_ORDER_NATURAL);
}

static void an_order_that_the_kernels_exploit_is_one_that_the_dims_have(void **state)
{
    (void)state;
    for_every_shape(look_at_orders);
}

/* ---- codes by cells -------------------------------------------------------------------------- */

/* The formula of groups_image.h, in f32. */
static int code_by_cell(const codec_image *image, const groups_image_head *head, const groups_image_group *group,
                        float y)
{
    const int half = 1 << (group->log2_cells - 1), cell = half + (int)lrintf(y * GROUPS_CELL_RANGE * (float)(half - 1));
    assert_in_range(cell, 0, 2 * half - 1);
    assert_in_range(group->cells + cell, 0, head->n_cells - 1);
    const groups_image_cell *at = &image->groups.cells[head->first_cell + group->cells + cell];
    return (int)at->code + (y * GROUPS_STEEP + at->edge > 0.0f);
}

/* An f32 coordinate within a few roundings of a boundary may go either way: 2^-22, a twentieth of CODEC_CUDA_CODE_TIE.
 */
static void assert_code(sample *s, int h, int g, float y)
{
    static const double NEAR = 0x1p-22;
    const groups_image_head *head = &s->image->groups.heads[h];
    const codebook *book = book_of(s, h, g);
    const int found = code_by_cell(s->image, head, &s->image->groups.at[head->first_group + g], y),
              expected = codebook_code(book, (double)y);
    if (found == expected) return;
    const int boundary = found < expected ? found : expected;
    if (abs(found - expected) != 1 || fabs((double)y - book->boundary[boundary]) > NEAR)
        fail_msg("head_dim %d head %d group %d, width %d: y %.9g has code %d, expected %d", s->model.head_dim, h, g,
                 book->width, (double)y, found, expected);
}

static int n_groups_with_cells;

static void look_at_cells(sample *s)
{
    static const double steps[] = {0.0, 0x1p-24, 0x1p-22, 0x1p-21, 1e-6, 1e-5, 1e-4, 1e-3};
    for (int h = 0; h < N_HEADS; h++)
        for (int g = 0; g < s->heads[h].groups.n; g++) {
            const groups_image_group *group = &s->image->groups.at[s->image->groups.heads[h].first_group + g];
            const codebook *book = book_of(s, h, g);
            if (group->log2_cells == 0) continue;
            n_groups_with_cells++;
            assert_true(group->width >= GROUPS_CELL_WIDTH && group->log2_cells <= GROUPS_MAX_LOG2_CELLS);
            for (int i = -4096; i <= 4096; i++) assert_code(s, h, g, (float)i / 4096.0f);
            assert_code(s, h, g, 1.000001f); /* that rounding brought past 1 */
            assert_code(s, h, g, -1.000001f);
            for (int b = 0; b < book->size - 1; b++)
                for (size_t i = 0; i < RB_COUNT(steps); i++)
                    for (int sign = -1; sign <= 1; sign += 2)
                        if (fabs(book->boundary[b]) < 1.0)
                            assert_code(s, h, g, (float)(book->boundary[b] + sign * steps[i]));
        }
}

static void cells_find_the_references_codes(void **state)
{
    (void)state;
    n_groups_with_cells = 0;
    for_every_shape(look_at_cells);
    assert_true(n_groups_with_cells > 20);
}

/* ---- rotations in fragments ------------------------------------------------------------------ */

static double half_at(uint32_t word, int i) { return (double)rb_f16_to_f32((uint16_t)(word >> 16 * i)); }

/* Element (k, n) of B of mma.m16n8k16, high and low part together (PTX ISA): lane 4 n + k / 2 % 4 has it, in register k
 * / 8. */
static double fragment_element(const groups_image_lane *lanes, int k, int n)
{
    const groups_image_lane *lane = &lanes[4 * n + k / 2 % 4];
    return half_at(lane->at[k / 8], k % 2) + half_at(lane->at[2 + k / 8], k % 2);
}

/* Which column belongs to which coordinate is the kernels' business; but every column is a row of R (encode) or a
 * column of it (decode), each of them once, or 0. */
static void look_at_fragments(const codec_image *image, const groups_image_group *group, const double *rotation,
                              bool is_encode)
{
    const int m = group->dims, first = is_encode ? group->encode : group->decode;
    bool is_found[CODEC_IMAGE_MAX_DIMS] = {false};
    int n_found = 0;
    for (int tile = 0; tile < group->n_tiles; tile++)
        for (int n = 0; n < 8; n++) {
            double column[CODEC_IMAGE_MAX_DIMS + 16], square = 0.0;
            for (int k = 0; k < 16 * group->n_steps; k++) {
                const size_t fragment = (size_t)(first + tile * group->n_steps + k / 16);
                assert_true(fragment < image->groups.n_fragments);
                column[k] = fragment_element(image->groups.fragments + fragment * GROUPS_LANES, k % 16, n)
                            / (double)GROUPS_FRAGMENT_SCALE;
                square += column[k] * column[k];
                if (k >= m) assert_true(column[k] == 0.0);
            }
            if (square == 0.0) continue;
            for (int row = 0; row < m; row++) {
                double worst = 0.0;
                for (int k = 0; k < m; k++)
                    worst = fmax(worst, fabs(column[k] - rotation[is_encode ? row * m + k : k * m + row]));
                if (worst > 0x1p-20) continue;
                assert_false(is_found[row]);
                is_found[row] = true;
                n_found++;
                break;
            }
        }
    assert_int_equal(n_found, m);
}

static void look_at_rotations(sample *s)
{
    for (int h = 0; h < N_HEADS; h++)
        for (int g = 0; g < s->heads[h].groups.n; g++) {
            const groups_image_group *group = &s->image->groups.at[s->image->groups.heads[h].first_group + g];
            const double *rotation = NULL;
            assert_ok(codec_tables_rotation(s->tables, &s->heads[h].groups.at[g].rotation, &rotation, &err));
            look_at_fragments(s->image, group, rotation, true);
            look_at_fragments(s->image, group, rotation, false);
        }
}

static void fragments_hold_every_row_and_column_of_the_rotation(void **state)
{
    (void)state;
    for_every_shape(look_at_rotations);
}

/* ---- transforms ------------------------------------------------------------------------------ */

/* One head of one group. */
static void build_uniform(sample *s, int head_dim, rotation_kind kind)
{
    *s = (sample){.model = some_model(head_dim, head_dim, ROPE_SPLIT_HALF)};
    assert_ok(codec_tables_create(&s->tables, &err));
    assert_ok(plan_head_set_uniform(&s->heads[0], 3, head_dim / 2, 1000, CODEBOOK_BLOCK_GTQ, &err));
    s->heads[0].groups.at[0].rotation.kind = kind;
    assert_ok(codec_image_build(&s->image, s->heads, 1, &s->model, s->tables, &err));
}

/* Element (k, n), n up to 15, of a step: registers 0 and 1 are B for the first 8 columns, 2 and 3 for the others. */
static double transform_element(const groups_image_lane *lanes, int k, int n)
{
    return half_at(lanes[4 * (n % 8) + k / 2 % 4].at[n / 8 * 2 + k / 8], k % 2);
}

/* Across the steps: 1 or -1. */
static double butterfly(int a, int b) { return __builtin_popcount((unsigned)(a & b)) % 2 ? -1.0 : 1.0; }

static double sign_of_column(const groups_image_lane *signs, int column)
{
    const groups_image_lane *lane = &signs[column % 8 / 2];
    return lane->at[column / 128] >> (column / 8 % 16 + 16 * (column % 2)) & 1 ? -1.0 : 1.0;
}

static void assert_transform_is(const codec_image *image, const double *rotation)
{
    const groups_image_group *group = &image->groups.at[0];
    const int m = group->dims;
    const groups_image_lane *encode = image->groups.fragments + group->encode * GROUPS_LANES,
                            *decode = image->groups.fragments + group->decode * GROUPS_LANES;
    assert_int_equal(image->groups.heads[0].n_fragments_encode, m / 16);
    assert_int_equal(image->groups.heads[0].n_fragments_decode, 2);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++) {
            const double there =
                butterfly(i / 16, j / 16) * transform_element(encode + j / 16 * GROUPS_LANES, j % 16, i % 16);
            const double back = butterfly(i / 16, j / 16) * transform_element(decode, i % 16, j % 16)
                                * sign_of_column(decode + GROUPS_LANES, j);
            if (fabs(there / sqrt(m) - rotation[i * m + j]) > 0x1p-24
                || fabs(back / sqrt(m) - rotation[i * m + j]) > 0x1p-24) /* R is rounded to f32 */
                fail_msg("%d dims, row %d column %d: %g there and %g back, expected %g", m, i, j, there / sqrt(m),
                         back / sqrt(m), rotation[i * m + j]);
        }
}

static void hadamard_groups_of_a_power_of_two_are_transforms(void **state)
{
    (void)state;
    static const int head_dims[] = {64, 128, 256};
    for (size_t i = 0; i < RB_COUNT(head_dims); i++) {
        sample s;
        const double *rotation = NULL;
        build_uniform(&s, head_dims[i], ROTATION_HADAMARD);
        assert_int_equal(s.image->groups.at[0].is_transform, 1);
        assert_ok(codec_tables_rotation(s.tables, &s.heads[0].groups.at[0].rotation, &rotation, &err));
        assert_transform_is(s.image, rotation);
        clear(&s);
    }
}

static void other_groups_stay_with_the_matrix(void **state)
{
    (void)state;
    static const struct {
        int head_dim;
        rotation_kind kind;
    } cases[] = {
        {128, ROTATION_HAAR},
        {GROUPS_TRANSFORM_DIMS / 2, ROTATION_HADAMARD},
        {96, ROTATION_HADAMARD},
        {240, ROTATION_HADAMARD},
    };
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        sample s;
        const double *rotation = NULL;
        build_uniform(&s, cases[i].head_dim, cases[i].kind);
        assert_int_equal(s.image->groups.at[0].is_transform, 0);
        assert_ok(codec_tables_rotation(s.tables, &s.heads[0].groups.at[0].rotation, &rotation, &err));
        look_at_fragments(s.image, &s.image->groups.at[0], rotation, true);
        look_at_fragments(s.image, &s.image->groups.at[0], rotation, false);
        clear(&s);
    }
}

/* ---- same input, same image ------------------------------------------------------------------ */

static void two_builds_give_the_same_image(void **state)
{
    (void)state;
    sample one, two;
    build(&one, 128, 128, ROPE_SPLIT_HALF);
    build(&two, 128, 128, ROPE_SPLIT_HALF);
    assert_memory_equal(one.image->groups.heads, two.image->groups.heads, N_HEADS * sizeof *one.image->groups.heads);
    assert_memory_equal(one.image->groups.at, two.image->groups.at,
                        (size_t)one.image->groups.n * sizeof *one.image->groups.at);
    assert_int_equal(one.image->groups.n_fragments, two.image->groups.n_fragments);
    assert_memory_equal(one.image->groups.fragments, two.image->groups.fragments,
                        one.image->groups.n_fragments * GROUPS_LANES * sizeof *one.image->groups.fragments);
    clear(&one);
    clear(&two);
}

/* ---- refusals -------------------------------------------------------------------------------- */

/* A head of single-block groups: more than a plan of 8 widths makes by itself, as many as a plan file may hold. */
static void fill_single_blocks(plan_head *head, int n_groups)
{
    head->groups.at = calloc((size_t)n_groups, sizeof *head->groups.at);
    assert_non_null(head->groups.at);
    head->groups.n = n_groups;
    for (int g = 0; g < n_groups; g++) {
        int *blocks = malloc(sizeof *blocks);
        assert_non_null(blocks);
        *blocks = g;
        head->groups.at[g] = (plan_group){.width = 2,
                                          .n_blocks = 1,
                                          .blocks = blocks,
                                          .order = GROUP_ORDER_BLOCK,
                                          .rotation = {ROTATION_HAAR, 44, 2},
                                          .codebook = CODEBOOK_SPHERE};
    }
}

static void more_than_32_groups_are_refused_by_head(void **state)
{
    (void)state;
    codec_tables *tables = NULL;
    codec_image *image = NULL;
    assert_ok(codec_tables_create(&tables, &err));
    for (int n_groups = 32; n_groups <= 40; n_groups += 8) {
        const model_facts model = some_model(2 * n_groups, 2 * n_groups, ROPE_SPLIT_HALF);
        plan_head heads[2] = {{0}, {0}};
        assert_ok(plan_head_set_uniform(&heads[0], 3, n_groups, 42, CODEBOOK_SPHERE, &err));
        fill_single_blocks(&heads[1], n_groups);
        if (n_groups == 32) assert_ok(codec_image_build(&image, heads, 2, &model, tables, &err));
        else
            assert_fails(codec_image_build(&image, heads, 2, &model, tables, &err), RB_EUNSUPPORTED,
                         "the CUDA kernels take 1 to 32 groups a head, kv_head 1 has 40");
        codec_image_free(image);
        for (int h = 0; h < 2; h++) plan_head_clear(&heads[h]);
    }
    codec_tables_free(tables);
}

static void a_head_without_groups_is_refused(void **state)
{
    (void)state;
    const model_facts model = some_model(64, 64, ROPE_SPLIT_HALF);
    const plan_head empty = {0};
    codec_tables *tables = NULL;
    codec_image *image = NULL;
    assert_ok(codec_tables_create(&tables, &err));
    assert_fails(codec_image_build(&image, &empty, 1, &model, tables, &err), RB_EUNSUPPORTED, "kv_head 0 has 0");
    assert_null(image);
    codec_image_free(NULL);
    codec_tables_free(tables);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(positions_are_those_of_the_reference),
        cmocka_unit_test(columns_start_every_group_at_a_multiple_of_8),
        cmocka_unit_test(groups_are_the_plans_in_its_order),
        cmocka_unit_test(streams_have_the_references_sizes),
        cmocka_unit_test(an_order_that_the_kernels_exploit_is_one_that_the_dims_have),
        cmocka_unit_test(cells_find_the_references_codes),
        cmocka_unit_test(fragments_hold_every_row_and_column_of_the_rotation),
        cmocka_unit_test(hadamard_groups_of_a_power_of_two_are_transforms),
        cmocka_unit_test(other_groups_stay_with_the_matrix),
        cmocka_unit_test(two_builds_give_the_same_image),
        cmocka_unit_test(more_than_32_groups_are_refused_by_head),
        cmocka_unit_test(a_head_without_groups_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
