/* Token files of all three forms, texts cut to what is needed, and the check that texts do not overlap. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "tests/texts/folder_tokens.h"

static const char *file_with(const char *name, const void *bytes, size_t size)
{
    rb_error err = {0};
    const char *path = scratch_path(name);
    assert_ok(rb_atomic_write(path, bytes, size, &err));
    return path;
}

static void assert_ids(const char *path, const int32_t *expected, int64_t n)
{
    rb_error err = {0};
    token_list list = {0};
    assert_ok(tokens_from_file(&list, path, &err));
    assert_int_equal(list.n, n);
    assert_memory_equal(list.ids, expected, (size_t)n * sizeof *expected);
    token_list_free(&list);
}

static void id_files_of_all_three_forms_give_the_same_ids(void **state)
{
    (void)state;
    const int32_t ids[] = {7, 0, 16777215, 65};
    const char json[] = " [7, 0, 16777215, 65]\n", lines[] = "7\n0\n\n16777215\r\n65",
               marked[] = "\xef\xbb\xbf[7, 0, 16777215, 65]";
    assert_ids(file_with("ids.json", json, strlen(json)), ids, 4);
    assert_ids(file_with("marked.json", marked, strlen(marked)), ids, 4);
    assert_ids(file_with("ids.txt", lines, strlen(lines)), ids, 4);
    assert_ids(file_with("ids.bin", ids, sizeof ids), ids, 4);
}

static void damaged_id_files_are_refused_with_their_place(void **state)
{
    (void)state;
    rb_error err = {0};
    token_list list = {0};
    assert_fails(tokens_from_file(&list, file_with("a.json", "[1, -2]", 7), &err), RB_EFORMAT, "entry 1 is -2, ");
    assert_fails(tokens_from_file(&list, file_with("b.json", "[1, 2.5]", 8), &err), RB_EFORMAT, "entry 1 is 2.5, ");
    assert_fails(tokens_from_file(&list, file_with("n.json", "[[1, 2]]", 8), &err), RB_EFORMAT, "entry 0 is a list");
    assert_fails(tokens_from_file(&list, file_with("o.json", "{\"ids\": [1]}", 12), &err), RB_EFORMAT,
                 "line 1: \"{\"ids\":\" is no token id, expected a JSON list");
    assert_fails(tokens_from_file(&list, file_with("m.txt", "1\n-5\n", 5), &err), RB_EFORMAT, "line 2: \"-5\"");
    assert_fails(tokens_from_file(&list, file_with("p.txt", "1, 2", 4), &err), RB_EFORMAT, "line 1: \"1,\"");
    assert_fails(tokens_from_file(&list, file_with("g.json", "[]", 2), &err), RB_EFORMAT, "no token ids");
    assert_fails(tokens_from_file(&list, file_with("c.json", "[1, 2", 5), &err), RB_EFORMAT, "c.json");
    assert_fails(tokens_from_file(&list, file_with("d.txt", "1\n99999999999\n", 14), &err), RB_EFORMAT, "line 2");
    assert_fails(tokens_from_file(&list, file_with("e.bin", "\1\0\0\0\2", 5), &err), RB_EFORMAT, "multiple of 4");
    assert_fails(tokens_from_file(&list, file_with("f.txt", "  \n", 3), &err), RB_EFORMAT, "no token ids");
    assert_fails(tokens_from_file(&list, scratch_path("absent"), &err), RB_EIO, "absent");
    assert_null(list.ids);
}

/* A first id of 91, 347, 603, ... has the first byte of a JSON list; others have those of digits and white space. */
static void binary_ids_are_binary_whatever_byte_comes_first(void **state)
{
    (void)state;
    for (int32_t first = 0; first < 1024; first++) {
        const int32_t ids[] = {first, 4000, 17};
        assert_ids(file_with("first.i32", ids, sizeof ids), ids, 3);
        assert_ids(file_with("single.i32", ids, sizeof *ids), ids, 1);
    }
}

