/* See attention.h.
 *
 * A work item is a tile of queries of one sequence and one KV head. The queries of all heads of the group are stacked
 * into one matrix, so each product with the shared keys is a single tall sgemm.
 *
 *                 keys of the sequence, in chunks
 *   stacked rows  |  S chunk  |  S chunk  | ..
 *
 * Row g * n_queries + i is query i of the tile in query head g of the group.
 *
 * Keys are taken a chunk at a time with a running maximum and sum (online softmax: Milakov and Gimelshein, arXiv
 * 1805.02867; FlashAttention, arXiv 2205.14135). Whole score rows would be simpler, but 256 rows over a context of 128k
 * are 128 MiB a thread; a chunk stays in L2. Keys before the window of the tile's first query and after its last query
 * are never read. */
#include "model/attention.h"

#include <assert.h>
#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "model/vector_math.h"

/* 256 rows fill an sgemm tile. A tile of few queries wastes little work above the causal diagonal. CHUNK_KEYS: 256 x
 * 512 scores are half of a 1 MiB L2. */
enum { STACKED_ROWS = 256, MIN_TILE_QUERIES = 16, MAX_TILE_QUERIES = 128, CHUNK_KEYS = 512 };

typedef struct query_tile {
    int64_t first, n;       /* queries */
    int64_t sequence_first; /* first token of their sequence */
} query_tile;

typedef struct tile_scratch {
    float *q;         /* [rows][head_dim], scaled */
    float *scores;    /* [rows][CHUNK_KEYS], then the probabilities before division by the sum */
    float *sum_v;     /* [rows][value_dim] */
    float *max, *sum; /* [rows] */
} tile_scratch;

/* Keys and values that a query at token s sees when the distance s - t of their token t is in [nearest, farthest].
 * There is one source, or one of recent keys and one of the others. */
typedef struct key_source {
    const float *k, *v; /* [n_kv_heads][n_tokens][head_dim or value_dim] */
    int64_t nearest, farthest;
} key_source;

typedef struct key_chunk {
    int64_t first, n;
} key_chunk;

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
static int group_size(const attention_shape *shape) { return shape->n_q_heads / shape->n_kv_heads; }

static int64_t tile_queries(const attention_shape *shape)
{
    int64_t n = MAX_TILE_QUERIES;
    while (n > MIN_TILE_QUERIES && n * group_size(shape) > STACKED_ROWS) n /= 2;
    return n;
}

/* Floats of one thread's scratch, a whole number of cache lines. */
static size_t scratch_floats(const attention_shape *shape)
{
    const size_t rows = (size_t)(tile_queries(shape) * group_size(shape));
    const size_t n = rows * ((size_t)shape->head_dim + (size_t)shape->value_dim + CHUNK_KEYS + 2);
    return (n + 15) / 16 * 16;
}

static tile_scratch scratch_of_thread(const attention_shape *shape, float *all, int thread)
{
    const size_t rows = (size_t)(tile_queries(shape) * group_size(shape)), d = (size_t)shape->head_dim;
    tile_scratch s;
    s.q = all + (size_t)thread * scratch_floats(shape);
    s.scores = s.q + rows * d;
    s.sum_v = s.scores + rows * CHUNK_KEYS;
    s.max = s.sum_v + rows * (size_t)shape->value_dim;
    s.sum = s.max + rows;
    return s;
}

/* Of a sequence. Where all of it comes before first_query, this is its end. */
static int64_t first_query_of(const attention_shape *shape, int64_t s)
{
    return min_i64(max_i64(shape->sequence_start[s], shape->first_query), shape->sequence_start[s + 1]);
}

static int64_t count_tiles(const attention_shape *shape)
{
    const int64_t n = tile_queries(shape);
    int64_t n_tiles = 0;
    for (int64_t s = 0; s < shape->n_sequences; s++)
        n_tiles += (shape->sequence_start[s + 1] - first_query_of(shape, s) + n - 1) / n;
    return n_tiles;
}

