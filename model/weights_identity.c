/* The identity of weights by samples: see model/weights_identity.h.
 *
 * They are read and not mapped: a fault in a mapping reads pages ahead, which for a cold file is most of the time. */
#include "model/weights_identity.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SAMPLES = 1024, MAX_SAMPLES_OF_A_TENSOR = 64 };

static const char LABEL[] = "ropebits-weights-sample-1";

typedef struct sampler {
    rb_sha256 *hash;
    int64_t n_samples; /* of a tensor */
    const char *path;  /* of the file that is open; the checkpoint's */
    int fd;            /* -1: none */
} sampler;

static int64_t samples_of_a_tensor(int64_t n_tensors)
{
    const int64_t n = n_tensors > 0 ? MAX_SAMPLES / n_tensors : 1;
    return n < 1 ? 1 : n > MAX_SAMPLES_OF_A_TENSOR ? MAX_SAMPLES_OF_A_TENSOR : n;
}

static void close_file(sampler *s)
{
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
}

/* The tensors of a file mostly come together. */
static rb_status open_file(sampler *s, const char *path, rb_error *err)
{
    if (s->fd >= 0 && strcmp(s->path, path) == 0) return RB_OK;
    close_file(s);
    s->path = path;
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    return s->fd >= 0 ? RB_OK : rb_fail(err, RB_EIO, "%s: cannot open: %s", path, strerror(errno));
}

/* At most WEIGHTS_SAMPLE_BYTES. */
static rb_status add_bytes(sampler *s, int64_t offset, int64_t n_bytes, rb_error *err)
{
    unsigned char bytes[WEIGHTS_SAMPLE_BYTES];
    ssize_t n_read;
    do n_read = pread(s->fd, bytes, (size_t)n_bytes, offset);
    while (n_read < 0 && errno == EINTR);
    if (n_read != n_bytes)
        return rb_fail(err, RB_EIO, "%s: cannot read %lld bytes at byte %lld: %s", s->path, (long long)n_bytes,
                       (long long)offset, n_read < 0 ? strerror(errno) : "the file ends");
    return rb_sha256_add(s->hash, bytes, (size_t)n_bytes, err);
}

static rb_status add_number(sampler *s, uint64_t value, rb_error *err)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(value >> 8 * i);
    return rb_sha256_add(s->hash, bytes, sizeof bytes, err);
}

static rb_status add_description(sampler *s, const safetensor *tensor, rb_error *err)
{
    const char *dtype = tensor_dtype_name(tensor->dtype);
    rb_status st;
    RB_TRY(st, rb_sha256_add(s->hash, tensor->name, strlen(tensor->name) + 1, err), done);
    RB_TRY(st, rb_sha256_add(s->hash, dtype, strlen(dtype) + 1, err), done);
    RB_TRY(st, add_number(s, (uint64_t)tensor->rank, err), done);
    for (int i = 0; i < tensor->rank; i++) RB_TRY(st, add_number(s, (uint64_t)tensor->shape[i], err), done);
    st = add_number(s, tensor->size_bytes, err);
done:
    return st;
}

static rb_status add_samples(sampler *s, const tensor_place *place, rb_error *err)
{
    const int64_t size = place->size_bytes, last = size - WEIGHTS_SAMPLE_BYTES;
    const bool is_whole = size <= s->n_samples * WEIGHTS_SAMPLE_BYTES;
    const int64_t n = is_whole ? (size + WEIGHTS_SAMPLE_BYTES - 1) / WEIGHTS_SAMPLE_BYTES : s->n_samples;
    rb_status st = open_file(s, place->path, err);
    for (int64_t i = 0; i < n && st == RB_OK; i++) {
        int64_t at = i * WEIGHTS_SAMPLE_BYTES;
        /* Quotient and rest apart, so that no product overflows. */
        if (!is_whole) at = n > 1 ? last / (n - 1) * i + last % (n - 1) * i / (n - 1) : last / 2;
        st = add_bytes(s, place->offset + at, size - at < WEIGHTS_SAMPLE_BYTES ? size - at : WEIGHTS_SAMPLE_BYTES, err);
    }
    return st;
}

rb_status checkpoint_identify_weights(checkpoint *ckpt, rb_error *err)
{
    sampler s = {.n_samples = samples_of_a_tensor(checkpoint_n_tensors(ckpt)), .fd = -1};
    char hex[RB_SHA256_HEX];
    tensor_place place;
    rb_status st;
    RB_TRY(st, rb_sha256_begin(&s.hash, err), done);
    RB_TRY(st, rb_sha256_add(s.hash, LABEL, sizeof LABEL, err), done);
    for (int64_t i = 0; i < checkpoint_n_tensors(ckpt); i++) {
        const safetensor *tensor = checkpoint_tensor_at(ckpt, i);
        RB_TRY(st, checkpoint_place(ckpt, tensor->name, tensor->rank, tensor->shape, &place, err), done);
        RB_TRY(st, add_description(&s, tensor, err), done);
        RB_TRY(st, add_samples(&s, &place, err), done);
    }
    RB_TRY(st, rb_sha256_end(&s.hash, hex, err), done);
    checkpoint_set_weights_sample(ckpt, hex);
done:
    if (s.hash) rb_sha256_end(&s.hash, NULL, NULL);
    close_file(&s);
    return st;
}