static void binary_of_another_type_is_refused_by_its_reason(void **state)
{
    (void)state;
    rb_error err = {0};
    token_list list = {0};
    const int64_t wide[] = {91, 4000, 17, 5}, masked[] = {91, -100, 17};
    const uint64_t wide_big[] = {__builtin_bswap64(91), __builtin_bswap64(4000)};
    const uint32_t big[] = {__builtin_bswap32(91), __builtin_bswap32(4000)};
    const uint16_t narrow[] = {91, 4000, 17, 5, 12, 3000}, high[] = {40000, 50000, 60000, 17};
    const float floats[] = {91, 4000, 17};
    const double doubles[] = {91, 4000, 17};
    const int32_t negative[] = {91, -100, 17}, header[] = {20240520, 1, 2, 0};
    const struct {
        const void *bytes;
        size_t size;
        const char *reason;
    } cases[] = {
        {wide, sizeof wide, "every second id is 0: int64?"},
        {wide, sizeof *wide, "every second id is 0: int64?"},
        {masked, sizeof masked, "every second id is 0: int64?"},
        {wide_big, sizeof wide_big, "every second id is 0: int64?"},
        {big, sizeof big, "id 0, read as int32, is 1526726656: big-endian int32?"},
        {narrow, sizeof narrow, "id 0, read as int32, is 262144091: uint16"},
        {high, sizeof high, "uint16"},
        {narrow, sizeof narrow - 2, "no multiple of 4: uint16?"},
        {floats, sizeof floats, "float32?"},
        {doubles, sizeof doubles, "float64?"},
        {negative, sizeof negative, "id 1, read as int32, is -100: a negative number"},
        {header, sizeof header, "an llm.c token file"},
        {"\x93NUMPY\1\0v\0{'descr': '<i8'", 26, "a NumPy .npy file"},
        {"\x1f\x8b\x08\0\0\0\0\0", 8, "compressed by gzip"},
        {"PK\3\4\0\0\0\0", 8, "a zip archive"},
        {"\xff\xfe[\0001\0]\0", 8, "UTF-16 text"},
    };
    for (size_t i = 0; i < RB_COUNT(cases); i++)
        assert_fails(tokens_from_file(&list, file_with("other.bin", cases[i].bytes, cases[i].size), &err), RB_EFORMAT,
                     cases[i].reason);
    assert_null(list.ids);
    /* small ids of uint16, which only the vocabulary gives away */
    const int32_t pairs[] = {5 | 17 << 16, 40 | 3 << 16};
    assert_ids(file_with("pairs.u16", pairs, sizeof pairs), pairs, 2);
    assert_fails(tokens_check(pairs, 2, 65, "x", &err), RB_EINVAL, "vocabulary of 65 (uint16, read as int32?)");
}

static void ids_outside_the_vocabulary_are_named(void **state)
{
    (void)state;
    rb_error err = {0};
    const int32_t ids[] = {0, 4095, 4096, -1};
    assert_ok(tokens_check(ids, 2, 4096, "x", &err));
    assert_fails(tokens_check(ids, 3, 4096, "x", &err), RB_EINVAL, "token 2 is 4096");
    assert_fails(tokens_check(ids + 3, 1, 4096, "x", &err), RB_EINVAL, "token 0 is -1");
}

/* Distinct ids, so that only what a test copies is shared. */
static void fill_distinct(int32_t *ids, int n, int32_t first)
{
    for (int i = 0; i < n; i++) ids[i] = first + i;
}

static void a_shared_run_is_found_wherever_it_stands_and_shorter_ones_are_not(void **state)
{
    (void)state;
    enum { N = 1000 };
    int32_t calibration[N], test[N];
    rb_error err = {0};
    for (int from = 0; from <= N - TOKENS_OVERLAP; from += 109) {
        for (int to = 0; to <= N - TOKENS_OVERLAP; to += 97) {
            fill_distinct(calibration, N, 0);
            fill_distinct(test, N, 100000);
            memcpy(test + to, calibration + from, (TOKENS_OVERLAP - 1) * sizeof *test);
            assert_ok(tokens_check_disjoint(calibration, N, test, N, &err));
            test[to + TOKENS_OVERLAP - 1] = calibration[from + TOKENS_OVERLAP - 1];
            char place[96];
            snprintf(place, sizeof place, "test token %d are those from calibration token %d", to, from);
            assert_fails(tokens_check_disjoint(calibration, N, test, N, &err), RB_EINVAL, place);
        }
    }
}

