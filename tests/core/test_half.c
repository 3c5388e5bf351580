/* core/half.h against the compiler's own _Float16: every fp16 pattern up, and the roundings down that could go wrong.
 */
#include "tests/test_support.h"

#include <float.h>
#include <stdbool.h>

#include "core/half.h"

static bool is_f16_nan(uint16_t bits) { return (bits & 0x7c00u) == 0x7c00u && (bits & 0x3ffu) != 0; }

/* Not every compiler has the type everywhere: clang 14 does not on x86. */
#ifdef __FLT16_MAX__
static float compiler_f16_to_f32(uint16_t bits)
{
    _Float16 half;
    memcpy(&half, &bits, sizeof half);
    return (float)half;
}

static uint16_t compiler_f32_to_f16(float x)
{
    const _Float16 half = (_Float16)x;
    uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}
#else
static float compiler_f16_to_f32(uint16_t bits)
{
    (void)bits;
    skip();
    return 0;
}

static uint16_t compiler_f32_to_f16(float x)
{
    (void)x;
    skip();
    return 0;
}
#endif

static void every_f16_becomes_the_float_that_the_compiler_makes_of_it(void **state)
{
    (void)state;
    for (uint32_t i = 0; i <= UINT16_MAX; i++) {
        const uint16_t bits = (uint16_t)i;
        if (is_f16_nan(bits)) assert_true(isnan(rb_f16_to_f32(bits)));
        else assert_int_equal(rb_f32_bits(rb_f16_to_f32(bits)), rb_f32_bits(compiler_f16_to_f32(bits)));
    }
}

static void every_f16_survives_the_way_up_and_down(void **state)
{
    (void)state;
    for (uint32_t i = 0; i <= UINT16_MAX; i++) {
        const uint16_t bits = (uint16_t)i, back = rb_f32_to_f16(rb_f16_to_f32(bits));
        if (is_f16_nan(bits)) assert_true(is_f16_nan(back));
        else assert_int_equal(back, bits);
    }
}

/* Between two neighbours: the lower, the middle (ties to even), and one float either side of the middle. */
static void rounding_between_neighbours_is_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 0x7bffu; i++) {
        const uint16_t below = (uint16_t)i, above = (uint16_t)(i + 1), even = i % 2 == 0 ? below : above;
        const float middle = (rb_f16_to_f32(below) + rb_f16_to_f32(above)) / 2; /* exact: one bit more than fp16 has */
        assert_int_equal(rb_f32_to_f16(middle), even);
        assert_int_equal(rb_f32_to_f16(nextafterf(middle, 0)), below);
        assert_int_equal(rb_f32_to_f16(nextafterf(middle, FLT_MAX)), above);
        assert_int_equal(rb_f32_to_f16(-middle), even | 0x8000u);
    }
}

static void a_stride_through_all_floats_rounds_as_the_compiler_does(void **state)
{
    (void)state;
    for (uint64_t i = 0; i <= UINT32_MAX; i += 1009) { /* a prime: every exponent, changing low bits */
        const float x = rb_f32_from_bits((uint32_t)i);
        if (!isnan(x)) assert_int_equal(rb_f32_to_f16(x), compiler_f32_to_f16(x));
    }
}

static void the_edges_of_f16_are_where_ieee_has_them(void **state)
{
    (void)state;
    assert_int_equal(rb_f32_to_f16(65504), 0x7bff); /* the largest */
    assert_int_equal(rb_f32_to_f16(nextafterf(65520, 0)), 0x7bff);
    assert_int_equal(rb_f32_to_f16(65520), 0x7c00); /* half way to 2^16: infinity */
    assert_int_equal(rb_f32_to_f16(FLT_MAX), 0x7c00);
    assert_int_equal(rb_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(rb_f32_to_f16(0x1p-14f), 0x0400); /* the smallest normal */
    assert_int_equal(rb_f32_to_f16(0x1p-24f), 0x0001); /* the smallest */
    assert_int_equal(rb_f32_to_f16(0x1p-25f), 0x0000); /* half of it: to even */
    assert_int_equal(rb_f32_to_f16(nextafterf(0x1p-25f, 1)), 0x0001);
    assert_int_equal(rb_f32_to_f16(-0.0f), 0x8000);
    assert_int_equal(rb_f32_to_f16(-FLT_TRUE_MIN), 0x8000);
    assert_true(is_f16_nan(rb_f32_to_f16(NAN)));
}

static void bf16_is_the_upper_half_of_a_float(void **state)
{
    (void)state;
    assert_true(rb_bf16_to_f32(0x3f80) == 1.0f);
    assert_true(rb_bf16_to_f32(0xc049) == -3.140625f);
    assert_true(isinf(rb_bf16_to_f32(0x7f80)));
    assert_true(isnan(rb_bf16_to_f32(0x7fc0)));
}

/* The two neighbours of a float that are bf16, and what lies between: the lower, the middle (ties to even), a float
 * either side of it. */
static void rounding_to_bf16_is_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 0x7f80u; i++) {
        const uint16_t below = (uint16_t)i, above = (uint16_t)(i + 1), even = i % 2 == 0 ? below : above;
        const float middle = rb_f32_from_bits(i << 16 | 0x8000u);
        assert_int_equal(rb_f32_to_bf16(rb_bf16_to_f32(below)), below);
        assert_int_equal(rb_f32_to_bf16(middle), even);
        assert_int_equal(rb_f32_to_bf16(rb_f32_from_bits(rb_f32_bits(middle) - 1)), below);
        assert_int_equal(rb_f32_to_bf16(rb_f32_from_bits(rb_f32_bits(middle) + 1)), above);
        assert_int_equal(rb_f32_to_bf16(-middle), even | 0x8000u);
    }
    assert_int_equal(rb_f32_to_bf16(FLT_MAX), 0x7f80);
    assert_int_equal(rb_f32_to_bf16(-INFINITY), 0xff80);
    assert_true(isnan(rb_bf16_to_f32(rb_f32_to_bf16(rb_f32_from_bits(0x7fffffffu)))));
    assert_true(isnan(rb_bf16_to_f32(rb_f32_to_bf16(rb_f32_from_bits(0xff800001u)))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_becomes_the_float_that_the_compiler_makes_of_it),
        cmocka_unit_test(every_f16_survives_the_way_up_and_down),
        cmocka_unit_test(rounding_between_neighbours_is_to_nearest_even),
        cmocka_unit_test(a_stride_through_all_floats_rounds_as_the_compiler_does),
        cmocka_unit_test(the_edges_of_f16_are_where_ieee_has_them),
        cmocka_unit_test(bf16_is_the_upper_half_of_a_float),
        cmocka_unit_test(rounding_to_bf16_is_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
