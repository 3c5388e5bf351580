/* core/hdf5/hdf5_file.h: round trips, reproducible bytes, and files that are not what they should be. */
#include "tests/test_support.h"

#include <fcntl.h>
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <zstd.h>

#include "core/hdf5/hdf5_file.h"
#include "core/hdf5/hdf5_zstd_filter.h"
#include "tests/hdf5_damage.h"

static rb_error err;

/* ---- helpers --------------------------------------------------------------------------------- */

static void assert_same_files(const char *a, const char *b)
{
    size_t size_a, size_b;
    char *bytes_a = damage_read_bytes(a, &size_a), *bytes_b = damage_read_bytes(b, &size_b);
    assert_int_equal(size_a, size_b);
    assert_memory_equal(bytes_a, bytes_b, size_a);
    free(bytes_a);
    free(bytes_b);
}

/* Numbers a compressor can do something with, all of them exact in f16. */
static float *make_floats(int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    uint32_t state = 12345;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)((int)(state >> 24) - 128) / 16.0f;
    }
    return x;
}

/* One file with everything in it that could carry a time: nested groups, more children and attributes than fit HDF5's
 * compact form. */
static void write_sampler(const char *path)
{
    const int64_t big[] = {3, 7001, 97}, small[] = {5, 7}; /* three f32 chunks a head, the third one short */
    float *x = make_floats(big[0] * big[1] * big[2]);
    rb_h5_file file;
    char name[64];
    assert_ok(rb_h5_create(&file, path, &err));
    assert_ok(rb_h5_set_schema(file.id, "ropebits-test", 1, &err));
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "attribute_%d", i);
        assert_ok(rb_h5_set_int(file.id, "/", name, i, &err));
        snprintf(name, sizeof name, "set/layer_%03d/inner", i);
        assert_ok(rb_h5_make_group(file.id, name, &err));
        snprintf(name, sizeof name, "set/layer_%03d/inner/table", i);
        assert_ok(rb_h5_write(file.id, name, RB_H5_F32, 2, small, x, i % 2, &err));
    }
    assert_ok(rb_h5_write(file.id, "f16", RB_H5_F16, 3, big, x, 3, &err));
    assert_ok(rb_h5_write(file.id, "f32", RB_H5_F32, 3, big, x, 1, &err));
    assert_ok(rb_h5_publish(&file, &err));
    free(x);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void same_input_gives_the_same_bytes_two_seconds_later(void **state)
{
    (void)state;
    const char *first = scratch_path("first.h5"), *second = scratch_path("second.h5");
    write_sampler(first);
    sleep(2); /* time stamps of HDF5 count seconds */
    write_sampler(second);
    assert_same_files(first, second);
}

static void any_number_of_threads_gives_the_same_bytes(void **state)
{
    (void)state;
    const int n_threads = omp_get_max_threads();
    const char *one = scratch_path("one.h5"), *many = scratch_path("many.h5");
    omp_set_num_threads(1);
    write_sampler(one);
    omp_set_num_threads(7);
    write_sampler(many);
    omp_set_num_threads(n_threads);
    assert_same_files(one, many);
}

/* Large and small datasets in turn, of several types and levels, by one crew and by one a dataset: no frame shows what
 * its thread had done before. */
static void write_mixed(const char *path, rb_h5_crew *crew)
{
    const int64_t large[] = {9, 400, 256}, small[] = {2, 5};
    const int64_t n = large[0] * large[1] * large[2];
    float *x = make_floats(n);
    uint16_t *halves = calloc((size_t)n, sizeof *halves);
    rb_h5_file file;
    char name[32];
    for (int64_t i = 0; i < n; i++) halves[i] = (uint16_t)(i * i % 0x7c00);
    assert_ok(rb_h5_create(&file, path, &err));
    for (int i = 0; i < 12; i++) {
        const rb_h5_type types[] = {RB_H5_F16_BITS, RB_H5_F16, RB_H5_F32, RB_H5_I32};
        snprintf(name, sizeof name, "x%d", i);
        const rb_h5_type type = types[i % 4];
        const void *data = type == RB_H5_F16_BITS ? (const void *)halves : x;
        assert_ok(
            rb_h5_write_by(crew, file.id, name, type, i % 3 ? 3 : 2, i % 3 ? large : small, data, i % 5 + 1, &err));
    }
    assert_ok(rb_h5_publish(&file, &err));
    free(halves);
    free(x);
}

static void a_crew_that_is_kept_gives_the_same_bytes(void **state)
{
    (void)state;
    const char *own = scratch_path("own.h5"), *kept = scratch_path("kept.h5");
    rb_h5_crew *crew = NULL;
    const int n_threads = omp_get_max_threads();
    omp_set_num_threads(3);
    assert_ok(rb_h5_crew_create(&crew, &err));
    write_mixed(kept, crew);
    write_mixed(kept, crew);
    rb_h5_crew_free(crew);
    write_mixed(own, NULL);
    omp_set_num_threads(n_threads);
    assert_same_files(own, kept);
}

