/* Floats on their way into a tensor: every half comes back, what does not fit is refused. (The way up is in
 * test_safetensors.) */
#include "tests/test_support.h"

#include "model/safetensors.h"

static void every_f16_and_bf16_comes_back_from_f32_unaligned(void **state)
{
    (void)state;
    static const tensor_dtype dtypes[] = {TENSOR_F16, TENSOR_BF16};
    unsigned char bytes[1 + sizeof(uint16_t)], back[1 + sizeof(uint16_t)];
    rb_error err = {0};
    for (size_t d = 0; d < RB_COUNT(dtypes); d++)
        for (uint32_t i = 0; i <= UINT16_MAX; i++) {
            const uint16_t bits = (uint16_t)i;
            const safetensor tensor = {
                .name = "x", .dtype = dtypes[d], .rank = 1, .shape = {1}, .data = bytes + 1, .size_bytes = sizeof bits};
            float x;
            memcpy(bytes + 1, &bits, sizeof bits);
            assert_ok(safetensor_to_f32(&tensor, 0, 1, &x, &err));
            if (!isfinite(x)) {
                assert_fails(tensor_from_f32(dtypes[d], &x, 1, back + 1, &err), RB_ENONFINITE, "does not fit");
                continue;
            }
            assert_ok(tensor_from_f32(dtypes[d], &x, 1, back + 1, &err));
            assert_memory_equal(bytes + 1, back + 1, sizeof bits);
        }
}

static void a_float_that_does_not_fit_its_dtype_is_refused(void **state)
{
    (void)state;
    const float f16[] = {1.0f, -65519.0f, -65520.0f}, bf16 = 0x1.ffp127f, fits = 0x1.fefffep127f;
    unsigned char out[16];
    rb_error err = {0};
    assert_ok(tensor_from_f32(TENSOR_F16, f16, 2, out, &err));
    assert_fails(tensor_from_f32(TENSOR_F16, f16, 3, out, &err), RB_ENONFINITE,
                 "-65520 does not fit F16, expected 65504 at most");
    assert_ok(tensor_from_f32(TENSOR_BF16, &fits, 1, out, &err));
    assert_fails(tensor_from_f32(TENSOR_BF16, &bf16, 1, out, &err), RB_ENONFINITE, "does not fit BF16");
    assert_ok(tensor_from_f32(TENSOR_F32, &bf16, 1, out, &err));
    assert_memory_equal(out, &bf16, sizeof bf16);
    assert_fails(tensor_from_f32(TENSOR_F32, &(float){INFINITY}, 1, out, &err), RB_ENONFINITE, "inf does not fit F32");
    assert_fails(tensor_from_f32(TENSOR_I32, f16, 1, out, &err), RB_EUNSUPPORTED,
                 "dtype is I32, expected F32, F16 or BF16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_and_bf16_comes_back_from_f32_unaligned),
        cmocka_unit_test(a_float_that_does_not_fit_its_dtype_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
