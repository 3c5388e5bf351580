/* bench_capture: writes a capture with the heads of Llama-3.1-8B (32 query heads, 8 KV heads, d 128, two sets of 2048
 * tokens, f16) as calibrate does on a GPU, from another thread than the main one, and reads its test set as profile
 * does. The data is normal and the same in every layer. Prints one JSON line; GB/s are bytes of f16 before compression.
 *
 *   bench_capture FILE [N_LAYERS 32 [N_THREADS 0 (all cores) [keep]]]
 *
 * The file is removed unless `keep` is given. The line also has what one thread writes to that folder without HDF5, in
 * pieces of a frame's size, and what one thread compresses. */
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "calibrate/capture_file.h"
#include "core/half.h"
#include "core/hdf5/hdf5_zstd_filter.h"
#include "core/message.h"
#include "core/threads.h"
#include "kernels/reference/numpy_random.h"

enum {
    N_Q_HEADS = 32,
    N_KV_HEADS = 8,
    HEAD_DIM = 128,
    N_TOKENS = 2048,
    HEAD = N_TOKENS * HEAD_DIM,
    HEAP_MAP_BYTES = 128 << 10
};

typedef struct bench {
    const char *path;
    int n_layers;
    uint16_t *q, *k;
    float *q_read, *k_read;
    capture_writer *writer;
    capture_file *capture;
    double write_s, publish_s, open_s, read_s;
    rb_status status;
    rb_error error;
} bench;

static uint16_t *normal_halves(uint64_t seed, int64_t n)
{
    double *drawn = malloc((size_t)n * sizeof *drawn);
    uint16_t *out = malloc((size_t)n * sizeof *out);
    numpy_rng rng;
    if (!drawn || !out) exit(1);
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, drawn, (size_t)n);
    for (int64_t i = 0; i < n; i++) out[i] = rb_f32_to_f16((float)drawn[i] * (1.0f + (float)(i % HEAD_DIM) / 16.0f));
    free(drawn);
    return out;
}

static capture_header make_header(int n_layers)
{
    capture_header header = {
        .model = {.model_type = "llama",
                  .n_layers = n_layers,
                  .n_q_heads = N_Q_HEADS,
                  .n_kv_heads = N_KV_HEADS,
                  .head_dim = HEAD_DIM,
                  .rotary_dim = HEAD_DIM,
                  .value_dim = HEAD_DIM,
                  .attention_scale = 0.088388347648318447,
                  .rope = {.attention_factor = 1,
                           .kind = ROPE_DEFAULT,
                           .pairing = ROPE_SPLIT_HALF,
                           .theta = 10000,
                           .factor = 1}},
        .text = {{.n_tokens = N_TOKENS, .context = N_TOKENS}, {.n_tokens = N_TOKENS, .context = N_TOKENS}},
        .value_type = RB_H5_F16};
    for (int i = 0; i < HEAD_DIM / 2; i++) header.model.rope.inv_freq[i] = 1.0 / (1 + i);
    memset(header.model.config_sha256, 'a', RB_SHA256_HEX - 1);
    return header;
}

/* The work of the other thread: writes all layers of both sets. */
static void *write_layers(void *argument)
{
    bench *b = argument;
    const capture_header header = make_header(b->n_layers);
    block_statistics statistics = {0};
    const double started_s = rb_now_s();
    rb_status st;
    RB_TRY(st, block_statistics_create(&statistics, &header.model, &b->error), done);
    for (int layer = 0; layer < b->n_layers; layer++)
        for (int set = 0; set < CAPTURE_N_SETS; set++)
            RB_TRY(
                st,
                capture_write_layer_f16(b->writer, (capture_set)set, layer, b->q, b->k, NULL, &statistics, &b->error),
                done);
done:
    b->write_s = rb_now_s() - started_s;
    b->status = st;
    block_statistics_free(&statistics);
    return NULL;
}

static void *read_layers(void *argument)
{
    bench *b = argument;
    const double started_s = rb_now_s();
    rb_status st = RB_OK;
    for (int layer = 0; layer < b->n_layers; layer++) {
        RB_TRY(st, capture_read_q(b->capture, CAPTURE_TEST, layer, b->q_read, &b->error), done);
        RB_TRY(st, capture_read_k(b->capture, CAPTURE_TEST, layer, b->k_read, &b->error), done);
    }
done:
    b->read_s = rb_now_s() - started_s;
    b->status = st;
    return NULL;
}

static rb_status on_a_thread(void *(*work)(void *), bench *b)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, b) != 0) return rb_fail(&b->error, RB_ENOMEM, "cannot start a thread");
    pthread_join(thread, NULL);
    return b->status;
}

