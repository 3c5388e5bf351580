/* core/sha256.h against the examples of FIPS 180-2, appendix B. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "core/sha256.h"

static const char empty_hash[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
static const char abc_hash[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char two_block_text[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
static const char two_block_hash[] = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
static const char million_a_hash[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

static void bytes_hash_as_the_standard_says(void **state)
{
    (void)state;
    rb_error err = {0};
    char hex[RB_SHA256_HEX];
    assert_ok(rb_sha256_bytes(hex, NULL, 0, &err));
    assert_string_equal(hex, empty_hash);
    assert_ok(rb_sha256_bytes(hex, "abc", 3, &err));
    assert_string_equal(hex, abc_hash);
    assert_ok(rb_sha256_bytes(hex, two_block_text, strlen(two_block_text), &err));
    assert_string_equal(hex, two_block_hash);
}

static void parts_hash_as_their_whole(void **state)
{
    (void)state;
    rb_error err = {0};
    char hex[RB_SHA256_HEX];
    for (size_t cut = 0; cut <= strlen(two_block_text); cut++) {
        rb_sha256 *hash = NULL;
        assert_ok(rb_sha256_begin(&hash, &err));
        assert_ok(rb_sha256_add(hash, two_block_text, cut, &err));
        assert_ok(rb_sha256_add(hash, two_block_text + cut, strlen(two_block_text) - cut, &err));
        assert_ok(rb_sha256_end(&hash, hex, &err));
        assert_null(hash);
        assert_string_equal(hex, two_block_hash);
    }
}

static void ending_without_a_result_frees_the_hash(void **state)
{
    (void)state;
    rb_error err = {0};
    rb_sha256 *hash = NULL;
    assert_ok(rb_sha256_end(&hash, NULL, NULL));
    assert_ok(rb_sha256_begin(&hash, &err));
    assert_ok(rb_sha256_end(&hash, NULL, NULL));
    assert_null(hash);
}

/* 3 000 001 bytes: past the read buffer, and no multiple of it. The hash of the file is the hash of its bytes. */
static void a_file_hashes_as_its_bytes(void **state)
{
    (void)state;
    enum { SIZE = 3000001, MILLION = 1000000 };
    rb_error err = {0};
    char from_bytes[RB_SHA256_HEX], from_file[RB_SHA256_HEX];
    char *bytes = malloc(SIZE);
    const char *path = scratch_path("hashed.bin");
    assert_non_null(bytes);
    memset(bytes, 'a', SIZE);
    assert_ok(rb_sha256_bytes(from_bytes, bytes, MILLION, &err));
    assert_string_equal(from_bytes, million_a_hash);
    for (int i = 0; i < SIZE; i++) bytes[i] = (char)(i * 31 >> 3);
    assert_ok(rb_atomic_write(path, bytes, SIZE, &err));
    assert_ok(rb_sha256_bytes(from_bytes, bytes, SIZE, &err));
    assert_ok(rb_sha256_file(from_file, path, &err));
    assert_string_equal(from_file, from_bytes);
    rb_sha256_task *task = NULL;
    memset(from_file, 0, sizeof from_file);
    assert_ok(rb_sha256_file_start(&task, path, &err));
    assert_ok(rb_sha256_file_finish(&task, from_file, &err));
    assert_null(task);
    assert_string_equal(from_file, from_bytes);
    free(bytes);
}

static void a_file_that_cannot_be_read_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    char hex[RB_SHA256_HEX];
    assert_fails(rb_sha256_file(hex, "/nonexistent/weights.bin", &err), RB_EIO,
                 "/nonexistent/weights.bin: No such file");
    assert_fails(rb_sha256_file(hex, "/", &err), RB_EIO, "/: read failed: Is a directory");
    rb_sha256_task *task = NULL;
    assert_ok(rb_sha256_file_start(&task, "/nonexistent/weights.bin", &err));
    assert_fails(rb_sha256_file_finish(&task, hex, &err), RB_EIO, "/nonexistent/weights.bin: No such file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_hash_as_the_standard_says),        cmocka_unit_test(parts_hash_as_their_whole),
        cmocka_unit_test(ending_without_a_result_frees_the_hash), cmocka_unit_test(a_file_hashes_as_its_bytes),
        cmocka_unit_test(a_file_that_cannot_be_read_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
