/* See profile/output_gradients.h.
 *
 * In batches of whole sequences, as the backward pass of FlashAttention does it (arXiv 2205.14135): the directions a;
 * for tiles of queries the output o, the log of the softmax's sum, and a . o; then for tiles of keys, against all tiles
 * of queries that see them, the weights once more and the gradients of all draws. So no T x T matrix is held, what lies
 * above the diagonal or outside the window is not computed, and every sum is made by one thread in one order. */
#include "profile/output_gradients.h"

#include <cblas.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "kernels/reference/numpy_random.h"
#include "model/vector_math.h"

enum { TILE = 64, BATCH_BYTES = 256 << 20 }; /* TILE: queries or keys; fixed, so that sums do not depend on threads */

/* A tile of queries or of keys of a used sequence. */
typedef struct token_tile {
    used_sequence sequence;
    int64_t first; /* in the sequence */
    int n;
} token_tile;

/* A batch: some of the sequences used. Its tokens are counted from its first. */
typedef struct head_batch {
    const gradient_job *job;
    int64_t first, n_tokens; /* among the tokens used; of the batch */
    token_tile *tiles;
    int64_t n_tiles, longest;
    float *memory;  /* owns the four that follow */
    float *a;       /* [n_q][n_tokens][n_draws][value_dim] */
    float *out;     /* [n_q][n_tokens][value_dim]: o */
    float *log_sum; /* [n_q][n_tokens] */
    float *along;   /* [n_q][n_tokens][n_draws]: a . o */
    float *scratch; /* [threads][per_thread] */
    double *normal; /* [threads][n_q * value_dim] */
    size_t per_thread;
} head_batch;

static int64_t batch_token(const head_batch *b, const token_tile *tile)
{
    return tile->sequence.at - b->first + tile->first;
}

/* Keys [begin, end) of the sequence that query `query` of it sees. */
typedef struct key_range {
    int64_t begin, end;
} key_range;

static key_range visible(const gradient_job *job, int64_t query)
{
    const int64_t window = job->window, begin = window > 0 && query >= window ? query - window + 1 : 0;
    return (key_range){begin, query + 1};
}

/* Logits of products q . k. */
static void finish_logits(const gradient_job *job, float *row, int64_t n)
{
    scale_row(row, row, (float)job->model->attention_scale, n);
    if (job->softcap > 0.0) softcap_row(row, (float)job->softcap, n);
}

/* ---- directions ------------------------------------------------------------------------------ */

/* a of a tile of tokens. Each tile and draw has a stream of its own. scratch: 2 x [TILE][n_q * value_dim] floats, then
 * [n_q * value_dim] doubles. */
static void draw_tile(const head_batch *b, const token_tile *tile, float *scratch, double *normal)
{
    const gradient_job *job = b->job;
    const int dim = job->model->value_dim, width = job->n_q * dim;
    const int64_t token = batch_token(b, tile), stream = tile->sequence.at + tile->first;
    float *z = scratch, *a = scratch + TILE * width;
    for (int draw = 0; draw < job->n_draws; draw++) {
        numpy_rng rng;
        numpy_rng_seed(&rng, job->seed + (uint64_t)(stream * job->n_draws + draw));
        for (int i = 0; i < tile->n; i++) {
            numpy_rng_standard_normal(&rng, normal, (size_t)width);
            for (int j = 0; j < width; j++) z[i * width + j] = (float)normal[j];
        }
        if (job->factor)
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, tile->n, width, width, 1.0f, z, width, job->factor,
                        width, 0.0f, a, width);
        for (int i = 0; i < tile->n; i++)
            for (int g = 0; g < job->n_q; g++)
                memcpy(b->a + ((g * b->n_tokens + token + i) * job->n_draws + draw) * dim,
                       (job->factor ? a : z) + i * width + g * dim, (size_t)dim * sizeof *a);
    }
}

/* ---- forward --------------------------------------------------------------------------------- */

