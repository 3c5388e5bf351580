/* A trial on the GPU: see kernels/check/codec_trial.h. Every output lies between two guards of a known byte. */
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/order.h"
#include "kernels/check/codec_trial.h"

enum { GUARD_BYTES = 4096, GUARD_BYTE = 0xa5, POISON_BYTE = 0x5a, N_TIMED_RUNS = 7 };

typedef struct guarded {
    uint8_t *memory;   /* device: guard, contents, guard */
    size_t size_bytes; /* of the contents */
} guarded;

typedef struct gpu_trial {
    const codec_trial_input *in;
    const codec_cuda_api *api;
    codec_cuda *codec;
    int64_t n;  /* vectors a head */
    uint8_t *x; /* device */
    size_t x_bytes;
    float *queries, *rotated;
    size_t n_queries, n_rotated; /* floats */
    uint64_t *first_bad;
    guarded packed, norms, x_hat, logits;
    void *events[2];
} gpu_trial;

static size_t element_bytes(codec_dtype type) { return type == CODEC_F32 ? 4 : 2; }

/* ---- memory ---------------------------------------------------------------------------------- */

static rb_status alloc_guarded(guarded *g, size_t size_bytes, rb_error *err)
{
    g->size_bytes = (size_bytes + 127) / 128 * 128; /* what follows a stream's end is guarded by zeros, see below */
    return rb_cuda_alloc(&g->memory, g->size_bytes + 2 * GUARD_BYTES, 1, "trial output", err);
}
static void free_guarded(guarded *g) { rb_cuda_free(g->memory, g->size_bytes + 2 * GUARD_BYTES, 1); }
static void *contents(const guarded *g) { return g->memory + GUARD_BYTES; }

static rb_status poison(const guarded *g, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_cuda()->fill(g->memory, GUARD_BYTE, g->size_bytes + 2 * GUARD_BYTES, NULL, err), done);
    RB_TRY(st, rb_cuda()->fill(contents(g), POISON_BYTE, g->size_bytes, NULL, err), done);
done:
    return st;
}

