/* bench_attend: one decode token's attention over a packed cache on the GPU, one JSON line a row:
 * {"plan", "batch", "length", "n_q_heads", "n_kv_heads", "head_dim", "true_bits", "us", "packed_gb", "gb_per_s"}.
 *
 *   bench_attend [N_Q_HEADS N_KV_HEADS HEAD_DIM [BATCH [LENGTH [PLAN]]]]
 *
 * 32, 8 and 128 where not given; BATCH and LENGTH 0: several. PLAN: a name of a row, only that one. true_bits are those
 * of keys and values, bits a dim. Times are medians of calls, each a chain of calls over caches that together are
 * larger than the GPU's second-level cache. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/kv_cache.h"
#include "core/cuda_device.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/reference/numpy_random.h"

enum { CHAIN = 8, REPEATS = 9, L2_BYTES = 128 << 20 };

static void must(rb_status st, const rb_error *err)
{
    if (st == RB_OK) return;
    fprintf(stderr, "bench_attend: %s\n", err->msg);
    exit(1);
}

static double *normals(uint64_t seed, int n)
{
    double *drawn = malloc((size_t)n * sizeof *drawn);
    numpy_rng rng;
    if (!drawn) exit(1);
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, drawn, (size_t)n);
    return drawn;
}

/* ---- plans ----------------------------------------------------------------------------------- */

/* Units with so many bits, most first, scaled from 64 blocks or 128 coordinates. */
static void spread(uint8_t *out, int n, const int *counts, int n_counts, int of)
{
    for (int i = 0; i < n; i++) {
        int at = i * of / n, bits = n_counts - 1;
        for (int b = n_counts - 1; b >= 0; b--) {
            if (at < counts[b]) break;
            at -= counts[b];
            bits = b - 1;
        }
        out[i] = (uint8_t)(bits < 0 ? 0 : bits);
    }
}

/* 288 bits a key of 128 dims: 2.25 a dim. */
static void set_block_codebook(plan_head *head, int n_blocks, int seed, rb_error *err)
{
    static const int counts[] = {0, 0, 0, 16, 20, 16, 8, 4};
    uint8_t bits[RB_MAX_BLOCKS];
    double maps[RB_MAX_BLOCKS * 3], weights[RB_MAX_BLOCKS], *lean = normals((uint64_t)seed, n_blocks);
    spread(bits, n_blocks, counts, 8, 64);
    for (int b = 0; b < n_blocks; b++) {
        maps[3 * b] = maps[3 * b + 2] = 1.0;
        maps[3 * b + 1] = 0.2 * lean[b];
        weights[b] = 1.0;
    }
    must(plan_head_set_block_codebook(head, bits, maps, weights, 4, n_blocks, err), err);
    free(lean);
}

static void set_trellis(plan_head *head, int n, int seed, rb_error *err)
{
    static const int counts[] = {15, 25, 40, 24, 16, 7, 0, 0, 1};
    uint8_t widths[RB_MAX_HEAD_DIM];
    double *basis = normals((uint64_t)seed, n * n), weights[RB_MAX_HEAD_DIM];
    spread(widths, n, counts, 9, 128);
    widths[0] = 8;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) basis[i * n + j] /= sqrt(n);
        weights[i] = 1.0;
    }
    must(plan_head_set_trellis(head, widths, basis, weights, 4, 8, n, err), err);
    free(basis);
}

static void set_center(plan_head *head, int n, int seed, rb_error *err)
{
    double *center = normals((uint64_t)seed, n);
    must(plan_head_set_center(head, center, n, err), err);
    free(center);
}

typedef struct bench_plan {
    const char *name;
    int keys, values;
} bench_plan;
enum { HALF, BLOCK_CODEBOOK, TRELLIS, GTQ_3, GTQ_2 };

static const bench_plan bench_plans[] = {{"fp16", HALF, HALF},
                                         {"block-codebook + trellis", BLOCK_CODEBOOK, TRELLIS},
                                         {"trellis", TRELLIS, TRELLIS},
                                         {"block-codebook + 2-bit values", BLOCK_CODEBOOK, GTQ_2},
                                         {"block-gtq K3V3", GTQ_3, GTQ_3}};