/* The documented limit, as a number: a run of 128 tokens is a repetition, one of 127 is not. */
static void a_run_of_128_tokens_is_too_long_and_one_of_127_is_not(void **state)
{
    (void)state;
    enum { N = 300, AT = 40 };
    int32_t calibration[N], test[N];
    rb_error err = {0};
    fill_distinct(calibration, N, 0);
    fill_distinct(test, N, 100000);
    memcpy(test + AT, calibration, 127 * sizeof *test);
    assert_ok(tokens_check_disjoint(calibration, N, test, N, &err));
    test[AT + 127] = calibration[127];
    assert_fails(tokens_check_disjoint(calibration, N, test, N, &err), RB_EINVAL,
                 "128 tokens from test token 40 are those from calibration token 0");
    /* the shortest texts that can share one */
    assert_ok(tokens_check_disjoint(calibration, 127, calibration, 127, &err));
    assert_fails(tokens_check_disjoint(calibration, 128, calibration, 128, &err), RB_EINVAL, "128 tokens");
}

static void short_texts_and_repetitive_texts_are_checked_without_trouble(void **state)
{
    (void)state;
    enum { N = 20000 };
    static int32_t same[N], other[N];
    rb_error err = {0};
    for (int i = 0; i < N; i++) other[i] = 1;
    assert_ok(tokens_check_disjoint(same, TOKENS_OVERLAP - 1, same, TOKENS_OVERLAP - 1, &err));
    assert_ok(tokens_check_disjoint(same, N, other, N, &err));
    assert_fails(tokens_check_disjoint(same, N, same, N, &err), RB_EINVAL, "repeats the calibration text");
}

/* A long text is tokenized only as far as needed: the ids must be those of the whole text. */
static void the_beginning_of_a_long_text_has_the_ids_of_the_whole(void **state)
{
    (void)state;
    enum { COPIES = 40, N_WANTED = 3000 };
    rb_error err = {0};
    char *piece = NULL, *text;
    size_t length;
    token_list some = {0}, all = {0};
    assert_ok(rb_read_file(&piece, &length, "configs/demo-text/calibration.txt", 1 << 20, &err));
    text = malloc(COPIES * length);
    assert_non_null(text);
    for (int i = 0; i < COPIES; i++) memcpy(text + (size_t)i * length, piece, length);
    const char *path = file_with("long.txt", text, COPIES * length);
    assert_ok(folder_tokens(&some, path, "configs/demo-llama", N_WANTED, &err));
    assert_ok(folder_tokens(&all, path, "configs/demo-llama", 1 << 20, &err));
    assert_true(some.n >= N_WANTED);
    assert_true(some.n < all.n);
    assert_memory_equal(some.ids, all.ids, (size_t)some.n * sizeof *some.ids);
    token_list_free(&some);
    token_list_free(&all);
    free(text);
    free(piece);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(id_files_of_all_three_forms_give_the_same_ids),
        cmocka_unit_test(damaged_id_files_are_refused_with_their_place),
        cmocka_unit_test(binary_ids_are_binary_whatever_byte_comes_first),
        cmocka_unit_test(binary_of_another_type_is_refused_by_its_reason),
        cmocka_unit_test(ids_outside_the_vocabulary_are_named),
        cmocka_unit_test(a_shared_run_is_found_wherever_it_stands_and_shorter_ones_are_not),
        cmocka_unit_test(a_run_of_128_tokens_is_too_long_and_one_of_127_is_not),
        cmocka_unit_test(short_texts_and_repetitive_texts_are_checked_without_trouble),
        cmocka_unit_test(the_beginning_of_a_long_text_has_the_ids_of_the_whole),
    };
    return cmocka_run_group_tests_name("token_source", tests, NULL, NULL);
}
