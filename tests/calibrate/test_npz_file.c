/* calibrate/npz_file.h: arrays in zips that are made here, byte by byte as numpy documents them. */
#include "tests/test_support.h"

#include <zip.h>

#include "calibrate/npz_file.h"

static rb_error err;

typedef struct entry {
    const char *name, *header; /* the Python literal */
    const void *data;
    size_t n_data;
    zip_int32_t method;
} entry;

enum { HEADER_BYTES = 128, ENTRY_BYTES = 4096 };

/* A .npy 1.0. Returns its length. */
static size_t make_npy(char *out, const entry *from)
{
    const size_t start = 10, length = HEADER_BYTES - start;
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (char)length;
    out[9] = 0;
    memset(out + start, ' ', length);
    memcpy(out + start, from->header, strlen(from->header));
    out[HEADER_BYTES - 1] = '\n';
    if (from->n_data > 0) memcpy(out + HEADER_BYTES, from->data, from->n_data);
    return HEADER_BYTES + from->n_data;
}

static const char *make_npz(const char *name, const entry *entries, int n)
{
    const char *path = scratch_path(name);
    static char bytes[4][ENTRY_BYTES];
    zip_t *zip = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    assert_non_null(zip);
    for (int i = 0; i < n; i++) {
        const size_t length = entries[i].header ? make_npy(bytes[i], &entries[i]) : entries[i].n_data;
        const void *data = entries[i].header ? bytes[i] : entries[i].data;
        const zip_int64_t at = zip_file_add(zip, entries[i].name, zip_source_buffer(zip, data, length, 0), 0);
        assert_true(at >= 0 && zip_set_file_compression(zip, (zip_uint64_t)at, entries[i].method, 0) == 0);
    }
    assert_int_equal(zip_close(zip), 0);
    return path;
}

static const float VALUES[] = {1, -2, 0.5f, 65504, 0, 3};
static const int64_t IDS[] = {7, 0, 4095};

static void arrays_come_back_stored_and_deflated(void **state)
{
    (void)state;
    for (int deflated = 0; deflated < 2; deflated++) {
        const zip_int32_t method = deflated ? ZIP_CM_DEFLATE : ZIP_CM_STORE;
        const entry entries[] = {
            {"layer_000.q.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 2), }", VALUES, sizeof VALUES,
             method},
            {"tokens.npy", "{'shape': (3,), 'fortran_order': False, 'descr': '<i8'}", IDS, sizeof IDS, method},
            {"scalar.npy", "{'descr': '|u1', 'fortran_order': False, 'shape': (), }", "\x05", 1, method},
        };
        npz_file *file = NULL;
        void *data = NULL;
        assert_ok(npz_open(&file, make_npz("good.npz", entries, 3), &err));
        assert_int_equal(npz_count(file), 3);
        const safetensor *q = npz_at(file, 0), *ids = npz_at(file, 1), *scalar = npz_at(file, 2);
        assert_string_equal(q->name, "layer_000.q");
        assert_int_equal(q->dtype, TENSOR_F32);
        assert_int_equal(q->rank, 3);
        assert_int_equal(q->shape[1], 3);
        assert_int_equal(ids->dtype, TENSOR_I64);
        assert_int_equal(ids->rank, 1);
        assert_int_equal(scalar->rank, 0);
        assert_ok(npz_load(file, 0, &data, &err));
        assert_memory_equal(data, VALUES, sizeof VALUES);
        free(data);
        assert_ok(npz_load(file, 1, &data, &err));
        assert_memory_equal(data, IDS, sizeof IDS);
        free(data);
        npz_close(file);
    }
}

static void check_refused(const entry *from, rb_status status, const char *text)
{
    npz_file *file = NULL;
    assert_fails(npz_open(&file, make_npz("bad.npz", from, 1), &err), status, text);
    assert_null(file);
}

