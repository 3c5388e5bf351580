/* The safetensors reader and writer: round trips, one damaged file for every rule of the format, cuts and bit flips. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "core/half.h"
#include "model/safetensors.h"

/* ---- files made by hand ---------------------------------------------------------------------- */

static void write_bytes(const char *path, const void *bytes, size_t n)
{
    unlink(path); /* ext4 flushes a file that is cut and written anew to disk: thousands of times slower than a fresh
                     one */
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, n, out), n);
    assert_int_equal(fclose(out), 0);
}

/* Length, header and data_bytes bytes of data, 0 1 2 3 ...; returns the path. */
static const char *write_file(const char *name, uint64_t length, const char *header, size_t data_bytes)
{
    const char *path = scratch_path(name);
    const size_t header_bytes = strlen(header), total = sizeof length + header_bytes + data_bytes;
    unsigned char *bytes = malloc(total);
    assert_non_null(bytes);
    memcpy(bytes, &length, sizeof length);
    memcpy(bytes + sizeof length, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) bytes[sizeof length + header_bytes + i] = (unsigned char)i;
    write_bytes(path, bytes, total);
    free(bytes);
    return path;
}

static const char *write_plain(const char *name, const char *header, size_t data_bytes)
{
    return write_file(name, strlen(header), header, data_bytes);
}

/* ---- damaged files: one rule each ------------------------------------------------------------ */

typedef struct damaged_file {
    const char *header;
    size_t data_bytes;
    rb_status status;
    const char *message;
} damaged_file;

static void is_refused(void **state)
{
    const damaged_file *damaged = *state;
    safetensors_file *file = NULL;
    rb_error err = {0};
    const char *path = write_plain("damaged.safetensors", damaged->header, damaged->data_bytes);
    assert_fails(safetensors_open(&file, path, &err), damaged->status, damaged->message);
    assert_null(file);
}

#define REFUSES(name, header, data_bytes, status, message)                                     \
    {                                                                                          \
#name, is_refused, NULL, NULL, &(damaged_file) { header, data_bytes, status, message } \
    }
#define TENSOR(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void refuses_missing_file(void **state)
{
    (void)state;
    safetensors_file *file;
    rb_error err = {0};
    assert_fails(safetensors_open(&file, scratch_path("absent.safetensors"), &err), RB_EIO, "absent.safetensors");
    assert_fails(safetensors_open(&file, "tests", &err), RB_EIO, "not a regular file");
}

static void refuses_truncated_length(void **state)
{
    (void)state;
    safetensors_file *file;
    rb_error err = {0};
    const char *path = scratch_path("truncated_length.safetensors");
    write_bytes(path, "", 0);
    assert_fails(safetensors_open(&file, path, &err), RB_EFORMAT, "expected safetensors, found an empty file");
    write_bytes(path, "\2\0\0\0\0\0\0", 7);
    assert_fails(safetensors_open(&file, path, &err), RB_EFORMAT, "7 bytes, expected at least 8");
}

static void refuses_wrong_header_length(void **state)
{
    (void)state;
    safetensors_file *file;
    rb_error err = {0};
    assert_fails(safetensors_open(&file, write_file("header_length_zero.safetensors", 0, "{}", 0), &err), RB_EFORMAT,
                 "does not start with '{'");
    assert_fails(safetensors_open(&file, write_file("header_beyond_file.safetensors", 3, "{}", 0), &err), RB_EFORMAT,
                 "header of 3 bytes");
    assert_fails(safetensors_open(&file, write_file("header_over_limit.safetensors", 100000001, "{}", 0), &err),
                 RB_EFORMAT, "expected at most 100000000");
    assert_fails(safetensors_open(&file, write_file("header_length_all_ones.safetensors", UINT64_MAX, "{}", 0), &err),
                 RB_EFORMAT, "at most 100000000");
    assert_fails(safetensors_open(&file, write_file("header_cut_short.safetensors", 1, "{}", 0), &err), RB_EFORMAT,
                 "header_cut_short");
}

/* ---- what is legal --------------------------------------------------------------------------- */