/* ---- round trips ----------------------------------------------------------------------------- */

static void round_trip(rb_h5_type type, size_t element, int rank, const int64_t *dims, const void *data, int level)
{
    const char *path = scratch_path("round_trip.h5");
    int64_t n = 1, found[RB_H5_MAX_RANK] = {-1, -1, -1, -1};
    rb_h5_file file;
    for (int i = 0; i < rank; i++) n *= dims[i];
    void *back = malloc((size_t)n * element);
    assert_ok(rb_h5_create(&file, path, &err));
    assert_ok(rb_h5_make_group(file.id, "a/b", &err));
    assert_ok(rb_h5_write(file.id, "a/b/x", type, rank, dims, data, level, &err));
    assert_ok(rb_h5_publish(&file, &err));
    assert_ok(rb_h5_open(&file, path, &err));
    assert_ok(rb_h5_check_dataset(file.contents, "a/b/x", type, rank, dims, &err));
    assert_ok(rb_h5_read(file.contents, "a/b/x", type, rank, found, back, &err));
    assert_memory_equal(found, dims, (size_t)rank * sizeof *dims);
    assert_memory_equal(back, data, (size_t)n * element);
    /* rows in the middle, when there are any */
    const int64_t first = dims[0] / 3, count = dims[0] - first - dims[0] / 4, row = n / dims[0];
    memset(back, 0, (size_t)n * element);
    assert_ok(rb_h5_read_rows(file.contents, "a/b/x", type, rank, dims, first, count, back, &err));
    assert_memory_equal(back, (const char *)data + (size_t)(first * row) * element, (size_t)(count * row) * element);
    rb_h5_close(&file);
    free(back);
}

static void every_type_and_shape_comes_back(void **state)
{
    (void)state;
    static const struct {
        int rank;
        int64_t dims[RB_H5_MAX_RANK];
    } shapes[] = {{1, {1}},         {1, {1500001}},   {2, {1, 31}},       {2, {3001, 401}},
                  {2, {3, 600001}}, {3, {5, 33, 80}}, {3, {2, 9001, 65}}, {4, {2, 3, 5, 7}}};
    const int64_t n_max = 2 * 9001 * 65 + 3 * 600001;
    float *floats = make_floats(n_max);
    double *doubles = malloc((size_t)n_max * sizeof *doubles);
    for (int64_t i = 0; i < n_max; i++) doubles[i] = (double)floats[i] / 3;
    for (size_t s = 0; s < RB_COUNT(shapes); s++)
        for (int level = 0; level <= 1; level++) {
            const int rank = shapes[s].rank;
            const int64_t *dims = shapes[s].dims;
            round_trip(RB_H5_F16, 4, rank, dims, floats, level);
            round_trip(RB_H5_F32, 4, rank, dims, floats, level);
            round_trip(RB_H5_F64, 8, rank, dims, doubles, level);
            round_trip(RB_H5_I32, 4, rank, dims, floats, level); /* any bits are an integer */
            round_trip(RB_H5_U8, 1, rank, dims, floats, level);
        }
    free(floats);
    free(doubles);
}

/* Values and their f16 by hand: 10 bits of mantissa, ties to even, 2^-24 the smallest step. */
/* A whole dataset as floats, by HDF5's own functions. */
static void read_by_hdf5(const char *path, const char *name, float *x)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), dataset = H5Dopen2(file, name, H5P_DEFAULT);
    assert_true(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, x) >= 0);
    H5Dclose(dataset);
    H5Fclose(file);
}

static void f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    static const float in[] = {0,      1.0f / 3, 1 + 0x1p-11f, 1 + 3 * 0x1p-11f, 65504,
                               -65504, 0x1p-24f, 0x1p-26f,     3 * 0x1p-25f,     -2049};
    static const float out[] = {0,      0.333251953125f, 1, 1 + 2 * 0x1p-10f, 65504,
                                -65504, 0x1p-24f,        0, 2 * 0x1p-24f,     -2048};
    int64_t dims[] = {RB_COUNT(in)};
    float back[RB_COUNT(in)], by_hdf5[RB_COUNT(in)];
    rb_h5_file file;
    assert_ok(rb_h5_create(&file, scratch_path("f16.h5"), &err));
    assert_ok(rb_h5_write(file.id, "x", RB_H5_F16, 1, dims, in, 1, &err));
    assert_ok(rb_h5_publish(&file, &err));
    assert_ok(rb_h5_open(&file, scratch_path("f16.h5"), &err));
    assert_ok(rb_h5_read(file.contents, "x", RB_H5_F32, 1, dims, back, &err));
    assert_memory_equal(back, out, sizeof out);
    /* HDF5's own reading, through the filter and by its own conversion, sees the same numbers. */
    read_by_hdf5(scratch_path("f16.h5"), "x", by_hdf5);
    assert_memory_equal(by_hdf5, out, sizeof out);
    rb_h5_close(&file);
}