static bit_plan *make_plan(const bench_plan *kind, const model_facts *model, rb_error *err)
{
    static const int gtq[] = {0, 0, 22, 26, 12, 3, 1};
    bit_plan *plan = NULL;
    uint8_t bits[RB_MAX_BLOCKS];
    const int n_blocks = model_n_blocks(model);
    if (kind->keys == HALF) return NULL;
    must(bit_plan_create(&plan, model, err), err);
    if (kind->values == TRELLIS) must(bit_plan_create_value_heads(plan, err), err);
    else bit_plan_set_value_width(plan, kind->values == GTQ_2 ? 2 : 3);
    spread(bits, n_blocks, gtq, 7, 64);
    for (int h = 0; h < model->n_kv_heads; h++) {
        plan_head *head = bit_plan_head(plan, 0, h);
        if (kind->keys == TRELLIS) set_trellis(head, model->head_dim, 3 + h, err);
        else if (kind->keys == BLOCK_CODEBOOK) set_block_codebook(head, n_blocks, 3 + h, err);
        else must(plan_head_set_block_widths(head, bits, n_blocks, CODEBOOK_BLOCK_GTQ, err), err);
        if (kind->keys != GTQ_3) set_center(head, model->head_dim, 9 + h, err);
        if (kind->values == TRELLIS) set_trellis(bit_plan_value_head_at(plan, 0, h), model->value_dim, 40 + h, err);
    }
    return plan;
}

/* ---- caches ---------------------------------------------------------------------------------- */

static void *device(size_t size_bytes, rb_error *err)
{
    rb_cuda_array array = {0};
    must(rb_cuda_array_alloc(&array, size_bytes, "bench", err), err);
    return array.at; /* until the program ends */
}

static void *upload(const void *from, size_t size_bytes, rb_error *err)
{
    void *to = device(size_bytes, err);
    must(rb_cuda()->copy(to, from, size_bytes, NULL, err), err);
    must(rb_cuda()->stream_wait(NULL, err), err);
    return to;
}

