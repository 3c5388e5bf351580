/* The packed layout of kernels/reference/bit_packing.h: bytes by hand, and against a packer that sets one bit at a
 * time. */
#include "tests/test_support.h"

#include "core/status.h"
#include "kernels/reference/bit_packing.h"

enum { MAX_CODES = 300, GUARD = 0xA5, GUARD_BYTES = 8 };
static rb_error err;

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 16;
}

/* Bit by bit, as the header says it. */
static void pack_bitwise(uint8_t *packed, const uint8_t *codes, const uint8_t *widths, int n)
{
    size_t at = 0;
    memset(packed, 0, packed_size_bytes(widths, n));
    for (int i = 0; i < n; i++)
        for (int bit = 0; bit < widths[i]; bit++, at++)
            if (codes[i] >> bit & 1) packed[at / 8] = (uint8_t)(packed[at / 8] | 1u << at % 8);
}

/* Packs, compares with pack_bitwise, checks that nothing behind was written, unpacks. */
static void check_round_trip(const uint8_t *codes, const uint8_t *widths, int n)
{
    uint8_t packed[MAX_CODES + GUARD_BYTES], expected[MAX_CODES], back[MAX_CODES + GUARD_BYTES];
    const size_t size = packed_size_bytes(widths, n);
    memset(packed, GUARD, sizeof packed);
    memset(back, GUARD, sizeof back);
    pack_codes(packed, codes, widths, n);
    pack_bitwise(expected, codes, widths, n);
    assert_memory_equal(packed, expected, size);
    assert_ok(unpack_codes(back, packed, widths, n, &err));
    assert_memory_equal(back, codes, (size_t)n);
    for (int i = 0; i < GUARD_BYTES; i++) {
        assert_int_equal(packed[size + (size_t)i], GUARD);
        assert_int_equal(back[n + i], GUARD);
    }
}

static void three_codes_of_three_bits_fill_nine_bits(void **state)
{
    (void)state;
    /* 5 | 2 << 3 | 7 << 6 = 0x1d5 */
    const uint8_t codes[] = {5, 2, 7}, widths[] = {3, 3, 3}, expected[] = {0xd5, 0x01};
    uint8_t packed[2];
    assert_int_equal(packed_size_bytes(widths, 3), 2);
    pack_codes(packed, codes, widths, 3);
    assert_memory_equal(packed, expected, 2);
}

static void mixed_widths_follow_each_other_without_gaps(void **state)
{
    (void)state;
    /* 1 | 0xab << 1 | 5 << 9 | 9 << 12 = 0x9b57; the width of 0 takes nothing */
    const uint8_t codes[] = {1, 0xab, 0, 5, 9}, widths[] = {1, 8, 0, 3, 4}, expected[] = {0x57, 0x9b};
    uint8_t packed[2], back[5];
    assert_int_equal(packed_size_bytes(widths, 5), 2);
    pack_codes(packed, codes, widths, 5);
    assert_memory_equal(packed, expected, 2);
    assert_ok(unpack_codes(back, packed, widths, 5, &err));
    assert_memory_equal(back, codes, 5);
}

static void no_codes_take_no_bytes(void **state)
{
    (void)state;
    assert_int_equal(packed_size_bytes(NULL, 0), 0);
    check_round_trip((const uint8_t[]){0}, (const uint8_t[]){8}, 0);
}

static void every_width_and_count_comes_back(void **state)
{
    (void)state;
    uint8_t codes[MAX_CODES], widths[MAX_CODES];
    uint32_t random = 1;
    for (int width = 0; width <= 8; width++)
        for (int n = 0; n <= 67; n++) {
            memset(widths, width, sizeof widths);
            for (int i = 0; i < n; i++) codes[i] = (uint8_t)(next_random(&random) & ((1u << width) - 1));
            assert_int_equal(packed_size_bytes(widths, n), (size_t)(n * width + 7) / 8);
            check_round_trip(codes, widths, n);
            for (int i = 0; i < n; i++)
                codes[i] = (uint8_t)((1u << width) - 1); /* all bits set: padding must still be 0 */
            check_round_trip(codes, widths, n);
        }
}

static void random_mixes_of_widths_come_back(void **state)
{
    (void)state;
    uint8_t codes[MAX_CODES], widths[MAX_CODES];
    uint32_t random = 2;
    for (int trial = 0; trial < 500; trial++) {
        const int n = (int)(next_random(&random) % (MAX_CODES + 1));
        for (int i = 0; i < n; i++) {
            widths[i] = (uint8_t)(next_random(&random) % 9);
            codes[i] = (uint8_t)(next_random(&random) & ((1u << widths[i]) - 1));
        }
        check_round_trip(codes, widths, n);
    }
}

static void padding_bits_that_are_set_are_refused(void **state)
{
    (void)state;
    const uint8_t widths[] = {3, 3, 3};
    uint8_t codes[3];
    for (int bit = 1; bit < 8; bit++) { /* 9 bits: 7 of padding */
        const uint8_t packed[] = {0xd5, (uint8_t)(0x01 | 1 << bit)};
        assert_fails(unpack_codes(codes, packed, widths, 3, &err), RB_EFORMAT, "padding");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_codes_of_three_bits_fill_nine_bits),
        cmocka_unit_test(mixed_widths_follow_each_other_without_gaps),
        cmocka_unit_test(no_codes_take_no_bytes),
        cmocka_unit_test(every_width_and_count_comes_back),
        cmocka_unit_test(random_mixes_of_widths_come_back),
        cmocka_unit_test(padding_bits_that_are_set_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
