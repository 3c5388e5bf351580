/* See calibrate/capture_watch.h. */
#include "calibrate/capture_watch.h"

#include <math.h>
#include <stdlib.h>

#include "core/half.h"
#include "model/rope_apply.h"

enum { MAX_TOKENS = 512, MIN_TOKENS = 64, MAX_HEADS = 8, N_QUERIES = 32 };

rb_status capture_watch_create(capture_watch *watch, const model_config *config, int64_t first_sequence, rb_error *err)
{
    *watch = (capture_watch){.config = config, .first_sequence = first_sequence};
    return rb_alloc(&watch->layers, (size_t)config->facts.n_layers, sizeof *watch->layers, "warnings", err);
}

void capture_watch_free(capture_watch *watch)
{
    free(watch->layers);
    *watch = (capture_watch){0};
}

/* ---- sinks ----------------------------------------------------------------------------------- */

/* The heads that are looked at, turned by RoPE. */
typedef struct watched_heads {
    int n_heads, head_dim;
    int64_t n_tokens;
    float *q, *k; /* [n_heads][n_tokens][head_dim]; k of the KV head that the query head reads */
} watched_heads;

static void copy_values(float *out, const void *values, bool is_f16, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = is_f16 ? rb_f16_to_f32(((const uint16_t *)values)[first + i]) : ((const float *)values)[first + i];
}

static void copy_heads(watched_heads *heads, const model_facts *facts, const void *q, const void *k, bool is_f16,
                       int64_t n_all)
{
    const int64_t dim = facts->head_dim, n = heads->n_tokens * dim;
    for (int i = 0; i < heads->n_heads; i++) {
        const int q_head = (int)((int64_t)i * facts->n_q_heads / heads->n_heads);
        copy_values(heads->q + i * n, q, is_f16, q_head * n_all * dim, n);
        copy_values(heads->k + i * n, k, is_f16, q_head / model_q_per_kv(facts) * n_all * dim, n);
    }
}

/* Softmax of one query over keys 0 to position, added to sink[] for the first positions. */
static void add_attention(double sink[WATCH_POSITIONS], const watched_heads *heads, int head, int64_t position,
                          const model_config *config)
{
    const int64_t dim = heads->head_dim;
    const float *q = heads->q + (head * heads->n_tokens + position) * dim, *k = heads->k + head * heads->n_tokens * dim;
    double logits[MAX_TOKENS], largest = -INFINITY, sum = 0;
    for (int64_t key = 0; key <= position; key++) {
        double dot = 0;
        for (int64_t i = 0; i < dim; i++) dot += (double)q[i] * k[key * dim + i];
        dot *= config->facts.attention_scale;
        if (config->attention_softcap > 0) dot = config->attention_softcap * tanh(dot / config->attention_softcap);
        logits[key] = dot;
        if (dot > largest) largest = dot;
    }
    for (int64_t key = 0; key <= position; key++) sum += logits[key] = exp(logits[key] - largest);
    for (int key = 0; key < WATCH_POSITIONS; key++) sink[key] += logits[key] / sum;
}

static void mean_attention(double sink[WATCH_POSITIONS], const watched_heads *heads, const model_config *config)
{
    double of_head[MAX_HEADS][WATCH_POSITIONS] = {{0}};
#pragma omp parallel for schedule(static)
    for (int head = 0; head < heads->n_heads; head++)
        for (int i = 0; i < N_QUERIES; i++)
            add_attention(of_head[head], heads, head,
                          heads->n_tokens / 2 + i * (heads->n_tokens - heads->n_tokens / 2) / N_QUERIES, config);
    for (int key = 0; key < WATCH_POSITIONS; key++) {
        sink[key] = 0;
        for (int head = 0; head < heads->n_heads; head++) sink[key] += of_head[head][key];
        sink[key] /= heads->n_heads * N_QUERIES;
    }
}

/* Tokens of the first sequence that a query of the layer may see all of. */
static int64_t watched_tokens(const capture_watch *watch, int layer)
{
    const model_config *config = watch->config;
    int64_t n = watch->first_sequence < MAX_TOKENS ? watch->first_sequence : MAX_TOKENS;
    if (config->layer_slides[layer] && config->sliding_window > 0 && n > config->sliding_window)
        n = config->sliding_window;
    return n;
}

