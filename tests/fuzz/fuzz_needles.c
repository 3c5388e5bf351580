/* A needle template. */
#include "tests/fuzz/json_mutator.h"

#include "texts/needle_template.h"

FUZZ_INITIALIZE

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    needle_template needles = {0};
    rb_error err = {0};
    fuzz_check(needle_template_open(&needles, fuzz_file(0, data, size), &err), &err);
    needle_template_free(&needles);
    return 0;
}
