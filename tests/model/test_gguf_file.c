/* The container: round trips, a damaged file for every rule, cuts and flips at many places. */
#include "tests/model/gguf_toy_model.h"

#include "core/message.h"
#include "model/checkpoint.h"
#include "model/gguf/gguf_file.h"
#include "model/model_tokenizer.h"

/* ---- right files ----------------------------------------------------------------------------- */

static void metadata_and_tensors_come_back(void **state)
{
    static const float data[6] = {1, 2, 3, 4, 5, 6};
    static const char *const words[] = {"one", "", "three"};
    rb_error err = {0};
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        gguf_made made = g_begin();
        made.version = version;
        made.alignment = 64;
        g_key_u32(&made, "general.alignment", 64);
        g_key_strings(&made, "words", words, 3);
        g_key_f32(&made, "third", 0.5f);
        g_key_bool(&made, "yes", 1);
        g_key(&made, "big", G_U64);
        g_u64(&made.metadata, UINT64_C(1) << 40);
        g_tensor(&made, "vector", 2, 0, G_TYPE_F32, data, 8);
        g_tensor(&made, "matrix", 3, 2, G_TYPE_F32, data, 24);
        const char *path = g_end(&made, scratch_path("right.gguf"));

        gguf_file *file = NULL;
        assert_ok(gguf_open(&file, path, &err));
        assert_int_equal(gguf_count(file), 2);
        const gguf_tensor *matrix = gguf_find_tensor(file, "matrix");
        assert_non_null(matrix);
        assert_int_equal(matrix->shape[0], 3);
        assert_int_equal(matrix->shape[1], 2);
        assert_memory_equal(matrix->data, data, 24);
        assert_int_equal(gguf_offset(file, matrix->data) % 64, 0);
        assert_null(gguf_find_tensor(file, "absent"));

        const gguf_metadata *metadata = gguf_metadata_of(file);
        const gguf_entry *list;
        double number;
        int64_t whole;
        bool flag;
        assert_ok(gguf_get_array(metadata, "words", GGUF_STRING, &list, &err));
        gguf_cursor items = list->value;
        for (int i = 0; i < 3; i++) assert_true(gguf_string_is(gguf_next_string(&items), words[i]));
        assert_ok(gguf_get_number(metadata, "third", &number, &err));
        assert_true(number == 0.5);
        assert_ok(gguf_get_bool(metadata, "yes", false, &flag, &err));
        assert_true(flag);
        assert_ok(gguf_get_bool(metadata, "absent", true, &flag, &err));
        assert_true(flag);
        assert_ok(gguf_get_int(metadata, "big", 0, INT64_MAX, &whole, &err));
        assert_true(whole == INT64_C(1) << 40);
        assert_fails(gguf_get_int(metadata, "third", 0, 9, &whole, &err), RB_EFORMAT,
                     "metadata \"third\" is 0.5, expected a whole number from 0 to 9");
        assert_fails(gguf_get_int(metadata, "words", 0, 9, &whole, &err), RB_EFORMAT, "is 3 items, expected a number");
        assert_fails(gguf_get_number(metadata, "none", &number, &err), RB_EFORMAT, "no metadata \"none\"");
        gguf_close(file);
    }
}

/* ---- damaged files --------------------------------------------------------------------------- */

static void assert_refused(const char *path, rb_status status, const char *message)
{
    rb_error err = {0};
    gguf_file *file = NULL;
    assert_fails(gguf_open(&file, path, &err), status, message);
    assert_null(file);
}

static void refuses_bytes(const void *bytes, size_t n, rb_status status, const char *message)
{
    const char *path = scratch_path("damaged.gguf");
    g_write_bytes(path, bytes, n);
    assert_refused(path, status, message);
}

static void refuses_what_is_no_gguf(void **state)
{
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    (void)state;
    assert_refused("/nonexistent.gguf", RB_EIO, "cannot open");
    assert_refused("/", RB_EIO, "not a regular file");
    refuses_bytes("", 0, RB_EFORMAT, "an empty file");
    refuses_bytes("GGU", 3, RB_EFORMAT, "not a GGUF");
    refuses_bytes("PK\3\4............................", 32, RB_EFORMAT, "not a GGUF: it does not start with \"GGUF\"");
    refuses_bytes(lfs, sizeof lfs - 1, RB_EFORMAT, "a Git LFS pointer");
    refuses_bytes("GGUF\3\0\0\0", 8, RB_EFORMAT, "8 bytes, expected at least 24");
}

