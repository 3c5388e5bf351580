/* Block types against the Python package gguf: tests/fixtures/gguf-blocks.safetensors has, of each type, blocks of
 * random bytes (the first with subnormal scales) and the values of gguf.quants.dequantize, which must be met bit for
 * bit. */
#include "tests/test_support.h"

#include "model/gguf/gguf_dequantize.h"
#include "model/safetensors.h"

static const tensor_dtype TYPES[] = {TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1,
                                     TENSOR_Q8_0, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};

static const safetensor *find(const safetensors_file *file, tensor_dtype dtype, const char *kind)
{
    char name[32];
    snprintf(name, sizeof name, "%s.%s", tensor_dtype_name(dtype), kind);
    const safetensor *tensor = safetensors_find(file, name);
    assert_non_null(tensor);
    return tensor;
}

static void every_block_type_gives_the_values_of_the_python_package(void **state)
{
    rb_error err = {0};
    safetensors_file *file;
    (void)state;
    assert_ok(safetensors_open(&file, "tests/fixtures/gguf-blocks.safetensors", &err));
    for (size_t i = 0; i < RB_COUNT(TYPES); i++) {
        const safetensor *blocks = find(file, TYPES[i], "blocks"), *values = find(file, TYPES[i], "values");
        const tensor_block block = tensor_dtype_block(TYPES[i]);
        assert_int_equal(blocks->shape[1], block.size_bytes);
        assert_int_equal(values->shape[1], block.n_elements);
        float *out = malloc(values->size_bytes);
        assert_non_null(out);
        gguf_dequantize(TYPES[i], blocks->data, blocks->shape[0], out);
        for (int64_t j = 0; j < values->shape[0] * values->shape[1]; j++) {
            float expected;
            memcpy(&expected, (const char *)values->data + j * 4, sizeof expected);
            if (memcmp(&out[j], &expected, sizeof expected) != 0)
                fail_msg("%s: value %lld is %.9g, expected %.9g", tensor_dtype_name(TYPES[i]), (long long)j,
                         (double)out[j], (double)expected);
        }
        free(out);
    }
    safetensors_close(file);
}

/* A stretch of blocks in the middle, from a place that is not aligned. */
static void a_stretch_of_a_tensor_is_converted_by_itself(void **state)
{
    rb_error err = {0};
    safetensors_file *file;
    (void)state;
    assert_ok(safetensors_open(&file, "tests/fixtures/gguf-blocks.safetensors", &err));
    for (size_t i = 0; i < RB_COUNT(TYPES); i++) {
        const safetensor *blocks = find(file, TYPES[i], "blocks"), *values = find(file, TYPES[i], "values");
        const int64_t n = tensor_dtype_block(TYPES[i]).n_elements;
        unsigned char *moved = malloc(blocks->size_bytes + 1);
        float out[256];
        assert_non_null(moved);
        memcpy(moved + 1, blocks->data, blocks->size_bytes);
        const safetensor tensor = {.name = "t",
                                   .dtype = TYPES[i],
                                   .rank = 1,
                                   .shape = {n * blocks->shape[0]},
                                   .data = moved + 1,
                                   .size_bytes = blocks->size_bytes};
        assert_ok(safetensor_to_f32(&tensor, n, n, out, &err));
        assert_memory_equal(out, (const char *)values->data + n * 4, (size_t)n * 4);
        free(moved);
    }
    safetensors_close(file);
}

static void sizes_count_whole_blocks(void **state)
{
    size_t size_bytes;
    tensor_dtype dtype;
    (void)state;
    assert_true(tensor_shape_bytes(TENSOR_Q4_K, 2, (const int64_t[]){3, 512}, &size_bytes));
    assert_int_equal(size_bytes, 3 * 2 * 144);
    assert_false(tensor_shape_bytes(TENSOR_Q4_K, 2, (const int64_t[]){256, 3}, &size_bytes));
    assert_false(tensor_shape_bytes(TENSOR_Q8_0, 0, NULL, &size_bytes));
    assert_false(tensor_dtype_find("Q4_K", &dtype)); /* no type of safetensors */
    assert_true(tensor_dtype_is_block(TENSOR_Q8_0));
    assert_false(tensor_dtype_is_block(TENSOR_BF16));
    assert_int_equal(tensor_from_f32(TENSOR_Q8_0, NULL, 0, NULL, NULL), RB_EUNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_type_gives_the_values_of_the_python_package),
        cmocka_unit_test(a_stretch_of_a_tensor_is_converted_by_itself),
        cmocka_unit_test(sizes_count_whole_blocks),
    };
    return cmocka_run_group_tests_name("gguf_dequantize", tests, NULL, NULL);
}