static void opens_file_without_tensors(void **state)
{
    (void)state;
    safetensors_file *file = NULL;
    rb_error err = {0};
    assert_ok(safetensors_open(&file, write_plain("empty.safetensors", "{}      ", 0), &err));
    assert_int_equal(safetensors_count(file), 0);
    assert_null(safetensors_find(file, "a"));
    assert_null(safetensors_metadata(file, "format"));
    safetensors_close(file);
    safetensors_close(NULL);
}

static void keeps_file_order_whatever_the_header_order(void **state)
{
    (void)state;
    safetensors_file *file = NULL;
    rb_error err = {0};
    const char *header = "{" TENSOR("z", "U8", "[4]", 2, 6) "," TENSOR("b", "U8", "[3,0,1,1,1,1,1,1]", 2, 2) "," TENSOR(
        "a", "U8", "[1,3]", 6, 9) ","
                                  "\"__metadata__\":{\"format\":\"pt\",\"\":\"\"}," TENSOR("scalar", "I16", "[]", 0,
                                                                                           2) "}  ";
    assert_ok(safetensors_open(&file, write_plain("order.safetensors", header, 9), &err));
    static const char *const expected[] = {"scalar", "b", "z", "a"};
    assert_int_equal(safetensors_count(file), 4);
    for (int i = 0; i < 4; i++) {
        assert_string_equal(safetensors_at(file, i)->name, expected[i]);
        assert_ptr_equal(safetensors_find(file, expected[i]), safetensors_at(file, i));
    }
    const safetensor *a = safetensors_find(file, "a");
    assert_int_equal(a->rank, 2);
    assert_int_equal(a->shape[0], 1);
    assert_int_equal(a->shape[1], 3);
    assert_int_equal(a->size_bytes, 3);
    assert_memory_equal(a->data, "\6\7\10", 3);
    assert_int_equal(safetensors_find(file, "scalar")->rank, 0);
    assert_int_equal(safetensors_find(file, "b")->size_bytes, 0);
    assert_int_equal(safetensors_find(file, "b")->rank, SAFETENSORS_MAX_RANK);
    assert_null(safetensors_find(file, "__metadata__"));
    assert_string_equal(safetensors_metadata(file, "format"), "pt");
    assert_null(safetensors_metadata(file, "absent"));
    safetensors_close(file);
}

static void finds_each_of_thousands(void **state)
{
    (void)state;
    enum { N = 3000, NAME_BYTES = 48 };
    static char names[N][NAME_BYTES];
    static unsigned char data[N];
    static safetensor tensors[N];
    safetensors_file *file = NULL;
    rb_error err = {0};
    const char *path = scratch_path("thousands.safetensors");
    for (int i = 0; i < N; i++) {
        snprintf(names[i], NAME_BYTES, "model.layers.%d.weight",
                 (i * 7919) % N); /* 7919 is coprime to N: every number once */
        data[i] = (unsigned char)(i * 31);
        tensors[i] = (safetensor){
            .name = names[i], .dtype = TENSOR_U8, .rank = 1, .shape = {1}, .data = &data[i], .size_bytes = 1};
    }
    assert_ok(safetensors_write(path, tensors, N, NULL, NULL, 0, &err));
    assert_ok(safetensors_open(&file, path, &err));
    assert_int_equal(safetensors_count(file), N);
    for (int i = 0; i < N; i++) {
        const safetensor *found = safetensors_find(file, names[i]);
        assert_non_null(found);
        assert_int_equal(*(const unsigned char *)found->data, data[i]);
    }
    assert_null(safetensors_find(file, "model.layers.3000.weight"));
    safetensors_close(file);
}

/* ---- conversion ------------------------------------------------------------------------------ */

/* Meaning of fp16 bits by the definition: (-1)^s * 2^(e - 15) * 1.m, or 2^-14 * 0.m. */
static double f16_value(int bits)
{
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double magnitude = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) magnitude = mantissa ? NAN : INFINITY;
    return bits & 0x8000 ? -magnitude : magnitude;
}