static rb_status look_for_sinks(capture_watch *watch, int layer, const void *q, const void *k, bool is_f16,
                                int64_t n_all, rb_error *err)
{
    const model_config *config = watch->config;
    const model_facts *facts = &config->facts;
    watched_heads heads = {.n_heads = facts->n_q_heads < MAX_HEADS ? facts->n_q_heads : MAX_HEADS,
                           .head_dim = facts->head_dim,
                           .n_tokens = watched_tokens(watch, layer)};
    const int64_t starts[2] = {0, heads.n_tokens};
    const size_t n = (size_t)(heads.n_heads * heads.n_tokens * heads.head_dim);
    rope_table table = {0};
    rb_status st = RB_OK;
    if (heads.n_tokens < MIN_TOKENS || config->has_latent_cache) return RB_OK;
    RB_TRY(st, rb_alloc(&heads.q, n, sizeof *heads.q, "queries of a few heads", err), done);
    RB_TRY(st, rb_alloc(&heads.k, n, sizeof *heads.k, "keys of a few heads", err), done);
    RB_TRY(st, rope_table_init(&table, facts, model_rope(facts, layer), heads.n_tokens, err), done);
    copy_heads(&heads, facts, q, k, is_f16, n_all);
    rope_apply(&table, heads.q, heads.n_heads, heads.head_dim, starts, 1);
    rope_apply(&table, heads.k, heads.n_heads, heads.head_dim, starts, 1);
    mean_attention(watch->layers[layer].sink, &heads, config);
done:
    rope_table_free(&table);
    free(heads.q);
    free(heads.k);
    return st;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static int n_strong_blocks(int n_blocks) { return n_blocks / WATCH_BLOCKS > 0 ? n_blocks / WATCH_BLOCKS : 1; }

/* The share of the energy of queries and keys that the strongest blocks of a KV head hold. */
static double strong_share(const block_statistics *statistics, int head)
{
    const int n = statistics->n_blocks;
    double energy[RB_MAX_BLOCKS], sum = 0, strong = 0;
    for (int i = 0; i < n; i++) {
        energy[i] = statistics->q_energy[head * n + i] + statistics->k_energy[head * n + i];
        sum += energy[i];
    }
    for (int taken = 0; taken < n_strong_blocks(n); taken++) {
        int largest = 0;
        for (int i = 1; i < n; i++)
            if (energy[i] > energy[largest]) largest = i;
        strong += energy[largest];
        energy[largest] = -1;
    }
    return sum > 0 ? strong / sum : 0;
}

/* ---- public ---------------------------------------------------------------------------------- */

rb_status capture_watch_layer(capture_watch *watch, int layer, const void *q, const void *k, bool is_f16,
                              int64_t n_tokens, const block_statistics *statistics, rb_error *err)
{
    double share = 0;
    for (int head = 0; head < statistics->n_kv_heads; head++) share += strong_share(statistics, head);
    watch->layers[layer].block_share = share / statistics->n_kv_heads;
    return look_for_sinks(watch, layer, q, k, is_f16, n_tokens, err);
}

static void warn_of_sink(const capture_watch *watch, int position, warning_list *list)
{
    bool is_meant[MODEL_MAX_LAYERS] = {false};
    const int n_layers = watch->config->facts.n_layers;
    char layers[160];
    double sum = 0;
    int n = 0;
    for (int layer = 0; layer < n_layers; layer++) {
        const double share = watch->layers[layer].sink[position];
        is_meant[layer] = share >= WATCH_SINK_SHARE;
        if (is_meant[layer]) sum += share, n++;
    }
    if (n == 0) return;
    warnings_name_layers(layers, sizeof layers, is_meant, n_layers);
    warnings_add(
        list,
        "attention sink: position %d takes %.0f %% of the attention in %s: the error of that one key counts as "
        "much",
        position, 100 * sum / n, layers);
}

static void warn_of_blocks(const capture_watch *watch, warning_list *list)
{
    bool is_meant[MODEL_MAX_LAYERS] = {false};
    const int n_layers = watch->config->facts.n_layers, n_blocks = model_n_blocks(&watch->config->facts);
    char layers[160];
    double sum = 0;
    int n = 0;
    for (int layer = 0; layer < n_layers; layer++) {
        is_meant[layer] = watch->layers[layer].block_share >= WATCH_BLOCK_SHARE;
        if (is_meant[layer]) sum += watch->layers[layer].block_share, n++;
    }
    if (n == 0) return;
    warnings_name_layers(layers, sizeof layers, is_meant, n_layers);
    warnings_add(list,
                 "energy in few blocks: %d of %d RoPE blocks of a head hold %.0f %% of the energy of queries and keys "
                 "in %s",
                 n_strong_blocks(n_blocks), n_blocks, 100 * sum / n, layers);
}

void capture_watch_warn(const capture_watch *watch, warning_list *list)
{
    for (int position = 0; position < WATCH_POSITIONS; position++) warn_of_sink(watch, position, list);
    warn_of_blocks(watch, list);
}