static void values_that_do_not_fit_are_named(void **state)
{
    (void)state;
    float *x = make_floats(70000);
    const int64_t dims[] = {7, 10000};
    double one_nan[] = {0, NAN};
    rb_h5_file file;
    assert_ok(rb_h5_create(&file, scratch_path("unfit.h5"), &err));
    x[65001] = 65505;
    x[66000] = INFINITY;
    assert_fails(rb_h5_write(file.id, "x", RB_H5_F16, 2, dims, x, 1, &err), RB_ENONFINITE,
                 "x: value 65505 at index 65001 does not fit f16");
    assert_fails(rb_h5_write(file.id, "x", RB_H5_F32, 2, dims, x, 0, &err), RB_ENONFINITE,
                 "x: value inf at index 66000 is not finite");
    assert_fails(rb_h5_write(file.id, "x", RB_H5_F64, 1, (int64_t[]){2}, one_nan, 1, &err), RB_ENONFINITE,
                 "at index 1 is not finite");
    assert_int_equal(H5Lexists(file.id, "x", H5P_DEFAULT), 0);
    assert_int_equal(rb_h5_first_unfit(RB_H5_F16, x, 70000), 65001);
    assert_int_equal(rb_h5_first_unfit(RB_H5_F16, x, 65001), -1);
    assert_int_equal(rb_h5_first_unfit(RB_H5_F32, x, 70000), 66000);
    assert_fails(rb_h5_write(file.id, "x", RB_H5_F32, 2, (int64_t[]){7, 0}, x, 0, &err), RB_EINVAL, "dims 7 x 0");
    assert_fails(rb_h5_write(file.id, "x", RB_H5_F32, 2, (int64_t[]){INT64_MAX, 2}, x, 0, &err), RB_EINVAL, "x 2");
    assert_fails(rb_h5_write(file.id, "no/x", RB_H5_F32, 1, (int64_t[]){7}, x, 0, &err), RB_EIO,
                 "no/x: cannot create dataset");
    rb_h5_close(&file);
    free(x);
}

/* ---- attributes ------------------------------------------------------------------------------ */