static float dot(const float *a, const float *b, int n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Output, log of the sum, and a . o of a tile of queries of head g. logits [TILE][longest sequence]. */
static void attend_tile(const head_batch *b, int g, const token_tile *tile, float *logits)
{
    const gradient_job *job = b->job;
    const int head_dim = job->model->head_dim, dim = job->model->value_dim, n_draws = job->n_draws;
    const int64_t first = tile->sequence.first, begin = visible(job, tile->first).begin,
                  n_keys = tile->first + tile->n - begin, token = g * b->n_tokens + batch_token(b, tile);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, tile->n, (int)n_keys, head_dim, 1.0f,
                job->q + (g * job->n_tokens + first + tile->first) * head_dim, head_dim,
                job->k + (first + begin) * head_dim, head_dim, 0.0f, logits, (int)n_keys);
    for (int i = 0; i < tile->n; i++) {
        const key_range range = visible(job, tile->first + i);
        const int64_t from = range.begin - begin, n = range.end - range.begin;
        float *row = logits + i * n_keys;
        finish_logits(job, row + from, n);
        const float most = max_row(row + from, n), sum = exp_sum_row(row + from, most, n);
        scale_row(row + from, row + from, 1.0f / sum, n);
        memset(row, 0, (size_t)from * sizeof *row);
        memset(row + from + n, 0, (size_t)(n_keys - from - n) * sizeof *row);
        b->log_sum[token + i] = most + logf(sum);
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, tile->n, dim, (int)n_keys, 1.0f, logits, (int)n_keys,
                job->v + (first + begin) * dim, dim, 0.0f, b->out + token * dim, dim);
    for (int64_t i = token; i < token + tile->n; i++)
        for (int draw = 0; draw < n_draws; draw++)
            b->along[i * n_draws + draw] = dot(b->a + (i * n_draws + draw) * dim, b->out + i * dim, dim);
}

/* ---- backward -------------------------------------------------------------------------------- */

/* Of a tile of queries and a tile of keys. */
typedef struct backward_scratch {
    float *weights;  /* [n_q][TILE][TILE]: p */
    float *slopes;   /* [TILE][TILE] */
    float *products; /* [TILE][n_draws][TILE] */
} backward_scratch;

static size_t backward_floats(const gradient_job *job) { return TILE * TILE * (size_t)(job->n_q + 1 + job->n_draws); }

/* slopes: what a change of q . k does to the logit. */
RB_CPU_CLONES static void cap_slopes(float *slopes, const float *logits, float scale, float cap, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float part = cap > 0.0f ? logits[j] / cap : 0.0f;
        slopes[j] = scale * (1.0f - part * part);
    }
}

/* row: products q . k, then weights. Keys [from, from + n) of the tile are visible. */
static void weigh_row(const gradient_job *job, float *row, float *slopes, float log_sum, int64_t from, int64_t n,
                      int n_keys)
{
    finish_logits(job, row + from, n);
    cap_slopes(slopes + from, row + from, (float)job->model->attention_scale, (float)job->softcap, n);
    exp_sum_row(row + from, log_sum, n);
    memset(row, 0, (size_t)from * sizeof *row);
    memset(row + from + n, 0, (size_t)(n_keys - from - n) * sizeof *row);
}

/* products = slopes * weights * (products - along), 0 where the key is not visible. */
RB_CPU_CLONES static void turn_to_slopes(float *products, const float *weights, const float *slopes, float along,
                                         int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) products[j] = slopes[j] * weights[j] * (products[j] - along);
}

/* Weights and slopes of a tile of queries of head g and a tile of keys. */
static void weigh_tile(const head_batch *b, int g, const token_tile *keys, const token_tile *queries, float *weights,
                       float *slopes)
{
    const gradient_job *job = b->job;
    const int head_dim = job->model->head_dim, n = queries->n;
    const int64_t first = keys->sequence.first, token = g * b->n_tokens + batch_token(b, queries);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, keys->n, head_dim, 1.0f,
                job->q + (g * job->n_tokens + first + queries->first) * head_dim, head_dim,
                job->k + (first + keys->first) * head_dim, head_dim, 0.0f, weights, TILE);
    memset(slopes, 0, (size_t)n * TILE * sizeof *slopes);
    for (int i = 0; i < n; i++) {
        const key_range range = visible(job, queries->first + i);
        const int64_t begin = range.begin > keys->first ? range.begin - keys->first : 0,
                      end = range.end - keys->first < keys->n ? range.end - keys->first : keys->n;
        const bool sees = begin < end;
        weigh_row(job, weights + i * TILE, slopes + i * TILE, b->log_sum[token + i], sees ? begin : 0,
                  sees ? end - begin : 0, keys->n);
    }
}

