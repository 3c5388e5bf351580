/* Energies and means in one pass over the vectors: see the header.
 *
 * One thread sums a head, dim by dim, over its tokens in order. The lanes of a vector register are dims, so no sum is
 * ever split, and any width of register and any number of threads give the same doubles. The square of an f32 is exact
 * in double, and no number of squares overflows. So a sum is finite exactly when all its terms are, and the check for
 * NaN and infinity costs nothing. */
#include "calibrate/block_statistics.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "core/threads.h"

rb_status block_statistics_create(block_statistics *out, const model_facts *facts, rb_error *err)
{
    const size_t n_kv_heads = (size_t)facts->n_kv_heads;
    rb_status st;
    *out = (block_statistics){
        .n_kv_heads = facts->n_kv_heads, .n_blocks = model_n_blocks(facts), .head_dim = facts->head_dim};
    RB_TRY(st, rb_alloc(&out->q_energy, n_kv_heads * (size_t)out->n_blocks, sizeof(double), "query energies", err),
           done);
    RB_TRY(st, rb_alloc(&out->k_energy, n_kv_heads * (size_t)out->n_blocks, sizeof(double), "key energies", err), done);
    RB_TRY(st, rb_alloc(&out->k_mean, n_kv_heads * (size_t)out->head_dim, sizeof(double), "key means", err), done);
done:
    if (st != RB_OK) block_statistics_free(out);
    return st;
}

void block_statistics_free(block_statistics *statistics)
{
    free(statistics->q_energy);
    free(statistics->k_energy);
    free(statistics->k_mean);
    *statistics = (block_statistics){0};
}

/* Adds n vectors to one sum per dim. */
RB_CPU_CLONES static void add_squares(double *restrict squares, const float *restrict x, int64_t n, int head_dim)
{
    for (int64_t t = 0; t < n; t++, x += head_dim)
        for (int d = 0; d < head_dim; d++) squares[d] += (double)x[d] * (double)x[d];
}

RB_CPU_CLONES static void add_values(double *restrict sums, const float *restrict x, int64_t n, int head_dim)
{
    for (int64_t t = 0; t < n; t++, x += head_dim)
        for (int d = 0; d < head_dim; d++) sums[d] += (double)x[d];
}

static bool are_finite(const double *values, int n)
{
    for (int i = 0; i < n; i++)
        if (!isfinite(values[i])) return false;
    return true;
}

/* Sums over one head. */
typedef struct head_sums {
    double squares[RB_MAX_HEAD_DIM], values[RB_MAX_HEAD_DIM];
} head_sums;

/* What a message calls the vectors of q or k. */
typedef struct vector_words {
    const char *head, *one, *many;
} vector_words;
static const vector_words key_words = {"kv_head", "key", "keys"}, query_words = {"q_head", "query", "queries"};

/* Counts the vectors of one head that hold a NaN or an infinity, and writes the message. */
static rb_status fail_non_finite(int layer, int head, const vector_words *words, const float *x, int64_t n_tokens,
                                 int head_dim, rb_error *err)
{
    int64_t n_bad = 0, first = -1;
    for (int64_t t = 0; t < n_tokens; t++) {
        bool is_bad = false;
        for (int d = 0; d < head_dim; d++) is_bad |= !isfinite(x[t * head_dim + d]);
        if (is_bad && n_bad++ == 0) first = t;
    }
    return rb_fail(err, RB_ENONFINITE, "layer %d %s %d: %lld non-finite %s, first at token %lld", layer, words->head,
                   head, (long long)n_bad, n_bad == 1 ? words->one : words->many, (long long)first);
}

/* Sums the heads of q or k, in parallel where there is enough work for several threads. */
static void sum_heads(head_sums *sums, const float *x, int n_heads, int64_t n_tokens, int head_dim, bool with_values)
{
    enum { SMALL_ELEMENTS = 1 << 15 };
#pragma omp parallel for schedule(dynamic, 1) if (n_heads * n_tokens * head_dim > SMALL_ELEMENTS)
    for (int head = 0; head < n_heads; head++) {
        const float *vectors = x + (int64_t)head * n_tokens * head_dim;
        add_squares(sums[head].squares, vectors, n_tokens, head_dim);
        if (with_values) add_values(sums[head].values, vectors, n_tokens, head_dim);
    }
}

static rb_status check_heads(const head_sums *sums, const float *x, int n_heads, int64_t n_tokens, int head_dim,
                             int layer, const vector_words *words, rb_error *err)
{
    for (int head = 0; head < n_heads; head++)
        if (!are_finite(sums[head].squares, head_dim))
            return fail_non_finite(layer, head, words, x + (int64_t)head * n_tokens * head_dim, n_tokens, head_dim,
                                   err);
    return RB_OK;
}