static void attributes_come_back_and_wrong_ones_are_named(void **state)
{
    (void)state;
    const char *path = scratch_path("attributes.h5");
    const int64_t dims[] = {3};
    const double pair[] = {1, 2};
    char text[32], *long_text = calloc(70001, 1);
    int64_t whole;
    double number;
    rb_h5_file file;

    memset(long_text, 'x', 70000);
    assert_ok(rb_h5_create(&file, path, &err));
    assert_ok(rb_h5_make_group(file.id, "g", &err));
    assert_ok(rb_h5_write(file.id, "g/x", RB_H5_I32, 1, dims, (int32_t[]){1, 2, 3}, 0, &err));
    assert_ok(rb_h5_set_schema(file.id, "ropebits-test", 2, &err));
    assert_ok(rb_h5_set_string(file.id, "g/x", "name", "naïve café", &err));
    assert_ok(rb_h5_set_string(file.id, "g", "empty", "", &err));
    assert_ok(rb_h5_set_int(file.id, "/", "whole", -5, &err));
    assert_ok(rb_h5_set_int(file.id, "/", "wide", INT64_MAX, &err));
    assert_ok(rb_h5_set_number(file.id, ".", "number", 0.1, &err));
    assert_ok(rb_h5_set_number(file.id, "/", "nan", NAN, &err));
    assert_fails(rb_h5_set_string(file.id, "/", "long", long_text, &err), RB_EINVAL,
                 "attribute long: 70000 characters");
    assert_fails(rb_h5_set_int(file.id, "/", "whole", 1, &err), RB_EIO, "attribute whole cannot be written");
    hid_t space = H5Screate_simple(1, (hsize_t[]){2}, NULL),
          attribute = H5Acreate2(file.id, "pair", H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_DOUBLE, pair);
    H5Aclose(attribute);
    H5Sclose(space);
    assert_ok(rb_h5_publish(&file, &err));

    assert_ok(rb_h5_open(&file, path, &err));
    assert_ok(rb_h5_check_schema(file.contents, "f", "ropebits-test", 2, &err));
    assert_fails(rb_h5_check_schema(file.contents, "f", "ropebits-test", 3, &err), RB_EFORMAT,
                 "f: ropebits-test version 2, expected 3");
    assert_fails(rb_h5_check_schema(file.contents, "f", "ropebits-plan", 2, &err), RB_EFORMAT,
                 "f: schema ropebits-test, expected ropebits-plan");
    assert_ok(rb_h5_get_string(file.contents, "g/x", "name", text, sizeof text, &err));
    assert_string_equal(text, "naïve café");
    assert_ok(rb_h5_get_string(file.contents, "g", "empty", text, sizeof text, &err));
    assert_string_equal(text, "");
    assert_ok(rb_h5_get_int(file.contents, "/", "whole", -5, 5, &whole, &err));
    assert_int_equal(whole, -5);
    assert_ok(rb_h5_get_int(file.contents, "/", "wide", 0, INT64_MAX, &whole, &err));
    assert_true(whole == INT64_MAX);
    assert_ok(rb_h5_get_number(file.contents, "/", "number", &number, &err));
    assert_true(number == 0.1);
    assert_fails(rb_h5_get_int(file.contents, "/", "whole", 0, 9, &whole, &err), RB_EFORMAT,
                 "attribute whole is -5, expected 0 to 9");
    assert_fails(rb_h5_get_int(file.contents, "g/x", "name", 0, 9, &whole, &err), RB_EFORMAT,
                 "g/x: attribute name is not a whole number");
    assert_fails(rb_h5_get_int(file.contents, "/", "gone", 0, 9, &whole, &err), RB_EFORMAT,
                 "attribute gone is missing");
    assert_fails(rb_h5_get_int(file.contents, "g/y", "gone", 0, 9, &whole, &err), RB_EFORMAT, "g/y: missing");
    assert_fails(rb_h5_get_number(file.contents, "/", "whole", &number, &err), RB_EFORMAT,
                 "attribute whole is not a number");
    assert_fails(rb_h5_get_number(file.contents, "/", "pair", &number, &err), RB_EFORMAT,
                 "attribute pair is not one value");
    assert_fails(rb_h5_get_number(file.contents, "/", "nan", &number, &err), RB_ENONFINITE,
                 "attribute nan is not finite");
    assert_fails(rb_h5_get_string(file.contents, "/", "number", text, sizeof text, &err), RB_EFORMAT, "not a string");
    assert_fails(rb_h5_get_string(file.contents, "g/x", "name", text, 5, &err), RB_EFORMAT, "12 characters, at most 4");
    assert_true(rb_h5_exists(file.contents, "g/x"));
    assert_false(rb_h5_exists(file.contents, "g/x/y"));
    assert_false(rb_h5_exists(file.contents, "h/x"));
    rb_h5_close(&file);
    free(long_text);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void open_says_what_is_wrong_with_a_file(void **state)
{
    (void)state;
    const char *whole = scratch_path("whole.h5"), *cut = scratch_path("cut.h5"), *text = scratch_path("text.h5");
    size_t size;
    rb_h5_file file;
    write_sampler(whole);
    char *bytes = damage_read_bytes(whole, &size);
    FILE *out = fopen(cut, "wb");
    fwrite(bytes, 1, size - 1, out);
    fclose(out);
    out = fopen(text, "wb");
    fputs("schema: ropebits", out);
    fclose(out);
    assert_fails(rb_h5_open(&file, scratch_path("absent.h5"), &err), RB_EIO,
                 "absent.h5: cannot open: No such file or directory");
    assert_fails(rb_h5_open(&file, scratch_path("."), &err), RB_EIO, "not a regular file");
    assert_fails(rb_h5_open(&file, text, &err), RB_EFORMAT, "text.h5: not an HDF5 file");
    assert_fails(rb_h5_open(&file, cut, &err), RB_EFORMAT, "cut.h5: truncated");
    rb_h5_close(&file);
    free(bytes);
}

/* By another process, after it was opened. */
static void a_file_that_is_cut_while_it_is_read_is_named(void **state)
{
    (void)state;
    int64_t dims[] = {64, 256};
    const char *path = scratch_path("shortened.h5");
    float *x = make_floats(dims[0] * dims[1]);
    rb_h5_file file;
    for (int level = 0; level <= 1; level++) {
        assert_ok(rb_h5_create(&file, path, &err));
        assert_ok(rb_h5_write(file.id, "x", RB_H5_F32, 2, dims, x, level, &err));
        assert_ok(rb_h5_publish(&file, &err));
        assert_ok(rb_h5_open(&file, path, &err));
        assert_int_equal(truncate(path, 1024), 0);
        assert_fails(rb_h5_read(file.contents, "x", RB_H5_F32, 2, dims, x, &err), RB_EIO,
                     "shortened.h5: x: the file became shorter while it was read");
        rb_h5_close(&file);
    }
    free(x);
}

static void an_unpublished_file_leaves_nothing(void **state)
{
    (void)state;
    const char *path = scratch_path("partial.h5");
    rb_h5_file file;
    assert_ok(rb_h5_create(&file, path, &err));
    assert_int_equal(count_temporary_files(path), 1);
    rb_h5_close(&file);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(count_temporary_files(path), 0);
    rb_h5_close(&file);
    assert_ok(rb_h5_create(&file, path, &err));
    assert_ok(rb_h5_publish(&file, &err));
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(count_temporary_files(path), 0);
    rb_h5_close(&file);
    assert_fails(rb_h5_create(&file, scratch_path("no/such/folder.h5"), &err), RB_EIO, "folder.h5");
}

/* A limit on the size of files stands in for a full disk: write() fails the same way, with another errno. */
static void a_full_disk_fails_and_leaves_nothing(void **state)
{
    (void)state;
    const char *path = scratch_path("full.h5");
    const int64_t dims[] = {1, 1 << 20};
    float *x = make_floats(dims[1]);
    struct rlimit before, small;
    rb_h5_file file;
    getrlimit(RLIMIT_FSIZE, &before);
    small = (struct rlimit){100000, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_ok(rb_h5_create(&file, path, &err));
    setrlimit(RLIMIT_FSIZE, &small);
    assert_fails(rb_h5_write(file.id, "x", RB_H5_F32, 2, dims, x, 1, &err), RB_EIO, "File too large");
    rb_h5_close(&file);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(count_temporary_files(path), 0);
    write_sampler(path); /* and HDF5 still works */
    free(x);
}

/* ---- datasets of strangers ------------------------------------------------------------------- */

/* A dataset made by hand: type, chunk extent (0: contiguous), zstd or not. */
static hid_t make_dataset(hid_t file, const char *name, hid_t type, int rank, const hsize_t *dims, const hsize_t *chunk,
                          bool has_zstd)
{
    hid_t space = H5Screate_simple(rank, dims, NULL), list = H5Pcreate(H5P_DATASET_CREATE);
    if (chunk) H5Pset_chunk(list, rank, chunk);
    if (has_zstd) H5Pset_filter(list, RB_H5_ZSTD_FILTER, H5Z_FLAG_MANDATORY, 0, NULL);
    hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    assert_true(dataset >= 0);
    H5Pclose(list);
    H5Sclose(space);
    return dataset;
}

/* libhdf5 1.10 frees no error stack of a thread that ends. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

/* A group, an attribute and datasets of both layouts, then the end of the file: each meets the limit in turn. */
static void *write_until_full(void *user)
{
    enum { N = 4096 };
    static float noise[N];
    rb_h5_file *file = user;
    rb_status st = RB_OK;
    for (int i = 0; i < N; i++) noise[i] = (float)((i * 7919) % 1009) / 1009.0f;
    for (int i = 0; i < 40; i++) {
        char name[32];
        rb_error told = {0};
        snprintf(name, sizeof name, "group%d", i);
        st = rb_h5_make_group(file->id, name, &told);
        if (st == RB_OK) st = rb_h5_set_int(file->id, name, "n", i, &told);
        snprintf(name, sizeof name, "group%d/x", i);
        if (st == RB_OK) st = rb_h5_write(file->id, name, RB_H5_F32, 1, (int64_t[]){N}, noise, i % 2, &told);
        assert_null(strchr(told.msg, '\n'));
    }
    rb_error told = {0};
    st = rb_h5_publish(file, &told);
    return st == RB_EIO && told.msg[0] != '\0' ? user : NULL;
}

static void a_thread_that_meets_a_full_disk_prints_nothing(void **state)
{
    const char *path = scratch_path("thread.h5"), *said = scratch_path("said");
    struct rlimit before;
    pthread_t thread;
    void *failed;
    (void)state;
    for (rlim_t limit = 2048; limit <= 131072; limit *= 4) {
        rb_h5_file file;
        assert_ok(rb_h5_create(&file, path, &err));
        fflush(stderr);
        const int terminal = dup(STDERR_FILENO), out = open(said, O_RDWR | O_CREAT | O_TRUNC, 0600);
        assert_true(terminal >= 0 && out >= 0 && dup2(out, STDERR_FILENO) >= 0);
        getrlimit(RLIMIT_FSIZE, &before);
        const struct rlimit small = {limit, before.rlim_max};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &small);
        const int started = pthread_create(&thread, NULL, write_until_full, &file);
        if (started == 0) pthread_join(thread, &failed);
        setrlimit(RLIMIT_FSIZE, &before);
        signal(SIGXFSZ, SIG_DFL);
        fflush(stderr);
        dup2(terminal, STDERR_FILENO);
        close(terminal);
        const off_t n_said = lseek(out, 0, SEEK_END);
        close(out);
        assert_int_equal(started, 0);
        assert_non_null(failed);
        assert_int_equal(n_said, 0);
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(count_temporary_files(path), 0);
    }
}

/* The in-process filter under plain H5Dwrite and H5Dread, and our reader on chunks that cut every dimension. */
static void chunks_written_by_hdf5_are_read(void **state)
{
    (void)state;
    const hsize_t extent[] = {7, 50, 33}, chunk[] = {3, 16, 10};
    int64_t dims[] = {7, 50, 33};
    const size_t n = 7 * 50 * 33;
    float *x = make_floats((int64_t)n), *back = malloc(n * sizeof *back);
    rb_h5_file file;
    assert_ok(rb_h5_create(&file, scratch_path("by_hdf5.h5"), &err));
    hid_t zstd = make_dataset(file.id, "zstd", H5T_IEEE_F32LE, 3, extent, chunk, true);
    hid_t plain = make_dataset(file.id, "plain", H5T_IEEE_F32LE, 3, extent, chunk, false);
    assert_true(H5Dwrite(zstd, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, x) >= 0);
    assert_true(H5Dwrite(plain, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, x) >= 0);
    H5Dclose(zstd);
    H5Dclose(plain);
    assert_ok(rb_h5_publish(&file, &err));
    assert_ok(rb_h5_open(&file, scratch_path("by_hdf5.h5"), &err));
    read_by_hdf5(scratch_path("by_hdf5.h5"), "zstd", back);
    assert_memory_equal(back, x, n * sizeof *x);
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "plain" : "zstd";
        memset(back, 0, n * sizeof *back);
        assert_ok(rb_h5_read(file.contents, name, RB_H5_F16, 3, dims, back, &err));
        assert_memory_equal(back, x, n * sizeof *x);
        assert_ok(rb_h5_read_rows(file.contents, name, RB_H5_F32, 3, dims, 2, 2, back, &err));
        assert_memory_equal(back, x + 2 * 50 * 33, 2 * 50 * 33 * sizeof *x);
    }
    assert_fails(rb_h5_read_rows(file.contents, "zstd", RB_H5_F32, 3, dims, 5, 3, back, &err), RB_EINVAL,
                 "rows 5 to 8, expected within 0 to 7");
    rb_h5_close(&file);
    free(x);
    free(back);
}