/* Contents to `out` (malloc'ed here, one block with its guards cut off) and the bytes of the guards that changed. */
static rb_status fetch(void *out, int64_t *bytes_outside, const guarded *g, rb_error *err)
{
    uint8_t *all = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&all, g->size_bytes + 2 * GUARD_BYTES, 1, "trial output", err), done);
    RB_TRY(st, rb_cuda()->copy(all, g->memory, g->size_bytes + 2 * GUARD_BYTES, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
    for (size_t i = 0; i < GUARD_BYTES; i++)
        *bytes_outside += (all[i] != GUARD_BYTE) + (all[GUARD_BYTES + g->size_bytes + i] != GUARD_BYTE);
    memmove(all, all + GUARD_BYTES, g->size_bytes);
    memcpy(out, &all, sizeof all);
    all = NULL;
done:
    free(all);
    return st;
}

static void *to_type(const float *x, int64_t n, codec_dtype type, rb_error *err)
{
    uint8_t *out = NULL;
    if (rb_alloc(&out, (size_t)n, element_bytes(type), "vectors", err) != RB_OK) return NULL;
    if (type == CODEC_F32) memcpy(out, x, (size_t)n * sizeof *x);
    for (int64_t i = 0; type != CODEC_F32 && i < n; i++) {
        const uint16_t bits = type == CODEC_F16 ? rb_f32_to_f16(x[i]) : (uint16_t)(rb_f32_bits(x[i]) >> 16);
        memcpy(out + 2 * i, &bits, sizeof bits);
    }
    return out;
}

static rb_status from_type(float **out, const uint8_t *x, int64_t n, codec_dtype type, rb_error *err)
{
    const rb_status st = rb_alloc(out, (size_t)n, sizeof **out, "vectors", err);
    if (st != RB_OK) return st;
    if (type == CODEC_F32) memcpy(*out, x, (size_t)n * sizeof **out);
    for (int64_t i = 0; type != CODEC_F32 && i < n; i++) {
        uint16_t bits;
        memcpy(&bits, x + 2 * i, sizeof bits);
        (*out)[i] = type == CODEC_F16 ? rb_f16_to_f32(bits) : rb_bf16_to_f32(bits);
    }
    return RB_OK;
}

/* ---- set-up ---------------------------------------------------------------------------------- */

/* x [n_heads][n][head_dim] on the device, the input's vectors over and over. */
static rb_status upload_vectors(gpu_trial *t, rb_error *err)
{
    const codec_trial_input *in = t->in;
    const int64_t d = in->model->head_dim;
    const size_t size = element_bytes(in->type), head_bytes = (size_t)in->n * (size_t)d * size;
    uint8_t *host = to_type(in->x, in->n_heads * in->n * d, in->type, err);
    rb_status st = host ? RB_OK : RB_ENOMEM;
    t->x_bytes = (size_t)in->n_heads * (size_t)t->n * (size_t)d * size;
    if (st == RB_OK) st = rb_cuda_alloc(&t->x, t->x_bytes, 1, "vectors", err);
    for (int h = 0; h < in->n_heads; h++)
        for (int64_t at = 0; at < t->n && st == RB_OK; at += in->n) {
            const int64_t n = t->n - at < in->n ? t->n - at : in->n;
            st = rb_cuda()->copy(t->x + ((size_t)h * (size_t)t->n + (size_t)at) * (size_t)d * size,
                                 host + (size_t)h * head_bytes, (size_t)(n * d) * size, NULL, err);
        }
    if (st == RB_OK) st = rb_cuda()->stream_wait(NULL, err);
    free(host);
    return st;
}

static rb_status upload_queries(gpu_trial *t, rb_error *err)
{
    const codec_trial_input *in = t->in;
    const size_t d = (size_t)in->model->head_dim, heads = (size_t)in->n_heads;
    rb_status st;
    t->n_queries = heads * (size_t)in->n_queries * d;
    t->n_rotated = heads * ((size_t)in->n_queries + 7) / 8 * 8 * d + 8 * heads * d;
    RB_TRY(st, rb_cuda_alloc(&t->queries, t->n_queries, sizeof *t->queries, "queries", err), done);
    RB_TRY(st, rb_cuda_alloc(&t->rotated, t->n_rotated, sizeof *t->rotated, "queries", err), done);
    RB_TRY(st, rb_cuda()->copy(t->queries, in->queries, t->n_queries * sizeof *t->queries, NULL, err), done);
done:
    return st;
}

static rb_status begin(gpu_trial *t, const codec_image *image, rb_error *err)
{
    const codec_trial_input *in = t->in;
    const size_t heads = (size_t)in->n_heads, n = (size_t)t->n, d = (size_t)in->model->head_dim;
    rb_status st;
    RB_TRY(st, codec_cuda_functions(&t->api, err), done);
    RB_TRY(st, codec_cuda_create(&t->codec, image, err), done);
    RB_TRY(st, upload_vectors(t, err), done);
    RB_TRY(st, upload_queries(t, err), done);
    RB_TRY(st, rb_cuda_alloc(&t->first_bad, 1, sizeof *t->first_bad, "flag", err), done);
    RB_TRY(st, alloc_guarded(&t->packed, (size_t)codec_image_packed_offset(image, in->n_heads, t->n), err), done);
    RB_TRY(st, alloc_guarded(&t->norms, (size_t)codec_image_norms_offset(image, in->n_heads, t->n), err), done);
    RB_TRY(st, alloc_guarded(&t->x_hat, heads * n * d * element_bytes(in->type), err), done);
    RB_TRY(st, alloc_guarded(&t->logits, heads * (size_t)in->n_queries * n * sizeof(float), err), done);
    for (int i = 0; i < 2; i++) RB_TRY(st, rb_cuda()->event_create(&t->events[i], err), done);
done:
    return st;
}

static void end(gpu_trial *t)
{
    codec_cuda_free(t->codec);
    rb_cuda_free(t->x, t->x_bytes, 1);
    rb_cuda_free(t->queries, t->n_queries, sizeof *t->queries);
    rb_cuda_free(t->rotated, t->n_rotated, sizeof *t->rotated);
    rb_cuda_free(t->first_bad, 1, sizeof *t->first_bad);
    free_guarded(&t->packed);
    free_guarded(&t->norms);
    free_guarded(&t->x_hat);
    free_guarded(&t->logits);
    for (int i = 0; i < 2; i++)
        if (t->events[i]) rb_cuda()->event_destroy(t->events[i]);
}

/* ---- the three steps ------------------------------------------------------------------------- */

typedef rb_status (*trial_step)(gpu_trial *t, rb_error *err);

static codec_vectors vectors_at(const gpu_trial *t, void *data)
{
    const int64_t d = t->in->model->head_dim;
    return (codec_vectors){.data = data, .type = t->in->type, .head_stride = t->n * d, .token_stride = d};
}

static rb_status step_encode(gpu_trial *t, rb_error *err)
{
    const codec_vectors x = vectors_at(t, t->x);
    return t->api->encode(codec_cuda_image(t->codec), &x, t->n, contents(&t->packed), contents(&t->norms), t->first_bad,
                          NULL, err);
}

static rb_status step_decode(gpu_trial *t, rb_error *err)
{
    const codec_vectors x_hat = vectors_at(t, contents(&t->x_hat));
    return t->api->decode(codec_cuda_image(t->codec), contents(&t->packed), contents(&t->norms), t->n, &x_hat, NULL,
                          err);
}

static rb_status step_logits(gpu_trial *t, rb_error *err)
{
    return t->api->logits(codec_cuda_image(t->codec), contents(&t->packed), contents(&t->norms), t->n, t->queries,
                          t->in->n_queries, t->rotated, contents(&t->logits), NULL, err);
}

static rb_status run_all(gpu_trial *t, rb_error *err)
{
    const guarded *const outputs[] = {&t->packed, &t->norms, &t->x_hat, &t->logits};
    rb_status st;
    for (size_t i = 0; i < RB_COUNT(outputs); i++) RB_TRY(st, poison(outputs[i], err), done);
    RB_TRY(st, rb_cuda()->fill(t->first_bad, 0xff, sizeof *t->first_bad, NULL, err), done);
    RB_TRY(st, step_encode(t, err), done);
    RB_TRY(st, step_decode(t, err), done);
    RB_TRY(st, step_logits(t, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
done:
    return st;
}

static rb_status time_step(double *seconds, gpu_trial *t, trial_step step, rb_error *err)
{
    double runs[N_TIMED_RUNS];
    rb_status st;
    RB_TRY(st, step(t, err), done);
    for (int i = 0; i < N_TIMED_RUNS; i++) {
        float ms = 0.0f;
        RB_TRY(st, rb_cuda()->event_record(t->events[0], NULL, err), done);
        RB_TRY(st, step(t, err), done);
        RB_TRY(st, rb_cuda()->event_record(t->events[1], NULL, err), done);
        RB_TRY(st, rb_cuda()->event_wait(t->events[1], err), done);
        RB_TRY(st, rb_cuda()->event_elapsed_ms(&ms, t->events[0], t->events[1], err), done);
        runs[i] = (double)ms * 1e-3;
    }
    rb_sort_doubles(runs, N_TIMED_RUNS);
    *seconds = runs[N_TIMED_RUNS / 2];
done:
    return st;
}

static rb_status time_all(codec_trial *out, const codec_trial_input *in, rb_error *err)
{
    gpu_trial t = {.in = in, .n = in->n_timed};
    rb_status st;
    RB_TRY(st, begin(&t, out->image, err), done);
    RB_TRY(st, time_step(&out->times.encode_s, &t, step_encode, err), done);
    RB_TRY(st, time_step(&out->times.decode_s, &t, step_decode, err), done);
    RB_TRY(st, time_step(&out->times.logits_s, &t, step_logits, err), done);
done:
    end(&t);
    return st;
}

/* ---- all ------------------------------------------------------------------------------------- */

static rb_status fetch_all(codec_trial *out, const gpu_trial *t, rb_error *err)
{
    const codec_trial_input *in = t->in;
    uint8_t *x_hat = NULL;
    uint64_t first_bad = 0;
    rb_status st;
    RB_TRY(st, fetch(&out->packed, &out->bytes_outside, &t->packed, err), done);
    RB_TRY(st, fetch(&out->norms, &out->bytes_outside, &t->norms, err), done);
    RB_TRY(st, fetch(&x_hat, &out->bytes_outside, &t->x_hat, err), done);
    RB_TRY(st, fetch(&out->logits, &out->bytes_outside, &t->logits, err), done);
    RB_TRY(st, from_type(&out->x_hat, x_hat, in->n_heads * t->n * in->model->head_dim, in->type, err), done);
    RB_TRY(st, rb_cuda()->copy(&first_bad, t->first_bad, sizeof first_bad, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
    out->first_bad = first_bad == UINT64_MAX ? -1 : (int64_t)first_bad;
done:
    free(x_hat);
    return st;
}

/* The space between a head's stream and the next is outside too: it must still hold the poison. */
static int64_t count_gap_bytes(const uint8_t *bytes, int64_t end, int64_t next)
{
    int64_t changed = 0;
    for (int64_t i = end; i < next; i++) changed += bytes[i] != POISON_BYTE;
    return changed;
}

static void check_gaps(codec_trial *out, const codec_trial_input *in)
{
    for (int h = 0; h < in->n_heads; h++) {
        const codec_image_head *head = &out->image->heads[h];
        out->bytes_outside +=
            count_gap_bytes(out->packed, codec_image_packed_offset(out->image, h, in->n) + in->n * head->packed_bytes,
                            codec_image_packed_offset(out->image, h + 1, in->n));
        out->bytes_outside += count_gap_bytes(
            out->norms, codec_image_norms_offset(out->image, h, in->n) + in->n * head->n_norms * head->norm_bytes,
            codec_image_norms_offset(out->image, h + 1, in->n));
    }
}

static int64_t count_different(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;
    int64_t different = 0;
    for (size_t i = 0; i < n; i++) different += x[i] != y[i];
    return different;
}

static rb_status check_second_run(codec_trial *out, gpu_trial *t, rb_error *err)
{
    const codec_trial_input *in = t->in;
    const size_t n_values = (size_t)in->n_heads * (size_t)t->n * (size_t)in->model->head_dim;
    codec_trial second = {0};
    rb_status st;
    RB_TRY(st, run_all(t, err), done);
    RB_TRY(st, fetch_all(&second, t, err), done);
    out->bytes_unstable = count_different(out->packed, second.packed, t->packed.size_bytes)
                          + count_different(out->norms, second.norms, t->norms.size_bytes)
                          + count_different(out->x_hat, second.x_hat, n_values * sizeof(float))
                          + count_different(out->logits, second.logits,
                                            (size_t)in->n_heads * (size_t)in->n_queries * (size_t)t->n * sizeof(float));
done:
    codec_trial_free(&second);
    return st;
}

rb_status codec_trial_cuda(codec_trial *out, const codec_trial_input *in, rb_error *err)
{
    gpu_trial t = {.in = in, .n = in->n};
    rb_status st;
    *out = (codec_trial){.first_bad = -1};
    RB_TRY(st, codec_image_build(&out->image, in->heads, in->n_heads, in->model, in->tables, err), done);
    RB_TRY(st, begin(&t, out->image, err), done);
    RB_TRY(st, run_all(&t, err), done);
    RB_TRY(st, fetch_all(out, &t, err), done);
    check_gaps(out, in);
    RB_TRY(st, check_second_run(out, &t, err), done);
    if (in->n_timed > 0) RB_TRY(st, time_all(out, in, err), done);
done:
    end(&t);
    if (st != RB_OK) codec_trial_free(out);
    return st;
}