/* Opened and published by the main thread, as calibrate and profile do. */
static rb_status write_and_read(bench *b)
{
    static int32_t ids[N_TOKENS];
    const capture_header header = make_header(b->n_layers);
    const int32_t *const tokens[CAPTURE_N_SETS] = {ids, ids};
    rb_status st;
    RB_TRY(st, capture_create(&b->writer, b->path, &header, tokens, "{}", &b->error), done);
    RB_TRY(st, on_a_thread(write_layers, b), done);
    double started_s = rb_now_s();
    RB_TRY(st, capture_publish(b->writer, &b->error), done);
    b->publish_s = rb_now_s() - started_s;
    started_s = rb_now_s();
    RB_TRY(st, capture_open(&b->capture, b->path, &b->error), done);
    b->open_s = rb_now_s() - started_s;
    st = on_a_thread(read_layers, b);
done:
    capture_writer_free(b->writer);
    capture_close(b->capture);
    return st;
}

/* Seconds that one thread takes for the bytes of a layer: to write them to a file as they are, and to compress them. */
static void measure_parts(const bench *b, double *plain_write_s, double *pack_s)
{
    enum { N_REPEATS = 8 };
    const size_t capacity = rb_zstd_capacity(HEAD * sizeof *b->q);
    ZSTD_CCtx *context = NULL;
    char *frame = malloc(capacity), *path = NULL;
    rb_error err;
    *plain_write_s = *pack_s = -1.0;
    if (!frame || rb_format(&path, &err, "%s.plain", b->path) != RB_OK) exit(1);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    double started_s = rb_now_s();
    bool is_good = fd >= 0;
    for (int i = 0; is_good && i < N_REPEATS * N_Q_HEADS; i++)
        is_good =
            write(fd, b->q + (int64_t)(i % N_Q_HEADS) * HEAD, HEAD * sizeof *b->q) == (ssize_t)(HEAD * sizeof *b->q);
    if (is_good) *plain_write_s = (rb_now_s() - started_s) / N_REPEATS;
    if (fd >= 0) close(fd);
    unlink(path);
    started_s = rb_now_s();
    for (int i = 0; i < N_Q_HEADS; i++)
        rb_zstd_pack(&context, frame, capacity, b->q + (int64_t)i * HEAD, HEAD * sizeof *b->q, 1);
    *pack_s = rb_now_s() - started_s;
    ZSTD_freeCCtx(context);
    free(path);
    free(frame);
}

int main(int argc, char **argv)
{
    bench b = {.path = argc > 1 ? argv[1] : NULL, .n_layers = argc > 2 ? atoi(argv[2]) : 32};
    const double gb = 1e-9 * HEAD * 2, layer_gb = gb * (N_Q_HEADS + N_KV_HEADS);
    double plain_write_s, pack_s;
    if (!b.path || b.n_layers < 1 || b.n_layers > 1000) {
        fprintf(stderr, "usage: bench_capture FILE [N_LAYERS [N_THREADS [keep]]]\n");
        return 2;
    }
    mallopt(M_MMAP_THRESHOLD, HEAP_MAP_BYTES); /* as in core/program.c */
    rb_threads_init(argc > 3 ? atoi(argv[3]) : 0);
    b.q = normal_halves(1, (int64_t)N_Q_HEADS * HEAD);
    b.k = normal_halves(2, (int64_t)N_KV_HEADS * HEAD);
    b.q_read = calloc((size_t)N_Q_HEADS * HEAD, sizeof *b.q_read);
    b.k_read = calloc((size_t)N_KV_HEADS * HEAD, sizeof *b.k_read);
    if (!b.q_read || !b.k_read) return 1;
    memset(b.q_read, 1,
           (size_t)N_Q_HEADS * HEAD * sizeof *b.q_read); /* like pinned memory, whose pages are there already */
    memset(b.k_read, 1, (size_t)N_KV_HEADS * HEAD * sizeof *b.k_read);
    if (write_and_read(&b) != RB_OK) {
        fprintf(stderr, "bench_capture: %s\n", b.error.msg);
        return 1;
    }
    if (argc <= 4) unlink(b.path);
    measure_parts(&b, &plain_write_s, &pack_s);
    printf("{\"what\": \"capture\", \"n_layers\": %d, \"threads\": %d, \"write_gb_per_s\": %.3f, \"write_s\": %.3f, "
           "\"publish_s\": %.3f, \"open_s\": %.3f, "
           "\"read_gb_per_s\": %.3f, \"read_s\": %.3f, \"plain_write_gb_per_s\": %.3f, \"pack_gb_per_s\": %.3f}\n",
           b.n_layers, rb_threads_count(), 2 * b.n_layers * layer_gb / b.write_s, b.write_s, b.publish_s, b.open_s,
           b.n_layers * layer_gb / b.read_s, b.read_s, gb * N_Q_HEADS / plain_write_s, gb * N_Q_HEADS / pack_s);
    free(b.q);
    free(b.k);
    free(b.q_read);
    free(b.k_read);
    return 0;
}