static void a_dataset_of_another_shape_or_type_is_named(void **state)
{
    (void)state;
    int64_t dims[] = {2, 3, 4}, any[] = {-1, -1, -1}, wrong[] = {2, -1, 5};
    float x[24] = {0};
    rb_h5_file file;
    assert_ok(rb_h5_create(&file, scratch_path("shapes.h5"), &err));
    assert_ok(rb_h5_make_group(file.id, "g", &err));
    assert_ok(rb_h5_write(file.id, "g/x", RB_H5_F32, 3, dims, x, 1, &err));
    H5Dclose(make_dataset(file.id, "big_endian", H5T_IEEE_F32BE, 1, (hsize_t[]){4}, NULL, false));
    H5Dclose(make_dataset(file.id, "unsigned", H5T_STD_U32LE, 1, (hsize_t[]){4}, NULL, false));
    H5Dclose(make_dataset(file.id, "unwritten", H5T_IEEE_F32LE, 1, (hsize_t[]){4}, NULL, false));
    H5Dclose(make_dataset(file.id, "chunkless", H5T_IEEE_F32LE, 1, (hsize_t[]){4}, (hsize_t[]){2}, true));
    H5Dclose(make_dataset(file.id, "huge", H5T_IEEE_F32LE, 3, (hsize_t[]){1u << 31, 1u << 31, 4}, NULL, false));
    H5Dclose(make_dataset(file.id, "coarse", H5T_IEEE_F32LE, 1, (hsize_t[]){1 << 25}, (hsize_t[]){1 << 25}, true));
    H5Dclose(make_dataset(file.id, "empty", H5T_IEEE_F32LE, 1, (hsize_t[]){0}, NULL, false));
    H5Lcreate_external("/etc/elsewhere.h5", "x", file.id, "external", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_soft("g/x", file.id, "soft", H5P_DEFAULT, H5P_DEFAULT);
    hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, (hsize_t[]){4}, NULL);
    H5Pset_external(list, "/etc/passwd", 0, 16);
    H5Dclose(H5Dcreate2(file.id, "outside", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT));
    H5Pclose(list);
    list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(list, 1, (hsize_t[]){4});
    H5Pset_shuffle(list);
    H5Dclose(H5Dcreate2(file.id, "shuffled", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT));
    H5Pclose(list);
    H5Sclose(space);
    assert_ok(rb_h5_publish(&file, &err));

    assert_ok(rb_h5_open(&file, scratch_path("shapes.h5"), &err));
    assert_ok(rb_h5_dims(file.contents, "g/x", 3, any, &err));
    assert_memory_equal(any, dims, sizeof dims);
    assert_fails(rb_h5_dims(file.contents, "g/x", 2, any, &err), RB_EFORMAT, "g/x: rank 3, expected 2");
    assert_fails(rb_h5_dims(file.contents, "g", 2, any, &err), RB_EFORMAT, "g: not a dataset");
    assert_fails(rb_h5_dims(file.contents, "empty", 1, any, &err), RB_EFORMAT, "empty: dimension 0 is 0");
    assert_fails(rb_h5_read(file.contents, "g/x", RB_H5_F32, 3, wrong, x, &err), RB_EFORMAT,
                 "g/x: shape 2 x 3 x 4, expected 2 x -1 x 5");
    assert_fails(rb_h5_read(file.contents, "g/x", RB_H5_I32, 3, dims, x, &err), RB_EFORMAT,
                 "g/x: 4-byte floats of another kind, expected little-endian i32");
    assert_fails(rb_h5_check_dataset(file.contents, "g/x", RB_H5_F16, 3, dims, &err), RB_EFORMAT,
                 "expected little-endian f16");
    assert_fails(rb_h5_read(file.contents, "g/z", RB_H5_F32, 3, dims, x, &err), RB_EFORMAT, "g/z: missing");
    assert_fails(rb_h5_read(file.contents, "big_endian", RB_H5_F32, 1, (int64_t[]){4}, x, &err), RB_EFORMAT,
                 "expected little-endian f32");
    assert_fails(rb_h5_read(file.contents, "unsigned", RB_H5_I32, 1, (int64_t[]){4}, x, &err), RB_EFORMAT,
                 "expected little-endian i32");
    assert_fails(rb_h5_read(file.contents, "unwritten", RB_H5_F32, 1, (int64_t[]){4}, x, &err), RB_EFORMAT,
                 "part of its data is missing");
    assert_fails(rb_h5_read(file.contents, "chunkless", RB_H5_F32, 1, (int64_t[]){4}, x, &err), RB_EFORMAT, "chunk 0");
    assert_fails(rb_h5_read(file.contents, "huge", RB_H5_F32, 3, (int64_t[]){-1, -1, -1}, x, &err), RB_EFORMAT,
                 "more elements than memory can hold");
    assert_fails(rb_h5_read(file.contents, "coarse", RB_H5_F32, 1, (int64_t[]){-1}, x, &err), RB_EFORMAT,
                 "chunks of more than 64 MiB");
    assert_fails(rb_h5_read(file.contents, "external", RB_H5_F32, 1, (int64_t[]){4}, x, &err), RB_EFORMAT,
                 "external: a soft or external link");
    assert_fails(rb_h5_read(file.contents, "soft", RB_H5_F32, 3, dims, x, &err), RB_EFORMAT,
                 "soft: a soft or external link");
    assert_fails(rb_h5_read(file.contents, "outside", RB_H5_F32, 1, (int64_t[]){4}, x, &err), RB_EFORMAT,
                 "outside this file");
    assert_fails(rb_h5_read(file.contents, "shuffled", RB_H5_F32, 1, (int64_t[]){4}, x, &err), RB_EFORMAT,
                 "a filter other than zstd");
    rb_h5_close(&file);
}

