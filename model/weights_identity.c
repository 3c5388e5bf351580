/* The identity of weights by samples: see model/weights_identity.h. */
#include "model/weights_identity.h"

#include <string.h>

enum { MAX_SAMPLES = 4096, MAX_SAMPLES_OF_A_TENSOR = 64 };

static const char LABEL[] = "ropebits-weights-sample-1";

static size_t samples_of_a_tensor(int64_t n_tensors)
{
    const int64_t n = n_tensors > 0 ? MAX_SAMPLES / n_tensors : 1;
    return n < 1 ? 1 : n > MAX_SAMPLES_OF_A_TENSOR ? MAX_SAMPLES_OF_A_TENSOR : (size_t)n;
}

static rb_status add_number(rb_sha256 *hash, uint64_t value, rb_error *err)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(value >> 8 * i);
    return rb_sha256_add(hash, bytes, sizeof bytes, err);
}

static rb_status add_description(rb_sha256 *hash, const safetensor *tensor, rb_error *err)
{
    const char *dtype = tensor_dtype_name(tensor->dtype);
    rb_status st;
    RB_TRY(st, rb_sha256_add(hash, tensor->name, strlen(tensor->name) + 1, err), done);
    RB_TRY(st, rb_sha256_add(hash, dtype, strlen(dtype) + 1, err), done);
    RB_TRY(st, add_number(hash, (uint64_t)tensor->rank, err), done);
    for (int i = 0; i < tensor->rank; i++) RB_TRY(st, add_number(hash, (uint64_t)tensor->shape[i], err), done);
    st = add_number(hash, tensor->size_bytes, err);
done:
    return st;
}

static rb_status add_samples(rb_sha256 *hash, const safetensor *tensor, size_t n_samples, rb_error *err)
{
    const unsigned char *data = tensor->data;
    if (tensor->size_bytes <= n_samples * WEIGHTS_SAMPLE_BYTES)
        return tensor->size_bytes > 0 ? rb_sha256_add(hash, data, tensor->size_bytes, err) : RB_OK;
    const size_t last = tensor->size_bytes - WEIGHTS_SAMPLE_BYTES;
    rb_status st = RB_OK;
    for (size_t i = 0; i < n_samples && st == RB_OK; i++) {
        /* A lone sample is from the middle. The quotient and the rest apart, so that no product overflows. */
        const size_t n_steps = n_samples > 1 ? n_samples - 1 : 2, step = n_samples > 1 ? i : 1;
        const size_t at = last / n_steps * step + last % n_steps * step / n_steps;
        st = rb_sha256_add(hash, data + at, WEIGHTS_SAMPLE_BYTES, err);
    }
    return st;
}

rb_status weights_identity(char hex[RB_SHA256_HEX], const weight_map *weights, rb_error *err)
{
    const size_t n_samples = samples_of_a_tensor(weights->n_entries);
    rb_sha256 *hash = NULL;
    rb_status st;
    RB_TRY(st, rb_sha256_begin(&hash, err), done);
    RB_TRY(st, rb_sha256_add(hash, LABEL, sizeof LABEL, err), done);
    for (int64_t i = 0; i < weights->n_entries; i++) {
        RB_TRY(st, add_description(hash, weights->entries[i].tensor, err), done);
        RB_TRY(st, add_samples(hash, weights->entries[i].tensor, n_samples, err), done);
    }
    RB_TRY(st, rb_sha256_end(&hash, hex, err), done);
done:
    if (hash) rb_sha256_end(&hash, NULL, NULL);
    return st;
}