static void list_tiles(const attention_shape *shape, query_tile *tiles)
{
    for (int64_t s = 0; s < shape->n_sequences; s++) {
        const int64_t begin = shape->sequence_start[s], end = shape->sequence_start[s + 1];
        for (int64_t first = first_query_of(shape, s); first < end; first += tile_queries(shape))
            *tiles++ =
                (query_tile){.first = first, .n = min_i64(tile_queries(shape), end - first), .sequence_first = begin};
    }
}

static int64_t first_visible_key(const query_tile *tile, const key_source *source, int64_t query)
{
    return max_i64(tile->sequence_first, query - source->farthest);
}

static void stack_queries(const attention_shape *shape, const query_tile *tile, int kv_head, const float *q,
                          tile_scratch *s)
{
    const int64_t d = shape->head_dim;
    const int group = group_size(shape);
    const int64_t n_queries = shape->n_tokens - shape->first_query, first = tile->first - shape->first_query;
    for (int g = 0; g < group; g++) {
        const float *rows = q + ((int64_t)(kv_head * group + g) * n_queries + first) * d;
        scale_row(s->q + g * tile->n * d, rows, shape->scale, tile->n * d);
    }
}

/* Turns one row of scores into probabilities relative to its running maximum, and scales its earlier sums to the new
 * maximum. Keys [visible_begin, visible_end) of the chunk are visible; the others get zero. */
static void softmax_row(const attention_shape *shape, tile_scratch *s, int64_t row, int64_t n_keys,
                        int64_t visible_begin, int64_t visible_end)
{
    const int64_t d = shape->value_dim;
    float *scores = s->scores + row * n_keys;
    if (visible_begin >= visible_end) {
        memset(scores, 0, (size_t)n_keys * sizeof *scores);
        return;
    }
    memset(scores, 0, (size_t)visible_begin * sizeof *scores);
    memset(scores + visible_end, 0, (size_t)(n_keys - visible_end) * sizeof *scores);

    if (shape->softcap > 0) softcap_row(scores + visible_begin, shape->softcap, visible_end - visible_begin);
    const float chunk_max = max_row(scores + visible_begin, visible_end - visible_begin);
    if (!(chunk_max <= s->max[row])) {
        const float correction = expf(s->max[row] - chunk_max); /* 0 at first, when the maximum is -infinity */
        s->sum[row] *= correction;
        scale_row(s->sum_v + row * d, s->sum_v + row * d, correction, d);
        s->max[row] = chunk_max;
    }
    s->sum[row] += exp_sum_row(scores + visible_begin, s->max[row], visible_end - visible_begin);
}

static void softmax_chunk(const attention_shape *shape, const query_tile *tile, const key_source *source,
                          key_chunk chunk, tile_scratch *s)
{
    for (int g = 0; g < group_size(shape); g++) {
        for (int64_t i = 0; i < tile->n; i++) {
            const int64_t query = tile->first + i;
            const int64_t begin = max_i64(first_visible_key(tile, source, query) - chunk.first, 0);
            const int64_t end = min_i64(query - source->nearest + 1 - chunk.first, chunk.n);
            softmax_row(shape, s, g * tile->n + i, chunk.n, begin, end);
        }
    }
}

static void add_chunk(const attention_shape *shape, const query_tile *tile, int kv_head, const key_source *source,
                      key_chunk chunk, tile_scratch *s)
{
    const int rows = (int)(tile->n * group_size(shape)), d = shape->head_dim, v_dim = shape->value_dim,
              n_keys = (int)chunk.n;
    const float *k = source->k + kv_head * shape->n_tokens * d, *v = source->v + kv_head * shape->n_tokens * v_dim;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, n_keys, d, 1.0f, s->q, d, k + chunk.first * d, d, 0.0f,
                s->scores, n_keys);
    softmax_chunk(shape, tile, source, chunk, s);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, v_dim, n_keys, 1.0f, s->scores, n_keys,
                v + chunk.first * v_dim, v_dim, 1.0f, s->sum_v, v_dim);
}

