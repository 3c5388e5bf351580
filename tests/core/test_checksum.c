/* core/checksum.h: the value of the standard, and that torn bytes show. */
#include "tests/test_support.h"

#include "core/checksum.h"

static rb_error err;

static void nothing_has_the_tag_of_the_standards_first_case(void **state)
{
    /* Test case 1 of the GCM specification: key, nonce and everything else zero or empty. */
    static const uint8_t expected[16] = {0x58, 0xe2, 0xfc, 0xce, 0xfa, 0x7e, 0x30, 0x61,
                                         0x36, 0x7f, 0x1d, 0x57, 0xa4, 0xe7, 0x45, 0x5a};
    rb_checksum found;
    (void)state;
    assert_ok(rb_checksum_bytes(&found, "", 0, &err));
    assert_memory_equal(found.bytes, expected, sizeof expected);
}

static void a_flipped_bit_a_cut_and_zeros_at_the_end_show(void **state)
{
    enum { N = 1000 };
    uint8_t bytes[N + 1] = {0};
    rb_checksum whole, other;
    (void)state;
    for (int i = 0; i < N; i++) bytes[i] = (uint8_t)(i * 7);
    assert_ok(rb_checksum_bytes(&whole, bytes, N, &err));
    for (int i = 0; i < N; i += 37) {
        bytes[i] ^= (uint8_t)(1 << i % 8);
        assert_ok(rb_checksum_bytes(&other, bytes, N, &err));
        assert_memory_not_equal(&whole, &other, sizeof whole);
        bytes[i] ^= (uint8_t)(1 << i % 8);
    }
    assert_ok(rb_checksum_bytes(&other, bytes, N - 1, &err));
    assert_memory_not_equal(&whole, &other, sizeof whole);
    assert_ok(rb_checksum_bytes(&other, bytes, N + 1, &err));
    assert_memory_not_equal(&whole, &other, sizeof whole);
    assert_ok(rb_checksum_bytes(&other, bytes, N, &err));
    assert_memory_equal(&whole, &other, sizeof whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_has_the_tag_of_the_standards_first_case),
        cmocka_unit_test(a_flipped_bit_a_cut_and_zeros_at_the_end_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