/* ---- frames ---------------------------------------------------------------------------------- */

enum { CHUNK = 1000 };

/* A frame of n content bytes, with or without its content size in the header. */
static size_t make_frame(unsigned char *frame, size_t capacity, size_t n, bool with_size)
{
    unsigned char content[2 * CHUNK];
    ZSTD_CCtx *context = ZSTD_createCCtx();
    for (size_t i = 0; i < n; i++) content[i] = (unsigned char)(i * i >> 3);
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, with_size);
    const size_t size = ZSTD_compress2(context, frame, capacity, content, n);
    assert_false(ZSTD_isError(size));
    ZSTD_freeCCtx(context);
    return size;
}

/* A dataset of one chunk that holds these bytes; what our reader makes of it. */
static rb_status read_frame(const unsigned char *frame, size_t size, uint32_t mask)
{
    unsigned char back[CHUNK];
    rb_h5_file file;
    memset(&err, 0, sizeof err);
    assert_ok(rb_h5_create(&file, scratch_path("frame.h5"), &err));
    hid_t dataset = make_dataset(file.id, "x", H5T_STD_U8LE, 1, (hsize_t[]){CHUNK}, (hsize_t[]){CHUNK}, true);
    assert_true(H5Dwrite_chunk(dataset, H5P_DEFAULT, mask, (hsize_t[]){0}, size, frame) >= 0);
    H5Dclose(dataset);
    assert_ok(rb_h5_publish(&file, &err));
    assert_ok(rb_h5_open(&file, scratch_path("frame.h5"), &err));
    const rb_status st = rb_h5_read(file.contents, "x", RB_H5_U8, 1, (int64_t[]){CHUNK}, back, &err);
    rb_h5_close(&file);
    return st;
}

