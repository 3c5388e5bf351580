/* A pipeline file of `run`. */
#include "tests/fuzz/json_mutator.h"

#include "run/pipeline_config.h"

FUZZ_INITIALIZE

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static pipeline_config config; /* large */
    rb_error err = {0};
    const rb_status st = pipeline_config_read(&config, fuzz_file(0, data, size), &err);
    fuzz_check(st, &err);
    if (st == RB_OK) pipeline_config_free(&config);
    return 0;
}