static void an_array_that_is_not_read_is_named_for_its_reason(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        rb_status status;
        const char *text;
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (1, 3, 2), }", RB_EUNSUPPORTED,
         "bad.npz: array \"x\": it is stored in Fortran order, expected C order"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (1, 3, 2), }", RB_EUNSUPPORTED,
         "its dtype is >f4, big-endian"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (1, 3), }", RB_EUNSUPPORTED, "its dtype is <c8"},
        {"{'descr': '|V2', 'fortran_order': False, 'shape': (1, 3), }", RB_EUNSUPPORTED,
         "bfloat16 goes into .safetensors"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }", RB_EUNSUPPORTED, "not a plain one"},
        {"{'descr': '<f4', 'shape': (1, 3, 2), }", RB_EFORMAT, "no fortran_order"},
        {"{'descr': '<f4', 'fortran_order': False, }", RB_EFORMAT, "no shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, x), }", RB_EFORMAT, "not a list of whole numbers"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }", RB_EFORMAT, "not a list of whole numbers"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,6), }", RB_EUNSUPPORTED, "more than 8"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9), }", RB_EFORMAT, "overflows"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 3), }", RB_EFORMAT,
         "the zip holds 152 bytes of it, expected 164 from its header"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 1), }", RB_EFORMAT,
         "the zip holds 152 bytes of it, expected 140 from its header"},
    };
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        const entry from = {"x.npy", cases[i].header, VALUES, sizeof VALUES, ZIP_CM_STORE};
        check_refused(&from, cases[i].status, cases[i].text);
    }
}

static void what_is_no_array_is_named(void **state)
{
    (void)state;
    const entry text = {"notes.txt", NULL, "hello", 5, ZIP_CM_STORE};
    check_refused(&text, RB_EFORMAT, "it holds notes.txt, expected arrays (NAME.npy) only");
    const entry other = {"x.npy", NULL, "hello, world", 12, ZIP_CM_STORE};
    check_refused(&other, RB_EFORMAT, "cannot read x.npy: it is not an array of numpy");
    const entry cut = {"x.npy", NULL, "\x93NUMPY\x01\x00\x76", 9, ZIP_CM_STORE};
    check_refused(&cut, RB_EFORMAT, "cannot read x.npy: it ends within its data");
}

static char *read_bytes(const char *path, size_t *n)
{
    static char bytes[ENTRY_BYTES];
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    *n = fread(bytes, 1, sizeof bytes, in);
    fclose(in);
    return bytes;
}

static void write_bytes(const char *path, const char *bytes, size_t n)
{
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, n, out), n);
    fclose(out);
}

static const entry DEFLATED = {"x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 2), }", VALUES,
                               sizeof VALUES, ZIP_CM_DEFLATE};

static void a_file_that_is_cut_is_refused(void **state)
{
    (void)state;
    size_t n;
    const char *path = make_npz("cut.npz", &DEFLATED, 1);
    const char *bytes = read_bytes(path, &n);
    for (size_t length = 0; length < n; length++) {
        npz_file *file = NULL;
        write_bytes(path, bytes, length);
        memset(&err, 0, sizeof err);
        if (npz_open(&file, path, &err) == RB_OK) fail_msg("%zu of %zu bytes were read", length, n);
        assert_true(strstr(err.msg, "cut.npz") && !strchr(err.msg, '\n'));
    }
}

static void flipped_data_are_found_by_their_crc(void **state)
{
    (void)state;
    entry stored = DEFLATED;
    stored.method = ZIP_CM_STORE;
    size_t n;
    npz_file *file = NULL;
    void *data = NULL;
    const char *path = make_npz("flipped.npz", &stored, 1);
    char *bytes = read_bytes(path, &n);
    char *at = memmem(bytes, n, VALUES, sizeof VALUES);
    assert_non_null(at);
    at[1] ^= 1;
    write_bytes(path, bytes, n);
    memset(&err, 0, sizeof err);
    assert_ok(npz_open(&file, path, &err));
    assert_fails(npz_load(file, 0, &data, &err), RB_EFORMAT, "CRC");
    assert_null(data);
    npz_close(file);
}

static void a_file_that_is_not_there_is_named(void **state)
{
    (void)state;
    npz_file *file = NULL;
    assert_fails(npz_open(&file, scratch_path("absent.npz"), &err), RB_EIO, "absent.npz: cannot open: No such file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrays_come_back_stored_and_deflated),
        cmocka_unit_test(an_array_that_is_not_read_is_named_for_its_reason),
        cmocka_unit_test(what_is_no_array_is_named),
        cmocka_unit_test(a_file_that_is_cut_is_refused),
        cmocka_unit_test(flipped_data_are_found_by_their_crc),
        cmocka_unit_test(a_file_that_is_not_there_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