/* bf16 has the exponent of f32: 2^(e - 127) * 1.m with 7 bits of mantissa. */
static double bf16_value(int bits)
{
    const int exponent = bits >> 7 & 255, mantissa = bits & 127;
    double magnitude = exponent == 0 ? ldexp(mantissa, -133) : ldexp(128 + mantissa, exponent - 134);
    if (exponent == 255) magnitude = mantissa ? NAN : INFINITY;
    return bits & 0x8000 ? -magnitude : magnitude;
}

static void check_all_half_values(tensor_dtype dtype, double (*value)(int bits))
{
    enum { N = 1 << 16 };
    /* One byte ahead puts every element at an odd address. */
    static unsigned char bytes[1 + 2 * N];
    static float out[N];
    rb_error err = {0};
    for (int i = 0; i < N; i++) {
        bytes[1 + 2 * i] = (unsigned char)(i & 255);
        bytes[2 + 2 * i] = (unsigned char)(i >> 8);
    }
    const safetensor tensor = {
        .name = "all", .dtype = dtype, .rank = 1, .shape = {N}, .data = bytes + 1, .size_bytes = 2 * N};
    assert_ok(safetensor_to_f32(&tensor, 0, N, out, &err));
    for (int i = 0; i < N; i++) {
        const float expected = (float)value(i);
        if (isnan(expected) ? !isnan(out[i]) : rb_f32_bits(out[i]) != rb_f32_bits(expected))
            fail_msg("%s bits %04x: %a, expected %a", tensor_dtype_name(dtype), i, (double)out[i], (double)expected);
    }
}

static void converts_every_f16_and_bf16_unaligned(void **state)
{
    (void)state;
    check_all_half_values(TENSOR_F16, f16_value);
    check_all_half_values(TENSOR_BF16, bf16_value);
}

static void converts_a_range_and_nothing_around_it(void **state)
{
    (void)state;
    enum { N = 67, GUARD = 12345 };
    rb_error err = {0};
    float values[N], out[N + 2];
    for (int i = 0; i < N; i++) values[i] = (float)i - 0.25f;
    const safetensor tensor = {
        .name = "x", .dtype = TENSOR_F32, .rank = 1, .shape = {N}, .data = values, .size_bytes = sizeof values};
    for (int count = 0; count <= 33; count++) {
        for (int i = 0; i < N + 2; i++) out[i] = GUARD;
        assert_ok(safetensor_to_f32(&tensor, 34, count, out + 1, &err));
        assert_true(out[0] == GUARD && out[count + 1] == GUARD);
        for (int i = 0; i < count; i++) assert_true(out[1 + i] == values[34 + i]);
    }
}

static void refuses_to_convert_integers(void **state)
{
    (void)state;
    rb_error err = {0};
    int32_t value = 3;
    float out;
    const safetensor tensor = {
        .name = "ids", .dtype = TENSOR_I32, .rank = 1, .shape = {1}, .data = &value, .size_bytes = 4};
    assert_fails(safetensor_to_f32(&tensor, 0, 1, &out, &err), RB_EUNSUPPORTED, "tensor \"ids\" is I32");
}

/* ---- writer ---------------------------------------------------------------------------------- */