/* All pages hold what one page of random tokens is coded to. */
static void fill_pool(kv_cache *cache, uint8_t *pool, int64_t n_pages, rb_error *err)
{
    const model_facts *model = kv_cache_model(cache);
    const int row = model->n_kv_heads * model->head_dim, n = CACHE_PAGE_TOKENS * row;
    float *numbers = malloc((size_t)n * sizeof *numbers);
    double *drawn = normals(1, n);
    int64_t slots[CACHE_PAGE_TOKENS];
    int32_t positions[CACHE_PAGE_TOKENS];
    if (!numbers) exit(1);
    for (int i = 0; i < n; i++) numbers[i] = (float)drawn[i];
    for (int i = 0; i < CACHE_PAGE_TOKENS; i++) slots[i] = positions[i] = i;
    const ropebits_kv_vectors vectors = {upload(numbers, (size_t)n * sizeof *numbers, err), ROPEBITS_KV_F32, row,
                                         model->head_dim};
    must(kv_cache_encode(cache, 0, CACHE_PAGE_TOKENS, &vectors, &vectors, upload(positions, sizeof positions, err),
                         upload(slots, sizeof slots, err), pool,
                         device(kv_cache_coding_bytes(cache, 0, CACHE_PAGE_TOKENS), err), NULL, err),
         err);
    const int64_t page = kv_cache_layout(cache, 0)->page_bytes;
    for (int64_t done = 1; done < n_pages; done *= 2) {
        const int64_t more = n_pages - done < done ? n_pages - done : done;
        must(rb_cuda()->copy(pool + done * page, pool, (size_t)(more * page), NULL, err), err);
    }
    must(rb_cuda()->stream_wait(NULL, err), err);
    free(numbers);
    free(drawn);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double time_calls(kv_cache *cache, const ropebits_kv_queries *queries, ropebits_kv_pages *pages, int n_caches,
                         int32_t *const *tables, rb_error *err)
{
    double us[REPEATS];
    void *from, *to;
    must(rb_cuda()->event_create(&from, err), err);
    must(rb_cuda()->event_create(&to, err), err);
    for (int r = -1; r < REPEATS; r++) {
        float ms;
        must(rb_cuda()->event_record(from, NULL, err), err);
        for (int i = 0; i < CHAIN; i++) {
            pages->block_table = tables[i % n_caches];
            must(kv_cache_attend(cache, 0, queries, pages, NULL, err), err);
        }
        must(rb_cuda()->event_record(to, NULL, err), err);
        must(rb_cuda()->event_wait(to, err), err);
        must(rb_cuda()->event_elapsed_ms(&ms, from, to, err), err);
        if (r >= 0) us[r] = (double)ms * 1e3 / CHAIN;
    }
    qsort(us, REPEATS, sizeof *us, by_value);
    return us[REPEATS / 2];
}

static void run(const bench_plan *kind, const model_facts *model, int batch, int length, rb_error *err)
{
    kv_cache *cache = NULL;
    bit_plan *plan = make_plan(kind, model, err);
    must(kv_cache_create(&cache, model, plan, true, err), err);
    const int64_t page = kv_cache_layout(cache, 0)->page_bytes, each = (length + 63) / 64 * batch;
    const int64_t fit = (L2_BYTES + each * page - 1) / (each * page), n_caches = fit > CHAIN ? CHAIN : fit;
    uint8_t *pool = device((size_t)(n_caches * each * page), err);
    fill_pool(cache, pool, n_caches * each, err);
    int32_t *table = malloc((size_t)each * sizeof *table), *lengths = malloc((size_t)batch * sizeof *lengths);
    int32_t *tables[CHAIN];
    for (int64_t c = 0; c < n_caches; c++) {
        for (int64_t p = 0; p < each; p++) table[p] = (int32_t)(c * each + (p * 7919 + 13) % each);
        tables[c] = upload(table, (size_t)each * sizeof *table, err);
    }
    for (int s = 0; s < batch; s++) lengths[s] = length;
    const int row = model->n_q_heads * model->head_dim;
    double *drawn = normals(2, batch * row);
    uint16_t *halves = malloc((size_t)(batch * row) * sizeof *halves);
    for (int i = 0; i < batch * row; i++) halves[i] = rb_f32_to_f16((float)drawn[i]);
    ropebits_kv_pages pages = {.pages = pool, .block_stride = (length + 63) / 64};
    const ropebits_kv_queries queries = {
        .n_sequences = batch,
        .length = upload(lengths, (size_t)batch * sizeof *lengths, err),
        .max_length = length,
        .queries = {upload(halves, (size_t)(batch * row) * 2, err), ROPEBITS_KV_F16, row, model->head_dim},
        .out = {device((size_t)(batch * row) * 2, err), ROPEBITS_KV_F16, row, model->head_dim},
        .workspace = device(kv_cache_workspace_bytes(cache, 0, batch, length), err)};
    const double us = time_calls(cache, &queries, &pages, (int)n_caches, tables, err),
                 gb = 1e-9 * (double)(each * page),
                 bits = (double)page * 8.0 / (64.0 * model->n_kv_heads * (model->head_dim + model->value_dim));
    printf("{\"plan\": \"%s\", \"batch\": %d, \"length\": %d, \"n_q_heads\": %d, \"n_kv_heads\": %d, \"head_dim\": %d, "
           "\"true_bits\": %.3f, \"us\": %.2f, \"packed_gb\": %.5f, \"gb_per_s\": %.1f}\n",
           kind->name, batch, length, model->n_q_heads, model->n_kv_heads, model->head_dim, bits, us, gb,
           gb / us * 1e6);
    fflush(stdout);
    free(table);
    free(lengths);
    free(drawn);
    free(halves);
    kv_cache_free(cache);
    bit_plan_free(plan);
}

int main(int argc, char **argv)
{
    static const int all[][2] = {{1, 8192}, {1, 32768}, {1, 131072}, {8, 32768}};
    model_facts model = {.model_type = "bench",
                         .n_layers = 1,
                         .n_q_heads = argc > 3 ? atoi(argv[1]) : 32,
                         .n_kv_heads = argc > 3 ? atoi(argv[2]) : 8,
                         .head_dim = argc > 3 ? atoi(argv[3]) : 128,
                         .rope = {.kind = ROPE_DEFAULT, .theta = 500000.0, .factor = 1.0, .attention_factor = 1.0}};
    const int batch = argc > 4 ? atoi(argv[4]) : 0, length = argc > 5 ? atoi(argv[5]) : 0;
    rb_error err = {0};
    if (model.head_dim < 16 || model.head_dim > 256 || model.n_kv_heads < 1 || model.n_q_heads < 1) return 2;
    model.rotary_dim = model.value_dim = model.head_dim;
    model.attention_scale = 1.0 / sqrt(model.head_dim);
    for (int i = 0; i < model.head_dim / 2; i++) model.rope.inv_freq[i] = pow(500000.0, -2.0 * i / model.head_dim);
    must(rb_cuda_open(0, &err), &err);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (batch > 0 && i > 0) break;
        for (size_t p = 0; p < sizeof bench_plans / sizeof *bench_plans; p++)
            if (argc <= 6 || strcmp(argv[6], bench_plans[p].name) == 0)
                run(&bench_plans[p], &model, batch > 0 ? batch : all[i][0], length > 0 ? length : all[i][1], &err);
    }
    return 0;
}
