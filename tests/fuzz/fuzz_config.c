/* A config.json of a model. */
#include "tests/fuzz/json_mutator.h"

#include "core/plain_name.h"
#include "model/model_config.h"

FUZZ_INITIALIZE

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static model_config config; /* large */
    char *text = fuzz_string(data, size);
    rb_error err = {0};
    const rb_status st = model_config_parse(&config, text, size, "fuzz", &err);
    fuzz_check(st, &err);
    if (st == RB_OK) {
        rb_error longer = {0};
        FUZZ_HOLDS(rb_is_plain_name(config.facts.model_type), &err);
        FUZZ_HOLDS(model_config_max_context(&config) > 0, &err);
        fuzz_check(model_config_resolve_rope(&config, 1 << 17, "fuzz", &longer), &longer);
    }
    free(text);
    return 0;
}