static void refuses_other_versions_and_byte_orders(void **state)
{
    (void)state;
    gguf_made made = g_begin();
    made.version = 1;
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EUNSUPPORTED, "GGUF version 1, expected 2 or 3");
    made = g_begin();
    made.version = 4;
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EUNSUPPORTED, "GGUF version 4, expected 2 or 3");
    made = g_begin();
    made.version = 0x03000000;
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EUNSUPPORTED, "a big-endian GGUF");
}

/* ---- metadata -- */

static void refuses_a_part_of_a_split_model(void **state)
{
    (void)state;
    gguf_made made = g_begin();
    g_key(&made, "split.count", G_U16);
    g_put(&made.metadata, &(uint16_t){3}, 2);
    assert_refused(g_end(&made, scratch_path("part.gguf")), RB_EUNSUPPORTED, "one of the 3 parts of a split GGUF");
}

static void refuses_damaged_metadata(void **state)
{
    (void)state;
    gguf_made made = g_begin();
    g_key_u32(&made, "twice", 1);
    g_key_u32(&made, "twice", 2);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "metadata \"twice\" is there twice");
    made = g_begin();
    g_key(&made, "odd", 13);
    g_u64(&made.metadata, 0);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "metadata \"odd\": value type 13");
    made = g_begin();
    g_key_bool(&made, "flag", 2);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "metadata \"flag\": a bool of 2");
    made = g_begin();
    g_array(&made, "long", G_U64, UINT64_MAX / 4);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "the file ends within metadata \"long\"");
    made = g_begin();
    g_array(&made, "items", G_U64, 9); /* as many as there are bytes */
    g_put(&made.metadata, "123456789", 9);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "the file ends within metadata \"items\"");
    made = g_begin();
    g_key(&made, "text", G_STRING);
    g_u64(&made.metadata, UINT64_MAX);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "the file ends within metadata \"text\"");
    made = g_begin();
    made.n_entries = UINT64_MAX / 2;
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "more than the file can hold");
    made = g_begin();
    g_key_u32(&made, "general.alignment", 48);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT,
                   "general.alignment is 48, expected a power of two");
    made = g_begin();
    g_u64(&made.metadata, 3);
    g_put(&made.metadata, "a\0b", 3);
    g_u32(&made.metadata, G_U32);
    g_u32(&made.metadata, 0);
    made.n_entries = 1;
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "metadata entry 1 of 1: a NUL byte in its name");
}

static void refuses_arrays_nested_deep_and_reads_shallow_ones(void **state)
{
    rb_error err = {0};
    gguf_file *file = NULL;
    (void)state;
    for (int depth = 1; depth <= 6; depth++) {
        gguf_made made = g_begin();
        g_key(&made, "nest", G_ARRAY);
        for (int i = 1; i < depth; i++) {
            g_u32(&made.metadata, G_ARRAY);
            g_u64(&made.metadata, 1);
        }
        g_u32(&made.metadata, G_U8);
        g_u64(&made.metadata, 1);
        g_put(&made.metadata, "x", 1);
        const char *path = g_end(&made, scratch_path("nest.gguf"));
        if (depth > 4) {
            assert_refused(path, RB_EFORMAT, "metadata \"nest\": arrays nested more than 4 deep");
        } else {
            assert_ok(gguf_open(&file, path, &err));
            gguf_close(file);
        }
    }
}

/* ---- tensors -- */

static void refuses_tensor_types_that_are_not_read(void **state)
{
    static const struct {
        uint32_t type;
        const char *message;
    } cases[] = {
        {G_TYPE_Q2_K, "tensor \"t\" is Q2_K, expected F32, F16, BF16, Q8_0"},
        {G_TYPE_IQ1_M, "tensor \"t\" is IQ1_M"},
        {34, "tensor \"t\" is TQ1_0"},
        {39, "tensor \"t\" is MXFP4"},
        {4, "tensor \"t\": unknown type 4"},
        {1000, "tensor \"t\": unknown type 1000"},
    };
    (void)state;
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        gguf_made made = g_begin();
        g_info(&made, "t", 1, 256, cases[i].type, 0);
        assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EUNSUPPORTED, cases[i].message);
    }
}