/* energy[i] = (squares of the two dims of block i) / n, for one sum per dim. */
static void block_energy(double *energy, const model_facts *facts, const double *squares, double n)
{
    for (int block = 0; block < model_n_blocks(facts); block++) {
        int dims[2];
        model_block_dims(facts, block, dims);
        energy[block] = (squares[dims[0]] + squares[dims[1]]) / n;
    }
}

/* q_squares [q_per_kv][head_dim] of the group's queries; k_squares and k_sums [head_dim]. */
static void finish_head(block_statistics *out, const model_facts *facts, int kv_head, const double *const *q_squares,
                        const double *k_squares, const double *k_sums, int64_t n_tokens)
{
    const int head_dim = facts->head_dim, q_per_kv = model_q_per_kv(facts);
    double squares[RB_MAX_HEAD_DIM] = {0};
    for (int g = 0; g < q_per_kv; g++)
        for (int d = 0; d < head_dim; d++) squares[d] += q_squares[g][d];
    block_energy(out->q_energy + (size_t)kv_head * (size_t)out->n_blocks, facts, squares, (double)n_tokens * q_per_kv);
    block_energy(out->k_energy + (size_t)kv_head * (size_t)out->n_blocks, facts, k_squares, (double)n_tokens);
    for (int d = 0; d < head_dim; d++)
        out->k_mean[(size_t)kv_head * (size_t)head_dim + (size_t)d] = k_sums[d] / (double)n_tokens;
}

static rb_status check_sums(const double *squares, int n_heads, int head_dim, int layer, const vector_words *words,
                            rb_error *err)
{
    for (int head = 0; head < n_heads; head++)
        if (!are_finite(squares + (size_t)head * (size_t)head_dim, head_dim))
            return rb_fail(err, RB_ENONFINITE, "layer %d %s %d: non-finite %s", layer, words->head, head, words->many);
    return RB_OK;
}

rb_status block_statistics_from_sums(block_statistics *out, const model_facts *facts, int layer,
                                     const double *q_squares, const double *k_squares, const double *k_sums,
                                     int64_t n_tokens, rb_error *err)
{
    const size_t d = (size_t)facts->head_dim, q_per_kv = (size_t)model_q_per_kv(facts);
    const double **group = NULL;
    rb_status st;
    assert(out->n_kv_heads == facts->n_kv_heads && out->head_dim == facts->head_dim);
    RB_TRY(st, check_sums(k_squares, facts->n_kv_heads, facts->head_dim, layer, &key_words, err), done);
    RB_TRY(st, check_sums(q_squares, facts->n_q_heads, facts->head_dim, layer, &query_words, err), done);
    RB_TRY(st, rb_alloc(&group, q_per_kv, sizeof *group, "query sums", err), done);
    for (int kv_head = 0; kv_head < facts->n_kv_heads; kv_head++) {
        const size_t head = (size_t)kv_head;
        for (size_t g = 0; g < q_per_kv; g++) group[g] = q_squares + (head * q_per_kv + g) * d;
        finish_head(out, facts, kv_head, group, k_squares + head * d, k_sums + head * d, n_tokens);
    }
done:
    free(group);
    return st;
}

rb_status block_statistics_compute(block_statistics *out, const model_facts *facts, int layer, const float *q,
                                   const float *k, int64_t n_tokens, rb_error *err)
{
    head_sums *q_sums = NULL, *k_sums = NULL;
    const double **group = NULL;
    rb_status st;

    assert(out->n_kv_heads == facts->n_kv_heads && out->head_dim == facts->head_dim);
    if (n_tokens < 1)
        return rb_fail(err, RB_EINVAL, "layer %d: %lld tokens, expected at least one", layer, (long long)n_tokens);
    RB_TRY(st, rb_alloc(&q_sums, (size_t)facts->n_q_heads, sizeof *q_sums, "query sums", err), done);
    RB_TRY(st, rb_alloc(&k_sums, (size_t)facts->n_kv_heads, sizeof *k_sums, "key sums", err), done);
    sum_heads(k_sums, k, facts->n_kv_heads, n_tokens, facts->head_dim, true);
    sum_heads(q_sums, q, facts->n_q_heads, n_tokens, facts->head_dim, false);
    RB_TRY(st, check_heads(k_sums, k, facts->n_kv_heads, n_tokens, facts->head_dim, layer, &key_words, err), done);
    RB_TRY(st, check_heads(q_sums, q, facts->n_q_heads, n_tokens, facts->head_dim, layer, &query_words, err), done);
    RB_TRY(st, rb_alloc(&group, (size_t)model_q_per_kv(facts), sizeof *group, "query sums", err), done);
    for (int kv_head = 0; kv_head < facts->n_kv_heads; kv_head++) {
        for (int g = 0; g < model_q_per_kv(facts); g++) group[g] = q_sums[kv_head * model_q_per_kv(facts) + g].squares;
        finish_head(out, facts, kv_head, group, k_sums[kv_head].squares, k_sums[kv_head].values, n_tokens);
    }
done:
    free(group);
    free(q_sums);
    free(k_sums);
    return st;
}