/* The share of a tile of queries of head g in the gradients of a tile of keys. Rows of one key are n_draws vectors. */
static void add_gradients(const head_batch *b, int g, const token_tile *keys, const token_tile *queries,
                          const backward_scratch *s)
{
    const gradient_job *job = b->job;
    const int head_dim = job->model->head_dim, dim = job->model->value_dim, n_draws = job->n_draws, n = queries->n;
    const int64_t first = keys->sequence.first, at = keys->sequence.at + keys->first,
                  token = g * b->n_tokens + batch_token(b, queries);
    const float *q = job->q + (g * job->n_tokens + first + queries->first) * head_dim,
                *weights = s->weights + g * TILE * TILE;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n * n_draws, keys->n, dim, 1.0f, b->a + token * n_draws * dim,
                dim, job->v + (first + keys->first) * dim, dim, 0.0f, s->products, TILE);
    for (int i = 0; i < n; i++)
        for (int draw = 0; draw < n_draws; draw++)
            turn_to_slopes(s->products + (i * n_draws + draw) * TILE, weights + i * TILE, s->slopes + i * TILE,
                           b->along[(token + i) * n_draws + draw], keys->n);
    for (int draw = 0; draw < n_draws; draw++)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, keys->n, head_dim, n, 1.0f, s->products + draw * TILE,
                    n_draws * TILE, q, head_dim, 1.0f, job->k_gradient + (at * n_draws + draw) * head_dim,
                    n_draws * head_dim);
}

RB_CPU_CLONES static void add_products(float *sums, const float *a, const float *b, int n)
{
#pragma omp simd
    for (int j = 0; j < n; j++) sums[j] += a[j] * b[j];
}

/* The share of a tile of queries in the overlaps of a tile of keys. */
static void add_overlaps(const gradient_job *job, const token_tile *keys, int n_queries, const float *weights)
{
    const int n_pairs = job->n_q * (job->n_q + 1) / 2;
    float *overlap = job->overlap + (keys->sequence.at + keys->first) * n_pairs;
    for (int g = 0, pair = 0; g < job->n_q; g++)
        for (int other = 0; other <= g; other++, pair++) {
            float sums[TILE] = {0.0f};
            for (int i = 0; i < n_queries; i++)
                add_products(sums, weights + (g * TILE + i) * TILE, weights + (other * TILE + i) * TILE, keys->n);
            for (int j = 0; j < keys->n; j++) overlap[j * n_pairs + pair] += sums[j];
        }
}

/* Gradients, as the key enters RoPE, and overlaps of a tile of keys. Exact tokens have none. */
static void differentiate_tile(const head_batch *b, const token_tile *keys, const backward_scratch *s)
{
    const gradient_job *job = b->job;
    const int head_dim = job->model->head_dim, n_draws = job->n_draws;
    const int64_t at = keys->sequence.at + keys->first, row = (int64_t)n_draws * head_dim,
                  n_pairs = job->n_q * (job->n_q + 1) / 2, last = keys->first + keys->n - 1;
    float *gradient = job->k_gradient + at * row, *overlap = job->overlap + at * n_pairs;
    memset(gradient, 0, (size_t)(keys->n * row) * sizeof *gradient);
    memset(overlap, 0, (size_t)(keys->n * n_pairs) * sizeof *overlap);
    for (int64_t first = keys->first; first < keys->sequence.n; first += TILE) {
        const int64_t left = keys->sequence.n - first;
        const token_tile queries = {keys->sequence, first, (int)(left < TILE ? left : TILE)};
        if (visible(job, first).begin > last) break;
        for (int g = 0; g < job->n_q; g++) {
            weigh_tile(b, g, keys, &queries, s->weights + g * TILE * TILE, s->slopes);
            add_gradients(b, g, keys, &queries, s);
        }
        add_overlaps(job, keys, queries.n, s->weights);
    }
    for (int i = 0; i < keys->n; i++) {
        const int64_t position = keys->first + i;
        for (int draw = 0; draw < n_draws; draw++)
            rope_turn_back(job->rope, gradient + i * row + draw * head_dim, position);
        if (position >= job->n_sink) continue;
        memset(gradient + i * row, 0, (size_t)row * sizeof *gradient);
        memset(overlap + i * n_pairs, 0, (size_t)n_pairs * sizeof *overlap);
    }
}

