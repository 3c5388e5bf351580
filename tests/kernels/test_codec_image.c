/* What the images of all codec families share: where streams start, that costs add up, which arrays go to the device,
 * and what is refused. */
#include "tests/test_support.h"

#include "kernels/cuda/codec_image.h"

enum { N_HEADS = 3, D = 64, N_BLOCKS = D / 2, MAX_DIMS = 272 };

static rb_error err;
static codec_tables *tables;

/* ---- images to look at ----------------------------------------------------------------------- */

static model_facts some_model(int head_dim)
{
    return (model_facts){.n_layers = 1,
                         .n_q_heads = N_HEADS,
                         .n_kv_heads = N_HEADS,
                         .head_dim = head_dim,
                         .rotary_dim = head_dim,
                         .value_dim = head_dim,
                         .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}};
}

static void fill_trellis(plan_head *head, int h, int n_dims)
{
    static double basis[MAX_DIMS * MAX_DIMS];
    double weights[MAX_DIMS];
    uint8_t widths[MAX_DIMS];
    for (int i = 0; i < n_dims; i++) {
        for (int j = 0; j < n_dims; j++) basis[i * n_dims + j] = i == j ? 1.0 : 0.25 * (i == j + 1);
        weights[i] = 1.0;
        widths[i] = (uint8_t)(i == 0 ? 8 : 4 * (n_dims - i) / n_dims + h / 2);
    }
    assert_ok(plan_head_set_trellis(head, widths, basis, weights, h, 0, n_dims, &err));
}

/* A head of the family whose bits differ from head to head. */
static void fill_head(plan_head *head, codec_family family, int h, int n_blocks)
{
    double maps[BLOCK_CODEBOOK_MAP_SIZE * RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS];
    uint8_t bits[RB_MAX_BLOCKS];
    for (int i = 0; i < n_blocks; i++) {
        bits[i] = (uint8_t)(1 + (i * (h + 2) + h) % 5);
        for (int m = 0; m < BLOCK_CODEBOOK_MAP_SIZE; m++) maps[BLOCK_CODEBOOK_MAP_SIZE * i + m] = m == 1 ? 0.25 : 1.0;
        weights[i] = 1.0;
    }
    if (family == FAMILY_GROUPS) assert_ok(plan_head_set_block_widths(head, bits, n_blocks, CODEBOOK_SPHERE, &err));
    else if (family == FAMILY_TRELLIS) fill_trellis(head, h, 2 * n_blocks);
    else assert_ok(plan_head_set_block_codebook(head, bits, maps, weights, h, n_blocks, &err));
}

static void clear_heads(plan_head *heads)
{
    for (int h = 0; h < N_HEADS; h++) plan_head_clear(&heads[h]);
}

typedef void (*look)(const codec_image *image);

static void for_every_family(look at)
{
    for (int family = 0; family < FAMILY_N_KINDS; family++) {
        const model_facts model = some_model(D);
        plan_head heads[N_HEADS] = {0};
        codec_image *image = NULL;
        for (int h = 0; h < N_HEADS; h++) fill_head(&heads[h], (codec_family)family, h, N_BLOCKS);
        assert_ok(codec_image_build(&image, heads, N_HEADS, &model, tables, &err));
        assert_int_equal(image->family, family);
        at(image);
        codec_image_free(image);
        clear_heads(heads);
    }
}

/* ---- streams --------------------------------------------------------------------------------- */

/* Streams start at multiples of 128 bytes, hold their vectors, and leave less than 128 bytes after them. */
static void look_at_streams(const codec_image *image)
{
    static const int64_t counts[] = {0, 1, 31, 33, 128, 1000, 3000000000};
    for (size_t i = 0; i < RB_COUNT(counts); i++) {
        const int64_t n = counts[i];
        assert_int_equal(codec_image_packed_offset(image, 0, n), 0);
        assert_int_equal(codec_image_norms_offset(image, 0, n), 0);
        for (int h = 0; h < N_HEADS; h++) {
            const codec_image_head *head = &image->heads[h];
            const int64_t packed = codec_image_packed_offset(image, h + 1, n) - codec_image_packed_offset(image, h, n),
                          norms = codec_image_norms_offset(image, h + 1, n) - codec_image_norms_offset(image, h, n);
            assert_int_equal(packed % 128, 0);
            assert_int_equal(norms % 128, 0);
            assert_in_range(packed - n * head->packed_bytes, 0, 127);
            assert_in_range(norms - n * head->n_norms * head->norm_bytes, 0, 127);
        }
    }
}

static void streams_start_at_multiples_of_128_bytes_and_add_up(void **state)
{
    (void)state;
    for_every_family(look_at_streams);
}

/* ---- heads ----------------------------------------------------------------------------------- */

static void look_at_sums(const codec_image *image)
{
    int cost = 0, packed_bytes = 0, n_norms = 0;
    for (int h = 0; h < N_HEADS; h++) {
        const codec_image_head *head = &image->heads[h];
        assert_true(head->cost > 0);
        assert_int_equal(head->cost_before, cost);
        cost += head->cost;
        if (head->packed_bytes > packed_bytes) packed_bytes = head->packed_bytes;
        if (head->n_norms > n_norms) n_norms = head->n_norms;
    }
    assert_int_equal(image->max_packed_bytes, packed_bytes);
    assert_int_equal(image->max_norms, n_norms);
}

static void costs_add_up_and_largest_sizes_are_known(void **state)
{
    (void)state;
    for_every_family(look_at_sums);
}

/* ---- parts ----------------------------------------------------------------------------------- */

static bool has_part(const codec_image_part *parts, int n, size_t pointer_at)
{
    int found = 0;
    for (int i = 0; i < n; i++) found += parts[i].pointer_at == pointer_at;
    return found == 1;
}