static void round_trip_keeps_tensors_and_metadata(void **state)
{
    (void)state;
    const char *path = scratch_path("round_trip.safetensors");
    const char *keys[] = {"format", "quote \" and \\"}, *values[] = {"pt", "caf\xc3\xa9\n"};
    const float f32[6] = {0, -1, 2.5f, 1e-30f, 3e30f, -0.0f};
    const uint16_t half[3] = {0x3c00, 0xbc00, 0x0001};
    const uint8_t odd[3] = {7, 8, 9};
    const safetensor tensors[] = {
        {.name = "odd", .dtype = TENSOR_U8, .rank = 1, .shape = {3}, .data = odd, .size_bytes = sizeof odd},
        {.name = "f32", .dtype = TENSOR_F32, .rank = 2, .shape = {2, 3}, .data = f32, .size_bytes = sizeof f32},
        {.name = "none", .dtype = TENSOR_F64, .rank = 3, .shape = {4, 0, 2}, .data = NULL, .size_bytes = 0},
        {.name = "half", .dtype = TENSOR_F16, .rank = 1, .shape = {3}, .data = half, .size_bytes = sizeof half},
    };
    safetensors_file *file = NULL;
    rb_error err = {0};
    assert_ok(safetensors_write(path, tensors, RB_COUNT(tensors), keys, values, RB_COUNT(keys), &err));
    assert_ok(safetensors_open(&file, path, &err));
    assert_int_equal(safetensors_count(file), RB_COUNT(tensors));
    for (size_t i = 0; i < RB_COUNT(tensors); i++) {
        const safetensor *found = safetensors_find(file, tensors[i].name);
        assert_non_null(found);
        assert_int_equal(found->dtype, tensors[i].dtype);
        assert_int_equal(found->rank, tensors[i].rank);
        assert_int_equal(found->size_bytes, tensors[i].size_bytes);
        for (int d = 0; d < found->rank; d++) assert_int_equal(found->shape[d], tensors[i].shape[d]);
        if (found->size_bytes) assert_memory_equal(found->data, tensors[i].data, found->size_bytes);
        /* The pages come back from the file. */
        safetensors_release(file, found);
        if (found->size_bytes) assert_memory_equal(found->data, tensors[i].data, found->size_bytes);
    }
    for (size_t i = 0; i < RB_COUNT(keys); i++) assert_string_equal(safetensors_metadata(file, keys[i]), values[i]);
    assert_int_equal((uintptr_t)safetensors_at(file, 0)->data % 8, 0); /* the header is padded */
    safetensors_close(file);
}

static void release_keeps_values_of_many_pages(void **state)
{
    (void)state;
    enum { N = 10001 };
    const char *path = scratch_path("pages.safetensors");
    static float values[N];
    safetensors_file *file = NULL;
    rb_error err = {0};
    for (int i = 0; i < N; i++) values[i] = (float)i;
    const safetensor tensor = {
        .name = "x", .dtype = TENSOR_F32, .rank = 1, .shape = {N}, .data = values, .size_bytes = sizeof values};
    assert_ok(safetensors_write(path, &tensor, 1, NULL, NULL, 0, &err));
    assert_ok(safetensors_open(&file, path, &err));
    safetensors_release(file, safetensors_at(file, 0));
    assert_memory_equal(safetensors_at(file, 0)->data, values, sizeof values);
    safetensors_close(file);
}

static void writer_refuses_what_a_reader_would(void **state)
{
    (void)state;
    const char *path = scratch_path("unwritten.safetensors");
    const uint8_t byte = 1;
    rb_error err = {0};
    safetensor pair[2] = {{.name = "a", .dtype = TENSOR_U8, .rank = 1, .shape = {1}, .data = &byte, .size_bytes = 1}};
    pair[1] = pair[0];
    assert_fails(safetensors_write(path, pair, 2, NULL, NULL, 0, &err), RB_EINVAL, "\"a\" is given twice");
    pair[0].name = "__metadata__";
    assert_fails(safetensors_write(path, pair, 1, NULL, NULL, 0, &err), RB_EINVAL, "reserved");
    pair[1].shape[0] = 2;
    assert_fails(safetensors_write(path, pair + 1, 1, NULL, NULL, 0, &err), RB_EINVAL, "brings 1 bytes, expected 2");
    pair[1].shape[0] = -1;
    assert_fails(safetensors_write(path, pair + 1, 1, NULL, NULL, 0, &err), RB_EINVAL, "negative");
    pair[1].rank = 9;
    assert_fails(safetensors_write(path, pair + 1, 1, NULL, NULL, 0, &err), RB_EINVAL, "rank 9");
    assert_int_equal(access(path, F_OK), -1);
    pair[0].name = "a";
    assert_fails(safetensors_write(scratch_path("no/such/folder.safetensors"), pair, 1, NULL, NULL, 0, &err), RB_EIO,
                 "folder.safetensors");
}

/* ---- real files ------------------------------------------------------------------------------ */

static void reads_golden_of_the_demo_model(void **state)
{
    (void)state;
    safetensors_file *file = NULL;
    rb_error err = {0};
    assert_ok(safetensors_open(&file, "tests/fixtures/demo-llama-golden.safetensors", &err));
    assert_string_equal(safetensors_metadata(file, "model_type"), "llama");
    const safetensor *k = safetensors_find(file, "k_rope.0");
    assert_non_null(k);
    assert_int_equal(k->dtype, TENSOR_F32);
    assert_int_equal(k->rank, 3);
    assert_int_equal(k->shape[2], 64);
    safetensors_close(file);
}