/* ---- a batch of sequences -------------------------------------------------------------------- */

static void batch_free(head_batch *b)
{
    free(b->tiles);
    free(b->memory);
    free(b->scratch);
    free(b->normal);
}

/* Floats of a token in `memory`. */
static int64_t batch_row(const gradient_job *job)
{
    const int64_t dim = job->model->value_dim;
    return job->n_q * (job->n_draws * dim + dim + 1 + job->n_draws);
}

static rb_status batch_cut(head_batch *b, const used_sequence *sequences, int64_t n, rb_error *err)
{
    b->first = sequences[0].at;
    b->n_tokens = sequences[n - 1].at + sequences[n - 1].n - b->first;
    const rb_status st = rb_alloc(&b->tiles, (size_t)(b->n_tokens / TILE + n), sizeof *b->tiles, "tiles", err);
    for (int64_t i = 0; i < n && st == RB_OK; i++) {
        if (sequences[i].n > b->longest) b->longest = sequences[i].n;
        for (int64_t first = 0; first < sequences[i].n; first += TILE) {
            const int64_t left = sequences[i].n - first;
            b->tiles[b->n_tiles++] = (token_tile){sequences[i], first, (int)(left < TILE ? left : TILE)};
        }
    }
    return st;
}

static rb_status batch_alloc(head_batch *b, rb_error *err)
{
    const gradient_job *job = b->job;
    const size_t n_threads = (size_t)rb_threads_count(), width = (size_t)(job->n_q * job->model->value_dim),
                 needs[] = {2 * TILE * width, TILE * (size_t)b->longest, backward_floats(job)};
    const int64_t n_rows = job->n_q * b->n_tokens, dim = job->model->value_dim;
    rb_status st;
    for (size_t i = 0; i < RB_COUNT(needs); i++)
        if (needs[i] > b->per_thread) b->per_thread = needs[i];
    RB_TRY(st, rb_alloc(&b->scratch, n_threads * b->per_thread, sizeof *b->scratch, "gradients", err), done);
    RB_TRY(st, rb_alloc(&b->normal, n_threads * width, sizeof *b->normal, "directions", err), done);
    RB_TRY(st, rb_alloc(&b->memory, (size_t)b->n_tokens * (size_t)batch_row(job), sizeof *b->memory, "directions", err),
           done);
    b->a = b->memory;
    b->out = b->a + n_rows * job->n_draws * dim;
    b->log_sum = b->out + n_rows * dim;
    b->along = b->log_sum + n_rows;
done:
    return st;
}

static void batch_run(const head_batch *b)
{
    const int64_t width = b->job->n_q * b->job->model->value_dim;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < b->n_tiles; i++)
        draw_tile(b, &b->tiles[i], b->scratch + (size_t)rb_thread_index() * b->per_thread,
                  b->normal + rb_thread_index() * width);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < b->job->n_q * b->n_tiles; i++)
        attend_tile(b, (int)(i / b->n_tiles), &b->tiles[i % b->n_tiles],
                    b->scratch + (size_t)rb_thread_index() * b->per_thread);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < b->n_tiles; i++) {
        float *mine = b->scratch + (size_t)rb_thread_index() * b->per_thread;
        const backward_scratch scratch = {mine, mine + b->job->n_q * TILE * TILE,
                                          mine + (b->job->n_q + 1) * TILE * TILE};
        differentiate_tile(b, &b->tiles[i], &scratch);
    }
}

static rb_status run_sequences(const gradient_job *job, const used_sequence *sequences, int64_t n, rb_error *err)
{
    head_batch b = {.job = job};
    rb_status st;
    RB_TRY(st, batch_cut(&b, sequences, n, err), done);
    RB_TRY(st, batch_alloc(&b, err), done);
    batch_run(&b);
done:
    batch_free(&b);
    return st;
}

rb_status output_gradients(const gradient_job *job, const used_sequence *sequences, int64_t n, rb_error *err)
{
    const int64_t most = BATCH_BYTES / ((int64_t)sizeof(float) * batch_row(job));
    rb_status st = RB_OK;
    for (int64_t first = 0, end; first < n && st == RB_OK; first = end) {
        end = first + 1;
        while (end < n && sequences[end].at + sequences[end].n - sequences[first].at <= most) end++;
        st = run_sequences(job, sequences + first, end - first, err);
    }
    return st;
}