/* A family's image ends with its pointers, from `first` to `end`: each is a part, and nothing else is. */
static void look_at_parts(const codec_image *image)
{
    static const struct {
        size_t first, end;
    } pointers[FAMILY_N_KINDS] = {
#define POINTERS(NAME, prefix, name) \
    {offsetof(codec_image, prefix.heads), offsetof(codec_image, prefix) + sizeof((codec_image *)0)->prefix},
        RB_CODEC_FAMILIES(POINTERS)
#undef POINTERS
    };
    const size_t first = pointers[image->family].first, end = pointers[image->family].end;
    codec_image_part parts[CODEC_IMAGE_MAX_PARTS];
    const int n = codec_image_list_parts(image, parts);
    unsigned sum = 0;
    assert_int_equal(n, 1 + (end - first) / sizeof(void *));
    assert_true(has_part(parts, n, offsetof(codec_image, heads)));
    for (size_t at = first; at < end; at += sizeof(void *)) assert_true(has_part(parts, n, at));
    for (int i = 0; i < n; i++) { /* the sanitizer build knows how long the arrays are */
        const uint8_t *from;
        memcpy(&from, (const char *)image + parts[i].pointer_at, sizeof from);
        for (size_t byte = 0; byte < parts[i].size_bytes; byte++) sum += from[byte];
    }
    assert_true(sum > 0);
}

static void every_array_of_the_family_is_a_part_for_the_device(void **state)
{
    (void)state;
    for_every_family(look_at_parts);
}

/* Where no image is made yet, memory is planned by this. */
static void a_heads_bytes_are_at_least_what_its_image_takes(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILY_N_KINDS; family++) {
        const model_facts model = some_model(D);
        plan_head heads[N_HEADS] = {0};
        codec_image_part parts[CODEC_IMAGE_MAX_PARTS];
        codec_image *image = NULL;
        int64_t expected = 0, bound = 0;
        for (int h = 0; h < N_HEADS; h++) {
            fill_head(&heads[h], (codec_family)family, h, N_BLOCKS);
            bound += codec_image_head_bytes(&heads[h], &model);
        }
        assert_ok(codec_image_build(&image, heads, N_HEADS, &model, tables, &err));
        const int n = codec_image_list_parts(image, parts);
        for (int i = 0; i < n; i++) expected += (int64_t)parts[i].size_bytes;
        assert_in_range(bound, expected, 20 * expected);
        codec_image_free(image);
        clear_heads(heads);
    }
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void a_layer_of_several_families_is_refused(void **state)
{
    (void)state;
    static const struct {
        codec_family first, last;
        const char *message;
    } cases[] = {
        {FAMILY_GROUPS, FAMILY_BLOCK_CODEBOOK,
         "the CUDA kernels take layers of one codec family, kv_head 0 is of groups, kv_head 2 of block-codebook"},
        {FAMILY_BLOCK_CODEBOOK, FAMILY_GROUPS,
         "the CUDA kernels take layers of one codec family, kv_head 0 is of block-codebook, kv_head 2 of groups"},
        {FAMILY_TRELLIS, FAMILY_GROUPS,
         "the CUDA kernels take layers of one codec family, kv_head 0 is of trellis, kv_head 2 of groups"},
    };
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        const model_facts model = some_model(D);
        plan_head heads[N_HEADS] = {0};
        codec_image *image = (codec_image *)&model; /* must become NULL */
        for (int h = 0; h < N_HEADS; h++)
            fill_head(&heads[h], h < N_HEADS - 1 ? cases[i].first : cases[i].last, h, N_BLOCKS);
        assert_fails(codec_image_build(&image, heads, N_HEADS, &model, tables, &err), RB_EUNSUPPORTED,
                     cases[i].message);
        assert_null(image);
        clear_heads(heads);
    }
}

static void head_dims_that_the_kernels_do_not_take_are_refused(void **state)
{
    (void)state;
    static const struct {
        int head_dim;
        const char *message;
    } cases[] = {
        {8, "the CUDA kernels take a head_dim that is a multiple of 16 up to 256, found 8"},
        {72, "the CUDA kernels take a head_dim that is a multiple of 16 up to 256, found 72"},
        {272, "the CUDA kernels take a head_dim that is a multiple of 16 up to 256, found 272"},
    };
    for (int family = 0; family < FAMILY_N_KINDS; family++)
        for (size_t i = 0; i < RB_COUNT(cases); i++) {
            const model_facts model = some_model(cases[i].head_dim);
            plan_head head = {0};
            codec_image *image = (codec_image *)&model; /* must become NULL */
            fill_head(&head, (codec_family)family, 0, cases[i].head_dim / 2);
            assert_fails(codec_image_build(&image, &head, 1, &model, tables, &err), RB_EUNSUPPORTED, cases[i].message);
            assert_null(image);
            plan_head_clear(&head);
        }
}

static void no_image_can_be_freed(void **state)
{
    (void)state;
    codec_image_free(NULL);
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
        cmocka_unit_test(streams_start_at_multiples_of_128_bytes_and_add_up),
        cmocka_unit_test(costs_add_up_and_largest_sizes_are_known),
        cmocka_unit_test(every_array_of_the_family_is_a_part_for_the_device),
        cmocka_unit_test(a_heads_bytes_are_at_least_what_its_image_takes),
        cmocka_unit_test(a_layer_of_several_families_is_refused),
        cmocka_unit_test(head_dims_that_the_kernels_do_not_take_are_refused),
        cmocka_unit_test(no_image_can_be_freed),
    };
    return cmocka_run_group_tests(tests, open_tables, close_tables);
}