/* One buffer for all tensors, filled when asked; fails at the tensor `fails_at`. */
typedef struct made_data {
    unsigned char bytes[8];
    int64_t fails_at;
} made_data;

static rb_status make_data(void *user, int64_t index, const void **data, rb_error *err)
{
    made_data *made = user;
    if (index == made->fails_at) return rb_fail(err, RB_EDEVICE, "no data");
    memset(made->bytes, 'a' + (int)index, sizeof made->bytes);
    *data = made->bytes;
    return RB_OK;
}

static void data_may_be_made_when_it_is_asked_for(void **state)
{
    (void)state;
    enum { N = 3 };
    static const char *const names[N] = {"z", "y", "x"};
    const char *path = scratch_path("made.safetensors"), *given_path = scratch_path("given.safetensors");
    char bytes[N][4];
    safetensor tensors[N];
    made_data made = {.fails_at = -1};
    char *a = NULL, *b = NULL;
    size_t a_size, b_size;
    rb_error err = {0};
    for (int i = 0; i < N; i++) {
        memset(bytes[i], 'a' + i, sizeof bytes[i]);
        tensors[i] = (safetensor){.name = names[i],
                                  .dtype = TENSOR_U8,
                                  .rank = 1,
                                  .shape = {i + 2},
                                  .data = bytes[i],
                                  .size_bytes = (size_t)i + 2};
    }
    assert_ok(safetensors_write(given_path, tensors, N, NULL, NULL, 0, &err));
    for (int i = 0; i < N; i++) tensors[i].data = NULL;
    assert_ok(safetensors_write_from(path, tensors, N, make_data, &made, NULL, NULL, 0, &err));
    assert_ok(rb_read_file(&a, &a_size, path, 1000, &err));
    assert_ok(rb_read_file(&b, &b_size, given_path, 1000, &err));
    assert_int_equal(a_size, b_size);
    assert_memory_equal(a, b, a_size);
    made.fails_at = 2;
    assert_int_equal(unlink(path), 0);
    assert_fails(safetensors_write_from(path, tensors, N, make_data, &made, NULL, NULL, 0, &err), RB_EDEVICE,
                 "no data");
    assert_int_equal(access(path, F_OK), -1);
    free(a);
    free(b);
}

/* ---- damage anywhere ------------------------------------------------------------------------- */

enum { SAMPLE_MAX = 1024 };

/* A small file with everything in it; returns its size. */
static size_t read_sample(unsigned char *bytes)
{
    const char *path = scratch_path("sample.safetensors"), *key = "format", *value = "pt";
    const uint16_t half[4] = {0x3f80, 0xbf80, 0x7f80, 0x0001};
    const float f32[3] = {1, 2, 3};
    const safetensor tensors[] = {
        {.name = "model.norm.weight",
         .dtype = TENSOR_BF16,
         .rank = 2,
         .shape = {2, 2},
         .data = half,
         .size_bytes = sizeof half},
        {.name = "lm_head.weight", .dtype = TENSOR_F32, .rank = 1, .shape = {3}, .data = f32, .size_bytes = sizeof f32},
    };
    rb_error err = {0};
    assert_ok(safetensors_write(path, tensors, 2, &key, &value, 1, &err));
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    const size_t n = fread(bytes, 1, SAMPLE_MAX, in);
    fclose(in);
    assert_in_range(n, 100, SAMPLE_MAX - 1);
    return n;
}

/* Opens the bytes as a file and touches all that it offers. */
static rb_status open_and_read(const unsigned char *bytes, size_t n)
{
    const char *path = scratch_path("altered.safetensors");
    safetensors_file *file = NULL;
    rb_error err = {0};
    write_bytes(path, bytes, n);
    const rb_status st = safetensors_open(&file, path, &err);
    if (st != RB_OK) {
        assert_null(file);
        assert_true(strstr(err.msg, "altered.safetensors") != NULL);
        return st;
    }
    for (int64_t i = 0; i < safetensors_count(file); i++) {
        const safetensor *tensor = safetensors_at(file, i);
        float out[SAMPLE_MAX];
        assert_ptr_equal(safetensors_find(file, tensor->name), tensor);
        const rb_status converted =
            safetensor_to_f32(tensor, 0, (int64_t)(tensor->size_bytes / tensor_dtype_size(tensor->dtype)), out, &err);
        assert_true(converted == RB_OK || converted == RB_EUNSUPPORTED);
    }
    safetensors_close(file);
    return RB_OK;
}