/* What the filter itself makes of it, as HDF5 would call it: the size of what it decoded, 0 for a refusal. */
static size_t filter_frame(const unsigned char *frame, size_t size)
{
    void *buffer = malloc(size ? size : 1);
    size_t buffer_bytes = size;
    memcpy(buffer, frame, size);
    const size_t decoded = rb_zstd_filter.filter(H5Z_FLAG_REVERSE, 0, NULL, size, &buffer_bytes, &buffer);
    free(buffer);
    return decoded;
}

static void a_frame_must_hold_its_chunk_exactly(void **state)
{
    (void)state;
    unsigned char frame[4 * CHUNK];
    size_t size = make_frame(frame, sizeof frame, CHUNK, true);
    assert_int_equal(read_frame(frame, size, 0), RB_OK);
    assert_int_equal(filter_frame(frame, size), CHUNK);
    assert_int_equal(read_frame(frame, size - 1, 0), RB_EFORMAT);
    assert_non_null(strstr(err.msg, "x: chunk 0 is damaged"));
    assert_int_equal(filter_frame(frame, size - 1), 0);
    size = make_frame(frame, sizeof frame, CHUNK - 1, true);
    assert_int_equal(read_frame(frame, size, 0), RB_EFORMAT);
    size = make_frame(frame, sizeof frame, CHUNK + 1, true);
    assert_int_equal(read_frame(frame, size, 0), RB_EFORMAT);
    size = make_frame(frame, sizeof frame, CHUNK, false);
    assert_int_equal(read_frame(frame, size, 0), RB_EFORMAT);
    assert_int_equal(filter_frame(frame, size), 0);
    /* not compressed, and marked so: the bytes themselves, all of them */
    assert_int_equal(read_frame(frame, CHUNK, 1), RB_OK);
    assert_int_equal(read_frame(frame, CHUNK - 1, 1), RB_EFORMAT);
}

