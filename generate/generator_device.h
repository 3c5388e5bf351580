/* What runs the tokens of a generator: generator_cpu.c and generator_cuda.c. */
#ifndef RB_GENERATE_GENERATOR_DEVICE_H
#define RB_GENERATE_GENERATOR_DEVICE_H

#include "generate/generator.h"

typedef struct generator_device {
    rb_status (*open)(void **out, const generator_request *request, const sequence_cache *cache, rb_error *err);
    /* 1 to request->chunk tokens, the first at first_position; logits as in generator_add. */
    rb_status (*run)(void *state, const int32_t *tokens, int64_t n, int64_t first_position, float *logits,
                     rb_error *err);
    void (*close)(void *state); /* accepts NULL */
} generator_device;

extern const generator_device generator_cpu, generator_cuda;

#endif