static void refuses_sample_cut_at_any_byte(void **state)
{
    (void)state;
    unsigned char bytes[SAMPLE_MAX];
    const size_t n = read_sample(bytes);
    assert_int_equal(open_and_read(bytes, n), RB_OK);
    for (size_t cut = 0; cut < n; cut++) assert_int_equal(open_and_read(bytes, cut), RB_EFORMAT);
    bytes[n] = 0;
    assert_int_equal(open_and_read(bytes, n + 1), RB_EFORMAT);
}

static void survives_every_bit_flip(void **state)
{
    (void)state;
    unsigned char bytes[SAMPLE_MAX];
    const size_t n = read_sample(bytes);
    int n_refused = 0;
    for (size_t bit = 0; bit < n * 8; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        n_refused += open_and_read(bytes, n) != RB_OK;
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    assert_true(n_refused > 64); /* at the least, the bits of the header length */
    assert_int_equal(open_and_read(bytes, n), RB_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_file_without_tensors),
        cmocka_unit_test(keeps_file_order_whatever_the_header_order),
        cmocka_unit_test(finds_each_of_thousands),
        cmocka_unit_test(converts_every_f16_and_bf16_unaligned),
        cmocka_unit_test(converts_a_range_and_nothing_around_it),
        cmocka_unit_test(refuses_to_convert_integers),
        cmocka_unit_test(round_trip_keeps_tensors_and_metadata),
        cmocka_unit_test(release_keeps_values_of_many_pages),
        cmocka_unit_test(writer_refuses_what_a_reader_would),
        cmocka_unit_test(reads_golden_of_the_demo_model),
        cmocka_unit_test(data_may_be_made_when_it_is_asked_for),
        cmocka_unit_test(refuses_missing_file),
        cmocka_unit_test(refuses_truncated_length),
        cmocka_unit_test(refuses_wrong_header_length),
        REFUSES(refuses_header_that_is_an_array, "[]", 0, RB_EFORMAT, "does not start with '{'"),
        REFUSES(refuses_header_behind_a_space, " {}", 0, RB_EFORMAT, "does not start with '{'"),
        REFUSES(refuses_broken_json, "{\"a\":", 0, RB_EFORMAT, "damaged.safetensors"),
        REFUSES(refuses_text_behind_the_header, "{} {}", 0, RB_EFORMAT, "damaged.safetensors"),
        REFUSES(refuses_name_given_twice, "{" TENSOR("a", "U8", "[1]", 0, 1) "," TENSOR("a", "U8", "[1]", 1, 2) "}", 2,
                RB_EFORMAT, "\"a\""),
        REFUSES(refuses_key_given_twice_in_a_tensor,
                "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, RB_EFORMAT,
                "\"dtype\""),
        REFUSES(refuses_metadata_that_is_a_string, "{\"__metadata__\":\"pt\"}", 0, RB_EFORMAT, "__metadata__"),
        REFUSES(refuses_metadata_value_that_is_a_number, "{\"__metadata__\":{\"format\":1}}", 0, RB_EFORMAT,
                "__metadata__ \"format\""),
        REFUSES(refuses_tensor_that_is_a_number, "{\"a\":1}", 0, RB_EFORMAT, "tensor \"a\""),
        REFUSES(refuses_missing_dtype, "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, RB_EFORMAT, "dtype"),
        REFUSES(refuses_missing_shape, "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, RB_EFORMAT, "shape"),
        REFUSES(refuses_missing_offsets, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, RB_EFORMAT, "data_offsets"),
        REFUSES(refuses_unknown_dtype, "{" TENSOR("a", "F4", "[2]", 0, 1) "}", 1, RB_EUNSUPPORTED,
                "unknown dtype \"F4\""),
        REFUSES(refuses_negative_dim, "{" TENSOR("a", "U8", "[-1]", 0, 1) "}", 1, RB_EFORMAT, "shape[0]"),
        REFUSES(refuses_fractional_dim, "{" TENSOR("a", "U8", "[1,1.5]", 0, 1) "}", 1, RB_EFORMAT, "shape[1]"),
        REFUSES(refuses_dim_that_is_a_string, "{" TENSOR("a", "U8", "[\"1\"]", 0, 1) "}", 1, RB_EFORMAT, "shape[0]"),
        REFUSES(refuses_huge_dim, "{" TENSOR("a", "U8", "[1e300]", 0, 1) "}", 1, RB_EFORMAT, "shape[0]"),
        REFUSES(refuses_rank_nine, "{" TENSOR("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, RB_EUNSUPPORTED,
                "more than 8 dims"),
        REFUSES(refuses_shape_that_overflows, "{" TENSOR("a", "F32", "[4294967296,4294967296]", 0, 1) "}", 1,
                RB_EFORMAT, "overflows"),
        REFUSES(refuses_shape_that_wraps_to_its_size,
                "{" TENSOR("a", "F32", "[4294967296,4294967296,4294967296]", 0, 0) "}", 0, RB_EFORMAT, "overflows"),
        REFUSES(refuses_one_offset, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1]}}", 1, RB_EFORMAT,
                "not two whole numbers"),
        REFUSES(refuses_three_offsets, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1,
                RB_EFORMAT, "not two whole numbers"),
        REFUSES(refuses_negative_offset, "{" TENSOR("a", "U8", "[1]", -1, 0) "}", 1, RB_EFORMAT,
                "not two whole numbers"),
        REFUSES(refuses_offsets_backwards, "{" TENSOR("a", "U8", "[1]", 1, 0) "}", 1, RB_EFORMAT,
                "[1, 0] run backwards"),
        REFUSES(refuses_offsets_beyond_file, "{" TENSOR("a", "U8", "[2]", 0, 2) "}", 1, RB_EFORMAT, "end at byte 2"),
        REFUSES(refuses_size_below_shape, "{" TENSOR("a", "BF16", "[2]", 0, 3) "}", 3, RB_EFORMAT,
                "span 3 bytes, expected 4"),
        REFUSES(refuses_size_above_shape, "{" TENSOR("a", "BF16", "[2]", 0, 5) "}", 5, RB_EFORMAT,
                "span 5 bytes, expected 4"),
        REFUSES(refuses_hole_ahead, "{" TENSOR("a", "U8", "[1]", 1, 2) "}", 2, RB_EFORMAT, "a hole behind the header"),
        REFUSES(refuses_hole_between, "{" TENSOR("a", "U8", "[1]", 0, 1) "," TENSOR("b", "U8", "[1]", 2, 3) "}", 3,
                RB_EFORMAT, "a hole behind a"),
        REFUSES(refuses_overlap, "{" TENSOR("a", "U8", "[2]", 0, 2) "," TENSOR("b", "U8", "[2]", 1, 3) "}", 3,
                RB_EFORMAT, "an overlap behind a"),
        REFUSES(refuses_shared_bytes, "{" TENSOR("a", "U8", "[2]", 0, 2) "," TENSOR("b", "U8", "[2]", 0, 2) "}", 2,
                RB_EFORMAT, "an overlap"),
        REFUSES(refuses_data_behind_the_last_tensor, "{" TENSOR("a", "U8", "[1]", 0, 1) "}", 2, RB_EFORMAT,
                "cover 1 bytes of data, the file holds 2"),
        REFUSES(refuses_data_without_tensors, "{}", 1, RB_EFORMAT, "cover 0 bytes"),
        REFUSES(refuses_empty_tensor_inside_another,
                "{" TENSOR("a", "U8", "[2]", 0, 2) "," TENSOR("b", "U8", "[0]", 1, 1) "}", 2, RB_EFORMAT, "an overlap"),
        cmocka_unit_test(refuses_sample_cut_at_any_byte),
        cmocka_unit_test(survives_every_bit_flip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