/* RFC 8878: magic, a descriptor byte (0xe0: single segment, content size in 8 bytes), the size, then blocks. */
static void a_frame_that_lies_about_its_size_is_refused(void **state)
{
    (void)state;
    static const uint64_t lies[] = {CHUNK - 1,   CHUNK + 1,    4096,           1u << 20,
                                    0xffffffffu, 0x100000000u, UINT64_MAX / 2, UINT64_MAX};
    unsigned char honest[4 * CHUNK], frame[16 + CHUNK] = {0x28, 0xb5, 0x2f, 0xfd, 0xe0};
    const size_t honest_size = make_frame(honest, sizeof honest, CHUNK, true);
    assert_int_equal(honest[4] >> 5, 3); /* single segment, 2-byte size: blocks start at byte 7 */
    const size_t size = 13 + honest_size - 7;
    assert_true(size <= sizeof frame);
    memcpy(frame + 13, honest + 7, honest_size - 7);
    for (size_t i = 0; i < RB_COUNT(lies); i++) {
        memcpy(frame + 5, &lies[i], 8);
        assert_int_equal(filter_frame(frame, size), 0);
        assert_int_equal(read_frame(frame, size, 0), RB_EFORMAT);
    }
    memcpy(frame + 5, &(uint64_t){CHUNK}, 8); /* the same frame with the truth in it */
    assert_int_equal(filter_frame(frame, size), CHUNK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_input_gives_the_same_bytes_two_seconds_later),
        cmocka_unit_test(any_number_of_threads_gives_the_same_bytes),
        cmocka_unit_test(a_crew_that_is_kept_gives_the_same_bytes),
        cmocka_unit_test(every_type_and_shape_comes_back),
        cmocka_unit_test(f16_rounds_to_nearest_even),
        cmocka_unit_test(values_that_do_not_fit_are_named),
        cmocka_unit_test(attributes_come_back_and_wrong_ones_are_named),
        cmocka_unit_test(open_says_what_is_wrong_with_a_file),
        cmocka_unit_test(a_file_that_is_cut_while_it_is_read_is_named),
        cmocka_unit_test(an_unpublished_file_leaves_nothing),
        cmocka_unit_test(a_full_disk_fails_and_leaves_nothing),
        cmocka_unit_test(a_thread_that_meets_a_full_disk_prints_nothing),
        cmocka_unit_test(chunks_written_by_hdf5_are_read),
        cmocka_unit_test(a_dataset_of_another_shape_or_type_is_named),
        cmocka_unit_test(a_frame_must_hold_its_chunk_exactly),
        cmocka_unit_test(a_frame_that_lies_about_its_size_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
