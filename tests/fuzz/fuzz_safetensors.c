/* A safetensors file: its header, and the elements of every tensor as float. */
#include "tests/fuzz/fuzz_support.h"

#include "model/safetensors.h"

FUZZ_INITIALIZE

static void read_tensor(const safetensor *tensor)
{
    enum { MAX_ELEMENTS = 512 };
    float values[MAX_ELEMENTS];
    rb_error err = {0};
    int64_t n = 1;
    for (int i = 0; i < tensor->rank; i++) n *= tensor->shape[i];
    fuzz_touch(tensor->data, tensor->size_bytes);
    if (n <= MAX_ELEMENTS) fuzz_check(safetensor_to_f32(tensor, 0, n, values, &err), &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    safetensors_file *file = NULL;
    rb_error err = {0};
    const rb_status st = safetensors_open(&file, fuzz_file(0, data, size), &err);
    fuzz_check(st, &err);
    for (int64_t i = 0; st == RB_OK && i < safetensors_count(file); i++) {
        const safetensor *tensor = safetensors_at(file, i);
        FUZZ_HOLDS(safetensors_find(file, tensor->name) == tensor, &err);
        FUZZ_HOLDS(safetensors_offset(file, tensor) + (int64_t)tensor->size_bytes <= (int64_t)size, &err);
        read_tensor(tensor);
    }
    safetensors_close(file);
    return 0;
}