static void refuses_damaged_tensors(void **state)
{
    static const char zeros[256];
    (void)state;
    gguf_made made = g_begin();
    g_tensor(&made, "t", 4, 0, G_TYPE_F32, zeros, 16);
    g_tensor(&made, "t", 4, 0, G_TYPE_F32, zeros, 16);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "tensor \"t\" is there twice");
    made = g_begin();
    g_tensor(&made, "a", 16, 0, G_TYPE_F32, zeros, 64);
    g_info(&made, "b", 4, 0, G_TYPE_F32, 32);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "tensors \"a\" and \"b\" overlap");
    made = g_begin();
    g_info(&made, "t", 4, 0, G_TYPE_F32, 4);
    g_put(&made.data, zeros, 64);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT,
                   "starts at byte 4 of the data, expected a multiple");
    made = g_begin();
    g_info(&made, "t", 16, 0, G_TYPE_F32, 32);
    g_put(&made.data, zeros, 95);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT,
                   "tensor \"t\" has 64 bytes from byte 32 of the data, but the file holds 95");
    made = g_begin();
    g_info(&made, "t", 16, 0, G_TYPE_F32, UINT64_MAX - 31);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "truncated or damaged");
    made = g_begin();
    g_info(&made, "t", 2, 48, G_TYPE_Q8_0, 0);
    g_put(&made.data, zeros, 256);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "rows of 48 elements, expected a multiple of 32");
    made = g_begin();
    g_info(&made, "t", UINT64_C(1) << 40, UINT64_C(1) << 40, G_TYPE_F32, 0);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "overflows");
    made = g_begin();
    g_info(&made, "t", 0, 0, G_TYPE_F32, 0);
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "tensor \"t\": a dim of 0 elements");
    made = g_begin();
    g_string(&made.infos, "t");
    g_u32(&made.infos, 5);
    g_put(&made.infos, zeros, 64);
    made.n_tensors = 1;
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "tensor \"t\": 5 dims, expected 1 to 4");
    made = g_begin();
    made.n_tensors = UINT64_MAX / 2;
    assert_refused(g_end(&made, scratch_path("a.gguf")), RB_EFORMAT, "tensors, more than the file can hold");
}

/* ---- cuts and flips -------------------------------------------------------------------------- */

/* Everything that reads a file: it works, or says why in one sentence. */
static void read_all(const char *path)
{
    rb_error err = {0};
    gguf_file *file = NULL;
    checkpoint *ckpt = NULL;
    tokenizer *words = NULL;
    rb_status st = gguf_open(&file, path, &err);
    gguf_close(file);
    if (st == RB_OK) st = tokenizer_open_model(&words, path, &err);
    tokenizer_close(words);
    if (st == RB_OK) st = checkpoint_open(&ckpt, path, &err);
    if (st == RB_OK) st = checkpoint_check(ckpt, &err);
    checkpoint_close(ckpt);
    if (st != RB_OK) {
        assert_true(err.msg[0] != '\0');
        assert_null(strchr(err.msg, '\n'));
    }
}

static gguf_bytes toy_file(size_t *data_begin)
{
    toy_model m;
    toy_make(&m);
    const gguf_bytes file = g_file(&m.gguf);
    *data_begin = file.n - m.gguf.data.n;
    g_free(&m.gguf);
    toy_free(&m);
    return file;
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    size_t data_begin;
    const gguf_bytes file = toy_file(&data_begin);
    const char *path = scratch_path("cut.gguf");
    rb_error err = {0};
    gguf_file *opened;
    (void)state;
    for (size_t n = 0; n < file.n; n += n < data_begin ? 7 : 997) {
        g_write_bytes(path, file.at, n);
        memset(&err, 0, sizeof err);
        assert_int_not_equal(gguf_open(&opened, path, &err), RB_OK);
        assert_null(strchr(err.msg, '\n'));
    }
    free(file.at);
}

static void a_file_with_any_byte_changed_is_read_or_refused(void **state)
{
    static const unsigned char changes[] = {0x01, 0x80, 0xff};
    size_t data_begin;
    const gguf_bytes file = toy_file(&data_begin);
    const char *path = scratch_path("flip.gguf");
    (void)state;
    for (size_t at = 0; at < data_begin; at++) {
        const unsigned char change = changes[at % RB_COUNT(changes)];
        file.at[at] ^= change;
        g_write_bytes(path, file.at, file.n);
        read_all(path);
        file.at[at] ^= change;
    }
    g_write_bytes(path, file.at, file.n);
    read_all(path);
    free(file.at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metadata_and_tensors_come_back),
        cmocka_unit_test(refuses_what_is_no_gguf),
        cmocka_unit_test(refuses_other_versions_and_byte_orders),
        cmocka_unit_test(refuses_a_part_of_a_split_model),
        cmocka_unit_test(refuses_damaged_metadata),
        cmocka_unit_test(refuses_arrays_nested_deep_and_reads_shallow_ones),
        cmocka_unit_test(refuses_tensor_types_that_are_not_read),
        cmocka_unit_test(refuses_damaged_tensors),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(a_file_with_any_byte_changed_is_read_or_refused),
    };
    rb_messages_init("test_gguf_file", RB_QUIET);
    return cmocka_run_group_tests_name("gguf_file", tests, NULL, NULL);
}