static void write_output(const attention_shape *shape, const query_tile *tile, int kv_head, const tile_scratch *s,
                         float *out)
{
    const int64_t d = shape->value_dim;
    const int group = group_size(shape);
    for (int g = 0; g < group; g++) {
        for (int64_t i = 0; i < tile->n; i++) {
            const int64_t row = g * tile->n + i;
            const int64_t query = tile->first - shape->first_query + i;
            float *to = out + (query * shape->n_q_heads + kv_head * group + g) * d;
            scale_row(to, s->sum_v + row * d, 1.0f / s->sum[row], d);
        }
    }
}

static void attend_tile(const attention_shape *shape, const query_tile *tile, int kv_head, const float *q,
                        const key_source *sources, int n_sources, float *out, tile_scratch *s)
{
    const int64_t rows = tile->n * group_size(shape);

    stack_queries(shape, tile, kv_head, q, s);
    memset(s->sum_v, 0, (size_t)(rows * shape->value_dim) * sizeof *s->sum_v);
    memset(s->sum, 0, (size_t)rows * sizeof *s->sum);
    for (int64_t r = 0; r < rows; r++) s->max[r] = -INFINITY;

    for (const key_source *source = sources; source < sources + n_sources; source++) {
        const int64_t end = tile->first + tile->n - source->nearest;
        for (int64_t first = first_visible_key(tile, source, tile->first); first < end; first += CHUNK_KEYS)
            add_chunk(shape, tile, kv_head, source, (key_chunk){.first = first, .n = min_i64(CHUNK_KEYS, end - first)},
                      s);
    }
    write_output(shape, tile, kv_head, s, out);
}

int64_t attention_scratch_bytes(const attention_shape *shape, int n_threads)
{
    return n_threads * (int64_t)(scratch_floats(shape) * sizeof(float))
           + count_tiles(shape) * (int64_t)sizeof(query_tile);
}

static rb_status attend(const attention_shape *shape, const float *q, const key_source *sources, int n_sources,
                        float *out, rb_error *err)
{
    assert(shape->n_kv_heads > 0 && shape->n_q_heads % shape->n_kv_heads == 0 && shape->sliding_window >= 0);
    const int64_t n_tiles = count_tiles(shape);
    query_tile *tiles = NULL;
    float *scratch = NULL;
    rb_status st;

    RB_TRY(st, rb_alloc(&tiles, (size_t)n_tiles, sizeof *tiles, "attention tiles", err), done);
    RB_TRY(st,
           rb_alloc(&scratch, (size_t)omp_get_max_threads(), scratch_floats(shape) * sizeof *scratch,
                    "attention scratch", err),
           done);
    list_tiles(shape, tiles);

    /* Late tiles see the most keys. They go first, so that no thread works on one at the end while all others wait. */
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t t = 0; t < n_tiles; t++) {
        for (int kv_head = 0; kv_head < shape->n_kv_heads; kv_head++) {
            tile_scratch mine = scratch_of_thread(shape, scratch, omp_get_thread_num());
            attend_tile(shape, &tiles[n_tiles - 1 - t], kv_head, q, sources, n_sources, out, &mine);
        }
    }
done:
    free(scratch);
    free(tiles);
    return st;
}

/* Distance of the farthest key a query sees. */
static int64_t farthest_key(const attention_shape *shape)
{
    return (shape->sliding_window > 0 ? shape->sliding_window : shape->n_tokens) - 1;
}

rb_status attention_forward(const attention_shape *shape, const float *q, const float *k, const float *v, float *out,
                            rb_error *err)
{
    const key_source all = {.k = k, .v = v, .nearest = 0, .farthest = farthest_key(shape)};
    return attend(shape, q, &all, 1, out, err);
}

rb_status attention_forward_buffered(const attention_shape *shape, const float *q, const float *k, const float *v,
                                     const float *recent_k, const float *recent_v, int64_t n_recent, float *out,
                                     rb_error *err)
{
    const int64_t farthest = farthest_key(shape);
    const key_source sources[2] = {
        {.k = recent_k, .v = recent_v, .nearest = 0, .farthest = min_i64(n_recent - 1, farthest)},
        {.k = k, .v = v, .nearest = n_recent, .farthest = farthest}};
    return attend(shape, q, sources, n_recent <= farthest ? 2 : 1, out, err);
}
